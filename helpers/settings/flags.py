"""The flags of a task, from the declarations of the settings that it takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from inspect import Parameter

from helpers.settings.declaration import EVERY, Setting
from helpers.settings.model import TABLE

Flags = dict[str, str | None]  # by the flag's name as in mlflow_port; None: not given


def taken(task: str) -> dict[str, Setting]:
    """The settings that a task takes, by the name of its parameter, as in "mlflow_port".

    ``task``: the name of its function: backup_prune is what is typed as backup.prune.
    """
    return {
        row.option.removeprefix("--").replace("-", "_"): row
        for row in TABLE
        if row.tasks == EVERY or task in (name.replace(".", "_") for name in row.tasks)
    }


def parameter(name: str) -> Parameter:
    """The same as a signature has it; None is not given."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None)


def scope(row: Setting) -> str:
    """When a setting counts, where that is not always: for its help."""
    if "public" in row.only:
        return "with PUBLIC=true"
    if "containers" not in row.only:
        return ""
    return "Docker only" if "machine" in row.only else "not embedded"


def meaning(row: Setting) -> str:
    """What a setting is, and when it counts."""
    return f"{row.help} ({scope(row)})" if scope(row) else row.help


def text(row: Setting) -> str:
    """The help of one flag: what it is, when it counts, its default."""
    notes = [scope(row).replace("PUBLIC=true", "--public")]
    notes.append(f"default: {row.default}" if row.default and not row.repeated else "")
    notes.append("may be given several times" if row.repeated else "")
    said = "; ".join(filter(None, notes))
    return f"{row.help} ({said})" if said else row.help


def given(values: Mapping[str, object]) -> Flags:
    """What was typed, as the text of settings: words of a list quoted, a flag alone as "true"."""
    result: Flags = {}
    for name, value in values.items():
        if isinstance(value, list):
            result[name] = " ".join(shlex.quote(str(word)) for word in value if word) if value else None
        else:
            result[name] = str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
    return result
