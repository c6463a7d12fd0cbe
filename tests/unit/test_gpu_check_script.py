"""The GPU check as it runs inside the notebook, with nodes and a PyTorch that are made up."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from helpers.gpu import check_script


def lines(capsys: pytest.CaptureFixture[str], **reported: Any) -> list[tuple[str, bool | None, str]]:
    check_script.main({"kind": "amd", "nodes": ["/dev/null"], "quick": True, "torch": False, **reported})
    return [
        (item["check"], item["ok"], item["detail"]) for item in map(json.loads, capsys.readouterr().out.splitlines())
    ]


def test_nodes_that_open(capsys: pytest.CaptureFixture[str]) -> None:
    name, ok, detail = lines(capsys)[0]
    assert (name, ok) == ("GPU can be opened", True)
    assert detail.startswith(f"/dev/null as uid {os.getuid()}, groups ")


@pytest.mark.parametrize(
    ("kind", "nodes", "reason"),
    [
        ("amd", [], "no /dev/kfd in the notebook: the engine gave it no GPU"),
        ("amd", ["/dev/null", "/nonexistent/kfd"], "/nonexistent/kfd is not in the notebook"),
    ],
)
def test_nodes_that_do_not(capsys: pytest.CaptureFixture[str], kind: str, nodes: list[str], reason: str) -> None:
    assert lines(capsys, kind=kind, nodes=nodes) == [("GPU can be opened", False, reason)]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (1, "the container may not use this device"),
        (13, "the group is missing"),
        (19, "No such device"),
    ],
)
def test_what_stands_in_the_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, reason: str
) -> None:
    node = tmp_path / "kfd"
    node.touch()
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "getgid", lambda: 4_000_000)

    def refuse(*words: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RuntimeError, match=reason):
        check_script.can_open("amd", [str(node)])


def test_an_earlier_failure_skips_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    result = lines(capsys, nodes=["/nonexistent"], quick=False)
    assert [ok for _, ok, _ in result] == [False, False, False]
    assert result[1][2] == "skipped: an earlier check failed"


class Torch(types.ModuleType):
    """As much of PyTorch as the check asks."""

    def __init__(self, hip: str | None = "7.2", gpus: int = 2, error: str = "", result: float = 1024.0) -> None:
        super().__init__("torch")
        self.__version__ = "2.13.0"
        self.version = types.SimpleNamespace(hip=hip, cuda="12.8")

        def init() -> None:
            raise RuntimeError(error)

        self.cuda = types.SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            init=init,
            synchronize=lambda device: None,
            get_device_name=lambda index: f"MI100 number {index}",
        )
        self.device = lambda kind, index: (kind, index)
        self.ones = lambda shape, device: None
        self.mm = lambda left, right: {(0, 0): result}


def test_a_product_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", Torch())
    reported = check_script.compute("amd", required=True)
    assert reported.startswith("PyTorch 2.13.0 for ROCm 7.2; MI100 number 0: 1024 x 1024 product in ")
    assert "MI100 number 1: " in reported


@pytest.mark.parametrize(
    ("torch", "kind", "reason"),
    [
        (
            Torch(gpus=0, error="The NVIDIA driver on your system is too old (found version 11040)", hip=None),
            "nvidia",
            r"CUDA 12.8: The NVIDIA driver on your system is too old \(found version 11040\)",
        ),
        (Torch(hip=None), "amd", "cannot use an AMD GPU; it needs the build for ROCm"),
        (Torch(result=3.0), "amd", "GPU 0 computed 3.0 instead of 1024"),
        (Torch(gpus=0, error=""), "amd", "it finds no GPU"),
        (None, "amd", "PyTorch cannot be imported"),
    ],
)
def test_pytorch_that_finds_no_gpu(
    monkeypatch: pytest.MonkeyPatch, torch: Torch | None, kind: str, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(RuntimeError, match=reason):
        check_script.compute(kind, required=True)


def test_no_pytorch_because_nobody_wanted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(check_script.NotTested, match="TORCH=none"):
        check_script.compute("amd", required=False)


def test_nvidia_smi_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Unknown Error'; exit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match="Failed to initialize NVML: Unknown Error"):
        check_script.can_open("nvidia", ["/dev/null"])
    program.write_text("#!/bin/sh\nexit 0\n")
    assert check_script.can_open("nvidia", ["/dev/null"]).startswith("/dev/null as uid")


def test_devices_that_a_device_plugin_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    created = {"/dev/kfd": ["/dev/null"], "/dev/dri/renderD*": ["/dev/zero"]}
    monkeypatch.setattr("glob.glob", lambda pattern: created.get(pattern, []))
    assert check_script.can_open("amd", []).startswith("/dev/null, /dev/zero as uid")
    created.clear()
    with pytest.raises(RuntimeError, match="no /dev/kfd in the notebook"):
        check_script.can_open("amd", [])
