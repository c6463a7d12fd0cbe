"""All objects at once, as backups and `invoke usage` ask for them: lists, sums, sizes, streams in and out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, BinaryIO, cast

from trackbed_mlflow import artifact_locations, durability
from trackbed_mlflow.bucket import s3_address
from trackbed_mlflow.errors import FAILED, USAGE, Stop, say
from trackbed_mlflow.folder_objects import CHUNK
from trackbed_mlflow.object_store import ObjectStore, at_folder, fetched, storage
from trackbed_mlflow.s3_objects import S3Objects

BUFFER = 2**17  # bytes of a tar stream; tarfile copies a whole one for each header


def objects_list(environment: Mapping[str, str]) -> None:
    """Print name, size and mark of every object, and at the end their count: `null`, then the number."""
    _print_list(storage(environment, ""))


def _print_list(store: ObjectStore) -> None:
    count = 0
    for entry in store.marked():
        print(json.dumps(entry))
        count += 1
    print(json.dumps([None, count, ""]), flush=True)


def objects_picked(environment: Mapping[str, str], source: BinaryIO, target: BinaryIO) -> str:
    """`objects_out` of the names that ``source`` has."""
    with _names(source) as names:
        return _write_objects(storage(environment, ""), names, target)


def objects_offered(environment: Mapping[str, str], source: BinaryIO, target: BinaryIO) -> str:
    """`objects_list` as soon as ``source`` has a line, then `objects_picked` of the rest: one start for both."""
    store = storage(environment, "")
    if not source.readline():
        return "no objects were asked for"
    _print_list(store)
    with _names(source) as names:
        return _write_objects(store, names, target)


@contextlib.contextmanager
def _names(source: BinaryIO) -> Iterator[Iterator[str]]:
    """The names that ``source`` has. They are all read first: who sends them reads nothing yet."""
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(source, spool, CHUNK)
        spool.seek(0)
        yield (str(json.loads(line)) for line in spool)


def objects_digests(environment: Mapping[str, str], source: BinaryIO) -> None:
    """Print `[SHA-256, size]` of each object that ``source`` names, in its order, or `null` where there is none."""
    with _names(source) as names:
        for _, size, stream in fetched(storage(environment, ""), names):
            print(json.dumps(None if stream is None else [_sha256(stream), size]))


def _sha256(stream: BinaryIO) -> str:
    sha = hashlib.sha256()
    while content := stream.read(CHUNK):
        sha.update(content)
    stream.close()
    return sha.hexdigest()


def objects_out(environment: Mapping[str, str], prefix: str, target: BinaryIO) -> str:
    """Write every object to a tar stream as `o/NAME`; the last member, `end`, tells that it is whole."""
    store = storage(environment, prefix)
    return _write_objects(store, (name for name, _ in store.names()), target)


def _write_objects(store: ObjectStore, names: Iterator[str], target: BinaryIO) -> str:
    count, gone = 0, 0
    for name, size, stream in fetched(store, names):
        if stream is None:
            gone += 1  # deleted while we were listing: nothing points to it any more
            continue
        _write_member(target, f"o/{name}", size, stream)
        stream.close()
        count += 1
    end = json.dumps({"objects": count, "gone": gone}).encode()
    _write_member(target, "end", len(end), io.BytesIO(end))
    target.write(bytes(1024))
    return f"{count} objects"


def _write_member(target: BinaryIO, name: str, size: int, stream: BinaryIO) -> None:
    """A tar member. tarfile's own way copies its buffer again for each 16 KiB, which is most of the time."""
    member = tarfile.TarInfo(name)
    member.size = left = size
    target.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    while left:
        content = stream.read(min(left, CHUNK))
        if not content:
            raise OSError(f"{name} ended {left} bytes early")
        target.write(content)
        left -= len(content)
    target.write(bytes(-size % 512))


def objects_in(environment: Mapping[str, str], prefix: str, source: BinaryIO) -> str:
    """Store what `objects_out` wrote. Fails on a stream that ends early and on names that lead out of the prefix.

    Prints as JSON, a line each: the names that the store could not give, by those that it gave; and where the
    store answered the checksum of each of them, `[name, size, ETag, SHA-256]` of each, then `[name, size, ETag]` of all
    that it lists.
    """
    store, count, ended = storage(environment, prefix), 0, False
    with _Proven(store) as proven, tarfile.open(fileobj=source, mode="r|", bufsize=BUFFER) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]
            name = member.name.removeprefix("o/")
            if member.name == "end":
                ended = True
                continue
            words = name.split("/")
            if ended or not member.isreg() or name == member.name or not {"", ".", ".."}.isdisjoint(words):
                raise Stop(USAGE, f"{member.name!r} does not belong into a stream of objects")
            if environment.get("TRACKBED_STORE_SYNC") and artifact_locations.shadows(name):
                raise Stop(FAILED, f"VersityGW cannot keep an object of the name {name!r}")
            stream = tar.extractfile(member)
            assert stream is not None
            store.put(name, member.size, cast("BinaryIO", stream))
            count += 1
        if not ended:
            raise Stop(FAILED, "the stream of objects ended early")
        store.finish()
        durability.sync_all(environment)
        print(json.dumps(store.renamed))
        proven.tell(count)
    return f"{count} objects stored"


class _Proven:
    """What a store has confirmed of what was put into it; a folder confirms nothing."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._lock, self._count = store, threading.Lock(), 0
        self._spool: IO[bytes] | None = None  # lines only; who sends objects reads nothing yet

    def __enter__(self) -> _Proven:
        if isinstance(self._store, S3Objects):
            with contextlib.suppress(OSError):  # without room for the lines all is read back, here and below
                self._spool = tempfile.TemporaryFile()
                self._store.on_proven = self._add
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # it writes what it still holds
            if self._spool:
                self._spool.close()

    def _add(self, *words: str | int) -> None:
        line = json.dumps(words).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):
            assert self._spool is not None
            self._spool.write(line)
            self._count += 1

    def tell(self, stored: int) -> None:
        """Print what was confirmed; where that is all of what was ``stored``, what the store lists too."""
        if not isinstance(self._store, S3Objects) or self._spool is None or self._count != stored:
            return
        try:
            self._spool.seek(0)
        except OSError:
            return
        for line in self._spool:
            print(line.decode().rstrip())
        # one more says that these are not all: an import beside a million others is not to wait for their list
        for entry in itertools.islice(self._store.tagged(), stored + 1):
            print(json.dumps(entry))


def objects_sums(environment: Mapping[str, str], prefix: str) -> None:
    """Print `SHA-256 size name` for each object as the store gives it back; names as JSON strings."""
    store = storage(environment, prefix)
    for name, size, stream in fetched(store, (name for name, _ in store.names())):
        if stream is None:
            raise Stop(FAILED, f"{name} was deleted meanwhile")
        print(_sha256(stream), size, json.dumps(name))


def objects_dropped(environment: Mapping[str, str], prefix: str, top: str) -> str:
    """Remove all below a prefix, or below one folder of it: where the store keeps it, or else by the store."""
    if _discarded(environment, prefix, top):
        return "removed"
    return f"{storage(environment, prefix, top).drop()} objects removed"


def objects_discarded(environment: Mapping[str, str], prefix: str, top: str) -> str:
    """The same where the store keeps it, or not at all: a server that runs has no memory to spare for more."""
    if not _discarded(environment, prefix, top):
        raise Stop(FAILED, "the service beside the store cannot remove this alone")
    return "removed"


def _discarded(environment: Mapping[str, str], prefix: str, top: str) -> bool:
    destination = at_folder(environment, prefix, top)
    return destination.startswith("s3://") and durability.drop(environment, *s3_address(destination))


def sizes(environment: Mapping[str, str], now: float) -> dict[str, list[int]]:
    """Objects, bytes and bytes of the last 7 days per top folder, which is an experiment's id."""
    result: dict[str, list[int]] = {}
    for name, size, changed in storage(environment, "").listing():
        entry = result.setdefault(name.split("/")[0], [0, 0, 0])
        entry[0] += 1
        entry[1] += size
        entry[2] += size if changed > now - 7 * 86400 else 0
    return result


def run(command: str, prefix: str, more: str = "") -> None:
    """One of the entry's commands for all objects; ``more``: the one folder, or the named pipe, that it is about."""
    try:
        _run(command, prefix, more)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise Stop(FAILED, f"{command}: {error}") from None


def _fed(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """What is to be read: stdin, or the named pipe of that ``path``.

    Nobody may ever write to the latter, because who wanted to was killed. So stdin ends once it has a writer, or none.
    """
    if not path:
        return contextlib.nullcontext(sys.stdin.buffer)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    sys.stdin.buffer.read()
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def _run(command: str, prefix: str, more: str) -> None:
    if command == "out":
        say(objects_out(os.environ, prefix, sys.stdout.buffer))
    elif command == "list":
        objects_list(os.environ)
    elif command == "pick":
        say(objects_picked(os.environ, sys.stdin.buffer, sys.stdout.buffer))
    elif command == "offer":
        say(objects_offered(os.environ, sys.stdin.buffer, sys.stdout.buffer))
    elif command == "digests":
        objects_digests(os.environ, sys.stdin.buffer)
    elif command == "in":
        with _fed(more) as source:
            say(objects_in(os.environ, prefix, source))
    elif command == "sums":
        objects_sums(os.environ, prefix)
    elif command == "discard":
        say(objects_discarded(os.environ, prefix, more))
    elif command == "sizes":
        print(json.dumps(sizes(os.environ, time.time())))
    else:
        say(objects_dropped(os.environ, prefix, more))
