"""The GPUs of the machine that runs the containers, and what its engine knows of them."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import commands
from helpers.engines.docker import cdi
from helpers.engines.docker.deployment import DockerComponent
from helpers.errors import TrackbedError
from helpers.gpu import accelerator, detect, node_types, placeholders, probe, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.gpu.detect import Machine

CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")


class Devices(DockerComponent):
    """What ``--gpu`` means on this engine."""

    @cached_property
    def machine(self) -> Machine:
        """The machine that runs the containers, with the CDI devices that its engine knows."""
        if not self.host.remote:
            return detect.machine(probe.look(), self._cdi(any(Path("/dev").glob("nvidia*"))))
        if self.settings.gpu.kind == node_types.NONE:
            return Machine()
        result = self.host.look() or self._look_in_container()
        return detect.machine(result, self._cdi(any("nvidia" in node["path"] for node in result["nodes"])))

    def _look_in_container(self) -> dict[str, Any]:
        """For a node without a Python of its own: our image's, over the node's trees."""
        image = self.settings.mlflow_image
        if self.api.image(image) is None:
            raise TrackbedError(
                f"cannot see which GPUs {self.host.name} has: it has no python3, and the image "
                f"{image} does not exist yet",
                "install python3 there, or first `invoke build mlflow`, or --gpu=none",
            )
        trees = [word for tree in ("/dev", "/sys", "/proc") for word in ("-v", f"{tree}:/machine{tree}:ro")]
        done = commands.run(
            [
                "docker",
                "run",
                "--rm",
                "-i",
                "--pull",
                "never",
                "--user",
                "0",
                "--network",
                "none",
                *trees,
                "--entrypoint",
                "python",
                image,
                "-",
                "/machine",
            ],
            Path(probe.__file__).read_bytes(),
            60,
        )
        if done.code:
            raise TrackbedError(
                f"cannot see which GPUs {self.host.name} has: {commands.last_line(done.stderr)}",
                "--gpu=none goes on without",
            )
        return dict(json.loads(done.stdout))

    def _cdi(self, nvidia: bool) -> tuple[str, ...]:
        likely = nvidia or any(self.host.is_folder(folder) for folder in CDI_FOLDERS)
        if self.settings.gpu.kind not in ((node_types.NVIDIA, node_types.AUTO) if likely else (node_types.NVIDIA,)):
            return ()  # not worth asking the engine
        info = self.deployment.info
        listed = info.get("DiscoveredDevices")  # from Docker 28.2
        if listed is not None:
            return tuple(str(d.get("ID", "")) for d in listed if d.get("Source") == "cdi")
        folders = tuple(map(str, info.get("CDISpecDirs") or ()))
        if self.host.remote:
            return cdi.names_in(self.host.specifications(folders))
        return cdi.names(folders)

    @cached_property
    def accelerator(self) -> Accelerator:
        choose = placeholders.choose if self.project.dry_run else accelerator.choose
        return choose(
            self.settings.gpu,
            self.settings.devices,
            self.machine,
            torch=wheels.word(self.settings.torch, self.settings.torch_index),
        )
