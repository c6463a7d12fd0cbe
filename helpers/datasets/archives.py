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
DIRECTORY = 2**27  # bytes of a zip archive's list of names, which is read at once: as much as fills 1 GiB of memory
XZ_MEMORY = 2**29  # bytes that unpacking may take; `xz -9` needs 65 MiB, and the format goes up to 4 GiB
CHUNK = 2**18
# the others' memory has no bound when they are read
ZIPPED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
BROKEN = (
    *(EOFError, OSError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError),
    *(RuntimeError, ValueError, UnicodeError),
)


def is_archive(name: str) -> bool:
    """Whether a name is an archive's."""
    return name.lower().endswith(SUFFIXES)


class _Bounded(io.RawIOBase):
    """A stream of which nobody can ask more at once than ``most`` bytes. ``refuse``: makes the error, of how many."""

    def __init__(self, stream: IO[bytes], most: int, refuse: Callable[[int], Exception]) -> None:
        self._stream, self._most, self._refuse, self.last = stream, most, refuse, b""

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0, /) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, count: int = -1, /) -> bytes:
        if count > self._most:
            raise self._refuse(count)
        self.last = self._stream.read(count if count >= 0 else self._most + 1)
        if len(self.last) > self._most:
            raise self._refuse(len(self.last))
        return self.last


class _Xz(io.RawIOBase):
    """What lzma.open gives, within XZ_MEMORY. It is only read forward."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._place = stream, 0
        self._begin()

    def _begin(self) -> None:
        self._one = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0, /) -> int:
        if whence or place < self._place:
            raise io.UnsupportedOperation("only what comes can be sought")
        while self._place < place and self.read(min(CHUNK, place - self._place)):
            pass
        return self._place

    def read(self, count: int = -1, /) -> bytes:
        result = bytearray()
        while len(result) < count and (data := self._more(count - len(result))):
            result += data
        self._place += len(result)
        return bytes(result)

    def _more(self, count: int) -> bytes:
        while True:
            given = b""
            if self._one.eof:  # another stream may follow, behind padding
                rest = self._one.unused_data.lstrip(b"\0")
                while not rest:
                    if not (data := self._stream.read(CHUNK)):
                        return b""
                    rest = data.lstrip(b"\0")
                given = rest
                self._begin()
            elif self._one.needs_input and not (given := self._stream.read(CHUNK)):
                raise EOFError("it ends early")
            try:
                data = self._one.decompress(given, count)
            except lzma.LZMAError as error:
                if "emory" not in str(error):
                    raise
                most = f"{XZ_MEMORY >> 20} MiB of memory"
                raise lzma.LZMAError(f"it needs more than {most}; pack it again, as with `xz -9`") from None
            if data:
                return data


OPENERS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", _Xz),
)


def walk(stream: IO[bytes], what: str, most: int) -> Iterator[File]:
    """Every file, in the archive's order; each is open for one step. Raises TrackbedError.

    ``most``: bytes after which it does not go on, whatever the archive's headers say.
    """
    total = 0
    with _in_words(what):
        stream.seek(0)
        head = stream.read(tarfile.BLOCKSIZE)
        # what lies in a tar archive may end as a zip archive does
        tar = _opener(head) or head[257:262] == b"ustar" or not zipfile.is_zipfile(stream)
        for file in (_tarred if tar else _zipped)(stream, what):
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
    def refuse(count: int) -> TrackbedError:
        names = f"{what} is a zip archive whose list of names has {count >> 20} MiB, more than {DIRECTORY >> 20} MiB"
        return TrackbedError(
            f"{names}: it would fill the memory", "pack the data set as .tar, which is read name by name"
        )

    with zipfile.ZipFile(cast("IO[bytes]", _Bounded(stream, DIRECTORY, refuse))) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                raise _refused(what, member.filename, "a link" if kind == stat.S_IFLNK else "no plain file")
            if member.flag_bits & 1:
                raise _refused(what, member.filename, "encrypted")
            if member.compress_type not in ZIPPED:
                raise _refused(what, member.filename, "packed in another way than deflate")
            with archive.open(member) as content:
                yield File(member.filename, member.file_size, content)


def _opener(head: bytes) -> Callable[..., Any] | None:
    return next((opener for magic, opener in OPENERS if head.startswith(magic)), None)


def _tarred(stream: IO[bytes], what: str) -> Iterator[File]:
    stream.seek(0)
    opener = _opener(stream.read(8))
    stream.seek(0)
    plain = cast("IO[bytes]", opener(stream)) if opener else stream
    bounded = _Bounded(plain, HEADER, lambda count: tarfile.ReadError(f"a header of {count} bytes"))
    with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                link = member.issym() or member.islnk()
                raise _refused(what, member.name, "a link" if link else "no plain file")
            if member.size < 0:
                raise tarfile.ReadError(f"a file of {member.size} bytes")
            content = archive.extractfile(member)
            assert content is not None
            yield File(member.name, member.size, content)
    # tarfile takes a damaged header, or none, for the end; reading on also compares gzip's and xz's checksum
    if bounded.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends early, or a header in it is damaged")
    while data := plain.read(CHUNK):
        if data.strip(b"\0"):
            raise tarfile.ReadError("there is more behind its end")


def _refused(what: str, name: str, why: str) -> TrackbedError:
    return TrackbedError(f"{what}: {shown(name)} is {why}, which is refused", AGAIN)
