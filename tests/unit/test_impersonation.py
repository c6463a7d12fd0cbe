"""Root without CAP_SYS_PTRACE, as in a container, sees what the services' accounts run: asked as these accounts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import clone, impersonation
from tests.unit import disguise

MARK = "TRACKBED_TEST_OF_IMPERSONATION"
# what the toolkit's modules find; nothing is imported as the account, which may not read the toolkit's folders
LOOK = """
import json, os, sys
from pathlib import Path
from helpers import process_table
from helpers.engines.embedded import stale_locks

pid, mark, uid, port, folder = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
modules = set(sys.modules)
try:
    Path(f"/proc/{pid}/environ").read_bytes()
    hidden = False
except PermissionError:
    hidden = True
print(json.dumps({
    "hidden": hidden,
    "marked": process_table.with_variable(mark, "x", {uid, 0}),
    "variable": process_table.variable(pid, mark, {uid}),
    "memory": process_table.memory(pid) > 1 << 20,
    "listener": process_table.listener(port),
    "workers": stale_locks.workers(folder),
    "root": os.stat("/proc/thread-self").st_uid,
    "imported": sorted(set(sys.modules) - modules),
}))
process_table.end([pid], 5, {}, {0})
print(process_table.alive(pid))
process_table.end([pid], 5, {}, {uid})
print(process_table.alive(pid))
"""
SERVICE = """
import os, socket, time
os.chdir(os.environ["FOLDER"])
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path("/tmp", f"trackbed-test-{os.getpid()}")  # pytest's own is closed to other accounts
    made.mkdir(0o700)
    yield made
    made.rmdir()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: only root becomes other accounts")
def test_what_a_containers_root_sees_of_a_service(folder: Path) -> None:
    uid = 60101 + os.getpid() % 2500 * 2
    os.chown(folder, uid, uid)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with disguise.started(SERVICE, {MARK: "x", "FOLDER": str(folder), "PORT": str(port)}, uid=uid) as process:
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(process.pid), MARK, str(uid), str(port), str(folder)],
            cwd=clone.ROOT,
            preexec_fn=disguise.as_in_a_container,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen, *ended = done.stdout.splitlines()
        assert json.loads(seen) == {
            "hidden": True,
            "marked": [process.pid],
            "variable": "x",
            "memory": True,
            "listener": [True, process.pid],
            "workers": [process.pid],
            "root": 0,
            "imported": [],
        }
        assert ended == ["True", "False"], "ended as a process of another account, or not at all"


def test_an_error_of_the_look_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        impersonation.as_account(os.geteuid() + 1, os.getegid(), lambda: 1 // 0)
    with pytest.raises(OSError):
        impersonation.Look().as_owner(1 << 22, lambda: os.stat("/nowhere"))  # above any process number


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: only root becomes other accounts")
def test_a_look_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impersonation, "SECONDS", 0.1)
    free = threading.Event()
    with pytest.raises(TimeoutError):  # one of process_table.GONE
        impersonation.as_account(60100, 60100, free.wait)
    free.set()


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: only root becomes other accounts")
def test_an_account_that_does_not_answer_is_not_waited_for_at_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impersonation, "SECONDS", 0.1)
    monkeypatch.setattr(impersonation, "TOTAL_SECONDS", 0.25)
    waited, free, uid, look = list[int](), threading.Event(), 60104 + os.getpid() % 2500 * 2, impersonation.Look()

    def never() -> None:
        waited.append(1)
        free.wait()

    code = "import time; print(flush=True); time.sleep(60)"
    with disguise.started(code, uid=uid) as one, disguise.started(code, uid=uid + 1) as another:
        for _ in range(100):
            with pytest.raises(TimeoutError):
                look.as_owner(one.pid, never)
        assert len(waited) <= 3
        assert look.as_owner(another.pid, lambda: 7) == 7, "it is another account's"
    free.set()
