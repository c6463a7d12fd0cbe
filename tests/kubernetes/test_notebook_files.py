"""A backup that the cluster makes holds the notebook's files, and is made whatever the notebook does."""

from __future__ import annotations

import json

from helpers.backups import encrypted, repository
from helpers.backups.bucket import Bucket
from helpers.backups.repository import Snapshot
from tests.conftest import Clone
from tests.integration import buckets
from tests.kubernetes import cluster
from tests.kubernetes.site_proxy import ADDRESS
from tests.kubernetes.test_scheduled_backups import PASSPHRASE, PLACE, look, settings

NONSENSE = "printf '#!/bin/sh\\nexec head -c 99999999 /dev/urandom\\n' >/tmp/python; chmod 755 /tmp/python"
PYTHON = "/opt/notebook/bin/python"


def notebook(clone: Clone, script: str) -> str:
    return cluster.kubectl("exec", "jupyter-0", f"--namespace={clone.project}", "--", "sh", "-c", script)


def test_the_notebooks_files_are_in_a_scheduled_backup(deployment: Clone) -> None:
    with buckets.store("vault", ADDRESS) as access:
        settings(deployment, access, "BACKUP_WORKSPACE=true")
        try:
            done = deployment.invoke("backup.schedule", "--every=6h", f"--to={PLACE}")
            assert done.returncode == 0, done.stderr
            notebook(deployment, "mkdir -p results; echo 0.93 >results/accuracy")
            assert look(deployment, "files-first")
            store = encrypted.opened(Bucket(PLACE, access), PASSPHRASE)
            (name,) = repository.names(store)
            backup = Snapshot(store, name)
            kept = {entry.name for entry in backup.entries(backup.manifest())}
            assert "workspace/results/accuracy" in kept and "workspace_problem" not in backup.manifest()
            # its owner has another program where JupyterLab has Python; without the first backup the next one is due
            python = notebook(deployment, f"readlink -f {PYTHON}; {NONSENSE}; ln -sfn /tmp/python {PYTHON}").strip()
            store.remove(f"backups/{name}.json")
            assert not look(deployment, "files-second")
            notebook(deployment, f"ln -sfn {python} {PYTHON}; rm -r results")
            (name,) = repository.names(store)
            assert "list is wrong" in Snapshot(store, name).manifest()["workspace_problem"]
            told = json.loads(deployment.invoke("status", "--json").stdout)["backups"]
            assert name in told["last_good"]["backup"] and "lacks files" in told["problem"]
        finally:
            deployment.invoke("backup.schedule", "--off")
            (deployment.folder / ".env").unlink()
