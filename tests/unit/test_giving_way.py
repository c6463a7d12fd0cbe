"""A scheduled backup in the cluster gives way to the last one of a lease: when, how it is ended, and what comes then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from helpers.backups import giving_way, in_cluster, last_in_cluster, lead, running
from helpers.backups.giving_way import GaveWay, Lease
from helpers.backups.storage import Folder
from helpers.clone import ROOT
from helpers.engines import streaming
from helpers.errors import INTERRUPTED, TrackbedError
from helpers.project.backup_runs import HOUR, LAST_LOOKS, Good, Result
from tests.conftest import PATIENCE
from tests.unit.test_scheduled_backups import (  # noqa: F401  # three are fixtures
    DAY,
    ENVIRON,
    EVERY6H,
    NOW,
    Clock,
    adds,
    after,
    clock,
    held,
    plan,
)

COMPONENT = ROOT / "docker" / "kubernetes" / "components" / "scheduled-backups"
LAST = "s3://other/lab"


# until when it has time


class Told:
    """A lease as a test has it: when it ends, and what a backup needs; ``asked``: when that was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: float, needs: float) -> None:
        self.now, self.end, self.needs, self.asked = NOW, end, needs, list[float]()
        self.error: TrackbedError | None = None
        monkeypatch.setattr(time, "time", lambda: self.now)

    def measure(self, end: float, now: float) -> dict[str, Any]:
        if not now < end <= now + DAY:
            return {}
        self.asked.append(now)
        if self.error:
            raise self.error
        return {"end": end, "needs": self.needs, "measured": now}

    def lease(self, last: dict[str, Any] | None = None) -> Lease:
        return Lease(lambda: self.end, self.measure, last or {})


@pytest.mark.parametrize(("needs", "kept"), [(10.0, 300.0), (200.0, 300.0), (1000.0, 1500.0)])
def test_it_has_time_until_the_last_backup_has_to_begin(
    monkeypatch: pytest.MonkeyPatch, needs: float, kept: float
) -> None:
    """As on a machine."""
    told = Told(monkeypatch, NOW + HOUR, needs)
    assert told.lease().until() == NOW + HOUR - kept == lead.waits_until(NOW + HOUR, needs)


def test_a_lease_that_is_named_while_it_works_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, 0.0, 1000.0)
    lease = told.lease()
    assert lease.until() > NOW + DAY and told.asked == []
    told.end = NOW + 2 * HOUR
    assert lease.until() == told.end - 1500 and lease.last["end"] == told.end
    told.end = NOW + 5 * HOUR  # prolonged
    assert lease.until() == told.end - 1500
    told.end = 0.0  # forgotten
    assert lease.until() > NOW + DAY and lease.last == {}


def test_a_lease_that_comes_near_is_measured_each_hour_until_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, NOW + DAY + HOUR, 1000.0)
    lease = told.lease()
    assert lease.until() == told.end - 300 and told.asked == []
    for told.now in (NOW + HOUR, NOW + 1.5 * HOUR, NOW + 2 * HOUR, NOW + 2.9 * HOUR):
        lease.until()
    assert told.asked == [NOW + HOUR, NOW + 2 * HOUR]
    told.needs, told.now = 4000.0, NOW + 3 * HOUR  # there is more now
    assert lease.until() == told.end - 6000
    told.now = told.end - 5000
    assert lease.until() == told.end - 6000 and len(told.asked) == 3  # it is time, and nothing else is asked
    told.now = told.end  # too late for any
    assert lease.until() > NOW + 2 * DAY


def test_what_cannot_be_measured_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, NOW + 5 * HOUR, 1000.0)
    lease = told.lease({"end": told.end, "needs": 500.0, "measured": NOW - HOUR})
    told.error = TrackbedError("the database does not answer", "")
    assert lease.until() == told.end - 750
    told.now += LAST_LOOKS - 1
    lease.until()
    assert len(told.asked) == 1
    told.now, told.error = NOW + LAST_LOOKS, None
    assert lease.until() == told.end - 1500


# how it is ended


WORKS = """
import json, signal, sys
from pathlib import Path
from helpers.backups import running
from helpers.backups.storage import Folder
from helpers.engines.streaming import piped
signal.signal(signal.SIGTERM, signal.default_int_handler)
plan = json.load(sys.stdin)
with running.Flag(Folder(Path(plan["place"]))), piped("pg_dump", ["sleep", "600"]) as pipe:
    Path(plan["ready"]).write_text(str(pipe._process.pid))
    pipe.out.read()
"""
DEAF = """
import json, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(json.load(sys.stdin)["ready"]).write_text("0")
time.sleep(600)
"""


class Place:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.ready, self.told = Folder(folder / "repo"), folder / "ready", list[str]()
        self.plan = {"place": str(folder / "repo"), "ready": str(self.ready)}
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(giving_way, "LOOK", 0.05)
        self.began: list[subprocess.Popen[bytes]] = []
        original = subprocess.Popen

        def begin(*words: Any, **named: Any) -> Any:
            self.began.append(original(*words, **named))
            return self.began[-1]

        monkeypatch.setattr(subprocess, "Popen", begin)

    def run(self, code: str, until: Callable[[], float] | None = None) -> Result:
        self.monkeypatch.setattr(giving_way, "ARGV", (sys.executable, "-c", code))
        return giving_way.run(self.plan, until or self.until, self.told.append)

    def until(self) -> float:
        """It is time once it is at work."""
        return 0.0 if self.ready.exists() and self.ready.read_text() else time.time() + PATIENCE


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    created = Place(tmp_path, monkeypatch)
    yield created
    for process in created.began:
        process.kill()
        process.wait(PATIENCE)


def test_it_leaves_nothing_behind_where_it_is_ended(place: Place) -> None:
    """Neither its flag, which keeps every prune waiting, nor a program."""
    with pytest.raises(GaveWay):
        place.run(WORKS)
    assert place.told == [lead.GOES_FIRST]
    assert not list(place.store.listed(f"{running.FOLDER}/")) and not psutil.pid_exists(int(place.ready.read_text()))


def test_one_that_does_not_end_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for a bucket."""
    monkeypatch.setattr(lead, "ENDING", 0.2)
    with pytest.raises(GaveWay):
        place.run(DEAF)
    assert place.began[0].returncode == -9


def test_a_pod_that_is_ended_ends_it(place: Place) -> None:
    def until() -> float:
        if place.until():
            return time.time() + PATIENCE
        raise KeyboardInterrupt  # SIGTERM for the pod

    with pytest.raises(KeyboardInterrupt):
        place.run(WORKS, until)
    assert not list(place.store.listed(f"{running.FOLDER}/")) and not psutil.pid_exists(int(place.ready.read_text()))


def test_what_it_tells_is_how_it_went(place: Place) -> None:
    done = Result("done", NOW, "earlier backups are damaged", Good(NOW, "s3://vault/lab/backups/x.json", 5))
    assert place.run(f"print({in_cluster.told(done)!r})", lambda: time.time() + PATIENCE) == done
    died = place.run("import sys; print('{'); sys.exit(3)", lambda: time.time() + PATIENCE)
    assert died.state == "failed" and "exit code 3" in died.problem and died.good is None


def test_one_that_takes_a_day_is_ended_and_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "LIMIT", 0.1)
    result = place.run("import time; time.sleep(600)", lambda: time.time() + PATIENCE)
    assert result.state == "failed" and "was ended" in result.problem and place.began[0].returncode == -15
    (cronjob, *_) = yaml.safe_load_all((COMPONENT / "cronjob.yaml").read_text())
    assert cronjob["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] >= 2 * DAY  # the end of a lease may follow


def test_the_program_makes_the_backup_that_it_is_told(
    tmp_path: Path,
    held: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What it tells is on its output, alone; an interrupt is no result."""
    given = plan(schedule={**plan()["schedule"], "keep": {}}, files_until=1.0)
    seen = adds(monkeypatch, store := Folder(tmp_path / "repo"))
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(in_cluster, "_opened", lambda plan, place: store)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(read=lambda: json.dumps(given)))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert in_cluster.main([giving_way.WORD]) == 0
    assert len(seen) == 1 and Result.parse(json.loads(capfd.readouterr().out)).good

    def refused(plan: Any, place: str) -> Folder:
        raise TrackbedError(f"{place} does not answer", "")

    monkeypatch.setattr(in_cluster, "_opened", refused)
    assert in_cluster.main([giving_way.WORD]) == 0
    said = Result.parse(json.loads(capfd.readouterr().out))
    assert said.state == "failed" and said.problem == f"{EVERY6H.place} does not answer"

    def interrupted(plan: Any, place: str) -> Folder:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_cluster, "_opened", interrupted)
    assert in_cluster.main([giving_way.WORD]) == INTERRUPTED and not capfd.readouterr().out


# what comes then


class Pod:
    """One pod of the CronJob, whose scheduled backup never ends by itself. ``made``: when each was begun; ``ended``:
    when it was ended."""

    def __init__(self, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
        self.clock, self.folder, self.made, self.ended = clock, folder, list[float](), list[float]()
        self.places = {
            name: Folder(folder / name.partition("//")[2].replace("/", "-")) for name in (EVERY6H.place, LAST)
        }
        self.silent: set[str] = set()
        for name, value in ENVIRON.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(in_cluster, "GIVEN", folder)
        monkeypatch.setattr(in_cluster, "MESSAGE", folder / "message")
        monkeypatch.setattr(in_cluster, "_opened", self.opened)
        monkeypatch.setattr("signal.signal", lambda *_: None)
        monkeypatch.setattr(subprocess, "Popen", self.begin)
        monkeypatch.setattr(streaming, "end", self.end)

    def give(self, **more: Any) -> None:
        (self.folder / in_cluster.PLAN).write_text(json.dumps(plan(environment={}, **more)))

    def opened(self, given: Any, name: str) -> Folder:
        if name in self.silent:
            raise TrackbedError(f"{name} does not answer", "")
        return self.places[name]

    def begin(self, argv: tuple[str, ...], **_: Any) -> Any:
        assert argv == giving_way.ARGV
        self.made.append(self.clock.now)
        return SimpleNamespace(stdin=SimpleNamespace(write=lambda data: None, close=lambda: None), wait=self.wait)

    def wait(self, seconds: float) -> None:
        self.clock.sleep(max(seconds, 1.01))
        raise subprocess.TimeoutExpired("backup", seconds)

    def end(self, process: Any, seconds: float) -> None:
        if len(self.ended) < len(self.made):
            self.ended.append(self.clock.now)

    def told(self) -> Result:
        return Result.parse(json.loads((self.folder / "message").read_text()))


@pytest.fixture
def pod(tmp_path: Path, clock: Clock, held: list[str], after: list[str], monkeypatch: pytest.MonkeyPatch) -> Pod:  # noqa: F811
    return Pod(tmp_path, clock, monkeypatch)


def test_the_pod_goes_on_with_the_last_backup_at_once(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other pod could begin meanwhile. 1 MiB needs 900 s before the end by itself, and is waited for until 300."""
    begun = pod.clock.now
    end = begun + HOUR
    pod.give(lease_end=end)
    seen = adds(monkeypatch, pod.places[EVERY6H.place])
    assert in_cluster.main() == 0
    assert pod.made == [begun] and pod.ended == pytest.approx([end - 300], abs=2)
    result = pod.told()
    assert len(seen) == 1 and result.state == "done" and result.last["backup"] and result.last["later"] == []
    assert result.last["tried"] == pod.ended[0] and pod.clock.now <= end


def test_a_lease_that_is_named_while_a_scheduled_backup_works(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = pod.clock.now
    end = begun + 4 * HOUR
    pod.give()
    pod.clock.events = [(begun + 3 * HOUR, lambda: pod.give(lease_end=end))]
    seen = adds(monkeypatch, pod.places[EVERY6H.place])
    assert in_cluster.main() == 0
    assert pod.ended == pytest.approx([end - 300], abs=2) and len(seen) == 1 and pod.told().last["backup"]


def test_the_place_of_the_last_backup_answers_while_a_scheduled_one_works(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it does, the scheduled one goes on: it is better than none."""
    end = pod.clock.now + HOUR
    pod.give(lease_end=end, last_place=LAST)
    pod.silent.add(LAST)
    pod.clock.events = [(end - 200, pod.silent.clear)]
    seen = adds(monkeypatch, pod.places[LAST])
    assert in_cluster.main() == 0
    assert end - 201 <= pod.ended[0] <= end - 169 and len(pod.made) == len(seen) == 1
    assert pod.told().last["backup"].startswith(str(pod.places[LAST]))


def test_none_begins_that_is_expected_to_run_into_it(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first one at its place, where the last one's has all but the newest."""
    end = pod.clock.now + 1.6 * HOUR
    there = pod.places[LAST]
    adds(monkeypatch, there)
    project, engine = in_cluster._given(plan(), ENVIRON)
    last_in_cluster.add(project, engine, there, in_cluster.Log(), end)
    monkeypatch.setattr(lead, "needs", lambda now, manifest, reading=0.0: 10.0 if manifest else HOUR)
    pod.give(lease_end=end, last_place=LAST)
    assert in_cluster.main() == 0 and pod.made == [] and pod.told().last["lead"] == 900
    pod.give(lease_end=end + HOUR, last_place=LAST)
    assert in_cluster.main() == 0 and len(pod.made) == 1


# PostgreSQL's programs, in the container beside it


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Path]:
    """The two scripts, with another folder; the second one runs."""
    (tmp_path / "requests").mkdir()
    for name in ("run.sh", "serve.sh"):
        text = (COMPONENT / name).read_text().replace("/run/requests", str(tmp_path / "requests"))
        (tmp_path / name).write_text(text)
    with subprocess.Popen(
        ["sh", str(tmp_path / "serve.sh")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "requests" / "next").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield tmp_path
        os.killpg(process.pid, signal.SIGKILL)  # with what it runs


def test_a_program_beside_it_is_as_if_it_ran_here(tools: Path) -> None:
    words = ["sh", "-c", 'cat; echo "$1" >&2; exit 7', "sh", 'it\'s "two" words $HOME']
    done = subprocess.run(
        ["sh", str(tools / "run.sh"), *words], input=b"a\nb", capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\nb", b'it\'s "two" words $HOME\n')


PROGRAM = """
import os, signal, sys, time
def cancelled(*_):
    open(sys.argv[1], "w").close()
    os._exit(1)
signal.signal(signal.SIGINT, cancelled if sys.argv[1] else signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("cancels", [True, False])
def test_a_program_beside_it_ends_with_who_asked_for_it(cancels: bool, tools: Path) -> None:
    """Also one that reads and writes nothing, as a pg_dump that waits for a lock. By SIGINT first: it cancels then."""
    mark = tools / "cancelled"
    words = [sys.executable, "-c", PROGRAM, str(mark) if cancels else ""]
    with pytest.raises(GaveWay), streaming.piped("pg_dump", ["sh", str(tools / "run.sh"), *words]) as pipe:
        program = int(pipe.out.readline())
        assert psutil.pid_exists(program)
        raise GaveWay
    with suppress(psutil.NoSuchProcess):
        psutil.Process(program).wait(PATIENCE)
    assert mark.exists() == cancels
