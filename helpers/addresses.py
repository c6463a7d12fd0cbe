"""Ports and addresses: what is free, who holds what, how people reach this machine."""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers import process_table
from helpers.suggestions import shown

PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """The process that listens on a port; ``pid`` 0 when this user may not see it."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid})" if self.pid else self.command


def is_free(address: str, port: int) -> bool:
    """Whether a TCP port could be bound now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is not a holder
        try:
            probe.bind((address, port))
            probe.listen(1)
        except PermissionError:
            return True  # below 1024 without root: the engine may still bind it
        except OSError:
            return False
    return True


def next_free(
    address: str, port: int, taken: Iterable[int] = (), free: Callable[[str, int], bool] | None = None
) -> int:
    """The first free port from ``port`` on that is not in ``taken``; ``free`` looks at another machine."""
    free = free or is_free
    reserved = set(taken)
    for candidate in range(port, 65536):
        if candidate not in reserved and free(address, candidate):
            return candidate
    raise OSError("no free port")


def holder(port: int) -> Holder:
    """Who listens on a TCP port of this machine."""
    listens, pid = process_table.listener(port)
    if pid:
        return Holder(pid, shown(process_table.title(pid), 80))
    return Holder(0, "a process of another user" if listens else "an unknown process")


def listening(tables: str) -> frozenset[tuple[str, int]]:
    """The address and port of every listening socket in the text of /proc/net/tcp and tcp6."""
    result = set()
    for row in tables.splitlines():
        fields = row.split()
        if len(fields) < 4 or fields[3] != "0A" or ":" not in fields[1]:
            continue
        raw, port = fields[1].rsplit(":", 1)
        words = [bytes.fromhex(raw[i : i + 8])[::-1] for i in range(0, len(raw), 8)]  # 32-bit words, low byte first
        address = ipaddress.ip_address(b"".join(words))
        result.add((str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)))
    return frozenset(result)


def listeners(tables: str, address: str, port: int) -> dict[int, int]:
    """The sockets that what connects to an address would reach, in the text of /proc/net/tcp and tcp6: the inode of
    each, and the uid of the program that opened it."""
    places = {(address, port), ("0.0.0.0", port), ("::", port)}
    rows = [row.split() for row in tables.splitlines() if listening(row) & places]
    return {int(fields[9]): int(fields[7]) for fields in rows}


def listening_uids(tables: str, port: int) -> frozenset[int]:
    """The uids of the programs that listen on a port at any address, in the text of /proc/net/tcp and tcp6."""
    rows = [row for row in tables.splitlines() if any(number == port for _, number in listening(row))]
    return frozenset(int(row.split()[7]) for row in rows)


def machine_address(public_address: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """What others call this machine: the setting, else the address the SSH client came to, else the host name."""
    if public_address:
        return public_address
    parts = environ.get("SSH_CONNECTION", "").split()
    return parts[2] if len(parts) == 4 else socket.gethostname()


def is_remote_session(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user sits at another machine, as far as this shell knows (sudo drops SSH_CONNECTION)."""
    return bool(environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"))


def ssh_line(
    ports: Iterable[int],
    public_address: str = "",
    environ: Mapping[str, str] = os.environ,
    target: str = "",
    bound: str = "127.0.0.1",
) -> str:
    """The tunnel that makes the printed URLs work in a browser elsewhere. ``target``: a node, as `ssh` takes it;
    ``bound``: the address that the ports listen on, which the URLs name."""
    here = "" if bound == "127.0.0.1" else f"{bound}:"
    forwards = " ".join(f"-L {here}{port}:{bound}:{port}" for port in ports)
    if target:
        return f"ssh -N {forwards} {target}"
    user = environ.get("SUDO_USER") or getpass.getuser()
    return f"ssh -N {forwards} {user}@{machine_address(public_address, environ)}"


def uplink() -> tuple[str, int]:
    """The interface of the default route and its MTU; ("", 0) when there is none or it cannot be told."""
    try:
        rows = (PROC / "net" / "route").read_text().splitlines()[1:]
    except OSError:
        return "", 0
    for row in rows:
        fields = row.split()
        if fields[1] == "00000000":
            try:
                return fields[0], int(Path("/sys/class/net", fields[0], "mtu").read_text())
            except (OSError, ValueError):
                return fields[0], 0
    return "", 0


PRIVILEGED = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def first_unprivileged(path: str = PRIVILEGED) -> int:
    """The first port that accounts other than root may listen on."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 1024
