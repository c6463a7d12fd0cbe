"""Backups into a repository, in a folder and in a bucket, as a user types them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.backups import archive, prune, repository, running
from helpers.backups.bucket import Access, Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore, Folder
from helpers.errors import TrackbedError
from tests.claims import free_ports
from tests.conftest import Clone
from tests.integration import buckets, inspection
from tests.integration.test_backup import api, everything, experiment, log_run
from tests.unit.fakes import Silent

pytestmark = pytest.mark.transfer

AT_REST = 2.5  # seconds after which a file on disk counts as written


@pytest.fixture(scope="module")
def vault() -> Iterator[Access]:
    with buckets.store("vault") as access:
        yield access


def keys(access: Access) -> dict[str, str]:
    return {
        "TRACKBED_BACKUP_S3_ENDPOINT": access.endpoint,
        "TRACKBED_BACKUP_S3_ACCESS_KEY": access.key,
        "TRACKBED_BACKUP_S3_SECRET_KEY": access.secret,
    }


def back_up(clone: Clone, to: str, **environment: str) -> tuple[str, int, int, int]:
    """Where it is, and how many objects were unchanged and read, and pieces new, as the task tells."""
    done = clone.invoke("backup", f"--to={to}", around=environment)
    assert done.returncode == 0, done.stderr
    match = re.search(r"(\d+) objects? unchanged since the last backup, (\d+) read; .* in (\d+) pieces?", done.stderr)
    assert match and "Traceback" not in done.stderr
    for secret in (v for k, v in environment.items() if k.endswith("SECRET_KEY")):
        assert secret not in done.stderr + done.stdout
    return done.stdout.strip(), int(match[1]), int(match[2]), int(match[3])


def pieces(place: BlobStore) -> set[str]:
    if isinstance(place, Folder):
        return {path.name for path in (place.path / "pieces").rglob("*") if path.is_file()}
    assert isinstance(place, Bucket)
    return {path.rpartition("/")[2] for path, *_ in place.listed("pieces/")}


# each engine and each kind of place once: neither knows of the other
@pytest.mark.parametrize(
    ("engine", "kind"), [("embedded", "bucket"), ("docker", "folder")], indirect=["engine"], scope="session"
)
def test_a_second_backup_moves_only_what_is_new(
    pair: tuple[Clone, Clone], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And all of it is there: it is restored on the other engine, from the first and from the second backup."""
    source, target = pair
    environment: dict[str, str] = {}
    to = f"{tmp_path}/repo/"
    place: Folder | Bucket = Folder(tmp_path / "repo")
    if kind == "bucket":
        access = request.getfixturevalue("vault")
        environment, to = keys(access), f"s3://vault/{source.engine}"
        place = Bucket(to, access)
    rng, chosen = random.Random(source.engine + kind), experiment(source)
    for number in range(5):
        log_run(source, chosen, f"run {number}", rng.randbytes(number * 1000))
    log_run(source, chosen, "big", rng.randbytes(20_000_000))
    time.sleep(AT_REST)
    first, unchanged, whole, _ = back_up(source, to, **environment)
    assert unchanged == 0 and whole >= 6
    had, then = pieces(place), everything(source)
    log_run(source, chosen, "one more", rng.randbytes(9_000_000))
    log_run(source, chosen, "and one", rng.randbytes(100))
    time.sleep(AT_REST)
    second, unchanged, read, new = back_up(source, to, **environment)
    assert (unchanged, read) == (whole, 2)
    dump = Snapshot(place, second.rpartition("/")[2].removesuffix(".json")).manifest()["chunks"]
    assert len(pieces(place) - had) == new <= 2 + 1 + dump + 1  # 9 MB are two pieces; the dump, and the list
    assert back_up(source, to, **environment)[1:3] == (whole + 2, 0)
    for text, expected in ((first, then), (to, everything(source))):
        done = target.invoke("restore", text, "--yes", around=environment)
        assert done.returncode == 0, done.stderr
        assert everything(target) == expected


def test_an_encrypted_place(own: dict[str, Clone], vault: Access, tmp_path: Path) -> None:
    """In a folder and in a bucket: backup, verify, repair, prune, another passphrase, restore. Nobody else reads it."""
    clone, chosen = own["embedded"], experiment(own["embedded"])
    phrase, other = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    around = {**keys(vault), "TRACKBED_BACKUP_PASSPHRASE": phrase}
    content = random.Random(3).randbytes(9_000_000)
    log_run(clone, chosen, "encrypted", content)
    places: dict[str, BlobStore] = {
        f"{tmp_path}/repo": Folder(tmp_path / "repo"),
        "s3://vault/encrypted": Bucket("s3://vault/encrypted", vault),
    }
    digest = hashlib.sha256(content[: repository.PIECE]).hexdigest()
    for to, place in places.items():
        for _ in range(2):
            back_up(clone, f"{to}/", **around)
        everywhere = [blob.path for blob in place.listed("")]
        assert not [path for path in everywhere if digest in path]
        assert not [path for path in everywhere if content[500:600] in place.read(path, 2**30)]
        biggest = max(place.listed("pieces/"), key=lambda blob: blob.size).path
        flip(place, biggest.rpartition("/")[2])
        done = clone.invoke("backup.verify", to, around=around)
        assert done.returncode == 1 and biggest in done.stdout, done.stderr
        done = clone.invoke("backup.verify", to, "--repair", around=around)
        assert done.returncode == 0, done.stderr
        done = clone.invoke("backup.prune", to, "--keep-last=1", "--now", around=around)
        assert done.returncode == 0 and len(repository.names(place)) == 1, done.stderr
        for wrong, refusal in (("", "is encrypted"), (other, "another passphrase")):
            done = clone.invoke("backup.list", to, around={**around, "TRACKBED_BACKUP_PASSPHRASE": wrong})
            inspection.refused(done, 1, refusal, ".env")
    expected, bucket = everything(clone), "s3://vault/encrypted"
    done = subprocess.run(
        [*clone.command, "backup.passphrase", bucket],
        cwd=clone.folder,
        env={**clone.environment, **around},
        input=f"{other}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and other not in done.stdout + done.stderr, done.stderr
    log_run(clone, chosen, "later", b"x")
    inspection.refused(clone.invoke("restore", bucket, "--yes", around=around), 1, "another passphrase", ".env")
    done = clone.invoke("restore", bucket, "--yes", around={**around, "TRACKBED_BACKUP_PASSPHRASE": other})
    assert done.returncode == 0 and everything(clone) == expected, done.stderr


def test_a_damaged_repository_changes_nothing(pair: tuple[Clone, Clone], tmp_path: Path) -> None:
    source, _ = pair
    log_run(source, experiment(source), "x", random.Random(5).randbytes(100_000))
    back_up(source, f"{tmp_path}/repo/")
    biggest = max((tmp_path / "repo" / "pieces").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(biggest.read_bytes())
    content[len(content) // 2] ^= 1
    biggest.write_bytes(content)
    before, state = everything(source), (source.project_folder / "state.json").read_bytes()
    done = source.invoke("restore", f"{tmp_path}/repo", "--yes")
    assert done.returncode == 1 and "damaged" in done.stderr and "Traceback" not in done.stderr
    assert biggest.name in done.stderr and "--skip-damaged" in done.stderr
    assert (source.project_folder / "state.json").read_bytes() == state and everything(source) == before


def place_of(
    own: dict[str, Clone], kind: str, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> tuple[Clone, str, Folder | Bucket]:
    """The embedded project, and an empty repository in a folder or, as ``name``, in a bucket that it has the keys of."""
    clone = own["embedded"]
    if kind != "bucket":
        return clone, f"{tmp_path}/repo/", Folder(tmp_path / "repo")
    access, to = request.getfixturevalue("vault"), f"s3://vault/{name}"
    return replace(clone, environment={**clone.environment, **keys(access)}), to, Bucket(to, access)


@pytest.mark.parametrize("kind", ["archive", "folder", "bucket"])
def test_a_backup_that_would_fill_the_disk(
    own: dict[str, Clone], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is refused before it is read, whether its manifest tells the truth or not, and nothing is left of it."""
    clone, to, place = place_of(own, kind, tmp_path, request, "full")
    reported = {"object_bytes": 2**60}
    if kind == "archive":
        path = tmp_path / "a.tar"
        clone.value("backup", f"--to={path}")
        content = path.read_bytes()[: -archive.TRAILER]
        path.write_bytes(content + archive.trailer({**archive.read_manifest(path), **reported}))
        cases = {str(path): "the backup needs"}
    else:
        honest, cases = back_up(clone, to)[0], {to: "the backup needs"}
        snapshot = Snapshot(place, honest.rpartition("/")[2].removesuffix(".json"))
        manifest = snapshot.manifest()
        biggest = max(snapshot.entries(manifest), key=lambda entry: len(entry.pieces))
        many = [
            replace(biggest, name=f"objects/1/{n}", size=repository.PIECE * 900, pieces=biggest.pieces[:1] * 900)
            for n in range(100)
        ]
        listed = b"".join(entry.line for entry in (*snapshot.entries(manifest), *many))
        digest = hashlib.sha256(listed).hexdigest()
        place.write(repository.piece(digest), listed)
        forge(place, snapshot.name, {**manifest, "list": [digest], "list_bytes": len(listed)})
        forge(place, later := "trackbed-p-20991231T235959Z", {**manifest, **reported})
        cases = {honest: "more than its manifest says", f"{to.rstrip('/')}/backups/{later}.json": "the backup needs"}
    before, state = everything(clone), (clone.project_folder / "state.json").read_bytes()
    for text, expected in cases.items():
        done = clone.invoke("restore", text, "--yes", timeout=60)
        inspection.refused(done, 1, expected, "invoke usage" if "needs" in expected else "use another backup")
    assert (clone.project_folder / "state.json").read_bytes() == state and everything(clone) == before


def forge(place: BlobStore, name: str, manifest: dict[str, Any]) -> None:
    for top in ("backups", "copies"):
        place.write(f"{top}/{name}.json", repository.rendered(manifest))


def flip(place: BlobStore, digest: str) -> None:
    """One byte of a piece is another one, as a disk may do that."""
    path = repository.piece(digest)
    content = bytearray(place.read(path, repository.PIECE))
    content[len(content) // 2] ^= 1
    place.write(path, bytes(content))


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_one_flipped_byte(own: dict[str, Clone], kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The next backup repairs it; where nobody has the content any more, all the rest comes back and it is named."""
    clone, to, place = place_of(own, kind, tmp_path, request, "flip")
    to = to.rstrip("/")
    chosen, rng = experiment(clone), random.Random(kind)
    log_run(clone, chosen, "kept", b"kept")
    lost = log_run(clone, chosen, "lost", rng.randbytes(100_000))
    run, content = lost["info"]["run_id"], random.Random(kind).randbytes(100_000)
    digest = hashlib.sha256(content).hexdigest()
    first, *_ = back_up(clone, f"{to}/")
    assert clone.invoke("backup.verify", to).returncode == 0
    flip(place, digest)
    result = clone.invoke("backup.verify", to)
    assert result.returncode == 1 and f"run {run}: 'ä file.bin'" in result.stdout and digest in result.stdout, (
        result.stdout
    )
    assert "--repair" in result.stderr and "Traceback" not in result.stderr
    refused = clone.invoke("restore", to, "--yes")
    inspection.refused(refused, 1, "is damaged", f"`invoke restore {first} --skip-damaged`")

    done = clone.invoke("backup", f"--to={to}/")
    assert done.returncode == 0 and "stored again: 1 damaged or missing piece\n" in done.stderr, done.stderr
    assert clone.invoke("backup.verify", to).returncode == 0
    flip(place, digest)
    repaired = clone.invoke("backup.verify", to, "--repair")
    assert repaired.returncode == 0 and "stored again" in repaired.stdout, repaired.stdout + repaired.stderr

    flip(place, digest)
    done = clone.invoke("restore", to, "--skip-damaged", "--yes", "--no-backup")
    assert done.returncode == 0 and f"run {run}: 'ä file.bin'" in done.stderr, done.stderr
    runs = {r["info"]["run_name"] for r in api(clone, "runs/search", "POST", experiment_ids=[chosen])["runs"]}
    assert runs == {"kept", "lost"}
    reported = clone.invoke("backup", f"--to={to}/")
    assert reported.returncode == 1 and "does not have this any more" in reported.stderr and run in reported.stderr, (
        reported.stderr
    )
    assert clone.invoke("backup.verify", reported.stdout.strip()).returncode == 0  # the new one is whole
    api(clone, "runs/delete", "POST", run_id=run)
    clone.value("gc", "--older-than=0s", "--yes")  # the tests of this project read every artifact


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_backup_killed_at_any_moment(
    own: dict[str, Clone], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """`kill -9` leaves the earlier backups whole, and the next one works."""
    clone, to, place = place_of(own, kind, tmp_path, request, "killed")
    chosen = experiment(clone)
    began = time.monotonic()
    first, *_ = back_up(clone, to)
    whole = time.monotonic() - began
    seed = random.randrange(2**32)
    sys.stderr.write(f"seed {seed}\n")
    rng = random.Random(seed)
    for _ in range(5):
        log_run(clone, chosen, "more", rng.randbytes(30_000_000))
        before = repository.names(place)
        running = clone.start("backup", f"--to={to}")
        time.sleep(rng.uniform(0.3, 1.5) * whole)
        running.kill()
        for name in {*before, *repository.names(place)}:  # one more where the kill came too late
            Snapshot(place, name).verify()
    last, *_ = back_up(clone, to)
    assert first.rpartition("/")[2].removesuffix(".json") in repository.names(place)
    whole_one = Snapshot(place, last.rpartition("/")[2].removesuffix(".json"))
    held = {entry.object for entry in whole_one.entries(whole_one.verify())}
    runs = [run for run in everything(clone) if run["files"]]
    assert runs
    for run in runs:
        assert run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/") + "/ä file.bin" in held


def test_into_another_project(own: dict[str, Clone], tmp_path: Path) -> None:
    """The current project goes on as it was; the other has everything, the logins too, on ports of its own."""
    clone, name = own["embedded"], f"tb-into-{secrets.token_hex(3)}"
    log_run(clone, experiment(clone), "x", b"content")
    assert clone.invoke("users.add", "ada").returncode == 0
    logins = (clone.project_folder / "users").read_text()
    back_up(clone, f"{tmp_path}/repo/")
    before, parts, dotenv = (
        everything(clone),
        inspection.identities(clone),
        (clone.folder / ".trackbed.env").read_text(),
    )
    try:
        done = clone.invoke("restore", f"{tmp_path}/repo", f"--into={name}")
        assert done.returncode == 0, done.stderr
        assert "ada" in done.stderr
        assert everything(clone) == before and inspection.identities(clone) == parts
        assert (clone.folder / ".trackbed.env").read_text() == dotenv
        # without this project's ports in the environment: they would be taken for the other's
        apart = {key: value for key, value in clone.environment.items() if not key.endswith("_PORT")}
        beside = replace(clone, project=name, environment={**apart, "TRACKBED_PROJECT": name})
        reported = json.loads(beside.value("status", "--format=json"))
        ports = {
            service["service"]: int(service["urls"][0].split(":")[2].split("/")[0])
            for service in reported["services"]
            if service["urls"]
        }
        other = replace(beside, ports=ports)
        assert everything(other) == before
        assert (other.project_folder / "users").read_text() == logins
        again = clone.invoke("restore", f"{tmp_path}/repo", f"--into={name}")
        assert again.returncode == 1 and "has data of its own" in again.stderr
        assert everything(other) == before
        itself = clone.invoke("restore", f"{tmp_path}/repo", f"--into={clone.project}")
        assert itself.returncode == 2 and "is this project itself" in itself.stderr
    finally:
        clone.invoke("down", "--delete-data", "--yes", f"--project={name}")


def test_what_cannot_be_is_refused_in_words(own: dict[str, Clone], tmp_path: Path) -> None:
    clone = own["embedded"]
    for words, expected in (
        (("backup", "--to=s3://vault/x"), "BACKUP_S3_ACCESS_KEY is missing"),
        (("backup", "--to=s3://vault/x", "--with-secrets"), "secrets are not put into a bucket"),
        (("restore", f"{tmp_path}/missing", "--yes"), "no backup found"),
        (("restore", f"{tmp_path}", "--yes"), "no backup found"),
    ):
        done = clone.invoke(*words)
        assert done.returncode in (1, 2) and expected in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_store_that_does_not_answer_ends_in_words(own: dict[str, Clone]) -> None:
    access = Access(f"http://127.0.0.1:{free_ports(1)[0]}", "us-east-1", "some-key", "some-secret-key")
    done = own["embedded"].invoke("backup", "--to=s3://vault/x", timeout=120, around=keys(access))
    assert done.returncode == 1 and "does BACKUP_S3_ENDPOINT answer" in done.stderr
    with pytest.raises(TrackbedError):
        Bucket("s3://vault/x", access).read("x", 1)


def test_two_systems_with_one_bucket(clone_factory: Callable[..., Clone], vault: Access, tmp_path: Path) -> None:
    """A restore replaces the artifacts of its own project alone."""
    created = [clone_factory("embedded") for _ in range(2)]
    for clone in created:
        clone.environment |= {
            "TRACKBED_OBJECT_STORE": "external",
            "TRACKBED_S3_ENDPOINT": vault.endpoint,
            "TRACKBED_S3_ACCESS_KEY": vault.key,
            "TRACKBED_S3_SECRET_KEY": vault.secret,
            "TRACKBED_S3_BUCKET": "shared",
        }
        clone.up()
        log_run(clone, experiment(clone), clone.project, clone.project.encode())
    first, second = created
    before = everything(second)
    archive = f"{tmp_path}/a.tar"
    assert first.invoke("backup", f"--to={archive}").returncode == 0
    expected = everything(first)
    done = first.invoke("restore", archive, "--yes")
    assert done.returncode == 0, done.stderr
    assert everything(first) == expected and everything(second) == before


def written_directly(place: BlobStore, objects: dict[str, bytes]) -> Snapshot:
    """A backup of these objects, of no system."""
    with Writer(place, "p", {"made": "2026-01-01T00:00:00+00:00"}, "here") as writer:
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(b"PGDMP"))
        for name in writer.listed((name, len(content), "") for name, content in objects.items()):
            writer.object(name, len(objects[name]), io.BytesIO(objects[name]))
        done, _ = writer.finish({"schema": "a", "mlflow": "3", "tables": {}, "dump_bytes": 5})
    return Snapshot(place, done)


def test_pruning_a_bucket(vault: Access) -> None:
    """What the unit tests show of a folder, on a real store: times are the store's, and moving is a copy there."""
    place = Bucket(f"s3://vault/prune-{secrets.token_hex(4)}", vault)
    contents = [{"1/a b": b"same", "1/ä": b"%d" % number * 100} for number in range(3)]
    written = [written_directly(place, objects) for objects in contents]
    began = running.time_of(place)
    with running.Flag(place) as flag:  # a backup that is being written: what it may have found stays
        assert began - 60 < flag.began < began + 60
        result = prune.prune(place, "p", Policy(last=1), Silent(), at_once=True)
        assert (len(result.forgotten), result.busy, result.deleted.count, result.unused.count) == (2, 1, 0, 0)
    result = prune.prune(place, "p", Policy(last=1), Silent())  # too young
    assert (result.busy, result.deleted.count, result.unused.count) == (0, 0, 0)
    result = prune.prune(place, "p", Policy(last=1), Silent(), at_once=True)
    assert result.deleted.count == result.unused.count >= 2 * 4
    assert repository.names(place) == [written[-1].name]
    written[-1].verify()
    assert not list(place.listed("trash/")) and not list(place.listed("running/"))
    (digest,) = next(e.pieces for e in written[-1].entries(written[-1].manifest()) if e.name == "objects/1/a b")
    place.move(repository.piece(digest), f"{repository.trashed(repository.piece(digest))}{'0' * 16}")
    written[-1].verify()  # reading looks there
    prune.prune(place, "p", Policy(last=1), Silent())
    assert not list(place.listed("trash/"))
    assert place.read(repository.piece(digest), 100) == b"same"
