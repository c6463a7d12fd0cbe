"""GPUs: the words of ``--gpu``, and what a word means for the notebook on the machine that is there. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helpers import wheels
from helpers.errors import TrackbedError

AMD, NVIDIA, NONE, AUTO = "amd", "nvidia", "none", "auto"
TITLES = {AMD: "AMD", NVIDIA: "NVIDIA"}
VENDORS = {"1002": "AMD", "10de": "NVIDIA", "8086": "Intel", "1a03": "ASPEED", "102b": "Matrox"}
VARIANT = {AMD: "rocm", NVIDIA: "cuda", NONE: "cpu"}
# Graphics inside a processor: good for a screen, without memory of their own.
INTEGRATED = frozenset(
    (
        "gfx902",
        "gfx909",
        "gfx90c",
        "gfx1013",
        "gfx1033",
        "gfx1035",
        "gfx1036",
        "gfx1037",
        "gfx1103",
        "gfx1150",
        "gfx1151",
        "gfx1152",
        "gfx1153",
    )
)
SERIES = {
    "gfx900": "MI25",
    "gfx906": "MI50/MI60",
    "gfx908": "MI100",
    "gfx90a": "MI200 series",
    "gfx942": "MI300 series",
    "gfx950": "MI350 series",
    "gfx1030": "RX 6800/6900",
    "gfx1100": "RX 7900",
    "gfx1101": "RX 7700/7800",
    "gfx1102": "RX 7600",
    "gfx1200": "RX 9060",
    "gfx1201": "RX 9070",
}


@dataclass(frozen=True)
class NodeType:
    """A testbed's node type: ``models`` is a pattern for the GPU's name; ``count`` a hint, it varies within a type."""

    word: str
    node_type: str
    kind: str
    models: str
    count: str
    unsupported: str = ""


# Chameleon's GPU nodes (its reference repository of 2026-06-26).
NODE_TYPES: tuple[NodeType, ...] = (
    NodeType("mi100", "gpu_mi100", AMD, "gfx908", "2 x MI100"),
    NodeType("liqid", "compute_liqid", NVIDIA, "A100", "1 or 2 x A100 40 GB"),
    NodeType("gigaio", "compute_gigaio", NVIDIA, "A100|A30", "1 x A100 or A30, some have none"),
    NodeType("h100", "gpu_h100", NVIDIA, "H100", "4 x H100 94 GB"),
    NodeType("a100_pcie", "gpu_a100_pcie", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("a100_nvlink", "gpu_a100_nvlink", NVIDIA, "A100", "4 x A100 80 GB"),
    NodeType("v100", "gpu_v100", NVIDIA, "V100", "4 x V100 32 GB"),
    NodeType("rtx_6000", "gpu_rtx_6000", NVIDIA, "RTX 6000", "1 x Quadro RTX 6000"),
    NodeType("p100", "gpu_p100", NVIDIA, "P100", "2 x P100"),
    NodeType("p100_nvlink", "gpu_p100_nvlink", NVIDIA, "P100", "2 or 4 x P100"),
    NodeType("p100_v100", "gpu_p100_v100", NVIDIA, "P100|V100", "2 x V100 16 GB"),
    NodeType("m40", "gpu_m40", NVIDIA, "M40", "2 x M40"),
    NodeType(
        "k80",
        "gpu_k80",
        NVIDIA,
        "K80",
        "2 x K80",
        "no current driver or PyTorch supports the K80; use --gpu=none, or another node type",
    ),
    NodeType(
        "pontevecchio",
        "gpu_pontevecchio",
        "intel",
        "Max 1550",
        "4 x Intel Max 1550",
        "Intel GPUs are not supported; use --gpu=none, or another node type",
    ),
)
BY_WORD: Mapping[str, NodeType] = {
    word: node
    for node in NODE_TYPES
    for word in {node.word, node.word.replace("_", "-"), node.node_type, node.node_type.replace("_", "-")}
}
WORDS = (AUTO, NONE, AMD, NVIDIA, *(node.word for node in NODE_TYPES if not node.unsupported))
OLD_WORDS = frozenset(("v100", "p100", "p100_nvlink", "p100_v100", "m40"))


@dataclass(frozen=True)
class Gpu:
    """One GPU: ``index`` as its vendor's runtime counts, ``name`` an architecture or a model, ``node`` in /dev."""

    index: int
    name: str
    node: str
    integrated: bool = False


@dataclass(frozen=True)
class Machine:
    """What a machine and its engine have. ``groups``: numeric group of each device node, by path."""

    groups: Mapping[str, int] = field(default_factory=dict)
    amd: tuple[Gpu, ...] = ()
    nvidia: tuple[Gpu, ...] = ()
    nvidia_driver: str = ""
    display: tuple[str, ...] = ()  # vendors on the PCI bus, as in VENDORS
    iommu_pt: bool = False
    cdi: tuple[str, ...] = ()  # names that the engine can inject, as in nvidia.com/gpu=all

    @property
    def kfd(self) -> bool:
        return "/dev/kfd" in self.groups

    @property
    def render_nodes(self) -> tuple[str, ...]:
        return tuple(path for path in self.groups if path.startswith("/dev/dri/renderD"))

    @property
    def nvidia_cdi(self) -> bool:
        return any(name.startswith("nvidia.com/gpu=") for name in self.cdi)

    @property
    def nvidia_there(self) -> bool:
        return bool(self.nvidia) or self.nvidia_cdi

    def __str__(self) -> str:
        """In words: what is there instead of what was asked for."""
        found = [_count(gpus, title) for gpus, title in ((self.amd, "AMD"), (self.nvidia, "NVIDIA")) if gpus]
        if self.kfd and not self.amd and self.render_nodes:
            found.append(f"{len(self.render_nodes)} AMD render node{_s(self.render_nodes)}")
        if self.nvidia_cdi and not self.nvidia:
            found.append("NVIDIA devices by CDI")
        bare = [
            v
            for v in dict.fromkeys(self.display)
            if (v not in ("AMD", "NVIDIA") and not found)
            or (v == "AMD" and not self.kfd)
            or (v == "NVIDIA" and not self.nvidia_there)
        ]
        found += [f"{vendor} graphics without a driver for computing" for vendor in bare]
        return ", ".join(found) or "no GPU"


@dataclass(frozen=True)
class Accelerator:
    """What the notebook is given, and why.

    ``devices`` are paths of nodes or folders of them, ``opened`` the single nodes, ``groups`` numeric groups, ``cdi``
    device names, ``request`` the ids of a GPU device request (empty: none). ``torch`` names the build of PyTorch and
    ``torch_reason`` why that one, ``tag`` the image's tag.
    """

    kind: str = NONE
    reason: str = "GPU=none"
    gpus: tuple[Gpu, ...] = ()
    devices: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    cdi: tuple[str, ...] = ()
    request: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    torch: str = wheels.CPU
    torch_reason: str = ""
    warning: str = ""
    fix: str = ""

    @property
    def variant(self) -> str:
        return VARIANT[self.kind]

    @property
    def tag(self) -> str:
        return self.variant if self.torch == wheels.named(self.variant) else f"{self.variant}-{self.torch}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every device node that the notebook has to be able to open, as far as it is known beforehand."""
        return self.opened or self.devices

    @property
    def ulimits(self) -> Mapping[str, int]:
        """Pinned memory for transfers to a GPU, and room for the threads of its libraries. Bytes, -1 unlimited."""
        return {} if self.kind == NONE else {"memlock": -1, "stack": 67108864}

    def __str__(self) -> str:
        if self.kind == NONE:
            return "none"
        if self.gpus:
            return _count(self.gpus, TITLES[self.kind])
        rendering = sum("renderD" in node for node in self.opened)
        return TITLES[self.kind] + (f", {rendering} render node{'' if rendering == 1 else 's'}" if rendering else "")


def kind_of(word: str) -> str:
    """auto, none, amd, nvidia or intel: the vendor that a word means."""
    return BY_WORD[word].kind if word in BY_WORD else word


def machine(found: Mapping[str, Any], cdi: tuple[str, ...] = ()) -> Machine:
    """A ``Machine`` from what ``probes/machine.py`` prints and the CDI names that its engine knows."""
    groups = {str(node["path"]): int(node["gid"]) for node in found["nodes"]}
    amd = tuple(
        Gpu(i, gpu["gfx"] or "unknown", gpu["render"], gpu["with_cpu"] or gpu["gfx"] in INTEGRATED)
        for i, gpu in enumerate(found["kfd"])
    )
    models = {f"/dev/nvidia{gpu['minor']}": str(gpu["model"]) for gpu in found["nvidia"]["gpus"]}
    nodes = [path for path in groups if re.fullmatch(r"/dev/nvidia\d+", path)]
    nvidia = tuple(
        Gpu(i, models.get(path, "").removeprefix("NVIDIA ") or "unknown", path) for i, path in enumerate(nodes)
    )
    if not nvidia and "/dev/dxg" in groups and found["nvidia"]["driver"]:
        nvidia = (Gpu(0, "through WSL", "/dev/dxg"),)
    vendors = tuple(VENDORS.get(d["vendor"], d["vendor"]) for d in found["display"])
    return Machine(groups, amd, nvidia, str(found["nvidia"]["driver"]), vendors, bool(found["iommu_pt"]), cdi)


def choose(word: str, devices: str, there: Machine, embedded: bool = False, torch: str = wheels.AUTO) -> Accelerator:
    """What ``--gpu=word --devices=devices`` means on this machine; ``torch`` as ``wheels.word`` gives it.

    Raises TrackbedError for a word that contradicts the machine, an unsupported type, an index that is not there.
    """
    if word == NONE:
        return Accelerator(environment=_hidden() if embedded else {})
    if word == AUTO:
        return _auto(devices, there, embedded, torch)
    node = BY_WORD.get(word)
    if node and node.unsupported:
        raise TrackbedError(f"--gpu={word}: {node.unsupported}")
    kind = node.kind if node else word
    chosen = (
        _amd(devices, there, embedded, f"--gpu={word}", torch)
        if kind == AMD
        else _nvidia(devices, there, embedded, f"--gpu={word}", torch, word in OLD_WORDS)
    )
    if chosen.warning:
        raise TrackbedError(f"--gpu={word}: {chosen.warning}", chosen.fix)
    if node and (other := _contradiction(node, chosen)):
        raise TrackbedError(
            f"--gpu={word}: this is no {node.node_type}, the machine has {other}", f"--gpu={kind} takes what is there"
        )
    return chosen


def named(word: str) -> Accelerator:
    """The kind that a word means, whatever this machine has: for building an image. TrackbedError if unsupported."""
    node = BY_WORD.get(word)
    if node and node.unsupported:
        raise TrackbedError(f"--gpu={word}: {node.unsupported}")
    kind = kind_of(word)
    return Accelerator(kind, f"--gpu={word}", torch=wheels.named(VARIANT[kind], word in OLD_WORDS))


def _auto(devices: str, there: Machine, embedded: bool, torch: str) -> Accelerator:
    discrete = [gpu for gpu in there.amd if not gpu.integrated]
    if there.nvidia_there and len(there.nvidia) >= len(discrete):
        also = f"; the machine also has {_count(discrete, 'AMD')}, --gpu=amd takes those" if discrete else ""
        return _nvidia(devices, there, embedded, f"auto: {there}{also}", torch)
    if discrete and there.kfd:
        also = "; the machine also has NVIDIA GPUs, --gpu=nvidia takes those" if there.nvidia_there else ""
        return _amd(devices, there, embedded, f"auto: {there}{also}", torch)
    warning = ""
    reason = "auto: no GPU here"
    if there.amd:
        reason = f"auto: {_count(there.amd, 'AMD')} is graphics inside the processor, --gpu=amd takes it all the same"
    elif there.kfd and there.render_nodes:
        reason = "auto: the kernel tells nothing about the GPU at /dev/kfd, --gpu=amd takes it all the same"
        warning = reason.removeprefix("auto: ")
    elif (there.nvidia_driver or "NVIDIA" in there.display) and not there.nvidia_there:
        warning = _no_nvidia(there)
        reason = f"auto: {warning}"
    elif "AMD" in there.display:
        reason = "auto: AMD graphics without /dev/kfd (the amdgpu driver makes it for GPUs that can compute)"
    elif vendors := [v for v in dict.fromkeys(there.display) if v not in ("AMD", "NVIDIA")]:
        reason = f"auto: only {' and '.join(vendors)} graphics here"
    return Accelerator(reason=reason, warning=warning, environment=_hidden() if embedded else {})


def _amd(devices: str, there: Machine, embedded: bool, reason: str, torch: str) -> Accelerator:
    if not there.kfd or not there.render_nodes:
        missing = "/dev/dri/renderD*" if there.kfd else "/dev/kfd"
        raise TrackbedError(
            f"{_of(reason)}: there is no {missing} here, the machine has {there}",
            "--gpu=nvidia takes what is there"
            if there.nvidia_there
            else "load the driver (`sudo modprobe amdgpu`; Ubuntu has it in linux-modules-extra), or use --gpu=none",
        )
    present = tuple(gpu for gpu in there.amd if gpu.node in there.groups)
    gpus = tuple(gpu for gpu in present if not gpu.integrated) or present
    picked = _pick(devices, gpus, "AMD", "the kernel's topology (/sys/class/kfd) tells of none")
    nodes: tuple[str, ...] = ("/dev/kfd", *(gpu.node for gpu in picked))  # others belong to someone else, or a screen
    given = nodes
    if devices == "all" and len(picked) in (0, len(there.render_nodes)):
        nodes, given = ("/dev/kfd", *there.render_nodes), ("/dev/kfd", "/dev/dri")
    environment: dict[str, str] = {}
    if max(len(picked), len(nodes) - 1) > 1 and not there.iommu_pt:
        environment["NCCL_P2P_DISABLE"] = "1"  # RCCL between GPUs can hang unless the kernel runs with iommu=pt
    if embedded and len(picked) != len(there.amd):
        environment["ROCR_VISIBLE_DEVICES"] = ",".join(str(gpu.index) for gpu in picked)
    # numbers, not names: an image need not know a group called render, and its gid differs from host to host
    groups = tuple(dict.fromkeys(str(there.groups[path]) for path in nodes if there.groups[path]))
    return Accelerator(
        AMD,
        reason,
        picked,
        given,
        nodes,
        groups,
        environment=environment,
        torch=wheels.CPU if torch == wheels.CPU else wheels.ROCM,
    )


def _nvidia(devices: str, there: Machine, embedded: bool, reason: str, torch: str, old: bool = False) -> Accelerator:
    if not there.nvidia_there or (embedded and not there.nvidia):
        raise TrackbedError(
            f"{_of(reason)}: {_no_nvidia(there)}",
            "--gpu=amd takes what is there"
            if there.kfd and there.render_nodes
            else "install NVIDIA's driver (`nvidia-smi` shows it at work), or use --gpu=none",
        )
    listed = there.nvidia or tuple(
        Gpu(int(number), "by CDI", "")
        for number in sorted(
            (n.rpartition("=")[2] for n in there.cdi if re.fullmatch(r"nvidia\.com/gpu=\d+", n)), key=int
        )
    )
    picked = _pick(devices, listed, "NVIDIA", "the engine lists nvidia.com/gpu=all alone")
    everything = devices == "all"
    wheel = _wheel(picked, there.nvidia_driver, torch, old)
    if wheel.problem:
        return Accelerator(
            reason=f"{reason}; {wheel.problem}",
            warning=wheel.problem,
            fix=wheel.fix,
            environment=_hidden() if embedded else {},
        )
    made = partial(Accelerator, NVIDIA, reason, picked, torch=wheel.build, torch_reason=wheel.reason)
    if embedded:
        shown = ",".join(str(gpu.index) for gpu in picked)
        # the order of nvidia-smi and of the nodes; CUDA's own puts the fastest first
        environment = {} if everything else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}
        nodes = tuple(gpu.node for gpu in picked)
        groups = tuple(dict.fromkeys(str(there.groups[n]) for n in nodes if there.groups.get(n)))
        return made(devices=nodes, opened=nodes, groups=groups, environment=environment)
    ids = ("all",) if everything else tuple(str(gpu.index) for gpu in picked)
    if there.nvidia_cdi:
        names = tuple(f"nvidia.com/gpu={one}" for one in ids)
        if missing := [name for name in names if name not in there.cdi]:
            raise TrackbedError(
                f"{_of(reason)}: the engine knows no {missing[0]}, only "
                f"{', '.join(n for n in there.cdi if n.startswith('nvidia.com/gpu='))}",
                "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            )
        return made(cdi=names)
    return made(request=ids)


def _wheel(picked: tuple[Gpu, ...], driver: str, torch: str, old: bool) -> wheels.Choice:
    """The build of PyTorch for these GPUs, where the user left that to us."""
    if torch == wheels.CPU:
        return wheels.Choice(wheels.CPU, "TORCH=cpu")
    found = wheels.for_nvidia(tuple(gpu.name for gpu in picked), driver)
    if torch in (wheels.NONE, wheels.GIVEN) and found.problem:
        return wheels.Choice(wheels.CUDA12, "")
    if old and not found.problem and found.build == wheels.CUDA13:
        return wheels.Choice(wheels.CUDA12, "CUDA 12.6, for this node's GPUs")
    return found


def _of(reason: str) -> str:
    return reason if reason.startswith("--gpu") else "--gpu=auto"


def _pick(devices: str, gpus: tuple[Gpu, ...], title: str, blind: str) -> tuple[Gpu, ...]:
    """The GPUs that ``devices`` names: "all", or their indexes with commas."""
    if devices == "all":
        return gpus
    by_index = {gpu.index: gpu for gpu in gpus}
    if not by_index:
        raise TrackbedError(
            f"--devices={devices}: which node is which {title} GPU cannot be told, {blind}",
            "--devices=all takes every one",
        )
    wanted = [int(one) for one in devices.split(",")]
    if missing := [one for one in wanted if one not in by_index]:
        raise TrackbedError(
            f"--devices={devices}: there is no {title} GPU {missing[0]}; "
            f"there {'is' if len(gpus) == 1 else 'are'} " + ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
        )
    return tuple(by_index[one] for one in wanted)


def _contradiction(node: NodeType, chosen: Accelerator) -> str:
    """The models that are there, when they are known and none is of this node type; else ""."""
    known = [gpu for gpu in chosen.gpus if gpu.name not in ("unknown", "by CDI", "through WSL")]
    if not known or any(re.search(rf"\b({node.models})\b", gpu.name) for gpu in known):
        return ""
    return _count(known, TITLES[chosen.kind])


def _no_nvidia(there: Machine) -> str:
    if there.nvidia_driver:
        return (
            f"NVIDIA's driver {there.nvidia_driver} is loaded, but there is no /dev/nvidia0 "
            "(`nvidia-modprobe -c 0` makes it)"
        )
    if "NVIDIA" in there.display:
        return "an NVIDIA GPU is in this machine, but its driver is not loaded"
    return f"there is no NVIDIA GPU here, the machine has {there}"


def _hidden() -> dict[str, str]:
    """For a process on the machine itself: no GPU at all."""
    return {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}


def _s(items: object) -> str:
    return "" if len(items) == 1 else "s"  # type: ignore[arg-type]


def _count(gpus: tuple[Gpu, ...] | list[Gpu], title: str) -> str:
    """As in "2 x AMD gfx908 (MI100)"."""
    names: dict[str, int] = {}
    for gpu in gpus:
        name = gpu.name + (f" ({SERIES[gpu.name]})" if gpu.name in SERIES else "")
        names[name] = names.get(name, 0) + 1
    return ", ".join(f"{n} x {title} {name}" if name != "unknown" else f"{n} x {title}" for name, n in names.items())


# What an engine or a driver says, what that means, and what to type.
ADVICE: tuple[tuple[str, str, str], ...] = (
    (
        r'could not select device driver "[^"]*" with capabilities: \[\[gpu\]\]',
        "Docker has no NVIDIA Container Toolkit",
        "install nvidia-container-toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker` and "
        "`sudo systemctl restart docker`",
    ),
    (
        r"failed to discover GPU vendor from CDI|no known GPU vendor found",
        "Docker has no NVIDIA Container Toolkit",
        "install nvidia-container-toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker` and "
        "`sudo systemctl restart docker`",
    ),
    (
        r"unresolvable CDI devices|CDI device injection failed",
        "Docker finds no (or no readable) description of the NVIDIA devices",
        "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    ),
    (
        r"error gathering device information while adding custom device",
        "a device node that the notebook was to get is not there",
        "`sudo modprobe amdgpu` makes /dev/kfd and /dev/dri; `invoke doctor` shows what there is; or use --gpu=none",
    ),
    (
        r"Failed to initialize NVML: Unknown Error",
        "the container has lost its GPU (systemd reloaded while Docker uses its cgroups)",
        '`invoke down && invoke up` gets it back; for good: "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
        "/etc/docker/daemon.json, or CDI",
    ),
    (
        r"Failed to initialize NVML: Driver/library version mismatch",
        "NVIDIA's driver was updated, its kernel module was not reloaded",
        "restart the machine",
    ),
    (
        r"nvidia-container-cli: initialization error|libnvidia-ml\.so\.1",
        "NVIDIA's driver is not loaded on the machine",
        "`nvidia-smi` on the machine shows why; install its driver",
    ),
    (
        r"driver on your system is too old",
        "NVIDIA's driver is too old for this PyTorch",
        "update the driver, or set TORCH_INDEX to the index of an older CUDA",
    ),
    (
        r"no kernel image is available|HIP error: invalid device function|not compatible with the current PyTorch",
        "this PyTorch has no code for this GPU",
        "TORCH_INDEX names another wheel index (cu126 still has Volta, Pascal and Maxwell)",
    ),
)


def advice(message: str) -> tuple[str, str] | None:
    """What a known message of an engine or a driver means, and the fix; None for any other."""
    for pattern, means, fix in ADVICE:
        if re.search(pattern, message):
            return means, fix
    return None
