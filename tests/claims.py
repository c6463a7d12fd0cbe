"""What suites that run side by side on one machine must not choose twice: ports, networks."""

from __future__ import annotations

import errno
import itertools
import random
import socket
import sys
from collections.abc import Iterable

# Below what the kernel gives to outgoing connections (32768 and up): no client's socket may take one between the choice
# and the start of a service. Above it begin the node ports of a cluster (30000).
PORTS = range(20000, 30000)
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
    return next(name for name in names if claim(name))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no other test gets while this process lives."""
    begin = random.choice(PORTS)
    order = itertools.chain(range(begin, PORTS.stop), range(PORTS.start, begin))
    return list(itertools.islice((port for port in order if claim(f"port-{port}") and _bindable(port)), count))


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as services do, after one that has just ended
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
