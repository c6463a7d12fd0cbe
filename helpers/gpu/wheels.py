"""Which build of PyTorch a notebook gets: the versions of each build, and the choice by the GPU and its driver.

A build is named like its wheel index (cpu, cu126, rocm7.2); ``cuda13`` is the one on the Python package index, which
for Linux x86_64 is built for CUDA 13 and brings every library that it needs from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from helpers import references, url_logins

FOLDER = references.FILE.parent / "jupyter"
AUTO, NONE, GIVEN = "auto", "none", "given"
CPU, CUDA13, CUDA12, ROCM = "cpu", "cuda13", "cu126", "rocm7.2"
WITH_LOGIN = "TRACKBED_TORCH_INDEX"  # carries an index with a login: words of a command are in lists of processes
BUILDS = (CPU, CUDA13, CUDA12, ROCM)
# Lowest driver of each CUDA, from NVIDIA's release notes: 12.6 is 560, 13.0 is 580.
CUDA13_DRIVER, CUDA12_DRIVER = 580, 560
# CUDA 13 has no code for GPUs before Turing; wheels for 12.6 have it, and none for Blackwell.
BEFORE_TURING = re.compile(r"\b(V100S?|P100|P40|P4|M40|M60|GTX (9|10)\d\d|TITAN (X|V|Xp)|Quadro (P|M|GV)\d+)\b")
BLACKWELL = re.compile(r"\b(G?B[123]00|GB10|RTX 50\d\d|RTX PRO \d000)\b")


@dataclass(frozen=True)
class Choice:
    """A build, and why that one. ``problem`` says why no build can compute on these GPUs, with ``fix``."""

    build: str
    reason: str
    problem: str = ""
    fix: str = ""


def for_nvidia(models: tuple[str, ...], driver: str) -> Choice:
    """The build for GPUs of these models below this driver ("580.82.07"; "" where it is not known)."""
    old = [model for model in models if BEFORE_TURING.search(model)]
    new = [model for model in models if BLACKWELL.search(model)]
    if old and new:
        return Choice(
            CPU, "", f"no build of PyTorch has code for {old[0]} and {new[0]}", "--devices names the GPUs of one kind"
        )
    major = int(driver.partition(".")[0]) if driver[:1].isdecimal() else CUDA13_DRIVER
    if major < CUDA12_DRIVER:
        return Choice(
            CPU,
            "",
            f"NVIDIA's driver {driver} is too old for PyTorch, which needs {CUDA12_DRIVER} or newer "
            f"({CUDA13_DRIVER} for its default build)",
            "update the driver; or TORCH=cpu starts without the GPU's PyTorch",
        )
    if new and major < CUDA13_DRIVER:
        return Choice(
            CPU,
            "",
            f"{new[0]} needs the build for CUDA 13, and NVIDIA's driver {driver} is too old for it",
            f"update the driver to {CUDA13_DRIVER} or newer; or TORCH=cpu starts without the GPU's PyTorch",
        )
    said = f"driver {driver}" if driver else "the driver's version is not known"
    if old:
        return Choice(CUDA12, f"CUDA 12.6, since {old[0]} is older than Turing")
    if major < CUDA13_DRIVER:
        return Choice(CUDA12, f"CUDA 12.6, since {said} is older than {CUDA13_DRIVER}")
    return Choice(CUDA13, f"CUDA 13 ({said})")


def named(variant: str, old: bool = False) -> str:
    """The build of an image variant (cpu, cuda, rocm) that is made without looking at a driver."""
    return {"cuda": CUDA12 if old else CUDA13, "rocm": ROCM}.get(variant, CPU)


def word(torch: str, torch_index: str) -> str:
    """What TORCH and TORCH_INDEX ask for: auto, cpu, none, or given (the user named the index)."""
    return GIVEN if torch == AUTO and torch_index else torch


def index(build: str, torch_index: str = "") -> str:
    """The address of the index that a build comes from; "" for the Python package index."""
    if torch_index:
        return torch_index
    return "" if build == CUDA13 else f"{references.wheel_index()}/{build}"


def secret(index: str) -> dict[str, str]:
    """What a program's environment carries of an index that asks for a login; {} where it asks for none."""
    return {WITH_LOGIN: index} if url_logins.removed(index) != index else {}


def requirements(build: str, torch_index: str = "") -> tuple[Path, bool]:
    """The pinned versions of a build: with hashes where they are known (and no other index was named), else without."""
    lock = FOLDER / f"torch-{build}-requirements.txt"
    hashed = lock.exists() and not torch_index
    return (lock, True) if hashed else (FOLDER / f"torch-{build}.in", False)


def build_arguments(variant: str, build: str, torch: str, torch_index: str) -> dict[str, str]:
    """The arguments of the notebook image's Dockerfile that name its PyTorch."""
    build = build or (CPU if torch == CPU else named(variant))
    if torch == NONE:
        return {"TORCH": "", "TORCH_INDEX": url_logins.removed(index(build, torch_index))}
    lock, hashed = requirements(build, torch_index)
    return {
        "TORCH": lock.name,
        "TORCH_INDEX": url_logins.removed(index(build, torch_index)),
        **({"TORCH_HASHES": "--require-hashes"} if hashed else {}),
    }
