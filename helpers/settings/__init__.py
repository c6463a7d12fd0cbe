"""Settings: declared in declared/, listed in model.py, found in sources.py, joined and checked in resolved.py.

What is imported from here is loaded when it is asked for: the flags of `invoke --list` need the declarations alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.settings.declaration import Setting
    from helpers.settings.model import BY_NAME, BY_OPTION, TABLE
    from helpers.settings.reference import example
    from helpers.settings.resolved import FOUND_ADDRESS, Settings, default_state_dir
    from helpers.settings.sources import DEFAULT, FOREIGN, LAST_UP, OTHER_NAMES, PREFIX, RESERVED

_HOME = {
    "Setting": "declaration",
    **dict.fromkeys(("BY_NAME", "BY_OPTION", "TABLE"), "model"),
    "example": "reference",
    **dict.fromkeys(("FOUND_ADDRESS", "Settings", "default_state_dir"), "resolved"),
    **dict.fromkeys(("DEFAULT", "FOREIGN", "LAST_UP", "OTHER_NAMES", "PREFIX", "RESERVED"), "sources"),
}

__all__ = [
    "BY_NAME",
    "BY_OPTION",
    "DEFAULT",
    "FOREIGN",
    "FOUND_ADDRESS",
    "LAST_UP",
    "OTHER_NAMES",
    "PREFIX",
    "RESERVED",
    "TABLE",
    "Setting",
    "Settings",
    "default_state_dir",
    "example",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(name)
    result = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = result
    return result
