"""The notebook's container for each kind of GPU, its image and what it is built with."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import references
from helpers.engines import notebook_image, notebook_spec, shared
from helpers.engines.base import DeviceRequest, Mount
from helpers.engines.docker import images
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.engines.embedded.venvs import Extra, Venv
from helpers.engines.notebook_image import NotebookImage
from helpers.errors import SettingError
from helpers.gpu.accelerator import Accelerator
from helpers.services import ServiceSpec
from helpers.settings import Settings
from helpers.wheel_download import Requirements
from tests.claims import free_ports
from tests.unit.fakes import Silent, deployed

AMD = Accelerator(
    "amd",
    devices=("/dev/kfd", "/dev/dri"),
    groups=("109", "110"),
    torch="rocm7.2",
    environment={"NCCL_P2P_DISABLE": "1"},
)

INDEX = "https://download.pytorch.org/whl"


def settings(tmp_path: Path, **environ: str) -> Settings:
    reported = {f"TRACKBED_{name}": value for name, value in environ.items()}
    return Settings.load(
        {}, {"TRACKBED_STATE_DIR": str(tmp_path / "state"), **reported}, tmp_path / "clone" / ".env", {}
    )


def spec_of(told: Settings, accelerator: Accelerator, data: Mount | None = None, uid: int | None = None) -> ServiceSpec:
    here = deployed(told)
    here.notebook_uid = uid
    return notebook_spec.container_spec(here, accelerator, notebook_image.choose(told, accelerator).name, data)


def test_amd(tmp_path: Path) -> None:
    spec = spec_of(settings(tmp_path), AMD)
    assert (spec.devices, spec.group_add, spec.device_requests) == (("/dev/kfd", "/dev/dri"), ("109", "110"), ())
    assert spec.ulimits == {"memlock": -1, "stack": 67108864} and spec.shm_size == "16g"
    assert spec.environment["NCCL_P2P_DISABLE"] == "1"
    assert spec.image == "trackbed/jupyter-mlflow:rocm"
    assert spec.security_opt == ("no-new-privileges:true",) and spec.cap_drop == ("ALL",)


@pytest.mark.parametrize(
    ("chosen", "request_"),
    [
        (Accelerator("nvidia", request=("all",), torch="cuda13"), DeviceRequest("", ("all",))),
        (Accelerator("nvidia", request=("0", "2"), torch="cuda13"), DeviceRequest("", ("0", "2"))),
        (
            Accelerator("nvidia", cdi=("nvidia.com/gpu=all",), torch="cuda13"),
            DeviceRequest("cdi", ("nvidia.com/gpu=all",)),
        ),
    ],
)
def test_nvidia(tmp_path: Path, chosen: Accelerator, request_: DeviceRequest) -> None:
    spec = spec_of(settings(tmp_path), chosen)
    assert spec.device_requests == (request_,) and spec.devices == spec.group_add == ()
    assert spec.image == "trackbed/jupyter-mlflow:cuda"


def test_no_gpu(tmp_path: Path) -> None:
    spec = spec_of(settings(tmp_path), Accelerator())
    assert not (spec.devices or spec.group_add or spec.device_requests or spec.ulimits)
    assert spec.image == "trackbed/jupyter-mlflow:cpu"
    assert "FOOD11_DATA_DIR" not in spec.environment


def test_jupyterlab_fetches_no_news_and_offers_no_update(tmp_path: Path) -> None:
    spec = spec_of(settings(tmp_path), Accelerator())
    assert {"--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"} <= set(
        spec.command
    )


def test_data_set_environment_volumes_and_culler(tmp_path: Path) -> None:
    reported = settings(
        tmp_path,
        JUPYTER_ENV="A='x y'",
        JUPYTER_VOLUMES="more:/more /srv/x:/x:ro",
        CULL_IDLE="2h",
        JUPYTER_IMAGE="ours/lab:3",
    )
    data = Mount("volume", "food11", "/mnt", read_only=True, options="nocopy")
    spec = spec_of(reported, Accelerator(), data=data)
    assert spec.mounts[2:] == (data, Mount("volume", "more", "/more"), Mount("bind", "/srv/x", "/x", read_only=True))
    assert spec.environment["FOOD11_DATA_DIR"] == "/mnt/Food-11" and spec.environment["A"] == "x y"
    assert spec.command[-3:] == (
        "--MappingKernelManager.cull_idle_timeout=7200",
        "--MappingKernelManager.cull_interval=300",
        "--MappingKernelManager.cull_connected=True",
    )
    assert spec.image == "ours/lab:3"


@pytest.mark.parametrize(
    ("tag", "arguments"),
    [
        ("cpu", {"VARIANT": "cpu", "TORCH": "torch-cpu.in", "TORCH_INDEX": f"{INDEX}/cpu"}),
        (
            "cuda",
            {
                "VARIANT": "cuda",
                "TORCH": "torch-cuda13-requirements.txt",
                "TORCH_INDEX": "",
                "TORCH_HASHES": "--require-hashes",
            },
        ),
        ("cuda-cu126", {"VARIANT": "cuda", "TORCH": "torch-cu126.in", "TORCH_INDEX": f"{INDEX}/cu126"}),
        ("cuda-cpu", {"VARIANT": "cuda", "TORCH": "torch-cpu.in", "TORCH_INDEX": f"{INDEX}/cpu"}),
        ("rocm", {"VARIANT": "rocm", "TORCH": "torch-rocm7.2.in", "TORCH_INDEX": f"{INDEX}/rocm7.2"}),
    ],
)
def test_build_arguments_of_an_image_of_ours_that_was_named(
    tmp_path: Path, tag: str, arguments: dict[str, str]
) -> None:
    reported = settings(tmp_path, JUPYTER_IMAGE=f"trackbed/jupyter-mlflow:{tag}")
    named = notebook_image.choose(reported, Accelerator())
    assert images.arguments(named.name, reported, named) == {
        "BASE_IMAGE": references.image("python").reference,
        **arguments,
    }


def test_build_arguments_follow_from_the_gpu_and_the_settings(tmp_path: Path) -> None:
    def arguments(name: str = "", **reported: str) -> dict[str, str]:
        result = settings(tmp_path, **reported)
        amd = notebook_image.choose(result, AMD)
        return images.arguments(name or amd.name, result, amd)

    assert arguments()["VARIANT"] == "rocm" and arguments()["TORCH"] == "torch-rocm7.2.in"
    assert arguments(TORCH="none")["TORCH"] == ""
    mirror = "https://wheels.example/rocm"
    assert arguments(TORCH_INDEX=mirror)["TORCH_INDEX"] == mirror
    assert arguments("trackbed/mlflow:3.17.2") == {"BASE_IMAGE": "python:3.13-slim-trixie"}
    mirrored = arguments("trackbed/gateway:2.11.7", REGISTRY_MIRROR="mirror.example/hub")
    assert mirrored == {"BUILD_IMAGE": "mirror.example/hub/library/golang:1.26-trixie"}


LOGIN = "https://sesame@wheels.example/rocm"


def test_the_login_of_an_index_is_in_no_word_of_a_command_and_in_no_image(tmp_path: Path) -> None:
    amd = settings(tmp_path, TORCH_INDEX=LOGIN, OBJECT_STORE="versitygw")
    chosen = notebook_image.choose(amd, AMD)
    words = images.build_command(chosen.name, amd, chosen)
    assert words[words.index("--secret") + 1] == "id=torch-index,env=TRACKBED_TORCH_INDEX"
    assert "TORCH_INDEX=https://wheels.example/rocm" in words and "sesame" not in str(words)
    assert images.secrets(chosen.name, amd) == {"TRACKBED_TORCH_INDEX": LOGIN}
    assert images.secrets("trackbed/mlflow:1", amd) == {} == images.secrets(chosen.name, settings(tmp_path))
    for other in (settings(tmp_path), settings(tmp_path, TORCH_INDEX=LOGIN, TORCH="none")):  # nothing comes from it
        assert "--secret" not in images.build_command(chosen.name, other, chosen)


def test_uv_and_pip_have_the_login_of_an_index_in_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, torch = tmp_path / "requirements.txt", tmp_path / "torch-rocm7.2.in"
    lock.write_text("a==1\n")
    torch.write_text("torch==2\n")
    venv = Venv(tmp_path, "jupyter", lock, extras=(Extra(torch, LOGIN),))
    seen = []

    def follow(argv: list[str], output: object, env: dict[str, str], **options: object) -> tuple[int, list[str]]:
        seen.append((argv, {name: env[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL") if name in env}))
        return int(argv[-1] == str(torch)), ["error: 401"]

    monkeypatch.setattr("helpers.commands.follow", follow)
    others = {"UV_INDEX_URL": "https://other.example/simple"}
    argv, lines = venv._install("uv", "", others, Silent(), None)
    assert [environment for _, environment in seen] == [others, others, {"UV_DEFAULT_INDEX": LOGIN}]
    assert "sesame" not in str([argv for argv, _ in seen])
    failure = venv._failure(argv, lines, None)
    assert "from https://***@wheels.example/rocm: " in str(failure)
    needed = Requirements(torch, LOGIN)
    assert needed.environment() == {"PIP_INDEX_URL": LOGIN} and "sesame" not in str(needed.options())
    assert Requirements(torch, "https://x.example").environment() == {}


def test_the_notebook_of_a_rootless_engine_stays_root(tmp_path: Path) -> None:
    spec = spec_of(settings(tmp_path), Accelerator(), uid=0)
    assert spec.user == "0:0" and spec.cap_drop == ("ALL",), "root there is the user, without capabilities"
    assert "--ServerApp.allow_root=True" in spec.command and spec.environment["NB_UID"] == "0"
    plain = spec_of(settings(tmp_path), Accelerator(), uid=1234)
    assert plain.user == "1234:100" and "NB_UID" not in plain.environment
    assert "--ServerApp.allow_root=True" not in plain.command


def test_a_disk_that_is_too_small_is_said_before_the_download() -> None:
    rocm = NotebookImage("trackbed/jupyter-mlflow:rocm", "rocm")
    assert "may need 24 GiB, 10.0 GiB are free" in images.warn_about_disk([rocm.name], rocm, 10 << 30)
    assert images.warn_about_disk([rocm.name], rocm, 100 << 30) == images.warn_about_disk([], rocm, 0) == ""
    assert images.warn_about_disk(["postgres:18"], rocm, 0) == ""


@pytest.mark.parametrize("registry", ["https://ghcr.io/x", "ghcr.io/X Y", "", "ghcr.io/x:1"])
def test_a_registry_is_a_host_and_a_path(registry: str) -> None:
    with pytest.raises(SettingError, match="--registry="):
        images.push(None, "trackbed/mlflow:1", registry, None)  # type: ignore[arg-type]


def test_another_gpu_is_another_environment(tmp_path: Path) -> None:
    lock, torch = tmp_path / "requirements.txt", tmp_path / "torch.in"
    lock.write_text("a==1\n")
    torch.write_text("torch==2\n")
    plain = Venv(tmp_path, "jupyter", lock)
    rocm = Venv(tmp_path, "jupyter", lock, extras=(Extra(torch, "https://x.example/rocm"),))
    cuda = Venv(tmp_path, "jupyter", lock, extras=(Extra(torch, "https://x.example/cuda"),))
    assert len({plain.folder, rocm.folder, cuda.folder}) == 3
    assert rocm.extras[0].argv() == ["--index-url", "https://x.example/rocm", "--requirement", str(torch)]
    assert Extra(torch, hashed=True).argv() == ["--require-hashes", "--requirement", str(torch)]
    alone = Extra(torch, hashed=True, alone=True)
    assert alone.argv() == ["--require-hashes", "--no-deps", "--requirement", str(torch)]


def test_a_clone_made_with_umask_077_builds_images_that_others_can_read(tmp_path: Path) -> None:
    inner, outside = tmp_path / "image" / "startup", tmp_path / "outside"
    inner.mkdir(parents=True, mode=0o700)
    for path, mode in ((inner / "a.py", 0o600), (inner / "run.sh", 0o700), (outside, 0o600)):
        path.touch()
        path.chmod(mode)
    (inner / "link").symlink_to(outside)
    images.open_to_all(tmp_path / "image")
    modes = [path.stat().st_mode & 0o777 for path in (inner, inner / "a.py", inner / "run.sh", outside)]
    assert modes == [0o755, 0o644, 0o755, 0o600]


def test_a_health_check_waits_for_the_port_of_a_jupyterlab_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One check that waits, instead of one after the other that fails."""
    port, pauses = free_ports(1)[0], iter(range(4))
    with ExitStack() as stack:

        def answer(listener: socket.socket) -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"HTTP/1.0 200 OK\r\n" if connection.recv(5) == b"GET /" else b"")

        def sleep(_: float) -> None:
            if next(pauses) == 3:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", port)))
                thread = threading.Thread(target=answer, args=(listener,), daemon=True)
                thread.start()
                stack.callback(thread.join, 10)

        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(SystemExit) as ended:
            exec(notebook_spec.ALIVE.replace("8888", str(port)), {})
    assert not ended.value.code and next(pauses, None) is None


def test_a_health_check_ends_where_no_jupyterlab_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with pytest.raises(SystemExit, match="nothing listens"):
        exec(notebook_spec.ALIVE.replace("8888", str(free_ports(1)[0])), {})
    assert sum(slept) == pytest.approx(4)


@pytest.mark.parametrize(("named", "said"), [("", ""), ("food11", "food11"), ("mine", "mine")])
def test_an_empty_volume_of_the_default_name_is_no_news(tmp_path: Path, named: str, said: str) -> None:
    """Only who asked for data sets is told that there are none: another project may have made that volume."""
    reported = settings(tmp_path, **({"DATA_VOLUME": named} if named else {}))
    api = SimpleNamespace(volume_is_empty=lambda volume, image: True)
    deployment = SimpleNamespace(settings=reported, api=api, host=None)
    container = NotebookContainer(cast(Any, deployment), cast(Any, None))
    mount = Mount("volume", named or "food11", notebook_spec.DATA, read_only=True)
    container.__dict__ |= {"spec": SimpleNamespace(mounts=(mount,)), "image": SimpleNamespace(name="x")}
    assert container.empty_data() == said
    step = ("  -> `invoke data.add food11 --from=SOURCE` fills it",) if said else ()
    remarks = shared.remarks(Accelerator(), said)
    assert remarks[1:] == step and len(remarks) == 2 * bool(said)
