"""The embedded supervisor holds the port of a program that is down (helpers/engines/held_sockets.py)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trackbed_mlflow import serve

from helpers.engines.base import State
from helpers.engines.supervisor import Supervisor
from helpers.engines.supervisor_config import Program
from tests.claims import free_ports
from tests.conftest import PATIENCE, until

SUPERVISORD = Path(sys.executable).with_name("supervisord")
SERVER = """
import os, socket, sys, time
time.sleep(float(sys.argv[1]))
held = socket.socket(fileno=os.dup(0))
held.setblocking(True)
while True:
    connection, _ = held.accept()
    connection.sendall(b"ours %d" % os.getpid())
    connection.close()
"""


@pytest.fixture
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("h")
    if len(str(folder)) > 80:
        pytest.skip("the temporary folder's path is too long for a socket")
    (folder / "logs").mkdir()
    (folder / "server.py").write_text(SERVER)
    created = Supervisor(folder, folder, f"held-{os.getpid()}")
    yield created
    if created.running():
        created.shutdown()


def server(supervisor: Supervisor, port: int, pause: float = 0.0) -> Program:
    return Program(
        "mlflow",
        (sys.executable, str(supervisor.folder / "server.py"), str(pause)),
        {},
        "/",
        "TERM",
        5,
        0,
        listens=("127.0.0.1", port),
    )


def asked(port: int, seconds: float = PATIENCE) -> bytes:
    """What is answered; b"" where the connection is closed without a word. OSError where nobody takes it."""
    with socket.create_connection(("127.0.0.1", port), seconds) as link:
        try:
            return link.recv(100)
        except ConnectionError:
            return b""


def taken(port: int) -> bool:
    """Whether somebody else comes to listen there, with every option that could help."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
            with socket.socket(family) as attempt:
                for option in options:
                    attempt.setsockopt(socket.SOL_SOCKET, option, 1)
                try:
                    if family == socket.AF_INET6:
                        attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    attempt.bind((host, port))
                    attempt.listen(1)
                    return True
                except OSError:
                    continue
    return False


def test_nobody_takes_the_port_of_a_server_that_is_killed_and_comes_back(supervisor: Supervisor) -> None:
    (port,) = free_ports(1)
    supervisor.apply((server(supervisor, port, 0.3),), SUPERVISORD)
    until(lambda: asked(port).startswith(b"ours"))
    stolen, ended = [], threading.Event()

    def attack() -> None:
        while not ended.is_set():
            if taken(port):
                stolen.append(time.monotonic())

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for _ in range(3):
            before = supervisor.states()["mlflow"].pid
            os.kill(before, signal.SIGKILL)
            until(lambda: supervisor.states()["mlflow"].pid not in (0, before))  # noqa: B023
            until(lambda: asked(port).startswith(b"ours"))
    finally:
        ended.set()
        attacker.join()
    assert not stolen


def test_a_stopped_server_hangs_up_at_once_and_keeps_its_port(supervisor: Supervisor) -> None:
    (port,) = free_ports(1)
    supervisor.apply((server(supervisor, port),), SUPERVISORD)
    until(lambda: asked(port).startswith(b"ours"))
    supervisor.stop("mlflow")
    for _ in range(20):
        assert asked(port) == b""
    assert not taken(port)
    supervisor.start("mlflow")
    until(lambda: asked(port).startswith(b"ours"))
    supervisor.shutdown()
    with pytest.raises(ConnectionRefusedError):
        asked(port)


def test_another_port_and_another_program_on_the_same_one(supervisor: Supervisor) -> None:
    first, second = free_ports(2)
    supervisor.apply((server(supervisor, first),), SUPERVISORD)
    until(lambda: asked(first).startswith(b"ours"))
    supervisor.apply((server(supervisor, first, 0.01),), SUPERVISORD)  # the same socket, made again
    until(lambda: asked(first).startswith(b"ours"))
    supervisor.apply((server(supervisor, second),), SUPERVISORD)
    until(lambda: asked(second).startswith(b"ours"))
    with pytest.raises(ConnectionRefusedError):
        asked(first)


def test_a_port_that_somebody_has_is_left_to_the_program_to_tell(supervisor: Supervisor) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        supervisor.apply((server(supervisor, other.getsockname()[1]),), SUPERVISORD)
        until(lambda: supervisor.states()["mlflow"].state in (State.RESTARTING, State.EXITED))
    assert "cannot be held" in (supervisor.folder / "logs" / "supervisord.log").read_text()


def test_the_server_takes_a_listening_socket_for_its_standard_input_and_nothing_else(tmp_path: Path) -> None:
    kept = os.dup(0)
    try:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            os.dup2(listening.fileno(), 0)
            assert serve.held_socket() is None  # it does not listen
            listening.listen(1)
            os.dup2(listening.fileno(), 0)
            number = serve.held_socket()
            assert number is not None and os.fstat(number).st_ino == os.fstat(listening.fileno()).st_ino
            assert os.fstat(0).st_rdev == os.stat(os.devnull).st_rdev and not os.get_inheritable(number)
            os.close(number)
        for path in (os.devnull, str(tmp_path / "file")):
            Path(path).touch()
            with open(path) as stream:
                os.dup2(stream.fileno(), 0)
            assert serve.held_socket() is None
        os.close(0)
        assert serve.held_socket() is None
    finally:
        os.dup2(kept, 0)
        os.close(kept)
