"""Which formats of backups there are, what each says of itself, and the errors of one that is not so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from helpers.errors import TrackbedError

PLAIN = 1  # what earlier versions know too: a backup without a workspace
WITH_WORKSPACE = 2  # earlier versions refuse it in words
FORMAT = WITH_WORKSPACE  # the newest that is known
ENCRYPTED = 3  # what a manifest says outside that is encrypted; the one inside has a format of its own
_NUMBER = re.compile(r"-?[0-9]{1,60}")
HINT = "nothing was changed; use another backup, or copy this one again from where it came"


class Damaged(TrackbedError):
    """The archive is not as it was written, or never was one."""

    def __init__(self, path: Path | str, why: str, rest: bool = False) -> None:
        """``rest``: what is not damaged may be restored."""
        nothing, _, other = HINT.partition("; ")
        skip = f"{nothing}; `invoke restore {path} --skip-damaged` restores what is whole; or {other}"
        super().__init__(f"{path}: {why}", skip if rest else HINT)


class Newer(TrackbedError):
    """It is of a format that only a newer Trackbed knows."""


def check_format(path: Path | str, manifest: dict[str, Any]) -> None:
    """Raises TrackbedError for a format that only a newer Trackbed knows, and for one that is encrypted."""
    if manifest.get("format") == ENCRYPTED and "encrypted" in manifest:
        raise TrackbedError(f"{path} is encrypted, and the key of its place is missing", HINT)
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise Newer(
            f"{path} was made by a newer Trackbed (format {manifest['format']}, known: {FORMAT})",
            "update this clone: git pull",
        )


def check_facts(path: Path | str, manifest: dict[str, Any], further: dict[str, type]) -> None:
    """Raises Damaged when a manifest lacks what every backup says about itself, or what ``further`` names."""
    whole = {
        "format": int,
        "chunks": int,
        "objects": int,
        "object_bytes": int,
        "objects_sum": str,
        "schema": str,
        "tables": dict,
        "mlflow": str,
        **further,
    }
    if manifest.get("format") != PLAIN:
        whole |= {"workspace_files": int, "workspace_bytes": int, "workspace_sum": str}
    for name, kind in whole.items():
        if type(manifest.get(name)) is not kind or (kind is int and manifest[name] < 0):
            raise Damaged(path, f"its manifest is wrong ({name})")
    for facts in manifest["tables"].values():
        if (
            type(facts) is not list
            or [type(fact) for fact in facts] != [str, str]
            or not all(map(_NUMBER.fullmatch, facts))
        ):
            raise Damaged(path, "its manifest is wrong (tables)")
