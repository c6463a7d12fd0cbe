"""What an engine or a driver says about a GPU, what that means, and what to type. Pure functions."""

from __future__ import annotations

import re

from helpers.shell_words import as_root

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
        "`sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`",
    ),
    (
        r"error gathering device information while adding custom device",
        "a device node for the notebook does not exist",
        "`sudo modprobe amdgpu` creates /dev/kfd and /dev/dri; `invoke doctor` shows the GPUs; or use --gpu=none",
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
            return means, re.sub("`sudo ([^`]*)`", lambda found: f"`{as_root(found[1])}`", fix)
    return None
