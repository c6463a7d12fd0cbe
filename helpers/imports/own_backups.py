"""A backup of Trackbed as a source: `invoke restore` reads it, and the user is told what to type."""

from __future__ import annotations

import shlex
from pathlib import Path

from helpers.backups import archive, repository
from helpers.backups.storage import Folder
from helpers.errors import SettingError, TrackbedError

S3 = "s3:"


def refusal(text: str) -> SettingError | None:
    """What to say where ``text`` names a backup, or a bucket, which can hold nothing else; None for anything else."""
    if text.startswith(S3):
        return SettingError(
            f"{text}: a bucket is no source.",
            f"if it holds backups: {_commands(text)}; "
            "if it holds artifacts: name the database or folder of their runs, and the bucket with --artifacts=",
        )
    path = Path(text).expanduser().absolute()
    if _is_archive(path) or _is_repository(path):
        return SettingError(f"{path} is a backup of Trackbed, which is restored, not imported.", _commands(str(path)))
    return None


def _commands(place: str) -> str:
    word = shlex.quote(place)
    return (
        f"`invoke restore {word}` puts its data in the place of this project's, which keeps its own settings and "
        f"logins; `invoke restore {word} --into=NAME` brings them as another project beside this one"
    )


def _is_archive(path: Path) -> bool:
    try:
        return path.is_file() and bool(archive.read_manifest(path))
    except TrackbedError:
        return False


def _is_repository(path: Path) -> bool:
    try:
        return path.is_dir() and bool(repository.names(Folder(path)))
    except TrackbedError:
        return False
