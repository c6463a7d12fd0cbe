"""A schedule of backups in the cluster: a CronJob, whose pods write what every task reads. Nightly: it takes minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from helpers.backups import encrypted, repository
from helpers.backups.bucket import Access, Bucket
from tests.conftest import PATIENCE, Clone
from tests.integration import buckets
from tests.integration.test_backup import everything, experiment, log_run
from tests.integration.test_repository import keys
from tests.kubernetes import cluster
from tests.kubernetes.site_proxy import ADDRESS

pytestmark = pytest.mark.timeout(900)
PLACE = "s3://vault/lab"
PASSPHRASE = "a passphrase of these tests"


@pytest.fixture
def vault() -> Iterator[Access]:
    with buckets.store("vault", ADDRESS) as access:
        yield access


def look(clone: Clone, name: str) -> bool:
    """Have the CronJob's next run come now; whether it ended well."""
    cluster.kubectl("create", "job", name, "--from=cronjob/backup", f"--namespace={clone.project}")
    ends = ("Complete", "Failed")

    def ended() -> list[str]:
        (job,) = (one for one in cluster.objects("jobs", clone.project) if one["metadata"]["name"] == name)
        conditions = (job.get("status") or {}).get("conditions") or ()
        return [one["type"] for one in conditions if one["type"] in ends and one["status"] == "True"]

    cluster.until(f"the end of {name}", ended)
    return ended() == ["Complete"]


def told(clone: Clone) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clone.invoke("status", "--json").stdout)["backups"]
    return found


def settings(clone: Clone, access: Access, *lines: str) -> None:
    """The schedule and the keys of the bucket are in .env, as a user has them."""
    file = clone.folder / ".env"
    bare = (f"{name.removeprefix('TRACKBED_')}={value}" for name, value in keys(access).items())
    file.write_text("\n".join([*bare, f"BACKUP_TO={PLACE}", f"BACKUP_PASSPHRASE={PASSPHRASE}", *lines, ""]))
    file.chmod(0o600)


def test_a_schedule_in_the_cluster(clone_factory: Callable[..., Clone], vault: Access) -> None:
    """Its backups are encrypted."""
    clone = clone_factory("kubernetes")
    settings(clone, vault, "BACKUP_EVERY=1h", "BACKUP_KEEP_LAST=1")
    done = clone.up()
    assert "is encrypted, with BACKUP_PASSPHRASE" in done.stderr
    assert "CronJob backup" in done.stderr and "every 1h" in done.stderr, done.stderr
    log_run(clone, experiment(clone), "kept", b"content")
    before = everything(clone)
    store = encrypted.opened(Bucket(PLACE, vault), PASSPHRASE)
    assert look(clone, "first"), cluster.kubectl(
        "logs", "job/first", "--all-containers", f"--namespace={clone.project}"
    )
    (name,) = repository.names(store)
    assert look(clone, "second") and repository.names(store) == [name]  # not due
    seen = told(clone)
    assert seen["problem"] == "" and name in seen["last_good"]["backup"] and seen["last_good"]["size"] > 0
    checked = clone.invoke("backup.verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # what the machine writes and what the cluster writes is one history: nothing is read twice
    done = clone.invoke("backup")
    assert done.returncode == 0 and " 0 read" in done.stderr, done.stderr
    # a store that refuses: the failure is told, and the exit code too
    wrong = Access(vault.endpoint, vault.region, vault.key, "another-secret-key")
    settings(clone, wrong, "BACKUP_EVERY=1h", "BACKUP_KEEP_LAST=1")
    clone.up()
    assert not look(clone, "refused")
    done = clone.invoke("status", "--check")
    assert done.returncode == 1 and "the last scheduled backup failed" in done.stderr, done.stderr
    assert name in told(clone)["last_good"]["backup"]
    settings(clone, vault, "BACKUP_EVERY=1h", "BACKUP_KEEP_LAST=1")
    # stopped, it pauses; another start goes on with it
    done = clone.invoke("down", "--yes")
    assert done.returncode == 0 and "pauses" in done.stderr
    assert not cluster.objects("cronjobs", clone.project) and told(clone)["problem"] == ""
    clone.up()
    (cronjob,) = cluster.objects("cronjobs", clone.project)
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid" and told(clone)["last_good"]
    log_run(clone, experiment(clone), "later", b"")
    done = clone.invoke("restore", f"{PLACE}/backups/{name}.json", "--yes", "--no-backup")
    assert done.returncode == 0, done.stderr
    assert everything(clone) == before
    done = clone.invoke("down", "--delete-data", "--yes")
    assert done.returncode == 0, done.stderr
    assert len(repository.names(store)) == 2 and not (clone.project_folder / "backup-schedule.json").exists()


def test_the_last_backup_of_a_lease_is_made_again_and_names_what_came_after(
    clone_factory: Callable[..., Clone], vault: Access
) -> None:
    """Without a schedule. What came too late for the last one is named, also when the cluster is asked no more."""
    clone = clone_factory("kubernetes")
    settings(clone, vault)
    end = datetime.now(UTC) + timedelta(seconds=PATIENCE)
    done = clone.invoke("up", f"--lease-end={end:%Y-%m-%dT%H:%M:%SZ}", timeout=900)
    assert done.returncode == 0 and "makes a last backup" in done.stderr, done.stderr
    log_run(clone, experiment(clone), "before", b"content")
    cluster.kubectl("create", "job", "last", "--from=cronjob/backup", f"--namespace={clone.project}")
    first = until_made(clone, "")
    log_run(clone, experiment(clone), "after", b"")
    second = until_made(clone, first["backup"])
    assert second["verified"] and second["later"] == [], second
    checked = clone.invoke("backup.verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = clone.invoke("down", "--yes")
    assert done.returncode == 0 and not cluster.objects("cronjobs", clone.project)
    assert lease(clone)["backup"] == second["backup"]


def lease(clone: Clone) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clone.invoke("status", "--json").stdout)["lease"]["last_backup"] or {}
    return found


def until_made(clone: Clone, before: str) -> dict[str, Any]:
    """Another one than ``before``, after which nothing came."""
    seen: dict[str, Any] = {}

    def made() -> bool:
        seen.update(lease(clone))
        return seen.get("backup", "") not in ("", before) and seen["later"] == []

    cluster.until("the last backup", made)
    return seen
