"""Settings: declared in model.py, found in sources.py, joined and checked in resolved.py."""

from helpers.settings.model import BY_NAME, TABLE, Setting
from helpers.settings.reference import example
from helpers.settings.resolved import Settings, default_state_dir
from helpers.settings.sources import DEFAULT, FOREIGN, LAST_UP, OTHER_NAMES, PREFIX, RESERVED

__all__ = ["BY_NAME", "DEFAULT", "FOREIGN", "LAST_UP", "OTHER_NAMES", "PREFIX", "RESERVED", "TABLE", "Setting",
           "Settings", "default_state_dir", "example"]
