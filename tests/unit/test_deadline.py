"""Looking ends, whatever does not answer: an engine, a supervisor, a server that sends a byte now and then."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import ClassVar

import pytest

from helpers import commands, deadline, http_request
from helpers.deadline import within
from helpers.engines.base import JUPYTER
from helpers.engines.docker.client import DockerApi, connection
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.supervisor import Supervisor
from helpers.errors import EngineUnavailable
from tests.unit.fakes import project


def test_a_result_an_error_and_a_limit() -> None:
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    free = threading.Event()
    with pytest.raises(TimeoutError, match="no whole answer"):
        within(0.1, free.wait)
    free.set()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket whose connections are taken and never answered, as a frozen process's."""
    path = tmp_path / "supervisor.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(50)
        yield path


def test_a_frozen_docker_is_an_error_and_not_a_wait(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{silent}")
    with pytest.raises(EngineUnavailable, match="Docker does not answer"):
        DockerApi().version()


class DockerAnswers(BaseHTTPRequestHandler):
    """An engine that tells its version, or something else."""

    told: ClassVar[bytes] = b""
    asked: ClassVar[list[str]] = []

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.told)))
        self.end_headers()
        self.wfile.write(self.told)


@pytest.fixture
def docker_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DockerAnswers]]:
    path = tmp_path / "docker.sock"
    with ThreadingUnixStreamServer(str(path), DockerAnswers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        monkeypatch.setattr(DockerAnswers, "asked", [])
        yield DockerAnswers
        server.shutdown()


def test_an_engine_is_asked_once_for_its_version(
    docker_engine: type[DockerAnswers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "told", b'{"Version": "26.1.5", "ApiVersion": "1.45"}')
    api = DockerApi()
    for _ in range(2):
        assert api.version() == {"Version": "26.1.5", "ApiVersion": "1.45"}
    assert docker_engine.asked == ["/version"] and api.client.api.api_version == "1.45"


@pytest.mark.parametrize("told", [b"{}", b"[]", b"<html>", b'{"ApiVersion": 1.45}'])
def test_what_is_no_engine_is_told(
    docker_engine: type[DockerAnswers], monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    monkeypatch.setattr(docker_engine, "told", told)
    with pytest.raises(EngineUnavailable, match="Docker does not answer: "):
        DockerApi().version()


def test_an_engine_that_freezes_later_is_told_as_well(silent: Path) -> None:
    import docker

    client = docker.APIClient(base_url=f"unix://{silent}", version="1.44", timeout=1)
    setattr(client, "send", connection.with_clear_errors(client.send))  # noqa: B010
    with pytest.raises(EngineUnavailable, match="does not answer"):
        client.containers()


def test_a_frozen_supervisor_is_seen_and_not_waited_for(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor._rpc, "__defaults__", (0.3,))
    supervisor = Supervisor(silent.parent, silent.parent, "0123abc")
    assert supervisor.states() == {} and supervisor.hung
    assert not supervisor.running()


def test_a_server_that_drips_does_not_hold_a_look_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        enough = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not enough.wait(0.1):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        answer = http_request.ask(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=1)
        enough.set()
        thread.join()
    assert answer.status == 0 and "no whole answer" in answer.body


def test_a_program_that_writes_without_end() -> None:
    with pytest.raises(deadline.TooMuch):
        deadline.run(["yes"], 1 << 16, 30)


def test_a_program_that_leaves_one_behind_with_its_pipes(tmp_path: Path) -> None:
    left = f"(sleep 20; touch {tmp_path}/ended) & sleep 20"
    with pytest.raises(subprocess.TimeoutExpired):
        deadline.run(["sh", "-c", left], 1 << 16, 0.3)
    assert not (tmp_path / "ended").exists(), "it was waited for"


def test_what_a_program_says() -> None:
    done = deadline.run(["sh", "-c", "cat; echo no >&2; exit 3"], 1 << 16, 30, b"yes")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"yes", b"no\n")


ENDLESS = ("head", "-c", str(2 * deadline.MOST), "/dev/zero")


@pytest.mark.parametrize("stdin", [None, b"in"])
def test_a_program_of_the_notebooks_cannot_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: bytes | None
) -> None:
    """Every program may be one that the notebook put first on its PATH."""
    done = commands.run([*ENDLESS], stdin, 20, limited=True)
    assert done.code == 1 and done.stdout == "" and "4 MiB" in done.stderr
    engine = EmbeddedEngine(project(tmp_path))
    monkeypatch.setattr(engine.commands, "command", lambda service, argv: ([*argv], {}))
    assert engine.exec(JUPYTER, ENDLESS, stdin, 20) == done
    assert engine.exec(JUPYTER, ("cat",), stdin, 20).stdout == (stdin or b"").decode()


def test_an_engine_that_went_away_is_told_by_what_the_system_says() -> None:
    from requests.exceptions import ConnectionError
    from urllib3.exceptions import ProtocolError

    def send(request: object) -> None:
        raise ConnectionError(ProtocolError("Connection aborted.", FileNotFoundError(2, "No such file or directory")))

    with pytest.raises(EngineUnavailable) as caught:
        connection.with_clear_errors(send)(None)
    assert caught.value.message == "the connection to Docker broke: No such file or directory"
    assert "systemctl start docker" in caught.value.hint
