"""The outside world: a network namespace on a cable of its own, and code that runs in it. Needs root on Linux."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.claims import first

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SYN_ACK = 0x12
LIBC = ctypes.CDLL(None, use_errno=True)


def require_namespaces() -> None:
    """Skip loudly where no namespace can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/proc/self/ns/net").exists():
        pytest.skip("NOT TESTED: a second network namespace needs root and iproute2 on Linux")


def ip(*words: str) -> str:
    done = subprocess.run(
        ["ip", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    if done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class OtherHost:
    """Another host: its own addresses, routes and sockets, joined to this machine by a pair of veth interfaces.

    ``machine`` is this machine as seen from there, ``address`` the other host's own.
    """

    def __init__(self) -> None:
        tag = secrets.token_hex(3)
        self.name, self.cable = f"out-{tag}", f"v{tag}"
        taken = ip("-4", "-brief", "address")
        free = (f"10.203.{number}." for number in range(1, 255) if f"10.203.{number}." not in taken)
        network = first(free)
        self.machine, self.address = f"{network}1", f"{network}2"
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            ip("address", "add", f"{self.machine}/24", "dev", self.cable)
            ip("link", "set", self.cable, "up")
            for words in (
                ("address", "add", f"{self.address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
                ("route", "add", "default", "via", self.machine),
            ):
                ip("-netns", self.name, *words)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, stdin=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True, stdin=subprocess.DEVNULL, check=False)

    def claim_loopback(self) -> None:
        """Send 127.0.0.0/8 over the cable, as an attacker's machine would."""
        ip("-netns", self.name, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
        ip("-netns", self.name, "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
        ip("-netns", self.name, "route", "add", "127.0.0.0/8", "via", self.machine, "src", self.address)
        with self.entered():
            Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
            Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")

    def handshake(self, address: str, port: int, seconds: float = 1.5) -> bool:
        """Whether a TCP handshake is answered. Seen on the cable: the own kernel may drop what comes from 127.0.0.1."""
        with (
            self.entered(),
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as cable,
            socket.socket() as client,
        ):
            client.setblocking(False)
            client.connect_ex((address, port))
            expected = (socket.inet_aton(address), port, client.getsockname()[1], SYN_ACK)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                cable.settimeout(left)
                try:
                    frame = cable.recv(2048)
                except OSError:
                    break
                if frame[12:14] != b"\x08\x00" or len(frame) < 48:
                    continue
                if (frame[26:30], *struct.unpack("!HH", frame[34:38]), frame[47] & SYN_ACK) == expected:
                    return True
        return False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread's new sockets, and processes it starts, are outside; earlier sockets stay where they were."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as existing:
            _setns(existing.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())


def _setns(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def other_host() -> Iterator[OtherHost]:
    """Another host for the time of a test; skips loudly where there can be none."""
    require_namespaces()
    created = OtherHost()
    try:
        yield created
    finally:
        created.close()
