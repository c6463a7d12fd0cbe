"""The objects of a project, whatever holds them: streamed by the MLflow service, which has the keys."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from helpers.data.checksum import SetSum
from helpers.engines.streaming import BLOCK, END_SECONDS, Input, Pipe
from helpers.errors import TrackbedError
from helpers.services import MLFLOW, ProgressReporter

if TYPE_CHECKING:
    from helpers.engines.base import Engine

PROGRAM = "trackbed-mlflow"
LONG = 24 * 3600.0
ASKED = 300.0  # seconds for the service beside the store: whoever asks it gives up after two minutes


def listing(engine: Engine) -> Iterator[tuple[str, int, str]]:
    """Name, size and mark of each object; one whose mark is equal to an earlier one ("" never is) is unchanged."""
    with engine.pipe(MLFLOW, (PROGRAM, "list"), fresh=True) as pipe:
        yield from _listed(pipe, pipe.out)
        pipe.finish()


def _listed(pipe: Pipe, lines: Iterable[bytes]) -> Iterator[tuple[str, int, str]]:
    """What a command prints as its list, up to the line with their number. Raises TrackbedError for less."""
    count = 0
    with _whole_lines(pipe, "listing"):
        for line in lines:
            name, size, mark = json.loads(line)
            if name is None:
                if size == count:
                    return
                break
            count += 1
            yield name, size, mark
    pipe.finish()  # its own words are better
    raise TrackbedError("listing the objects ended early", "run the same command again")


def total(engine: Engine) -> tuple[int, int]:
    """Count and bytes of all objects, without reading them."""
    done = engine.one_shot(MLFLOW, (PROGRAM, "sizes"), timeout=600)
    try:
        result = [(int(count), int(size)) for count, size, _ in json.loads(done.stdout).values()]
    except (ValueError, TypeError, AttributeError):
        lines = tuple(done.stderr.strip().splitlines()[-3:])
        raise TrackbedError(
            "the object store does not list its objects", "`invoke up`, then run the same command again", lines
        ) from None
    return sum(count for count, _ in result), sum(size for _, size in result)


def read_all(engine: Engine, progress: ProgressReporter) -> Iterator[tuple[str, int, IO[bytes]]]:
    """`read` of every object, also of those that the store holds and does not list."""
    yield from read(engine)
    if hidden := _hidden(engine, progress):
        yield from read(engine, iter(hidden))


def list_all(engine: Engine, progress: ProgressReporter) -> Iterator[tuple[str, int, str]]:
    """`listing` of every object in the same way; the size of those that are not listed is said to be 0."""
    yield from listing(engine)
    yield from _unlisted(engine, progress)


def _unlisted(engine: Engine, progress: ProgressReporter) -> Iterator[tuple[str, int, str]]:
    yield from ((name, 0, "") for name in _hidden(engine, progress))


def _hidden(engine: Engine, progress: ProgressReporter) -> tuple[str, ...]:
    hidden = engine.unlisted()
    if hidden:
        progress.step(f"{len(hidden)} artifacts that the store does not list, because each lies below another artifact")
    return hidden


def count(engine: Engine) -> int:
    """How many objects the store holds, listed or not."""
    return total(engine)[0] + len(engine.unlisted())


def read(engine: Engine, names: Iterator[str] | None = None) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each object, or of the ``names`` that are there.

    The content has to be read before the next is asked for.
    """
    with engine.pipe(MLFLOW, (PROGRAM, "out" if names is None else "pick"), fresh=True) as pipe:
        yield from _picked(pipe, names or iter(()))
        pipe.finish()


def _picked(pipe: Pipe, names: Iterator[str]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """What a command streams of the ``names`` that it is told. Raises TrackbedError where that has no end."""
    try:
        for chosen in names:
            pipe.into.write(json.dumps(chosen).encode() + b"\n")
        pipe.close()
    except BrokenPipeError:
        pass  # finish tells why
    ended = False
    try:
        with tarfile.open(
            fileobj=pipe.out, mode="r|", bufsize=BLOCK, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                content = tar.extractfile(member)
                if content is None:
                    continue
                if member.name == "end":
                    ended = True
                else:
                    yield member.name.removeprefix("o/"), member.size, content
    except (tarfile.TarError, EOFError) as error:
        pipe.finish()  # its own words are better
        raise TrackbedError(f"reading the objects failed: {error}", "run the same command again") from None
    if not ended:
        pipe.finish()
        raise TrackbedError("reading the objects ended early", "run the same command again")


class Offer:
    """A command that lists all objects once it is told to, and then gives those that are asked for. Starting it takes
    longer than listing some thousands, so it may be started before it is needed."""

    def __init__(self, engine: Engine, pipe: Pipe) -> None:
        self._engine, self._pipe = engine, pipe
        self._known = True

    def begin(self) -> None:
        """List from now on: what is stored by now is among them."""
        with suppress(BrokenPipeError):  # whoever reads the list sees that it ended
            self._pipe.into.write(b"\n")

    def list_all(self, progress: ProgressReporter) -> Iterator[tuple[str, int, str]]:
        """As `list_all` has it; after ``begin``."""
        first = self._pipe.out.readline()
        self._known = bool(first)
        if self._known:
            yield from _listed(self._pipe, itertools.chain((first,), self._pipe.out))
        else:  # an image of an earlier version does not know this command, and says nothing
            yield from listing(self._engine)
        yield from _unlisted(self._engine, progress)

    def read(self, names: Iterator[str]) -> Iterator[tuple[str, int, IO[bytes]]]:
        """As `read` has it; after the list."""
        return _picked(self._pipe, names) if self._known else read(self._engine, names)

    def close(self) -> None:
        """Nothing more is asked for: the command ends beside what comes next."""
        self._pipe.close()


@contextmanager
def offer(engine: Engine) -> Iterator[Offer]:
    with engine.pipe(MLFLOW, (PROGRAM, "offer"), fresh=True) as pipe:
        yield Offer(engine, pipe)
        pipe.ended(END_SECONDS)  # what it gave was proven to be whole


@contextmanager
def _whole_lines(pipe: Pipe, what: str) -> Iterator[None]:
    """A command that is killed may end within a line."""
    try:
        yield
    except ValueError:
        pipe.finish()  # its own words are better
        raise TrackbedError(f"{what} the objects ended early", "run the same command again") from None


@dataclass
class Written:
    """What was stored. ``renamed``: the names that the store could not give, by those that it gave. ``confirmed``: the
    checksum of what reached the store, where that gave back the checksum of each object and lists exactly these, each
    with its size and checksum; None where it has to be read back."""

    renamed: dict[str, str]
    confirmed: SetSum | None = None


def write(engine: Engine, prefix: str, objects: Iterator[tuple[str, int, IO[bytes]]]) -> Written:
    """Store objects below ``prefix``."""
    with engine.feed(MLFLOW, (PROGRAM, "in", prefix)) as pipe:
        send(pipe, objects)
        with _whole_lines(pipe, "storing"):
            result = _written(pipe.out)
        pipe.finish(LONG)
    return result


def _written(lines: IO[bytes]) -> Written:
    renamed = {str(name): str(old) for name, old in json.loads(lines.readline() or b"{}").items()}
    sent, given, listed = SetSum(), SetSum(), SetSum()
    for line in lines:
        name, size, tag, *sha = json.loads(line)
        if sha:
            sent.add(sha[0], size, renamed.get(name, name))
        (given if sha else listed).add(tag, size, name)
    same = (given.text, given.count) == (listed.text, listed.count)
    return Written(renamed, sent if same and sent.count else None)


def digests(engine: Engine, names: Iterable[str]) -> Generator[tuple[str, int] | None, None, None]:
    """SHA-256 and size of each object of those names, in their order; None where there is none."""
    with engine.pipe(MLFLOW, (PROGRAM, "digests"), fresh=True) as pipe, _whole_lines(pipe, "reading"):
        try:
            for name in names:
                pipe.into.write(json.dumps(name).encode() + b"\n")
        except BrokenPipeError:
            pass  # finish tells why
        pipe.close()
        for line in pipe.out:
            found = json.loads(line)
            yield None if found is None else (str(found[0]), int(found[1]))
        pipe.finish(LONG)


def send(pipe: Pipe, objects: Iterable[tuple[str, int, IO[bytes]]], more: bool = False) -> None:
    """Name, size and content of each object as the MLflow service's program reads them, and the mark of their end.

    ``more``: something else follows.
    """
    try:
        for name, size, content in objects:
            _send(pipe.into, name, size, content)
        end = b"{}"
        member = tarfile.TarInfo("end")
        member.size = len(end)
        pipe.into.write(member.tobuf(tarfile.PAX_FORMAT) + end.ljust(512, b"\0") + bytes(1024))
        pipe.into.flush()
    except BrokenPipeError:
        pass  # finish tells why
    if not more:
        pipe.close()


def _send(target: Input, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(f"o/{name}")
    member.size = size
    target.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    while data := content.read(BLOCK):
        target.write(data)
    target.write(bytes(-size % 512))


def sums(
    engine: Engine,
    prefix: str = "",
    renamed: Mapping[str, str] | None = None,
    report: Callable[[int, int], None] = lambda size, count: None,
) -> tuple[SetSum, int]:
    """The checksum of the objects as the store gives them back, and their size in bytes.

    ``renamed``: the names that some had before, by those that they have. ``report``: told the bytes and the number of
    those that were read.
    """
    result, total = SetSum(), 0
    words = (PROGRAM, "sums", *((prefix,) if prefix else ()))
    with engine.pipe(MLFLOW, words, fresh=True) as pipe, _whole_lines(pipe, "reading"):
        for line in pipe.out:
            digest, size, name = line.decode().split(" ", 2)
            name = json.loads(name)
            result.add(digest, int(size), (renamed or {}).get(name, name))
            total += int(size)
            report(total, result.count)
        pipe.finish()
    return result, total


def drop(engine: Engine, prefix: str, top: str = "") -> None:
    """Delete all below a prefix, or below one folder of it. The disk may take some seconds longer."""
    words = (prefix, *((top,) if top else ()))
    if engine.object_store == "versitygw":  # the service beside it does it: the running server only asks
        # it may be down, or of an earlier version; or more is to be done, which would take its memory
        with suppress(TrackbedError), engine.pipe(MLFLOW, (PROGRAM, "discard", *words)) as pipe:
            pipe.finish(ASKED)
            return
    with engine.pipe(MLFLOW, (PROGRAM, "drop", *words), fresh=True) as pipe:
        pipe.finish(3600)
