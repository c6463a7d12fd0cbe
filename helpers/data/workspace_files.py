"""The files of the notebook's workspace, streamed by a program that runs where the notebook runs, as its account.

What that program says is the notebook's word: it is bounded, checked, and may end at any moment.
"""

from __future__ import annotations

import json
import math
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import IO, TYPE_CHECKING, Any

from helpers.data import sent_program
from helpers.data.checksum import SetSum
from helpers.engines.streaming import END_SECONDS, Pipe, Stuck
from helpers.errors import TrackbedError
from helpers.services import JUPYTER, State
from helpers.suggestions import shown

if TYPE_CHECKING:  # in a pod of a cluster only what tests/unit/test_code_bundle.py names can be imported
    from helpers.engines.base import Engine

PARTS = ("folder_walk", "workspace_parts", "workspace_restoring", "workspace_script")
# reads the program from stdin, where a user's settings and packages cannot be in its way
PYTHON = ("python", "-I", "-S", "-X", "utf8", "-c", "import sys; exec(sys.stdin.buffer.read(int(sys.argv[1])))")
SILENCE = 300  # seconds without a word after which the program counts as stuck
SLOWEST, LEAST = 2**19, 1800  # bytes a second that are waited for, after so many seconds
LINE = 2**16
UNREADABLE, LONGEST_REASON = "cannot be read", 500
MOST, LONGEST_LIST = 20_000_000, 2**30  # entries of a workspace, and bytes that name them: they go to the disk
_TIME = 2**62


class Unfit(TrackbedError):
    """The notebook's side did not do what it should; the rest of a backup goes on."""

    OF = "the notebook's workspace: "

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{self.OF}{shown(why, LONGEST_REASON)}",
            "`invoke check` tests the notebook; then type the same command again",
        )


@dataclass(frozen=True)
class Rules:
    """What stays out of a backup: patterns of names, and files of more than ``largest`` bytes; and what is not there
    ``until`` then, in seconds since the epoch."""

    patterns: tuple[str, ...]
    largest: int
    until: float = math.inf

    @property
    def text(self) -> str:
        return json.dumps({"patterns": self.patterns, "largest": self.largest})


def present(engine: Engine) -> bool:
    """Whether this project has a notebook. Raises TrackbedError where it does not run."""
    for service in engine.services():
        if service.name == JUPYTER and service.state is not State.MISSING:
            if service.state not in (State.READY, State.RUNNING, State.STARTING):
                raise TrackbedError(f"jupyter is {service.state}, it has to run for its workspace", "`invoke up` first")
            return True
    return False


class Reader:
    """The program's words: a line or so many bytes, within a time. ``fail`` makes the error from why not."""

    def __init__(
        self,
        pipe: Pipe,
        size: int = 0,
        fail: Callable[[str], TrackbedError] = Unfit,
        until: float = math.inf,
    ) -> None:
        self._fail = fail
        self._pipe, self._handle, self._rest = pipe, pipe.out.fileno(), bytearray()
        self._end, self.taken = _end(size, until), 0

    def _more(self) -> bool:
        left = self._end - time.monotonic()
        ready, _, _ = select.select([self._handle], [], [], max(min(SILENCE, left), 0.0))
        if not ready and left > SILENCE:
            raise self._fail(f"no answer for {SILENCE} s")
        if not ready or left <= 0:
            raise self._fail("it takes too long")
        data = os.read(self._handle, 2**18)
        self._rest += data
        self.taken += len(data)
        if not data:
            finish(self._pipe, 10, self._fail)  # its own words are better
        return bool(data)

    def line(self) -> list[Any]:
        while (at := self._rest.find(b"\n")) < 0:
            if len(self._rest) > LINE or not self._more():
                raise self._fail("its list ended early")
        text = bytes(self._rest[:at])
        del self._rest[: at + 1]
        try:
            result = json.loads(text)
        except (ValueError, RecursionError):
            result = None
        if not isinstance(result, list) or not result:
            raise self._fail("its list is wrong")
        return result

    def read(self, count: int) -> bytes:
        """Some of the next ``count`` bytes. Raises Unfit at the end."""
        if not self._rest and not self._more():
            raise self._fail("a file ended early")
        result = bytes(self._rest[:count])
        del self._rest[: len(result)]
        return result


def _end(size: int, until: float) -> float:
    """When so many bytes have to be there, as ``time.monotonic`` has it; ``until``: at the latest."""
    return time.monotonic() + min(LEAST + size / SLOWEST, until - time.time())


def finish(pipe: Pipe, timeout: float = END_SECONDS, fail: Callable[[str], TrackbedError] = Unfit) -> None:
    """Wait for the program's good end. Raises what ``fail`` makes of its words."""
    try:
        pipe.finish(timeout)
    except TrackbedError as error:
        raise fail(error.message.removeprefix("python failed: ")) from None


def program() -> bytes:
    """The text of the program."""
    folder = resources.files(__package__)  # in a pod it is in a zip
    return sent_program.joined(*(folder / f"{part}.py" for part in PARTS))


@contextmanager
def _running(
    engine: Engine,
    *words: str,
    size: int = 0,
    until: float = math.inf,
    on_wait: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Pipe]:
    """The program with that task. Raises Unfit. ``size``: what it is given in bytes, or more; ``on_wait`` is given the
    seconds in which it took nothing."""
    text = program()
    with ExitStack() as stack:
        try:
            pipe = stack.enter_context(engine.pipe(JUPYTER, (*PYTHON, str(len(text)), engine.workspace_inside, *words)))
        except TrackbedError as error:
            raise Unfit(error.message) from None
        pipe.into.patience, pipe.into.on_wait = SILENCE, on_wait
        pipe.into.end = _end(size, until)
        with _sending():
            pipe.into.write(text)
        yield pipe


@contextmanager
def _sending() -> Iterator[None]:
    """What is written into the program. Raises Unfit where it takes nothing."""
    try:
        yield
    except BrokenPipeError:
        pass  # finish tells why
    except Stuck as error:
        raise Unfit(f"it {error.message.removeprefix('python ')}") from None


def is_name(name: object) -> bool:
    """Whether it is a path below a workspace."""
    if not isinstance(name, str) or "\0" in name or {"", ".", ".."} & set(name.split("/")):
        return False
    try:
        return len(name.encode("utf-8", "surrogateescape")) <= 4096
    except UnicodeEncodeError:
        return False


def _is(value: object, most: int, least: int = 0) -> bool:
    return type(value) is int and least <= value <= most


def is_line(line: list[Any], largest: int) -> bool:
    """Whether it is a line as the program writes them."""
    if len(line) < 3 or not is_name(line[1]):
        return False
    kind, rest = line[0], line[2:]
    if kind == "link":
        return len(rest) == 2 and isinstance(rest[0], str) and len(rest[0]) <= 4096 and _is(rest[1], _TIME, -_TIME)
    if kind in ("left", "void"):
        return len(rest) == 2 and isinstance(rest[0], str) and len(rest[0]) <= 300 and _is(rest[1], _TIME)
    if kind == "file":
        if len(rest) not in (3, 4) or not _is(rest.pop(0), largest):
            return False
        if len(rest) == 3 and not (isinstance(mark := rest.pop(), str) and len(mark) <= 100 and mark.isascii()):
            return False
    return kind in ("file", "dir") and len(rest) == 2 and _is(rest[0], 0o777) and _is(rest[1], _TIME, -_TIME)


def listing(engine: Engine, rules: Rules) -> Iterator[list[Any]]:
    """What is in the workspace; workspace_script.py tells the lines. Raises Unfit."""
    with _running(engine, "list", rules.text, until=rules.until) as pipe:
        reader, count = Reader(pipe, until=rules.until), 0
        pipe.close()
        while (line := reader.line())[0] != "end":
            count += 1
            if not is_line(line, rules.largest if line[0] == "file" else _TIME):
                raise Unfit("its list is wrong")
            if count > MOST or reader.taken > LONGEST_LIST:
                raise Unfit("it has too many files")
            yield line
        finish(pipe)
    if line[1:] != [count]:
        raise Unfit("its list ended early")


class Content:
    """A file's bytes. Where the program ends too early the rest is zeros, and ``problem`` says why: what it goes into
    has its size already."""

    def __init__(self, reader: Reader, size: int) -> None:
        self._reader, self.left, self.problem = reader, size, ""

    def read(self, count: int = -1) -> bytes:
        count = self.left if count < 0 else min(count, self.left)
        if not count:
            return b""
        try:
            result = bytes(min(count, 2**20)) if self.problem else self._reader.read(count)
        except TrackbedError as error:
            self.problem = error.message
            return self.read(count)
        self.left -= len(result)
        return result

    def end(self) -> str:
        """What the program says of it once it is read: "" for nothing."""
        if not self.problem:
            try:
                line = self._reader.line()
            except TrackbedError as error:
                self.problem = error.message
            else:
                return shown(str(line[1]), 200) if line[0] == "done" and len(line) == 2 else UNREADABLE
        return f"{UNREADABLE}: {shown(self.problem, 200)}"


def read(
    engine: Engine,
    rules: Rules,
    names: Callable[[], Iterable[str]],
    size: int,
    took: Callable[[list[Any], Content | None], None],
) -> None:
    """Give ``took`` a line and the content of each of the ``names``, or a line ["gone", name, why], in their order.

    Raises Unfit; a content that ended early was taken before that. ``size``: bytes that are expected.
    """
    with _running(engine, "read", rules.text, size=size, until=rules.until) as pipe:
        reader = Reader(pipe, size, until=rules.until)
        with _sending():
            for name in names():
                pipe.into.write(json.dumps(name).encode() + b"\n")
        pipe.close()
        for name in names():
            line = reader.line()
            if line[1:2] != [name] or not ((line[0] == "gone" and len(line) == 3) or is_line(line, rules.largest)):
                raise Unfit("it answered something else")
            if line[0] != "file":
                took(line, None)
                continue
            content = Content(reader, line[2])
            took(line, content)
            if content.problem:
                raise Unfit(content.problem.removeprefix(Unfit.OF))
        finish(pipe)


@dataclass
class Staged:
    """Files that a restore has put into a hidden folder of the workspace."""

    folder: str
    sums: SetSum
    problems: list[str]


def write(
    engine: Engine,
    size: int,
    members: Iterator[tuple[str, int, IO[bytes]]],
    listed: Callable[[], Any],
    on_wait: Callable[[float], None],
) -> Staged:
    """Files into a hidden folder of the workspace, ``listed`` gives the list (size, stream) once they are all read.

    Raises TrackbedError, and then the folder is gone.
    """
    with _running(engine, "write", str(size), size=size, on_wait=on_wait) as pipe:
        with _sending():
            for name, length, content in members:
                pipe.into.write(json.dumps(["file", name, length]).encode() + b"\n")
                while data := content.read(2**20):
                    pipe.into.write(data)
            length, stream = listed()
            pipe.into.write(json.dumps(["list", length]).encode() + b"\n")
            while data := stream.read(2**20):
                pipe.into.write(data)
            pipe.into.write(b'["end"]\n')
        pipe.close()
        sums, problems, reader = SetSum(), list[str](), Reader(pipe, size)
        while True:
            line = reader.line()
            if line[0] == "sum" and len(line) == 4 and is_name(line[3]):
                sums.add(str(line[1])[:64], line[2], line[3])
            elif line[0] == "problem":
                problems.append(shown(str(line[1]), 300))
            elif line[0] == "end" and is_name(line[1]):
                break
            else:
                raise Unfit("it answered something else")
        finish(pipe)
    return Staged(line[1], sums, problems)


def place(engine: Engine, staged: Staged, name: str) -> tuple[str, list[str]]:
    """Move staged files into the workspace where it is empty, else to a folder ``name`` beside what is there.

    Gives that folder, "" where they are in the workspace; and then a folder with what could not, and its first names.
    """
    with _running(engine, "place", staged.folder, name) as pipe:
        reader = Reader(pipe)
        pipe.close()
        line = reader.line()
        finish(pipe)
    if line[0] != "placed" or len(line) != 3 or not isinstance(line[1], str) or not isinstance(line[2], list):
        raise Unfit("it answered something else")
    return shown(line[1], 200), [shown(str(one), 200) for one in line[2][:21]]


def drop(engine: Engine) -> None:
    """Remove what a restore that failed has staged."""
    with _running(engine, "drop") as pipe:
        finish(pipe)
