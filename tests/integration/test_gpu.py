"""GPUs without a GPU: made device nodes, CDI specifications and a hook, through a real engine and the users' tasks.

The nodes are /dev/fuse's (10, 229), which a container may not open unless it is given the device and the group.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socketserver
import stat
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from helpers import requirements_lock
from helpers.clone import JUPYTER_FOLDER
from helpers.engines.docker.client import DockerApi
from helpers.errors import TrackbedError
from tests.conftest import Clone, as_user, require_docker
from tests.integration import inspection, registries

pytestmark = pytest.mark.machine
GROUP = 61234
FUSE = os.makedev(10, 229)
KFD, RENDER = "/dev/kfd", ("/dev/dri/renderD128", "/dev/dri/renderD129")
NODE = "/dev/nvidia0"


def make_node(path: str, device: int = FUSE, mode: int = 0o660) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: device nodes can be made by root alone")
    if os.path.exists(path) and os.stat(path).st_gid == GROUP:
        os.unlink(path)  # of a run that was killed
    if os.path.exists(path):
        pytest.skip(f"NOT TESTED with made nodes: this machine has a {path} of its own")
    Path(path).parent.mkdir(exist_ok=True)
    os.mknod(path, mode | stat.S_IFCHR, device)
    os.chown(path, 0, GROUP)
    os.chmod(path, mode)


@pytest.fixture
def amd_nodes() -> Iterator[None]:
    created = []
    try:
        for path in (KFD, *RENDER):
            make_node(path)
            created.append(path)
        yield
    finally:
        for path in created:
            Path(path).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def docker(clone_factory: Callable[..., Clone]) -> Iterator[Clone]:
    """A project on the docker engine that is started with other GPUs by each test."""
    require_docker()
    clone = clone_factory("docker")
    clone.environment["TRACKBED_TORCH"] = "none"  # PyTorch would rightly find no GPU behind a made node
    yield clone
    clone.invoke("down", "--delete-data", "--yes", timeout=300)


def config(clone: Clone) -> dict[str, Any]:
    """What the engine was told of the notebook."""
    result: dict[str, Any] = json.loads(inspection.output("docker", "inspect", inspection.container(clone, "jupyter")))[
        0
    ]
    return result


def checks(clone: Clone) -> dict[str, tuple[str, str]]:
    """The lines of `invoke check`: result and detail by name."""
    done = clone.invoke("check", timeout=300, COLUMNS="400")
    found = {}
    for line in done.stdout.splitlines()[1:]:
        if match := re.match(r"(\S.*?)\s{2,}(passed|failed|not tested)\s+(.*)", line):
            found[match[1]] = (match[2], match[3].strip())
    assert found, done.stderr
    assert done.returncode == (1 if "failed" in {result for result, _ in found.values()} else 0)
    return found


def opens(image: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Whether a container with these flags, as uid 1000, can open /dev/kfd."""
    program = "import os; os.close(os.open('/dev/kfd', os.O_RDWR)); print('open')"
    return inspection.run(
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "1000:100",
        *flags,
        "--entrypoint",
        "python",
        image,
        "-c",
        program,
    )


def test_mi100_from_build_to_check(docker: Clone, amd_nodes: None) -> None:
    built = docker.invoke("build", "--gpu=mi100", timeout=900)
    assert built.returncode == 0, built.stderr
    assert re.search(r"trackbed/jupyter-mlflow:rocm: (built in \d+ s|nothing changed), \d+ MiB", built.stderr)
    again = docker.invoke("build", "--gpu=mi100")
    assert "trackbed/jupyter-mlflow:rocm: nothing changed" in again.stderr

    done = docker.invoke("up", "--gpu=mi100", timeout=900)
    assert done.returncode == 0, done.stderr
    assert "GPU: AMD, 2 render nodes (--gpu=mi100)" in done.stderr
    host = config(docker)["HostConfig"]
    assert [d["PathOnHost"] for d in host["Devices"]] == ["/dev/kfd", "/dev/dri"]
    assert host["GroupAdd"] == [str(GROUP)] and host["ShmSize"] == 16 << 30
    assert host["DeviceRequests"] in (None, []) and "no-new-privileges:true" in host["SecurityOpt"]
    assert "NCCL_P2P_DISABLE=1" in config(docker)["Config"]["Env"]
    found = checks(docker)
    assert found["GPU can be opened"] == ("passed", f"{KFD}, {RENDER[0]}, {RENDER[1]} as uid 1000, groups 100,{GROUP}")
    assert [name for name, (result, _) in found.items() if result == "not tested"] == [
        "GPU computes",
        "GPU in system metrics",
    ]

    status = docker.invoke("status")
    assert re.search(r"notebook: GPU: AMD, 2 render nodes, trackbed/jupyter-mlflow:rocm, Up ", status.stderr)
    assert docker.services()["jupyter"]["gpu"] == "AMD, 2 render nodes"
    before = inspection.identities(docker)
    assert docker.invoke("up").returncode == 0 and inspection.identities(docker) == before


def test_device_and_group_are_both_needed(docker: Clone, amd_nodes: None) -> None:
    image = "trackbed/jupyter-mlflow:rocm"
    assert opens(image, "--device", KFD, "--group-add", str(GROUP)).stdout.strip() == "open"
    assert "PermissionError: [Errno 13]" in opens(image, "--device", KFD).stderr
    assert "FileNotFoundError" in opens(image, "--group-add", str(GROUP)).stderr
    bound = opens(image, "-v", f"{KFD}:{KFD}", "--group-add", str(GROUP))
    assert "PermissionError: [Errno 1]" in bound.stderr


def test_the_image_for_amd_has_a_program_that_shows_gpus(docker: Clone) -> None:
    """It loads its library, and says that this machine has no driver."""
    assert docker.invoke("build", "jupyter", "--gpu=mi100", timeout=900).returncode == 0
    shown = inspection.run("docker", "run", "--rm", "trackbed/jupyter-mlflow:rocm", "rocm-smi")
    assert shown.returncode == 0 and re.search(
        "Driver not initialized|ROCm System Management", shown.stdout + shown.stderr
    )


def test_a_notebook_that_lost_its_gpu_is_said_to(docker: Clone, amd_nodes: None) -> None:
    assert docker.invoke("up", "--gpu=mi100", timeout=600).returncode == 0
    inspection.output("docker", "exec", "--user", "0", inspection.container(docker, "jupyter"), "chmod", "600", KFD)
    result, detail = checks(docker)["GPU can be opened"]
    assert result == "failed" and "its mode lets no group in" in detail
    inspection.output("docker", "exec", "--user", "0", inspection.container(docker, "jupyter"), "chmod", "660", KFD)


def test_the_lab_text_for_mi100(docker: Clone, amd_nodes: None) -> None:
    script = docker.value("up", "--dry-run", "--gpu=mi100", "--env", "A=x y", "--volume", "/srv:/srv:ro")
    text = script[script.index("# JupyterLab\n") :].split("\n\n")[0]
    assert "docker run --detach --name" in text
    for flag in (
        f"--group-add {GROUP}",
        "--device /dev/kfd",
        "--device /dev/dri",
        "--ulimit memlock=-1",
        "--ulimit stack=67108864",
        "--shm-size 16g",
        "--security-opt no-new-privileges:true",
        "-e NCCL_P2P_DISABLE=1",
        "-e 'A=x y'",
        "-v /srv:/srv:ro",
        "trackbed/jupyter-mlflow:rocm",
    ):
        assert f"  {flag} " in text, text
    assert "--build-arg VARIANT=rocm" in script


def test_words_that_contradict_the_machine(docker: Clone, amd_nodes: None) -> None:
    for word, words in (
        ("liqid", ("there is no NVIDIA GPU here", "2 AMD render nodes", "--gpu=amd")),
        ("k80", ("no current driver or PyTorch supports the K80",)),
    ):
        inspection.refused(docker.invoke("up", f"--gpu={word}"), 1, *words)
    for path in (KFD, *RENDER):
        Path(path).unlink()
    inspection.refused(docker.invoke("up", "--gpu=mi100"), 1, "there is no /dev/kfd here", "modprobe amdgpu")
    doctor = docker.invoke("doctor")
    assert doctor.returncode in (0, 1) and "gpu" in doctor.stdout
    assert docker.invoke("status").returncode in (0, 1), "looking goes on when the GPU is gone"


def with_topology(clone: Clone, folder: Path, *gpus: tuple[int, int]) -> tuple[str, ...]:
    """The clone's command in a mount namespace whose /sys/class/kfd shows GPUs: (gfx version, render minor)."""
    classes = folder / "class"
    classes.mkdir()
    for entry in Path("/sys/class/net").iterdir():  # links that are right again once this is mounted over /sys/class
        (classes / "net").mkdir(exist_ok=True)
        (classes / "net" / entry.name).symlink_to(os.readlink(entry))
    for number, (version, minor) in enumerate(((0, 0), *gpus)):
        path = classes / "kfd" / "kfd" / "topology" / "nodes" / str(number) / "properties"
        path.parent.mkdir(parents=True)
        path.write_text(
            f"cpu_cores_count {0 if version else 8}\nsimd_count {480 if version else 0}\n"
            f"gfx_target_version {version}\ndrm_render_minor {minor}\n"
        )
    script = f'mount --bind {classes} /sys/class && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *clone.command)


def test_shared_node_by_topology_not_by_order(docker: Clone, amd_nodes: None, tmp_path: Path) -> None:
    original = docker.command
    docker.command = with_topology(docker, tmp_path, (90008, 129), (90008, 128))
    try:
        done = docker.invoke("up", "--gpu=mi100", "--devices=0", timeout=600)
        assert done.returncode == 0, done.stderr
        assert "GPU: 1 x AMD gfx908 (MI100) (--gpu=mi100)" in done.stderr
        assert [d["PathOnHost"] for d in config(docker)["HostConfig"]["Devices"]] == [KFD, RENDER[1]]
        inspection.refused(docker.invoke("up", "--gpu=mi100", "--devices=2"), 1, "there is no AMD GPU 2")
        chosen = docker.invoke("up", "--gpu=auto", "--devices=all", timeout=600)
        assert "GPU: 2 x AMD gfx908 (MI100) (auto: 2 x AMD gfx908 (MI100))" in chosen.stderr
    finally:
        docker.command = original


def test_another_model_and_a_laptop(docker: Clone, amd_nodes: None, tmp_path: Path) -> None:
    original = docker.command
    try:
        (tmp_path / "a").mkdir()
        docker.command = with_topology(docker, tmp_path / "a", (90402, 128))
        inspection.refused(docker.invoke("up", "--gpu=mi100"), 1, "this is no gpu_mi100", "gfx942 (MI300 series)")
        (tmp_path / "b").mkdir()
        docker.command = original
        docker.command = with_topology(docker, tmp_path / "b", (110003, 128))
        doctor = docker.invoke("doctor", TRACKBED_GPU="auto")
        assert "graphics inside the processor" in " ".join(doctor.stdout.split()), doctor.stdout
    finally:
        docker.command = original


# NVIDIA, by CDI and by a hook


@pytest.fixture
def cdi() -> Iterator[Callable[..., None]]:
    """Writes CDI specifications where the engine looks for them."""
    require_docker()
    folders = json.loads(inspection.output("docker", "info", "--format", "{{json .CDISpecDirs}}")) or []
    if not folders or not os.access(folders[0], os.W_OK):
        if os.environ.get("TRACKBED_REQUIRE_DOCKER") == "1":
            pytest.fail("this engine reads no CDI specifications from a folder that the tests may write to")
        pytest.skip("NOT TESTED: this engine has no CDI folder that the tests may write to")
    path = Path(folders[0]) / "trackbed-test.json"
    if any("nvidia.com/gpu" in other.read_text(errors="replace") for other in Path(folders[0]).glob("*")):
        pytest.skip("NOT TESTED with made devices: this engine has CDI devices of NVIDIA")

    def write(**edits: Any) -> None:
        edits = {
            "deviceNodes": [{"path": NODE, "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}],
            "env": ["NVIDIA_TEST=cdi"],
            **edits,
        }
        path.write_text(
            json.dumps(
                {
                    "cdiVersion": "0.5.0",
                    "kind": "nvidia.com/gpu",
                    "devices": [{"name": "0", "containerEdits": edits}, {"name": "all", "containerEdits": edits}],
                }
            )
        )
        time.sleep(0.5)  # the engine watches the folder

    write()
    yield write
    path.unlink()


def test_liqid_from_build_to_check(docker: Clone, cdi: Callable[..., None]) -> None:
    built = docker.invoke("build", "--gpu=liqid", timeout=900)
    assert built.returncode == 0 and "trackbed/jupyter-mlflow:cuda: " in built.stderr, built.stderr
    done = docker.invoke("up", "--gpu=liqid", "--devices=all", timeout=900)
    assert done.returncode == 0, done.stderr
    requests = config(docker)["HostConfig"]["DeviceRequests"]
    assert [(r["Driver"], r["DeviceIDs"]) for r in requests] == [("cdi", ["nvidia.com/gpu=all"])]
    found = checks(docker)
    assert found["GPU can be opened"][0] == "passed" and NODE in found["GPU can be opened"][1]
    assert {result for result, _ in found.values()} <= {"passed", "not tested"}
    script = docker.value("up", "--dry-run", "--gpu=liqid", "--devices=0")
    assert "  --device nvidia.com/gpu=0 " in script and "jupyter-mlflow:cuda" in script
    inspection.refused(docker.invoke("up", "--gpu=liqid", "--devices=7"), 1, "there is no NVIDIA GPU 7; there is 0")


def test_nvml_that_lost_its_device(docker: Clone, cdi: Callable[..., None], tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Unknown Error'\nexit 255\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    cdi(mounts=[{"hostPath": str(program), "containerPath": "/usr/local/bin/nvidia-smi", "options": ["ro", "bind"]}])
    assert docker.invoke("down").returncode == 0
    done = docker.invoke("up", "--gpu=liqid", timeout=600)
    inspection.refused(
        done,
        1,
        "the container has lost its GPU",
        "Failed to initialize NVML: Unknown Error",
        "native.cgroupdriver=cgroupfs",
    )
    cdi()
    assert docker.invoke("down").returncode == 0


def test_liqid_by_device_request_where_there_is_no_cdi(docker: Clone) -> None:
    require_docker()
    make_node(NODE, os.makedev(1, 3), 0o666)
    try:
        script = docker.value("up", "--dry-run", "--gpu=liqid")
        assert "  --gpus all " in script
        some = docker.value("up", "--dry-run", "--gpu=liqid", "--devices=0")
        assert "--gpus '\"device=0\"'" in some
        done = docker.invoke("up", "--gpu=liqid", timeout=600)
        assert done.returncode == 0, done.stderr
        request = config(docker)["HostConfig"]["DeviceRequests"][0]
        assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])
        assert checks(docker)["GPU can be opened"][0] == "passed"
    finally:
        os.unlink(NODE)
        docker.invoke("down", timeout=120)


# what engines say


def newest_daemon() -> str:
    """Docker 29's daemon, which tests/environment builds in the background."""
    folder = Path(os.environ.get("TRACKBED_RIG_HOME", "/var/tmp/trackbed-rig"))
    deadline = time.monotonic() + 900
    while (folder / "newest-engine.log").exists() and not list(folder.glob("newest/dockerd-*")):
        building = (folder / "go29").exists() and time.monotonic() < deadline
        assert building, (
            "tests/environment could not build Docker 29's daemon: " + (folder / "newest-engine.log").read_text()[-500:]
        )
        time.sleep(2)
    return str(next(iter(folder.glob("newest/dockerd-*")), ""))


@pytest.fixture(scope="module", params=["installed", "newest"])
def bare_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An engine without any toolkit of NVIDIA, as (kind, address); it has one image with nothing in it."""
    require_docker()
    daemon = newest_daemon() if request.param == "newest" else shutil.which("dockerd")
    if os.geteuid() != 0 or not daemon:
        pytest.skip(f"NOT TESTED: needs root and a dockerd ({request.param}), for an engine of its own")
    folder = tmp_path_factory.mktemp("engine")
    host = f"unix://{folder}/docker.sock"
    path = ":".join(p for p in os.environ["PATH"].split(":") if not Path(p, "nvidia-container-runtime-hook").exists())
    (folder / "daemon.json").write_text(json.dumps({"features": {"cdi": True}, "cdi-spec-dirs": [f"{folder}/cdi"]}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            # in a network of its own: with --bridge=none it would remove the other engine's
            [
                "unshare",
                "--net",
                daemon,
                "--config-file",
                f"{folder}/daemon.json",
                "--host",
                host,
                "--data-root",
                f"{folder}/data",
                "--exec-root",
                f"{folder}/exec",
                "--pidfile",
                f"{folder}/pid",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
            ],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        inspection.until(
            lambda: process.poll() is not None or not inspection.run("docker", "--host", host, "info").returncode,
            lambda: (folder / "log").read_text()[-2000:],
        )
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        empty = inspection.run("docker", "--host", host, "import", "-", "empty:1", stdin="\0" * 1024)
        assert empty.returncode == 0, empty.stderr
        yield request.param, host
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    ("options", "words", "means", "fix"),
    [
        (
            {"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]},
            {
                "installed": 'could not select device driver "" with capabilities: [[gpu]]',
                "newest": "failed to discover GPU vendor from CDI: no known GPU vendor found",
            },
            "Docker has no NVIDIA Container Toolkit",
            "nvidia-ctk runtime configure --runtime=docker",
        ),
        (
            {"device_requests": [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=all"]}]},
            "unresolvable CDI devices nvidia.com/gpu=all",
            "Docker finds no (or no readable) description of the NVIDIA devices",
            "nvidia-ctk cdi generate",
        ),
        (
            {"devices": ["/dev/kfd:/dev/kfd:rwm"]},
            'error gathering device information while adding custom device "/dev/kfd"',
            "a device node for the notebook does not exist",
            "modprobe amdgpu",
        ),
    ],
)
def test_messages_of_an_engine_become_advice(
    bare_engine: tuple[str, str],
    options: dict[str, Any],
    words: str | dict[str, str],
    means: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, host = bare_engine
    monkeypatch.setenv("DOCKER_HOST", host)
    if "devices" in options and os.path.exists(KFD):
        pytest.skip(f"NOT TESTED: this machine has a {KFD}")
    api = DockerApi()
    created = api.create(
        "advice",
        {"image": "empty:1", "command": ["true"], "host_config": api.host_config(network_mode="none", **options)},
        {},
    )
    try:
        with pytest.raises(TrackbedError) as caught:
            api.start(created)
        assert means in caught.value.message
        assert f"Docker says: {words if isinstance(words, str) else words[kind]}" in caught.value.message.replace(
            "CDI device injection failed: ", ""
        )
        assert fix in caught.value.hint
    finally:
        api.remove(created)


# the lab's run command


def test_data_volume_environment_and_volumes(docker: Clone, tmp_path: Path) -> None:
    require_docker()
    name = f"{docker.project}-food"
    inspection.refused(
        docker.invoke("up", "--gpu=none", f"--data-volume={name}"), 1, "there is no volume of that name", name
    )
    inspection.refused(
        docker.invoke("up", "--gpu=none", "--data-volume=/nonexistent/data"), 1, "there is no such folder"
    )
    assert name not in inspection.output("docker", "volume", "ls", "--format", "{{.Name}}").split()
    inspection.output("docker", "volume", "create", name)
    try:
        done = docker.invoke(
            "up",
            "--gpu=none",
            f"--data-volume={name}",
            "--env",
            "GREETING=good morning",
            "--env",
            "N=1",
            "--volume",
            "/usr/share/zoneinfo:/zones:ro",
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert f"warning: the data set {name} is empty" in done.stderr
        jupyter = inspection.container(docker, "jupyter")
        (tmp_path / "food11.zip").write_bytes(inspection.food11())
        added = docker.invoke("data.add", "food11", f"--from={tmp_path / 'food11.zip'}", f"--data-volume={name}")
        assert added.returncode == 0 and added.stdout == "/mnt/Food-11\n", added.stderr
        shell = partial(inspection.run, "docker", "exec", jupyter, "sh", "-c")
        assert (
            shell('cat "$FOOD11_DATA_DIR"/validation/*/*; echo "$GREETING $N"; ls /zones/UTC').stdout
            == "a picture\ngood morning 1\n/zones/UTC\n"
        )
        assert "Read-only file system" in shell("touch /mnt/x").stderr
        assert "Read-only file system" in shell("touch /zones/x").stderr
        again = docker.invoke("up")  # remembered, and nothing is made again
        assert again.returncode == 0 and "empty" not in again.stderr
        assert shell('echo "$GREETING"').stdout == "good morning\n"
        forgotten = docker.invoke("up", "--env=", "--volume=", "--data-volume=", timeout=600)
        assert forgotten.returncode == 0, forgotten.stderr
        assert shell('echo "$GREETING"; ls /mnt /zones').stdout == "\n/mnt:\n"
    finally:
        docker.invoke("down")
        inspection.output("docker", "volume", "rm", name)


def test_images_are_pushed_for_a_team(docker: Clone, tmp_path: Path) -> None:
    require_docker()
    with registries.running(tmp_path) as running:
        registry = running.host
        try:
            done = docker.invoke("build", "mlflow", "--push", f"--registry={registry}/lab", timeout=600)
            assert done.returncode == 0, done.stderr
            assert f"MLFLOW_IMAGE={registry}/lab/mlflow:3.17.2" in done.stderr
            status, text = inspection.ask(f"http://{registry}/v2/lab/mlflow/tags/list")
            assert status == 200 and json.loads(text)["tags"] == ["3.17.2"]
        finally:
            inspection.run("docker", "image", "rm", f"{registry}/lab/mlflow:3.17.2")
    inspection.refused(docker.invoke("build", "mlflow", "--push", f"--registry={registry}/lab"), 1, "docker login")
    inspection.refused(docker.invoke("build", "mlflow", "--push"), 2, "--registry")


# without Docker


def venv_python(clone: Clone) -> str:
    return str(next((clone.project_folder / "embedded" / "venvs").glob("jupyter-*/bin/python")))


def test_a_process_is_given_the_group(clone_factory: Callable[..., Clone], amd_nodes: None) -> None:
    clone = clone_factory("embedded")
    clone.environment["TRACKBED_TORCH"] = "none"
    assert clone.invoke("up", "--gpu=none", timeout=600).returncode == 0
    try:
        assert "GPU can be opened" not in checks(clone)
        done = clone.invoke("up", "--gpu=mi100", timeout=600)
        assert done.returncode == 0, done.stderr
        result = checks(clone)
        assert result["GPU can be opened"][0] == "passed", result
        assert str(GROUP) in result["GPU can be opened"][1]
        assert clone.services()["jupyter"]["gpu"] == "AMD, 2 render nodes"
        before = inspection.identities(clone)
        assert clone.invoke("up").returncode == 0 and inspection.identities(clone) == before
        for path in (KFD, *RENDER):
            Path(path).unlink()
        assert clone.invoke("status").returncode == 0
        inspection.refused(clone.invoke("up"), 1, "there is no /dev/kfd here")
    finally:
        assert clone.invoke("down", "--delete-data", "--yes").returncode == 0


def test_a_user_without_the_group_is_told(clone_factory: Callable[..., Clone], amd_nodes: None, tmp_path: Path) -> None:
    clone = clone_factory("embedded")
    clone.environment["TRACKBED_TORCH"] = "none"
    tmp_path.chmod(0o755)
    as_user(clone, clone.folder.parent)
    done = clone.invoke("up", "--gpu=mi100", timeout=600)
    inspection.refused(done, 1, f"may not open {KFD}", f"group {GROUP}", "usermod -aG")


LOGIN = "sesame"  # a token that an index wants as its user


class _WithLogin(SimpleHTTPRequestHandler):
    """Gives files to who logs in, and to nobody else."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(f"{LOGIN}:".encode()).decode():
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A wheel index that asks for a login, with a torch and a torchvision that hold nothing but their version."""
    for name, version in (("torch", "2.13.0"), ("torchvision", "0.28.0")):
        folder = tmp_path / "simple" / name
        folder.mkdir(parents=True)
        wheel = f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / wheel, "w") as archive:
            archive.writestr(f"{name}/__init__.py", f"__version__ = '{version}'\n")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            files = (f"{name}/__init__.py", *(f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD")))
            archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in files))
        (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    handler = partial(_WithLogin, directory=str(tmp_path))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOGIN}@127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()


def test_pytorch_comes_from_the_index_of_the_vendor(
    clone_factory: Callable[..., Clone], amd_nodes: None, index: str
) -> None:
    clone = clone_factory("embedded")
    clone.environment |= {"TRACKBED_TORCH": "auto", "TRACKBED_TORCH_INDEX": "http://127.0.0.1:9/simple"}
    try:
        inspection.refused(
            clone.invoke("up", "--gpu=amd", timeout=600),
            1,
            "PyTorch could not be installed from http://127.0.0.1:9/simple",
            "TORCH=none",
        )
        done = clone.invoke("up", "--gpu=amd", timeout=600, TRACKBED_TORCH_INDEX=index)
        assert done.returncode == 0, done.stderr
        reported = inspection.output(
            venv_python(clone),
            "-c",
            "import torch, torchvision, importlib.metadata as m; "
            "print(torch.__version__, torchvision.__version__, m.version('pyrsmi'))",
        )
        assert reported == "2.13.0 0.28.0 0.2.0"
    finally:
        clone.invoke("down", "--delete-data", "--yes")


def test_pytorch_in_the_image_comes_from_the_index(docker: Clone, index: str) -> None:
    require_docker()
    words = ("build", "jupyter", "--gpu=mi100", "--torch=auto")
    refused = docker.invoke(
        *words, timeout=600, TRACKBED_TORCH_INDEX="http://127.0.0.1:9/simple", TRACKBED_BUILD_NETWORK="host"
    )
    inspection.refused(refused, 1, "PyTorch could not be installed from http://127.0.0.1:9/simple", "TORCH=none")
    done = docker.invoke(*words, timeout=600, TRACKBED_TORCH_INDEX=index, TRACKBED_BUILD_NETWORK="host")
    assert done.returncode == 0, done.stderr
    history = inspection.output("docker", "history", "--no-trunc", "trackbed/jupyter-mlflow:rocm")
    assert "TORCH_INDEX=http://127.0.0.1:" in history and LOGIN not in history + done.stdout + done.stderr
    reported = inspection.output(
        "docker",
        "run",
        "--rm",
        "--entrypoint",
        "python",
        "trackbed/jupyter-mlflow:rocm",
        "-c",
        "import torch, torchvision, pyrsmi, importlib.metadata as m; "
        "print(torch.__version__, torchvision.__version__, m.version('pyrsmi'))",
    )
    assert reported == "2.13.0 0.28.0 0.2.0"


def test_pytorch_is_locked_where_its_index_answers(index: str, tmp_path: Path) -> None:
    base = index.removesuffix("/simple")
    for name in ("rocm7.2", "cu126"):
        (tmp_path / name).symlink_to(tmp_path / "simple")
    folder = tmp_path / "jupyter"
    folder.mkdir()
    builds = ("cpu", "cu126", "rocm7.2")
    for build in builds:
        shutil.copy(JUPYTER_FOLDER / f"torch-{build}.in", folder)
    reported = dict(requirements_lock.refresh_torch(base, folder, builds))
    assert [name for name, problem in reported.items() if problem] == ["torch-cpu-requirements.txt"]
    assert sorted(p.name for p in folder.glob("*.txt")) == [
        "torch-cu126-requirements.txt",
        "torch-rocm7.2-requirements.txt",
    ]
    text = (folder / "torch-rocm7.2-requirements.txt").read_text()
    assert "torch==2.13.0 \\\n    --hash=sha256:" in text and "://" not in text


def test_idle_kernels_are_ended(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("embedded")
    try:
        done = clone.invoke("up", "--cull-idle=4s", timeout=600)
        assert done.returncode == 0, done.stderr
        kernels = f"{clone.url('jupyter')}/api/kernels?token={clone.token}"
        status, text = inspection.ask(kernels, {"name": "python3"})
        assert status == 201, text
        inspection.until(lambda: inspection.ask(kernels) == (200, "[]"), lambda: inspection.ask(kernels), pause=1)
    finally:
        clone.invoke("down", "--delete-data", "--yes")
