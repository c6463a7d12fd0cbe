"""A scheduled backup in a pod of the cluster: what the CronJob of the kubernetes engine runs each hour.

The pod has the MLflow server's image, whose program reads the objects, and a container with PostgreSQL's programs
beside it. These modules are in a ConfigMap: nothing here may import what that image does not have. There is no state
folder and no way to the cluster's API; what is told of a run is the pod's termination message.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from helpers.backups import create, damage, encrypted, lead, prune
from helpers.backups.bucket import Access, Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore
from helpers.data import database
from helpers.engines.streaming import Pipe, piped
from helpers.errors import TrackbedError
from helpers.project.backup_runs import KEEP, Good, Result, Schedule, due
from helpers.services import POSTGRES, ServiceStatus

GIVEN = Path("/run/backup")  # the Secret: PLAN, the file of the logins, CERTIFICATES
PLAN, CERTIFICATES = "plan.json", "ca.crt"
TOOL = "/run/tools/run"  # runs a program in the container with PostgreSQL's
MESSAGE = Path("/dev/termination-log")
LONGEST_PROBLEM = 2500  # bytes as JSON has them; all of a pod's message takes 4096


def _log(*lines: str) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines if line))
    sys.stderr.flush()


class Log:
    """Tells the pod's log how far it is."""

    def step(self, text: str) -> None:
        _log(text)

    def service(self, name: str, state: str, note: str = "") -> None:
        _log(f"{name} {state} {note}".rstrip())

    def amount(self, name: str, done: int, whole: int, note: str) -> None:
        """Nothing: a line for each object would be the whole log."""

    def output(self, line: str) -> None:
        _log(line)


@dataclass(frozen=True)
class Pod:
    """What `create.add` asks of an engine. ``database``: where PostgreSQL is, as variables of its programs."""

    name: str
    object_store: str
    settings: Any
    images: Mapping[str, str]
    database: Mapping[str, str]

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        return ()  # what does not run does not answer

    def versions(self) -> Mapping[str, str]:
        return self.images

    def unlisted(self) -> tuple[str, ...]:
        return ()

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        if service != POSTGRES:
            return piped(argv[0], list(argv), _without_proxies())
        return piped(argv[0], ["sh", TOOL, "env", *(f"{key}={value}" for key, value in self.database.items()), *argv])


def _without_proxies() -> dict[str, str]:
    """The variables without those for the way out: the objects are in the cluster, or where MLflow finds them."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


def _libpq(uri: str) -> dict[str, str]:
    """MLflow's address of its database, as variables of PostgreSQL's programs."""
    parts = urlsplit(uri)
    return {
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port or 5432),
        "PGSSLMODE": parse_qs(parts.query).get("sslmode", ["prefer"])[0],
        "PGPASSFILE": os.environ["PGPASSFILE"],
        "PGCONNECT_TIMEOUT": "30",
        "HOME": "/tmp",  # noqa: S108  # the pod's own
    }


def run(plan: Mapping[str, Any], environ: Mapping[str, str], store: BlobStore, now: float) -> Result:
    """Back up if it is time, as `backup.schedule --if-due` does on a machine. Gives how it stands."""
    schedule = Schedule(**plan["schedule"])
    # of one ConfigMap, so that they belong together also where a restore is just switching to others
    uri, prefix = environ["MLFLOW_BACKEND_STORE_URI"], environ["MLFLOW_ARTIFACTS_DESTINATION"].rpartition("/")[2]
    name = urlsplit(uri).path.strip("/")
    project: Any = SimpleNamespace(
        settings=SimpleNamespace(project=plan["project"], folder=GIVEN),
        state=SimpleNamespace(
            instance=plan["instance"],
            active={"database": name, "prefix": prefix},
            remembered=plan["remembered"],
        ),
    )
    engine: Any = Pod(plan["engine"], plan["store"], SimpleNamespace(**plan["settings"]), plan["versions"], _libpq(uri))
    found = lead.newest(store, project)
    begun, last = lead.good(*found) if found else (0.0, None)
    before = Result("done", begun, "", last) if last else Result()
    end = float(plan.get("lease_end", 0.0))
    try:
        at = lead.begins(end, project, engine, found, now)
        if not at and not due(schedule, before, now):
            _log("no backup is due yet")
            return before
        if at:
            _log(f"the last backup of the lease begins in {at - now:.0f} seconds")
            time.sleep(at - now)
        return _back_up(schedule, project, engine, store, time.time() if at else now, last=bool(at))
    except TrackbedError as error:
        _log(error.message, *error.details)
        return Result("failed", now, error.message, before.good)


def _back_up(schedule: Schedule, project: Any, engine: Any, store: BlobStore, now: float, last: bool = False) -> Result:
    """``last``: it is the last one of a lease, which is read back, and nothing is forgotten after it."""
    log = Log()
    # A restore drops the database that it has replaced before its objects, and this session with it: then a backup that
    # was being made is not one.
    with database.session(engine, project.state.active["database"]) as held:
        added = create.add(project, engine, store, log)
        try:
            held.ask("SELECT 1")
        except TrackbedError:
            for path in (f"backups/{added.name}.json", f"copies/{added.name}.json"):
                store.remove(path)
            raise TrackbedError("the project's data were replaced meanwhile", "the next run backs up the new") from None
    health = create.health(store, added)
    _log(create.words(added.manifest), create.stored(added.manifest), *health.lines)
    good = Good(
        time.time(), str(Snapshot(store, added.name)), added.manifest["object_bytes"] + added.manifest["dump_bytes"]
    )
    problem = ""
    if last and not damage.examine(store, [added.name], all_of_it=False).ok:
        problem = f"the last backup of the lease is damaged; `invoke backup.verify {schedule.place}` names what"
    elif last:
        _log("the last backup of the lease was read back")
    elif health.damaged:
        problem = f"earlier backups are damaged; `invoke backup.verify {schedule.place}` names them"
    elif schedule.keep and _is_current(schedule):
        policy = Policy(**{flag.removeprefix(KEEP): count for flag, count in schedule.keep.items()})
        try:
            prune.prune(store, project.settings.project, policy, log)
        except TrackbedError as error:
            problem = f"old backups could not be forgotten: {error.message}"
    return Result("done", now, problem, good)


def _is_current(schedule: Schedule) -> bool:
    """Whether that is the schedule still, whose policy holds: it may have been made again while a backup ran."""
    try:
        return bool(Schedule(**json.loads((GIVEN / PLAN).read_bytes())["schedule"]) == schedule)
    except (OSError, ValueError, KeyError, TypeError):
        return True  # the Secret went with the schedule, or is as it was


def told(result: Result) -> str:
    """As the pod's message, which would be cut in the middle where it is too long, and then tells nothing."""
    problem = result.problem[:LONGEST_PROBLEM]
    while len(json.dumps(problem)) > LONGEST_PROBLEM:  # a character takes up to 12 bytes
        problem = problem[: len(problem) * 3 // 4]
    return json.dumps({**asdict(result), "problem": problem})


def main() -> int:
    plan = json.loads((GIVEN / PLAN).read_text(encoding="utf-8"))
    os.environ.update(plan["environment"])
    if (GIVEN / CERTIFICATES).exists():
        os.environ["AWS_CA_BUNDLE"] = str(GIVEN / CERTIFICATES)
    now = time.time()
    try:
        bucket = Bucket(plan["schedule"]["place"], Access(**plan["access"]))
        store = encrypted.opened(bucket, plan["passphrase"], make=True)
        result = run(plan, os.environ, store, now)
    except TrackbedError as error:  # the place itself does not answer, or not to this passphrase
        _log(error.message)
        result = Result("failed", now, error.message)
    MESSAGE.write_text(told(result))
    return 1 if result.state == "failed" or result.problem else 0


if __name__ == "__main__":
    sys.exit(main())
