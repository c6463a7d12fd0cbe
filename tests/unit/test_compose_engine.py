"""The docker engine without Docker: a socket that answers like one, a command that prints a version, a model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from helpers import clone, commands, start
from helpers.checks import doctor
from helpers.engines import container_secrets, streaming
from helpers.engines.base import ExecResult, Health, Mount, Port, ServiceStatus, State
from helpers.engines.docker import availability, client_config, compose_model, images, iptables, startup
from helpers.engines.docker.client import LABEL, Container, DockerApi, socket_error
from helpers.engines.docker.compose import Snapshot
from helpers.engines.docker.engine import DockerEngine
from helpers.errors import Interrupted, ServiceFailed, TrackbedError
from helpers.findings import Level
from helpers.gpu import probe
from helpers.project import access
from tests.unit.fakes import Silent, deployed, project
from tests.unit.test_ports import Busy

VERSION = {"Version": "28.1.0", "ApiVersion": "1.49", "Components": [{"Name": "Engine"}]}
MODEL: dict[str, Any] = {
    "name": "lab",
    "services": {
        "mlflow": {
            "image": "trackbed/mlflow:1",
            "user": "10001:10001",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "command": ["serve"],
            "entrypoint": None,
            "environment": {"HOST": "x", "EMPTY": None},
            "restart": "always",
            "ports": [{"target": 8000, "published": "8010", "host_ip": "127.0.0.1"}],
            "volumes": [
                {"type": "volume", "source": "tmp", "target": "/tmp", "volume": {"nocopy": True}},
                {"type": "volume", "source": "secrets", "target": "/run/secrets", "read_only": True},
            ],
            "networks": {"backend": None, "frontend": None},
            "stop_grace_period": "1m30s",
            "depends_on": {
                "postgres": {"condition": "service_healthy"},
                "bucket": {"condition": "service_completed_successfully"},
            },
            "healthcheck": {
                "test": ["CMD", "trackbed-mlflow", "health"],
                "interval": "15s",
                "timeout": "10s",
                "retries": 4,
                "start_period": "2m0s",
                "start_interval": "500ms",
            },
        },
        "store": {
            "image": "s:1",
            "entrypoint": ["sh", "-c"],
            "command": ["KEY=$$(cat /k) exec serve"],
            "tmpfs": ["/tmp:mode=1777", "/run"],
            "networks": {"backend": None},
            "healthcheck": {"test": ["CMD-SHELL", "wget -q x || exit 1"]},
        },
        "bucket": {"image": "trackbed/mlflow:1", "networks": {"backend": None}},
    },
    "networks": {"backend": {"name": "lab_backend", "internal": True}, "frontend": {"name": "lab_frontend"}},
    "volumes": {"tmp": {"name": "lab_mlflow-tmp"}, "secrets": {"name": "lab_secrets-mlflow"}},
}


# the services of the Compose model


def test_a_compose_service_as_data() -> None:
    service = compose_model.service_spec("mlflow", MODEL, "lab")
    assert (service.container, service.hostname, service.image, service.user) == (
        "lab-mlflow-1",
        "mlflow",
        "trackbed/mlflow:1",
        "10001:10001",
    )
    assert service.environment == {"HOST": "x", "EMPTY": ""}
    assert service.ports == (Port("http", 8000, 8010, "127.0.0.1"),)
    assert service.mounts == (
        Mount("volume", "lab_mlflow-tmp", "/tmp", options="nocopy"),
        Mount("volume", "lab_secrets-mlflow", "/run/secrets", read_only=True),
    )
    assert service.networks == ("lab_backend", "lab_frontend")
    assert service.depends_on == {"postgres": "healthy", "bucket": "done"}
    assert (service.read_only, service.cap_drop, service.stop_grace, service.entrypoint) == (True, ("ALL",), 90, ())
    assert service.health == Health(("trackbed-mlflow", "health"), 15, 10, 4, 120, 0.5)
    assert not service.one_shot


@pytest.mark.parametrize("store", ["versitygw", "minio", "external"])
def test_the_server_starts_beside_what_it_needs_and_ends_before_it(store: str) -> None:
    """It imports for two seconds: neither the bucket nor a health check is between. Compose ends a service before those
    that it depends on."""
    files = [clone.ROOT / "docker" / f"compose{overlay}.yaml" for overlay in ("", f".{store}")]
    base, overlay = (yaml.safe_load(file.read_text())["services"] for file in files)
    waits = base["mlflow"]["depends_on"] | overlay.get("mlflow", {}).get("depends_on", {})
    assert {name: wait["condition"] for name, wait in waits.items()} == dict.fromkeys(
        ["postgres", *(name for name in overlay if name != "bucket" and name != "mlflow")], "service_started"
    )
    # `docker compose up --wait` takes the end of a service for a failure where nothing waits for it
    assert base["bucket-ended"]["depends_on"] == {"bucket": {"condition": "service_completed_successfully"}}
    assert base["bucket-ended"]["scale"] == 0 and base["bucket-ended"]["networks"] == ["backend"]


def test_a_shell_command_is_as_the_container_gets_it() -> None:
    service = compose_model.service_spec("store", MODEL, "lab")
    assert service.command == ("KEY=$(cat /k) exec serve",)
    assert service.entrypoint == ("sh", "-c")
    assert service.mounts == (Mount("tmpfs", "", "/tmp", options="mode=1777"), Mount("tmpfs", "", "/run"))
    assert service.health and service.health.argv == ("sh", "-c", "wget -q x || exit 1")


def test_the_bucket_step_is_a_one_shot() -> None:
    service = compose_model.service_spec("bucket", MODEL, "lab")
    assert service.one_shot and service.health is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", 10),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("2m0s", 120),
        ("1h0m0s", 3600),
        ("1.5s", 1.5),
        (7, 7.0),
        ("0s", 0),
    ],
)
def test_durations(text: str | float, expected: float) -> None:
    assert compose_model.seconds(text) == expected


@pytest.mark.parametrize("store", ["minio", "versitygw", "external"])
def test_every_secret_file_has_its_volume_and_owner(tmp_path: Path, store: str) -> None:
    here = deployed(project(tmp_path, project="lab").settings, store)
    volumes = {v.name: v for v in compose_model.volumes(here)}
    files = container_secrets.secret_files(here)
    assert {f.volume for f in files} == {name for name, v in volumes.items() if v.secret}
    for file in files:
        owner = volumes[file.volume]
        assert (file.uid, file.gid, file.mode) == (owner.uid, owner.gid, 0o400)
        assert owner.mode == 0o700
    assert (f"lab_{store}" in volumes) is (store != "external")
    assert all(name.startswith("lab_") for name in volumes)


# availability


class Socket:
    """A Unix socket that answers /_ping, /version and /info."""

    def __init__(self, version: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        body = json.dumps(version).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = body if self.path.endswith("/version") else b"OK"
                if self.path.endswith("/info"):
                    text = json.dumps(info).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_HEAD = do_GET

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *arguments: object) -> None: ...

        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name, "s"))
        self.server = socketserver.ThreadingUnixStreamServer(self.path, Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DockerEngine]]:
    """An engine whose socket, docker command and environment are the test's."""
    opened: list[Socket] = []
    for name in list(os.environ):
        if name.startswith("DOCKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # the CLI's contexts are there
    monkeypatch.setattr(availability, "DEFAULT_SOCKET", str(tmp_path / "no.sock"))

    def make(
        version: Mapping[str, Any] | None = None,
        plugin: str | None = "2.30.0",
        command: bool = True,
        info: Mapping[str, Any] | None = None,
        **environ: str,
    ) -> DockerEngine:
        if version is not None:
            opened.append(Socket({**VERSION, **version}, info or {}))
            environ.setdefault("DOCKER_HOST", f"unix://{opened[-1].path}")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        bin_folder = tmp_path / "bin"
        bin_folder.mkdir()
        if command:
            script = bin_folder / "docker"
            script.write_text(f"#!/bin/sh\n{f'echo {plugin}' if plugin else 'exit 1'}\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(bin_folder))
        return DockerEngine(project(tmp_path))

    yield make
    for one in opened:
        one.close()


def test_a_usable_engine(surroundings: Callable[..., DockerEngine]) -> None:
    result = surroundings({}, "v2.30.0").availability()
    assert (result.usable, result.present, result.reason) == (True, True, "Docker 28.1.0, Compose 2.30.0")


def test_compose_is_asked_once_for_its_version(
    surroundings: Callable[..., DockerEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, asked = surroundings({}), tmp_path / "asked"
    (tmp_path / "bin" / "docker").write_text(f"#!/bin/sh\necho $@ >> {asked}\necho v2.30.0\n")
    monkeypatch.setattr(engine, "plan", lambda: SimpleNamespace(services=()))
    assert engine.availability().usable
    assert engine.versions() == {"docker": "28.1.0", "compose": "2.30.0"}
    assert asked.read_text() == "compose version --short\n"


CASES: list[tuple[dict[str, Any], bool, str, str]] = [
    ({}, False, "no Docker engine answers at", "invoke doctor"),
    ({"version": {"Version": "24.0.7", "ApiVersion": "1.43"}}, True, "Docker 24.0.7 is too old", "docker-ce"),
    ({"version": {"Version": "20.10.5", "ApiVersion": "1.41"}}, True, "25 or newer is needed", "docker-ce"),
    ({"version": {"Components": [{"Name": "Podman Engine"}]}}, True, "is Podman", "docker-ce"),
    ({"version": {}, "command": False}, True, "the docker command is missing", "docker-ce-cli"),
    ({"version": {}, "plugin": None}, True, "the Compose plugin is missing", "docker-compose-plugin"),
    ({"version": {}, "plugin": "2.20.3"}, True, "Compose 2.20.3 is too old", "docker-compose-plugin"),
    ({"version": {}, "plugin": "v1.29.2"}, True, "Compose 1.29.2 is too old", "docker-compose-plugin"),
    ({"DOCKER_HOST": "tcp://10.0.0.9:2376"}, True, "is another machine", "ssh://USER@HOST"),
    ({"DOCKER_HOST": "ssh://ada@-oProxyCommand=x"}, True, "not the address of a machine", "ssh://USER@HOST"),
    ({"DOCKER_HOST": "unix:///nowhere/docker.sock"}, True, "does not answer: No such file", "unset DOCKER_HOST"),
]


@pytest.mark.parametrize(("around", "present", "reason", "fix"), CASES, ids=[case[2] for case in CASES])
def test_why_not(
    surroundings: Callable[..., DockerEngine],
    monkeypatch: pytest.MonkeyPatch,
    around: dict[str, Any],
    present: bool,
    reason: str,
    fix: str,
) -> None:
    monkeypatch.setattr(availability, "installed", lambda: False)
    result = surroundings(**around).availability()
    assert not result.usable
    assert result.present is present
    assert reason in result.reason
    assert fix in result.fix


def test_a_plugin_that_gives_no_answer_is_not_missing(
    surroundings: Callable[..., DockerEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = ExecResult(commands.TIMED_OUT, "", "no end after 30 s")
    monkeypatch.setattr(commands, "run", lambda *_, **__: silent)
    result = surroundings({}).availability()
    assert (result.usable, result.reason) == (False, "docker compose version: no end after 30 s")
    assert "free -h" in result.fix


def test_an_engine_that_is_stopped_is_started_and_not_installed_again(
    surroundings: Callable[..., DockerEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "installed", lambda: True)
    engine = surroundings()
    assert "systemctl start docker" in engine.availability().fix
    for instead in ("--engine=other", ""):
        (finding,) = engine.checks.presence(True, instead)
        assert "systemctl start docker" in finding.fix and "get.docker.com" not in finding.fix
        assert ("without it" in finding.fix) is bool(instead)


def choose_context(folder: Path, name: str, host: str = "") -> None:
    """As `docker context create` and `use` leave it."""
    config = folder / ".docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"currentContext": name}))
    if host:
        meta = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"
        meta.parent.mkdir(parents=True)
        meta.write_text(
            json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}})
        )


def test_a_context_without_the_usual_socket(
    surroundings: Callable[..., DockerEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rootless engines and Docker Desktop."""
    engine = surroundings({}, "v2.30.0")
    choose_context(tmp_path, "rootless", os.environ["DOCKER_HOST"])
    monkeypatch.delenv("DOCKER_HOST")
    result = engine.availability()
    assert (result.usable, result.reason) == (True, "Docker 28.1.0, Compose 2.30.0")
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    result = engine.availability()
    assert (result.usable, result.present) == (False, True)
    assert "no Docker context gone, which is chosen in DOCKER_CONTEXT" in result.reason and "context ls" in result.fix


def test_a_context_whose_engine_is_down(surroundings: Callable[..., DockerEngine], tmp_path: Path) -> None:
    choose_context(tmp_path, "rootless", f"unix://{tmp_path}/none.sock")
    result = surroundings().availability()
    assert (result.usable, result.present) == (False, True), "not quietly without Docker"
    assert "the Docker context rootless" in result.reason and "docker context use default" in result.fix


def test_the_workspaces_owner_in_a_user_namespace(surroundings: Callable[..., DockerEngine]) -> None:
    engine = surroundings(
        {}, "v2.30.0", info={"SecurityOptions": ["name=userns"], "DockerRootDir": "/var/lib/docker/100000.100000"}
    )
    assert engine.availability().usable and engine.deployment.notebook_uid == 1000
    assert engine.deployment.ids.to_host(engine.deployment.notebook_uid) == 101000


def test_a_rootless_engine(surroundings: Callable[..., DockerEngine]) -> None:
    engine = surroundings(
        {"Version": "26.1.5"}, "v2.30.0", info={"SecurityOptions": ["name=rootless"], "MemoryLimit": False}
    )
    assert engine.availability().usable and engine.deployment.ids.root_uid == os.geteuid()
    assert engine.deployment.notebook_uid == 0, "who will make the workspace is root in its containers"
    assert engine.guard.rules() == () and not engine.guard.reachable_from_network, (
        "its bridges are in another namespace"
    )
    assert [(f.check, f.level) for f in engine.checks.limits()] == [("limits", Level.WARNING)]


@pytest.mark.parametrize(
    ("words", "means"),
    [
        ("docker: 'buildx' is not a docker command.\nSee 'docker --help'", "Buildx is missing"),
        ("unknown command: docker buildx", "Buildx is missing"),
        (
            'error getting credentials - err: exec: "docker-credential-desktop": executable file not found in $PATH',
            "names the credential helper desktop",
        ),
        (
            "Credentials store error: StoreError('docker-credential-pass not installed or not available in PATH')",
            "names the credential helper pass",
        ),
        ("#9 ERROR: process did not complete", ""),
    ],
)
def test_what_docker_s_client_lacks(words: str, means: str) -> None:
    result = images.client_problem(words)
    assert (means in result[0]) if result else not means


def test_credential_helpers_that_are_not_installed(tmp_path: Path) -> None:
    (tmp_path / "docker-credential-here").touch(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "desktop", "credHelpers": {"a.example": "here"}}))
    environ = {"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path)}
    assert client_config.missing_helpers(environ) == ("docker-credential-desktop",)
    (tmp_path / "config.json").write_text("{nothing")
    assert client_config.missing_helpers(environ) == ()


def test_permission_denied(surroundings: Callable[..., DockerEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "socket_error", lambda path: PermissionError(13, "Permission denied"))
    result = surroundings().availability()
    assert (result.usable, result.present) == (False, True)
    assert "permission denied" in result.reason and "usermod -aG docker" in result.fix


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other words elsewhere")
def test_what_a_socket_says(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(socket_error(str(tmp_path / "file")), ConnectionRefusedError)
    assert isinstance(socket_error(str(tmp_path / "none")), FileNotFoundError)
    one = Socket(VERSION, {})
    assert socket_error(one.path) is None
    one.server.shutdown()
    one.server.server_close()
    assert isinstance(socket_error(one.path), ConnectionRefusedError)
    one.folder.cleanup()


# what is there already


def container(name: str, volumes: tuple[str, ...] = (), **labels: str) -> Container:
    return Container(
        "id-" + name,
        name,
        "some/image:1",
        "sha",
        State.READY,
        None,
        {k.replace("__", "."): v for k, v in labels.items()},
        (),
        "",
        volumes,
    )


def compose_container(name: str, *volumes: str, project: str = "trackbed") -> Container:
    return container(
        name,
        volumes,
        com__docker__compose__project=project,
        com__docker__compose__oneoff="False",
        com__docker__compose__service=name.split("-")[1],
        com__docker__compose__project__working_dir="/home/ada/lab",
    )


class FakeApi(DockerApi):
    def __init__(self, containers: list[Container], volumes: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__()
        self.there, self.labels = containers, volumes
        self.removed: list[str] = []

    def containers(self, labels: Any = ()) -> list[Container]:
        expected = dict(label.split("=", 1) for label in labels)
        return [c for c in self.there if expected.items() <= c.labels.items()]

    def volumes(self, names: Any) -> dict[str, Mapping[str, str]]:
        return {name: self.labels[name] for name in names if name in self.labels}

    def remove_volume(self, name: str) -> None:
        self.removed.append(name)


def engine_with(
    tmp_path: Path, containers: list[Container] | None = None, volumes: Mapping[str, Mapping[str, str]] | None = None
) -> DockerEngine:
    engine = DockerEngine(project(tmp_path), FakeApi(containers or [], volumes or {}))
    engine.project.state.instance = "mine" * 8
    return engine


def test_our_own_are_not_foreign(tmp_path: Path) -> None:
    ours = compose_container("trackbed-postgres-1", "trackbed_postgres")
    engine_with(
        tmp_path,
        [ours, container("something-else"), compose_container("lab-web-1", project="lab")],
        {"trackbed_postgres": {f"{LABEL}.instance": "mine" * 8}},
    ).check_foreign()


@pytest.mark.parametrize("kind", ["part", "service"])  # "part": created by version 1.0
def test_the_notebooks_container_is_known_by_the_labels_of_either_version(tmp_path: Path, kind: str) -> None:
    notebook = container("trackbed-jupyter", (), **{f"{LABEL}.project": "trackbed", f"{LABEL}.{kind}": "jupyter"})
    engine = engine_with(tmp_path, [notebook])
    assert [s.name for s in engine.services() if s.up] == ["jupyter"]
    assert engine.containers.find("jupyter") is notebook
    assert engine.api.containers(engine.notebook.labels) == [notebook]


def test_one_service_is_looked_for_with_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: compose_container(f"trackbed-{name}-1", "trackbed_postgres") for name in ("postgres", "mlflow")}
    notebook = container("trackbed-jupyter", (), **{f"{LABEL}.project": "trackbed"})
    engine = engine_with(tmp_path, [*ours.values(), notebook], {"trackbed_postgres": {f"{LABEL}.instance": "mine" * 8}})
    listed, asked = engine.api.containers, list[object]()

    def count(labels: Any) -> list[Container]:
        asked.append(labels)
        return listed(labels)

    monkeypatch.setattr(engine.api, "containers", count)
    for name, expected in (*ours.items(), ("jupyter", notebook)):
        assert engine.containers.find(name) is expected and engine.containers.ports(name) == ()
        assert len(asked) == 2
        asked.clear()
    assert engine.containers.ports("store") == ()
    with pytest.raises(TrackbedError, match="store has no container"):
        engine.containers.find("store")


def test_ports_that_are_chosen_are_planned_and_the_machine_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(tmp_path)
    engine.deployment.host = Busy(8000, 8888)
    nothing, looks = probe.look(tmp_path), []

    def look() -> Any:
        looks.append(1)
        return nothing

    def model(*_: str, timeout: float) -> Any:
        port = {"target": 8000, "published": str(engine.settings.mlflow_port), "host_ip": "127.0.0.1"}
        services = {"mlflow": {**MODEL["services"]["mlflow"], "ports": [port]}}
        return SimpleNamespace(code=0, stdout=json.dumps({**MODEL, "services": services}))

    monkeypatch.setattr(probe, "look", look)
    monkeypatch.setattr(engine.compose, "run", model)
    monkeypatch.setattr(engine.api, "info", lambda: {"DiscoveredDevices": []})
    chosen = start._choose_ports(engine.project, engine, lambda line: None)
    planned = [port.published for service in engine.plan().services for port in service.ports]
    assert planned == [int(chosen[name]) for name in ("MLFLOW_PORT", "JUPYTER_PORT")]
    assert len(looks) == 1


def test_a_notebook_is_outdated_once_it_would_be_created_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Container] = []
    engine = engine_with(tmp_path)
    monkeypatch.setattr(engine.api, "containers", lambda labels=(): made)
    monkeypatch.setattr(engine.api, "image", lambda name: {"id": "sha256:1", "labels": {}})
    monkeypatch.setattr(engine.api, "network_exists", lambda name: True)
    monkeypatch.setattr(engine.api, "host_config", lambda **options: options)
    monkeypatch.setattr(engine.api, "start", lambda name: None)
    monkeypatch.setattr(images, "is_stale", lambda *_: False)

    def create(name: str, arguments: Any, networks: Any) -> str:
        made.append(container(name, (), **arguments["labels"]))
        return name

    monkeypatch.setattr(engine.api, "create", create)
    assert engine.notebook_outdated()
    engine.notebook.start(Silent())
    assert not engine.notebook_outdated()
    monkeypatch.setattr(engine.api, "image", lambda name: {"id": "sha256:2", "labels": {}})
    assert engine.notebook_outdated()
    monkeypatch.setattr(engine.api, "image", lambda name: {"id": "sha256:1", "labels": {}})
    for state in State:
        made[:] = [replace(made[0], state=state)]
        assert engine.notebook_outdated() == (state in (State.UNHEALTHY, State.RESTARTING)), "a start ends these"
    monkeypatch.setattr(images, "is_stale", lambda *_: True)
    assert engine.notebook_outdated()


def test_a_container_that_was_started_again_has_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(tmp_path, [compose_container("trackbed-mlflow-1", "trackbed_data")])
    times = iter(["10:00", "10:00", "10:01"])
    monkeypatch.setattr(engine.api, "started", lambda name: f"{name} at {next(times)}")
    server = ServiceStatus("mlflow", State.READY, identity="7")
    assert engine.process(server) == engine.process(server) != engine.process(server)


def test_a_service_that_the_engine_starts_again_and_again_holds_its_own_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker lists such a container without ports, also while a try of its own listens on them."""
    ours = replace(compose_container("trackbed-mlflow-1", "trackbed_postgres"), state=State.RESTARTING, exit_code=78)
    engine = engine_with(tmp_path, [ours], {"trackbed_postgres": {f"{LABEL}.instance": "mine" * 8}})
    engine.deployment.host = Busy(8000, 8888)
    details = {
        "State": {"ExitCode": 78},
        "RestartCount": 3,
        "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}},
    }
    docker = SimpleNamespace(inspect_container=lambda name: details)
    monkeypatch.setattr(DockerApi, "client", property(lambda api: SimpleNamespace(api=docker)))
    server = next(status for status in engine.services() if status.name == "mlflow")
    assert server.ports == (Port("http", 8000, 8000, "127.0.0.1"),)
    planned = [("mlflow", Port("http", 8000, 8000)), ("jupyter", Port("http", 8888, 8888))]
    wrong = doctor.check_ports(engine.settings, planned, [server], {}, engine.deployment.host)
    assert [finding.detail.split(" is ")[0] for finding in wrong] == ["port 8888 (JUPYTER_PORT)"]


def test_another_compose_project_of_the_same_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = compose_container("trackbed-postgres-1", "trackbed_postgres")
    theirs = [compose_container("trackbed-web-1"), compose_container("trackbed-mlflow-1", "trackbed_data")]
    engine = engine_with(tmp_path, [ours, *theirs], {"trackbed_postgres": {f"{LABEL}.instance": "mine" * 8}})
    with pytest.raises(
        TrackbedError,
        match="another Compose project is called trackbed too, in /home/ada/lab: its "
        "containers trackbed-web-1, trackbed-mlflow-1 are not Trackbed's",
    ):
        engine.check_foreign()
    assert [s.name for s in engine.services() if s.state is not State.MISSING] == ["postgres"]

    removed: list[str] = []
    monkeypatch.setattr(engine.api, "stop", lambda name, seconds: None)
    monkeypatch.setattr(engine.api, "remove", removed.append)
    monkeypatch.setattr(engine.api, "remove_networks", lambda project, names: removed.extend(names))
    monkeypatch.setattr(iptables, "remove", lambda project: None)
    monkeypatch.setattr(engine.compose, "run", None)  # `docker compose down` would take all of them
    assert engine.stop(Silent()) == ("postgres",)
    assert removed == [
        "id-trackbed-postgres-1",
        "trackbed_backend",
        "trackbed_frontend",
        "trackbed_tracking",
        "trackbed_console",
    ]


@pytest.mark.parametrize(
    ("containers", "volumes", "message", "hint"),
    [
        ([container("trackbed-mlflow-1")], {}, "a container named trackbed-mlflow-1 exists", "docker rm -f"),
        ([container("trackbed-jupyter")], {}, "a container named trackbed-jupyter exists", "--project=NAME"),
        ([], {"trackbed_postgres": {}}, "a volume named trackbed_postgres exists", "docker volume rm"),
        (
            [],
            {"trackbed_versitygw": {f"{LABEL}.instance": "theirs" * 6}},
            "belongs to another Trackbed project (instance theirsth",
            "--adopt",
        ),
    ],
)
def test_what_is_foreign_is_refused(
    tmp_path: Path, containers: list[Container], volumes: Mapping[str, Mapping[str, str]], message: str, hint: str
) -> None:
    with pytest.raises(TrackbedError) as caught:
        engine_with(tmp_path, containers, volumes).check_foreign()
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ("ada", "trackbed-ada"),
        ("Ada B.", "trackbed-ada-b"),
        ("x" * 90, f"trackbed-{'x' * 20}"),
        ("", "trackbed-[0-9]+"),
    ],
)
def test_another_persons_project_is_left_alone_before_a_lost_one_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, person: str, name: str
) -> None:
    monkeypatch.setattr(access, "person", lambda: person)
    volumes = {"trackbed_postgres": {f"{LABEL}.instance": "theirs" * 6}}
    with pytest.raises(TrackbedError) as caught:
        engine_with(tmp_path, [], volumes).check_foreign()
    assert re.search(rf"`invoke up --project={name}`.*`invoke up --adopt`", caught.value.hint)


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        (("a",), "a"),
        (("a", "a"), "a"),
        (("a", "b"), None),
        ((), None),
    ],
)
def test_adoption_needs_one_owner(tmp_path: Path, owners: tuple[str, ...], expected: str | None) -> None:
    names = ("trackbed_postgres", "trackbed_versitygw")
    volumes = {name: {f"{LABEL}.instance": owner} for name, owner in zip(names, owners, strict=False)}
    assert engine_with(tmp_path, [], volumes).volumes.owner() == expected


def test_only_our_own_volumes_are_deleted(tmp_path: Path) -> None:
    mine = {f"{LABEL}.instance": "mine" * 8}
    engine = engine_with(
        tmp_path,
        [],
        {
            "trackbed_postgres": mine,
            "trackbed_versitygw": mine,
            "trackbed_secrets-mlflow": mine,
            "trackbed_minio": {f"{LABEL}.instance": "another"},
            "trackbed_secrets-store": {},
        },
    )
    assert [item.name for item in engine.data()] == [
        "volume trackbed_postgres",
        "volume trackbed_secrets-mlflow",
        "volume trackbed_versitygw",
    ]
    engine.remove_data(Silent())
    assert isinstance(engine.api, FakeApi)
    assert engine.api.removed == ["trackbed_postgres", "trackbed_secrets-mlflow", "trackbed_versitygw"]


@pytest.mark.parametrize(
    ("output", "statuses", "error", "message"),
    [
        (
            ["dependency failed to start: container trackbed-store-1 is unhealthy"],
            [ServiceStatus("store", State.READY)],
            ServiceFailed,
            "store is ready",
        ),
        (
            ["whatever"],
            [ServiceStatus("postgres", State.EXITED, "exit code 1", 1)],
            ServiceFailed,
            "postgres is exited",
        ),
        (
            ["Bind for 127.0.0.1:8000 failed: port is already allocated"],
            [],
            TrackbedError,
            "a port is taken: Bind for ",
        ),
        (["network lab_backend was found but has incorrect label x"], [], TrackbedError, "a network of this name"),
        (["something new"], [], TrackbedError, "docker compose up failed: something new"),
        ([], [], TrackbedError, "docker compose up failed: no output"),
    ],
)
def test_why_compose_failed(
    tmp_path: Path,
    output: list[str],
    statuses: list[ServiceStatus],
    error: type[TrackbedError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_with(tmp_path)
    monkeypatch.setattr(engine, "services", lambda detail=False: tuple(statuses))
    monkeypatch.setattr(engine, "logs", lambda service, tail=200, follow=False: iter(()))
    with pytest.raises(error) as caught:
        startup.explain(engine, output, ())
    assert message in caught.value.message
    assert caught.value.hint


def test_no_secret_in_what_compose_is_told(tmp_path: Path) -> None:
    engine = engine_with(tmp_path)
    reported = json.dumps(engine.compose.values())
    credentials = engine.project.credentials()
    assert not [name for name in credentials.names if credentials[name] in reported]
    assert not any("PASSWORD" in name or "SECRET_KEY" in name or "TOKEN" in name for name in engine.compose.values())


@pytest.mark.parametrize(("then", "fails"), [(State.READY, False), (State.EXITED, True)])
def test_the_roles_wait_for_a_database_that_compose_does_not_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: State, fails: bool
) -> None:
    """MLflow's server waits by itself, so Compose ends while the database still makes its files."""
    engine = engine_with(tmp_path)
    looks = [ServiceStatus("postgres", state, identity="p") for state in (State.STARTING,) * 3 + (then,)]
    seen: list[State] = []

    def look() -> tuple[ServiceStatus, ...]:
        now = looks.pop(0) if len(looks) > 1 else looks[0]
        seen.append(now.state)
        return (now,)

    def ensure(identity: str, progress: object) -> bool:
        assert seen[-1] is State.READY
        return True

    def compose_up(look: Callable[[], tuple[ServiceStatus, ...]], *_: object) -> Iterator[Snapshot]:
        yield Snapshot({s.name: s for s in look()}, 0, [])

    monkeypatch.setattr(startup, "LOOK_SECONDS", 0)
    monkeypatch.setattr(engine, "services", look)
    monkeypatch.setattr(engine, "logs", lambda service, tail=200, follow=False: iter(()))
    monkeypatch.setattr(engine.compose, "up", compose_up)
    monkeypatch.setattr(engine.notebook, "start", lambda progress: None)
    monkeypatch.setattr(engine.guard, "put", lambda: ())
    monkeypatch.setattr(engine.database, "ensure_roles", ensure)
    if fails:
        with pytest.raises(ServiceFailed, match="postgres is exited"):
            engine.startup.bring_up(Silent())
        return
    engine.startup.bring_up(Silent())


@pytest.mark.parametrize(("ended", "fails"), [("old", False), ("new", True)])
def test_what_compose_replaces_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str, fails: bool
) -> None:
    command = tmp_path / "bin" / "docker"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nsleep 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    engine = engine_with(tmp_path)

    def look(state: State, identity: str) -> tuple[ServiceStatus, ...]:
        return (ServiceStatus("postgres", State.READY, identity="p"), ServiceStatus("mlflow", state, identity=identity))

    looks = [look(State.READY, "old"), look(State.EXITED, ended)]
    monkeypatch.setattr(engine, "services", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    monkeypatch.setattr(engine.notebook, "start", lambda progress: None)
    monkeypatch.setattr(engine, "logs", lambda service, tail=200, follow=False: iter(()))
    monkeypatch.setattr(engine.compose, "environment", lambda: dict(os.environ))
    monkeypatch.setattr(engine.api, "network_exists", lambda name: False)
    monkeypatch.setattr(engine.guard, "put", lambda: ())
    monkeypatch.setattr(engine.database, "ensure_roles", lambda identity, progress: True)
    if fails:
        with pytest.raises(ServiceFailed, match="mlflow"):
            engine.startup.bring_up(Silent())
    else:
        engine.startup.bring_up(Silent())


@pytest.mark.parametrize("where", ["while it looks", "while it reacts"])
def test_an_interrupt_ends_compose_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    command, pid = tmp_path / "bin" / "docker", tmp_path / "pid"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\necho $$ >{pid}\nexec sleep 60\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    engine = engine_with(tmp_path)

    def interrupted(*_: object) -> tuple[ServiceStatus, ...]:
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt
        return (ServiceStatus("postgres", State.READY, identity="p"),)

    def looked() -> tuple[ServiceStatus, ...]:
        return (ServiceStatus("postgres", State.READY, identity="p"),)

    def ensure_roles(identity: str, progress: Silent) -> bool:
        interrupted()
        return False

    monkeypatch.setattr(engine, "services", interrupted if where == "while it looks" else looked)
    monkeypatch.setattr(engine.compose, "environment", lambda: dict(os.environ))
    monkeypatch.setattr(engine.notebook, "networks_exist", lambda: False)
    monkeypatch.setattr(engine.database, "ensure_roles", ensure_roles)
    with pytest.raises(Interrupted, match="interrupted while starting"):
        engine.startup.bring_up(Silent())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_streams_is_not_logged_by_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: dict[str, Any] = {}
    monkeypatch.setattr(streaming, "piped", lambda what, argv, env, cwd: reported.update(argv=argv, env=env))
    engine_with(tmp_path).pipe("mlflow", ("trackbed-mlflow", "out"), fresh=True)
    *files, last = reported["env"]["COMPOSE_FILE"].split(":")
    assert files[0] == "docker/compose.yaml" and reported["argv"][:3] == ["docker", "compose", "run"]
    overlay = yaml.safe_load((clone.ROOT / last).read_text())
    assert overlay == {"services": {"mlflow": {"logging": {"driver": "none"}}}}


@pytest.mark.parametrize("existed", [False, True])
def test_a_start_tells_whether_it_made_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    engine = engine_with(tmp_path)
    monkeypatch.setattr(engine, "make_volumes", lambda: existed)
    for part, names in (
        (engine, ("check_foreign", "halt")),
        (engine.startup, ("free_ports", "bring_up")),
        (engine.workspace, ("make",)),
        (engine.guard, ("put",)),
    ):
        for name in names:
            monkeypatch.setattr(part, name, lambda *_, **__: None)
    monkeypatch.setattr(engine.database, "check", lambda *_: existed)
    monkeypatch.setattr(engine, "services", lambda detail=False: ())
    assert engine.startup.start(Silent()).new_database is not existed


@pytest.mark.parametrize(
    ("now", "said", "asked_again"),
    [
        (("old", State.EXITED), "psql: error", True),
        (("new", State.STARTING), "psql: error", True),
        (("old", State.READY), "container old is not running", True),
        (("old", State.READY), "FATAL:  the database system is shutting down", True),
        (
            ("old", State.READY),
            "server closed the connection unexpectedly\nThis probably means the server terminated "
            "abnormally\nbefore or while processing the request.",
            True,
        ),
        (("old", State.READY), "ERROR:  no room", False),
    ],
)
def test_a_database_that_is_replaced_while_it_is_asked_has_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: tuple[str, State], said: str, asked_again: bool
) -> None:
    engine = engine_with(tmp_path)
    monkeypatch.setattr(engine, "exec", lambda *words, **options: ExecResult(1, "", said))
    monkeypatch.setattr(engine, "services", lambda: (ServiceStatus("postgres", now[1], identity=now[0]),))
    if asked_again:
        assert engine.database.ensure_roles("old", Silent()) is False
    else:
        with pytest.raises(ServiceFailed, match="the database's roles could not be set: ERROR:  no room"):
            engine.database.ensure_roles("old", Silent())
