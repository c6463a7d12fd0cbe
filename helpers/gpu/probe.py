"""What a machine has for GPUs: device nodes, the kernel's kfd topology, NVIDIA's driver, graphics on the PCI bus.

Standard library only. Imported by the toolkit for this machine; fed to the Python of a container that has the
machine's trees mounted for one elsewhere:

    python probe.py [ROOT]     prints one JSON object; ROOT holds dev, sys and proc (default: /)
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

NODES = ("dev/kfd", "dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm", "dev/dxg")
DISPLAY = ("03", "12")  # PCI base classes: display controllers, processing accelerators


def look(root: Path = Path("/")) -> dict[str, Any]:
    """Everything that was found, as plain data: ``nodes``, ``kfd``, ``nvidia``, ``display``, ``iommu_pt``."""
    return {
        "nodes": nodes(root),
        "kfd": kfd(root),
        "nvidia": nvidia(root),
        "display": display(root),
        "iommu_pt": "iommu=pt" in _text(root / "proc/cmdline").split(),
    }


def nodes(root: Path) -> list[dict[str, Any]]:
    """Device nodes with their numeric owner, group and permission bits."""
    result = []
    for pattern in NODES:
        for path in sorted(root.glob(pattern), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)]):
            try:
                details = path.stat()
            except OSError:
                continue
            if stat.S_ISCHR(details.st_mode):
                result.append(
                    {
                        "path": "/" + str(path.relative_to(root)),
                        "uid": details.st_uid,
                        "gid": details.st_gid,
                        "mode": stat.S_IMODE(details.st_mode),
                    }
                )
    return result


def kfd(root: Path) -> list[dict[str, Any]]:
    """AMD GPUs in the order of the kernel's topology, which is the order that ROCm counts them in."""
    result = []
    folders = (root / "sys/class/kfd/kfd/topology/nodes").glob("[0-9]*")
    for folder in sorted(folders, key=lambda p: int(p.name)):
        facts = dict(line.split(None, 1) for line in _text(folder / "properties").splitlines() if " " in line)
        if int(facts.get("simd_count", 0)) == 0:
            continue  # a CPU
        version = int(facts.get("gfx_target_version", 0))
        result.append(
            {
                "node": int(folder.name),
                "gfx": f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else "",
                "render": f"/dev/dri/renderD{int(facts.get('drm_render_minor', 0))}",
                # the first generations of such chips are one node for the cores and the graphics
                "with_cpu": int(facts.get("cpu_cores_count", 0)) > 0,
            }
        )
    return result


def nvidia(root: Path) -> dict[str, Any]:
    """Version of the loaded kernel driver ("" without one) and the models by minor number."""
    version = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    gpus: list[dict[str, Any]] = []
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        text = _text(folder / "information")
        model = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*(\d+)", text, re.MULTILINE)
        gpus.append({"minor": int(minor[1]) if minor else len(gpus), "model": model[1] if model else ""})
    return {"driver": version[1] if version else "", "gpus": sorted(gpus, key=lambda g: int(g["minor"]))}


def display(root: Path) -> list[dict[str, str]]:
    """Graphics and accelerator devices on the PCI bus: vendor and device as four hexadecimal digits."""
    result = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind = _text(folder / "class").removeprefix("0x")
        if kind.startswith(DISPLAY):
            result.append(
                {
                    "slot": folder.name,
                    "vendor": _text(folder / "vendor").removeprefix("0x"),
                    "device": _text(folder / "device").removeprefix("0x"),
                }
            )
    return result


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    os.write(1, json.dumps(look(Path(sys.argv[1] if len(sys.argv) > 1 else "/"))).encode() + b"\n")
