"""DOCKER_HOST=ssh://...: a laptop that has only the clone, an ssh client and Docker's client, and a node it reaches."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.claims import free_ports
from tests.conftest import PATIENCE, Clone, require_docker
from tests.integration import inspection, remote_laptop, test_gpu
from tests.integration.remote_laptop import Laptop, know

pytestmark = pytest.mark.docker
READ = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).status)"


@pytest.fixture(scope="module")
def laptop() -> Iterator[Laptop]:
    """The laptop, without a project on the node yet."""
    require_docker()
    folder = Path(tempfile.mkdtemp(prefix="trackbed-test-"))
    folder.chmod(0o755)
    try:
        with remote_laptop.laptop(folder) as created:
            yield created
            created.clone.invoke("down", "--delete-data", "--yes")
            shutil.rmtree(workspace(created).parent, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def up(laptop: Laptop) -> Laptop:
    laptop.clone.up()
    return laptop


def workspace(laptop: Laptop) -> Path:
    """The notebook's folder on the node, which is this machine."""
    return Path("/var/lib/trackbed", laptop.clone.project, "workspace")


def on_laptop(laptop: Laptop, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        laptop.command(*argv, folder=str(laptop.clone.folder)),
        text=True,
        capture_output=True,
        env={**laptop.clone.environment, **environment},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def connections(laptop: Laptop) -> list[str]:
    """The ssh clients of the laptop's commands that still run."""
    result = inspection.output("ps", "-eww", "-o", "args").splitlines()
    return [line for line in result if line.startswith("ssh ") and f"-p {laptop.port}" in line]


def test_the_laptop_is_elsewhere(laptop: Laptop) -> None:
    assert on_laptop(laptop, "ls", "/run").stdout == ""
    assert on_laptop(laptop, "ls", "/var/run", "/var/lib/docker").returncode == 2
    port = socket.socket()
    port.bind(("0.0.0.0", 0))
    port.listen(1)
    existing = f"import socket; socket.create_connection(('127.0.0.1', {port.getsockname()[1]}), 3)"
    assert "refused" in on_laptop(laptop, sys.executable, "-c", existing).stderr
    done = on_laptop(laptop, "docker", "version", DOCKER_HOST="")
    assert done.returncode and "/var/run/docker.sock" in done.stderr


FAULTS = [
    ("known_hosts", "is not known here yet", "compare the key"),
    ("id_ed25519", "does not let this user in with a key", "ssh-copy-id"),
]


@pytest.mark.parametrize(("file", "said", "fix"), FAULTS)
def test_what_ssh_refuses_is_said_and_never_asked(laptop: Laptop, file: str, said: str, fix: str) -> None:
    path = laptop.home / ".ssh" / file
    kept = path.read_bytes()
    path.unlink()
    try:
        for task in ("up", "doctor"):
            done = laptop.clone.invoke(task, timeout=PATIENCE)
            assert done.returncode == 1 and "Traceback" not in done.stderr
            assert said in done.stderr + done.stdout and fix in done.stderr, done.stderr + done.stdout
    finally:
        path.write_bytes(kept)
        path.chmod(0o600)


def test_a_host_key_that_changed(laptop: Laptop) -> None:
    known = laptop.home / ".ssh" / "known_hosts"
    other = (laptop.home / ".ssh" / "id_ed25519.pub").read_text().split()[:2]
    known.write_text(f"[{laptop.node}]:{laptop.port} {' '.join(other)}\n")
    try:
        inspection.refused(laptop.clone.invoke("up"), 1, "not the one that this computer remembers", "ssh-keygen -R")
    finally:
        know(laptop)


def test_a_node_that_is_not_there(laptop: Laptop) -> None:
    clone, user = laptop.clone, "root"
    for host, said in (
        (f"ssh://{user}@{laptop.node}:1", "does not answer"),
        ("ssh://root@nohost.invalid", "no machine named nohost.invalid"),
        (f"tcp://{laptop.node}:2375", "not one over ssh"),
    ):
        refused = clone.invoke("up", DOCKER_HOST=host, timeout=PATIENCE)
        inspection.refused(refused, 1, said, "docker engine cannot be used")
    # a machine that drops packets: an address of the laptop's own network that nobody has
    nobody = f"{laptop.node.rsplit('.', 1)[0]}.{int(laptop.node.rsplit('.', 1)[1]) + 2}"
    inspection.refused(clone.invoke("up", DOCKER_HOST=f"ssh://{user}@{nobody}", timeout=PATIENCE), 1, nobody)


def test_a_node_without_docker_and_a_user_without_the_group(laptop: Laptop) -> None:
    missing = laptop.clone.invoke("up", DOCKER_HOST=f"{laptop.docker_host}/nowhere/docker.sock")
    inspection.refused(missing, 1, "Docker", f"root@{laptop.node}")  # none is installed, or it does not run
    assert "there is no Docker on" in missing.stderr or "Docker does not run on" in missing.stderr
    name = f"tb{uuid.uuid4().hex[:6]}"
    inspection.output("useradd", "--no-create-home", "--shell", "/bin/sh", "--password", "*", name)
    try:
        denied = laptop.clone.invoke("up", DOCKER_HOST=laptop.docker_host.replace("root@", f"{name}@"))
        inspection.refused(denied, 1, "permission denied at /", f"{name}@{laptop.node}", "usermod -aG docker")
    finally:
        inspection.output("userdel", name)


def test_doctor_looks_at_the_node(laptop: Laptop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        done = laptop.clone.invoke("doctor", TRACKBED_MLFLOW_PORT=str(port))
        assert done.returncode == 1 and f"port {port} (MLFLOW_PORT) is taken" in done.stdout, done.stdout + done.stderr
        inspection.refused(
            laptop.clone.invoke("up", TRACKBED_MLFLOW_PORT=str(port)), 1, f"port {port}", "--mlflow-port="
        )
    done = laptop.clone.invoke("doctor")
    assert done.returncode == 0, done.stdout
    assert f"root@{laptop.node}" in done.stdout and str(workspace(laptop)) in done.stdout


def test_up_makes_everything_on_the_node(up: Laptop) -> None:
    clone = up.clone
    assert {service["state"] for service in clone.services().values()} <= {"ready", "done"}
    assert len(inspection.containers(clone)) == 6
    assert workspace(up).is_dir() and workspace(up).stat().st_uid == 1000
    assert not (clone.state / clone.project / "workspace").exists(), "a folder of the laptop was made"
    assert clone.first_up is not None
    line = re.search(r"ssh -N (?:-L \d+:127\.0\.0\.1:\d+ )+-p \d+ root@\S+", clone.first_up.stderr)
    assert line and f"-p {up.port} root@{up.node}" in line[0] and f":{clone.ports['jupyter']}" in line[0]
    assert not connections(up), "the connection outlived its command"


def test_second_up_needs_no_docker_host_and_changes_nothing(up: Laptop) -> None:
    before = inspection.identities(up.clone)
    done = up.clone.invoke("up", DOCKER_HOST="")
    assert done.returncode == 0, done.stderr
    assert inspection.identities(up.clone) == before


def test_check_status_and_logs_from_the_laptop(up: Laptop) -> None:
    done = up.clone.invoke("check", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "object in the store" in done.stdout
    reported = json.loads(up.clone.value("status", "--format=json"))
    assert reported["node"] == f"-p {up.port} root@{up.node}" and reported["workspace"] == str(workspace(up))
    assert "trackbed" in up.clone.value("logs", "bucket")


def test_the_printed_url_opens_through_the_printed_line(up: Laptop) -> None:
    done = up.clone.invoke("jupyter-url")
    url = done.stdout.strip()
    line = re.search(r"ssh -N .*", done.stderr)
    assert done.returncode == 0 and line, done.stderr
    assert on_laptop(up, sys.executable, "-c", READ, url).returncode, "reachable without a tunnel"
    tunnel = subprocess.Popen(
        up.command(*line[0].split(), folder="/"),
        env=up.clone.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait = (
        f"import time, urllib.request as u\nfor _ in range({5 * PATIENCE}):\n try: print(u.urlopen({url!r}).status)\n"
        " except OSError: time.sleep(0.2)\n else: break\n"
    )
    try:
        # the tunnel listens in the laptop's network, so that its other commands reach it
        assert on_laptop(up, sys.executable, "-c", wait).stdout.strip() == "200"
    finally:
        os.killpg(tunnel.pid, signal.SIGTERM)
        tunnel.wait(PATIENCE)


def test_compose_by_hand_with_the_same_docker_host(up: Laptop) -> None:
    done = on_laptop(up, "docker", "compose", "ps", "--format", "{{.Service}}")
    synced = ["store-sync"] if up.clone.environment.get("TRACKBED_OBJECT_STORE") == "versitygw" else []
    assert sorted(done.stdout.split()) == ["mlflow", "postgres", "store", *synced], done.stderr
    assert on_laptop(up, "docker", "compose", "ps", DOCKER_HOST="").returncode, "Compose takes no DOCKER_HOST of a file"


def test_a_system_stays_on_its_node(up: Laptop) -> None:
    before = inspection.identities(up.clone)
    for host in ("unix:///var/run/docker.sock", f"ssh://other@{up.node}"):
        inspection.refused(up.clone.invoke("up", DOCKER_HOST=host), 1, f"runs on {up.docker_host}", "unset DOCKER_HOST")
    assert inspection.identities(up.clone) == before


def test_dry_run_is_for_the_node(up: Laptop) -> None:
    script = up.clone.value("up", "--dry-run", f"--name-prefix=lab-{up.clone.project}")
    assert f"export DOCKER_HOST={up.docker_host}" in script
    assert f"ssh -p {up.port} root@{up.node} 'sh -c" in script
    port = re.search(r"^MLFLOW_PORT=(\d+)$", script, re.MULTILINE)
    assert port and int(port[1]) != up.clone.ports["mlflow"]
    assert inspection.run("bash", "-n", stdin=script).returncode == 0


def test_a_context_instead_of_the_variable(up: Laptop) -> None:
    created = on_laptop(up, "docker", "context", "create", "node", "--docker", f"host={up.docker_host}", DOCKER_HOST="")
    assert created.returncode == 0, created.stderr
    done = up.clone.invoke("status", DOCKER_HOST="", DOCKER_CONTEXT="node")
    assert done.returncode == 0 and "ssh -N" in done.stderr, done.stderr


def test_killed_in_the_middle_nothing_stays_open(up: Laptop) -> None:
    running = up.clone.start("logs", "mlflow", "--follow")
    running.until(r"\S")
    assert connections(up)
    running.kill()
    inspection.until(lambda: not connections(up), lambda: connections(up))


def test_connection_lost_in_the_middle(up: Laptop) -> None:
    assert up.clone.invoke("down").returncode == 0
    running = up.clone.start("up")
    running.until("starting the services")
    for line in inspection.output("ps", "-eww", "-o", "pid,args").splitlines():
        if re.match(rf"\s*\d+ ssh -M .* -p {up.port} ", line):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    assert running.end() == 1
    assert "the connection to" in running.output and "was lost" in running.output, running.output
    assert "Traceback" not in running.output
    up.clone.up()


def test_down_keeps_the_data_and_up_goes_on(up: Laptop) -> None:
    clone: Clone = up.clone
    kept = inspection.new_run(clone)
    done = clone.invoke("down")
    assert done.returncode == 0, done.stderr
    assert not inspection.containers(clone)
    clone.up()
    assert inspection.has_run(clone, kept)


def test_a_normal_user_on_the_node(laptop: Laptop) -> None:
    """Another project, as a user who may use Docker there: the workspace is that user's, the notebook runs as them."""
    name, home = f"tb{uuid.uuid4().hex[:6]}", Path(tempfile.mkdtemp(prefix="trackbed-home-"))
    group = str(Path("/var/run/docker.sock").stat().st_gid)
    inspection.output(
        "useradd",
        "--no-create-home",
        "--home-dir",
        str(home),
        "--gid",
        group,
        "--shell",
        "/bin/sh",
        "--password",
        "*",
        name,
    )
    uid = pwd.getpwnam(name).pw_uid
    os.chown(home, uid, int(group))
    ports = dict(zip(("MLFLOW", "JUPYTER", "S3", "S3_CONSOLE"), free_ports(4), strict=True))
    project = f"{laptop.clone.project}-u"
    around = {
        "DOCKER_HOST": laptop.docker_host.replace("root@", f"{name}@"),
        "TRACKBED_PROJECT": project,
        **{f"TRACKBED_{service}_PORT": str(port) for service, port in ports.items()},
    }
    kept = (laptop.clone.folder / ".env").read_bytes() if (laptop.clone.folder / ".env").exists() else b""
    try:
        done = laptop.clone.invoke("up", around=around)
        assert done.returncode == 0, done.stderr
        folder = home / ".local" / "state" / "trackbed" / project / "workspace"
        assert folder.stat().st_uid == uid
        assert inspection.output("docker", "exec", f"{project}-jupyter", "id", "-u") == str(uid)
        inspection.output("docker", "exec", f"{project}-jupyter", "touch", "/home/jovyan/work/mine")
        assert (folder / "mine").stat().st_uid == uid
        refused = laptop.clone.invoke("up", "--workspace=/var/lib/nobody/may", around=around)
        inspection.refused(refused, 1, "/var/lib/nobody/may", "Permission denied")
    finally:
        laptop.clone.invoke("down", "--delete-data", "--yes", around=around)
        (laptop.clone.folder / ".env").write_bytes(kept)
        inspection.output("userdel", name)
        shutil.rmtree(home)


@pytest.mark.machine
def test_the_gpus_are_those_of_the_node(up: Laptop) -> None:
    created = []
    try:
        for path in (test_gpu.KFD, *test_gpu.RENDER):
            test_gpu.make_node(path)
            created.append(path)
        assert on_laptop(up, "ls", "/dev/kfd").returncode == 2
        done = up.clone.invoke("up", "--gpu=mi100", timeout=900)
        assert done.returncode == 0, done.stderr
        host = test_gpu.config(up.clone)["HostConfig"]
        assert [d["PathOnHost"] for d in host["Devices"]] == ["/dev/kfd", "/dev/dri"]
        assert host["GroupAdd"] == [str(test_gpu.GROUP)]
        result, detail = test_gpu.checks(up.clone)["GPU can be opened"]
        assert result == "passed" and f",{test_gpu.GROUP}" in detail
        inspection.refused(up.clone.invoke("up", "--gpu=liqid"), 1, "there is no NVIDIA GPU here", "2 AMD render nodes")
    finally:
        for path in created:
            Path(path).unlink()
    inspection.refused(up.clone.invoke("up"), 1, "there is no /dev/kfd here")
    assert up.clone.invoke("up", "--gpu=none", timeout=300).returncode == 0
