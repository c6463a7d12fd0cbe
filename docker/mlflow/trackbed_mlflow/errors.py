"""What the server's commands share: exit codes, how they end, what they say, how they wait."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

FAILED, USAGE, NO_ANSWER, REFUSED, MISCONFIGURED, STOPPED = 1, 2, 75, 77, 78, 143
WAIT_SECONDS = 60.0
MOST_REASONS = 5  # that one wait tells: each may have a number of its own
STAGED = ".artifact.uploading."  # MLflow's name for a file that is still being written

T = TypeVar("T")


class Stop(Exception):
    """Ends the program with a message and an exit code; ``reason`` is the other side's error code."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class NotYet(Exception):
    """Not there yet; asking again may help."""


def say(text: str) -> None:
    print(f"trackbed: {text}", file=sys.stderr, flush=True)


def wait(
    what: str,
    ask: Callable[[], T],
    seconds: float = WAIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Ask until there is an answer; says that it waits, each reason once, and why it gave up."""
    end, pause, said = clock() + seconds, 0.1, set[str]()
    while True:
        try:
            return ask()
        except NotYet as reason:
            if clock() + pause > end:
                raise Stop(NO_ANSWER, f"{what} did not answer within {seconds:.0f} s: {reason}") from None
            if str(reason) not in said and len(said) < MOST_REASONS:
                say(f"waiting for {what} ({reason})")
                said.add(str(reason))
        sleep(pause)  # bounded above; the image has no library for it
        pause = min(pause * 1.5, 2.0)


def required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise Stop(MISCONFIGURED, f"{name} is not set")
    return value


def sync_path(path: str) -> None:
    """fsync of a file or folder."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sync_open(number)
    finally:
        os.close(number)


def sync_open(number: int) -> None:
    """The same of an open one."""
    try:
        os.fsync(number)
    except OSError as error:
        # some file systems know no fsync of a folder
        if error.errno not in (errno.EINVAL, errno.EBADF) or not stat.S_ISDIR(os.fstat(number).st_mode):
            raise
