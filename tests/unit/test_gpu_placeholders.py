"""GPU words on a machine that does not have the GPU: what `--dry-run` prints for the one that has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.engines import scripts
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.errors import TrackbedError
from helpers.gpu import placeholders
from helpers.gpu.accelerator import Accelerator
from helpers.gpu.detect import Machine
from helpers.gpu.node_types import CHOICES
from helpers.gpu.placeholders import MEMORY, RENDER_GROUP
from tests.conftest import PATIENCE
from tests.unit.fakes import project
from tests.unit.test_gpu_accelerator import AMD2, CDI, LAPTOP, NVIDIA2, SERVER, choose


def elsewhere(word: str, devices: str, here: Machine, bare: bool = False) -> Accelerator:
    return placeholders.choose(CHOICES[word], devices, here, bare)


@pytest.mark.parametrize("here", [SERVER, LAPTOP, NVIDIA2])
def test_another_machines_amd_gpus(here: Machine) -> None:
    chosen = elsewhere("mi100", "all", here)
    assert (chosen.kind, chosen.tag, chosen.foreign) == ("amd", "rocm", True)
    assert chosen.devices == ("/dev/kfd", "/dev/dri") and chosen.groups == ('"$RENDER_GROUP"',)
    assert chosen.environment == {"NCCL_P2P_DISABLE": "1"} and chosen.placeholders == (RENDER_GROUP, MEMORY)
    one = elsewhere("mi100", "1", here)
    assert one.devices == ("/dev/kfd", '"$GPU_1"') and one.environment == {}


@pytest.mark.parametrize(("word", "tag"), [("h100", "cuda"), ("nvidia", "cuda"), ("p100", "cuda-cu126")])
def test_another_machines_nvidia_gpus(word: str, tag: str) -> None:
    chosen = elsewhere(word, "0,2", SERVER)
    assert (chosen.kind, chosen.tag, chosen.request) == ("nvidia", tag, ("0", "2"))
    assert elsewhere(word, "all", SERVER).request == ("all",)


@pytest.mark.parametrize(
    ("word", "here"), [("mi100", AMD2), ("amd", LAPTOP), ("liqid", CDI), ("auto", SERVER), ("none", NVIDIA2)]
)
def test_where_the_gpus_are_it_is_what_up_gives(word: str, here: Machine) -> None:
    assert elsewhere(word, "all", here) == choose(word, "all", here)


def test_the_model_of_this_machine_is_not_the_words() -> None:
    assert elsewhere("h100", "3", NVIDIA2).request == ("3",)


@pytest.mark.parametrize(("word", "devices", "here"), [("k80", "all", SERVER), ("liqid", "7", NVIDIA2)])
def test_what_up_refuses_for_another_reason_is_refused(word: str, devices: str, here: Machine) -> None:
    with pytest.raises(TrackbedError):
        elsewhere(word, devices, here)


def test_without_containers_the_variables_say_all() -> None:
    amd = elsewhere("mi100", "0,1", SERVER, bare=True)
    assert amd.environment == {"NCCL_P2P_DISABLE": "1", "ROCR_VISIBLE_DEVICES": "0,1"} and not amd.devices
    nvidia = elsewhere("h100", "2", SERVER, bare=True)
    assert nvidia.environment["CUDA_VISIBLE_DEVICES"] == "2" and not nvidia.placeholders


def test_only_the_placeholders_that_are_used_are_printed_and_marked() -> None:
    chosen = elsewhere("mi100", "all", SERVER)
    lines = scripts.placeholders(chosen, f"--group-add {RENDER_GROUP.word}").splitlines()
    assert lines[0].startswith("# --gpu=mi100: ") and lines[1].startswith("# PLACEHOLDERS: ")
    assert [line.partition("=")[0] for line in lines[2:]] == ["RENDER_GROUP"]
    assert scripts.placeholders(choose("mi100", "all", AMD2), "") == ""


def test_a_placeholder_finds_its_value(tmp_path: Path) -> None:
    for node, minor in (("0", 0), ("2", 129), ("10", 130)):
        folder = tmp_path / "sys/class/kfd/kfd/topology/nodes" / node
        folder.mkdir(parents=True)
        (folder / "properties").write_text(f"cpu_cores_count 0\ndrm_render_minor {minor}\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD129").touch()
    chosen = elsewhere("mi100", "0,1", SERVER)
    lines = [f"{one.name}={one.lookup}\necho {one.word}" for one in chosen.placeholders]
    script = "\n".join(["set -euo pipefail", *lines])
    for place in ("/sys/", "/dev/dri/renderD*"):
        script = script.replace(place, f"{tmp_path}{place}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    group, first, second, memory = done.stdout.splitlines()
    assert group == str((tmp_path / "dev/dri/renderD129").stat().st_gid)
    assert (first, second) == ("/dev/dri/renderD129", "/dev/dri/renderD130")
    assert memory.endswith("m") and int(memory[:-1]) > 0


def test_the_embedded_engines_script_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedEngine, "host_facts", lambda _: type("Facts", (), {"machine": SERVER, "memory": 1}))
    created = project(tmp_path, gpu="mi100", engine="embedded")
    with pytest.raises(TrackbedError, match="no /dev/kfd"):
        EmbeddedEngine(created).plan()
    created.dry_run = True
    engine = EmbeddedEngine(created)
    assert "# --gpu=mi100: for a machine with that GPU" in engine.script(engine.plan())
