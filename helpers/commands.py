"""A command that ends by itself: with its whole output, or with its lines as they come."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import IO, Any

from helpers import deadline
from helpers.services import ExecResult

NOT_BEGUN = 127  # as a shell says it
TIMED_OUT = 124  # as the program timeout says it


def run(
    argv: Sequence[str], stdin: IO[bytes] | bytes | None, timeout: float, *, limited: bool = False, **options: Any
) -> ExecResult:
    """Exit code 124 after ``timeout`` seconds. ``limited``: whatever runs is the notebook's to replace, so that its
    output has a limit. ``options`` are those of subprocess.Popen. Raises OSError when it cannot be begun.
    """
    whole = stdin is None or isinstance(stdin, bytes)
    stream: dict[str, Any] = {"input": stdin or b""} if whole else {"stdin": stdin}
    try:
        if limited and whole:
            done = deadline.run(argv, deadline.MOST, timeout, **stream, **options)
        else:
            done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, **stream, **options)
    except deadline.TooMuch as error:
        return ExecResult(1, "", str(error))
    except subprocess.TimeoutExpired:
        return ExecResult(TIMED_OUT, "", f"no end after {timeout:.0f} s")
    return ExecResult(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def attempt(argv: Sequence[str], timeout: float, stdin: IO[bytes] | bytes | None = None, **options: Any) -> ExecResult:
    """As ``run``, with the code NOT_BEGUN and the reason where the command cannot be begun."""
    try:
        return run(argv, stdin, timeout, **options)
    except OSError as error:
        return ExecResult(NOT_BEGUN, "", str(error))


def follow(argv: Sequence[str], output: Callable[[str], None], **options: Any) -> tuple[int, list[str]]:
    """Hand each line on as it comes, standard error among them; gives the exit code and all lines.

    ``options`` are those of subprocess.Popen. An interrupt ends the command too. Raises OSError when it cannot be
    begun.
    """
    lines: list[str] = []
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **options,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                output(line)
        except BaseException:
            process.terminate()
            raise
    return process.returncode, lines


def last_line(said: str | bytes, otherwise: str = "no message") -> str:
    """The last line with something on it: most programs say there why they ended."""
    text = said if isinstance(said, str) else said.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else otherwise
