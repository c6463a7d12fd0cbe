"""A bundle for machines without a network: its format, what is refused of one from elsewhere, what differs."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import bundle_file, bundles, bundling, clone, wheel_download
from helpers.bundle_file import BLOCK, Bundle, BundleError, Writer, header
from helpers.cli import running
from helpers.engines import select
from helpers.engines.docker import bundled as docker_share
from helpers.engines.docker import images
from helpers.engines.embedded import bundled as embedded_share
from helpers.engines.embedded import venvs
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.notebook_image import NotebookImage
from helpers.errors import SettingError, TrackbedError
from tests.unit.fakes import Silent, project

ABOUT = {"trackbed": "1.0", "commit": "abc", "machine": bundles.machine(), "gpu": "none", "python": "3.13"}
LONG = "wheels/" + "x" * 105 + ".whl"


def no_amount(done: int, whole: int) -> None:
    pass


def written(path: Path, files: Mapping[str, bytes], about: Mapping[str, Any] | None = None) -> Path:
    with path.open("wb") as stream:
        writer = Writer(stream)
        for name, content in files.items():
            writer.add(name, len(content), [content], runs=name.startswith("python/bin"))
        writer.finish({**ABOUT, "engines": {}, **(about or {})})
    assert writer.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def read(path: Path) -> Bundle:
    """Opened and verified."""
    with path.open("rb") as stream:
        bundle = Bundle(stream)
        bundle.verify(no_amount)
        bundle.content = {name: b"".join(bundle.read(name)) for name in bundle.entries if name != "manifest.json"}  # type: ignore[attr-defined]
        return bundle


def test_what_was_written_is_read_and_tar_reads_it_too(tmp_path: Path) -> None:
    files = {"toolkit/a.whl": b"a" * 1300, LONG: b"long", "python/bin/python3.13": b"#!", "images/empty": b""}
    path = written(tmp_path / "b", files)
    bundle = read(path)
    assert bundle.content == files and bundle.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[attr-defined]
    with tarfile.open(path) as archive:
        assert archive.getnames() == [*files, "manifest.json"]
        assert archive.extractfile(LONG).read() == b"long"  # type: ignore[union-attr]
        assert archive.getmember("python/bin/python3.13").mode == 0o755


def test_the_same_name_twice_is_written_once(tmp_path: Path) -> None:
    with (tmp_path / "b").open("wb") as stream:
        writer = Writer(stream)
        for _ in range(2):
            writer.add("wheels/a.whl", 1, [b"a"])
        writer.finish(ABOUT)
    assert list(read(tmp_path / "b").entries) == ["wheels/a.whl", "manifest.json"]


def test_a_layer_larger_than_tars_octal_numbers() -> None:
    block = header("images/layer", 20 << 30)
    assert tarfile.TarInfo.frombuf(block, "ascii", "strict").size == 20 << 30
    assert bundle_file._entry(block, 0).size == 20 << 30


@pytest.mark.parametrize(
    "name", ["../up", "a/../../b", "/etc/passwd", "a//b", "./a", "a/.", "a/..", "", "a\nb", "a\0b", "ä", "a\\b", "C:b"]
)
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(BundleError):
        header(name, 1)
    # and one that another program wrote is not read
    block = bundle_file._block(name.encode("utf-8")[:100], 1, b"0", False)
    with pytest.raises(BundleError):
        bundle_file._entry(block, 0)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"S", b"K"])
def test_nothing_but_plain_files_is_read(kind: bytes) -> None:
    with pytest.raises(BundleError, match="no bundle of Trackbed"):
        bundle_file._entry(bundle_file._block(b"wheels/a", 1, kind, False), 0)


def test_an_ordinary_archive_is_no_bundle(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t", "w") as archive:
        archive.add(__file__, "wheels/a")
    with (tmp_path / "t").open("rb") as stream, pytest.raises(BundleError, match="no bundle of Trackbed"):
        Bundle(stream)
    with open("/dev/zero", "rb") as stream, pytest.raises(BundleError, match="no plain file"):
        Bundle(stream)


@pytest.mark.parametrize("cut", [1, BLOCK, 3 * BLOCK, 5000])
def test_a_bundle_that_ends_early(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "b", {"wheels/a": b"a" * 9000})
    path.write_bytes(path.read_bytes()[:-cut])
    with path.open("rb") as stream, pytest.raises(BundleError):
        Bundle(stream)


def damaged(path: Path, old: bytes, new: bytes) -> Path:
    assert len(old) == len(new) and path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def test_a_changed_byte_is_found_before_the_file_is_whole(tmp_path: Path) -> None:
    path = damaged(written(tmp_path / "b", {"wheels/a": b"good" + b"x" * (3 << 20) + b"end"}), b"good", b"evil")
    with path.open("rb") as stream:
        bundle = Bundle(stream)
        with pytest.raises(BundleError, match="wheels/a in it is damaged"):
            bundle.verify(no_amount)
        given = []
        with pytest.raises(BundleError, match="wheels/a in it is damaged"):
            for piece in bundle.read("wheels/a"):
                given.append(piece)
        assert sum(map(len, given)) < bundle.entries["wheels/a"].size, "the last piece is held back"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m["files"].pop("wheels/a"), "names other files"),
        (lambda m: m["files"].update({"wheels/b": m["files"]["wheels/a"]}), "names other files"),
        (lambda m: m["files"]["wheels/a"].update(size=2), "names other files"),
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m.update(files=[]), "manifest is damaged"),
        (lambda m: m["files"].update({"wheels/a": 1}), "manifest is damaged"),
        (lambda m: m["files"]["wheels/a"].update(size=math.inf), "manifest is damaged"),
        (lambda m: m.update(format="x" * 9999), "it has the format 'x{19}, and"),
    ],
)
def test_a_manifest_that_contradicts_the_archive(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    whole = written(tmp_path / "b", {"wheels/a": b"a"}).read_bytes()
    with (tmp_path / "b").open("rb") as stream:
        bundle = Bundle(stream)
        start, manifest = bundle.entries["manifest.json"].start, bundle.manifest
    change(manifest)
    text = json.dumps(manifest).encode()
    blocks = header("manifest.json", len(text)) + text + bytes(bundle_file.padding(len(text)) + 2 * BLOCK)
    (tmp_path / "b").write_bytes(whole[:start] + blocks)
    with (tmp_path / "b").open("rb") as stream, pytest.raises(BundleError, match=told):
        Bundle(stream)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "b", {"wheels/a": b"a"}).read_bytes()
    (tmp_path / "b").write_bytes(whole[: 2 * BLOCK] + whole)
    with (tmp_path / "b").open("rb") as stream, pytest.raises(BundleError, match="twice"):
        Bundle(stream)


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    for names in (("wheels/a", "wheels/a/b"), ("wheels/a/b", "wheels/a")):
        written(tmp_path / "b", dict.fromkeys(names, b"a"))
        with (tmp_path / "b").open("rb") as stream, pytest.raises(BundleError, match="a file and a folder"):
            Bundle(stream)


def test_unpacking_follows_no_link_and_writes_over_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "b", {"wheels/a": b"a", "python/bin/python3.13": b"p"})
    target = tmp_path / "target"
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "a").symlink_to(target)
    with path.open("rb") as stream:
        bundle = Bundle(stream)
        with pytest.raises(FileExistsError):
            bundle.unpack("wheels/", str(tmp_path / "into"))
        assert bundle.unpack("python/", str(tmp_path / "python")) == 1
    assert not target.exists()
    assert (tmp_path / "python" / "bin" / "python3.13").stat().st_mode & 0o777 & 0o111


def test_setup_reads_it_without_the_toolkit_on_an_old_python(tmp_path: Path) -> None:
    source = (clone.ROOT / "helpers" / "bundle_file.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names
    path = written(tmp_path / "b", {"toolkit/pip.whl": b"pip", "python/bin/python3.13": b"p", "wheels/a": b"a"})
    argv = [sys.executable, "-I", str(clone.ROOT / "helpers" / "bundle_file.py"), str(path), str(tmp_path / "t")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.13,python/bin/python3.13\n", "")
    listed = sorted(one.relative_to(tmp_path / "t").as_posix() for one in (tmp_path / "t").rglob("*") if one.is_file())
    assert listed == ["python/bin/python3.13", "toolkit/pip.whl"]
    damaged(path, b"p" + bytes(BLOCK - 1), b"q" + bytes(BLOCK - 1))
    done = subprocess.run([*argv[:-1], str(tmp_path / "u")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "python/bin/python3.13 in it is damaged" in done.stderr


def test_a_bundle_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    target = tmp_path / "to" / "b"
    target.parent.mkdir()
    before = written(target, {"wheels/b": b"the one before"}).read_bytes()

    def packing_to(path: Path) -> Any:
        return bundles.packing(path, work, Silent())

    with pytest.raises(RuntimeError), packing_to(target) as packing:
        packing.writer.add("wheels/a", 1, [b"a"])
        raise RuntimeError
    with pytest.raises(TrackbedError, match="has changed while it was read"), packing_to(target) as one:
        one.writer.add("wheels/a", 2, [b"a"])
    assert target.read_bytes() == before and list(target.parent.iterdir()) == [target]
    with packing_to(target) as packing:
        packing.python = "3.13"
        packing.finish("none")
    assert read(target).manifest["python"] == "3.13" and list(target.parent.iterdir()) == [target]
    with pytest.raises(TrackbedError, match="is a folder"), packing_to(tmp_path):
        pass
    with pytest.raises(TrackbedError, match="there is no folder"), packing_to(tmp_path / "no" / "b"):
        pass
    assert not list(work.iterdir())


def test_what_a_bundle_is_made_with_lies_where_nobody_else_can_change_it(tmp_path: Path) -> None:
    """Programs run there, as root too, and the bundle's own folder may be another account's."""
    (work := tmp_path / "work").mkdir()
    (tmp_path / "to").mkdir()
    with pytest.raises(RuntimeError), bundles.packing(tmp_path / "to" / "b", work, Silent()) as packing:
        assert packing.scratch.parent == work and packing.scratch.stat().st_mode & 0o777 == 0o700
        assert packing.folder == tmp_path / "to"
        raise RuntimeError


def test_what_a_killed_command_left_is_removed_and_what_another_one_needs_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait(60)
    for name in (f".bundle-{ended.pid}-a", f".bundle-{os.getppid()}-b", ".bundle-c", "other"):
        (tmp_path / name / "wheels").mkdir(parents=True)
    with bundles.scratch_folder(tmp_path) as folder:
        assert folder.name.startswith(f".bundle-{os.getpid()}-") and folder.stat().st_mode & 0o777 == 0o700
    assert sorted(one.name for one in tmp_path.iterdir()) == [f".bundle-{os.getppid()}-b", "other"]


def test_a_bundle_takes_the_place_of_nothing_but_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "link").symlink_to("nowhere")
    for target in (tmp_path / "thesis", tmp_path / "link", Path("/dev/null")):
        with (
            pytest.raises(TrackbedError, match="exists already, and only a bundle"),
            bundles.packing(target, tmp_path, Silent()),
        ):
            pass
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_no_bundle_is_written_where_a_service_could_lead_it_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.service_accounts.services", lambda: {os.geteuid()})
    with (
        pytest.raises(TrackbedError, match="is a service's own") as raised,
        bundles.packing(tmp_path / "b", tmp_path, Silent()),
    ):
        pass
    assert raised.value.hint == "name a folder outside the workspace"


def test_a_bundle_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TrackbedError, match=r"a bundle needs 1048576\.0 GiB"):
        bundles.require_room(tmp_path, 1 << 50, "a bundle")
    packing = bundles.Packing(cast(Any, None), tmp_path, tmp_path, Silent())
    with pytest.raises(TrackbedError, match=r"a bundle needs 2097152\.0 GiB"):
        bundles.require_room_to_pack(packing, 1 << 50, "a bundle")


def test_the_hash_of_the_whole_file_and_another_version_are_said(tmp_path: Path) -> None:
    path = written(tmp_path / "b", {"wheels/a": b"a"}, {"trackbed": "0.9\x1b[31m" + "x" * 100})
    said: list[str] = []
    with bundles.given(path) as bundle:
        assert bundle is not None and not bundle.sha256
        bundles.admit(bundle, path.name, Silent(), said.append)
    assert f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in said[0]
    assert said[1].startswith("warning: it was made by Trackbed 0.9\\x1b[31mxx") and "..." in said[1]
    with pytest.raises(TrackbedError, match="cannot be opened: No such file"), bundles.given(tmp_path / "n"):
        pass
    damaged(path, b"a" + bytes(BLOCK - 1), b"b" + bytes(BLOCK - 1))
    with (
        pytest.raises(TrackbedError, match="was not used: wheels/a in it is damaged"),
        bundles.given(path) as bundle,
    ):
        assert bundle is not None
        bundles.admit(bundle, path.name, Silent(), said.append)
    with bundles.given(None) as nothing:
        assert nothing is None


def test_wheels_say_which_glibc_they_need() -> None:
    names = [
        "a-1-py3-none-any.whl",
        "b-1-cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
    ]
    assert wheel_download.least_glibc(names) == (2, 17)
    assert wheel_download.least_glibc([*names, "c-1-cp313-cp313-manylinux_2_34_x86_64.whl"]) == (2, 34)


# the embedded engine's share


@pytest.fixture
def embedded(tmp_path: Path) -> EmbeddedEngine:
    return EmbeddedEngine(project(tmp_path, engine="embedded", gpu="none", torch="none"))


def of_embedded(engine: EmbeddedEngine, **change: Any) -> dict[str, Any]:
    locks = {
        bundles.lock_name(one.file): bundles.file_hash(one.file)
        for venv in engine.environments.required()
        for one in embedded_share._files(venv)
    }
    return {
        "engines": {"embedded": {"machine": bundles.machine(), "locks": locks, "torch": "", "glibc": "2.17", **change}}
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machine": "linux riscv64"}, "the bundle is for linux riscv64, and this machine is"),
        (
            {"locks": {}},
            r"lacks the packages of docker/jupyter/requirements\.txt, .*made for GPU none with PyTorch none",
        ),
        ({"glibc": "9.1"}, r"need glibc 9\.1"),
        ({"glibc": "9" * 5000}, r"need glibc 9{1,60}"),
        ({"locks": None}, "lacks the packages"),
    ],
)
def test_a_bundle_for_another_machine_or_project(
    tmp_path: Path, embedded: EmbeddedEngine, change: dict[str, Any], told: str
) -> None:
    bundle = read(written(tmp_path / "b", {}, of_embedded(embedded, **change)))
    with pytest.raises(TrackbedError, match=told) as raised:
        embedded.take_bundle(bundle, Silent())
    assert raised.value.hint and embedded.environments.bundle is None


@pytest.mark.parametrize("python", [None, "", "3.x", "3.1234", "3\n.13", "\u0663.13", {"3.13": 1}])
def test_a_manifest_that_names_no_python(tmp_path: Path, embedded: EmbeddedEngine, python: object) -> None:
    bundle = read(written(tmp_path / "b", {}, {**of_embedded(embedded), "python": python}))
    with pytest.raises(BundleError, match="its manifest names no Python"):
        embedded.take_bundle(bundle, Silent())
    assert embedded.environments.bundle is None


def test_a_bundle_without_a_name_is_not_passed_over() -> None:
    with pytest.raises(SettingError, match="--from-bundle= names no file"):
        running.Start(from_bundle="").refuse()


def test_what_is_no_file_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    told = {
        tmp_path: "cannot be opened: Is a directory",
        tmp_path / "fifo": "no plain file",
        tmp_path / "no": "No such",
    }
    for path, message in told.items():
        with pytest.raises(TrackbedError, match=message), bundles.opened(path):
            pass
        argv = [sys.executable, "-I", str(bundle_file.__file__), str(path), str(tmp_path / "into")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr


def test_a_bundle_of_this_clone_is_taken_and_one_of_other_locks_is_not(
    tmp_path: Path, embedded: EmbeddedEngine
) -> None:
    about = of_embedded(embedded)
    bundle = read(written(tmp_path / "b", {}, about))
    embedded.take_bundle(bundle, Silent())
    assert embedded.environments.bundle is bundle
    about["engines"]["embedded"]["locks"]["docker/mlflow/requirements.txt"] = "0" * 64
    with pytest.raises(
        TrackbedError, match=r"other versions of docker/mlflow/requirements\.txt; it was made by Trackbed 1\.0"
    ):
        embedded.take_bundle(read(written(tmp_path / "c", {}, about)), Silent())
    with pytest.raises(TrackbedError, match="nothing for the embedded engine, only for: docker"):
        embedded.take_bundle(read(written(tmp_path / "d", {}, {"engines": {"docker": {}}})), Silent())


def test_uv_is_told_of_no_index_where_there_are_wheels(tmp_path: Path) -> None:
    extra = venvs.Extra(Path("/x/torch-cpu.in"), "https://example.org/whl/cpu")
    venv = venvs.Venv(tmp_path, "n", clone.ROOT / "requirements.txt", extras=())
    for argv in (*venv.commands("uv", "python3", Path("/wheels")), extra.argv(Path("/wheels"))):
        assert "--index-url" not in argv
    assert all(
        argv[argv.index("--offline") :][:4] == ["--offline", "--no-index", "--find-links", "/wheels"]
        for argv in venv.commands("uv", "", Path("/wheels"))
    )
    assert "--offline" not in str(venv.commands("uv")) and "--index-url" in extra.argv()


def test_the_interpreter_has_to_be_the_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert venvs.interpreter({}, minor)
    with pytest.raises(TrackbedError, match=r"has wheels for Python 3\.99, and this machine has none"):
        venvs.interpreter({}, "3.99")


# Docker's share


class Api:
    """Images by name: their labels."""

    def __init__(self, **present: str) -> None:
        self.present = dict(present)

    def image(self, name: str) -> dict[str, Any] | None:
        if name not in self.present:
            return None
        return {"id": "sha256:1", "labels": {"dev.trackbed.inputs": self.present[name]}, "size": 5, "digests": ()}

    def info(self) -> dict[str, str]:
        return {"OSType": "linux", "Architecture": "x86_64"}

    def tag(self, name: str, other: str) -> None:
        self.present[other] = self.present[name]


def oci(*names: str) -> dict[str, bytes]:
    """An OCI layout as `docker save` writes it: each image with a layer of its own."""
    files: dict[str, bytes] = {"images/oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    own, listed = [], []

    def blob(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        files[f"images/blobs/sha256/{digest}"] = content
        return digest

    for name in names:
        config, layer = blob(f"config {name}".encode()), blob(f"layer {name}".encode())
        descriptors = {"config": {"digest": f"sha256:{config}"}, "layers": [{"digest": f"sha256:{layer}"}]}
        own.append({"Config": f"blobs/sha256/{config}", "RepoTags": [name], "Layers": [f"blobs/sha256/{layer}"]})
        listed.append(
            {
                "digest": f"sha256:{blob(json.dumps(descriptors).encode())}",
                "annotations": {"io.containerd.image.name": docker_share._canonical(name)},
            }
        )
    files["images/manifest.json"] = json.dumps(own).encode()
    files["images/index.json"] = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return files


def fed(path: Path, *names: str) -> dict[str, bytes]:
    """What `docker load` is given for those images."""
    target = io.BytesIO()
    with path.open("rb") as stream:
        docker_share._feed(target, Bundle(stream), dict.fromkeys(names), 0, Silent())
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]


def test_docker_gets_the_wanted_images_and_no_other_name_of_the_bundle(tmp_path: Path) -> None:
    path = written(tmp_path / "b", oci("postgres:18", "docker.io/pgsty/silo:1", "debian:latest"))
    given = fed(path, "postgres:18", "docker.io/pgsty/silo:1")
    assert [one["RepoTags"] for one in json.loads(given["manifest.json"])] == [
        ["postgres:18"],
        ["docker.io/pgsty/silo:1"],
    ]
    assert [one["annotations"]["io.containerd.image.name"] for one in json.loads(given["index.json"])["manifests"]] == [
        "docker.io/library/postgres:18",
        "docker.io/pgsty/silo:1",
    ]
    assert b"layer debian:latest" not in given.values() and b"layer postgres:18" in given.values()
    for name, content in given.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(content).hexdigest() == name.rpartition("/")[2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda files: files.pop("images/index.json"), "images/index.json is missing"),
        (lambda files: files.update({"images/manifest.json": b"{"}), "images/manifest.json in it is damaged"),
        (lambda files: files.update({"images/manifest.json": b"[{}]"}), "list of images is damaged"),
        (lambda files: files.update({"images/manifest.json": b"[]"}), "lacks one that its manifest names"),
        (
            lambda files: files.update(
                {
                    "images/manifest.json": json.dumps(
                        [{"Config": "../../wheels/a", "RepoTags": ["postgres:18"], "Layers": []}]
                    ).encode()
                }
            ),
            "not what its digest says",
        ),
    ],
)
def test_a_layout_that_is_not_whole(tmp_path: Path, change: Callable[[dict[str, bytes]], Any], told: str) -> None:
    files = oci("postgres:18")
    change(files)
    with pytest.raises(BundleError, match=told):
        fed(written(tmp_path / "b", files), "postgres:18")


def test_a_blob_that_is_not_what_its_digest_says(tmp_path: Path) -> None:
    files = oci("postgres:18")
    name = next(name for name, content in files.items() if content == b"layer postgres:18")
    files[name] = b"layer of somebody"  # the manifest has its hash; the digest is another one
    with pytest.raises(BundleError, match="not what its digest says"):
        fed(written(tmp_path / "b", files), "postgres:18")


OWN, STORE = "trackbed/mlflow:3.17.2", "ghcr.io/versity/versitygw:v1.8.0"


def load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: Mapping[str, Any], needed: tuple[str, ...], **made: str
) -> tuple[str, ...]:
    """Loading on an engine that has nothing but what ``needed`` does not name."""
    monkeypatch.setattr(images, "needed", lambda deployment, notebook: needed)
    monkeypatch.setattr(images, "inputs", lambda name, settings, notebook: "now")
    share = {"machine": "linux x86_64", "images": listed, "settings": {"TORCH": "auto", **made}}
    bundle = read(written(tmp_path / "b", {}, {"engines": {"docker": share}}))
    deployment = SimpleNamespace(settings=project(tmp_path, torch="auto").settings)
    return docker_share.load(
        cast(Any, Api(**{OWN: "now"})),
        cast(Any, deployment),
        NotebookImage("trackbed/jupyter-mlflow:cuda"),
        bundle,
        Silent(),
    )


def test_the_login_of_an_index_is_in_no_bundle(tmp_path: Path) -> None:
    kept = docker_share._built_from(
        project(tmp_path, torch="auto", torch_index="https://sesame@wheels.example/whl").settings
    )
    assert kept == {"REGISTRY_MIRROR": "", "TORCH": "auto", "TORCH_INDEX": "https://wheels.example/whl"}


def test_an_image_that_is_here_already_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(tmp_path, monkeypatch, {}, (OWN,)) == ()


@pytest.mark.parametrize(
    ("listed", "needed", "made", "told"),
    [
        ({OWN: {}}, (STORE,), {}, f"the bundle has no image {STORE}, which this project's settings name; it has {OWN}"),
        ({}, (f"{STORE}@sha256:1",), {}, f"has no image {STORE}, "),
        (
            {"trackbed/jupyter-mlflow:cpu": {}},
            ("trackbed/jupyter-mlflow:cuda",),
            {},
            "notebook's image for cpu, made for GPU none, and this machine needs trackbed/jupyter-mlflow:cuda",
        ),
        (
            {"trackbed/gateway:1": {"inputs": "old"}},
            ("trackbed/gateway:1",),
            {},
            "trackbed/gateway:1 was made from other files than this clone has: it was made by Trackbed 1.0 (abc)",
        ),
        (
            {"trackbed/gateway:1": {"inputs": "old"}},
            ("trackbed/gateway:1",),
            {"TORCH": "none"},
            "made with other settings: TORCH=none there, TORCH=auto here",
        ),
    ],
)
def test_what_the_bundle_lacks_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: dict[str, Any],
    needed: tuple[str, ...],
    made: dict[str, str],
    told: str,
) -> None:
    with pytest.raises(TrackbedError) as raised:
        load(tmp_path, monkeypatch, listed, needed, **made)
    assert told in raised.value.message and raised.value.hint


def saved(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    target.seek(0)
    return target


def test_an_engine_that_writes_another_format_is_refused(tmp_path: Path) -> None:
    def copy(stream: io.BytesIO) -> list[str]:
        with (tmp_path / "b").open("wb") as target:
            packing = bundles.Packing(Writer(target), tmp_path, tmp_path, Silent())
            docker_share._copy(stream, packing, 0)
            return list(packing.writer.files)

    layer, lists = tarfile.TarInfo("blobs/sha256/ab"), tarfile.TarInfo("index.json")
    assert copy(saved((layer, b"x"), (lists, b"{}"), (tarfile.TarInfo("repositories"), b""))) == [
        "images/blobs/sha256/ab",
        "images/index.json",
    ]
    with pytest.raises(TrackbedError, match=r"wrote abc/layer\.tar, which belongs to no OCI layout"):
        copy(saved((tarfile.TarInfo("abc/layer.tar"), b"x")))


# which engines


def test_a_bundle_is_for_each_engine_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def availability(usable: bool) -> Callable[[Any], Any]:
        return lambda engine: SimpleNamespace(usable=usable, reason="it is not here", fix="install it")

    monkeypatch.setattr(select.ENGINES["docker"], "availability", availability(False))
    monkeypatch.setattr(select.ENGINES["embedded"], "availability", availability(True))
    said: list[str] = []
    assert [one.name for one in bundling._engines(project(tmp_path), said.append)] == ["embedded"]
    assert said == ["the bundle has nothing for the docker engine: it is not here"]
    with pytest.raises(TrackbedError, match="the docker engine cannot be used"):
        bundling._engines(project(tmp_path, engine="docker"), said.append)
    monkeypatch.setattr(select.ENGINES["embedded"], "availability", availability(False))
    with pytest.raises(TrackbedError, match="no engine can be used here"):
        bundling._engines(project(tmp_path), said.append)


def test_kubernetes_takes_images_from_a_registry(tmp_path: Path) -> None:
    engine = select.make(project(tmp_path, engine="kubernetes"), "kubernetes")
    with pytest.raises(TrackbedError, match="takes nothing from a bundle") as raised:
        engine.take_bundle(cast(Any, None), Silent())
    assert "REGISTRY_MIRROR" in raised.value.hint
