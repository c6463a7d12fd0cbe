"""The objects of a system, whatever holds them: streamed by the MLflow part, which has the keys."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import IO

from helpers.backups.archive import SetSum
from helpers.engines.base import MLFLOW, Engine
from helpers.errors import TrackbedError

PROGRAM = "trackbed-mlflow"
LONG = 24 * 3600.0


def read(engine: Engine) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each object; the content has to be read before the next is asked for."""
    ended = False
    with engine.pipe(MLFLOW, (PROGRAM, "out"), fresh=True) as pipe:
        try:
            with tarfile.open(fileobj=pipe.out, mode="r|", bufsize=2**20, encoding="utf-8",
                              errors="surrogateescape") as tar:
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
        pipe.finish()
    if not ended:
        raise TrackbedError("reading the objects ended early", "run the same command again")


def write(engine: Engine, prefix: str, found: Iterator[tuple[str, int, IO[bytes]]]) -> None:
    """Store objects below ``prefix``."""
    with engine.pipe(MLFLOW, (PROGRAM, "in", prefix), fresh=True) as pipe:
        try:
            for name, size, content in found:
                _send(pipe.into, name, size, content)
            end = b"{}"
            member = tarfile.TarInfo("end")
            member.size = len(end)
            pipe.into.write(member.tobuf(tarfile.PAX_FORMAT) + end.ljust(512, b"\0") + bytes(1024))
        except BrokenPipeError:
            pass  # finish tells why
        pipe.finish(LONG)


def _send(target: IO[bytes], name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(f"o/{name}")
    member.size = size
    target.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    while data := content.read(2**20):
        target.write(data)
    target.write(bytes(-size % 512))


def sums(engine: Engine, prefix: str = "") -> tuple[SetSum, int]:
    """The checksum of the objects as the store gives them back, and their size in bytes."""
    found, total = SetSum(), 0
    with engine.pipe(MLFLOW, (PROGRAM, "sums", *((prefix,) if prefix else ())), fresh=True) as pipe:
        for line in pipe.out:
            digest, size, name = line.decode().split(" ", 2)
            found.add(digest, int(size), json.loads(name))
            total += int(size)
        pipe.finish()
    return found, total


def drop(engine: Engine, prefix: str) -> None:
    with engine.pipe(MLFLOW, (PROGRAM, "drop", prefix), fresh=True) as pipe:
        pipe.finish(3600)
