"""The build of PyTorch by GPU and driver, and what no build can do."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from helpers.errors import TrackbedError
from helpers.gpu import wheels
from helpers.gpu.detect import Gpu, Machine
from tests.unit.test_gpu_accelerator import choose


def machine(model: str, driver: str) -> Machine:
    return Machine({"/dev/nvidia0": 0}, nvidia=(Gpu(0, model, "/dev/nvidia0"),), nvidia_driver=driver)


@pytest.mark.parametrize(
    ("models", "driver", "build"),
    [
        (("H100 PCIe",), "580.65.06", "cuda13"),
        (("A100-PCIE-40GB",), "595.10", "cuda13"),
        (("H100 80GB HBM3",), "579.99", "cu126"),
        (("A100-SXM4-80GB",), "560.28.03", "cu126"),
        (("Tesla V100-SXM2-32GB",), "580.82.07", "cu126"),
        (("Tesla P100-PCIE-16GB",), "570.1", "cu126"),
        (("Tesla M40",), "580.1", "cu126"),
        (("Quadro RTX 6000",), "580.1", "cuda13"),
        (("B200",), "580.82.07", "cuda13"),
        (("GeForce RTX 5090",), "590.1", "cuda13"),
        (("GB200",), "580.1", "cuda13"),
        (("unknown",), "", "cuda13"),
        ((), "", "cuda13"),
    ],
)
def test_the_driver_decides(models: tuple[str, ...], driver: str, build: str) -> None:
    chosen = wheels.for_nvidia(models, driver)
    assert (chosen.build, chosen.problem) == (build, "") and chosen.reason


@pytest.mark.parametrize(
    ("models", "driver", "words"),
    [
        (("A100-PCIE-40GB",), "535.230.02", ("driver 535.230.02 is too old", "560")),
        (("Tesla V100-SXM2-32GB",), "550.54", ("driver 550.54 is too old", "560")),
        (("B200",), "570.172.08", ("B200 needs the build for CUDA 13", "570.172.08")),
        (("GeForce RTX 5080",), "575.1", ("needs the build for CUDA 13",)),
        (("B200", "Tesla V100-SXM2-32GB"), "580.1", ("no build of PyTorch has code for Tesla V100", "B200")),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    models: tuple[str, ...], driver: str, words: tuple[str, ...]
) -> None:
    chosen = wheels.for_nvidia(models, driver)
    assert all(word in chosen.problem for word in words) and chosen.fix


def test_a_word_is_refused_and_auto_goes_on_without_a_gpu() -> None:
    existing = machine("A100-PCIE-40GB", "535.230.02")
    with pytest.raises(TrackbedError, match=r"--gpu=nvidia: NVIDIA's driver 535\.230\.02 is too old") as caught:
        choose("nvidia", "all", existing)
    assert "TORCH=cpu" in caught.value.hint
    chosen = choose("auto", "all", existing, bare=True)
    assert (chosen.kind, chosen.torch) == ("none", "cpu") and "535.230.02" in chosen.warning
    assert chosen.environment["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize(
    ("torch", "build", "tag"),
    [("cpu", "cpu", "cuda-cpu"), ("none", "cu126", "cuda-cu126"), ("given", "cu126", "cuda-cu126")],
)
def test_who_chose_pytorch_is_not_asked_for_a_driver(torch: str, build: str, tag: str) -> None:
    chosen = choose("nvidia", "all", machine("A100-PCIE-40GB", "535.230.02"), torch=torch)
    assert (chosen.kind, chosen.torch, chosen.tag) == ("nvidia", build, tag)


def test_the_cpu_build_for_an_amd_gpu() -> None:
    existing = Machine({"/dev/kfd": 1, "/dev/dri/renderD128": 1}, amd=(Gpu(0, "gfx908", "/dev/dri/renderD128"),))
    chosen = choose("mi100", "all", existing, torch="cpu")
    assert (chosen.torch, chosen.tag) == ("cpu", "rocm-cpu")


@pytest.mark.parametrize(
    ("torch", "index", "word"),
    [("auto", "", "auto"), ("auto", "https://x/y", "given"), ("cpu", "https://x/y", "cpu"), ("none", "", "none")],
)
def test_what_was_asked_for(torch: str, index: str, word: str) -> None:
    assert wheels.word(torch, index) == word


def test_every_build_has_its_versions_and_the_default_its_hashes() -> None:
    for build in wheels.BUILDS:
        assert "torch==" in (wheels.FOLDER / f"torch-{build}.in").read_text()
    assert wheels.index(wheels.CUDA13) == "" and wheels.index(wheels.CUDA12).endswith("/whl/cu126")
    lock, hashed = wheels.requirements(wheels.CUDA13)
    assert hashed and "--hash=sha256:" in lock.read_text() and "://" not in lock.read_text()
    assert wheels.requirements(wheels.CUDA13, "https://x/y") == (wheels.FOLDER / "torch-cuda13.in", False)


def test_the_image_is_built_with_the_versions_of_every_build() -> None:
    let_in = [line[1:] for line in (wheels.FOLDER / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for build in wheels.BUILDS:
        for name in (f"torch-{build}.in", f"torch-{build}-requirements.txt"):
            assert any(fnmatch(name, pattern) for pattern in let_in), name
