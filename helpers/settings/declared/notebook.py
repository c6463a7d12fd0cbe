"""Settings of the notebook: its GPUs, data, folders, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.gpu.node_types import GpuChoice
from helpers.settings import kinds
from helpers.settings.declaration import NOTEBOOK, UNSETTLED, setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Notebook:
    """Notebook"""

    gpu: GpuChoice = setting(
        "auto",
        kinds.GPU,
        "GPUs of the notebook: auto (what the machine has), none, amd, nvidia, or a node type such as mi100 or liqid",
        tasks=(*NOTEBOOK, "build", "bundle"),
    )
    devices: str = setting(
        "all",
        kinds.DEVICES,
        "Indexes of the GPUs to use, as in 0,1, to share a machine between people; or all",
        tasks=NOTEBOOK,
        only=("machine", "gpu"),
        instead="leave it out, or see `invoke doctor` why there is none",
    )
    torch: str = setting(
        "auto",
        one_of("auto", "cpu", "none"),
        "PyTorch of the notebook: auto fits the GPU's driver (embedded: only with a GPU), cpu is the CPU build",
        tasks=(*NOTEBOOK, "build", "bundle"),
    )
    torch_index: str = setting(
        "",
        optional(kinds.INDEX, ""),
        "Package index of PyTorch's wheels, for a mirror or another CUDA or ROCm; empty is PyTorch's own",
    )
    data_volume: str = setting(
        "food11",
        kinds.DATA,
        "Volume or folder of data sets that the notebook only reads, at /mnt; the default counts only while it exists",
        tasks=(*NOTEBOOK, "data_add", "data", "data_remove"),
        only=("data",),
        instead="`invoke data.add` makes it; or name a folder: --data-volume=/FOLDER",
    )
    cull_idle: int = setting(
        "off",
        kinds.DURATION,
        "Time after which an idle kernel is shut down, so that it holds no GPU overnight: off, or as in 30m, 12h",
        tasks=NOTEBOOK,
    )
    jupyter_env: Mapping[str, str] = setting(
        "",
        kinds.VARIABLES,
        "Environment variable of the notebook, as in NAME=VALUE",
        tasks=NOTEBOOK,
        option="--env",
        repeated=True,
    )
    jupyter_volumes: tuple[str, ...] = setting(
        "",
        kinds.VOLUMES,
        "Folder or volume to mount in the notebook, as in SOURCE:/TARGET or SOURCE:/TARGET:ro",
        tasks=NOTEBOOK,
        option="--volume",
        repeated=True,
        only=("containers", "machine"),
        instead="this notebook sees the machine's folders as they are; for a data set: --data-volume=/FOLDER",
    )
    workspace: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "Folder of this machine for the notebook's files (default: workspace in the state folder)",
        tasks=(*NOTEBOOK, "doctor"),
        only=("machine",),
        instead="in a cluster they are in a volume of their own",
    )
    jupyter_port: int = setting("8888", kinds.PORT, "Port of JupyterLab", tasks=NOTEBOOK)
    jupyter_token: str = setting("", kinds.TOKEN, "Token that opens JupyterLab; generated when empty", secret=True)
    jupyter_memory: str = setting(
        "",
        optional(kinds.SIZE, ""),
        "Memory limit of the notebook; empty is all of the machine's but 2 GiB, in a cluster 8 GiB",
        only=("containers",),
    )
    jupyter_shm_size: str = setting(
        "16g", kinds.SIZE, "Shared memory of the notebook, for data loaders", only=("containers",)
    )
