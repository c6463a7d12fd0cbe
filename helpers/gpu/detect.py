"""The GPUs that a machine and its engine have, from what ``probe`` prints. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VENDORS = {"1002": "AMD", "10de": "NVIDIA", "8086": "Intel", "1a03": "ASPEED", "102b": "Matrox"}
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
    def has_nvidia(self) -> bool:
        return bool(self.nvidia) or self.nvidia_cdi

    def __str__(self) -> str:
        """In words: what is there instead of what was asked for."""
        result = [count(gpus, title) for gpus, title in ((self.amd, "AMD"), (self.nvidia, "NVIDIA")) if gpus]
        if self.kfd and not self.amd and self.render_nodes:
            result.append(f"{len(self.render_nodes)} AMD render node{_s(self.render_nodes)}")
        if self.nvidia_cdi and not self.nvidia:
            result.append("NVIDIA devices by CDI")
        bare = [
            v
            for v in dict.fromkeys(self.display)
            if (v not in ("AMD", "NVIDIA") and not result)
            or (v == "AMD" and not self.kfd)
            or (v == "NVIDIA" and not self.has_nvidia)
        ]
        result += [f"{vendor} graphics without a driver for computing" for vendor in bare]
        return ", ".join(result) or "no GPU"


def machine(facts: Mapping[str, Any], cdi: tuple[str, ...] = ()) -> Machine:
    """A ``Machine`` from what ``probe`` prints and the CDI names that its engine knows."""
    groups = {str(node["path"]): int(node["gid"]) for node in facts["nodes"]}
    amd = tuple(
        Gpu(i, gpu["gfx"] or "unknown", gpu["render"], gpu["with_cpu"] or gpu["gfx"] in INTEGRATED)
        for i, gpu in enumerate(facts["kfd"])
    )
    models = {f"/dev/nvidia{gpu['minor']}": str(gpu["model"]) for gpu in facts["nvidia"]["gpus"]}
    nodes = [path for path in groups if re.fullmatch(r"/dev/nvidia\d+", path)]
    nvidia = tuple(
        Gpu(i, models.get(path, "").removeprefix("NVIDIA ") or "unknown", path) for i, path in enumerate(nodes)
    )
    if not nvidia and "/dev/dxg" in groups and facts["nvidia"]["driver"]:
        nvidia = (Gpu(0, "through WSL", "/dev/dxg"),)
    vendors = tuple(VENDORS.get(d["vendor"], d["vendor"]) for d in facts["display"])
    return Machine(groups, amd, nvidia, str(facts["nvidia"]["driver"]), vendors, bool(facts["iommu_pt"]), cdi)


def _s(items: object) -> str:
    return "" if len(items) == 1 else "s"  # type: ignore[arg-type]


def count(gpus: tuple[Gpu, ...] | list[Gpu], title: str) -> str:
    """As in "2 x AMD gfx908 (MI100)"."""
    names: dict[str, int] = {}
    for gpu in gpus:
        name = gpu.name + (f" ({SERIES[gpu.name]})" if gpu.name in SERIES else "")
        names[name] = names.get(name, 0) + 1
    return ", ".join(f"{n} x {title} {name}" if name != "unknown" else f"{n} x {title}" for name, n in names.items())
