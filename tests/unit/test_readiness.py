"""Waiting: a fake engine, and a small HTTP server that answers what a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from helpers import http_request
from helpers.checks import readiness
from helpers.engines import failures
from helpers.engines.base import JUPYTER, MLFLOW, POSTGRES, STORE, Address, Engine, ServiceStatus, State
from helpers.errors import NotReady, PortTaken, ServiceFailed
from tests.conftest import PATIENCE

Rule = Callable[[str, str], tuple[int, bytes]]


class Server:
    """MLflow and JupyterLab in one, with a rule that a test replaces. Artifacts are kept."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.rule: Rule = lambda method, path: (200, b"{}")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append(f"{self.command} {self.path}")
                status, text = outer.rule(self.command, self.path)
                if status == 200 and self.command == "PUT":
                    outer.stored[self.path] = body
                if status == 200 and self.command == "GET" and self.path in outer.stored:
                    text = outer.stored[self.path]
                if self.command == "DELETE":
                    outer.stored.pop(self.path, None)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_DELETE = _answer

            def log_message(self, *arguments: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    created = Server()
    yield created
    created.http.shutdown()
    created.http.server_close()


class FakeEngine:
    def access_token(self) -> str:
        return ""

    name = "fake"

    def __init__(self, port: int, *statuses: ServiceStatus) -> None:
        self.port = port
        self.statuses = statuses
        self.looks = 0

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        yield Address("127.0.0.1", self.port)

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        self.looks += 1
        return self.statuses

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        yield from (f"{service} line {n}\n" for n in (1, 2))


class FakeProgress:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def step(self, text: str) -> None: ...

    def service(self, name: str, state: str, note: str = "") -> None:
        self.seen.append((name, state))

    def amount(self, name: str, done: int, whole: int, note: str) -> None: ...

    def output(self, line: str) -> None: ...


def wait(
    engine: FakeEngine,
    timeout: float = PATIENCE,
    changed: bool = True,
    services: tuple[str, ...] = (POSTGRES, MLFLOW, JUPYTER),
) -> FakeProgress:
    progress = FakeProgress()
    readiness.wait(cast(Engine, engine), services, timeout, progress, changed)
    return progress


READY = tuple(ServiceStatus(name, State.READY) for name in (MLFLOW, JUPYTER, POSTGRES))


def test_ready_goes_through_to_database_and_store(server: Server) -> None:
    progress = wait(FakeEngine(server.port, *READY))
    assert progress.seen == [(MLFLOW, "ready"), (JUPYTER, "ready"), (POSTGRES, "ready")]
    paths = [line.split("?")[0].split("/__probe__")[0] for line in server.asked]
    assert "GET /api/2.0/mlflow/experiments/search" in paths
    assert [line.split()[0] for line in server.asked if "/__probe__/" in line] == ["PUT", "GET", "DELETE"]
    assert server.stored == {}


def test_nothing_is_written_when_nothing_changed(server: Server) -> None:
    wait(FakeEngine(server.port, *READY), changed=False)
    assert not any(line.startswith("PUT") for line in server.asked)


def test_it_waits_until_the_answer_changes(server: Server) -> None:
    starting = [(503, b"starting")] * 5
    server.rule = lambda method, path: starting.pop() if starting else (200, b"{}")
    wait(FakeEngine(server.port, *READY))
    assert not starting


def test_it_waits_for_the_word_of_the_engine_too(server: Server) -> None:
    class Late(FakeEngine):
        def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
            super().services()
            return (READY[0], ServiceStatus(JUPYTER, State.STARTING if self.looks < 4 else State.READY), READY[2])

    engine = Late(server.port)
    wait(engine)
    assert engine.services() == READY and engine.looks > 4, "status right after it says ready"


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("name", [POSTGRES, STORE])
def test_nothing_is_ready_beside_a_service_that_has_exited(server: Server, name: str, changed: bool) -> None:
    """Another process answers in its place, as one does that lost its supervisor."""
    engine = FakeEngine(server.port, *READY[:2], ServiceStatus(name, State.EXITED, exit_code=1))
    with pytest.raises(ServiceFailed, match=f"{name} is exited, exit code 1"):
        wait(engine, changed=changed, services=(MLFLOW, JUPYTER, name))


@pytest.mark.parametrize("state", [State.STARTING, State.MISSING])
def test_a_service_that_nothing_is_asked_of_is_waited_for(server: Server, state: State) -> None:
    progress = FakeProgress()
    with pytest.raises(NotReady, match=rf"not ready after 0 s: postgres \({state}\)"):
        readiness.wait(
            cast(Engine, FakeEngine(server.port, *READY[:2], ServiceStatus(POSTGRES, state))),
            (POSTGRES, MLFLOW, JUPYTER),
            0,
            progress,
        )
    assert (POSTGRES, "ready") not in progress.seen


@pytest.mark.parametrize("state", [State.EXITED, State.UNHEALTHY])
def test_a_failed_service_ends_the_wait_at_once(server: Server, state: State) -> None:
    server.rule = lambda method, path: (500, b"")
    with pytest.raises(ServiceFailed) as caught:
        wait(FakeEngine(server.port, ServiceStatus(MLFLOW, state, "killed: out of memory", 137)))
    assert caught.value.service == MLFLOW
    assert caught.value.message == f"mlflow is {state}, exit code 137: killed: out of memory"
    assert caught.value.details == ("mlflow line 1", "mlflow line 2")
    assert "invoke logs mlflow" in caught.value.hint


def test_a_service_that_keeps_restarting_is_a_failed_one(server: Server) -> None:
    server.rule = lambda method, path: (500, b"")
    with pytest.raises(ServiceFailed, match="mlflow is restarting"):
        wait(FakeEngine(server.port, ServiceStatus(MLFLOW, State.RESTARTING, exit_code=1)))


def test_restarts_while_one_waits_are_a_failure_though_it_is_only_seen_starting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "DOWN_SECONDS", 0.3)

    class Crashing(FakeEngine):
        def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
            super().services()
            return (ServiceStatus(MLFLOW, State.STARTING, restarts=4 + self.looks // 2),)  # those before do not count

    server.rule = lambda method, path: (500, b"")
    engine = Crashing(server.port)
    with pytest.raises(ServiceFailed, match="mlflow is restarting$"):
        wait(engine)
    assert engine.looks >= 4


def test_the_exit_code_of_a_restarting_service_is_waited_for_until_it_is_down(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crashing(FakeEngine):
        def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
            super().services()
            if self.looks < 7:
                return (ServiceStatus(MLFLOW, State.STARTING, restarts=self.looks // 2),)
            return (ServiceStatus(MLFLOW, State.RESTARTING, "exit code 78", 78, restarts=3),)

    monkeypatch.setattr(failures, "DOWN_SECONDS", PATIENCE)
    server.rule = lambda method, path: (500, b"")
    with pytest.raises(ServiceFailed, match="mlflow is restarting, exit code 78$"):
        wait(Crashing(server.port))


def test_an_exit_code_is_not_said_twice(server: Server) -> None:
    problem = failures.failure(cast(Engine, FakeEngine(0)), ServiceStatus(MLFLOW, State.EXITED, "exit code 1", 1))
    assert problem.message == "mlflow is exited, exit code 1"


def test_a_known_cause_comes_without_the_services_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(0)
    lines = ["INFO starts", "Traceback (most recent call last):", "EOFError: marshal data too short"]
    monkeypatch.setattr(engine, "logs", lambda *_, **__: iter(lines))
    problem = failures.failure(cast(Engine, engine), ServiceStatus(MLFLOW, State.EXITED, exit_code=1))
    assert "byte code is damaged" in problem.message and problem.details == tuple(lines[-1:])
    lines[-1] = "ValueError: of its own"
    problem = failures.failure(cast(Engine, engine), ServiceStatus(MLFLOW, State.EXITED, exit_code=1))
    assert problem.details == tuple(lines)


def test_a_failed_service_that_nobody_waits_for_does_not_count(server: Server) -> None:
    wait(FakeEngine(server.port, ServiceStatus(MLFLOW, State.EXITED), *READY[1:]), services=(JUPYTER,))


CASES: list[tuple[Rule, str]] = [
    (
        lambda m, p: (500, b'{"message": "no database"}') if "experiments" in p else (200, b"{}"),
        "mlflow (the tracking server's database: HTTP 500 no database)",
    ),
    (lambda m, p: (404, b"") if "path=__probe__" in p else (200, b"{}"), "mlflow (artifacts: the bucket is missing)"),
    (
        lambda m, p: (500, b"") if "path=__probe__" in p else (200, b"{}"),
        "mlflow (artifacts: the object store does not answer the tracking server)",
    ),
    (
        lambda m, p: (403, b"denied\n  by  policy") if "path=__probe__" in p else (200, b"{}"),
        "mlflow (artifacts: HTTP 403 denied by policy)",
    ),
    (
        lambda m, p: (507, b"full") if m == "PUT" else (200, b"{}"),
        "mlflow (an artifact could not be written: HTTP 507 full)",
    ),
    (
        lambda m, p: (404, b"gone") if m == "GET" and "/__probe__/" in p else (200, b"{}"),
        "mlflow (an artifact did not come back: HTTP 404 gone)",
    ),
    (lambda m, p: (503, b"wait") if p == "/api" else (200, b"{}"), "jupyter (JupyterLab: HTTP 503 wait)"),
]


@pytest.mark.parametrize(("rule", "missing"), CASES, ids=[case[1] for case in CASES])
def test_a_timeout_names_what_is_missing(server: Server, rule: Rule, missing: str) -> None:
    server.rule = rule
    with pytest.raises(NotReady) as caught:
        wait(FakeEngine(server.port, *READY), timeout=0)
    assert caught.value.message == f"not ready after 0 s: {missing}"
    assert f"invoke logs {missing.split()[0]}" in caught.value.hint


def test_a_timeout_names_every_service_that_is_missing(server: Server) -> None:
    server.rule = lambda method, path: (503, b"no")
    with pytest.raises(NotReady) as caught:
        wait(FakeEngine(server.port, *READY), timeout=0)
    assert "mlflow (" in caught.value.message and "jupyter (" in caught.value.message


def test_nothing_listens(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(NotReady, match="Connection refused"):
        wait(FakeEngine(server.port, *READY), timeout=0)


@pytest.mark.parametrize("looks", [3, 10**6])
def test_a_port_that_another_program_keeps_ends_the_wait(
    server: Server, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Two projects that start at once may choose the same; what a killed service left there is ended in a moment."""

    class Taken(FakeEngine):
        opened = 0

        @contextmanager
        def open(self, service: str, port: str) -> Iterator[Address]:
            if service == MLFLOW:
                self.opened += 1
                if self.opened <= looks:
                    raise PortTaken("port 8000 is held by another program, not by mlflow", "`invoke doctor` names it")
            yield Address("127.0.0.1", self.port)

    engine = Taken(server.port, *(ServiceStatus(name, State.READY) for name in (POSTGRES, MLFLOW, JUPYTER)))
    monkeypatch.setattr(readiness, "TAKEN_SECONDS", PATIENCE if looks == 3 else 0.2)
    if looks == 3:
        wait(engine)
        return
    with pytest.raises(PortTaken, match="port 8000 is held by another program"):
        wait(engine)


def test_no_proxy_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert http_request.ask(f"http://127.0.0.1:{server.port}/").ok


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_what_is_no_http_is_an_answer_too(answer: bytes) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        got = http_request.ask(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
    assert got.status == 0 or got.body == "short"


def test_interrupts_are_passed_on(server: Server) -> None:
    class Impatient(FakeEngine):
        def services(self, detail: bool = False) -> Any:
            raise KeyboardInterrupt

    server.rule = lambda method, path: (500, b"")
    with pytest.raises(KeyboardInterrupt):
        wait(Impatient(server.port))
