"""The archive format: what is written is read back; anything that was changed or never was an archive is refused."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.backups import archive, create, formats, salvage
from helpers.data import database
from helpers.data.checksum import SetSum
from helpers.errors import TrackbedError
from tests.unit.fakes import Silent, project

FACTS: dict[str, Any] = {"schema": "abc", "mlflow": "3", "tables": {"runs": ["1", "5"]}}
OBJECTS = {"1/r/ä b.txt": b"hello", "1/r/leer": b"", "1/" + "x" * 300: b"\0" * 5000}


def write(path: Path, objects: dict[str, bytes] = OBJECTS, **facts: object) -> dict[str, Any]:
    with path.open("wb") as stream:
        writer = archive.Writer(stream, {"made": "2026-01-01T00:00:00+00:00"})
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(b"PGDMP" + bytes(range(256)) * 40))
        for name, content in objects.items():
            writer.object(name, len(content), io.BytesIO(content))
        return writer.finish({**FACTS, **facts})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "a.tar")
    return tmp_path / "a.tar"


def sealed(path: Path, content: bytes, **facts: object) -> None:
    """A file whose manifest fits, around any content: what someone who knows the format could make."""
    import hashlib

    whole = {
        "format": 1,
        "chunks": 0,
        "objects": 0,
        "object_bytes": 0,
        "objects_sum": SetSum().text,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **FACTS,
        **facts,
    }
    path.write_bytes(content + archive.trailer(whole))


def member(name: str, content: bytes = b"x", **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def test_round_trip(path: Path) -> None:
    manifest = archive.verify(path)
    assert manifest["objects"] == 3 and manifest["tables"] == FACTS["tables"]
    result = {name: content.read() for name, _, content in archive.members(path, manifest)}
    assert {n.removeprefix("objects/"): c for n, c in result.items() if n.startswith("objects/")} == OBJECTS
    assert result["database/000000"].startswith(b"PGDMP")


def test_any_tar_reads_it(path: Path) -> None:
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert names[0] == "trackbed.json" and names[-1] == "manifest.json" and "objects/1/r/ä b.txt" in names


def test_dump_longer_than_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "CHUNK", 1000)
    write(tmp_path / "a.tar")
    manifest = archive.verify(tmp_path / "a.tar")
    assert manifest["chunks"] == 11
    dump = b"".join(c.read() for n, _, c in archive.members(tmp_path / "a.tar", manifest) if n.startswith("database"))
    assert dump == b"PGDMP" + bytes(range(256)) * 40


def test_how_much_of_the_database_has_passed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    progress = Silent()
    monkeypatch.setattr(progress, "amount", lambda name, done, whole, note: told.append((name, done, whole)))

    @contextmanager
    def dump(engine: object, name: str) -> Iterator[database.Dump]:
        yield database.Dump(io.BytesIO(b"x" * 2500), lambda: database.Contents("", {}))

    monkeypatch.setattr(database, "dump", dump)
    monkeypatch.setattr(archive, "CHUNK", 1000)
    writer = archive.Writer(io.BytesIO(), {})
    engine = SimpleNamespace(versions=dict)
    assert create._rows(project(tmp_path), cast(Any, engine), writer, progress, False)["dump_bytes"] == 2500
    assert told[0] == ("database", 1000, 0) and told[-1] == ("database", 2500, 0)


@pytest.mark.parametrize("part", range(50))
def test_flipped_bytes_are_refused(path: Path, part: int) -> None:
    """One byte in each fiftieth of the file, headers, padding and end included."""
    content = bytearray(path.read_bytes())
    chosen = random.Random(part)
    step = len(content) // 50
    at = part * step + chosen.randrange(step)
    content[at] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)
    with pytest.raises(TrackbedError):
        archive.verify(path)


@pytest.mark.parametrize("share", [0, 1, 511, 512, 5000, -1, -512, -1024, -1025, -archive.TRAILER])
def test_cut_files_are_refused(path: Path, share: int) -> None:
    path.write_bytes(path.read_bytes()[:share])
    with pytest.raises(TrackbedError):
        archive.verify(path)


@pytest.mark.parametrize("extra", [b"\0", bytes(512), bytes(10240), b"garbage"])
def test_something_behind_the_end_is_refused(path: Path, extra: bytes) -> None:
    path.write_bytes(path.read_bytes() + extra)
    with pytest.raises(TrackbedError):
        archive.verify(path)


HEAD = member("trackbed.json", b"{}")


@pytest.mark.parametrize(
    "content",
    [
        member("objects/../../etc/passwd"),
        member("objects/a/../b"),
        member("/etc/passwd"),
        member("objects//a"),
        member("objects/./a"),
        member("objects/"),
        member("other.json"),
        member("database/000001"),
        member("database/x"),
        member("objects/a", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("objects/a", b"", type=tarfile.LNKTYPE, linkname="trackbed.json"),
        member("objects/a", b"", type=tarfile.DIRTYPE),
        member("objects/a", b"", type=tarfile.FIFOTYPE),
        member("objects/a", b"", type=tarfile.CHRTYPE),
        member("objects/a", b"", type=tarfile.BLKTYPE),
        member("objects/a", b"", type=tarfile.GNUTYPE_SPARSE),
        member("objects/a", b"x", type=b"Z"),
        member("././@PaxHeader", b"9" * (archive.LONGEST_HEADER + 1), type=tarfile.XHDTYPE) + member("objects/a"),
        member("././@LongLink", b"9" * (archive.LONGEST_HEADER + 1), type=tarfile.GNUTYPE_LONGNAME)
        + member("objects/a"),
        member("objects/a"),
        member("objects/a", b"x" * 100)[:-512],
        b"\xff" * 1024,
    ],
)
def test_crafted_contents_are_refused(tmp_path: Path, content: bytes) -> None:
    """The manifest fits to all of these: what is inside must not."""
    path = tmp_path / "a.tar"
    sealed(path, HEAD)
    archive.verify(path)  # the frame alone is fine
    sealed(path, HEAD + content)
    with pytest.raises(TrackbedError):
        archive.verify(path)


def test_a_header_that_claims_a_huge_member(tmp_path: Path) -> None:
    """A member of 8 EB in a file of 2 KiB: refused without memory or time."""
    info = tarfile.TarInfo("objects/a")
    info.size = 2**63
    path = tmp_path / "a.tar"
    sealed(path, HEAD + info.tobuf(tarfile.GNU_FORMAT) + bytes(512))
    with pytest.raises(TrackbedError):
        archive.verify(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"objects": 4},
        {"objects": "3"},
        {"chunks": -1},
        {"object_bytes": 1},
        {"tables": []},
        {"schema": None},
        {"sha256": "0" * 64},
        {"bytes": 1},
        {"objects_sum": "0"},
        {"format": True},
        {"format": "1"},
        {"mlflow": 3},
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    path = tmp_path / "a.tar"
    sealed(path, HEAD, **facts)
    with pytest.raises(TrackbedError):
        archive.verify(path)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    sealed(tmp_path / "a.tar", HEAD, format=formats.FORMAT + 1)
    with pytest.raises(TrackbedError, match="newer Trackbed"):
        archive.verify(tmp_path / "a.tar")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b" + b"0" * 90000, json.dumps({"a": 1}).encode() * 9000])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(TrackbedError):
        archive.verify(tmp_path / "a.tar")


def _extended(**records: str) -> bytes:
    """A header that says something of the next one."""
    lines = b""
    for key, value in records.items():
        key = key.replace("_", ".")
        size = len(key) + len(value) + 3
        while len(f"{size} {key}={value}\n") != size:
            size += 1
        lines += f"{size} {key}={value}\n".encode()
    return member("x", lines, type=tarfile.XHDTYPE)


ODD = {
    "holes": _extended(GNU_sparse_map="0,1", GNU_sparse_size=str(2**62)),
    "more holes": _extended(
        GNU_sparse_size=str(2**62), GNU_sparse_numblocks="1", GNU_sparse_offset="0", GNU_sparse_numbytes="1"
    ),
    "a map of holes": _extended(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=str(2**62)),
    "less than nothing": _extended(size="-1"),
    "a step back": _extended(size="-1024"),
    "a chain": _extended(comment="x") * 3000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("header", ODD.values(), ids=ODD)
def test_headers_that_say_other_sizes_are_refused(tmp_path: Path, header: bytes) -> None:
    """A few KB that unpack to more than any disk has, and what tarfile takes for an error of its own."""
    path = tmp_path / "odd.tar"
    sealed(path, member("trackbed.json", b"{}") + header + member("objects/a", b"1\n0\n1\n" + bytes(600)), objects=1)
    with pytest.raises(TrackbedError, match="odd"):
        archive.verify(path)
    with pytest.raises(TrackbedError, match="odd"):
        salvage.of_archive(path, None)


def test_both_sums_of_an_archive_are_computed_beside_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tar", {f"1/{number}": bytes(2**20) for number in range(5)})
    threads: dict[int, int] = {}
    plain = hashlib.sha256

    class Recorded:
        def __init__(self, data: bytes = b"") -> None:
            self._sha = plain(data)
            self.hexdigest, self.digest = self._sha.hexdigest, self._sha.digest

        def update(self, data: bytes) -> None:
            threads[threading.get_ident()] = threads.get(threading.get_ident(), 0) + len(data)
            self._sha.update(data)

    monkeypatch.setattr(archive.hashlib, "sha256", Recorded)  # type: ignore[attr-defined]
    archive.verify(tmp_path / "a.tar")
    assert sorted(size // 2**20 for size in threads.values()) == [0, 5, 5], "headers, members, the file"
    assert threads[threading.get_ident()] < 2**20
