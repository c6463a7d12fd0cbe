"""What a word of ``--gpu`` means on the machine that it names, seen from one without that GPU: for `--dry-run`.

What only that machine knows is a shell variable; its line looks there, and can be written over by hand.
"""

from __future__ import annotations

from helpers.gpu import accelerator, wheels
from helpers.gpu.accelerator import Accelerator, Placeholder
from helpers.gpu.detect import Machine
from helpers.gpu.node_types import AMD, AUTO, BY_WORD, NONE, kind_of

RENDER_GROUP = Placeholder(
    "RENDER_GROUP", "$(stat -c %g /dev/dri/renderD* | head -n 1)", "number of the group that owns /dev/dri/renderD*"
)
MEMORY = Placeholder(
    "NOTEBOOK_MEMORY",
    "$(awk '/^MemTotal/ {m = $2 / 1024; printf \"%dm\", (m > 4096 ? m - 2048 : m / 2)}' /proc/meminfo)",
    "all memory but 2 GiB for the services",
)


def choose(word: str, devices: str, here: Machine, bare: bool = False, torch: str = wheels.AUTO) -> Accelerator:
    """As ``accelerator.choose``; with placeholders where this machine has no such GPU.

    Raises TrackbedError for an unsupported type, and for an index that is not there where the GPUs are.
    """
    if word in (NONE, AUTO) or _is_here(word, here, bare):
        return accelerator.choose(word, devices, here, bare, torch)
    build = accelerator.named(word).torch if torch != wheels.CPU else wheels.CPU
    created = _amd if kind_of(word) == AMD else _nvidia
    return created(word, () if devices == "all" else tuple(devices.split(",")), bare, build)


def _is_here(word: str, here: Machine, bare: bool) -> bool:
    """Whether this machine has GPUs that the word may mean; a model that is not known may be any."""
    if kind_of(word) == AMD:
        present, gpus = here.kfd and bool(here.render_nodes), here.amd
    else:
        present, gpus = bool(here.nvidia) if bare else here.has_nvidia, here.nvidia
    node = BY_WORD.get(word)
    return present and not (node and accelerator.contradiction(node, gpus))


def _amd(word: str, indexes: tuple[str, ...], bare: bool, build: str) -> Accelerator:
    environment = {} if len(indexes) == 1 else {"NCCL_P2P_DISABLE": "1"}
    if bare:
        shown = {"ROCR_VISIBLE_DEVICES": ",".join(indexes)} if indexes else {}
        return Accelerator(AMD, f"--gpu={word}", environment={**environment, **shown}, torch=build, foreign=True)
    nodes = tuple(_render_node(index) for index in indexes)
    return Accelerator(
        AMD,
        f"--gpu={word}",
        devices=("/dev/kfd", *(node.word for node in nodes)) if nodes else ("/dev/kfd", "/dev/dri"),
        groups=(RENDER_GROUP.word,),
        environment=environment,
        torch=build,
        foreign=True,
        placeholders=(RENDER_GROUP, *nodes, MEMORY),
    )


def _render_node(index: str) -> Placeholder:
    """The device node of a GPU, as the kernel counts them."""
    files = "$(ls -vd /sys/class/kfd/kfd/topology/nodes/*/properties)"
    minor = f"cat {files} | sed -n 's/^drm_render_minor //p' | grep -v '^0$' | sed -n {int(index) + 1}p"
    return Placeholder(f"GPU_{index}", f"/dev/dri/renderD$({minor})", f"device node of GPU {index}")


def _nvidia(word: str, indexes: tuple[str, ...], bare: bool, build: str) -> Accelerator:
    kind = kind_of(word)
    if bare:
        shown = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(indexes)} if indexes else {}
        return Accelerator(kind, f"--gpu={word}", environment=shown, torch=build, foreign=True)
    return Accelerator(
        kind, f"--gpu={word}", request=indexes or ("all",), torch=build, foreign=True, placeholders=(MEMORY,)
    )
