"""The last backup of a lease, in a pod of the cluster: made in time, read back, and made again while something comes
after it. What is told of it has the names of helpers/leases/last_backup.py's record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.backups import create, damage, later, lead
from helpers.backups.repository import Snapshot
from helpers.data import database
from helpers.errors import TrackbedError
from helpers.project.backup_runs import HOUR, LAST_LOOKS, MARGIN, Good, Result

if TYPE_CHECKING:
    from helpers.backups.storage import BlobStore
    from helpers.services import ProgressReporter

DAY = 24 * HOUR
SOON = 1.5 * LAST_LOOKS  # seconds: what begins before that is waited for
NAP = 30.0  # seconds after which it is looked whether the lease ends as it was told
SELDOM, OFTEN = 300.0, 15.0  # seconds between two looks at what came after: the nearer the end, the more often
AGAIN = 120.0  # seconds after which one that failed is tried again
UNTOLD = "nobody can tell yet what came after it"
DROPPED = re.compile(r"database .* does not exist|cannot connect to invalid database")
REPLACED = ("the project's data were replaced meanwhile", "the next run backs up the new")


def expected(
    project: Any, engine: Any, found: tuple[Snapshot, dict[str, Any]] | None, end: float, now: float
) -> dict[str, Any]:
    """What is told of it before it is made; {} where the lease does not end within the next day, or nobody named it."""
    if not now < end <= now + DAY:
        return {}
    size, manifest = lead.size(project, engine), found[1] if found else None
    needs, reads = lead.needs(size, manifest), lead.reads(size, manifest)
    return {"end": end, "needs": needs, "reads": reads, "lead": lead.lead(needs), "measured": now}


def add(project: Any, engine: Any, store: BlobStore, log: ProgressReporter, files_until: float) -> create.Added:
    """One more backup of data that stay the project's until it is made. ``files_until``: when it gives the notebook's
    files up. Raises TrackbedError."""
    # A restore drops the database that it has replaced before its objects, and this session with it: then a backup that
    # was being made is not one.
    base = project.state.active["database"]
    with database.session(engine, base) as held:
        added = create.add(project, engine, store, log, with_workspace=True, files_until=files_until)
        try:
            held.ask("SELECT 1")
        except TrackbedError:
            dropped = _is_dropped(engine, base, log)
        else:
            return added
    if dropped:
        for path in (f"backups/{added.name}.json", f"copies/{added.name}.json"):
            store.remove(path)
        raise TrackbedError(*REPLACED)
    return added


def _is_dropped(engine: Any, base: str, log: ProgressReporter) -> bool:
    """Only where the server says so: a connection ends for other reasons too, at the end of a lease above all."""
    try:
        with database.session(engine, base):
            return False
    except TrackbedError as error:
        log.step(f"the database ended the connection: {error.message}")
        return DROPPED.search(error.message) is not None


@dataclass
class LastBackup:
    """``told``: what is told of it by now; ``tell`` hands it over; ``current``: whether the lease is what it was."""

    project: Any
    engine: Any
    store: BlobStore
    log: ProgressReporter
    told: dict[str, Any]
    tell: Callable[[Result], None]
    current: Callable[[], bool]
    good: Good | None = None

    def run(self) -> Result:
        """Until the lease ends, or is another. Gives how it went."""
        end = float(self.told["end"])
        if not self._wait(end - self.told["lead"] - time.time()):
            return self._result("done")
        snapshot: Snapshot | None = None
        while time.time() < end:
            try:
                if snapshot is None or (self.told["later"] and time.time() + MARGIN * self.told["took"] <= end):
                    snapshot = self._make()
                began = time.time()
                self._look(snapshot)
                left, took = end - time.time(), time.time() - began
                pause = max(OFTEN, 4 * took, min(SELDOM, left / 10))
            except TrackbedError as error:
                self.told |= {"state": "failed", "problem": error.message}
                self._hand_over("failed")
                if _is_dropped(self.engine, self.project.state.active["database"], self.log):
                    break  # the next look knows the new data
                left, pause = end - time.time(), AGAIN
            if pause >= left or not self._wait(pause):
                break
        return self._result("failed" if self.told.get("state") == "failed" else "done")

    def _wait(self, seconds: float) -> bool:
        """Whether the lease still ends as it did; at once where it does not."""
        end = time.time() + seconds
        while (left := end - time.time()) > 0 and self.current():
            time.sleep(min(left, NAP))
        return self.current()

    def _make(self) -> Snapshot:
        """Make it and read it back."""
        begun = time.time()
        self.told |= {"state": "running", "problem": "", "tried": begun}
        self._hand_over("running")
        until = lead.files_until(float(self.told["end"]), float(self.told["reads"]), begun)
        added = add(self.project, self.engine, self.store, self.log, until)
        snapshot = Snapshot(self.store, added.name)
        if not damage.examine(self.store, [added.name], all_of_it=False).ok:
            raise TrackbedError(f"{snapshot} cannot be read back", f"`invoke backup.verify {self.store}` names what")
        health = create.health(self.store, added)
        self.log.step(create.words(added.manifest))
        moment, seen = later.moment(added.manifest)
        active = self.project.state.active
        self.told |= {
            "state": "done",
            "problem": health.problem(str(self.store)),
            "backup": str(snapshot),
            "moment": moment,
            "snapshot": seen,
            "database": active["database"],
            "prefix": active["prefix"],
            "took": max(time.time() - begun - lead.wasted(added.manifest), 0.0),
            "later": [UNTOLD],
            "looked": time.time(),
        }
        size = int(added.manifest["object_bytes"]) + int(added.manifest["dump_bytes"])
        self.good = Good(time.time(), str(snapshot), size)
        return snapshot

    def _look(self, snapshot: Snapshot) -> None:
        """What came after it; where nobody can tell, there will be another one."""
        active = self.project.state.active
        try:
            lines = later.written(self.engine, active["database"], self.told["snapshot"], snapshot, self.log)
        except TrackbedError as error:
            self.told["later"] = [f"{UNTOLD}: {error.message}"]
        else:
            self.told |= {"later": list(lines), "looked": time.time()}
        self._hand_over("done")

    def _result(self, state: str) -> Result:
        return Result(state, float(self.told.get("tried") or self.told["measured"]), "", self.good, dict(self.told))

    def _hand_over(self, state: str) -> Result:
        result = self._result(state)
        self.tell(result)
        return result
