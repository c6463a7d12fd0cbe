"""Ports and addresses, with real sockets of this process."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers import addresses
from helpers.addresses import Holder
from tests.claims import free_ports

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


def test_a_port_that_is_listened_on_is_taken(listening: int) -> None:
    assert not addresses.is_free("127.0.0.1", listening)


def test_a_port_nobody_has_is_free() -> None:
    assert addresses.is_free("127.0.0.1", free_ports(1)[0])


def test_a_port_taken_on_every_address_is_taken_on_one() -> None:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen(1)
        assert not addresses.is_free("127.0.0.1", server.getsockname()[1])


def test_a_port_in_time_wait_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first waits
    assert addresses.is_free("127.0.0.1", port)


def test_next_free_passes_over_the_taken_and_the_reserved(listening: int) -> None:
    assert addresses.next_free("127.0.0.1", listening) > listening

    def free(_: str, port: int) -> bool:
        return port > 8001

    assert addresses.next_free("127.0.0.1", 8000, free=free) == 8002
    assert addresses.next_free("127.0.0.1", 8000, (8002, 8004), free) == 8003


def test_next_free_says_when_there_is_none() -> None:
    with pytest.raises(OSError, match="no free port"):
        addresses.next_free("127.0.0.1", 65535, taken=(65535,))


@linux
def test_the_holder_of_a_port_is_named(listening: int) -> None:
    assert addresses.holder(listening).pid == os.getpid()


@linux
def test_a_holder_is_named_without_its_arguments() -> None:
    program = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(1); "
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "--password", "hunter2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdin
        result = addresses.holder(int(process.stdout.readline()))
        process.stdin.close()
    assert result.pid == process.pid
    assert "hunter2" not in str(result)
    assert str(result).startswith(Path(sys.executable).name)


@linux
def test_a_port_that_nobody_holds_has_no_holder() -> None:
    assert addresses.holder(free_ports(1)[0]) == Holder(0, "an unknown process")


def test_a_holder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()  # it shows nothing of itself
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st tx rx tr when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001 0 4242 1\n"
    )
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert str(addresses.holder(8000)) == "a process of another user"
    assert str(addresses.holder(8001)) == "an unknown process"


@pytest.mark.parametrize(
    ("setting", "environ", "expected"),
    [
        ("node7.example.org", {"SSH_CONNECTION": "10.0.0.1 5000 10.0.0.2 22"}, "node7.example.org"),
        ("", {"SSH_CONNECTION": "10.0.0.1 5000 10.0.0.2 22"}, "10.0.0.2"),
        ("", {"SSH_CONNECTION": "nonsense"}, socket.gethostname()),
        ("", {}, socket.gethostname()),
    ],
)
def test_what_others_call_this_machine(setting: str, environ: dict[str, str], expected: str) -> None:
    assert addresses.machine_address(setting, environ) == expected


@pytest.mark.parametrize(
    ("environ", "remote"),
    [
        ({}, False),
        ({"SSH_CONNECTION": "a 1 b 2"}, True),
        ({"SSH_TTY": "/dev/pts/0"}, True),
        ({"SSH_TTY": ""}, False),
    ],
)
def test_a_remote_session(environ: dict[str, str], remote: bool) -> None:
    assert addresses.is_remote_session(environ) is remote


def test_the_ssh_line() -> None:
    line = addresses.ssh_line((8000, 8888), "node7", {"SUDO_USER": "ada"})
    assert line == "ssh -N -L 8000:127.0.0.1:8000 -L 8888:127.0.0.1:8888 ada@node7"


def test_the_ssh_line_of_who_runs_this() -> None:
    assert addresses.ssh_line((8000,), "node7", {}).endswith(f"{getpass.getuser()}@node7")


ROUTES = "Iface\tDestination\tGateway\tFlags\n{name}\t{where}\t0100000A\t0003\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROUTES.format(name="lo", where="00000000"), "lo"),
        (ROUTES.format(name="lo", where="0000000A"), ""),
        (ROUTES.format(name="gone0", where="00000000"), "gone0"),
        ("Iface\n", ""),
    ],
)
def test_the_uplink(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "route").write_text(text)
    monkeypatch.setattr(addresses, "PROC", tmp_path)
    name, mtu = addresses.uplink()
    assert name == expected
    assert mtu == 0 or name == "lo"


def test_no_routes_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "PROC", tmp_path)
    assert addresses.uplink() == ("", 0)


def test_who_listens_where_a_connection_would_end() -> None:
    """Of another address's listeners, and of connections, nothing is told."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

    def row(address: str, state: str, uid: int) -> str:
        return f"   0: {address}:1F40 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}   0 77 1\n"

    ours, one, every = "0100007F", "0" * 24 + "01000000", "0" * 32
    assert addresses.listeners(head + row(ours, "0A", 987) + row(ours, "01", 5), "127.0.0.1", 8000) == {77: 987}
    assert addresses.listeners(head + row(ours, "0A", 987) + row(one, "0A", 5), "127.0.0.1", 8000) == {77: 987}
    assert addresses.listeners(head + row(every, "0A", 5), "127.0.0.1", 8000) == {77: 5}
    assert addresses.listeners(head + row("00000000", "0A", 5), "127.0.0.1", 8000) == {77: 5}
    assert addresses.listeners(head + row(ours, "0A", 987), "127.0.0.1", 8001) == {}
