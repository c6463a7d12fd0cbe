"""The files of a zip or tar archive in two walks: what is in it, and its content. Nothing is unpacked by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from helpers.errors import TrackbedError
from helpers.imports.sources import File
from helpers.suggestions import shown

AGAIN = "pack the data set again with plain files and folders only, or name another archive"
HEADER = 2**26  # bytes that are read at once: a header that says more would only fill the memory
OPENERS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
BROKEN = (
    *(EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError),
    *(RuntimeError, ValueError, UnicodeError),
)


def is_archive(name: str) -> bool:
    """Whether a name is an archive's."""
    return name.lower().endswith(SUFFIXES)


class _Bounded(io.RawIOBase):
    """A stream of which nobody can ask more at once than a header may have."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def seek(self, place: int, whence: int = 0, /) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, count: int = -1, /) -> bytes:
        if not 0 <= count <= HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self._stream.read(count)


def walk(stream: IO[bytes], what: str, most: int) -> Iterator[File]:
    """Every file, in the archive's order; each is open for one step. Raises TrackbedError.

    ``most``: bytes after which it does not go on, whatever the archive's headers say.
    """
    total = 0
    with _in_words(what):
        stream.seek(0)
        for file in (_zipped if zipfile.is_zipfile(stream) else _tarred)(stream, what):
            total += file.size
            if total > most:
                raise TrackbedError(
                    f"{what} has more than the {most / 2**30:.1f} GiB that are free for it",
                    "free some disk, or name a volume on a larger one",
                )
            yield file


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise TrackbedError(
            f"{what} cannot be read: {shown(str(error) or type(error).__name__, 200)}",
            "is it whole? --sha256 tells; .zip, .tar, .tar.gz, .tar.bz2 and .tar.xz are read",
        ) from None


def _zipped(stream: IO[bytes], what: str) -> Iterator[File]:
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                raise _refused(what, member.filename, "a link" if kind == stat.S_IFLNK else "no plain file")
            if member.flag_bits & 1:
                raise _refused(what, member.filename, "encrypted")
            with archive.open(member) as content:
                yield File(member.filename, member.file_size, content)


def _tarred(stream: IO[bytes], what: str) -> Iterator[File]:
    stream.seek(0)
    head = stream.read(8)
    stream.seek(0)
    opener = next((opener for magic, opener in OPENERS if head.startswith(magic)), None)
    plain = cast("IO[bytes]", opener(stream)) if opener else stream
    with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(plain)), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                link = member.issym() or member.islnk()
                raise _refused(what, member.name, "a link" if link else "no plain file")
            content = archive.extractfile(member)
            assert content is not None
            yield File(member.name, member.size, content)


def _refused(what: str, name: str, why: str) -> TrackbedError:
    return TrackbedError(f"{what}: {shown(name)} is {why}, which is refused", AGAIN)
