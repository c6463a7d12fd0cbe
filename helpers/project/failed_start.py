"""What the last start that failed was told, so that `invoke doctor` looks at the same: `up` does not remember it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.errors import Interrupted, TrackbedError, WrongProject
from helpers.project import state
from helpers.settings import Settings

FILE = "failed-start.json"


@contextmanager
def noted(settings: Settings) -> Iterator[None]:
    """Around a start: keeps its flags when it fails, forgets them when it works."""
    try:
        yield
    except (Interrupted, WrongProject):  # that start says nothing of this project as it is
        raise
    except TrackbedError:
        given = {name: value for name, value in settings.explicit.items() if settings.origin(name).startswith("--")}
        with suppress(OSError, TrackbedError):  # the failure itself is what has to be told
            forget(settings.folder)
            if given:
                state.write_private(settings.folder / FILE, json.dumps(given).encode())
        raise
    forget(settings.folder)


def forget(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)


def remembered_flags(folder: Path) -> Mapping[str, str]:
    """Settings by name, as the flags gave them; {} where the last start worked, or was told nothing."""
    try:
        data = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    usable = isinstance(data, dict) and all(isinstance(value, str) for value in data.values())
    return data if usable else {}
