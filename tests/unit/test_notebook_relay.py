"""The notebook's files in a backup of a pod: what answers at JupyterLab's address is the notebook's word."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from helpers import clone
from helpers.backups import in_cluster, notebook_relay
from helpers.data import workspace_files
from helpers.engines.base import JUPYTER
from helpers.engines.streaming import Pipe, piped
from tests.conftest import PATIENCE
from tests.unit.fakes import module_at
from tests.unit.test_workspace_backup import Notebook, back_up, put, restore, tree

programs = module_at(clone.NOTEBOOK_PACKAGE / "programs.py")
TOKEN = "a token of this test"
Answer = Callable[[Any], None]


class _Handler(BaseHTTPRequestHandler):
    """JupyterLab's address, with its program; ``server.answer`` takes the place of what it says to a POST."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status = self.server.status if self.headers["Authorization"] == f"token {TOKEN}" else 403
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        line, _, rest = body.partition(b"\n")
        self.close_connection = True
        if self.server.answer:
            self.server.answer(self.wfile)
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        asyncio.run(self._run(json.loads(line), rest))

    async def _run(self, words: list[str], rest: bytes) -> None:
        program = await programs.Program.start(self.server.folder, words)
        await program.give(rest)
        program.close()
        while data := await program.output():
            self.wfile.write(struct.pack(">I", len(data)) + data)
        self.wfile.write(struct.pack(">I", 0) + json.dumps(await program.ended()).encode())
        program.end()

    def log_message(self, *words: Any) -> None:
        """Nothing."""


class Relayed(Notebook):
    """A notebook that is read as a pod reads it."""

    def __init__(self, folder: Path, given: Path) -> None:
        super().__init__(folder)
        self.given = given
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads, server.folder = True, str(folder)
        server.asked, server.status, server.answer = [], 200, None
        self.server = server
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def relay(self, *words: str) -> list[str]:
        code = (
            "import sys, pathlib; from helpers.backups import in_cluster, notebook_relay as relay; "
            f"in_cluster.GIVEN = pathlib.Path({str(self.given)!r}); relay.CONNECTING = 5.0; "
            f"relay.HOST, relay.PORT = '127.0.0.1', {self.server.server_port}; sys.exit(relay.main(sys.argv[1:]))"
        )
        return [sys.executable, "-c", code, *words]

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        if service != JUPYTER or "write" in argv or "place" in argv:  # a restore goes another way
            return super().pipe(service, argv, fresh)
        env = {"http_proxy": "http://127.0.0.1:9", "PYTHONPATH": str(clone.ROOT)}  # nothing listens there
        return piped("python", self.relay(*argv[len(workspace_files.PYTHON) :]), env)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Relayed]:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / notebook_relay.TOKEN).write_text(TOKEN)
    made = Relayed(tmp_path / "work", tmp_path / "given")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_what_a_pod_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words that `kubectl exec` would run, and none of the variables that lead to a proxy; no token."""
    seen: list[Any] = []
    monkeypatch.setattr(in_cluster, "piped", lambda *words: seen.append(words))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    pod = in_cluster.Pod("kubernetes", "versitygw", None, {}, {}, "/home/jovyan/work")
    pod.pipe(JUPYTER, (*workspace_files.PYTHON, "7", "/home/jovyan/work", "list", "{}"))
    ((what, argv, env),) = seen
    assert what == "python" and argv[1:] == [
        "-m",
        "helpers.backups.notebook_relay",
        "7",
        "/home/jovyan/work",
        "list",
        "{}",
    ]
    assert not [key for key in env if key.lower().endswith("_proxy")]
    assert [one.name for one in pod.services()] == [JUPYTER]
    assert not in_cluster.Pod("kubernetes", "versitygw", None, {}, {}).services()
    assert workspace_files.PYTHON[-1] == programs.CODE and workspace_files.PYTHON[1:-2] == ("-I", "-S", "-X", "utf8")


def test_files_come_through_it(notebook: Relayed, tmp_path: Path) -> None:
    for number in range(300):
        put(notebook, f"folder {number % 7}/{number} \u00fc", bytes([number % 256]) * 3000)
    put(notebook, "large", bytes(range(256)) * 2**11)
    source, kept = back_up(notebook, tmp_path / "repository")
    assert not kept.problem and kept.files == 301
    other = Notebook(tmp_path / "other")
    restore(source, other)
    assert tree(other.folder) == tree(notebook.folder)


def reply(content: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") -> Answer:
    return lambda stream: stream.write(head + content)


def endless(stream: Any) -> None:
    stream.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + struct.pack(">I", 2**32 - 1))
    while True:
        stream.write(b"x" * 2**16)


def drops(head: bytes) -> Answer:
    def answer(stream: Any) -> None:
        stream.write(head)
        while True:
            stream.write(b"a")
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply(b"no HTTP at all\r\n\r\n", b""), "no HTTP"),
        (reply(b""), "ended early"),
        (reply(struct.pack(">I", 100) + b"short"), "ended early"),
        (reply(struct.pack(">I", 0) + b"[" * 10**5), "ended early"),
        (reply(struct.pack(">I", 0) + b'["x", 7]'), "ended early"),
        (reply(struct.pack(">I", 0) + json.dumps([1, "no\x1b[31m such\nfolder"]).encode()), "folder"),
        (reply(struct.pack(">I", 0) + json.dumps([1, "\x1b[31mred" + "x" * 2000]).encode()), "[31mred"),
        (reply(struct.pack(">I", 0) + json.dumps([1, "\u00fc" * programs.WORDS]).encode()), "\\xfc"),
        (reply(struct.pack(">I", 0) + json.dumps([0, ""]).encode()), "list ended early"),
        (reply(b"-5\r\nx\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), ""),
        (reply(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"), "answers 302"),
        (endless, "list"),
    ],
)
def test_whatever_answers_costs_the_files_alone(notebook: Relayed, tmp_path: Path, answer: Answer, why: str) -> None:
    put(notebook, "file")
    notebook.server.answer = answer
    _, kept = back_up(notebook, tmp_path / "repository")
    assert why in kept.problem and kept.problem and kept.files == 0 and TOKEN not in kept.problem
    assert kept.problem.isprintable() and len(kept.problem) < 1000 and kept.problem.count("workspace") == 1
    assert kept.facts["workspace_problem"] == kept.problem


@pytest.mark.parametrize(
    ("status", "why"), [(403, "invoke up"), (404, "invoke build"), (302, "answers 302"), (500, "500")]
)
def test_a_refusal_is_told_and_nobody_is_followed(notebook: Relayed, tmp_path: Path, status: int, why: str) -> None:
    notebook.server.status = status
    _, kept = back_up(notebook, tmp_path / "repository")
    assert why in kept.problem and notebook.server.asked == ["/trackbed/python"]


@pytest.mark.parametrize("head", [b"X: ", b"Connection: close\r\n\r\n" + struct.pack(">I", 2**32 - 1)])
def test_drops_for_ever_are_given_up(notebook: Relayed, tmp_path: Path, head: bytes) -> None:
    """Each one is in time; all of them are not. Before, a slow notebook held a backup up for as long as it liked."""
    notebook.server.answer = drops(b"HTTP/1.1 200 OK\r\n" + head)
    _, kept = back_up(notebook, tmp_path / "repository", until=time.time() + 2)
    assert "too long" in kept.problem and kept.facts["workspace_seconds"] == round(kept.seconds, 1) and kept.seconds


def test_nobody_listens_and_no_token(notebook: Relayed, tmp_path: Path) -> None:
    notebook.server.shutdown()
    notebook.server.server_close()
    _, kept = back_up(notebook, tmp_path / "repository")
    assert "does not answer" in kept.problem
    (notebook.given / notebook_relay.TOKEN).unlink()
    done = subprocess.run(
        notebook.relay("1"), cwd=clone.ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1 and "token cannot be read" in done.stderr


def test_a_token_that_no_header_takes_is_not_told(notebook: Relayed, tmp_path: Path) -> None:
    (notebook.given / notebook_relay.TOKEN).write_text("two\nlines")
    _, kept = back_up(notebook, tmp_path / "repository")
    assert kept.problem and "two" not in kept.problem


def test_a_program_that_fails_or_is_not_there(tmp_path: Path) -> None:
    async def run(code: bytes) -> tuple[bytes, int, str]:
        program = await programs.Program.start(str(tmp_path), [str(len(code))])
        await program.give(code + b"rest" * 10**6)  # more than it reads
        program.close()
        output = b""
        while data := await program.output():
            output += data
        code_, said = await program.ended()
        program.end()
        return output, code_, said

    assert asyncio.run(run(b"import os; print(os.getcwd())"))[0].decode().strip() == str(tmp_path)
    _, code, said = asyncio.run(run(b"raise SystemExit('x' * 10**5)"))
    assert code == 1 and 0 < len(said) <= programs.WORDS


def test_a_program_that_leaves_its_input_is_no_error_in_jupyterlabs_log(tmp_path: Path) -> None:
    """Before, "Future exception was never retrieved" with a traceback."""
    logged: list[Any] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        program = await programs.Program.start(str(tmp_path), ["4"])
        await program.give(b"pass" + b"rest" * 10**6)
        program.close()
        assert await program.output() == b""
        await program.ended()
        program.end()

    asyncio.run(run())
    gc.collect()  # asyncio tells it where the future goes
    assert not logged


def test_a_program_that_cannot_be_started_tells_why(notebook: Relayed, tmp_path: Path) -> None:
    """JupyterLab's disk may be full, or its processes too many. Before, it seemed not to answer."""
    put(notebook, "file")
    notebook.server.folder = str(tmp_path / "gone")
    _, kept = back_up(notebook, tmp_path / "repository")
    assert kept.problem == "the notebook's workspace: it cannot be started: No such file or directory"


def test_a_program_that_is_ended_has_no_last_words(tmp_path: Path) -> None:
    """Who asked for it is gone. Before, JupyterLab's log had an error of ours each time."""

    async def run() -> Any:
        program = await programs.Program.start(str(tmp_path), ["4"])
        await program.give(b"pass")
        program.close()
        program.end()
        return await program.ended()

    assert asyncio.run(run())[1] == ""
