"""What suites that run side by side on one machine must not choose twice: ports, networks."""

from __future__ import annotations

import errno
import itertools
import random
import socket
import sys
from collections.abc import Iterable, Iterator

# Below what the kernel gives to outgoing connections (32768 and up): no client's socket may take one between the choice
# and the start of a service. Above it begin the node ports of a cluster (30000).
PORTS = range(20000, 30000)
BLOCK = 20  # ports that are claimed at once: each claim is an open file, and many machines allow a process 1024
_held: list[socket.socket] = []


def claim(name: str) -> bool:
    """Take a name of this machine for as long as this process lives; False where another one has it.

    The name is that of an abstract socket, which the kernel frees with the process, and of one network namespace, as
    ports are.
    """
    if sys.platform != "linux":
        return True
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.bind(f"\0trackbed-test-{name}")
    except OSError as error:
        one.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    _held.append(one)
    return True


def first(names: Iterable[str]) -> str:
    """The first of some names that nobody has claimed, claimed."""
    for name in names:
        if claim(name):
            return name
    raise AssertionError("all of them are taken: do suites run here that never end?")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no other test gets while this process lives."""
    chosen = list(itertools.islice(filter(_bindable, _claimed), count))
    assert len(chosen) == count, f"no more ports are free among {PORTS}: do suites run here that never end?"
    return chosen


def _ports() -> Iterator[int]:
    """Those of one block after the other that nobody has claimed, claimed."""
    blocks = range(PORTS.start, PORTS.stop, BLOCK)
    begin = random.randrange(len(blocks))
    for block in (*blocks[begin:], *blocks[:begin]):
        if claim(f"ports-{block}"):
            yield from range(block, block + BLOCK)


_claimed = _ports()


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as services do, after one that has just ended
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
