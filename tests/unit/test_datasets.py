"""Data sets into a folder: what is fetched, what is refused, and what an interrupted try leaves for the next."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from tenacity import wait_none

from helpers.backups.bucket import Access, Bucket
from helpers.cli import datasets as task
from helpers.datasets import adding, archives, download, layout, sources, volume_script
from helpers.datasets.adding import Added
from helpers.engines import select
from helpers.errors import SettingError, TrackbedError
from helpers.imports import buckets
from helpers.project.project import Project
from tests.unit.fakes import Silent, project
from tests.unit.memory_engine import MemoryEngine
from tests.unit.test_import_buckets import Client

CLASSES = ("class_00", "class_01")
FILES = {
    f"{split}/{one}/{number}.jpg": f"{split} {one} {number}".encode() * 300
    for split in layout.SPLITS[layout.FOOD11]
    for one in CLASSES
    for number in range(3)
}


def zipped(files: dict[str, bytes], top: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", **more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more.values():
            archive.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setitem(select.ENGINES, MemoryEngine.name, MemoryEngine)
    monkeypatch.setattr(MemoryEngine, "running", {})
    monkeypatch.setattr(download, "WAIT", wait_none())
    created = project(tmp_path)
    created.state.engine = MemoryEngine.name
    return created


def add(one: Project, source: object, name: str = "food11", sha256: str = "") -> Added:
    return adding.add(one, name, str(source), sha256, Silent(), lambda line: None)


def there(one: Project, folder: str = "Food-11") -> dict[str, bytes]:
    root = one.settings.data_folder / folder
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".trackbed.json"
    }


def saved(tmp_path: Path, content: bytes, name: str = "Food-11.zip") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


# what is read


@pytest.mark.parametrize(
    "make", [lambda: zipped(FILES, "Food-11/"), lambda: tarred(FILES), lambda: tarred(FILES, "w:xz")]
)
def test_an_archive_is_added_once(one: Project, tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = saved(tmp_path, make(), "set")
    done = add(one, path)
    assert done.new and there(one) == FILES
    assert (done.set.files, done.set.size) == (len(FILES), sum(map(len, FILES.values())))
    assert done.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    before = {found: found.stat().st_mtime_ns for found in one.settings.data_folder.rglob("*")}
    assert not add(one, path, "Food-11").new  # by the other spelling of its name
    assert before == {found: found.stat().st_mtime_ns for found in one.settings.data_folder.rglob("*")}
    (listed,) = adding.listing(one, Silent()).sets
    assert listed.whole and listed.name == "food11" and listed.note["classes"] == 2


def test_sets_lie_beside_each_other_and_go_one_by_one(one: Project, tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    for name in ("a/1.wav", "b/2.wav", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    add(one, saved(tmp_path, zipped(FILES)))
    assert add(one, folder, "cats").new and not add(one, folder, "cats").new
    assert sorted(there(one, "cats")) == ["README.md", "a/1.wav", "b/2.wav"]
    assert adding.remove(one, "cats", Silent()) == 3
    assert [found.name for found in adding.listing(one, Silent()).sets] == ["food11"]
    with pytest.raises(TrackbedError, match="has no data set cats; there: food11"):
        adding.find(one, "cats", Silent())


def test_everybody_reads_and_nobody_else_writes(one: Project, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        add(one, saved(tmp_path, zipped(FILES)))
    finally:
        os.umask(old)
    for path in one.settings.data_folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_pictures_with_their_class_in_their_name_get_its_folder(one: Project, tmp_path: Path) -> None:
    flat = {
        f"{split}/{number}_{n}.jpg": b"x" for split in layout.SPLITS["food11"] for number in (0, 10) for n in (1, 2)
    }
    done = add(one, saved(tmp_path, zipped(flat)))
    assert done.layout and done.layout.sorted
    assert "validation/class_10/10_2.jpg" in there(one) and len(there(one)) == len(flat)


def test_what_a_file_manager_leaves_is_left_out(one: Project, tmp_path: Path) -> None:
    junk = {"__MACOSX/training/._1.jpg": b"", "training/.DS_Store": b"", "training/class_00/Thumbs.db": b""}
    done = add(one, saved(tmp_path, zipped({**FILES, **junk})))
    assert done.layout and done.layout.left == 3 and there(one) == FILES


# what is refused

HOSTILE = {
    "absolute": ("/etc/cron.d/x", "it is absolute"),
    "out": ("training/../../x", "it leads out of the folder"),
    "windows": ("training\\class_00\\x.jpg", "it has a backslash"),
    "drive": ("C:/x", "it is absolute"),
    "control": ("training/class_00/\x1b[2J.jpg", "it has control characters"),
    "long": (f"training/class_00/{'x' * 300}", "it is too long"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_that_lead_out_are_refused(
    one: Project, tmp_path: Path, case: str, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    name, words = HOSTILE[case]
    with pytest.raises(TrackbedError, match=words):
        add(one, saved(tmp_path, make({**FILES, name: b"x"})))


def special(kind: bytes, name: str = "training/class_00/x.jpg", link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (special(tarfile.SYMTYPE, link="/etc/shadow"), "is a link"),
        (special(tarfile.LNKTYPE, link="training/class_00/0.jpg"), "is a link"),
        (special(tarfile.CHRTYPE), "is no plain file"),
        (special(tarfile.FIFOTYPE), "is no plain file"),
    ],
)
def test_links_and_devices_are_refused(one: Project, tmp_path: Path, member: tarfile.TarInfo, words: str) -> None:
    with pytest.raises(TrackbedError, match=words):
        add(one, saved(tmp_path, tarred(FILES, member=member)))
    assert not one.settings.data_folder.exists()


def test_a_link_in_a_zip_and_one_in_a_folder_are_refused(one: Project, tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("training/class_00/x.jpg")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = saved(tmp_path, zipped(FILES))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/shadow")
    with pytest.raises(TrackbedError, match="is a link"):
        add(one, path)
    folder = tmp_path / "cats" / "a"
    folder.mkdir(parents=True)
    (folder / "x.jpg").symlink_to("/etc/shadow")
    with pytest.raises(TrackbedError, match="is a link") as caught:
        add(one, tmp_path / "cats", "cats")
    assert "cp -rL" in caught.value.hint


def test_a_name_twice_and_a_file_that_is_a_folder_are_refused(one: Project, tmp_path: Path) -> None:
    path = saved(tmp_path, zipped(FILES))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("training/class_00/0.jpg", b"other")
    with pytest.raises(TrackbedError, match=r"has training/class_00/0.jpg twice"):
        add(one, path)
    with pytest.raises(TrackbedError, match="is a file and a folder"):
        add(one, saved(tmp_path, zipped({**FILES, "training/class_00": b"x"})))


def test_what_does_not_fit_is_refused_before_it_is_written(one: Project, tmp_path: Path) -> None:
    stream = io.BytesIO(tarred({**FILES, "training/class_00/bomb.jpg": bytes(2**22)}))
    with pytest.raises(TrackbedError, match="more than the 0.0 GiB that are free"):
        list(archives.walk(stream, "bomb.tar.gz", 2**20))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**40  # a header that would fill the memory
    with pytest.raises(TrackbedError, match="cannot be read"):
        list(archives.walk(io.BytesIO(header.tobuf()), "bomb.tar", 2**62))


def walked(content: bytes) -> int:
    return len(list(archives.walk(io.BytesIO(content), "set", 2**62)))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_archive_that_is_damaged_or_cut_is_not_a_smaller_one(mode: str) -> None:
    plain, block = tarred({f"a/{number}.jpg": b"x" * 600 for number in range(5)}, "w"), 3 * 1536
    packers: dict[str, Callable[[bytes], bytes]] = {
        "w": bytes,
        "w:gz": gzip.compress,
        "w:bz2": bz2.compress,
        "w:xz": lzma.compress,
    }
    pack = packers[mode]
    assert walked(pack(plain)) == 5
    damaged = plain[: block + 5] + b"?" + plain[block + 6 :]
    for content in (damaged, plain[:block], plain[: block + 100], plain[:block] + bytes(512) + plain[block:]):
        with pytest.raises(TrackbedError, match="cannot be read"):
            walked(pack(content))
    if mode != "w":
        with pytest.raises(TrackbedError, match="cannot be read"):
            walked(pack(plain)[:-6])  # its checksum is missing


def test_a_tar_archive_with_a_file_of_less_than_nothing_is_refused() -> None:
    header = bytearray(tarfile.TarInfo("a/x.jpg").tobuf())
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    with pytest.raises(TrackbedError, match="cannot be read"):
        for number, _ in enumerate(archives.walk(io.BytesIO(bytes(header) + bytes(1024)), "set.tar", 2**62)):
            assert number < 10, "it does not end"


def test_xz_is_read_in_several_streams_and_within_a_bound_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tarred({f"a/{number}.jpg": os.urandom(300_000) for number in range(3)}, "w")
    packed = lzma.compress(plain[:70_000]) + bytes(8) + lzma.compress(plain[70_000:]) + bytes(4)
    files = archives.walk(io.BytesIO(packed), "set", 2**62)
    assert [len(file.stream.read(file.size)) for file in files] == [300_000] * 3
    monkeypatch.setattr(archives, "XZ_MEMORY", 2**22)
    with pytest.raises(TrackbedError, match="needs more than 4 MiB of memory"):
        walked(packed)


def test_a_zip_whose_list_of_names_would_fill_the_memory_is_refused(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "DIRECTORY", 100)
    with pytest.raises(TrackbedError, match="would fill the memory") as caught:
        add(one, saved(tmp_path, zipped(FILES)))
    assert ".tar" in caught.value.hint


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_could_fill_the_memory_is_refused(method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a/1.jpg", bytes(1000))
    with pytest.raises(TrackbedError, match="packed in another way than deflate"):
        walked(buffer.getvalue())


def test_a_zip_at_the_end_of_a_tar_archive_is_a_file_of_it() -> None:
    assert walked(tarred({"a/1.jpg": b"x", "a/2.zip": zipped({f"{n}": b"" for n in range(9)})}, "w")) == 2


@pytest.mark.parametrize("missing", ["validation", "evaluation"])
def test_a_wrong_layout_says_what_was_found_and_expected(one: Project, tmp_path: Path, missing: str) -> None:
    files = {name: content for name, content in FILES.items() if not name.startswith(missing)}
    with pytest.raises(TrackbedError, match="not in the class-folder layout") as caught:
        add(one, saved(tmp_path, zipped(files)))
    text = "\n".join(caught.value.details)
    assert "training/class_00/  3 files" in text and f"{missing}/CLASS/FILE" in text
    assert not one.settings.data_folder.exists()


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        (["a/1.png", "b/2.png"], ["a/1.png", "b/2.png"]),
        (["pack/a/1.png", "pack/b/2.png"], ["a/1.png", "b/2.png"]),
        (["train/a/1.png", "train/b/2.png"], ["train/a/1.png", "train/b/2.png"]),
        (["p/train/a/1.png", "p/test/a/2.png", "p/labels.csv"], ["labels.csv", "test/a/2.png", "train/a/1.png"]),
        (["a/1.png"], ["a/1.png"]),
        (["1.png", "2.png"], None),
        (["a/b/c/1.png"], ["c/1.png"]),
        (["a/1.png", "b/c/2.png"], None),
        (["train/a/1.png", "test/2.png"], None),
        ([], None),
        (["README.md"], None),
    ],
)
def test_layouts(files: list[str], kept: list[str] | None) -> None:
    if kept is None:
        with pytest.raises(TrackbedError, match="class-folder layout"):
            layout.arrange("some", "set.zip", files)
    else:
        assert sorted(layout.arrange("some", "set.zip", files).targets.values()) == kept


def test_what_is_there_and_is_something_else_stays(one: Project, tmp_path: Path) -> None:
    path = saved(tmp_path, zipped(FILES))
    add(one, path)
    other = saved(tmp_path, zipped({**FILES, "training/class_00/9.jpg": b"9"}), "other.zip")
    with pytest.raises(TrackbedError, match=r"food11 is there already, from .*Food-11.zip") as caught:
        add(one, other)
    assert "data.remove food11" in caught.value.hint and there(one) == FILES
    assert not add(one, other, sha256=hashlib.sha256(path.read_bytes()).hexdigest()).new  # the sum says that it is it
    (one.settings.data_folder / "Food-11" / "training" / "class_00" / "0.jpg").unlink()
    with pytest.raises(TrackbedError, match=f"has {len(FILES) - 1} of the {len(FILES)} files"):
        add(one, path)
    by_hand = one.settings.data_folder / "mine"
    by_hand.mkdir()
    with pytest.raises(TrackbedError, match="Trackbed did not put it there"):
        add(one, path, "mine")


def test_a_sum_that_is_another_one(one: Project, tmp_path: Path) -> None:
    with pytest.raises(TrackbedError, match="nothing was added"):
        add(one, saved(tmp_path, zipped(FILES)), sha256="0" * 64)
    with pytest.raises(SettingError, match="64 hexadecimal"):
        task.add({}, "food11", "x", "abc")
    for wrong in ("../x", "", "a b", ".hidden"):
        with pytest.raises(SettingError, match="a data set's name"):
            layout.name_of(wrong)


@pytest.mark.parametrize("replaced", [False, True])
def test_an_archive_that_is_changed_behind_its_sum_is_not_added(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    path = saved(tmp_path, zipped(FILES))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    other, times = zipped({name: content[::-1] for name, content in FILES.items()}), path.stat()
    names = sources.names

    def changed(*words: Any) -> list[tuple[str, int]]:
        result = names(*words)
        if replaced:
            saved(tmp_path, other, "other").rename(path)
        else:
            path.write_bytes(other)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return result

    monkeypatch.setattr(sources, "names", changed)
    with pytest.raises(TrackbedError, match="was changed while it was read"):
        add(one, path, sha256=expected)
    assert adding.listing(one, Silent()).sets == ()


def test_a_data_set_of_another_volume_is_added_without_its_note(one: Project, tmp_path: Path) -> None:
    add(one, saved(tmp_path, zipped(FILES)))
    copied = tmp_path / "copied"
    shutil.copytree(one.settings.data_folder / "Food-11", copied)
    (copied / "training" / "class_00" / ".trackbed-part").write_bytes(b"x")
    done = add(one, copied, "again")
    assert there(one, "again") == FILES and done.layout and done.layout.left == 2


def test_a_broken_archive_and_what_is_none(one: Project, tmp_path: Path) -> None:
    whole = tarred(FILES)
    for content in (whole[: len(whole) // 2], b"no archive" * 100, b""):
        with pytest.raises(TrackbedError, match="cannot be read|class-folder layout"):
            add(one, saved(tmp_path, content, "set.tar.gz"))
    for text in ("ftp://host/x.zip", "/nowhere"):
        with pytest.raises(SettingError, match=r"Name an address"):
            sources.source(text, one.settings)


# what was interrupted


def test_a_second_try_takes_over_what_the_first_has_written(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sent = saved(tmp_path, zipped(FILES)), list[str]()
    copy = adding._copy

    def interrupted(file: Any, *rest: Any) -> str:
        sent.append(file.path)
        if len(sent) == 7:
            raise KeyboardInterrupt
        return copy(file, *rest)

    monkeypatch.setattr(adding, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(one, path)
    listed = adding.listing(one, Silent())
    assert not listed.sets and listed.unfinished == ("Food-11",)
    staging = one.settings.data_folder / ".trackbed-adding-Food-11"
    (staging / "stranger").write_text("x")
    damaged = next(staging.rglob("1.jpg"))
    damaged.write_bytes(b"?" * damaged.stat().st_size)  # as a power cut may leave it
    sent[:] = [""] * 100
    assert add(one, path).new and there(one) == FILES
    assert len(sent) == 100 + len(FILES) - 6 + 1


def test_what_was_interrupted_can_be_removed(one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(adding, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add(one, saved(tmp_path, zipped(FILES)))
    assert adding.find(one, "food11", Silent()) == ("Food-11", None)
    adding.remove(one, "Food-11", Silent())
    assert os.listdir(one.settings.data_folder) == []


def test_nothing_is_removed_that_another_project_fills(one: Project, tmp_path: Path) -> None:
    add(one, saved(tmp_path, zipped(FILES)))
    staging = one.settings.data_folder / f"{volume_script.ADDING}Food-11"
    staging.mkdir()
    handles = [os.open(folder, os.O_RDONLY) for folder in (staging, one.settings.data_folder / "Food-11")]
    for handle in handles:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(TrackbedError, match=r"data.remove` is at work on it now"):
        adding.remove(one, "Food-11", Silent())
    assert there(one) == FILES
    os.close(handles[0])
    assert adding.remove(one, "Food-11", Silent()) == len(FILES)  # whoever reads it cannot hold it
    os.close(handles[1])


def test_a_removal_that_was_interrupted_is_listed_and_ends_with_the_next_command(one: Project, tmp_path: Path) -> None:
    path, root = saved(tmp_path, zipped(FILES)), one.settings.data_folder
    for again in (lambda: adding.remove(one, "Food-11", Silent()), lambda: add(one, path)):
        add(one, path)
        (root / "Food-11").rename(root / f"{volume_script.REMOVING}Food-11")
        assert adding.listing(one, Silent()).unfinished == ("Food-11",)
        again()
        assert adding.listing(one, Silent()).unfinished == ()


def test_a_folder_that_went_while_it_was_waited_for_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, lock = os.open(tmp_path, os.O_RDONLY), fcntl.flock

    def late(handle: int, kind: int) -> None:
        lock(handle, kind)
        (tmp_path / f"{volume_script.ADDING}cats").rename(tmp_path / "cats")  # as the other one's last step

    monkeypatch.setattr(fcntl, "flock", late)
    try:
        with pytest.raises(SystemExit, match="has added or removed it meanwhile"):
            volume_script.add(root, "cats")
    finally:
        os.close(root)


def test_data_sets_that_are_called_as_what_lies_beside_others_do_not_meet(one: Project, server: Server) -> None:
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(TrackbedError, match="cut"):
        add(one, server.url)
    for name in ("Food-11.json", "Food-11.lock"):
        assert add(one, server.url, name).new
    server.asked.clear()
    assert add(one, server.url).new and server.asked == ["bytes=1000-"]


# a server


class Server:
    """Serves ``content``. ``cuts``: after how many bytes of its answer each next connection is cut."""

    def __init__(self, content: bytes) -> None:
        self.content, self.etag, self.ranges, self.cuts, self.asked = content, '"one"', True, list[int](), list[str]()
        self.status = list[int]()
        self.careless = self.silent = False  # a server that does not look at If-Range; that leaves ETag out of a part
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._headers(200, len(outer.content))

            def do_GET(self) -> None:
                begin = self.headers.get("Range", "")
                outer.asked.append(begin)
                if outer.status:
                    self.send_error(outer.status.pop(0))
                    return
                fits = outer.ranges and (outer.careless or self.headers.get("If-Range", outer.etag) == outer.etag)
                start = int(begin.removeprefix("bytes=").rstrip("-")) if begin and fits else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                part = outer.content[start:]
                self._headers(206 if start else 200, len(part), start)
                self.wfile.write(part[: outer.cuts.pop(0)] if outer.cuts else part)

            def _headers(self, status: int, length: int, start: int = 0) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                if outer.etag and not (start and outer.silent):
                    self.send_header("ETag", outer.etag)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{start + length - 1}/{start + length}")
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/Food-11.zip?token=abc"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(zipped(FILES))
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_a_connection_that_is_cut_goes_on_where_it_was(one: Project, server: Server) -> None:
    server.cuts = [1000, 2000]
    done = add(one, server.url)
    assert done.new and there(one) == FILES
    assert server.asked == ["", "bytes=1000-", "bytes=3000-"]
    assert done.set.note["from"].endswith("/Food-11.zip")  # an address may hold a secret
    assert os.listdir(one.settings.folder / "downloads") == [".Food-11.lock"]
    assert not add(one, server.url).new and len(server.asked) == 3


def test_an_interrupted_download_goes_on_with_the_next_command(
    one: Project, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(TrackbedError, match="the connection was cut") as caught:
        add(one, server.url)
    assert "goes on from there" in caught.value.hint and not one.settings.data_folder.exists()
    server.asked.clear()
    assert add(one, server.url).new and server.asked == ["bytes=1000-"]
    assert there(one) == FILES


def test_a_file_that_changes_in_between_is_fetched_anew(one: Project, server: Server) -> None:
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(TrackbedError, match="cut"):
        add(one, server.url)
    changed = {**FILES, "training/class_00/9.jpg": b"9" * 3000}
    server.content, server.etag = zipped(changed), '"two"'
    server.cuts = []
    assert add(one, server.url).new and there(one) == changed


@pytest.mark.parametrize("silent", [False, True])
def test_a_part_of_another_file_is_not_put_behind_what_is_there(one: Project, server: Server, silent: bool) -> None:
    server.cuts = [1000, *[0] * download.TRIES]
    with pytest.raises(TrackbedError, match="cut"):
        add(one, server.url)
    names = {name: content[::-1] for name, content in FILES.items()}
    changed = {**names, **({"training/class_00/9.jpg": b"9"} if silent else {})}
    server.content, server.etag, server.cuts = zipped(changed), '"two"', []
    server.careless, server.silent = True, silent
    assert add(one, server.url).new and there(one) == changed


def test_no_way_leads_through_an_address_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(url: str) -> requests.Response:
        made = requests.Response()
        made.status_code, made.url, made.raw = 200, url, io.BytesIO()
        return made

    last = answer("https://elsewhere.example/x.zip")
    last.history = [answer("https://example.org/x.zip"), answer("http://example.org/x.zip")]
    web = download.session()
    monkeypatch.setattr(web, "request", lambda *_, **__: last)
    with pytest.raises(TrackbedError, match="without TLS"), download._answer(web, "GET", "HTTPS://x", "x", (200,), {}):
        pass


def test_a_server_that_does_not_answer_is_named_without_what_the_address_holds(one: Project, server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(TrackbedError, match="no answer: .*refused") as caught:
        add(one, server.url)
    assert "abc" not in caught.value.message


@pytest.mark.parametrize("etag", ['"one"', "", 'W/"weak"'])
def test_a_server_without_ranges(one: Project, server: Server, etag: str) -> None:
    server.ranges, server.etag, server.cuts = False, etag, [1000, 3000]
    assert add(one, server.url).new and there(one) == FILES


def test_a_server_that_always_cuts_ends(one: Project, server: Server) -> None:
    server.ranges, server.cuts = False, [1000] * 100
    with pytest.raises(TrackbedError, match="the connection was cut"):
        add(one, server.url)
    assert len(server.asked) == download.TRIES + 1


def test_a_server_that_is_busy_and_one_that_refuses(one: Project, server: Server) -> None:
    server.status = [503, 429]
    assert add(one, server.url).new
    server.status = [404]
    with pytest.raises(TrackbedError, match="the server answers 404") as caught:
        add(one, server.url, "other")
    assert "token" not in caught.value.message


def test_a_download_that_does_not_fit(one: Project, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "KEPT_FREE", 2**60)
    with pytest.raises(TrackbedError, match="are free for it in .*downloads") as caught:
        add(one, server.url)
    assert "STATE_DIR" in caught.value.hint


def test_a_sum_that_is_wrong_leaves_no_download(one: Project, server: Server) -> None:
    with pytest.raises(TrackbedError, match="not the one that --sha256 names"):
        add(one, server.url, sha256="1" * 64)
    assert [path.name for path in (one.settings.folder / "downloads").iterdir()] == [".Food-11.lock"]


# a bucket


def test_objects_below_a_prefix_and_an_archive_in_a_bucket(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client({f"sets/food/{name}": content for name, content in FILES.items()})
    client.objects["packed/Food-11.zip"] = zipped(FILES, "Food-11/")

    def of(url: str) -> Bucket:
        result = Bucket(url, Access("", "", "key", "secret", buckets.NAMES))
        result._made = client
        return result

    monkeypatch.setattr(buckets, "of", lambda settings: of)
    assert add(one, "s3://lab/sets/food").new and there(one) == FILES
    assert not add(one, "s3://lab/sets/food").new
    assert add(one, "s3://lab/packed/Food-11.zip", "again").new
    assert len(there(one, "again")) == len(FILES)
    with pytest.raises(SettingError, match="there is no such object"):
        add(one, "s3://lab/packed/none.zip", "more")
    with pytest.raises(TrackbedError, match="there is no object"):
        add(one, "s3://lab/nothing", "more")
