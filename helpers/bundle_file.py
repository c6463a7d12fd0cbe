"""The file that `invoke bundle` writes: plain files one after the other as tar has them, and at its end a manifest.

setup.sh runs this module on a machine that has nothing yet, so it imports nothing of ours and runs on Python 3.8:
``python3 -I bundle_file.py BUNDLE FOLDER`` unpacks what setup.sh needs. The format is the simplest part of tar: no
links, no folders, no headers of a size that a header says. What `tar -xf` unpacks from it is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import IO, Any, Callable, Iterable, Iterator, NamedTuple  # noqa: UP035 - Python 3.8 runs it

FORMAT = 1
MANIFEST = "manifest.json"
TOOLKIT = "toolkit/"  # what setup.sh needs
WHEELS = "wheels/"  # of the embedded engine's environments
IMAGES = "images/"  # of the containers, an OCI layout
PYTHON = "python/"  # the interpreter that uv brought, where it did
BLOCK = 512
CHUNK = 1 << 20
MOST_FILES = 200_000
MOST_MANIFEST = 64 << 20  # bytes
NAME = re.compile(r"[A-Za-z0-9_+@%=,~!()-][A-Za-z0-9._+@%=,~!() -]*")
Amount = Callable[[int, int], None]  # takes the bytes that are done, and all


class BundleError(Exception):
    """Why a file is no bundle that can be used, in words."""


class Entry(NamedTuple):
    """A file in a bundle; ``start`` is where its header begins, ``offset`` where its content does."""

    name: str
    size: int
    start: int
    offset: int
    runs: bool


def is_safe(name: str) -> bool:
    """Whether a name stays below the folder that it is unpacked in, on every system."""
    return len(name) <= 255 and all(NAME.fullmatch(one) or _hidden(one) for one in name.split("/"))


def _hidden(one: str) -> bool:
    return one.startswith(".") and bool(NAME.fullmatch(one[1:]))


def header(name: str, size: int, runs: bool = False) -> bytes:
    """The blocks before a file's content, as tar has them. Raises BundleError for a name that has no place there."""
    if not is_safe(name):
        raise BundleError(f"{name!r} cannot be the name of a file in a bundle")
    path = name.encode("ascii")
    block = _block(path[:100], size, b"0", runs)
    if len(path) <= 100:
        return block
    # as GNU tar writes a long name: an entry before it, whose content is the name
    return _block(b"././@LongLink", len(path) + 1, b"L", False) + path.ljust(BLOCK, b"\0") + block


def _block(path: bytes, size: int, kind: bytes, runs: bool) -> bytes:
    length = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    mode = b"0000755\0" if runs else b"0000644\0"
    fields = (path.ljust(100, b"\0"), mode, b"0000000\0" * 2, length, b"00000000000\0", b" " * 8, kind)
    block = (b"".join(fields).ljust(257, b"\0") + b"ustar  \0").ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _entry(blocks: bytes, start: int) -> Entry:
    """What a header of one or three blocks says. Raises BundleError for all that `header` does not write."""
    long = blocks[156:157] == b"L"
    last = blocks[2 * BLOCK :] if long else blocks[:BLOCK]
    try:
        path = (blocks[BLOCK : 2 * BLOCK] if long else last[:100]).rstrip(b"\0")
        raw = last[124:136]
        size = int.from_bytes(raw[1:], "big") if raw[0] == 0x80 else int(raw.rstrip(b"\0 "), 8)
        runs = last[100:108] == b"0000755\0"
        written = header(path.decode("ascii"), size, runs)
        if blocks.startswith(written):
            return Entry(path.decode("ascii"), size, start, start + len(written), runs)
    except (ValueError, OverflowError, BundleError):
        pass
    raise BundleError("it is no bundle of Trackbed, or it is damaged")


def padding(size: int) -> int:
    """Bytes after a content of that size, up to the next block."""
    return -size % BLOCK


class Writer:
    """Writes a bundle to a stream, file after file. ``sha256`` is that of all that was written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._whole = stream, hashlib.sha256()
        self.size = 0
        self.files: dict[str, dict[str, Any]] = {}

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._whole.update(data)
        self.size += len(data)

    def add(self, name: str, size: int, content: Iterable[bytes], runs: bool = False) -> None:
        """Write one file of exactly ``size`` bytes; a name that was written before is left out. Raises BundleError."""
        if name in self.files:
            return
        self._put(header(name, size, runs))
        one, done = hashlib.sha256(), 0
        for data in content:
            one.update(data)
            done += len(data)
            if done > size:
                break
            self._put(data)
        if done != size:
            raise BundleError(f"{name} has changed while it was read")
        self._put(b"\0" * padding(size))
        self.files[name] = {"size": size, "sha256": one.hexdigest()}

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest, ``about`` and every file's size and hash, and the archive's end."""
        text = json.dumps({"format": FORMAT, **about, "files": self.files}, indent=1).encode() + b"\n"
        self._put(header(MANIFEST, len(text)) + text + b"\0" * (padding(len(text)) + 2 * BLOCK))


def opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file for `Bundle`, which says what is no file: no FIFO is waited for. Raises OSError."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


class Bundle:
    """An open bundle. Nothing of it is trusted before ``verify``; ``read`` gives only what its hash stands for."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Raises BundleError for what is no bundle."""
        self._stream = stream
        info = os.fstat(stream.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise BundleError("it is no plain file")
        self.size = info.st_size
        self.entries = {entry.name: entry for entry in self._scan()}
        self.sha256 = ""
        self.manifest = self._manifest()

    def _scan(self) -> list[Entry]:
        entries: list[Entry] = []
        names: set[str] = set()
        offset = 0
        while True:
            blocks = self._at(offset, BLOCK)
            if not blocks.strip(b"\0"):
                break
            entry = _entry(blocks if blocks[156:157] != b"L" else blocks + self._at(offset + BLOCK, 2 * BLOCK), offset)
            offset = entry.offset + entry.size + padding(entry.size)
            if offset + 2 * BLOCK > self.size:
                raise BundleError("it ends early: the copy is not whole")
            if entry.name in names or len(names) >= MOST_FILES:
                raise BundleError("it names a file twice, or too many")
            names.add(entry.name)
            entries.append(entry)
        if not names.isdisjoint(name[:place] for name in names for place, sign in enumerate(name) if sign == "/"):
            raise BundleError("it has a file and a folder of the same name")
        if offset + 2 * BLOCK != self.size or not entries or entries[-1].name != MANIFEST:
            raise BundleError("it is no bundle of Trackbed, or its end is damaged")
        return entries

    def _at(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        data = self._stream.read(size)
        if len(data) != size:
            raise BundleError("it ends early: the copy is not whole")
        return data

    def _manifest(self) -> dict[str, Any]:
        entry = self.entries[MANIFEST]
        if entry.size > MOST_MANIFEST:
            raise BundleError("its manifest is too large")
        try:
            result = json.loads(self._at(entry.offset, entry.size))
            if result["format"] != FORMAT:
                said = repr(result["format"])[:20]
                raise BundleError(f"it has the format {said}, and this version of Trackbed reads {FORMAT}")
            listed = {str(name): (int(one["size"]), str(one["sha256"])) for name, one in result["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise BundleError("its manifest is damaged") from None
        there = {name: entry.size for name, entry in self.entries.items() if name != MANIFEST}
        if {name: size for name, (size, _) in listed.items()} != there:
            raise BundleError("its manifest names other files than it holds")
        self._hashes = {name: sha for name, (_, sha) in listed.items()}
        return dict(result)

    def hash(self, name: str) -> str:
        """The SHA-256 of a file, as the manifest has it and `read` proves it."""
        return self._hashes[name]

    def minor(self) -> str:
        """The Python that its wheels are for, as in "3.13". Raises BundleError."""
        minor = str(self.manifest.get("python", ""))
        if not re.fullmatch(r"3\.[0-9]{1,2}", minor):
            raise BundleError("its manifest names no Python")
        return minor

    def names(self, folder: str) -> list[str]:
        """The files below a folder, as in "wheels/"."""
        return [name for name in self.entries if name.startswith(folder)]

    def verify(self, amount: Amount) -> str:
        """Compare every file with its hash; gives the SHA-256 of the whole file. Raises BundleError.

        The bytes between the files are compared too: the headers, which were read, and the padding.
        """
        whole, done = hashlib.sha256(), 0
        for entry in self.entries.values():
            one = hashlib.sha256()
            whole.update(self._at(entry.start, entry.offset - entry.start))
            for data in self._raw(entry):
                one.update(data)
                whole.update(data)
                done += len(data)
                amount(done, self.size)
            whole.update(self._at(entry.offset + entry.size, padding(entry.size)))
            if entry.name != MANIFEST and one.hexdigest() != self._hashes[entry.name]:
                raise BundleError(f"{entry.name} in it is damaged: its hash is not the manifest's")
        whole.update(self._at(self.size - 2 * BLOCK, 2 * BLOCK))
        self.sha256 = whole.hexdigest()
        return self.sha256

    def _raw(self, entry: Entry) -> Iterator[bytes]:
        self._stream.seek(entry.offset)
        left = entry.size
        while left:
            data = self._stream.read(min(CHUNK, left))
            if not data:
                raise BundleError("it ends early: the copy is not whole")
            left -= len(data)
            yield data

    def read(self, name: str) -> Iterator[bytes]:
        """A file's content. Its last piece comes only when the hash of all is the manifest's. Raises BundleError."""
        one, held = hashlib.sha256(), b""
        for data in self._raw(self.entries[name]):
            one.update(data)
            if held:
                yield held
            held = data
        if one.hexdigest() != self._hashes[name]:
            raise BundleError(f"{name} in it is damaged: its hash is not the manifest's")
        yield held

    def unpack(self, folder: str, into: str, amount: Amount = lambda done, whole: None) -> int:
        """Write the files below ``folder`` into ``into``, an empty folder of this account; gives how many.

        Files are made anew: whatever has a name already ends it with FileExistsError.
        """
        names = self.names(folder)
        whole, done = sum(self.entries[name].size for name in names), 0
        for name in names:
            path = os.path.join(into, *name[len(folder) :].split("/"))
            Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(path, flags, 0o755 if self.entries[name].runs else 0o644), "wb") as stream:
                for data in self.read(name):
                    stream.write(data)
                    done += len(data)
                    amount(done, whole)
        return len(names)


def main(bundle: str, into: str) -> int:
    """What setup.sh calls: unpack its files into ``into``; print Python's minor version, a comma, the interpreter."""
    os.umask(0o022)
    try:
        with opened(bundle) as stream:
            given = Bundle(stream)
            given.unpack(TOOLKIT, os.path.join(into, "toolkit"))
            given.unpack(PYTHON, os.path.join(into, "python"))
            name = f"{PYTHON}bin/python{given.minor()}"
            minor, interpreter = given.minor(), name if name in given.entries else ""
    except (OSError, BundleError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{minor},{interpreter}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
