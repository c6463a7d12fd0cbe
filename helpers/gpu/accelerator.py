"""What ``--gpu`` means on a machine: devices, groups, environment, a build of PyTorch. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from helpers.errors import TrackbedError
from helpers.gpu import wheels
from helpers.gpu.detect import Gpu, Machine, count
from helpers.gpu.node_types import AMD, AUTO, NONE, NVIDIA, TITLES, GpuChoice, NodeType
from helpers.shell_words import ShellText, as_root

VARIANT = {AMD: "rocm", NVIDIA: "cuda", NONE: "cpu"}


@dataclass(frozen=True)
class Placeholder:
    """A value that only the machine with the GPU knows: a shell variable, and the shell's words that look for it."""

    name: str
    lookup: str
    what: str

    @property
    def word(self) -> str:
        """As a command uses it."""
        return ShellText(f'"${self.name}"')


@dataclass(frozen=True)
class Accelerator:
    """What the notebook is given, and why.

    ``devices`` are paths of nodes or folders of them, ``opened`` the single nodes, ``groups`` numeric groups, ``cdi``
    device names, ``request`` the ids of a GPU device request (empty: none). ``torch`` names the build of PyTorch and
    ``torch_reason`` why that one, ``tag`` the image's tag. ``foreign``: for another machine than this one, whose
    ``placeholders`` are among the devices and groups; for printing only.
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
    foreign: bool = False
    placeholders: tuple[Placeholder, ...] = ()

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
            return count(self.gpus, TITLES[self.kind])
        rendering = sum("renderD" in node for node in self.opened)
        return TITLES[self.kind] + (f", {rendering} render node{'' if rendering == 1 else 's'}" if rendering else "")


def choose(gpu: GpuChoice, devices: str, machine: Machine, bare: bool = False, torch: str = wheels.AUTO) -> Accelerator:
    """What ``--gpu=gpu --devices=devices`` means on this machine; ``torch`` as ``wheels.word`` gives it.

    ``bare``: the notebook is a process of the machine, with no container around it. Raises TrackbedError for a word
    that contradicts the machine, an unsupported type, an index that is not there.
    """
    if gpu.kind == NONE:
        return Accelerator(environment=_hidden() if bare else {})
    if gpu.kind == AUTO:
        return _auto(devices, machine, bare, torch)
    given = named(gpu).reason
    chosen = (
        _amd(devices, machine, bare, given, torch)
        if gpu.kind == AMD
        else _nvidia(devices, machine, bare, given, torch, gpu.old)
    )
    if chosen.warning:
        raise TrackbedError(f"{given}: {chosen.warning}", chosen.fix)
    if gpu.node and (other := contradiction(gpu.node, chosen.gpus)):
        raise TrackbedError(
            f"{given}: this is no {gpu.node.node_type}, the machine has {other}",
            f"--gpu={gpu.kind} takes what is there",
        )
    return chosen


def named(gpu: GpuChoice) -> Accelerator:
    """What a value other than auto means on any machine, as for building an image. TrackbedError if unsupported."""
    if gpu.unsupported:
        raise TrackbedError(f"--gpu={gpu}: {gpu.unsupported}")
    return Accelerator(gpu.kind, f"--gpu={gpu}", torch=wheels.named(VARIANT[gpu.kind], gpu.old))


def _auto(devices: str, machine: Machine, bare: bool, torch: str) -> Accelerator:
    discrete = [gpu for gpu in machine.amd if not gpu.integrated]
    if machine.has_nvidia and len(machine.nvidia) >= len(discrete):
        also = f"; the machine also has {count(discrete, 'AMD')}, --gpu=amd takes those" if discrete else ""
        return _nvidia(devices, machine, bare, f"auto: {machine}{also}", torch)
    if discrete and machine.kfd:
        also = "; the machine also has NVIDIA GPUs, --gpu=nvidia takes those" if machine.has_nvidia else ""
        return _amd(devices, machine, bare, f"auto: {machine}{also}", torch)
    warning = ""
    reason = "auto: no GPU here"
    if machine.amd:
        reason = f"auto: {count(machine.amd, 'AMD')} is graphics inside the processor, --gpu=amd takes it all the same"
    elif machine.kfd and machine.render_nodes:
        reason = "auto: the kernel tells nothing about the GPU at /dev/kfd, --gpu=amd takes it all the same"
        warning = reason.removeprefix("auto: ")
    elif (machine.nvidia_driver or "NVIDIA" in machine.display) and not machine.has_nvidia:
        warning = _no_nvidia(machine)
        reason = f"auto: {warning}"
    elif "AMD" in machine.display:
        reason = "auto: AMD graphics without /dev/kfd (the amdgpu driver makes it for GPUs that can compute)"
    elif vendors := [v for v in dict.fromkeys(machine.display) if v not in ("AMD", "NVIDIA")]:
        reason = f"auto: only {' and '.join(vendors)} graphics here"
    return Accelerator(reason=reason, warning=warning, environment=_hidden() if bare else {})


def _amd(devices: str, machine: Machine, bare: bool, reason: str, torch: str) -> Accelerator:
    if not machine.kfd or not machine.render_nodes:
        missing = "/dev/dri/renderD*" if machine.kfd else "/dev/kfd"
        raise TrackbedError(
            f"{_of(reason)}: there is no {missing} here, the machine has {machine}",
            "--gpu=nvidia takes what is there"
            if machine.has_nvidia
            else f"load the driver (`{as_root('modprobe amdgpu')}`; Ubuntu has it in linux-modules-extra), "
            "or use --gpu=none",
        )
    present = tuple(gpu for gpu in machine.amd if gpu.node in machine.groups)
    gpus = tuple(gpu for gpu in present if not gpu.integrated) or present
    picked = _pick(devices, gpus, "AMD", "the kernel's topology (/sys/class/kfd) tells of none")
    nodes: tuple[str, ...] = ("/dev/kfd", *(gpu.node for gpu in picked))  # others belong to someone else, or a screen
    given = nodes
    if devices == "all" and len(picked) in (0, len(machine.render_nodes)):
        nodes, given = ("/dev/kfd", *machine.render_nodes), ("/dev/kfd", "/dev/dri")
    environment: dict[str, str] = {}
    if max(len(picked), len(nodes) - 1) > 1 and not machine.iommu_pt:
        environment["NCCL_P2P_DISABLE"] = "1"  # RCCL between GPUs can hang unless the kernel runs with iommu=pt
    if bare and len(picked) != len(machine.amd):
        environment["ROCR_VISIBLE_DEVICES"] = ",".join(str(gpu.index) for gpu in picked)
    # numbers, not names: an image need not know a group called render, and its gid differs from host to host
    groups = tuple(dict.fromkeys(str(machine.groups[path]) for path in nodes if machine.groups[path]))
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


def _nvidia(devices: str, machine: Machine, bare: bool, reason: str, torch: str, old: bool = False) -> Accelerator:
    if not machine.has_nvidia or (bare and not machine.nvidia):
        raise TrackbedError(
            f"{_of(reason)}: {_no_nvidia(machine)}",
            "--gpu=amd takes what is there"
            if machine.kfd and machine.render_nodes
            else "install NVIDIA's driver (`nvidia-smi` shows it at work), or use --gpu=none",
        )
    listed = machine.nvidia or tuple(
        Gpu(int(number), "by CDI", "")
        for number in sorted(
            (n.rpartition("=")[2] for n in machine.cdi if re.fullmatch(r"nvidia\.com/gpu=\d+", n)), key=int
        )
    )
    picked = _pick(devices, listed, "NVIDIA", "the engine lists nvidia.com/gpu=all alone")
    everything = devices == "all"
    wheel = _wheel(picked, machine.nvidia_driver, torch, old)
    if wheel.problem:
        return Accelerator(
            reason=f"{reason}; {wheel.problem}",
            warning=wheel.problem,
            fix=wheel.fix,
            environment=_hidden() if bare else {},
        )
    created = partial(Accelerator, NVIDIA, reason, picked, torch=wheel.build, torch_reason=wheel.reason)
    if bare:
        shown = ",".join(str(gpu.index) for gpu in picked)
        # the order of nvidia-smi and of the nodes; CUDA's own puts the fastest first
        environment = {} if everything else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}
        nodes = tuple(gpu.node for gpu in picked)
        groups = tuple(dict.fromkeys(str(machine.groups[n]) for n in nodes if machine.groups.get(n)))
        return created(devices=nodes, opened=nodes, groups=groups, environment=environment)
    ids = ("all",) if everything else tuple(str(gpu.index) for gpu in picked)
    if machine.nvidia_cdi:
        names = tuple(f"nvidia.com/gpu={one}" for one in ids)
        if missing := [name for name in names if name not in machine.cdi]:
            raise TrackbedError(
                f"{_of(reason)}: the engine knows no {missing[0]}, only "
                f"{', '.join(n for n in machine.cdi if n.startswith('nvidia.com/gpu='))}",
                as_root("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"),
            )
        return created(cdi=names)
    return created(request=ids)


def _wheel(picked: tuple[Gpu, ...], driver: str, torch: str, old: bool) -> wheels.Choice:
    """The build of PyTorch for these GPUs, where the user left that to us."""
    if torch == wheels.CPU:
        return wheels.Choice(wheels.CPU, "TORCH=cpu")
    result = wheels.for_nvidia(tuple(gpu.name for gpu in picked), driver)
    if torch in (wheels.NONE, wheels.GIVEN) and result.problem:
        return wheels.Choice(wheels.CUDA12, "")
    if old and not result.problem and result.build == wheels.CUDA13:
        return wheels.Choice(wheels.CUDA12, "CUDA 12.6, for this node's GPUs")
    return result


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
    expected = [int(one) for one in devices.split(",")]
    if missing := [one for one in expected if one not in by_index]:
        raise TrackbedError(
            f"--devices={devices}: there is no {title} GPU {missing[0]}; "
            f"there {'is' if len(gpus) == 1 else 'are'} " + ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
        )
    return tuple(by_index[one] for one in expected)


def contradiction(node: NodeType, gpus: tuple[Gpu, ...]) -> str:
    """The models that are there, when they are known and none is of this node type; else ""."""
    known = [gpu for gpu in gpus if gpu.name not in ("unknown", "by CDI", "through WSL")]
    if not known or any(re.search(rf"\b({node.models})\b", gpu.name) for gpu in known):
        return ""
    return count(known, TITLES[node.kind])


def _no_nvidia(machine: Machine) -> str:
    if machine.nvidia_driver:
        return (
            f"NVIDIA's driver {machine.nvidia_driver} is loaded, but there is no /dev/nvidia0 "
            "(`nvidia-modprobe -c 0` makes it)"
        )
    if "NVIDIA" in machine.display:
        return "an NVIDIA GPU is in this machine, but its driver is not loaded"
    return f"there is no NVIDIA GPU here, the machine has {machine}"


def _hidden() -> dict[str, str]:
    """For a process on the machine itself: no GPU at all."""
    return {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}
