"""A scheduled backup in a pod of the cluster: what the CronJob of the kubernetes engine runs each hour.

The pod has the MLflow server's image, whose program reads the objects, and a container with PostgreSQL's programs
beside it. These modules are in a ConfigMap: nothing here may import what that image does not have. There is no state
folder and no way to the cluster's API; what is told of a run is the pod's termination message.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from helpers.backups import create, encrypted, giving_way, last_in_cluster, lead, notebook_relay, prune
from helpers.backups.bucket import Access, Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore
from helpers.data import workspace_files
from helpers.engines.streaming import Pipe, piped
from helpers.errors import INTERRUPTED, TrackbedError
from helpers.project.backup_runs import KEEP, LAST_LOOKS, MARGIN, TOLD, Good, Result, Schedule, due, files_until
from helpers.services import JUPYTER, POSTGRES, ServiceStatus, State
from helpers.suggestions import shown

GIVEN = Path("/run/backup")  # the Secret: PLAN, the file of the logins, CERTIFICATES, notebook_relay.TOKEN
PLAN, CERTIFICATES = "plan.json", "ca.crt"
TOOL = "/run/tools/run"  # runs a program in the container with PostgreSQL's
MESSAGE = Path("/dev/termination-log")
LINE = 4000  # characters of a line of the log
LONGEST = 700  # bytes of a text as JSON has them; all of a pod's message takes 4096
FILES_UNTIL = "files_until"  # in a scheduled backup's plan: when it gives the notebook's up, seconds since the epoch
OF_THE_LEASE = ("lease_end", "last_place", "access", "passphrase")  # another one of these: another last backup


def _log(*lines: str) -> None:
    """Words of others may be among them: none begins a line that `status` reads, or is a command to a terminal."""
    for line in filter(None, lines):
        text = shown(" ".join(line.splitlines()), LINE)
        sys.stderr.write(f" {text}\n" if text.startswith(TOLD) else f"{text}\n")
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
    """What `create.add` asks of an engine. ``database``: where PostgreSQL is, as variables of its programs;
    ``workspace_inside``: the folder in the notebook's pod whose files are to be kept, "" for none."""

    name: str
    object_store: str
    settings: Any
    images: Mapping[str, str]
    database: Mapping[str, str]
    workspace_inside: str = ""

    @property
    def deployment(self) -> Any:
        return SimpleNamespace(workspace=self.workspace_inside)

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        """What does not run does not answer."""
        return (ServiceStatus(JUPYTER, State.RUNNING),) if self.workspace_inside else ()

    def versions(self) -> Mapping[str, str]:
        return self.images

    def unlisted(self) -> tuple[str, ...]:
        return ()

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        if service == JUPYTER:
            words = argv[len(workspace_files.PYTHON) :]
            return piped(argv[0], [sys.executable, "-m", notebook_relay.__name__, *words], _without_proxies())
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


def run(
    plan: Mapping[str, Any],
    environ: Mapping[str, str],
    store: BlobStore,
    now: float,
    last_store: BlobStore | None = None,
    tell: Callable[[Result], None] = lambda result: None,
    apart: Callable[[Mapping[str, Any], Callable[[], float]], Result] | None = None,
) -> Result:
    """Back up if it is time, as `backup.schedule --if-due` and `backup.last --if-due` do on a machine. Gives how it
    stands. ``last_store``: where the last backup of a lease goes, if not there; ``tell`` gets how that goes.

    ``apart`` makes a scheduled backup of a plan until a moment that it asks for again and again, if not this process
    does. Raises GaveWay where the last backup goes first.
    """
    schedule = Schedule(**plan["schedule"])
    project, engine = _given(plan, environ)
    found = lead.newest(store, project)
    begun, good = lead.good(*found) if found else (0.0, None)
    before = Result("done", begun, "", good) if good else Result()
    last: dict[str, Any] = {}
    try:
        place, scheduled = last_store or store, found
        found = found if place is store else lead.newest(place, project)
        measure = partial(last_in_cluster.expected, project, engine, found)
        last = measure(_lease_end(plan), now)
        begins = last["end"] - last["lead"] if last else math.inf
        until = begins - LAST_LOOKS  # what ends later makes its look late
        if last and begins <= now + last_in_cluster.SOON:
            _log(f"the last backup of the lease begins in {max(begins - now, 0.0):.0f} seconds")
            current = lambda: _is_given(plan, *OF_THE_LEASE)  # noqa: E731
            return last_in_cluster.LastBackup(project, engine, place, Log(), last, tell, current, good).run()
        if not due(schedule, before, now):
            _log("no backup is due yet")
            return replace(before, last=last)
        same = place is store  # else it may be the first one there
        if last and now + MARGIN * (last["needs"] if same else _needs(project, engine, scheduled)) > until:
            _log("the last backup of the lease goes first")
            return replace(before, last=last)
        lease = giving_way.Lease(lambda: _lease_end(_now(plan)), measure, last)
        given = {**plan, FILES_UNTIL: min(files_until(schedule, now), until)}
        made = apart(given, lease.until) if apart else back_up(given, environ, store, now)
        return replace(made, good=made.good or before.good, last=lease.last)
    except TrackbedError as error:
        _log(error.message, *error.details)
        return Result("failed", now, error.message, before.good, last)


def _given(plan: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[Any, Any]:
    """The project and the engine that a pod is told of."""
    # of one ConfigMap, so that they belong together also where a restore is just switching to others
    uri, prefix = environ["MLFLOW_BACKEND_STORE_URI"], environ["MLFLOW_ARTIFACTS_DESTINATION"].rpartition("/")[2]
    name = urlsplit(uri).path.strip("/")
    project = SimpleNamespace(
        settings=SimpleNamespace(project=plan["project"], folder=GIVEN),
        state=SimpleNamespace(
            instance=plan["instance"],
            active={"database": name, "prefix": prefix},
            remembered=plan["remembered"],
        ),
    )
    settings, inside = SimpleNamespace(**plan["settings"]), str(plan.get("workspace", ""))
    return project, Pod(plan["engine"], plan["store"], settings, plan["versions"], _libpq(uri), inside)


def _needs(project: Any, engine: Any, found: tuple[Snapshot, dict[str, Any]] | None) -> float:
    return lead.needs(lead.size(project, engine), found[1] if found else None)


def back_up(plan: Mapping[str, Any], environ: Mapping[str, str], store: BlobStore, now: float) -> Result:
    """The scheduled backup itself, and what its policy forgets. Raises TrackbedError."""
    schedule, log = Schedule(**plan["schedule"]), Log()
    project, engine = _given(plan, environ)
    added = last_in_cluster.add(project, engine, store, log, plan[FILES_UNTIL])
    health = create.health(store, added)
    _log(create.words(added.manifest), create.stored(added.manifest), *health.lines)
    good = Good(
        time.time(), str(Snapshot(store, added.name)), added.manifest["object_bytes"] + added.manifest["dump_bytes"]
    )
    problem = health.problem(schedule.place)
    if not problem and schedule.keep and _is_given({"schedule": asdict(schedule)}, "schedule"):
        policy = Policy(**{flag.removeprefix(KEEP): count for flag, count in schedule.keep.items()})
        try:
            prune.prune(store, project.settings.project, policy, log)
        except TrackbedError as error:
            problem = f"old backups could not be forgotten: {error.message}"
    return Result("done", now, problem, good)


def _now(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan as it is by now: it may have been made again meanwhile."""
    try:
        given = _read()
    except (OSError, ValueError):
        return plan  # the Secret went with the schedule, or is as it was
    return given if isinstance(given, dict) else plan


def _read() -> Any:
    return json.loads((GIVEN / PLAN).read_bytes())


def _is_given(plan: Mapping[str, Any], *names: str) -> bool:
    """Whether the plan still says the same under these names."""
    given = _now(plan)
    return all(given.get(name) == plan.get(name) for name in names)


def _lease_end(plan: Mapping[str, Any]) -> float:
    """In seconds since the epoch, 0 where the pods make no last backup."""
    return float(plan.get("lease_end", 0.0))


def _last_place(plan: Mapping[str, Any]) -> str:
    return str(plan.get("last_place") or plan["schedule"]["place"])  # a Secret of an earlier version has none


def told(result: Result) -> str:
    """As the pod's message, which would be cut in the middle where it is too long, and then tells nothing."""
    last = dict(result.last)
    if last.get("problem"):
        last["problem"] = _cut(last["problem"])
    if last.get("later"):
        last["later"] = [_cut("; ".join(last["later"]))]
    last.pop("snapshot", None)  # it may have any length, and only the run itself needs it
    return json.dumps({**asdict(result), "problem": _cut(result.problem), "last": last})


def _cut(text: str) -> str:
    text = text[:LONGEST]
    while len(json.dumps(text)) > LONGEST:  # a character takes up to 12 bytes
        text = text[: len(text) * 3 // 4]
    return text


def _tell(result: Result) -> None:
    """In the log too: a message is read only once the pod has ended."""
    text = told(result)
    MESSAGE.write_text(text)
    sys.stderr.write(f"{TOLD}{text}\n")
    sys.stderr.flush()


def _opened(plan: Mapping[str, Any], place: str) -> BlobStore:
    return encrypted.opened(Bucket(place, Access(**plan["access"])), plan["passphrase"], make=True)


def _until_answered(plan: Mapping[str, Any]) -> Callable[[], float]:
    """Until when a scheduled backup has time where the place of the last one does not answer: until it does."""
    project, engine = _given(plan, os.environ)
    measure = partial(last_in_cluster.expected, project, engine, None)
    lease = giving_way.Lease(lambda: _lease_end(_now(plan)), measure, {})

    def until() -> float:
        if (end := lease.until()) > time.time():
            return end
        given = _now(plan)
        try:
            _opened(given, _last_place(given))
        except TrackbedError:
            return math.inf
        return end

    return until


def looked(plan: Mapping[str, Any], now: float) -> Result:
    """How a look went. A place that does not answer, or not to this passphrase, keeps nothing from the other one."""
    scheduled = plan["schedule"]["place"]
    last = _last_place(plan)
    places: dict[str, BlobStore] = {}
    silent: dict[str, str] = {}
    for name in dict.fromkeys((last, scheduled)):
        try:
            places[name] = _opened(plan, name)
        except TrackbedError as error:
            _log(error.message)
            silent[name] = error.message
    if not silent:
        apart = partial(giving_way.run, log=_log)
        return run(plan, os.environ, places[scheduled], now, places[last], _tell, apart)
    if last in places:
        alone = {**plan, "schedule": {**plan["schedule"], "every": 0.0, "place": last}}
        made = run(alone, os.environ, places[last], now, places[last], _tell)
        return Result("failed", now, silent[scheduled], None, made.last)
    if scheduled in places:
        end = _lease_end(plan)
        problem = {"end": end, "measured": now, "tried": now, "state": "failed", "problem": silent[last]}
        patient = lambda given, until: giving_way.run(given, _until_answered(plan), _log)  # noqa: E731
        made = run({**plan, "lease_end": 0.0}, os.environ, places[scheduled], now, apart=patient)
        return replace(made, last=problem if now < end <= now + last_in_cluster.DAY else {})
    return Result("failed", now, silent[scheduled])


def _scheduled() -> Result:
    """The backup that the plan on this process's input asks for."""
    plan, now = json.load(sys.stdin), time.time()
    try:
        return back_up(plan, os.environ, _opened(plan, plan["schedule"]["place"]), now)
    except TrackbedError as error:
        _log(error.message, *error.details)
        return Result("failed", now, error.message)


def _pod() -> Result:
    while True:
        plan = _read()
        os.environ.update(plan["environment"])
        if (GIVEN / CERTIFICATES).exists():
            os.environ["AWS_CA_BUNDLE"] = str(GIVEN / CERTIFICATES)
        try:
            return looked(plan, time.time())
        except giving_way.GaveWay:
            continue  # the last backup of the lease comes now, in this pod


def main(words: Sequence[str] = ()) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its flag at the place goes, and what it runs
    try:
        if giving_way.WORD in words:
            sys.stdout.write(told(_scheduled()))
            return 0
        result = _pod()
    except KeyboardInterrupt:
        return INTERRUPTED
    _tell(result)
    return 1 if result.state == "failed" or result.problem or result.last.get("problem") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
