"""Scheduled backups in a cluster: what their pods do, what they are given, and what is told of them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.backups import (
    create,
    damage,
    giving_way,
    in_cluster,
    last_in_cluster,
    later,
    lead,
    notebook_relay,
    prune,
    repository_writer,
    workspace,
)
from helpers.backups.storage import Folder
from helpers.backups.workspace import Kept
from helpers.data import database
from helpers.engines.kubernetes import backup_plan, kustomization, scheduled_backups
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.errors import TrackbedError
from helpers.leases import last_backup
from helpers.leases.last_backup import Record, Setup
from helpers.project import backup_runs, backup_schedule
from helpers.project.backup_runs import CLUSTER, HOUR, TOLD, Good, Result, Runs, Schedule
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import project
from tests.unit.test_prune import write

NOW = 1_790_000_000.0
DAY = 24 * HOUR
EVERY6H = Schedule(6 * HOUR, "s3://vault/lab", NOW, CLUSTER, 17, {"--keep-last": 2})
ENVIRON = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow@db.example.org:5433/mlflow_b?sslmode=require",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow-artifacts/live-b",
}


def plan(**more: Any) -> dict[str, Any]:
    return {
        "schedule": asdict(EVERY6H),
        "project": "lab",
        "instance": "abc",
        "engine": "kubernetes",
        "store": "versitygw",
        "settings": {"s3_endpoint": "", "s3_bucket": "b"},
        "remembered": {},
        "versions": {},
        **more,
    }


# one run, in its pod


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked in the session that a run holds; the database answers."""
    asked: list[str] = []

    @contextmanager
    def session(engine: Any, name: str) -> Iterator[SimpleNamespace]:
        asked.append(name)
        yield SimpleNamespace(ask=asked.append)

    monkeypatch.setattr(database, "session", session)
    monkeypatch.setenv("PGPASSFILE", "/run/secrets/pgpass")
    return asked


def adds(monkeypatch: pytest.MonkeyPatch, store: Folder) -> list[Any]:
    """`create.add` writes a backup of nothing; gives the projects and engines that it was asked for."""
    seen: list[Any] = []

    def add(project: Any, engine: Any, target: Folder, *_: Any, **named: Any) -> create.Added:
        seen.append((project, engine))
        about = {"made": datetime.now(UTC).isoformat(), "project_id": create.identity(project), "seconds": 1}
        with repository_writer.Writer(store, "lab", about, "x") as writer:
            name, manifest = writer.finish({"tables": {}, "dump_bytes": 10, "schema": "", "mlflow": ""})
        return create.Added(name, manifest, SimpleNamespace(count=0), 0, {}, ())  # type: ignore[arg-type]

    monkeypatch.setattr(create, "add", add)
    return seen


def test_a_run_backs_up_when_it_is_time(tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = Folder(tmp_path / "repo")
    seen = adds(monkeypatch, store)
    pruned: list[Any] = []
    monkeypatch.setattr(prune, "prune", lambda store, name, policy, *_: pruned.append(policy))
    now = time.time()
    first = in_cluster.run(plan(), ENVIRON, store, now)
    assert first.state == "done" and first.good and pruned[0].last == 2
    ((made, engine),) = seen
    assert made.state.active == {"database": "mlflow_b", "prefix": "live-b"} and held == ["mlflow_b", "SELECT 1"]
    assert engine.database["PGHOST"] == "db.example.org" and engine.database["PGSSLMODE"] == "require"
    again = in_cluster.run(plan(), ENVIRON, store, now + 5 * HOUR)
    assert len(seen) == 1 and again.good and again.good.backup == first.good.backup
    in_cluster.run(plan(instance="another of that name"), ENVIRON, store, now + 5 * HOUR)
    assert len(seen) == 2


def lost(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """The session that a run holds ends while it backs up; the next one fails with ``why``, if with anything."""
    opened: list[str] = []

    @contextmanager
    def session(engine: Any, name: str) -> Iterator[SimpleNamespace]:
        opened.append(name)
        if len(opened) > 1 and why:
            raise TrackbedError(f"psql failed: psql: error: connection to server failed: {why}", "")

        def ask(statement: str) -> None:
            raise TrackbedError("the database ended the connection", "")

        yield SimpleNamespace(ask=ask)

    monkeypatch.setattr(database, "session", session)


def test_data_that_were_replaced_meanwhile_are_no_backup(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Folder(tmp_path / "repo")
    adds(monkeypatch, store)
    lost(monkeypatch, 'FATAL:  database "mlflow_b" does not exist')
    result = in_cluster.run(plan(), ENVIRON, store, time.time())
    assert result.state == "failed" and "replaced meanwhile" in result.problem
    assert not list((tmp_path / "repo" / "backups").iterdir()) and not result.good


@pytest.mark.parametrize("why", ["", "FATAL:  the database system is shutting down", "Connection refused"])
def test_a_connection_that_was_lost_takes_no_backup_away(
    why: str, tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may end what idles for long, or end itself, as at the end of a lease."""
    store = Folder(tmp_path / "repo")
    adds(monkeypatch, store)
    monkeypatch.setattr(prune, "prune", lambda *_: None)
    lost(monkeypatch, why)
    result = in_cluster.run(plan(), ENVIRON, store, time.time())
    assert result.state == "done" and result.good and list((tmp_path / "repo" / "backups").iterdir())


@pytest.mark.parametrize(
    "problem", ["no space", "x" * 9000, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 2000, '"\n' * 2000]
)
def test_what_a_pod_tells_is_never_too_long_for_its_message(problem: str) -> None:
    good = Good(NOW, f"s3://{'b' * 63}/{'p' * 200}/trackbed-lab-20260101T000000Z", 2**40)
    record = asdict(
        Record(NOW, 1e3, 1e3, NOW, "failed", problem, NOW, good.backup, NOW, "1:1:" + "7," * 2000, "d" * 63)
    )
    text = in_cluster.told(Result("failed", NOW, problem, good, {**record, "later": [problem]}))
    said = Result.parse(json.loads(text))
    assert len(text.encode()) <= 4096 and said.good == good and said.last["backup"] == good.backup
    assert said.problem and problem.startswith(said.problem)


def test_an_earlier_backup_that_is_damaged_is_none(tmp_path: Path, held: list[str]) -> None:
    store = Folder(tmp_path / "repo")
    write(store, {})
    assert (
        lead.newest(store, SimpleNamespace(settings=SimpleNamespace(project="p"), state=SimpleNamespace(instance="x")))
        is None
    )


class Clock:
    """Time that passes only while somebody sleeps; ``events`` happen then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.events, self.really = time.time(), list[tuple[float, Any]](), time.sleep
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= last_in_cluster.NAP
        if seconds <= 1:  # a repository's names have whole seconds
            self.really(seconds)
            return
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(lead, "size", lambda project, engine: 2**20)
    monkeypatch.setattr(prune, "prune", lambda *_: None)
    return Clock(monkeypatch)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What came after the last backup, which holds what came before."""
    lines: list[str] = []
    asked = iter(range(10**6))

    def written(engine: Any, base: str, snapshot: str, backup: Any, progress: Any) -> tuple[str, ...]:
        next(asked)
        return tuple(lines)

    monkeypatch.setattr(later, "written", written)
    return lines


def test_the_last_backup_of_a_lease_is_made_in_time_and_again_while_something_comes_after_it(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store, begun = Folder(tmp_path / "repo"), clock.now
    end, told = begun + 1000, list[Result]()
    add = adds(monkeypatch, store)
    original = create.add

    def made(*words: Any, **named: Any) -> Any:
        after.clear()
        clock.now += 20
        return original(*words, **named)

    monkeypatch.setattr(create, "add", made)
    clock.events = [
        (end - 600, lambda: after.append("written after it: 1 run")),
        (end - 20, lambda: after.append("1 artifact")),
    ]
    result = in_cluster.run(plan(lease_end=end), ENVIRON, store, begun, None, told.append)
    assert len(add) == 2 and [one.last["state"] for one in told if one.last["state"] == "running"] == ["running"] * 2
    first = next(one.last for one in told if one.last["state"] == "running")
    assert first["tried"] == pytest.approx(end - 900)  # not earlier than it has to be
    assert result.state == "done" and result.last["later"] == ["1 artifact"]  # there was no time for a third
    assert end - 31 <= result.last["looked"] <= end and result.good and result.last["backup"] == result.good.backup
    assert json.loads(in_cluster.told(result))["last"]["later"] == ["1 artifact"]


def test_a_notebook_that_dawdles_costs_the_last_backup_no_later_rows(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    """The time that it takes tells nothing of how long the next one needs."""
    store, end = Folder(tmp_path / "repo"), clock.now + 1000
    seen, original = adds(monkeypatch, store), create.add

    def add(*words: Any, **named: Any) -> create.Added:
        added, waited = original(*words), named["files_until"] - clock.now
        after[:] = [] if len(seen) > 1 else ["1 run"]
        clock.now += waited
        lost = {"workspace_problem": "it takes too long", "workspace_seconds": waited}
        return replace(added, manifest=added.manifest | lost, kept=Kept(problem=lost["workspace_problem"]))

    monkeypatch.setattr(create, "add", add)
    last = in_cluster.run(plan(lease_end=end), ENVIRON, store, clock.now).last
    assert len(seen) == 2 and last["tried"] == pytest.approx(end - lead.SPARE + last_in_cluster.OFTEN, abs=20)
    assert last["later"] == [] and "too long" in last["problem"]


def test_a_pod_without_a_schedule_makes_the_last_backup_alone(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store = Folder(tmp_path / "repo")
    seen = adds(monkeypatch, store)
    alone = plan(schedule=asdict(replace(EVERY6H, every=0.0)), lease_end=clock.now + 5 * HOUR)
    early = in_cluster.run(alone, ENVIRON, store, clock.now)
    assert not seen and early.last["lead"] == 900.0 and not early.good
    clock.now += 4.9 * HOUR
    assert in_cluster.run(alone, ENVIRON, store, clock.now).last["state"] == "done" and len(seen) == 1


def test_the_last_backup_goes_before_a_scheduled_one(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store = Folder(tmp_path / "repo")
    seen = adds(monkeypatch, store)
    monkeypatch.setattr(lead, "needs", lambda *_: 2000.0)
    in_cluster.run(plan(lease_end=clock.now + 5800), ENVIRON, store, clock.now)
    assert not seen  # it would be at work when the last one begins
    in_cluster.run(plan(lease_end=clock.now + 9 * HOUR), ENVIRON, store, clock.now)
    assert len(seen) == 1


def test_a_lease_that_is_extended_ends_the_wait(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store, end = Folder(tmp_path / "repo"), clock.now + 1700
    seen, given = adds(monkeypatch, store), tmp_path / "given"
    given.mkdir()
    monkeypatch.setattr(in_cluster, "GIVEN", given)
    (given / in_cluster.PLAN).write_text(json.dumps(plan(lease_end=end)))
    new = json.dumps(plan(lease_end=end + DAY))
    clock.events = [(clock.now + 100, lambda: (given / in_cluster.PLAN).write_text(new))]
    result = in_cluster.run(plan(lease_end=end), ENVIRON, store, clock.now)
    assert result.state == "done" and not seen and clock.now < end - 900


def test_a_last_backup_that_is_damaged_is_told(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store = Folder(tmp_path / "repo")
    adds(monkeypatch, store)
    monkeypatch.setattr(damage, "examine", lambda *_, **named: SimpleNamespace(ok=False))
    result = in_cluster.run(plan(lease_end=clock.now + 600), ENVIRON, store, clock.now)
    assert result.state == "failed" and "cannot be read back" in result.last["problem"] and "backup" not in result.last


def test_a_last_backup_that_fails_is_tried_again_while_there_is_time(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    store, told = Folder(tmp_path / "repo"), list[Result]()
    seen, original = adds(monkeypatch, store), create.add
    failures = iter([TrackbedError("the bucket does not answer", "")])

    def add(*words: Any, **named: Any) -> Any:
        for error in failures:
            raise error
        return original(*words, **named)

    monkeypatch.setattr(create, "add", add)
    begun = clock.now
    result = in_cluster.run(plan(lease_end=begun + 600), ENVIRON, store, begun, None, told.append)
    assert len(seen) == 1 and result.state == "done" and result.last["state"] == "done" and not result.last["problem"]
    assert [one.state for one in told][:2] == ["running", "failed"] and told[1].last["problem"]
    assert result.last["tried"] <= begun + 180  # the next look may come in 10 minutes


def test_a_last_backup_ends_where_the_data_were_replaced(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    """The next look knows the new ones."""
    store, begun = Folder(tmp_path / "repo"), clock.now
    adds(monkeypatch, store)
    lost(monkeypatch, 'FATAL:  database "mlflow_b" does not exist')
    result = in_cluster.run(plan(lease_end=begun + 600), ENVIRON, store, begun)
    assert result.state == "failed" and "replaced meanwhile" in result.last["problem"] and clock.now < begun + 60


def test_where_nobody_can_tell_what_came_after_it_there_is_another_one(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    store = Folder(tmp_path / "repo")
    seen = adds(monkeypatch, store)
    answers = iter([TrackbedError("no answer", "")])

    def written(*_: Any) -> tuple[str, ...]:
        for error in answers:
            raise error
        return ()

    monkeypatch.setattr(later, "written", written)
    result = in_cluster.run(plan(lease_end=clock.now + 600), ENVIRON, store, clock.now)
    assert result.state == "done" and len(seen) == 2 and result.last["later"] == []


def test_a_name_that_somebody_gave_tells_nothing_of_a_last_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A pod's log has words of others, and `status` reads it."""
    forged = f"{TOLD}{json.dumps(asdict(Result('done', NOW, '', None, {'backup': 'forged'})))}"
    monkeypatch.setattr(in_cluster, "MESSAGE", tmp_path / "message")
    in_cluster.Log().step(forged)
    in_cluster.Log().output(f"a name\n{forged}")
    in_cluster.Log().output(f"another\r{forged}\u2028{forged}")
    assert not [line for line in capfd.readouterr().err.splitlines() if line.startswith(TOLD)]
    in_cluster._tell(Result("done", NOW))
    assert capfd.readouterr().err.startswith(TOLD)


def test_one_place_that_does_not_answer_keeps_no_backup_from_the_other(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(in_cluster, "_tell", lambda result: None)
    schedule, last = EVERY6H.place, "s3://other/lab"
    store = {name: Folder(tmp_path / name.partition("//")[2].replace("/", "-")) for name in (schedule, last)}
    silent = [schedule]

    def alone(given: Any, *_: Any) -> Result:
        return in_cluster.back_up(given, ENVIRON, store[schedule], clock.now)

    monkeypatch.setattr(giving_way, "run", alone)

    def opened(plan: Any, place: str) -> Folder:
        if place in silent:
            raise TrackbedError(f"{place} does not answer", "")
        return store[place]

    monkeypatch.setattr(in_cluster, "_opened", opened)
    seen = adds(monkeypatch, store[last])
    given = plan(lease_end=clock.now + 600, last_place=last)
    result = in_cluster.looked(given, clock.now)
    assert len(seen) == 1 and result.last["backup"].startswith(str(store[last]))
    assert result.state == "failed" and f"{schedule} does not answer" in result.problem

    silent[:] = [last]
    seen = adds(monkeypatch, store[schedule])
    result = in_cluster.looked(plan(lease_end=clock.now + 600, last_place=last), clock.now)
    assert len(seen) == 1 and result.state == "done" and result.good
    assert result.last["state"] == "failed" and f"{last} does not answer" in result.last["problem"]
    assert {type(value) for value in result.last.values()} <= {str, float}  # as a record has them
    silent[:] = [schedule, last]
    assert in_cluster.looked(plan(last_place=last), clock.now).state == "failed"


# what is told of the runs


def times(ago: float) -> str:
    return datetime.fromtimestamp(NOW - ago, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def run(name: str, ago: float, result: Result | None = None, state: str = "", **status: Any) -> list[dict[str, Any]]:
    """A Job and its pod, as the API tells of them."""
    container = {"terminated": {"exitCode": 0, "message": json.dumps(asdict(result))}} if result else {}
    if state:
        container = {state: {}}
    metadata = {"name": name, "creationTimestamp": times(ago)}
    owner = {"ownerReferences": [{"kind": "Job", "name": name}]}
    pod_status = {"containerStatuses": [{"name": "backup", "state": container}]} if container else {}
    return [
        {"kind": "Job", "metadata": metadata, "status": status},
        {"kind": "Pod", "metadata": {**metadata, **owner}, "status": pod_status},
    ]


GOOD = Good(NOW - HOUR, "s3://vault/lab/backups/x.json", 5)
DONE = Result("done", NOW - HOUR, "", GOOD)
FAILED = [{"type": "Failed", "status": "True", "message": "Job was active longer than specified deadline"}]


def test_the_newest_run_that_ended_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert scheduled_backups.runs([], True, NOW) == Runs(Result())
    listed = [*run("a", 2 * HOUR, Result("failed", NOW, "no answer")), *run("b", HOUR, DONE)]
    assert scheduled_backups.runs(listed, True, NOW) == Runs(DONE)
    listed += run("c", 60, state="running")
    assert scheduled_backups.runs(listed, True, NOW) == Runs(DONE, under_way=True)


def test_a_failure_keeps_the_last_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    listed = [*run("a", HOUR, DONE), *run("b", 60, conditions=FAILED)]
    seen = scheduled_backups.runs(listed, True, NOW).result
    assert seen.state == "failed" and "deadline" in seen.problem and seen.good == GOOD


def test_a_problem_of_the_last_backup_stays_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that found nothing due says nothing of it."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    with_problem = Result("done", NOW - HOUR, "earlier backups are damaged", GOOD)
    listed = [*run("a", HOUR, with_problem), *run("b", 60, DONE)]
    assert scheduled_backups.runs(listed, True, NOW).result.problem == "earlier backups are damaged"
    newer = Result("done", NOW, "", Good(NOW, "y", 5))
    assert scheduled_backups.runs([*listed, *run("c", 1, newer)], True, NOW).result.problem == ""


def test_a_pod_that_does_not_begin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    for ago, state in ((60, ""), (HOUR, "failed")):
        job, pod = run("a", ago)
        pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node is free"}]}
        seen = scheduled_backups.runs([job, pod], True, NOW)
        assert seen.result.state == state and not seen.under_way
        assert ("no node is free" in seen.result.problem) == bool(state)


def test_what_ran_of_an_earlier_schedule_is_not_told_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    listed = [*run("a", HOUR, DONE), *run("b", HOUR / 2, state="running")]
    assert scheduled_backups.runs(listed, True, NOW, NOW - 60) == Runs(Result(), under_way=True)
    later = Result("done", NOW, "", Good(NOW, "y", 5))
    assert scheduled_backups.runs([*listed, *run("c", 60, later)], True, NOW, NOW - 60.5).result == later


def test_a_backup_forgets_nothing_by_a_policy_that_was_replaced_meanwhile(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adds(monkeypatch, store := Folder(tmp_path / "repo"))
    pruned: list[Any] = []
    monkeypatch.setattr(prune, "prune", lambda *words: pruned.append(words))
    monkeypatch.setattr(in_cluster, "GIVEN", tmp_path)
    new = plan(schedule=asdict(replace(EVERY6H, keep={"--keep-last": 50})))
    (tmp_path / in_cluster.PLAN).write_text(json.dumps(new))
    assert in_cluster.run(plan(), ENVIRON, store, time.time()).state == "done" and not pruned
    (tmp_path / in_cluster.PLAN).write_text(json.dumps(plan()))
    assert in_cluster.run(plan(), ENVIRON, store, time.time() + DAY).state == "done" and pruned


def test_what_is_told_of_an_earlier_lease_takes_nothing_from_this_one(tmp_path: Path) -> None:
    """A Job that failed stays in the cluster until others fail."""
    settings = project(tmp_path, project="lab").settings
    settings.folder.mkdir(parents=True)
    last_backup.save(settings.folder, Setup("s3://vault/lab", CLUSTER, 600.0))
    now, end = time.time(), time.time() + 3 * DAY
    earlier = asdict(Record(now + HOUR, 1.0, 900.0, now, "failed", "no space", now, "s3://vault/lab/a", now))
    by_hand = Record(end, 1.0, 900.0, now, "done", "", now - 60, "s3://vault/lab/b", now - 60)
    by_hand.save(settings.folder)
    seen = last_backup.condition(settings, end, False, now, lambda: Runs(Result(), last=earlier))
    assert seen.made and "s3://vault/lab/b" in seen.line and not seen.problem
    assert last_backup.record(settings.folder, end) == by_hand
    told = asdict(replace(by_hand, backup="s3://vault/lab/c", moment=now))
    last_backup.condition(settings, end, False, now, lambda: Runs(Result(), last=told))
    assert last_backup.record(settings.folder, end).backup == "s3://vault/lab/c"


def test_a_last_backup_of_a_cluster_that_was_left_is_none(tmp_path: Path) -> None:
    """After a move to another engine nothing would make it."""
    settings = project(tmp_path, project="lab").settings
    settings.folder.mkdir(parents=True)
    last_backup.save(settings.folder, Setup("s3://vault/lab", CLUSTER, 600.0))
    now, end = time.time(), time.time() + DAY
    left = last_backup.condition(settings, end, False, now, lambda: None)
    assert "the cluster no longer makes the last backup" in left.problem and "`invoke up`" in left.fix
    assert not last_backup.condition(settings, end, False, now, lambda: Runs(Result())).problem
    assert not last_backup.condition(settings, end, False, now).problem  # nobody can tell


# what the cluster is given


def test_a_schedule_is_a_cron_job_with_a_secret_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKubectl(tmp_path / "bin", monkeypatch)
    given = project(tmp_path, engine="kubernetes", backup_s3_endpoint="http://s3:9000")
    engine = KubernetesEngine(given)
    assert "scheduled-backups" not in kustomization.components(engine.deployment) and not engine.backups.secrets()
    assert engine.scheduled_runs() is None
    given.state.save()
    EVERY6H.save(given.settings.folder)
    content = engine.rendering
    assert "scheduled-backups" in kustomization.components(engine.deployment)
    (secret,) = engine.backups.secrets()
    assert secret["metadata"]["name"] == "secrets-backup" and "plan.json" in secret["data"]
    assert content is engine.rendering
    (given.settings.folder / "backup-schedule.json").write_text("[]")  # damaged: `status` says so, a start goes on
    assert engine.deployment.scheduled is None


def test_the_pods_get_the_notebooks_token_where_they_read_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the way to it is open only then that there is a schedule."""
    FakeKubectl(tmp_path / "bin", monkeypatch)
    for files in (False, True):
        given = project(tmp_path / str(files), engine="kubernetes", backup_s3_endpoint="http://s3:9000")
        given = replace(given, settings=replace(given.settings, backup_workspace=files))
        given.state.save()
        EVERY6H.save(given.settings.folder)
        engine = KubernetesEngine(given)
        (secret,) = engine.backups.secrets()
        content = {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}
        told = json.loads(content["plan.json"])
        assert content.get(notebook_relay.TOKEN) == (given.credentials()["JUPYTER_TOKEN"] if files else None)
        assert told["workspace"] == ("/home/jovyan/work" if files else "")
        assert set(told["settings"]) == set(backup_plan.SETTINGS) and backup_plan.TOKEN == notebook_relay.TOKEN
        if files:
            pod = in_cluster.Pod("", "", SimpleNamespace(**told["settings"]), {}, {}, told["workspace"])
            rules = workspace.rules(cast("Any", pod))
            assert rules.largest == 2**30 and ".venv" in rules.patterns
            assert content[notebook_relay.TOKEN] not in content["plan.json"]


def test_a_backup_that_lacks_the_notebooks_files_is_told_and_nothing_is_forgotten(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy would take away the last one that has them."""
    store, pruned = Folder(tmp_path / "repo"), list[Any]()
    adds(monkeypatch, store)
    original = create.add

    def add(*words: Any, **named: Any) -> create.Added:
        assert named["with_workspace"] and 0 < named["files_until"] - time.time() <= 3 * HOUR
        return replace(original(*words), kept=Kept(problem="the notebook's workspace: no answer"))

    monkeypatch.setattr(create, "add", add)
    monkeypatch.setattr(prune, "prune", lambda *words: pruned.append(words))
    result = in_cluster.run(plan(), ENVIRON, store, time.time())
    assert result.problem == "it lacks files of the notebook's workspace: no answer" and result.good and not pruned
    look = in_cluster.run(plan(), ENVIRON, store, time.time() + HOUR)  # another moment has it end, as it reckons
    assert look.good and look.good.backup == result.good.backup and look.good != result.good and not look.problem
    monkeypatch.setattr(time, "time", lambda: NOW)
    listed = [*run("a", 2 * HOUR, result), *run("b", HOUR, look)]
    assert scheduled_backups.runs(listed, True, NOW).result.problem == result.problem


def test_a_notebook_that_dawdles_in_a_scheduled_backup_delays_no_last_one(
    tmp_path: Path, held: list[str], monkeypatch: pytest.MonkeyPatch, clock: Clock, after: list[str]
) -> None:
    adds(monkeypatch, store := Folder(tmp_path / "repo"))
    original, given = create.add, list[float]()

    def add(*words: Any, **named: Any) -> create.Added:
        given.append(named["files_until"] - clock.now)
        return original(*words)

    monkeypatch.setattr(create, "add", add)
    in_cluster.run(plan(lease_end=clock.now + 2 * HOUR), ENVIRON, store, clock.now)
    assert given == [2 * HOUR - backup_runs.LEAST - backup_runs.LAST_LOOKS]  # so the look that begins it is in time


def test_no_word_of_others_is_a_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    in_cluster._log("it said \x1b]0;title\x07", f"x\r\n{TOLD}{{}}", f"{TOLD}{{}}", "y" * 10**6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"it said \x1b]0;title\x07" and len(lines[3]) == in_cluster.LINE
    assert lines[1:3] == [f"x {TOLD}{{}}", f" {TOLD}{{}}"]


@pytest.mark.parametrize(
    ("left", "reads", "kept"),
    [(900.0, 10.0, 300.0), (900.0, 300.0, 450.0), (9000.0, 1000.0, 1500.0), (100.0, 0.0, 50.0)],
)
def test_the_notebook_gets_no_time_that_the_last_backup_needs(left: float, reads: float, kept: float) -> None:
    assert lead.files_until(NOW, reads, NOW - left) == NOW - kept


@pytest.mark.parametrize(("every", "hours"), [(1, 0.5), (6, 3), (24, 12), (240, 12)])
def test_a_scheduled_backup_gives_the_notebook_up_before_the_next_is_due(every: float, hours: float) -> None:
    assert backup_runs.files_until(replace(EVERY6H, every=every * HOUR), NOW) == NOW + hours * HOUR


def test_a_stop_keeps_what_is_known_of_the_last_good_backup(tmp_path: Path) -> None:
    settings = project(tmp_path, project="lab").settings
    settings.folder.mkdir(parents=True)
    EVERY6H.save(settings.folder)
    Result("skipped", NOW, "", GOOD).save(settings.folder)
    found = backup_schedule.condition(settings, lambda: Runs(Result(), installed=False))
    assert found and not found.problem and "paused" in found.line  # stopped
    found = backup_schedule.condition(settings, lambda: Runs(Result()))
    assert found and found.result.good == GOOD  # started again, and no run yet
    Result("done", NOW, "", GOOD).save(settings.folder)
    found = backup_schedule.condition(settings, lambda: Runs(Result(), installed=False))
    assert found and "cluster no longer runs the schedule" in found.problem
    assert backup_schedule.findings(settings) == []  # the cluster does not answer
