"""`invoke import`: what really old clients logged is there afterwards, field by field; the source is as it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from helpers.data import journal
from helpers.imports import tracking_server
from tests.conftest import Clone, docker_answers
from tests.integration import buckets, imported, inspection, read_only, source_servers
from tests.integration.snapshot import Server

pytestmark = pytest.mark.transfer
# one of each kind in every run; all of them with TRACKBED_IMPORTS=all, as the session `imports` has it
LAST, LARGE = "zzz.bin", 512 * 2**20  # a file that is all holes
EVERY = os.environ.get("TRACKBED_IMPORTS") == "all"
FEW = (("embedded", "1.30", "folder"), ("docker", "3.0", "sqlite"))
ALL = tuple(
    (engine, version, kind)
    for engine in ("embedded", "docker")
    for version in imported.VERSIONS
    for kind in ("folder", "sqlite")
)


def hashes(folder: Path) -> dict[str, str]:
    """The content and the time of every file."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("engine, version, kind", ALL if EVERY else FEW)
def test_what_an_old_client_logged_arrives(
    clone_factory: Callable[..., Clone], tmp_path: Path, engine: str, version: str, kind: str
) -> None:
    if engine == "docker" and not docker_answers():
        pytest.skip("NOT TESTED: no Docker engine answers")
    source, expected = imported.unpack(version, tmp_path)
    words = [str(source if kind == "folder" else source / "mlflow.db")]
    if kind == "sqlite":
        words.append(f"--artifacts={imported.MADE}/{version}={source}")  # it has moved since
    clone = clone_factory(engine)
    clone.up()
    interrupted = engine == "docker" and not EVERY
    stored = _interrupted(clone, source / "mlartifacts", words) if interrupted else {}
    before = hashes(source)
    shown = clone.invoke("import", *words, "--dry-run")
    assert shown.returncode == 0 and "nothing was changed; the import takes about" in shown.stderr, shown.stderr
    done = clone.invoke("import", *words)
    assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
    assert shown.stdout == done.stdout
    if interrupted:
        _goes_on(done.stderr, stored)
        assert not (clone.project_folder / journal.IMPORTED).exists()
    assert hashes(source) == before, "the source was changed"
    server = Server(clone.url("mlflow"))
    assert imported.differences(imported.plain(expected[kind]), imported.said(server)) == []
    again = clone.invoke("import", *words)
    assert again.returncode == 0 and "has all of the source already" in again.stderr, again.stderr
    assert imported.differences(imported.plain(expected[kind]), imported.said(server)) == []
    if engine == "embedded" and not EVERY:
        _beside(clone, server, tmp_path, imported.plain(expected[kind]))
        _over_the_network(clone_factory(engine), server)


def _stored(clone: Clone) -> dict[str, int]:
    """The artifacts that an import has stored so far."""
    folder = clone.project_folder / "embedded" / "artifacts"
    if clone.engine == "docker":
        volume = f"{clone.project}_{clone.environment.get('TRACKBED_OBJECT_STORE', 'versitygw')}"
        folder = Path(inspection.output("docker", "volume", "inspect", volume, "-f", "{{.Mountpoint}}"), "objects")
    found = (path for path in folder.rglob("live-*/**/*") if not path.name.startswith(".") and path.is_file())
    return {f"{path.name} {path.stat().st_ino}": path.stat().st_mtime_ns for path in found}


def _interrupted(clone: Clone, artifacts: Path, words: list[str]) -> dict[str, int]:
    """The same import is killed among the source's artifacts, which are below that folder; gives what it stored.

    One that is read last is so large that the kill comes before it is stored, and small when the import goes on.
    """
    last = max(artifacts.rglob("artifacts")) / LAST
    last.touch()
    os.truncate(last, LARGE)
    running = clone.start("import", *words)
    try:
        running.until(lambda: _stored(clone))
    finally:
        running.kill()
    held = json.loads((clone.project_folder / journal.IMPORTED).read_text())["prefix"]
    inspection.until(lambda: not inspection.running(held))  # the service stores what it had read at the kill
    os.truncate(last, 1)
    return {name: time for name, time in _stored(clone).items() if not name.startswith(LAST)}


def test_an_import_that_is_killed_among_its_artifacts_copies_only_the_rest(
    clone_factory: Callable[..., Clone], tmp_path: Path
) -> None:
    source, _ = imported.unpack("2.9", tmp_path)
    clone = clone_factory("embedded")
    clone.up()
    before = _interrupted(clone, source / "mlruns", [str(source)])
    done = clone.invoke("import", str(source))
    assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
    _goes_on(done.stderr, before)
    assert before.items() <= _stored(clone).items()


def _goes_on(said: str, before: dict[str, int]) -> None:
    """The import has taken up exactly what was stored, and stored the others."""
    told = re.search(r"(\d+) of (\d+) artifacts were there from an interrupted import", said)
    assert told, said
    there, of = map(int, told.groups())
    assert 0 < len(before) == there < of, (sorted(before), said)


def _over_the_network(clone: Clone, server: Server) -> None:
    """All of a running server, which wants a login, refuses what is no read, and does not answer once in a while."""
    clone.up()
    login = {tracking_server.TOKEN: "a token of the test"}
    with read_only.proxy(server.url, f"Bearer {login[tracking_server.TOKEN]}") as proxy:
        refused = clone.invoke("import", proxy.url)
        assert refused.returncode == 1 and tracking_server.TOKEN in refused.stderr, refused.stderr
        done = clone.invoke("import", proxy.url, around=login)
        assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
        again = clone.invoke("import", proxy.url, around=login)
        assert again.returncode == 0 and "has all of the source already" in again.stderr, again.stderr
        assert "are others here" not in again.stderr
        assert proxy.failed > 0 and proxy.refused == []
        assert login[tracking_server.TOKEN] not in done.stdout + done.stderr + refused.stderr
    assert imported.differences(imported.said(server), imported.said(Server(clone.url("mlflow")))) == []


def _beside(clone: Clone, server: Server, folder: Path, before: imported.Said) -> None:
    """Another source beside that one, killed once, while somebody logs: both are whole, nothing is there twice."""
    source, expected = imported.unpack("3.0", folder)
    words = (str(source / "mlflow.db"), f"--artifacts={imported.MADE}/3.0={source}")
    run = server.post("runs/create", experiment_id="0")["run"]["info"]["run_id"]
    here = imported.said(server)
    shown = clone.invoke("import", *words, "--dry-run")
    assert shown.returncode == 0 and "experiment 'two' becomes 'two-imported'" in shown.stderr, shown.stderr
    running = clone.start("import", *words)
    try:
        running.until("reading the objects back")
    finally:
        running.kill()
    assert imported.differences(here, imported.said(server)) == []
    acknowledged, ended = 0, threading.Event()

    def log() -> None:
        nonlocal acknowledged
        while not ended.is_set():
            server.post("runs/log-metric", run_id=run, key="x", value=acknowledged, timestamp=1, step=acknowledged)
            acknowledged += 1

    thread = threading.Thread(target=log)
    thread.start()
    try:
        done = clone.invoke("import", *words)
    finally:
        ended.set()
        thread.join()
    assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
    again = clone.invoke("import", *words, "--merge")
    assert again.returncode == 0 and "has all of the source already" in again.stderr, again.stderr
    found = imported.said(server)
    assert len(found["runs"].pop(run)["metrics"]["x"]) == acknowledged > 0
    both = {
        kind: {**before[kind], **imported.beside(imported.plain(expected["sqlite"]), before)[kind]} for kind in found
    }
    assert imported.differences(both, found) == []


@contextmanager
def artifacts_in_a_bucket(source: Path) -> Iterator[dict[str, str]]:
    """What lies beside a source's database lies in s3://old/mlflow too; gives the settings for it."""
    with buckets.store("old") as access:
        for name in ("mlartifacts", "mlruns"):
            buckets.upload(access, "old", source / name, f"mlflow/{name}")
        yield {
            "TRACKBED_IMPORT_S3_ENDPOINT": access.endpoint,
            "TRACKBED_IMPORT_S3_ACCESS_KEY": access.key,
            "TRACKBED_IMPORT_S3_SECRET_KEY": access.secret,
        }


SERVERS = imported.VERSIONS if EVERY else ("2.9",)


@pytest.mark.parametrize("version", SERVERS)
def test_the_database_of_a_server_arrives(clone_factory: Callable[..., Clone], tmp_path: Path, version: str) -> None:
    """Read by a user who may only read; whoever looks at what Trackbed says finds no password in it."""
    source, expected = imported.unpack(version, tmp_path)
    clone = clone_factory("embedded")
    clone.up()
    with ExitStack() as keep:
        server = keep.enter_context(source_servers.postgresql(clone, source / "mlflow.db"))
        user, password = source_servers.USER, source_servers.PASSWORD
        words = [f"postgresql+psycopg2://{user}@/source?host={server.folder}"]
        around = keep.enter_context(artifacts_in_a_bucket(source)) if docker_answers() else {}
        words.append(f"--artifacts={imported.MADE}/{version}={'s3://old/mlflow' if around else source}")
        before = source_servers.content(server)
        refused = clone.invoke("import", *words, "--dry-run", around=around, PGPASSWORD="wrong")
        assert refused.returncode == 1 and "PGPASSWORD" in refused.stderr, refused.stderr
        around["PGPASSWORD"] = password
        shown = clone.invoke("import", *words, "--dry-run", around=around)
        assert shown.returncode == 0 and "nothing was changed" in shown.stderr, shown.stderr
        done = clone.invoke("import", *words, around=around)
        assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
        assert done.stdout == shown.stdout
        again = clone.invoke("import", *words, around=around)
        assert again.returncode == 0 and "has all of the source already" in again.stderr, again.stderr
        assert source_servers.content(server) == before, "the source was changed"
        said = f"{refused.stderr}{shown.stderr}{done.stderr}{again.stderr}"
        assert password not in said and around.get("TRACKBED_IMPORT_S3_SECRET_KEY", password) not in said
    assert imported.differences(imported.plain(expected["sqlite"]), imported.said(Server(clone.url("mlflow")))) == []
