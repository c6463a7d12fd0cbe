"""What only the docker engine has: Compose by hand, the pasted commands, hardened containers, its volumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from helpers import process_table, shell_words
from helpers.engines.docker import container_options
from helpers.engines.docker.client import DockerApi
from helpers.engines.embedded.accounts import Accounts
from helpers.services import Mount
from tests.conftest import PATIENCE, Clone, require_docker
from tests.integration import inspection
from tests.unit.test_container_options import FULL

pytestmark = pytest.mark.docker
SERVICES = ("postgres", "store", "mlflow", "jupyter")
# what a script does not say (docs/docker.md), and of what terminal Docker's client ran in
UNPRINTED = {"Healthcheck", "LogConfig", "ConsoleSize", "AttachStdout", "AttachStderr"}


def services(clone: Clone) -> list[str]:
    """What Compose keeps running; VersityGW has a service beside it that syncs."""
    synced = ["store-sync"] if clone.environment.get("TRACKBED_OBJECT_STORE") == "versitygw" else []
    return ["mlflow", "postgres", "store", *synced]


@pytest.fixture(scope="module")
def deployment(deployments: Callable[[str], Clone]) -> Clone:
    require_docker()
    return deployments("docker")


def compose(clone: Clone, *words: str) -> str:
    """A bare `docker compose` in the clone, in a shell that knows nothing of Trackbed."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("TRACKBED_", "COMPOSE_"))}
    return inspection.output("docker", "compose", *words, cwd=clone.folder, env=bare, timeout=240)


def details(clone: Clone, service: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(inspection.output("docker", "inspect", inspection.container(clone, service)))[0]
    return result


def inside(clone: Clone, service: str, *words: str) -> str:
    return inspection.output("docker", "exec", inspection.container(clone, service), *words)


def in_volume(clone: Clone, name: str, *words: str) -> str:
    """A command over a volume's files, in an image that is there: a service's own may have no tools."""
    return inspection.output(
        "docker",
        "run",
        "--rm",
        "--user",
        "0",
        "--network",
        "none",
        "--entrypoint",
        words[0],
        "-v",
        f"{name}:/v:ro",
        details(clone, "mlflow")["Config"]["Image"],
        *words[1:],
    )


def test_compose_by_hand_sees_the_same_system(deployment: Clone) -> None:
    users = deployment.folder / ".env"
    assert not users.exists(), "it is the user's to make"
    users.write_text("# mine\n# >>> written by Trackbed\nCOMPOSE_PROJECT_NAME=former\n# <<< written by Trackbed\n")
    done = deployment.invoke("up")
    assert done.returncode == 0 and ".env is yours alone" in done.stderr, done.stderr
    assert users.read_text() == "# mine\n"
    before = inspection.identities(deployment)
    listed = compose(deployment, "ps", "-a", "--format", "{{.Service}} {{.Health}}").splitlines()
    assert sorted(line.split()[0] for line in listed) == sorted(["bucket", *services(deployment)])
    assert "mlflow healthy" in listed
    assert "trackbed" in compose(deployment, "logs", "--tail=5", "bucket")
    compose(deployment, "up", "-d")
    after = inspection.identities(deployment)
    bucket = inspection.container(deployment, "bucket")  # Compose runs a one-shot again each time
    assert {k: v for k, v in after.items() if k != bucket} == {k: v for k, v in before.items() if k != bucket}


def test_compose_by_hand_down_and_up(deployment: Clone) -> None:
    deployment.up()
    kept = inspection.new_run(deployment)
    compose(deployment, "down")
    assert inspection.ask(deployment.url("mlflow"))[0] == 0
    compose(deployment, "up", "-d", "--wait")
    assert inspection.has_run(deployment, kept)
    deployment.up()
    assert {service["state"] for service in deployment.services().values()} <= {"ready", "done"}
    done = deployment.invoke("check")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_containers_have_no_more_rights_than_they_need(deployment: Clone, service: str) -> None:
    result = details(deployment, service)
    host, config = result["HostConfig"], result["Config"]
    assert config["User"] and config["User"].split(":")[0] not in ("0", "root")
    assert int(inside(deployment, service, "id", "-u")) != 0
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert host["ReadonlyRootfs"] is (service != "jupyter"), "people install packages in the notebook"
    if service != "jupyter":
        assert inspection.run("docker", "exec", inspection.container(deployment, service), "touch", "/usr/x").returncode
    secret = next(mount for mount in result["Mounts"] if mount["Destination"] == "/run/secrets")
    assert not secret["RW"]
    listed = in_volume(
        deployment, secret["Name"], "find", "/v", "-type", "f", "!", "-name", "site-ca.pem", "-printf", "%m %U\n"
    ).splitlines()
    assert set(listed) == {f"400 {config['User'].split(':')[0]}"}
    status = inside(deployment, service, "cat", "/proc/1/status")
    assert re.search(r"CapEff:\s+0+\n", status) and re.search(r"NoNewPrivs:\s+1\n", status)


@pytest.mark.parametrize(
    ("service", "folder", "owner"),
    [
        ("postgres", "/var/lib/postgresql", "999"),
        ("store", "/data", "10002"),
        ("mlflow", "/tmp", "10001"),
    ],
)
def test_data_belong_to_the_user_of_their_service(deployment: Clone, service: str, folder: str, owner: str) -> None:
    volume = next(m["Name"] for m in details(deployment, service)["Mounts"] if m["Destination"] == folder)
    assert in_volume(deployment, volume, "stat", "-c", "%u %a", "/v") == f"{owner} 700"
    assert inside(deployment, service, "id", "-u") == owner


def test_what_syncs_the_store_is_on_the_backend_only_and_asks_for_a_token(deployment: Clone) -> None:
    if "store-sync" not in services(deployment):
        pytest.skip("NOT TESTED: only VersityGW has it")
    result = details(deployment, "store-sync")
    assert list(result["NetworkSettings"]["Networks"]) == [f"{deployment.project}_backend"]
    assert not result["HostConfig"]["PortBindings"]
    assert {mount["Destination"]: mount["RW"] for mount in result["Mounts"]} == {"/store": True, "/run/secrets": False}
    assert inside(deployment, "store-sync", "id", "-u") == "10002"
    status = inside(deployment, "store-sync", "cat", "/proc/1/status")
    assert re.search(r"CapEff:\s+0+\n", status) and re.search(r"NoNewPrivs:\s+1\n", status)
    reach = "import socket; socket.create_connection(('store-sync', 9002), 3)"
    assert inspection.run(
        "docker", "exec", inspection.container(deployment, "jupyter"), "python", "-c", reach
    ).returncode
    assert (
        inspection.run("docker", "exec", inspection.container(deployment, "mlflow"), "python", "-c", reach).returncode
        == 0
    )


def test_an_upload_that_is_not_on_the_disk_is_not_acknowledged(deployment: Clone) -> None:
    if "store-sync" not in services(deployment):
        pytest.skip("NOT TESTED: only VersityGW has it")
    url = f"{deployment.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/durable/{uuid.uuid4().hex}"
    container = inspection.container(deployment, "store-sync")
    inspection.output("docker", "stop", "-t", "5", container)
    try:
        status, text = put(url, b"1")
        assert status == 503 and "try again" in text and "Traceback" not in text, text
    finally:
        inspection.output("docker", "start", container)
    inspection.until(lambda: put(url, b"1")[0] == 200, lambda: put(url, b"1"))


def put(url: str, content: bytes) -> tuple[int, str]:
    try:
        with inspection.DIRECT.open(Request(url, data=content, method="PUT"), timeout=PATIENCE) as answer:
            return answer.status, ""
    except HTTPError as error:
        return error.code, error.read().decode()


def test_the_workspace_belongs_to_the_user_of_the_notebook(deployment: Clone) -> None:
    owner = str((deployment.project_folder / "workspace").stat().st_uid)
    assert inside(deployment, "jupyter", "id", "-u") == owner != "0"


def test_the_database_is_on_a_network_without_a_way_out(deployment: Clone) -> None:
    networks = {service: sorted(details(deployment, service)["NetworkSettings"]["Networks"]) for service in SERVICES}
    back, front = f"{deployment.project}_backend", f"{deployment.project}_frontend"
    assert networks == {"postgres": [back], "store": [back, front], "mlflow": [back, front], "jupyter": [front]}
    assert inspection.output("docker", "network", "inspect", back, "-f", "{{.Internal}}") == "true"
    reach = "import socket; socket.create_connection(('postgres', 5432), 3)"
    assert inspection.run(
        "docker", "exec", inspection.container(deployment, "jupyter"), "python", "-c", reach
    ).returncode
    address = details(deployment, "postgres")["NetworkSettings"]["Networks"][back]["IPAddress"]
    assert inspection.run(
        "docker",
        "exec",
        inspection.container(deployment, "jupyter"),
        "python",
        "-c",
        reach.replace("postgres", address),
    ).returncode


def test_prepared_by_hand_and_started_by_compose(clone_factory: Callable[..., Clone]) -> None:
    require_docker()
    clone = clone_factory("docker")
    done = clone.invoke("prepare", timeout=900)
    assert done.returncode == 0 and "docker compose up -d" in done.stderr, done.stderr
    assert not inspection.containers(clone) and not done.stdout
    assert (clone.folder / ".trackbed.env").stat().st_mode & 0o077 == 0 and not (clone.folder / ".env").exists()
    compose(clone, "up", "-d", "--wait")
    kept = inspection.new_run(clone)
    assert inspection.has_run(clone, kept)
    clone.up()  # the toolkit goes on with what was started by hand
    assert inspection.has_run(clone, kept)
    assert clone.invoke("down", "--delete-data", "--yes").returncode == 0
    names = inspection.output("docker", "volume", "ls", "--format", "{{.Name}}").split()
    assert not [name for name in names if name.startswith(f"{clone.project}_")]
    assert inspection.nothing_runs(clone) and not (clone.project_folder / "state.json").exists()


def test_the_printed_container_is_the_one_that_up_creates(deployment: Clone, tmp_path: Path) -> None:
    """Docker is asked what it makes of both, for a service that has every property."""
    network, volume = f"{deployment.project}_frontend", f"{deployment.project}-printed"
    spec = replace(
        FULL,
        image=details(deployment, "mlflow")["Config"]["Image"],
        container=f"{deployment.project}-printed",
        networks=(network,),
        devices=("/dev/null",),
        mounts=(
            Mount("volume", volume, "/mnt", read_only=True, options="nocopy"),
            Mount("bind", str(tmp_path), "/work"),
            Mount("tmpfs", "", "/tmp", options="size=1m"),
        ),
    )

    def created() -> dict[str, Any]:
        result = json.loads(inspection.output("docker", "inspect", spec.container))[0]
        inspection.output("docker", "rm", "-v", spec.container)
        return {
            **{key: value for key, value in result["HostConfig"].items() if value and key not in UNPRINTED},
            **{key: value for key, value in result["Config"].items() if value and key not in UNPRINTED},
            "Binds": set(result["HostConfig"]["Binds"]),  # the docker command keeps them in no order
            "aliases": set(result["NetworkSettings"]["Networks"][network]["Aliases"]) - {result["Id"][:12]},
        }

    api = DockerApi()
    config, host = container_options.config_and_host(spec)
    try:
        api.create(spec.container, {**config, "host_config": api.host_config(**host)}, {network: [spec.name]})
        expected = created()
        words = map(shell_words.line, container_options.argv(spec))
        inspection.output("bash", "-c", f"JUPYTER_PORT={spec.ports[0].published}; docker create {' '.join(words)}")
        assert created() == expected
    finally:
        inspection.output("docker", "volume", "rm", "-f", volume)


def test_pasted_dry_run_makes_a_working_system_beside_the_real_one(deployment: Clone) -> None:
    prefix = f"lab-{deployment.project}"
    script = deployment.value("up", "--dry-run", f"--name-prefix={prefix}") + "\n"
    port = re.search(r"^MLFLOW_PORT=(\d+)$", script, re.MULTILINE)
    assert port and int(port[1]) not in deployment.ports.values()
    before = inspection.identities(deployment)
    clean = "\n".join(
        line.removeprefix("# ") for line in script.split("# clean up:\n")[1].splitlines() if line.startswith("# docker")
    )
    try:
        created = inspection.run("bash", "-e", stdin=script, cwd=deployment.folder, timeout=300)
        assert created.returncode == 0, created.stdout + created.stderr
        beside = Clone(deployment.folder, deployment.state, "docker", prefix, {"mlflow": int(port[1])})
        assert inspection.has_run(beside, inspection.new_run(beside))
        url = f"http://127.0.0.1:{port[1]}/api/2.0/mlflow-artifacts/artifacts?path=nothing"
        assert inspection.ask(url)[0] == 200, "the store answers"
        lab = re.search(r"http://\S+/lab\?token=\S+", created.stdout)
        assert lab and inspection.ask(lab[0])[0] == 200
        assert inspection.identities(deployment) == before
    finally:
        cleaned = inspection.run("bash", "-e", stdin=clean, timeout=120)
    assert cleaned.returncode == 0, cleaned.stderr
    for kind in ("ps -a --format {{.Names}}", "volume ls --format {{.Name}}", "network ls --format {{.Name}}"):
        assert prefix not in inspection.output("docker", *kind.split())


def test_dead_engine_under_a_system(deployment: Clone) -> None:
    before = inspection.identities(deployment)
    for words in (
        ["up"],
        ["down"],
        ["status"],
        ["check"],
        ["logs", "mlflow"],
        ["jupyter-url"],
        ["down", "--delete-data", "--yes"],
    ):
        done = deployment.invoke(*words, DOCKER_HOST="unix:///nonexistent/docker.sock")
        inspection.refused(done, 1, "docker engine cannot be used", "unix:///nonexistent/docker.sock")
    assert inspection.identities(deployment) == before


def test_services_killed_and_removed_by_hand(deployment: Clone) -> None:
    deployment.up()
    kept = inspection.new_run(deployment)
    before = inspection.identities(deployment)
    inspection.output("docker", "kill", inspection.container(deployment, "postgres"))
    inspection.output(
        "docker", "rm", "-f", inspection.container(deployment, "mlflow"), inspection.container(deployment, "jupyter")
    )
    status = deployment.invoke("status")
    assert status.returncode == 1 and "missing" in status.stdout and "exited" in status.stdout
    deployment.up()
    after = inspection.identities(deployment)
    store = inspection.container(deployment, "store")
    assert after[store] == before[store], "what was well was touched"
    assert inspection.has_run(deployment, kept)


def test_state_folder_lost_over_kept_volumes(deployment: Clone) -> None:
    deployment.up()
    kept = inspection.new_run(deployment)
    assert deployment.invoke("down").returncode == 0
    shutil.rmtree(deployment.project_folder)
    done = deployment.invoke("up")
    inspection.refused(done, 1, "belongs to another Trackbed project", "--adopt")
    assert deployment.invoke("doctor").returncode == 1
    adopted = deployment.invoke("up", "--adopt")
    assert adopted.returncode == 0, adopted.stderr
    assert inspection.has_run(deployment, kept)
    done = deployment.invoke("check")
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root becomes other accounts")
def test_a_container_outlives_an_account_of_its_uid(deployment: Clone) -> None:
    """Without Docker, root ends all processes of its accounts, which no other user's container may be among."""
    uid = 60000 + os.getpid() % 90
    image = details(deployment, "postgres")["Config"]["Image"]
    words = ("--user", f"{uid}:{uid}", "--network", "none", "--entrypoint", "sleep", image, "300")
    container = inspection.output("docker", "run", "--detach", "--rm", *words)
    try:
        (pid,) = process_table.of_account(uid)
        account: Any = SimpleNamespace(pw_uid=uid, pw_gid=uid)
        Accounts._end(account)
        assert process_table.of_account(uid) == [pid]
    finally:
        inspection.output("docker", "rm", "--force", container)
