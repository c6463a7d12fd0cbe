"""A notebook that answers nothing costs a backup of the cluster its files and nothing else. Nightly: it takes minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from helpers.backups import encrypted, repository
from helpers.backups.bucket import Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.storage import BlobStore
from helpers.data.workspace_files import SILENCE
from tests.conftest import PATIENCE, Clone
from tests.integration import buckets
from tests.kubernetes.site_proxy import ADDRESS
from tests.kubernetes.test_notebook_files import PYTHON, notebook
from tests.kubernetes.test_scheduled_backups import PASSPHRASE, PLACE, look, settings, told

pytestmark = pytest.mark.timeout(1800)
SERVER = "$(pgrep -o -P 1)"  # JupyterLab, below tini
SILENT = "printf '#!/bin/sh\\nexec sleep 3600\\n' >/tmp/python; chmod 755 /tmp/python"
EACH = 'for file; do echo "$file $(stat -c %a "$file") $(md5sum <"$file")"; done'
FILES = f"find . -path '*results/*' -type f -exec sh -c '{EACH}' sh {{}} +"


@contextmanager
def stopped(clone: Clone) -> Iterator[None]:
    """JupyterLab takes connections and answers none, as one whose memory is being swapped."""
    notebook(clone, f"kill -STOP {SERVER}")
    try:
        yield
    finally:
        notebook(clone, f"kill -CONT {SERVER}")


@contextmanager
def silent(clone: Clone) -> Iterator[None]:
    """Its owner has a program that says nothing where JupyterLab has Python."""
    python = notebook(clone, f"readlink -f {PYTHON}; {SILENT}; ln -sfn /tmp/python {PYTHON}").strip()
    try:
        yield
    finally:
        notebook(clone, f"ln -sfn {python} {PYTHON}")


def earlier(store: BlobStore, name: str) -> None:
    """The backup is a day old, so that the next one is due."""
    manifest = Snapshot(store, name).manifest()
    made = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    for folder in ("copies", "backups"):
        store.write(f"{folder}/{name}.json", repository.rendered({**manifest, "made": made}))


def without_files(clone: Clone, store: BlobStore, job: str) -> str:
    """Another backup is made, which lacks the notebook's files and says so; gives why."""
    before = set(repository.names(store))
    assert not look(clone, job, PATIENCE + SILENCE)
    (name,) = set(repository.names(store)) - before  # and none is forgotten
    assert before < set(repository.names(store))
    manifest: dict[str, Any] = Snapshot(store, name).manifest()
    seen = told(clone)
    assert name in seen["last_good"]["backup"] and "lacks files" in seen["problem"]
    assert manifest["tables"]["runs"]
    earlier(store, name)
    return str(manifest["workspace_problem"])


def test_a_silent_notebook_costs_its_files_alone_and_an_older_backup_has_them(deployment: Clone) -> None:
    with buckets.store("vault", ADDRESS) as access:
        settings(deployment, access, "BACKUP_WORKSPACE=true")
        try:
            done = deployment.invoke("backup.schedule", "--every=6h", f"--to={PLACE}", "--keep-last=1")
            assert done.returncode == 0, done.stderr
            notebook(
                deployment, "mkdir -p results/deep; echo 0.93 >results/accuracy; echo '#!/bin/sh' >results/deep/run.sh"
            )
            notebook(deployment, "chmod 750 results/deep/run.sh; head -c 3000000 /dev/urandom >results/model")
            before = notebook(deployment, FILES)
            assert look(deployment, "with-files")
            store = encrypted.opened(Bucket(PLACE, access), PASSPHRASE)
            (first,) = repository.names(store)
            earlier(store, first)
            with stopped(deployment):
                assert "does not answer" in without_files(deployment, store, "stopped")
            with silent(deployment):
                assert f"no answer for {SILENCE} s" in without_files(deployment, store, "silent")
            notebook(deployment, "rm -r results")
            backup = f"{PLACE}/backups/{first}.json"
            done = deployment.invoke("restore", backup, "--yes", "--no-backup", timeout=900)
            assert done.returncode == 0, done.stderr
            restored = notebook(deployment, FILES)
            assert strip(restored) == strip(before), done.stderr
            assert look(deployment, "with-files-again")  # the policy goes on now
            (last,) = repository.names(store)
            assert "workspace_problem" not in Snapshot(store, last).manifest()
            assert json.loads(deployment.invoke("status", "--json").stdout)["backups"]["problem"] == ""
        finally:
            notebook(deployment, "rm -rf results restored-*")
            deployment.invoke("backup.schedule", "--off")
            (deployment.folder / ".env").unlink()


def strip(listed: str) -> set[str]:
    """Files by their place in the notebook's folder, also where a restore has put them into one of its own."""
    return {line.partition("results/")[2] for line in listed.splitlines()}
