"""A schedule of backups in the cluster: a CronJob, whose pods write what every task reads. Nightly: it takes minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from helpers.backups import encrypted, lead, repository, running
from helpers.backups.bucket import Access, Bucket
from helpers.backups.storage import BlobStore
from tests.conftest import PATIENCE, Clone
from tests.integration import buckets, inspection
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


def begin(clone: Clone, name: str) -> None:
    """Have the CronJob's next run come now."""
    cluster.kubectl("create", "job", name, "--from=cronjob/backup", f"--namespace={clone.project}")


def look(clone: Clone, name: str, seconds: float = PATIENCE) -> bool:
    """The same; whether it ended well."""
    begin(clone, name)
    ends = ("Complete", "Failed")

    def ended() -> list[str]:
        (job,) = (one for one in cluster.objects("jobs", clone.project) if one["metadata"]["name"] == name)
        conditions = (job.get("status") or {}).get("conditions") or ()
        return [one["type"] for one in conditions if one["type"] in ends and one["status"] == "True"]

    cluster.until(f"the end of {name}", ended, seconds)
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
    begin(clone, "last")
    first = until_made(clone, "")
    log_run(clone, experiment(clone), "after", b"")
    second = until_made(clone, first["backup"])
    assert second["verified"] and second["later"] == [], second
    checked = clone.invoke("backup.verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = clone.invoke("down", "--yes")
    assert done.returncode == 0 and not cluster.objects("cronjobs", clone.project)
    assert lease(clone)["backup"] == second["backup"]


WAITING = "SELECT pid FROM pg_stat_activity WHERE usename = 'mlflow' AND wait_event_type = 'Lock'"
HELD = "BEGIN; LOCK TABLE input_tags IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3600)"


def log(clone: Clone, job: str) -> str:
    return cluster.kubectl("logs", f"job/{job}", "--container=backup", f"--namespace={clone.project}")


@contextmanager
def table_locked(clone: Clone) -> Iterator[None]:
    """No program reads all of the database meanwhile."""
    pod = (f"--namespace={clone.project}", "exec", inspection.workload("postgres"), "--", "env", "PGAPPNAME=holder")
    psql = ("psql", "-X", "-U", "mlflow", "-d", inspection.active_database(clone), "-c", HELD)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(inspection.run, "kubectl", *pod, *psql, timeout=3600)
        try:
            held = "SELECT 1 FROM pg_locks WHERE relation = 'input_tags'::regclass AND mode = 'AccessExclusiveLock'"
            cluster.until("the lock", lambda: inspection.psql(clone, held))
            yield
        finally:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'"
            inspection.psql(clone, ended)


def test_a_scheduled_backup_gives_way_to_the_last_one(clone_factory: Callable[..., Clone], vault: Access) -> None:
    """It waits for a lock, in the database's programs, when somebody names the lease's end; its pod goes on."""
    clone = clone_factory("kubernetes")
    settings(clone, vault, "BACKUP_EVERY=6h")
    clone.up()
    log_run(clone, experiment(clone), "kept", b"content")
    store = encrypted.opened(Bucket(PLACE, vault), PASSPHRASE)
    paused = '{"spec": {"suspend": true}}'  # nothing but this test begins a pod
    cluster.kubectl("patch", "cronjob", "backup", f"--namespace={clone.project}", "--type=merge", f"--patch={paused}")
    with table_locked(clone):
        begin(clone, "at-work")
        cluster.until("two programs at work", lambda: len(inspection.psql(clone, WAITING).split()) == 2)
        waiting = set(inspection.psql(clone, WAITING).split())
        (flag,) = flags(store)
        end = datetime.now(UTC) + timedelta(seconds=PATIENCE + 100)
        done = clone.invoke("up", f"--lease-end={end:%Y-%m-%dT%H:%M:%SZ}", timeout=900)
        assert done.returncode == 0, done.stderr
        assert waiting == set(inspection.psql(clone, WAITING).split()) and flag in flags(store)
        cluster.until("its end", lambda: lead.GOES_FIRST in log(clone, "at-work"))
        cluster.until("that its flag goes", lambda: flag not in flags(store))
        every = "SELECT pid FROM pg_stat_activity"
        cluster.until("the end of its programs", lambda: not waiting & set(inspection.psql(clone, every).split()))
    made = until_made(clone, "")
    assert made["verified"] and made["backup"] in log(clone, "at-work")  # of the same pod
    (name,) = repository.names(store)
    assert name in made["backup"]
    checked = clone.invoke("backup.verify")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def flags(store: BlobStore) -> set[str]:
    return {path for path, _, _ in store.listed(f"{running.FOLDER}/")}


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
