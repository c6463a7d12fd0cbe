"""The MLflow server's entry (docker/mlflow/start.py): what it decides before it starts anything."""

from __future__ import annotations

import ast
import gc
import graphlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from trackbed_mlflow import configuration, encryption, errors, health, leftovers, preparation, serve

from helpers.clone import SERVER_PACKAGE
from tests.claims import free_ports
from tests.conftest import PATIENCE
from tests.unit.fakes import ENTRY, trackbed_mlflow


def test_what_every_engine_needs_is_set_and_what_was_given_wins() -> None:
    environment = {"MLFLOW_DISABLE_TELEMETRY": "false"}
    configuration.prepare(environment)
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_heartbeat_lies_in_memory_only_where_it_can(tmp_path: Path) -> None:
    """A machine may have closed /dev/shm to this account: gunicorn would end with a traceback."""
    assert serve.heartbeat_folder(str(tmp_path)) == str(tmp_path) and not list(tmp_path.iterdir())
    assert serve.heartbeat_folder(str(tmp_path / "none")) is None
    (tmp_path / "file").touch()
    assert serve.heartbeat_folder(str(tmp_path / "file")) is None


@pytest.mark.parametrize(
    "name",
    ["MLFLOW_HOST", "MLFLOW_PORT", "MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_DEPLOYMENTS_TARGET"],
)
def test_stray_variables_do_not_reach_the_server(name: str) -> None:
    environment = {name: "tcp://10.0.0.1:8000"}
    configuration.prepare(environment)
    assert name not in environment


def test_arguments_name_no_store() -> None:
    environment = {
        "TRACKBED_PORT": "8123",
        "TRACKBED_WORKERS": "",
        "TRACKBED_HOST": "127.0.0.1",
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://u:secret@h/d",
    }
    assert configuration.server_arguments(environment) == [
        "server",
        "--app-name",
        "trackbed",
        "--host",
        "127.0.0.1",
        "--port",
        "8123",
        "--workers",
        "2",
    ]


@pytest.mark.parametrize("value", ["0", "65536", "tcp://10.0.0.1:8000", "-1", "8e3", " "])
def test_a_wrong_port_is_refused(value: str) -> None:
    with pytest.raises(errors.Stop, match="TRACKBED_PORT") as caught:
        configuration.server_arguments({"TRACKBED_PORT": value})
    assert caught.value.code == errors.MISCONFIGURED


def test_the_entry_finds_the_modules_beside_it_through_the_link_on_path(tmp_path: Path) -> None:
    (tmp_path / "trackbed-mlflow").symlink_to(ENTRY)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "trackbed-mlflow"), "list"],
        capture_output=True,
        timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "none")},
        check=True,
    )
    assert json.loads(done.stdout) == [None, 0, ""]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(SERVER_PACKAGE).with_suffix("").parts)


def imported(text: str) -> set[str]:
    """The modules of the server's package that a text imports, as `edge.routes`."""
    result = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == SERVER_PACKAGE.name:
            whole = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            names = [name.partition(".")[2] for name in whole]
            result |= {name for name in names if (SERVER_PACKAGE / f"{name.replace('.', '/')}.py").is_file()}
    return result


def test_the_entrys_modules_import_in_one_direction() -> None:
    graph = {dotted(path): imported(path.read_text()) for path in SERVER_PACKAGE.rglob("*.py")}
    graphlib.TopologicalSorter(graph).prepare()  # an error when there is a circle
    assert not [name for name in graph if "cli" in graph[name]]
    assert "object_store" in graph["transfer"] and "transfer" in graph["cli"]
    assert "edge.routes" in graph["edge.middleware"]


def test_no_module_of_ours_hides_one_that_the_server_imports() -> None:
    """Their folder is the first that Python looks into."""
    ours = {path.stem for path in (*ENTRY.parent.glob("*.py"), SERVER_PACKAGE)}
    locked = set(re.findall(r"^([\w.-]+)==", ENTRY.with_name("requirements.txt").read_text(), re.MULTILINE))
    assert not ours & sys.stdlib_module_names and not ours & {name.replace("-", "_") for name in locked}


def test_what_the_server_does_not_import_is_not_in_the_image() -> None:
    """A package that is there in one engine and not in the other would make two servers of one."""
    text = ENTRY.with_name("Dockerfile").read_text()
    removed = text.split("for name in ")[1].split("; do rm")[0].replace("\\", " ").split()
    assert set(serve.CLIENT_ONLY) <= set(removed)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    clock, asked = Clock(), []

    def ask() -> str:
        asked.append(clock.now)
        if len(asked) < 4:
            raise errors.NotYet("starting up")
        return "here"

    assert errors.wait("the database", ask, 60, clock, clock.sleep) == "here"
    assert len(asked) == 4
    assert capsys.readouterr().err == "trackbed: waiting for the database (starting up)\n"


def test_a_wait_of_minutes_tells_what_it_waits_for_now(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()

    def ask(reasons: Iterator[str]) -> str:
        if reason := next(reasons, ""):
            raise errors.NotYet(reason)
        return "here"

    changing = iter(["connection refused", "connection refused", "no database", "connection refused"])
    errors.wait("the database", lambda: ask(changing), 60, clock, clock.sleep)
    assert capsys.readouterr().err.splitlines() == [
        "trackbed: waiting for the database (connection refused)",
        "trackbed: waiting for the database (no database)",
    ]
    always_another = iter([f"request {number}" for number in range(20)])
    errors.wait("the store", lambda: ask(always_another), 60, clock, clock.sleep)
    assert len(capsys.readouterr().err.splitlines()) == errors.MOST_REASONS


def test_waiting_is_bounded_and_names_the_last_reason() -> None:
    clock = Clock()

    def ask() -> str:
        raise errors.NotYet("connection refused")

    with pytest.raises(errors.Stop, match=r"within 60 s: connection refused") as caught:
        errors.wait("the database", ask, 60, clock, clock.sleep)
    assert caught.value.code == errors.NO_ANSWER
    assert 50 < clock.now <= 60


@pytest.mark.parametrize("arguments", [(), ("sevre",), ("serve", "now"), ("object",)])
def test_wrong_use_shows_the_help(arguments: tuple[str, ...]) -> None:
    done = trackbed_mlflow(*arguments)
    assert done.returncode == 2
    assert "serve" in done.stderr


def test_a_missing_setting_is_named() -> None:
    done = trackbed_mlflow("serve")
    assert (done.returncode, done.stderr) == (78, "trackbed: MLFLOW_ARTIFACTS_DESTINATION is not set\n")


@pytest.mark.parametrize(
    ("answered", "prepared", "first"),
    [("", "empty", True), ("", "current", False), ("empty", "", True), ("current", "", False), ("older", "", False)],
)
def test_the_server_is_imported_with_its_keys_and_before_the_database_answers(
    answered: str, prepared: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow makes the column of webhooks' secrets with the key of that moment, a random one without any. Only a server
    that found an empty database waits for the bucket as long as it takes."""
    order: list[str] = []
    monkeypatch.setattr(os, "environ", {"MLFLOW_ARTIFACTS_DESTINATION": "s3://b/live"})
    for module, name in (
        (encryption, "load"),
        (serve, "import_server"),
        (encryption, "reseal"),
        (serve, "serve_in_this_process"),
        (leftovers, "end_processes"),
        (gc, "freeze"),
        (gc, "collect"),
    ):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: order.append(name))
    awaited: list[bool] = []

    def prepare_database(starting: bool = False) -> str:
        order.append("prepare_database")
        return prepared

    def await_bucket(environment: object, first: bool) -> None:
        order.append("await_bucket")
        awaited.append(first)

    monkeypatch.setattr(preparation, "prepare_if_it_answers", lambda: answered)
    monkeypatch.setattr(preparation, "prepare_database", prepare_database)
    monkeypatch.setattr(preparation, "await_bucket", await_bucket)
    serve.serve()
    assert order[1:] == [
        "load",
        "import_server",
        *(["prepare_database"] if prepared else []),
        "freeze",
        "await_bucket",
        "collect",
        "reseal",
        "serve_in_this_process",
    ]
    assert awaited == [first]


@contextmanager
def server(answer: bytes, asked: list[bytes] | None = None) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                request = connection.recv(65536)
                if asked is not None:
                    asked.append(request)
                connection.sendall(answer)

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n{}", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nno database", 1, "503 Service Unavailable: no database"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nInvalid Host header", 1, "Invalid Host header"),
        (b"", 1, ""),
    ],
)
def test_health_is_the_answer_of_the_api(answer: bytes, code: int, said: str) -> None:
    with server(answer) as port:
        done = trackbed_mlflow("health", TRACKBED_PORT=str(port))
    assert done.returncode == code
    assert said in done.stderr


@pytest.mark.parametrize(("token", "sent"), [("", False), ("t0ken", True)])
def test_health_sends_the_access_token(tmp_path: Path, token: str, sent: bool) -> None:
    (tmp_path / "token").write_text(token)
    asked: list[bytes] = []
    with server(b"HTTP/1.1 200 OK\r\n\r\n{}", asked) as port:
        done = trackbed_mlflow("health", TRACKBED_PORT=str(port), TRACKBED_ACCESS_TOKEN_FILE=str(tmp_path / "token"))
    assert done.returncode == 0
    assert (b"\r\nAuthorization: Bearer t0ken\r\n" in asked[0]) is sent


def test_health_waits_for_the_port_of_a_server_that_starts() -> None:
    """One check that waits, instead of one after the other that fails."""
    port = free_ports(1)[0]
    with ExitStack() as stack:
        pauses = iter(range(3))

        def sleep(_: float) -> None:
            if next(pauses) == 2:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))

        with health.connect(("127.0.0.1", port), clock=lambda: 0.0, sleep=sleep) as connection:
            assert connection.getpeername() == ("127.0.0.1", port)
            assert connection.gettimeout() == health.SECONDS


def test_health_ends_where_no_server_comes() -> None:
    """In the time that Docker and Kubernetes give a check, so that they have its reason."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(ConnectionRefusedError):
        health.connect(("127.0.0.1", free_ports(1)[0]), clock=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(health.LISTENS, abs=0.1)
    assert health.LISTENS < health.SECONDS < 10


def test_health_tells_why_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LISTENS", 0)
    port = free_ports(1)[0]
    with pytest.raises(errors.Stop, match=f"no answer on port {port}: .*refused"):
        health.ask({"TRACKBED_PORT": str(port)})


@pytest.fixture(scope="module")
def health_imports() -> set[str]:
    """The modules that `health` has imported when it ends: it also runs while the server starts."""
    with server(b"") as port:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(ENTRY), "health"],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "TRACKBED_PORT": str(port)},
            timeout=PATIENCE,
            check=False,
        )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "module",
    [
        "json",
        "tarfile",
        "asyncio",
        "concurrent.futures",
        "sqlalchemy",
        "boto3",
        "subprocess",
        "hmac",
        "trackbed_mlflow.jobs",
        "trackbed_mlflow.schema",
        "trackbed_mlflow.bucket",
        "trackbed_mlflow.object_store",
        "trackbed_mlflow.transfer",
        "trackbed_mlflow.indexes",
        "trackbed_mlflow.fast_path",
    ],
)
def test_health_imports_what_it_needs_alone(health_imports: set[str], module: str) -> None:
    assert "trackbed_mlflow.errors" in health_imports and module not in health_imports


def test_leftovers_of_killed_uploads_go_and_the_rest_stays(tmp_path: Path) -> None:
    now = 1_000_000.0
    for name in ("tmpold", "tmpnew", "keep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"x")
        age = 10.0 if name == "tmpnew" else 7200.0
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / "tmplink").symlink_to(tmp_path / "keep")
    assert leftovers.clear_files(tmp_path, now) == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"tmpnew", "keep", "tmplink"}


def test_gunicorn_puts_nothing_into_the_home() -> None:
    """Its control socket would be there: of all projects of a user, and an error where the home is closed."""
    assert serve.Workers("127.0.0.1", "8000", "2").options["control_socket_disable"] is True
