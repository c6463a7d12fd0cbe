"""The flags of a task, from the declarations of the settings that it takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from inspect import Parameter

from helpers.settings.model import EVERY, TABLE, Setting

Given = dict[str, str | None]  # by the flag's name as in mlflow_port; None: not given


def taken(task: str) -> dict[str, Setting]:
    """The settings that a task takes, by the name of its parameter, as in "mlflow_port"."""
    return {
        row.option.removeprefix("--").replace("-", "_"): row for row in TABLE if row.tasks == EVERY or task in row.tasks
    }


def parameter(name: str) -> Parameter:
    """The same as a signature has it; None is not given."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None)


def meaning(row: Setting) -> str:
    """What a setting means, and when."""
    return ("with PUBLIC=true: " if "public" in row.only else "") + row.why


def text(row: Setting) -> str:
    """The help of one flag: what it means, and its default."""
    said = meaning(row).replace("with PUBLIC=true: ", "with --public: ")
    if row.repeated:
        return f"{said}; may be given several times"
    return f"{said} (default: {row.default})" if row.default and "(default" not in said else said


def given(values: Mapping[str, object]) -> Given:
    """What was typed, as the text of settings: words of a list quoted, a flag alone as "true"."""
    found: Given = {}
    for name, value in values.items():
        if isinstance(value, list):
            found[name] = " ".join(shlex.quote(str(word)) for word in value if word) if value else None
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
    return found
