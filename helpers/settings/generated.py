"""What ``up`` leaves in the clone, git-ignored: where its project is, and what a bare ``docker compose`` needs.

``.trackbed.env`` has the values, ``compose.yaml`` includes the project's Compose files with them. Earlier versions kept
both in a block at the end of the user's ``.env``; ``write`` takes it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from helpers.errors import SettingError
from helpers.settings import dotenv

VALUES = ".trackbed.env"
COMPOSE = "compose.yaml"
SIGN = "# written by Trackbed; changes in here are lost"


def read(env: dotenv.EnvFile) -> Mapping[str, str]:
    """What the last ``up`` left beside that ``.env``; the block inside, where that was an earlier version's.

    A block is the later of the two: each ``up`` of this version takes it out.
    """
    if env.managed:
        return env.managed
    path = env.path.with_name(VALUES)
    try:
        result = dotenv.read(path)
    except SettingError as error:
        if "permission denied" in error.message:
            raise
        raise SettingError(
            error.message,
            f"delete {path}; `invoke up` writes it again (with --project and --state-dir where you chose them)",
        ) from None
    return {entry.name: entry.value for entry in result.entries}


def write(env_file: Path, values: Mapping[str, str]) -> tuple[str, ...]:
    """Leave ``values`` beside that ``.env``, with COMPOSE_FILE also the file for Compose; what there is to tell of it.

    With no values both are removed. Each appears whole or not at all, 0600; what is as it should be is not touched.
    """
    notes = []
    path, compose = env_file.with_name(VALUES), env_file.with_name(COMPOSE)
    body = [SIGN, *(f"{name}={dotenv.quoted(name, value)}" for name, value in values.items())]
    changed = dotenv.replace(path, "\n".join(body) + "\n" if values else None)
    files = values.get("COMPOSE_FILE", "")
    if not _ours(compose):
        if files and changed:
            notes.append(
                f"{COMPOSE} in this clone is yours and stays; for the project's services: "
                f"`docker compose --env-file {VALUES} ps`"
            )
    else:
        dotenv.replace(compose, _including(files, values["COMPOSE_PROJECT_NAME"]) if files else None)
    if dotenv.drop_block(env_file):
        notes.append(f"the lines that Trackbed kept at the end of .env are in {VALUES} now; .env is yours alone")
    return tuple(notes)


def _ours(path: Path) -> bool:
    """Whether nothing is there, or what an earlier ``up`` wrote."""
    if not os.path.lexists(path):
        return True
    try:
        return path.is_file() and not path.is_symlink() and path.read_bytes().startswith(SIGN.encode())
    except OSError:
        return False


def _including(files: str, project: str) -> str:
    """The text of a Compose file for that project: Compose finds it by its name."""
    return "\n".join(
        (
            SIGN,
            f"name: {json.dumps(project)}",
            "include:",
            f"  - path: {json.dumps(files.split(':'))}",
            f"    env_file: {VALUES}",
            "",
        )
    )
