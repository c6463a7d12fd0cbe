"""Bad input and bad surroundings: a message and a next step, nothing half-started, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, USER, Clone, require_docker
from tests.integration import inspection

Factory = Callable[..., Clone]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounting a small disk takes root")


@pytest.fixture(scope="module")
def bare(clone_factory: Factory) -> Iterator[Clone]:
    """A clone that was never started, of a normal user; nothing may come of any test with it."""
    clone = clone_factory("embedded", user=True)
    yield clone
    assert not clone.project_folder.exists() or inspection.nothing_runs(clone)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users can look into."""
    with tempfile.TemporaryDirectory(prefix="trackbed-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# --- bad input: what is wrong in one line and mostly what to write instead, exit code 2, nothing made

INPUT = {
    "port too large": (["up", "--mlflow-port=70000"], {}, "", ["MLFLOW_PORT", "70000", "1 to 65535"]),
    "port is a word": (["up"], {"TRACKBED_JUPYTER_PORT": "http"}, "", ["JUPYTER_PORT", "TRACKBED_JUPYTER_PORT"]),
    "two services on one port": (["up", "--mlflow-port=8100", "--jupyter-port=8100"], {}, "", ["must differ"]),
    "misspelt engine": (["up", "--engine=dokcer"], {}, "", ["ENGINE", "dokcer", "docker"]),
    "misspelt engine in doctor": (["doctor", "--engine=embeded"], {}, "", ["embedded"]),
    "bucket with capitals": (["up", "--s3-bucket=My_Bucket"], {}, "", ["S3_BUCKET", "my-bucket"]),
    "bucket like an address": (["up", "--s3-bucket=10.0.0.1"], {}, "", ["IP address"]),
    "project with blanks": (["status", "--project=My Lab"], {}, "", ["PROJECT", "my-lab"]),
    "open to the network": (["up"], {"TRACKBED_BIND_ADDRESS": "0.0.0.0"}, "", ["loopback", "ssh -L"]),
    "a store that needs Docker": (["up", "--object-store=minio"], {}, "", ["OBJECT_STORE", "folder"]),
    "a store without an address": (["up", "--object-store=external"], {}, "", ["S3_ENDPOINT is missing"]),
    "workspace in the system": (["up", "--workspace=/etc"], {}, "", ["WORKSPACE"]),
    "state folder in the clone": (["up", "--state-dir={clone}/state"], {}, "", ["outside the clone"]),
    "timeout of zero": (["up", "--ready-timeout=0"], {}, "", ["READY_TIMEOUT"]),
    "misspelt variable": (["status"], {"TRACKBED_MLFLOW_PROT": "8000"}, "", ["TRACKBED_MLFLOW_PORT"]),
    "misspelt name in .env": (["status"], {}, "MLFOW_PORT=8000\n", ["MLFOW_PORT", "line 1", "MLFLOW_PORT"]),
    ".env in Latin-1": (["status"], {}, b"# caf\xe9\nGPU=none\n", [".env line 1", "UTF-8"]),
    ".env half-written": (["status"], {}, b"GPU=none\nMLFLOW_PORT=80\0\0", [".env line 2", "half-written"]),
    ".env with an open quote": (["status"], {}, 'GPU="none\n', [".env line 1", "quote"]),
    ".env with a secret for all": (["status"], {}, "JUPYTER_TOKEN=0123456789abcdef0123\n", ["chmod 600"]),
    "unknown format": (["status", "--format=jsn"], {}, "", ["--format=jsn", "json"]),
    "format of another task": (["credentials", "--format=yaml"], {}, "", ["table, json, env"]),
    "prefix that is no name": (["up", "--dry-run", "--name-prefix=My Lab"], {}, "", ["--name-prefix"]),
    "unknown image": (["build", "mlfow"], {}, "", ["mlflow"]),
}


@pytest.mark.parametrize("case", INPUT)
def test_bad_input(bare: Clone, case: str) -> None:
    words, environment, file, expected = INPUT[case]
    env_file = bare.folder / ".env"
    if file:
        env_file.write_bytes(file if isinstance(file, bytes) else str(file).encode())
        env_file.chmod(0o644)
    try:
        done = bare.invoke(*(word.format(clone=bare.folder) for word in words), around=environment)
    finally:
        env_file.unlink(missing_ok=True)
    inspection.refused(done, 2, *expected)
    error, *step = done.stderr.strip().splitlines()
    assert error.startswith("error: "), done.stderr
    if step:
        assert len(step) == 2 and step[0].startswith("  -> ") and step[1].startswith("  see docs/"), done.stderr
    assert not done.stdout and not bare.state.exists()


def test_embedded_refuses_to_be_public(bare: Clone) -> None:
    inspection.refused(
        bare.invoke("up", "--public", "--public-address=203.0.113.7"),
        2,
        "needs the docker engine",
        "past every login",
        "ssh line",
    )
    assert not bare.state.exists()


def test_env_file_of_someone_else(bare: Clone) -> None:
    env_file = bare.folder / ".env"
    env_file.write_text("GPU=none\n")
    env_file.chmod(0)
    try:
        inspection.refused(bare.invoke("status"), 2, ".env", "ermission denied")
    finally:
        env_file.unlink()


@pytest.mark.parametrize(
    "words", [["jupyter-url"], ["check"], ["logs"], ["logs", "mlflow"], ["credentials"]], ids=" ".join
)
def test_nothing_there_yet(bare: Clone, words: list[str]) -> None:
    inspection.refused(bare.invoke(*words), 1, f"project {bare.project} does not exist yet", "invoke up")


def test_down_where_nothing_is(bare: Clone) -> None:
    for words in (["down"], ["down", "--delete-data", "--yes"]):
        done = bare.invoke(*words)
        assert done.returncode == 0 and "nothing was running" in done.stderr


# --- bad surroundings: the state folder


def test_state_folder_that_cannot_be_written(bare: Clone) -> None:
    locked = bare.folder.parent / "locked"
    locked.mkdir(mode=0o555)
    done = bare.invoke("up", f"--state-dir={locked}/state")
    inspection.refused(done, 1, str(locked), "ermission denied", "--state-dir")
    assert "permissions" in bare.invoke("doctor", f"--state-dir={locked}/state").stdout
    assert not list(locked.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root's services run as another user")
def test_state_folder_that_the_services_cannot_reach(clone_factory: Factory, place: Path) -> None:
    clone = clone_factory("embedded")
    clone.environment["TRACKBED_STATE_DIR"] = str(place / "closed" / "state")
    (place / "closed").mkdir(mode=0o700)
    inspection.refused(
        clone.invoke("up"), 1, str(place / "closed"), "closed to the user trackbed", "chmod o+x", "STATE_DIR"
    )


def test_state_that_is_damaged(bare: Clone) -> None:
    folder = bare.folder.parent / "damaged" / bare.project
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"format": 1, "inst')
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    for word in ("up", "status", "down"):
        inspection.refused(bare.invoke(word, f"--state-dir={folder.parent}"), 1, "state.json", "half-written", "mv ")
    (folder / "state.json").write_text('{"format": 99}')
    inspection.refused(bare.invoke("up", f"--state-dir={folder.parent}"), 1, "newer Trackbed")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    inspection.output("mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        inspection.output("umount", str(folder))


@ROOT_ONLY
def test_disk_too_small_for_a_first_start(bare: Clone) -> None:
    with small_disk(bare.folder.parent / "small", "64m") as disk:
        done = bare.invoke("up", f"--state-dir={disk}/state")
        inspection.refused(done, 1, "free at", "first start needs", "STATE_DIR")
        assert not (disk / "state" / bare.project / "state.json").exists()
        looked = bare.invoke("doctor", f"--state-dir={disk}/state")
        assert looked.returncode == 1 and re.search(r"disk\s+error", looked.stdout)


@ROOT_ONLY
def test_disk_full_to_the_last_byte(bare: Clone) -> None:
    with small_disk(bare.folder.parent / "full", "64k") as disk:
        folder = disk / bare.project
        folder.mkdir(mode=0o700)
        state = {
            "format": 1,
            "instance": "kept",
            "engine": "embedded",
            "clone": "",
            "remembered": {},
            "live": {"database": "mlflow", "prefix": "live"},
            "applied": {"hash": "", "identities": {}},
        }
        (folder / "state.json").write_text(json.dumps(state))
        for path in (folder, folder / "state.json"):
            shutil.chown(path, USER)
        try:
            (disk / "filler").write_bytes(bytes(1 << 20))
        except OSError:
            pass
        inspection.refused(bare.invoke("up", f"--state-dir={disk}"), 1, str(disk))
        assert json.loads((folder / "state.json").read_text()) == state, "lost"


# --- bad surroundings: Docker


def docker_hosts(folder: Path) -> dict[str, str]:
    dead = folder / "dead.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(dead))
    dead.chmod(0o777)
    plain = folder / "file.sock"
    plain.touch()
    return {
        "nowhere": "unix:///nonexistent/docker.sock",
        "nobody listens": f"unix://{dead}",
        "no socket": f"unix://{plain}",
        "another machine": "tcp://192.0.2.1:2375",
        "over ssh": "ssh://root@192.0.2.1",
        "nonsense": "nonsense",
    }


@pytest.mark.parametrize("case", ["nowhere", "nobody listens", "no socket", "another machine", "over ssh", "nonsense"])
def test_dead_engine(bare: Clone, place: Path, case: str) -> None:
    host = docker_hosts(place)[case]
    done = bare.invoke("up", "--engine=docker", DOCKER_HOST=host, timeout=PATIENCE)
    inspection.refused(done, 1, "docker engine cannot be used", host.removeprefix("ssh://"), "--engine=embedded")
    assert not (bare.project_folder / "state.json").exists()
    looked = bare.invoke("doctor", "--engine=docker", DOCKER_HOST=host)
    assert looked.returncode == 1 and re.search(r"docker\s+error", looked.stdout), looked.stdout + looked.stderr
    inspection.refused(bare.invoke("build", DOCKER_HOST=host, timeout=PATIENCE), 1)


def test_engine_that_one_may_not_talk_to(bare: Clone, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(place / "docker.sock"))
        one.listen()
        (place / "docker.sock").chmod(0)
        done = bare.invoke("up", "--engine=auto", DOCKER_HOST=f"unix://{place}/docker.sock")
    inspection.refused(done, 1, "permission denied", "usermod -aG docker")


@contextmanager
def fake_engine(folder: Path, api: str, version: str) -> Iterator[str]:
    """Answers the first questions that a client asks of an engine."""
    path = folder / "fake.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    path.chmod(0o777)
    body = json.dumps({"ApiVersion": api, "MinAPIVersion": "1.12", "Version": version}).encode()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536):
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                        + f"Content-Length: {len(body)}\r\n\r\n".encode()
                        + body
                    )

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        listener.close()


def test_engine_too_old(bare: Clone, place: Path) -> None:
    with fake_engine(place, "1.41", "20.10.24") as host:
        inspection.refused(
            bare.invoke("up", "--engine=docker", DOCKER_HOST=host), 1, "20.10.24 is too old", "25 or newer"
        )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, "docker command is missing"),
        ("exit 1", "Compose plugin is missing"),
        ("echo 2.5.1", "Compose 2.5.1 is too old"),
    ],
    ids=["no docker command", "no Compose", "old Compose"],
)
def test_docker_command_that_is_not_enough(bare: Clone, place: Path, script: str | None, expected: str) -> None:
    if script:
        (place / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (place / "docker").chmod(0o755)
    path = f"{place}:{Path(sys.executable).parent}" + (":/bin" if script else "")
    if script is None and shutil.which("docker", path=path):
        pytest.skip("NOT TESTED: docker lies beside the tests' Python")
    with fake_engine(place, "1.48", "28.0.0") as host:
        done = bare.invoke("up", "--engine=docker", DOCKER_HOST=host, PATH=path)
    inspection.refused(done, 1, expected, "install")


# --- ports and names that are taken


@contextmanager
def squatter(folder: Path, *ports: int) -> Iterator[int]:
    """A program called squatter.py that listens on the ports; gives its process id."""
    script = folder / "squatter.py"
    script.write_text(
        "import socket, sys, time\nkept = [socket.create_server(('127.0.0.1', int(p))) "
        "for p in sys.argv[1:]]\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script), *map(str, ports)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_port_taken(engine: str, clone_factory: Factory, place: Path) -> None:
    clone = clone_factory(engine)
    with squatter(place, clone.ports["mlflow"], clone.ports["jupyter"]) as pid:
        done = clone.invoke("up")
        looked = clone.invoke("doctor")
    inspection.refused(
        done, 1, "squatter.py", f"process {pid}", f"port {clone.ports['mlflow']}", f"port {clone.ports['jupyter']}"
    )
    for option in ("--mlflow-port=", "--jupyter-port="):
        match = re.search(rf"{option}(\d+)", done.stderr)
        # nobody had it then (tests/unit/test_ports.py); another suite beside this one may have it by now
        assert match and int(match[1]) not in clone.ports.values(), done.stderr
    assert looked.returncode == 1 and "squatter.py" in looked.stdout
    assert inspection.nothing_runs(clone) and not (clone.project_folder / "state.json").exists()


@pytest.mark.docker
class TestForeignThings:
    """Docker objects of our names that we did not make: named, not touched."""

    @pytest.fixture(scope="class")
    def clone(self, clone_factory: Factory) -> Clone:
        require_docker()
        return clone_factory("docker")

    def refused(self, clone: Clone, *words: str) -> None:
        inspection.refused(clone.invoke("up"), 1, *words, "--project=")
        assert clone.invoke("doctor").returncode == 1
        assert not (clone.project_folder / "state.json").exists()

    def test_volume(self, clone: Clone) -> None:
        name = f"{clone.project}_postgres"
        inspection.output("docker", "volume", "create", name)
        try:
            self.refused(clone, name, "not Trackbed's", f"docker volume rm {name}")
            assert not inspection.output("docker", "volume", "inspect", name, "-f", "{{.Labels}}").strip("map[]")
        finally:
            inspection.output("docker", "volume", "rm", name)

    def test_volume_of_another_system(self, clone: Clone) -> None:
        name = (
            f"{clone.project}_versitygw"
            if clone.environment.get("TRACKBED_OBJECT_STORE") == "versitygw"
            else f"{clone.project}_minio"
        )
        inspection.output("docker", "volume", "create", "--label", "dev.trackbed.instance=feedc0de", name)
        try:
            self.refused(clone, name, "feedc0de", "--adopt")
        finally:
            inspection.output("docker", "volume", "rm", name)

    @pytest.mark.parametrize("service", ["mlflow", "jupyter"])
    def test_container(self, clone: Clone, service: str) -> None:
        name = inspection.container(clone, service)
        image = "trackbed/mlflow:3.17.2"
        if inspection.run("docker", "image", "inspect", image).returncode:
            assert clone.invoke("build", "mlflow", timeout=900).returncode == 0
        inspection.output("docker", "create", "--name", name, image)
        try:
            self.refused(clone, name, "not Trackbed's", f"docker rm -f {name}")
            assert inspection.containers(clone) == [name]
        finally:
            inspection.output("docker", "rm", name)

    def test_port_taken_by_a_container(self, clone: Clone, deployments: Callable[[str], Clone]) -> None:
        other = deployments("docker")
        done = clone.invoke("up", f"--mlflow-port={other.ports['mlflow']}")
        inspection.refused(
            done, 1, f"port {other.ports['mlflow']}", f"container {inspection.container(other, 'mlflow')}"
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("POSTGRES_IMAGE", "localhost:1/postgres:18"),
            ("MINIO_IMAGE", "localhost:1/" + "/".join(["minio"] * 2) + ":1"),
        ],
    )
    def test_image_that_cannot_be_pulled(self, clone: Clone, name: str, value: str) -> None:
        store = "minio" if name == "MINIO_IMAGE" else "versitygw"
        done = clone.invoke("up", around={f"TRACKBED_{name}": value, "TRACKBED_OBJECT_STORE": store})
        inspection.refused(done, 1, value, *(["leave MINIO_IMAGE out"] if store == "minio" else ["REGISTRY_MIRROR"]))
        assert not inspection.containers(clone)
        assert clone.invoke("down", "--delete-data", "--yes").returncode == 0


# --- a project that things happen to

MIDDLE = {
    "embedded": ("installing mlflow", "installing jupyter", "starting the processes"),
    "docker": ("starting the services", "postgres: ", "mlflow: "),
}


@pytest.fixture(scope="module")
def victims(clone_factory: Factory) -> Callable[[str], Clone]:
    """One more project per engine, whose first start is cut off; the embedded one belongs to a normal user."""
    created: dict[str, Clone] = {}

    def get(engine: str) -> Clone:
        if engine in created:
            return created[engine]
        clone = created[engine] = clone_factory(engine, user=engine == "embedded")
        first, second, third = MIDDLE[engine]
        interrupted = clone.start("up")
        interrupted.until(first)
        assert interrupted.interrupt() == 130, interrupted.output
        assert "Traceback" not in interrupted.output and "interrupted" in interrupted.output
        for moment in (second, third):
            killed = clone.start("up")
            # the services that an earlier one began may be ready before this one looks
            killed.until(lambda: moment in killed.output or killed.process.poll() is not None)  # noqa: B023
            killed.kill()
        clone.up()
        return clone

    return get


@pytest.fixture
def victim(engine: str, victims: Callable[[str], Clone]) -> Clone:
    """The project, up."""
    clone = victims(engine)
    if not all(
        inspection.ask(f"{clone.url(service)}{path}")[0] == 200
        for service, path in (("mlflow", "/"), ("jupyter", "/api"))
    ):
        clone.up()
    return clone


def test_ctrl_c_and_kill_in_the_middle_of_a_first_up(victim: Clone) -> None:
    done = victim.invoke("check")
    assert done.returncode == 0, done.stdout


def test_two_systems_side_by_side(victim: Clone, deployment: Clone) -> None:
    mine = inspection.new_run(victim)
    assert {service["state"] for clone in (victim, deployment) for service in clone.services().values()} <= {
        "ready",
        "done",
    }
    assert inspection.has_run(victim, mine)
    assert inspection.ask(f"{deployment.url('mlflow')}/api/2.0/mlflow/runs/get?run_id={mine}")[0] == 404


def test_two_clones_of_one_project(victim: Clone, clone_factory: Factory) -> None:
    other = clone_factory(victim.engine, user=victim.engine == "embedded", project=victim.project)
    own = other.environment
    other.environment = {k: v for k, v in own.items() if not k.endswith("_PORT")}
    other.environment["TRACKBED_STATE_DIR"] = str(victim.state)
    before = inspection.identities(victim)
    inspection.refused(other.invoke("up"), 1, str(victim.folder), "--project=NAME")
    assert other.invoke("status").returncode == 0, "looking is allowed"
    assert inspection.identities(victim) == before
    other.environment = own | {"TRACKBED_PROJECT": f"{victim.project}-2"}  # its end must not take the victim along


@pytest.mark.parametrize("service", ["postgres", "mlflow", "jupyter"])
def test_service_killed(victim: Clone, service: str) -> None:
    kept = inspection.new_run(victim)
    before = inspection.running_process(victim, service)
    os.kill(before, 9)
    inspection.until(
        lambda: (
            inspection.main_process(victim, service) not in (0, before)
            and all(p["state"] in ("ready", "done") for p in victim.services().values())
        ),
        lambda: victim.invoke("status").stdout + victim.value("logs", service),
    )
    victim.up()
    assert inspection.has_run(victim, kept)


def upload(clone: Clone, path: str, pieces: Iterator[bytes], size: int) -> int:
    """An artifact sent piece by piece; its status, 0 when the connection was cut."""
    connection = HTTPConnection("127.0.0.1", clone.ports["mlflow"], timeout=120)
    try:
        connection.request(
            "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", body=pieces, headers={"Content-Length": str(size)}
        )
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def test_down_lets_a_running_upload_end_and_waits_for_none_that_never_does(victim: Clone) -> None:
    begun, stopping = threading.Event(), threading.Event()
    content, result = os.urandom(3_000_000), {}

    def piecewise(parts: int, pause: float) -> Iterator[bytes]:
        step = len(content) // parts
        for number in range(parts):
            yield content[number * step : (number + 1) * step]
            if number == 0:
                begun.set()
                stopping.wait(PATIENCE)
            time.sleep(pause)

    def send(name: str, parts: int, pause: float) -> None:
        result[name] = upload(victim, f"drain/{name}", piecewise(parts, pause), len(content))

    for name, parts, pause in (("ends", 6, 1.0), ("never-ends", 3000, 1.0)):
        begun.clear()
        stopping.clear()
        sender = threading.Thread(target=send, args=(name, parts, pause), daemon=True)
        sender.start()
        assert begun.wait(PATIENCE)
        running = victim.start("down")
        time.sleep(1.5)
        stopping.set()
        assert running.end() == 0, running.output  # within its limit: the upload takes ten times as long as this waits
        sender.join(PATIENCE)
        victim.up()
    assert result["ends"] == 200, "a running upload was cut off"
    assert result["never-ends"] != 200
    with inspection.DIRECT.open(f"{victim.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/drain/ends") as answer:
        assert answer.read() == content


def test_an_upload_that_is_killed_leaves_no_half_artifact(victim: Clone) -> None:
    whole, half = f"killed/{uuid.uuid4().hex}", f"killed/{uuid.uuid4().hex}"
    assert upload(victim, whole, iter([b"whole"]), 5) == 200
    begun = threading.Event()

    def piecewise() -> Iterator[bytes]:
        yield bytes(2_000_000)
        begun.set()
        time.sleep(PATIENCE)

    threading.Thread(target=upload, args=(victim, half, piecewise(), 3_000_000), daemon=True).start()
    assert begun.wait(PATIENCE)
    time.sleep(0.5)
    os.kill(inspection.running_process(victim, "mlflow"), 9)
    time.sleep(1)
    victim.up()
    base = f"{victim.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts"
    assert inspection.ask(f"{base}/{half}")[0] in (404, 500) and inspection.ask(f"{base}/{whole}") == (200, "whole")
    assert [file["path"] for file in json.loads(inspection.ask(f"{base}?path=killed")[1])["files"]] == [
        whole.split("/")[1]
    ]
    if victim.engine == "embedded":
        artifacts = victim.project_folder / "embedded" / "artifacts"
        inspection.until(
            lambda: not list(artifacts.rglob(".artifact.uploading.*")),
            lambda: "what the killed upload left is still there",
        )
        inspection.until(
            lambda: "after an unclean stop" in victim.invoke("status").stderr, lambda: victim.invoke("status").stderr
        )
        assert "after an unclean stop" in victim.invoke("doctor").stdout


def test_secrets_deleted_over_kept_data_and_two_ups_at_once(victim: Clone) -> None:
    kept = inspection.new_run(victim)
    token = victim.token
    assert victim.invoke("down").returncode == 0
    shutil.rmtree(victim.project_folder / "secrets")
    one, other = victim.start("up"), victim.start("up")
    assert (one.end(), other.end()) == (0, 0), one.output + other.output
    waited = [two.output for two in (one, other) if "waiting for" in two.output]
    assert len(waited) == 1 and re.search(r"waiting for `.* up` \(process \d+, since", waited[0]), waited
    assert "Traceback" not in one.output + other.output
    assert inspection.has_run(victim, kept) and victim.token != token
    done = victim.invoke("check")
    assert done.returncode == 0, done.stdout


def test_service_that_cannot_start_stops_up_at_once(victim: Clone) -> None:
    kept = inspection.new_run(victim)
    revision = inspection.psql(victim, "SELECT version_num FROM alembic_version")
    inspection.psql(victim, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    try:
        os.kill(inspection.running_process(victim, "mlflow"), 9)
        done = victim.invoke("up", f"--ready-timeout={2 * PATIENCE}", timeout=PATIENCE)  # waits for nothing in vain
        inspection.refused(done, 1, "mlflow", "exit code 78", "newer", "ffffffffffff", "invoke logs mlflow")
        status = victim.invoke("status")
        assert status.returncode == 1 and "Traceback" not in status.stderr and "logs mlflow" in status.stderr
        looked = victim.invoke("doctor")
        assert re.search(r"services +(error|warning) +mlflow is ", looked.stdout), looked.stdout
        opened = victim.invoke("open")
        assert "MLflow, which shows the start page, is" in opened.stderr, opened.stderr
        inspection.refused(victim.invoke("check"), 1)
    finally:
        inspection.psql(victim, f"UPDATE alembic_version SET version_num = '{revision}'")
    victim.up()
    assert inspection.has_run(victim, kept)


def test_other_engine_over_kept_data(victim: Clone) -> None:
    other = {"docker": "embedded", "embedded": "docker"}[victim.engine]
    done = victim.invoke("up", TRACKBED_ENGINE=other, TRACKBED_OBJECT_STORE="auto")
    inspection.refused(done, 1, f"kept by the {victim.engine} engine", "--project=NAME")


def test_data_are_not_deleted_without_a_yes(victim: Clone) -> None:
    before = inspection.identities(victim)
    done = victim.invoke("down", "--delete-data")
    inspection.refused(done, 1, "this deletes", "database", "nothing was deleted", "--yes")
    assert inspection.identities(victim) == before
