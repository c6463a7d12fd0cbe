"""The data sets' folder: the one that DATA_VOLUME names, or one of that name beside the projects in STATE_DIR."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import Any

from helpers import safe_files
from helpers.engines import data_volume, shared, streaming
from helpers.engines.host import LOCAL
from helpers.errors import TrackbedError
from helpers.services import ProgressReporter
from helpers.settings import Settings


class DataVolume:
    def __init__(self, settings: Settings) -> None:
        shared.data_folder(data_volume.name_of(settings.data_volume), LOCAL)
        self._path, self._state = settings.data_folder, settings.state_dir
        self.root = self.inside = str(self._path)
        self.words = f"the data sets' folder {self._path}"

    def exists(self) -> bool:
        return self._path.is_dir()

    def make(self, size: int, progress: ProgressReporter) -> None:
        if self.exists():
            return
        try:
            self._state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrackbedError(f"{self._state}: {error.strerror}", "set STATE_DIR to another folder") from None
        for one in (self._path.parent, self._path):
            safe_files.own_folder(one, 0o755)

    def pipe(self, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        words = [os.path.realpath(sys.executable) if argv[0] == "python" else argv[0], *argv[1:]]
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        return streaming.piped(argv[0], words, environment, "/", **self._owner())

    def _owner(self) -> dict[str, Any]:
        """What subprocess is told to become the folder's owner: root writes into no folder of another account."""
        info = os.stat(self._path)
        if os.geteuid() or not info.st_uid:
            return {}
        return {"user": info.st_uid, "group": info.st_gid, "extra_groups": []}
