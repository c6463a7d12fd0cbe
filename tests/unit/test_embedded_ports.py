"""Whose the ports of the embedded services are, in the kernel's own lists."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import process_table
from helpers.engines.embedded.inspection import Inspection
from helpers.engines.supervisor import Process
from helpers.errors import PortTaken
from helpers.services import JUPYTER, MLFLOW, Port, State

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells whose a socket is")


@pytest.fixture
def stranger() -> Iterator[int]:
    """Another process of this account."""
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL, start_new_session=True) as process:
        yield process.pid
        process.kill()


def project(port: int, supervisor: int, service: int) -> Inspection:
    """One whose supervisor and service are these processes."""
    looked: Any = Inspection.__new__(Inspection)
    looked.deployment = SimpleNamespace(ports=lambda _: (Port("http", 8000, port),), uid=lambda _: os.geteuid())
    looked.processes = SimpleNamespace(supervisor=SimpleNamespace(pid=supervisor), pid=lambda _: service)
    return looked  # type: ignore[no-any-return]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_the_service_or_its_supervisor_holds_the_port(stranger: int, address: str) -> None:
    with socket.create_server((address, 0)) as held:
        port = held.getsockname()[1]
        for pids in ((os.getpid(), stranger), (stranger, os.getpid()), (0, os.getpid())):
            with project(port, *pids).open(MLFLOW, "http") as reached:
                assert reached.url == f"http://127.0.0.1:{port}"


def test_the_server_of_another_project_of_this_account_is_not_ours(stranger: int) -> None:
    """Two that start at once choose the same port: the second one's notebook would log its runs to the first."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        for pids in ((stranger, stranger), (0, 0)):
            with pytest.raises(PortTaken, match=f"port {port} is held by another program, not by mlflow"):
                project(port, *pids).open(MLFLOW, "http").__enter__()
        running = Process(State.RUNNING, stranger, 0, "", 0, "")
        status = project(port, stranger, stranger)._status(JUPYTER, running, False)
        assert status.state is State.STARTING
        assert not status.ports, "the next start says who has it"


def test_where_nobody_sees_whose_it_is_the_account_decides(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_table, "sockets", lambda pid: None)
    with (
        socket.create_server(("127.0.0.1", 0)) as held,
        project(held.getsockname()[1], stranger, stranger).open(MLFLOW, "http"),
    ):
        pass


def test_the_sockets_of_a_process(stranger: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        inode = os.fstat(held.fileno()).st_ino
        assert inode in (process_table.sockets(os.getpid()) or ())
        assert inode not in (process_table.sockets(stranger) or ())
    assert process_table.sockets(1 << 30) == frozenset()
    with subprocess.Popen(["true"], stdin=subprocess.DEVNULL) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process_table.sockets(ended.pid) == frozenset()
