"""Where the data sets are: a volume or folder that the notebook only reads."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from helpers.engines.streaming import Pipe
from helpers.errors import SettingError
from helpers.services import ProgressReporter


class DataVolume(Protocol):
    """``words``: what it is, as in "the data sets' volume food11". ``inside``: where the notebook sees it. ``root``:
    where a program that ``pipe`` runs sees it."""

    words: str
    inside: str
    root: str

    def exists(self) -> bool:
        """Whether it is there."""

    def make(self, size: int, progress: ProgressReporter) -> None:
        """Make it where it is missing, for so many bytes. Raises TrackbedError for one that the user has to make."""

    def pipe(self, argv: tuple[str, ...]) -> AbstractContextManager[Pipe]:
        """A program, ``python`` mostly, that may write there and reaches nothing else of the project."""


def name_of(volume: str) -> str:
    """DATA_VOLUME. Raises SettingError where it names nothing."""
    if not volume:
        raise SettingError(
            "DATA_VOLUME is empty: there is no place for data sets.", "name a volume or folder: --data-volume=food11"
        )
    return volume
