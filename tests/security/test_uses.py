"""What honest people do through the gateway, from outside; and what the services cannot do from inside."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration import inspection
from tests.security.conftest import Target
from tests.security.wire import basic

pytestmark = pytest.mark.docker
SERVICES = ("postgres", "store", "mlflow", "gateway", "jupyter")
BIG = 2 << 30


def test_a_run_is_logged_and_read_back(attack: Target) -> None:
    door = attack.door("mlflow")
    created = door.json(
        "/api/2.0/mlflow/runs/create", {"experiment_id": "0"}, {**attack.login, "Origin": f"https://{door.host}"}
    )
    assert created.status == 200, created.text
    run = json.loads(created.body)["run"]["info"]["run_id"]
    assert door.ask(f"/api/2.0/mlflow/runs/get?run_id={run}", headers=attack.login).status == 200


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_the_ways_to_the_store_itself_are_closed_and_not_offered(attack: Target, api: str) -> None:
    door = attack.door("mlflow")
    reported = door.ask(f"/{api}/3.0/mlflow/server-info", headers=attack.login)
    assert reported.status == 200, reported.text
    offered = {name for name, value in json.loads(reported.body).items() if value}
    assert not [name for name in offered if name.startswith(("multipart", "presigned"))]
    own = {**attack.login, "Origin": f"https://{door.host}"}
    for path, method in (("presigned/0/x", "GET"), ("mpu/create/0/x", "POST"), ("mpu/complete/0/x", "POST")):
        assert door.ask(f"/{api}/2.0/mlflow-artifacts/{path}", method, own, b"{}").status == 501, path


def test_jupyter_opens_with_its_token_and_runs_code(attack: Target) -> None:
    door = attack.door("jupyter")
    assert door.ask(f"/lab?token={attack.token}").status == 200
    assert door.ask("/api/kernels", headers={"Authorization": f"token {attack.token}"}).status == 200
    created = door.ask("/api/kernels", "POST", {"Authorization": f"token {attack.token}"}, b"{}")
    kernel = json.loads(created.body)["id"]
    upgrade = door.ask(
        f"/api/kernels/{kernel}/channels",
        headers={
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Authorization": f"token {attack.token}",
        },
    )
    assert upgrade.status == 101


def test_the_console_opens_with_a_login(attack: Target) -> None:
    assert attack.door("console").ask(headers=attack.login).status == 200


def test_users_come_and_go_while_an_upload_runs(attack: Target) -> None:
    """No restart, no reload: an upload that began before the changes ends well, and each change counts at once."""
    door, clone = attack.door("mlflow"), attack.clone
    bob = clone.value("users.add", "bob")
    _until(attack, "bob", bob, 200)
    size = 4 << 20
    path = "/api/2.0/mlflow-artifacts/artifacts/users-test/slow.bin"
    with door.connect(60) as link:
        link.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: {door.host}\r\nAuthorization: {basic('bob', bob)}\r\n"
            f"Content-Length: {size}\r\nConnection: close\r\n\r\n".encode()
            + b"x" * (size // 2)
        )
        second = clone.value("users.passwd", "bob")
        _until(attack, "bob", bob, 401)
        _until(attack, "bob", second, 200)
        assert clone.value("users.list").split() == ["ann", "bob"]
        assert clone.invoke("users.remove", "bob").returncode == 0
        _until(attack, "bob", second, 401)
        link.sendall(b"x" * (size - size // 2))
        answer = link.recv(100)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert door.ask("/version", headers=attack.login).status == 200
    got = door.ask(path, headers=attack.login)
    assert got.status == 200


def test_rotated_credentials(rotated: tuple[Target, dict[str, str], str]) -> None:
    """Every secret is another one, the old ones open nothing, no run is lost, logins stay."""
    target, old, run = rotated
    new = json.loads(target.clone.value("credentials", "--format=json"))
    assert set(new) == set(old) and not set(new.values()) & set(old.values())
    with target.other_host.entered():
        jupyter, mlflow = target.door("jupyter"), target.door("mlflow")
        for token, status in ((old["JUPYTER_TOKEN"], 403), (new["JUPYTER_TOKEN"], 200)):
            assert jupyter.ask("/api/contents", headers={"Authorization": f"token {token}"}).status == status
        assert mlflow.ask(f"/api/2.0/mlflow/runs/get?run_id={run}", headers=target.login).status == 200
        path = "/api/2.0/mlflow-artifacts/artifacts/rotated/x.txt"
        assert mlflow.ask(path, headers=target.login).body == b"before"
        assert mlflow.ask(path, "PUT", target.login, b"after").status == 200
    login = ("sh", "-c", 'PGPASSWORD="$0" psql -X -h "$(hostname -i)" -U mlflow -d mlflow -Atc "SELECT 1"')
    for password, code in ((old["POSTGRES_PASSWORD"], 2), (new["POSTGRES_PASSWORD"], 0)):
        done = inspection.run("docker", "exec", inspection.container(target.clone, "postgres"), *login, password)
        assert done.returncode == code, done.stderr
    assert target.clone.invoke("check").returncode == 0


@pytest.fixture
def rotated(target: Target) -> tuple[Target, dict[str, str], str]:
    """The project after `invoke credentials.rotate`, its former secrets, and a run of before."""
    old = json.loads(target.clone.value("credentials", "--format=json"))
    with target.other_host.entered():
        door = target.door("mlflow")
        created = door.json("/api/2.0/mlflow/runs/create", {"experiment_id": "0"}, target.login)
        assert (
            door.ask("/api/2.0/mlflow-artifacts/artifacts/rotated/x.txt", "PUT", target.login, b"before").status == 200
        )
    done = target.clone.invoke("credentials.rotate", timeout=600)
    assert done.returncode == 0, done.stderr
    assert not [v for v in old.values() if v in done.stdout + done.stderr]
    match = re.search(r"token=(\S+)", target.clone.value("jupyter-url"))
    assert match
    target.token = match[1]
    return target, old, json.loads(created.body)["run"]["info"]["run_id"]


def _until(attack: Target, name: str, password: str, status: int) -> None:
    """Wait until a login is answered so; the gateway takes a changed one within seconds."""
    expected = {status, 429} if status == 401 else {status}
    headers = {"Authorization": basic(name, password)}
    inspection.until(lambda: attack.door("mlflow").ask("/version", headers=headers).status in expected, lambda: name)


def _resident(target: Target) -> int:
    """Peak memory of the gateway's process, in bytes."""
    pid = inspection.output("docker", "inspect", "-f", "{{.State.Pid}}", inspection.container(target.clone, "gateway"))
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_two_gigabytes_up_and_down_in_constant_memory(attack: Target) -> None:
    if shutil.disk_usage("/var/tmp").free < 5 * BIG:
        pytest.skip("NOT TESTED: five times 2 GB of disk are needed")
    door, path = attack.door("mlflow"), "/api/2.0/mlflow-artifacts/artifacts/big-test/big.bin"
    block = bytes(range(256)) * 4096
    with door.connect(600) as link:
        link.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: {door.host}\r\nAuthorization: {attack.login['Authorization']}\r\n"
            f"Content-Length: {BIG}\r\nConnection: close\r\n\r\n".encode()
        )
        for _ in range(BIG // len(block)):
            link.sendall(block)
        assert link.recv(100).startswith(b"HTTP/1.1 200")
    with door.connect(600) as link:
        link.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {door.host}\r\nAuthorization: {attack.login['Authorization']}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        size = 0
        while chunk := link.recv(1 << 20):
            size += len(chunk)
    assert size > BIG
    assert door.ask(path, "DELETE", attack.login).status == 200
    assert _resident(attack) < 160 << 20


def test_the_certificate_is_for_the_public_name(attack: Target) -> None:
    door = attack.door("mlflow")
    with door.connect() as link:
        result = link.getpeercert()
    assert result and ("IP Address", door.address) in result["subjectAltName"]
    with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection((door.address, door.port)) as link:
        ssl.create_default_context().wrap_socket(link, server_hostname=door.address)


def test_invoke_env_makes_clients_elsewhere_work(attack: Target, tmp_path: Path) -> None:
    lines = attack.clone.value("env", "ann")
    assert attack.password not in lines
    door = attack.door("mlflow")
    script = (
        lines + "\ncurl -sS --cacert \"$MLFLOW_TRACKING_SERVER_CERT_PATH\" -o /dev/null -w '%{http_code}' "
        '-u "$MLFLOW_TRACKING_USERNAME:$MLFLOW_TRACKING_PASSWORD" $MLFLOW_TRACKING_URI/version\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        input=attack.password + "\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.strip().endswith("200"), done.stdout + done.stderr
    assert f"https://{door.host}" in lines


# from inside


def test_mlflow_can_be_sent_nowhere(attack: Target) -> None:
    """SSRF: an experiment whose artifacts lie at an address of the attacker's choice, and plain connections."""
    door = attack.door("mlflow")
    for number, place in enumerate(("http://169.254.169.254/latest/meta-data", "http://192.0.2.2:1/", "file:///etc")):
        created = door.json(
            "/api/2.0/mlflow/experiments/create",
            {"name": f"ssrf-{number}-{time.time()}", "artifact_location": place},
            attack.login,
        )
        if created.status != 200:
            continue
        run = door.json(
            "/api/2.0/mlflow/runs/create", {"experiment_id": json.loads(created.body)["experiment_id"]}, attack.login
        )
        name = json.loads(run.body)["run"]["info"]["run_id"]
        result = door.ask(f"/api/2.0/mlflow/artifacts/list?run_id={name}", headers=attack.login, timeout=60)
        assert result.status != 200 or b'"path"' not in result.body, result.text
        assert b"passwd" not in result.body and b"ami-id" not in result.body
    for target in (
        ("169.254.169.254", 80),
        (attack.other_host.machine, 22),
        (attack.other_host.address, 80),
        ("1.1.1.1", 443),
    ):
        assert _from(attack, "mlflow", target) != "open", target


def _from(attack: Target, service: str, target: tuple[str, int]) -> str:
    code = f"import socket; socket.create_connection({target!r}, 2); print('open')"
    return inspection.run(
        "docker", "exec", inspection.container(attack.clone, service), "python", "-c", code
    ).stdout.strip()


@pytest.mark.parametrize(
    ("name", "port", "expected"),
    [
        ("mlflow", 8000, "open"),
        ("postgres", 5432, ""),
        ("store", 9000, ""),
        ("store", 9001, ""),
        ("169.254.169.254", 80, ""),
        ("gateway", 2019, ""),
    ],
)
def test_what_a_notebook_reaches(attack: Target, name: str, port: int, expected: str) -> None:
    assert _from(attack, "jupyter", (name, port)) == expected


@pytest.mark.parametrize("service", SERVICES)
def test_limits_and_rights_of_the_containers(attack: Target, service: str) -> None:
    result = json.loads(inspection.output("docker", "inspect", inspection.container(attack.clone, service)))[0]
    host, pid = result["HostConfig"], result["State"]["Pid"]
    assert host["Memory"] > 0 and host["PidsLimit"] > 0
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["ReadonlyRootfs"] is (service != "jupyter")
    status = Path(f"/proc/{pid}/status").read_text()  # what the kernel says, not what was asked for
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert values["NoNewPrivs"] == "1" and int(values["CapEff"], 16) == 0 and int(values["CapBnd"], 16) == 0
    assert "0" not in values["Uid"].split()
    root = next(line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines() if line.split()[1] == "/")
    assert ("ro" in root[3].split(",")) is (service != "jupyter")


def test_no_secret_in_the_gateways_environment_or_arguments(attack: Target) -> None:
    text = inspection.output("docker", "inspect", inspection.container(attack.clone, "gateway"))
    pid = inspection.output("docker", "inspect", "-f", "{{.State.Pid}}", inspection.container(attack.clone, "gateway"))
    text += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    text += inspection.run("docker", "logs", inspection.container(attack.clone, "gateway")).stderr
    assert attack.password not in text and attack.token not in text
    users = attack.clone.project_folder / "users"
    assert users.stat().st_mode & 0o077 == 0 and attack.password not in users.read_text()
