"""The archive: one plain tar, written and read as a stream. No engine, no settings in here.

    trackbed.json       format, and what made it
    settings.json       settings that are not bound to a machine
    users.json          who may log in at the gateway: salted hashes; where there is anybody
    secrets.json        only when asked for
    database/000000..   pg_dump's custom format, in chunks of CHUNK bytes
    objects/NAME        every object
    workspace/NAME      the notebook's files, where they are part of it; then workspace.jsonl, which tells of them
    SHA256SUMS          of all of the above, as `sha256sum -c` reads it
    manifest.json       versions, counts, size and SHA-256 of all bytes before it; padded, always TRAILER bytes long

No byte of the file is without a check: the manifest covers what is before it, and is itself written in one way only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

from helpers.backups.formats import PLAIN, Damaged, check_facts, check_format
from helpers.backups.workspace_entries import FILES, FILES_LIST, FilesCheck, is_of_workspace, workspace_facts
from helpers.data.checksum import SetSum
from helpers.engines.streaming import BLOCK
from helpers.errors import TrackbedError

CHUNK = 8 * 2**20
MANIFEST = 16384
TRAILER = 512 + MANIFEST + 1024  # header, padded content, end of the tar
LONGEST_HEADER = 65536
FREE = 512 * 2**20  # bytes of a disk that a backup and a restore leave to what runs
SMALL = ("trackbed.json", "settings.json", "users.json", "secrets.json")
ProgressCallback = Callable[[int, int, int], None]  # bytes done, objects done, bytes in all


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=True).encode()


def trailer(manifest: dict[str, Any]) -> bytes:
    """The last TRAILER bytes of an archive; the only way to write this manifest."""
    content = {k: v for k, v in manifest.items() if k != "self"}
    content["self"] = hashlib.sha256(_canonical(content)).hexdigest()
    text = json.dumps(content, sort_keys=True, indent=1).encode()
    if len(text) > MANIFEST:
        raise TrackbedError("the manifest does not fit", "please report it")
    header = _member("manifest.json", MANIFEST).tobuf(tarfile.USTAR_FORMAT)
    return header + text.ljust(MANIFEST) + bytes(1024)


class _Sha256:
    """SHA-256 in a thread of its own, beside reading, writing and the other sums; one piece is on the way."""

    def __init__(self, thread: ThreadPoolExecutor | None = None) -> None:
        """``thread``: one that several share, one after the other."""
        self._sha, self._thread = hashlib.sha256(), thread or ThreadPoolExecutor(1)
        self._piece: Future[None] | None = None

    def _wait(self) -> None:
        if self._piece is not None:
            self._piece.result()
            self._piece = None

    def update(self, data: bytes) -> None:
        self._wait()
        if len(data) < 2**16:  # handing it over would take longer
            self._sha.update(data)
        else:
            self._piece = self._thread.submit(self._sha.update, data)

    def hexdigest(self) -> str:
        self._wait()
        return self._sha.hexdigest()


class _Hashed(io.RawIOBase):
    """Hashes and counts what passes, written or read; reads no further than ``limit``."""

    def __init__(self, stream: IO[bytes], limit: int = -1) -> None:
        self.stream, self.limit, self.bytes, self.sha = stream, limit, 0, _Sha256()

    def write(self, data: Any) -> int:
        self.stream.write(data)
        self.sha.update(data)
        self.bytes += len(data)
        return len(data)

    def read(self, count: int = -1) -> bytes:
        left = self.limit - self.bytes
        data = self.stream.read(left if count < 0 else min(count, left))
        self.sha.update(data)
        self.bytes += len(data)
        return data


class Writer:
    """Writes an archive to ``stream``; ``finish`` makes it one."""

    def __init__(self, stream: IO[bytes], about: dict[str, Any]) -> None:
        self._raw = _Hashed(stream)
        self._stream = stream
        self._sums = tempfile.TemporaryFile()  # noqa: SIM115  # lines only; the data pass through
        self._objects, self._files = SetSum(), SetSum()
        self.object_bytes = self.largest = self.chunks = self.file_bytes = 0
        self.about = {"format": PLAIN, **about}
        self.small("trackbed.json", _canonical(self.about))

    def _add(self, name: str, size: int, stream: IO[bytes]) -> str:
        digest = self._write(name, size, stream)
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "\\" if escaped != name else ""
        self._sums.write(f"{mark}{digest}  {escaped}\n".encode("utf-8", "surrogateescape"))
        return digest

    def _write(self, name: str, size: int, stream: IO[bytes]) -> str:
        self._raw.write(_member(name, size).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        sha, left = hashlib.sha256(), size
        while left:
            data = stream.read(min(left, BLOCK))
            if not data:
                raise TrackbedError(f"{name} ended {left} bytes early", "run the same command again")
            self._raw.write(data)
            sha.update(data)
            left -= len(data)
        self._raw.write(bytes(-size % 512))
        return sha.hexdigest()

    def small(self, name: str, content: bytes) -> None:
        self._add(name, len(content), io.BytesIO(content))

    def database(self, dump: IO[bytes]) -> int:
        """The dump, whose size nobody knows before its end, in chunks; gives its size in bytes."""
        total = 0
        while chunk := read_full(dump, CHUNK):
            self.small(f"database/{self.chunks:06d}", chunk)
            self.chunks += 1
            total += len(chunk)
        return total

    def object(self, name: str, size: int, stream: IO[bytes]) -> None:
        digest = self._add(f"objects/{name}", size, stream)
        self._objects.add(digest, size, name)
        self.object_bytes += size
        self.largest = max(self.largest, size)

    @property
    def objects(self) -> int:
        return self._objects.count

    def holds_file(self, name: str, size: int, mark: str) -> bool:
        return False

    def file(self, name: str, size: int, stream: IO[bytes], mark: str = "") -> None:
        """A file of the workspace; the mark means nothing here."""
        self._files.add(self._add(f"{FILES}{name}", size, stream), size, name)
        self.file_bytes += size

    def files_list(self, size: int, stream: IO[bytes]) -> None:
        self._add(FILES_LIST, size, stream)

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Close the archive with its manifest, which it gives."""
        size = self._sums.tell()
        self._sums.seek(0)
        self._write("SHA256SUMS", size, self._sums)
        self._sums.close()
        manifest = {
            **self.about,
            **facts,
            "chunks": self.chunks,
            "objects": self._objects.count,
            "object_bytes": self.object_bytes,
            "objects_sum": self._objects.text,
            "largest_object": self.largest,
            **workspace_facts(self.about, self._files, self.file_bytes),
            "bytes": self._raw.bytes,
            "sha256": self._raw.sha.hexdigest(),
        }
        self._stream.write(trailer(manifest))
        return manifest


def read_full(stream: IO[bytes], count: int) -> bytes:
    """So many bytes; fewer only at the end."""
    result = bytearray()
    while len(result) < count and (data := stream.read(count - len(result))):
        result += data
    return bytes(result)


class _Strict(tarfile.TarInfo):
    """Members as we write them: no headers that would fill the memory, nothing but plain files, none with holes."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended = self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if (extended and self.size > LONGEST_HEADER) or not (extended or self.type == tarfile.REGTYPE):
            raise tarfile.ReadError(f"a member of type {self.type!r} and {self.size} bytes does not belong here")
        try:
            result: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        except RecursionError:  # tarfile calls itself for each header that belongs to the next one
            raise tarfile.ReadError("too many headers of one member") from None
        return plain_member(result)


def plain_member(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """What tarfile made of a header and those before it, which may say other sizes. Raises tarfile.ReadError.

    A file with holes has as many bytes as somebody writes into its header: a few KB would fill a disk.
    """
    if member.sparse is not None or any(key.startswith("GNU.sparse.") for key in member.pax_headers) or member.size < 0:
        raise tarfile.ReadError(f"a file with holes, or of {member.size} bytes, does not belong here")
    return member


class _Content:
    """A member's content; one that is cut is Damaged."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream

    def read(self, count: int = -1) -> bytes:
        try:
            return self._stream.read(count)
        except (tarfile.TarError, OSError) as error:
            raise Damaged(self._path, f"is damaged: {error}", rest=True) from None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, checked to be one that fits to this file. Raises Damaged, or TrackbedError for a newer format."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TRAILER))
            end = stream.read()
    except OSError as error:
        raise TrackbedError(f"{path}: {error.strerror}", "name the file of a backup") from None
    try:
        manifest = json.loads(end[512 : 512 + MANIFEST])
    except (ValueError, RecursionError):
        raise Damaged(path, "is not an archive of Trackbed, or its end is missing") from None
    if not isinstance(manifest, dict):
        raise Damaged(path, "is not an archive of Trackbed")
    check_format(path, manifest)
    if trailer(manifest) != end:
        raise Damaged(path, "its manifest is damaged")
    check_facts(path, manifest, {"bytes": int, "sha256": str})
    if manifest["bytes"] != size - TRAILER:
        raise Damaged(path, f"has {size} bytes, its manifest says {manifest['bytes'] + TRAILER}")
    return manifest


def members(path: Path, manifest: dict[str, Any], check: bool = True) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each member in order; the content has to be read before the next is asked for.

    With ``check`` the end of the iteration means that every byte is as it was written; Damaged is raised otherwise.
    """
    with path.open("rb") as stream:
        hashed = _Hashed(stream, manifest["bytes"])
        try:
            with tarfile.open(
                fileobj=hashed, mode="r|", tarinfo=_Strict, bufsize=BLOCK, encoding="utf-8", errors="surrogateescape"
            ) as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                    parts = member.name.split("/")
                    if not member.isreg() or not {"", ".", ".."}.isdisjoint(parts) or "\0" in member.name:
                        raise Damaged(path, f"holds {member.name!r}, which is no plain file of an archive", rest=True)
                    content = tar.extractfile(member)
                    assert content is not None
                    yield member.name, member.size, cast("IO[bytes]", _Content(path, content))
                if tar.offset != manifest["bytes"]:
                    raise Damaged(path, f"holds something that is no member at byte {tar.offset}", rest=True)
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
            raise Damaged(path, f"is damaged: {error}", rest=True) from None
        while hashed.read(BLOCK):
            pass
        if check and (hashed.bytes != manifest["bytes"] or hashed.sha.hexdigest() != manifest["sha256"]):
            raise Damaged(path, "is damaged: its content differs from its manifest", rest=True)


def verify(path: Path, on_progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Read all of an archive; gives its manifest. Raises TrackbedError when anything is not as it should be."""
    manifest = read_manifest(path)
    sums, files, chunks, size, passed = SetSum(), FilesCheck(path, manifest), 0, 0, 0
    beside = ThreadPoolExecutor(1)
    for position, (name, length, content) in enumerate(members(path, manifest)):
        if position == 0 and name != "trackbed.json":
            raise Damaged(path, "does not begin as an archive of Trackbed", rest=True)
        sha = _Sha256(beside)
        while data := content.read(BLOCK):
            sha.update(data)
            passed += len(data)
            if on_progress:
                on_progress(passed, sums.count, manifest["bytes"])
        top, _, rest = name.partition("/")
        if top == "database" and rest == f"{chunks:06d}":
            chunks += 1
        elif top == "objects" and rest:
            sums.add(sha.hexdigest(), length, rest)
            size += length
        elif is_of_workspace(name):
            files.add(name, length, sha.hexdigest())
        elif name not in (*SMALL, "SHA256SUMS") or length > 2**30:
            raise Damaged(path, f"holds {name!r}, which does not belong there", rest=True)
    if (chunks, sums.count, size, sums.text) != (
        manifest["chunks"],
        manifest["objects"],
        manifest["object_bytes"],
        manifest["objects_sum"],
    ):
        raise Damaged(path, "its counts differ from its manifest")
    files.end()
    return manifest
