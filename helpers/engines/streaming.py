"""A command inside a service whose input and output stream through this process, in constant memory."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import re
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from helpers.errors import TrackbedError

END_SECONDS = 120.0
PATIENCE = 1800.0  # seconds in which a command has to take some of its input
BLOCK = 2**18  # bytes to pass on at a time: of more, each would leave the processor's cache before it is used again
PIPE = 2**20  # bytes that a pipe holds, where Linux gives so much: its own 64 KiB make both sides wait for each other
CONNECT, CONNECT_LOOK = 60.0, 0.02  # seconds in which a command has to open a named pipe; between two looks at it
TELL = 10.0  # seconds after which it is told that it takes none


class Stuck(TrackbedError):
    """A command has taken none of its input for too long."""


class Input:
    """A command's stdin, unbuffered. ``patience``: seconds in which it has to take something of what is written;
    ``end``: when it has to have taken all of it, as ``time.monotonic`` has it; ``on_wait`` is given the seconds now and
    then while it takes nothing."""

    def __init__(self, what: str, stream: IO[bytes]) -> None:
        self._what, self._stream = what, stream
        self.patience, self.end = PATIENCE, math.inf
        self.on_wait: Callable[[float], object] = lambda seconds: None
        os.set_blocking(stream.fileno(), False)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of it. Raises BrokenPipeError where the command has ended, and Stuck."""
        left = memoryview(data).cast("B")
        handle, since, told = self._stream.fileno(), time.monotonic(), 0.0
        while left:
            if time.monotonic() > self.end:
                raise Stuck(
                    f"{self._what} takes its input too slowly",
                    "`invoke status` shows whether it is well; then run the same command again",
                )
            try:
                left = left[os.write(handle, left) :]
                since, told = time.monotonic(), 0.0
            except BlockingIOError:
                waited = time.monotonic() - since
                if waited > self.patience:
                    raise Stuck(
                        f"{self._what} has taken none of its input for {waited:.0f} s",
                        "`invoke status` shows whether it is well; then run the same command again",
                    ) from None
                if waited > told + TELL:
                    told = waited
                    self.on_wait(waited)
                select.select([], [handle], [], min(TELL, self.patience))
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        self._stream.close()


class Pipe:
    """A running command. ``out`` is its stdout, ``into`` its stdin; ``finish`` waits for its good end."""

    def __init__(
        self, what: str, process: subprocess.Popen[bytes], errors: IO[bytes], ignored: re.Pattern[str] | None = None
    ) -> None:
        """``ignored``: what a program in between adds to the command's own words."""
        assert process.stdin is not None and process.stdout is not None
        self.what, self._process, self._errors, self._ignored = what, process, errors, ignored
        self.out: IO[bytes] = process.stdout
        self.into = Input(what, process.stdin)

    def close(self) -> None:
        """Tell the command that its input has ended."""
        try:
            self.into.close()
        except BrokenPipeError:
            pass  # it ended before; finish tells why

    def feed_by(self, path: Path) -> bool:
        """Have what is written from now on go through a named pipe, once the command has opened that; False where it
        ends, or does not within CONNECT seconds."""
        latest = time.monotonic() + CONNECT
        while (handle := _opened_by_both(path)) is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CONNECT_LOOK)
                return False
            if time.monotonic() > latest:
                return False
        self.close()
        stream = os.fdopen(handle, "wb", buffering=0)
        _widen(stream)
        self.into = Input(self.what, stream)
        return True

    def ended(self, seconds: float) -> bool:
        """Whether the command ends within so many seconds, now that its input has ended."""
        self.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, timeout: float = END_SECONDS) -> str:
        """The last line it wrote to stderr, once it has ended well. Raises TrackbedError with its words when not."""
        self.close()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TrackbedError(
                f"{self.what}: no end after {timeout:.0f} s", "`invoke logs SERVICE` may show why"
            ) from None
        self._errors.seek(0)
        text = self._errors.read()[-20000:].decode("utf-8", "replace")
        lines = [line.strip() for line in (self._ignored.sub("", text) if self._ignored else text).splitlines()]
        said = [line for line in lines if line]
        if code:
            raise TrackbedError(
                f"{self.what} failed: {said[-1] if said else f'exit code {code}'}",
                "nothing was changed; fix that, then run the same command again",
                tuple(said[-5:]),
            )
        return said[-1] if said else ""


def _opened_by_both(path: Path) -> int | None:
    """A named pipe, for writing; None while nobody reads it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def _widen(stream: IO[bytes] | None) -> None:
    wide = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux
    if stream is not None and wide is not None:
        with suppress(OSError):  # an account has only so many wide ones
            fcntl.fcntl(stream.fileno(), wide, PIPE)


@contextmanager
def ticking(tell: Callable[[float], None], every: float = 10.0) -> Iterator[None]:
    """Give ``tell`` the seconds now and then while something takes long that does not tell of itself."""
    ended, began = threading.Event(), time.monotonic()

    def run() -> None:
        while not ended.wait(every):
            tell(time.monotonic() - began)

    threading.Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End a process of this one's: by SIGTERM, after ``seconds`` by SIGKILL."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk cannot be ended
            process.wait(10)


@contextmanager
def piped(
    what: str,
    argv: list[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    ignored: re.Pattern[str] | None = None,
    **options: Any,
) -> Iterator[Pipe]:
    """Run ``argv``; when the context ends early the command is ended. ``ignored``: lines that are not its own."""
    with tempfile.TemporaryFile() as errors:
        try:
            # a session of its own: Ctrl-C reaches this process, which ends the command
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd=cwd,
                **{**options, "start_new_session": True},
            )
        except OSError as error:
            raise TrackbedError(f"{what}: {error}", "`invoke up` installs what is missing") from None
        pipe = Pipe(what, process, errors, ignored)
        for stream in (process.stdin, process.stdout):
            _widen(stream)
        try:
            yield pipe
        finally:
            pipe.out.close()
            pipe.close()
            end(process, 10)
