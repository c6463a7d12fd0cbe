"""What ``--gpu`` means on the machine that it names, seen from one without that GPU: for `--dry-run`.

What only that machine knows is a shell variable; its line looks there, and can be written over by hand.
"""

from __future__ import annotations

from dataclasses import replace

from helpers.gpu import accelerator, wheels
from helpers.gpu.accelerator import Accelerator, Placeholder
from helpers.gpu.detect import Machine
from helpers.gpu.node_types import AMD, AUTO, NONE, GpuChoice

RENDER_GROUP = Placeholder(
    "RENDER_GROUP", "$(stat -c %g /dev/dri/renderD* | head -n 1)", "number of the group that owns /dev/dri/renderD*"
)
MEMORY = Placeholder(
    "NOTEBOOK_MEMORY",
    "$(awk '/^MemTotal/ {m = $2 / 1024; printf \"%dm\", (m > 4096 ? m - 2048 : m / 2)}' /proc/meminfo)",
    "all memory but 2 GiB for the services",
)


def choose(gpu: GpuChoice, devices: str, here: Machine, bare: bool = False, torch: str = wheels.AUTO) -> Accelerator:
    """As ``accelerator.choose``; with placeholders where this machine has no such GPU.

    Raises TrackbedError for an unsupported type, and for an index that is not there where the GPUs are.
    """
    if gpu.kind in (NONE, AUTO) or _is_here(gpu, here, bare):
        return accelerator.choose(gpu, devices, here, bare, torch)
    chosen = replace(accelerator.named(gpu), foreign=True)
    if torch == wheels.CPU:
        chosen = replace(chosen, torch=wheels.CPU)
    complete = _amd if gpu.kind == AMD else _nvidia
    return complete(chosen, () if devices == "all" else tuple(devices.split(",")), bare)


def _is_here(gpu: GpuChoice, here: Machine, bare: bool) -> bool:
    """Whether this machine has GPUs that may be meant; a model that is not known may be any."""
    if gpu.kind == AMD:
        present, gpus = here.kfd and bool(here.render_nodes), here.amd
    else:
        present, gpus = bool(here.nvidia) if bare else here.has_nvidia, here.nvidia
    return present and not (gpu.node and accelerator.contradiction(gpu.node, gpus))


def _amd(chosen: Accelerator, indexes: tuple[str, ...], bare: bool) -> Accelerator:
    # how many GPUs that machine has, and whether its kernel runs with iommu=pt, is not known: always but for one
    environment = {} if len(indexes) == 1 else {"NCCL_P2P_DISABLE": "1"}
    if bare:
        shown = {"ROCR_VISIBLE_DEVICES": ",".join(indexes)} if indexes else {}
        return replace(chosen, environment={**environment, **shown})
    nodes = tuple(_render_node(index) for index in indexes)
    return replace(
        chosen,
        devices=("/dev/kfd", *(node.word for node in nodes)) if nodes else ("/dev/kfd", "/dev/dri"),
        groups=(RENDER_GROUP.word,),
        environment=environment,
        placeholders=(RENDER_GROUP, *nodes, MEMORY),
    )


def _nvidia(chosen: Accelerator, indexes: tuple[str, ...], bare: bool) -> Accelerator:
    if bare:
        shown = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(indexes)} if indexes else {}
        return replace(chosen, environment=shown)
    return replace(chosen, request=indexes or ("all",), placeholders=(MEMORY,))


def _render_node(index: str) -> Placeholder:
    """The device node of a GPU, as the kernel counts them."""
    files = "$(ls -vd /sys/class/kfd/kfd/topology/nodes/*/properties)"
    minor = f"cat {files} | sed -n 's/^drm_render_minor //p' | grep -v '^0$' | sed -n {int(index) + 1}p"
    return Placeholder(f"GPU_{index}", f"/dev/dri/renderD$({minor})", f"device node of GPU {index}")
