"""GPU words on machines that are made up, and machines as the kernel shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.engines.docker.cdi import names as cdi_names
from helpers.errors import TrackbedError
from helpers.gpu import accelerator, detect, node_types, probe
from helpers.gpu.accelerator import Accelerator
from helpers.gpu.advice import advice
from helpers.gpu.detect import Gpu, Machine
from helpers.gpu.node_types import CHOICES

MI100 = tuple(Gpu(i, "gfx908", f"/dev/dri/renderD{128 + i}") for i in range(2))
AMD2 = Machine(
    {"/dev/kfd": 109, "/dev/dri/renderD128": 109, "/dev/dri/renderD129": 110},
    amd=MI100,
    display=("ASPEED", "AMD", "AMD"),
)
LAPTOP = Machine(
    {"/dev/kfd": 105, "/dev/dri/renderD128": 105},
    display=("AMD",),
    amd=(Gpu(0, "gfx1103", "/dev/dri/renderD128", integrated=True),),
)
BOTH_AMD = Machine(
    {"/dev/kfd": 105, "/dev/dri/renderD128": 105, "/dev/dri/renderD129": 105},
    display=("AMD", "AMD"),
    amd=(Gpu(0, "gfx1036", "/dev/dri/renderD128", True), Gpu(1, "gfx1100", "/dev/dri/renderD129")),
)
BLIND = Machine({"/dev/kfd": 61234, "/dev/dri/renderD128": 61234})
A100 = tuple(Gpu(i, "A100-PCIE-40GB", f"/dev/nvidia{i}") for i in range(2))
NVIDIA2 = Machine(
    {"/dev/nvidia0": 0, "/dev/nvidia1": 0, "/dev/nvidiactl": 0},
    nvidia=A100,
    nvidia_driver="580.65",
    display=("ASPEED", "NVIDIA", "NVIDIA"),
)
CDI = Machine(
    {**NVIDIA2.groups},
    nvidia=A100,
    nvidia_driver="580.65",
    cdi=("nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"),
)
ONLY_CDI = Machine(cdi=("nvidia.com/gpu=0", "nvidia.com/gpu=all"))
V100 = Machine({"/dev/nvidia0": 0}, nvidia=(Gpu(0, "Tesla V100-SXM2-32GB", "/dev/nvidia0"),), nvidia_driver="570.1")
MIXED = Machine({**AMD2.groups, "/dev/nvidia0": 0}, amd=MI100, nvidia=A100[:1], nvidia_driver="580.65")
KNOWN = "CUDA 13 (driver 580.65)"
NO_DRIVER = Machine(display=("ASPEED", "NVIDIA"))
SERVER = Machine(display=("ASPEED",))


def choose(word: str, devices: str, machine: Machine, **more: Any) -> Accelerator:
    return accelerator.choose(CHOICES[word], devices, machine, **more)


def test_amd_is_given_its_nodes_and_their_numeric_groups() -> None:
    assert choose("mi100", "all", AMD2) == Accelerator(
        "amd",
        "--gpu=mi100",
        MI100,
        devices=("/dev/kfd", "/dev/dri"),
        opened=("/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129"),
        groups=("109", "110"),
        environment={"NCCL_P2P_DISABLE": "1"},
        torch="rocm7.2",
    )


def test_some_of_the_amd_gpus_by_topology_not_by_order() -> None:
    swapped = Machine(
        AMD2.groups, amd=(Gpu(0, "gfx908", "/dev/dri/renderD129"), Gpu(1, "gfx908", "/dev/dri/renderD128"))
    )
    chosen = choose("amd", "0", swapped)
    assert chosen.devices == chosen.opened == ("/dev/kfd", "/dev/dri/renderD129")
    assert chosen.groups == ("109", "110") and chosen.environment == {}


def test_iommu_pt_lets_gpus_talk_to_each_other() -> None:
    assert choose("amd", "all", Machine(AMD2.groups, amd=MI100, iommu_pt=True)).environment == {}


def test_root_group_is_no_supplementary_group() -> None:
    assert choose("amd", "all", Machine({"/dev/kfd": 0, "/dev/dri/renderD128": 0}, amd=MI100[:1])).groups == ()


def test_nodes_without_a_topology_are_all_given() -> None:
    chosen = choose("mi100", "all", BLIND)
    assert (chosen.devices, chosen.groups) == (("/dev/kfd", "/dev/dri"), ("61234",)) and chosen.gpus == ()
    with pytest.raises(TrackbedError, match="cannot be told"):
        choose("mi100", "0", BLIND)


def test_nvidia_by_request_where_the_engine_knows_no_cdi() -> None:
    assert choose("liqid", "all", NVIDIA2) == Accelerator(
        "nvidia", "--gpu=liqid", A100, request=("all",), torch="cuda13", torch_reason=KNOWN
    )
    assert choose("liqid", "1", NVIDIA2).request == ("1",)


def test_nvidia_by_cdi_where_the_engine_knows_it() -> None:
    assert choose("liqid", "all", CDI).cdi == ("nvidia.com/gpu=all",)
    chosen = choose("nvidia", "1,0", CDI)
    assert chosen.cdi == ("nvidia.com/gpu=1", "nvidia.com/gpu=0") and chosen.request == ()
    assert choose("liqid", "all", ONLY_CDI).cdi == ("nvidia.com/gpu=all",)
    with pytest.raises(TrackbedError, match=r"there is no NVIDIA GPU 1; there is 0 \(by CDI\)"):
        choose("liqid", "1", ONLY_CDI)


@pytest.mark.parametrize(
    ("word", "there", "torch", "tag"),
    [
        ("mi100", AMD2, "rocm7.2", "rocm"),
        ("liqid", CDI, "cuda13", "cuda"),
        ("none", CDI, "cpu", "cpu"),
        ("v100", V100, "cu126", "cuda-cu126"),
        ("nvidia", V100, "cu126", "cuda-cu126"),
        ("auto", V100, "cu126", "cuda-cu126"),
    ],
)
def test_image_and_wheels(word: str, there: Machine, torch: str, tag: str) -> None:
    chosen = choose(word, "all", there)
    assert (chosen.torch, chosen.tag) == (torch, tag)


@pytest.mark.parametrize(
    ("there", "kind", "reason"),
    [
        (AMD2, "amd", "auto: 2 x AMD gfx908 (MI100)"),
        (CDI, "nvidia", "auto: 2 x NVIDIA A100-PCIE-40GB"),
        (ONLY_CDI, "nvidia", "auto: NVIDIA devices by CDI"),
        (BOTH_AMD, "amd", "auto: 1 x AMD gfx1036, 1 x AMD gfx1100 (RX 7900)"),
        (LAPTOP, "none", "auto: 1 x AMD gfx1103 is graphics inside the processor, --gpu=amd takes it all the same"),
        (BLIND, "none", "auto: the kernel tells nothing about the GPU at /dev/kfd, --gpu=amd takes it all the same"),
        (
            MIXED,
            "amd",
            "auto: 2 x AMD gfx908 (MI100), 1 x NVIDIA A100-PCIE-40GB; the machine also has NVIDIA GPUs, "
            "--gpu=nvidia takes those",
        ),
        (NO_DRIVER, "none", "auto: an NVIDIA GPU is in this machine, but its driver is not loaded"),
        (SERVER, "none", "auto: only ASPEED graphics here"),
        (Machine(), "none", "auto: no GPU here"),
    ],
)
def test_auto_says_what_it_chose_and_why(there: Machine, kind: str, reason: str) -> None:
    chosen = choose("auto", "all", there)
    assert (chosen.kind, chosen.reason) == (kind, reason)


def test_auto_warns_when_a_gpu_is_left_unused() -> None:
    assert "driver is not loaded" in choose("auto", "all", NO_DRIVER).warning
    assert "/dev/kfd" in choose("auto", "all", BLIND).warning
    assert choose("auto", "all", SERVER).warning == choose("auto", "all", LAPTOP).warning == ""


def test_the_graphics_of_the_processor_are_left_to_the_screen() -> None:
    chosen = choose("amd", "all", BOTH_AMD)
    assert chosen.devices == ("/dev/kfd", "/dev/dri/renderD129")
    assert choose("amd", "all", LAPTOP).devices == ("/dev/kfd", "/dev/dri")  # asked for, and there is no other


@pytest.mark.parametrize(
    ("word", "there", "message", "fix"),
    [
        ("mi100", Machine(), "there is no /dev/kfd here, the machine has no GPU", "modprobe amdgpu"),
        ("mi100", NVIDIA2, "there is no /dev/kfd here, the machine has 2 x NVIDIA A100-PCIE-40GB", "--gpu=nvidia"),
        ("amd", Machine({"/dev/kfd": 1}), "there is no /dev/dri/renderD* here", "modprobe amdgpu"),
        ("liqid", AMD2, "there is no NVIDIA GPU here, the machine has 2 x AMD gfx908 (MI100)", "--gpu=amd"),
        (
            "liqid",
            NO_DRIVER,
            "an NVIDIA GPU is in this machine, but its driver is not loaded",
            "install NVIDIA's driver",
        ),
        ("nvidia", Machine(nvidia_driver="580.1"), "there is no /dev/nvidia0", "install NVIDIA's driver"),
        (
            "liqid",
            V100,
            "--gpu=liqid: this is no compute_liqid, the machine has 1 x NVIDIA Tesla V100-SXM2-32GB",
            "--gpu=nvidia takes what is there",
        ),
        (
            "mi100",
            Machine(BLIND.groups, amd=(Gpu(0, "gfx942", "/dev/dri/renderD128"),)),
            "this is no gpu_mi100, the machine has 1 x AMD gfx942 (MI300 series)",
            "--gpu=amd takes what is there",
        ),
        ("k80", NVIDIA2, "no current driver or PyTorch supports the K80; use --gpu=none", ""),
        ("gpu_pontevecchio", Machine(), "Intel GPUs are not supported; use --gpu=none", ""),
    ],
)
def test_a_word_that_contradicts_the_machine(word: str, there: Machine, message: str, fix: str) -> None:
    with pytest.raises(TrackbedError) as caught:
        choose(word, "all", there)
    assert message in caught.value.message and fix in caught.value.hint


@pytest.mark.parametrize(
    ("word", "devices", "there", "message"),
    [
        ("amd", "2", AMD2, "there is no AMD GPU 2; there are 0 (gfx908), 1 (gfx908)"),
        ("nvidia", "0,7", CDI, "there is no NVIDIA GPU 7; there are 0 (A100-PCIE-40GB), 1 (A100-PCIE-40GB)"),
        ("nvidia", "0", Machine(cdi=("nvidia.com/gpu=all",)), "the engine lists nvidia.com/gpu=all alone"),
    ],
)
def test_an_index_that_is_not_there(word: str, devices: str, there: Machine, message: str) -> None:
    with pytest.raises(TrackbedError, match=re.escape(message)):
        choose(word, devices, there)


@pytest.mark.parametrize(
    ("word", "devices", "there", "environment"),
    [
        ("none", "all", AMD2, {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}),
        ("amd", "all", Machine(AMD2.groups, amd=MI100, iommu_pt=True), {}),
        ("amd", "1", AMD2, {"ROCR_VISIBLE_DEVICES": "1"}),
        ("auto", "all", BOTH_AMD, {"ROCR_VISIBLE_DEVICES": "1"}),
        ("nvidia", "all", NVIDIA2, {}),
        ("nvidia", "1", NVIDIA2, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}),
    ],
)
def test_a_process_is_told_by_its_environment(
    word: str, devices: str, there: Machine, environment: dict[str, str]
) -> None:
    chosen = choose(word, devices, there, bare=True)
    assert chosen.environment == environment and chosen.cdi == chosen.request == ()


def test_cdi_names_are_nothing_to_a_process() -> None:
    with pytest.raises(TrackbedError, match="no NVIDIA GPU here"):
        choose("liqid", "all", ONLY_CDI, bare=True)


def test_every_node_type_of_the_testbed_is_known() -> None:
    assert {node.node_type for node in node_types.NODE_TYPES} == {
        "gpu_mi100",
        "compute_liqid",
        "compute_gigaio",
        "gpu_h100",
        "gpu_a100_pcie",
        "gpu_a100_nvlink",
        "gpu_v100",
        "gpu_rtx_6000",
        "gpu_p100",
        "gpu_p100_nvlink",
        "gpu_p100_v100",
        "gpu_k80",
        "gpu_m40",
        "gpu_pontevecchio",
    }
    for node in node_types.NODE_TYPES:
        named = [CHOICES[word] for word in (node.word, node.node_type, node.node_type.replace("_", "-"))]
        assert all((choice.kind, choice.node) == (node.kind, node) for choice in named)


def test_a_choice_is_the_word_that_was_given() -> None:
    assert [word for word, choice in CHOICES.items() if str(choice) != word] == []
    assert node_types.SUPPORTED[:2] == ("mi100", "liqid") and "k80" not in node_types.SUPPORTED


def test_an_image_can_be_built_where_no_gpu_is() -> None:
    assert [accelerator.named(CHOICES[word]).tag for word in ("mi100", "liqid", "v100", "none")] == [
        "rocm",
        "cuda",
        "cuda-cu126",
        "cpu",
    ]
    with pytest.raises(TrackbedError, match="unsupported|supports"):
        accelerator.named(CHOICES["k80"])


@pytest.mark.parametrize("word", ["v100", "gpu_v100", "gpu-v100", "p100-nvlink", "gpu_m40"])
def test_old_gpus_get_their_pytorch_in_every_spelling(word: str) -> None:
    assert accelerator.named(CHOICES[word]).torch == "cu126"
    blind = Machine({"/dev/nvidia0": 0}, nvidia=(Gpu(0, "unknown", "/dev/nvidia0"),), nvidia_driver="580.1")
    assert choose(word, "all", blind).torch == "cu126"


# the machine, from trees like those of a kernel


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def node(root: Path, *names: str) -> None:
    for name in names:
        path = root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/null")  # a character device


def topology(number: int, simd: int, version: int = 0, minor: int = 0, cores: int = 0) -> dict[str, str]:
    return {
        f"sys/class/kfd/kfd/topology/nodes/{number}/properties": f"cpu_cores_count {cores}\nsimd_count {simd}\ngfx_target_version {version}\ndrm_render_minor {minor}"
    }


def pci(slot: str, kind: str, vendor: str, device: str) -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{slot}"
    return {f"{folder}/class": kind, f"{folder}/vendor": vendor, f"{folder}/device": device}


def test_an_mi100_node(tmp_path: Path) -> None:
    node(tmp_path, "kfd", "dri/renderD128", "dri/renderD129", "dri/card0")
    write(
        tmp_path,
        {
            **topology(0, 0, cores=64),
            **topology(1, 480, 90008, 129),
            **topology(2, 480, 90008, 128),
            **pci("0000:02:00.0", "0x030000", "0x1a03", "0x2000"),
            **pci("0000:43:00.0", "0x038000", "0x1002", "0x738c"),
            **pci("0000:01:00.0", "0x020000", "0x8086", "0x1521"),
            "proc/cmdline": "quiet iommu=pt",
        },
    )
    existing = detect.machine(probe.look(tmp_path))
    assert existing.amd == (Gpu(0, "gfx908", "/dev/dri/renderD129"), Gpu(1, "gfx908", "/dev/dri/renderD128"))
    assert existing.display == ("ASPEED", "AMD") and existing.iommu_pt
    assert list(existing.groups) == ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129"]


# as the kernel of a machine with an H100 said it, but for its serial number
H100_VERSION = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (build@host)
GCC version:  gcc version 15.3.0 (GCC)"""
H100_INFORMATION = """Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 41
Video BIOS: \t 96.00.da.00.0c
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t 0000:00:06.0
Device Minor: \t 0
GPU Firmware: \t 580.159.04
GPU Excluded:\t No"""


def test_an_h100_as_its_kernel_tells_it(tmp_path: Path) -> None:
    node(tmp_path, "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1")
    write(
        tmp_path,
        {
            "proc/driver/nvidia/version": H100_VERSION,
            "proc/driver/nvidia/gpus/0000:00:06.0/information": H100_INFORMATION,
        },
    )
    existing = detect.machine(probe.look(tmp_path))
    assert existing.nvidia == (Gpu(0, "H100 80GB HBM3", "/dev/nvidia0"),) and existing.nvidia_driver == "580.159.04"
    assert list(existing.groups) == ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm"]


@pytest.mark.parametrize(
    ("version", "cores", "name"),
    [
        (90012, 0, "gfx90c"),
        (110003, 0, "gfx1103"),
        (100306, 0, "gfx1036"),
        (90002, 8, "gfx902"),
        (110501, 0, "gfx1151"),
    ],
)
def test_the_graphics_of_a_ryzen(tmp_path: Path, version: int, cores: int, name: str) -> None:
    node(tmp_path, "kfd", "dri/renderD128")
    write(tmp_path, topology(1, 8, version, 128, cores))
    existing = detect.machine(probe.look(tmp_path))
    assert existing.amd == (Gpu(0, name, "/dev/dri/renderD128", integrated=True),)
    assert choose("auto", "all", existing).kind == "none"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (120001, "gfx1201"),
    ],
)
def test_gpus_for_training(tmp_path: Path, version: int, name: str) -> None:
    node(tmp_path, "kfd", "dri/renderD128")
    write(tmp_path, topology(1, 480, version, 128))
    existing = detect.machine(probe.look(tmp_path))
    assert existing.amd[0].name == name and choose("auto", "all", existing).kind == "amd"


def test_an_nvidia_machine(tmp_path: Path) -> None:
    node(tmp_path, "nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm")
    gpus = "proc/driver/nvidia/gpus"
    write(
        tmp_path,
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            f"{gpus}/0000:17:00.0/information": "Model: \t\t NVIDIA A100-PCIE-40GB\nDevice Minor: \t 1",
            f"{gpus}/0000:65:00.0/information": "Model: \t\t NVIDIA A30\nDevice Minor: \t 0",
        },
    )
    existing = detect.machine(probe.look(tmp_path))
    assert existing.nvidia_driver == "580.65.06"
    assert [(gpu.name, gpu.node) for gpu in existing.nvidia] == [
        ("A30", "/dev/nvidia0"),
        ("A100-PCIE-40GB", "/dev/nvidia1"),
        ("unknown", "/dev/nvidia10"),
    ]


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    assert detect.machine(probe.look(tmp_path)) == Machine()
    assert str(Machine()) == "no GPU"


CDI_YAML = """---
cdiVersion: 0.5.0
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
"""
CDI_JSON = (
    '{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "all", "containerEdits": '
    '{"deviceNodes": [{"path": "/dev/nvidia0"}]}}]}'
)


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("nvidia.yaml", CDI_YAML, ("nvidia.com/gpu=0", "nvidia.com/gpu=all")),
        ("nvidia.json", CDI_JSON, ("nvidia.com/gpu=all",)),
        ("notes.txt", CDI_JSON, ()),
        ("broken.yaml", "kind: x", ()),
    ],
)
def test_names_in_cdi_specifications(tmp_path: Path, name: str, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    assert cdi_names((str(tmp_path), str(tmp_path / "missing"))) == names


@pytest.mark.parametrize(
    ("message", "means", "fix"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "no NVIDIA Container Toolkit", "nvidia-ctk"),
        (
            "failed to discover GPU vendor from CDI: no known GPU vendor found",
            "no NVIDIA Container Toolkit",
            "nvidia-ctk",
        ),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
            "no (or no readable)",
            "cdi generate",
        ),
        (
            'error gathering device information while adding custom device "/dev/kfd": no such file or directory',
            "does not exist",
            "modprobe amdgpu",
        ),
        ("Failed to initialize NVML: Unknown Error", "lost its GPU", "native.cgroupdriver=cgroupfs"),
        ("Failed to initialize NVML: Driver/library version mismatch", "updated", "restart the machine"),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", "too old", "TORCH_INDEX"),
        ("CUDA error: no kernel image is available for execution on the device", "no code for this GPU", "cu126"),
    ],
)
def test_advice_for_what_engines_and_drivers_say(message: str, means: str, fix: str) -> None:
    result: Any = advice(message)
    assert result is not None and means in result[0] and fix in result[1]


def test_no_advice_for_the_unknown() -> None:
    assert advice("bind: address already in use") is None
