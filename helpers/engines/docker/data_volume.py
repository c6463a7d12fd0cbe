"""The data sets' volume or folder, filled by a container that sees nothing else and has no network."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from helpers.engines import data_volume, notebook_spec, shared, streaming
from helpers.engines.docker import container_options, images
from helpers.engines.docker.client import LABEL
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.services import Mount, ProgressReporter

# what root needs to write for the volume's owner, whoever that is
RIGHTS = ("CHOWN", "DAC_OVERRIDE", "FOWNER")


class DataVolume:
    inside, root = notebook_spec.DATA, "/data"

    def __init__(self, notebook: NotebookContainer) -> None:
        self._notebook, self._api, here = notebook, notebook.api, notebook.deployment
        self._name = data_volume.name_of(here.settings.data_volume)
        self._folder = shared.data_folder(self._name, notebook.host)
        self._image = notebook.image.name if here.notebook_only else here.settings.mlflow_image
        self.words = f"the data sets' {'folder' if self._folder else 'volume'} {self._name}"

    def exists(self) -> bool:
        return bool(self._folder or self._api.volumes([self._name]))

    def make(self, size: int, progress: ProgressReporter) -> None:
        if not self.exists():
            self._api.create_volume(self._name, {})  # it is no project's: others may read it too
        self.ready(progress)

    def ready(self, progress: ProgressReporter) -> None:
        """The image whose programs look at it is there."""
        if self._api.image(self._image) is None:
            images.ensure(self._api, self._notebook.deployment, self._notebook.image, progress)

    def pipe(self, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        mount = Mount(
            "bind" if self._folder else "volume", self._name, self.root, options="" if self._folder else "nocopy"
        )
        words = ["docker", "run", "--rm", "-i", "--network=none", "--user=0:0", "--cap-drop=ALL"]
        words += [f"--cap-add={right}" for right in RIGHTS]
        words += ["--read-only", "--security-opt=no-new-privileges", "--pids-limit=64", f"--label={LABEL}.helper=data"]
        words += [*container_options.mount_words(mount), "--entrypoint", argv[0], self._image, *argv[1:]]
        return streaming.piped(argv[0], words, dict(os.environ))
