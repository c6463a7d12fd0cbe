"""A limit for what has none of its own: a peer that sends a byte now and then keeps every socket's time-out away."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
MOST = 4 << 20  # bytes that a program of the notebook's may tell


def within(seconds: float, call: Callable[[], T]) -> T:
    """The call's result; raises what it raises, and TimeoutError after ``seconds``. The call itself may go on then."""
    result: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not result:
        raise TimeoutError(f"no whole answer within {seconds:.0f} s")
    return result[0]


class TooMuch(Exception):
    """A command wrote more than anybody wants to hold in memory."""


def run(
    argv: Sequence[str],
    most: int,
    timeout: float,
    input: bytes = b"",
    **options: Any,
) -> subprocess.CompletedProcess[bytes]:
    """``subprocess.run`` with the output captured, for a program of somebody else: it may write without end, and leave
    others behind that hold its pipes. Raises TooMuch after ``most`` bytes of either stream, TimeoutExpired, OSError.
    """
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, errors = bytearray(), bytearray()

    def take(stream: Any, into: bytearray) -> None:
        while piece := stream.read1(1 << 16):
            into += piece
            if len(into) > most:
                process.kill()
                return

    def give(stream: Any) -> None:
        with suppress(OSError):  # it ended without reading
            stream.write(input)
            stream.close()

    deadline = time.monotonic() + timeout
    # a pipe that something else still holds keeps its thread; the thread keeps nobody
    takers = [
        threading.Thread(target=take, args=pair, daemon=True)
        for pair in ((process.stdout, out), (process.stderr, errors))
    ]
    for thread in (*takers, threading.Thread(target=give, args=(process.stdin,), daemon=True)):
        thread.start()
    try:
        for thread in takers:
            thread.join(max(deadline - time.monotonic(), 0))
        code = process.wait(max(deadline - time.monotonic(), 0.1))
    except BaseException:
        process.kill()
        process.wait(5)
        raise
    if len(out) > most or len(errors) > most:
        raise TooMuch(f"it wrote more than {most >> 20} MiB")
    return subprocess.CompletedProcess(argv, code, bytes(out), bytes(errors))
