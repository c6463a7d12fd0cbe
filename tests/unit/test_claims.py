"""Suites that run side by side choose no port and no network twice."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests import claims

ROOT = Path(__file__).resolve().parents[2]


def test_a_claim_holds_in_other_processes_until_its_process_ends() -> None:
    name = f"unit-{uuid.uuid4().hex}"
    words = [sys.executable, "-c", f"from tests import claims; print(claims.claim({name!r})); input()"]
    other = subprocess.Popen(words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    assert not claims.claim(name)
    other.communicate("\n", timeout=60)
    assert claims.claim(name) and not claims.claim(name)


def test_free_ports_are_nobodys_and_no_outgoing_connection_gets_them() -> None:
    chosen = [*claims.free_ports(20), *claims.free_ports(20)]
    assert len(set(chosen)) == 40 and set(chosen) <= set(claims.PORTS)
    first = Path("/proc/sys/net/ipv4/ip_local_port_range")
    assert not first.exists() or claims.PORTS.stop <= int(first.read_text().split()[0])


def test_a_session_holds_few_files_open_for_its_ports() -> None:
    """Where a process may open 1024, a claim for each port of a long session would be too many."""
    before = len(claims._held)
    claims.free_ports(20 * claims.BLOCK)
    assert len(claims._held) - before <= 40


def test_what_is_used_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_claimed", iter([claims.PORTS.start]))
    monkeypatch.setattr(claims, "_bindable", lambda port: True)
    with pytest.raises(AssertionError, match="no more ports are free"):
        claims.free_ports(2)
    monkeypatch.setattr(claims, "claim", lambda name: False)
    with pytest.raises(AssertionError, match="all of them are taken"):
        claims.first(["one", "two"])


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not claims._bindable(server.getsockname()[1])
