"""The last backup of a lease, with time moved by the test and clouds that are stand-ins: when it begins, what is in its
way, what it says came after it, and what makes it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import cloud_metadata, status, timers, waiting
from helpers.backups import create, last, later, lead, repository, repository_writer, schedule
from helpers.backups.create import Health
from helpers.backups.repository import Snapshot
from helpers.backups.restore import Restored
from helpers.backups.storage import Folder
from helpers.cli import data, options
from helpers.engines.host import LOCAL
from helpers.errors import SettingError, TrackbedError
from helpers.findings import Level
from helpers.leases import last_backup, lease, notices
from helpers.leases.last_backup import Record, Setup
from helpers.project import backup_schedule, state
from helpers.project.backup_runs import HOUR, LEAST, Result, Schedule
from helpers.project.project import Project
from tests.conftest import PATIENCE
from tests.unit.fakes import Silent, project
from tests.unit.metadata_service import Serve, aws, google, pages

SECONDS = datetime(2026, 11, 28, 18, tzinfo=UTC).timestamp()
END = "2026-11-28T18:00:00Z"
DAY = 24 * HOUR
SERVER = "0123abcd-0123-0123-0123-0123456789ab"


class Clock:
    """What time it is, for the code under test."""

    def __init__(self, now: float) -> None:
        self.now = now

    def before(self, seconds: float) -> None:
        self.now = SECONDS - seconds


class Services:
    """An engine of which only this is asked."""

    runs_schedules = in_cluster = False
    host = LOCAL

    def scheduled_runs(self) -> None: ...


class Place:
    """A project that runs, its repository, and what is asked of both. ``after``: what came after a backup."""

    def __init__(self, lab: Project, folder: Path, clock: Clock) -> None:
        self.lab, self.folder, self.clock = lab, folder, clock
        self.after: list[tuple[str, ...]] = []
        self.size, self.made = 2**20, 0
        self.takes = 1.0

    def create(self, lab: Project, to: str, *_: object, **named: object) -> tuple[str, dict[str, Any], Health]:
        store = Folder(self.folder)
        about = {"made": datetime.fromtimestamp(self.clock.now, UTC).isoformat(), "project_id": create.identity(lab)}
        with repository_writer.Writer(store, lab.settings.project, about, "x") as writer:
            writer.small("settings.json", b"{}")
            facts = {"tables": {"runs": ["0", "0"]}, "dump_bytes": 10, "schema": "", "mlflow": "", "seconds": 1.0}
            name, manifest = writer.finish({**facts, "moment": [self.clock.now, "7:7:"]})
        self.made += 1
        self.clock.now += self.takes
        return str(Snapshot(store, name)), manifest, Health()

    def written(self, *_: object) -> tuple[str, ...]:
        return self.after.pop(0) if self.after else ()

    def look(self) -> schedule.Ran:
        return last.run_if_due(self.lab, Silent(), lambda line: None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    created = Clock(SECONDS - 7 * DAY)
    monkeypatch.setattr(time, "time", lambda: created.now)
    return created


@pytest.fixture
def place(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Place:
    lab = project(tmp_path, project="lab", lease_end=END, backup_to=f"{tmp_path}/repo")
    lab.state.save()
    created = Place(lab, tmp_path / "repo", clock)
    monkeypatch.setattr(status, "running", lambda project: Services())
    monkeypatch.setattr(status, "overview", lambda engine: type("View", (), {"stopped": False})())
    monkeypatch.setattr(create, "create", created.create)
    monkeypatch.setattr(later, "written", created.written)
    monkeypatch.setattr(lead, "size", lambda project, engine: created.size)
    monkeypatch.setattr(lease, "goes_too", lambda settings, where: False)
    monkeypatch.setattr(timers, "installed", lambda name, runner: True)
    last_backup.save(lab.settings.folder, Setup(f"{tmp_path}/repo/", "cron"))
    return created


def told(lab: Project) -> tuple[Level, str, dict[str, Any]]:
    finding, data = lease.look(lab.settings) or pytest.fail()
    return finding.level, finding.detail, data["last_backup"]  # type: ignore[return-value]


# when


def test_the_end_of_a_lease_day_by_day(place: Place) -> None:
    clock, lab = place.clock, place.lab
    assert "begins 2026-11-28 17:45" in told(lab)[1]
    assert "begins" in place.look().lines[0]  # it measures, once
    clock.before(2 * DAY)
    assert "not time" in place.look().lines[0]
    clock.before(LEAST + 60)
    assert "begins" in place.look().lines[0] and place.made == 0
    clock.before(LEAST - 1)
    place.after = [("written after it: 1 run",), ("written after it: 1 run",), ()]
    ran = place.look()
    assert ran.ok and place.made == 1 and "written after it: 1 run" in ran.lines
    level, words, data = told(lab)
    assert level is Level.WARNING and "written after it: 1 run" in words and data["verified"]
    clock.now += 300
    assert "nothing came after it" in " ".join(place.look().lines) and place.made == 2
    clock.now += 300
    assert "nothing came after" in place.look().lines[0] and place.made == 2
    assert told(lab)[2]["later"] == []
    # something comes when there is no time for another one
    seen = last_backup.record(lab.settings.folder, SECONDS)
    replace(seen, took=400.0).save(lab.settings.folder)
    place.after = [("written after it: 2 metrics",)]
    ran = place.look()
    assert "no time for another" in ran.lines[0] and ran.lines[1] == "written after it: 2 metrics" and place.made == 2
    clock.now = SECONDS + 1
    assert "not time" in place.look().lines[0] and "that is over" in told(lab)[1] and "2 metrics" in told(lab)[1]


def test_a_lease_that_was_extended_has_another_last_backup(place: Place, tmp_path: Path) -> None:
    place.clock.before(60)
    place.look()
    assert place.made == 1
    place.lab.settings = place.lab.settings.reload({}, lease_end="2026-11-30T18:00:00Z")
    assert "begins 2026-11-30 17:45" in told(place.lab)[1]
    place.look()
    assert place.made == 1
    place.clock.now = SECONDS + 2 * DAY - 60
    place.look()
    assert place.made == 2


def test_data_that_were_replaced_are_backed_up_again(place: Place) -> None:
    place.clock.before(600)
    place.look()
    place.clock.now += 60
    place.lab.state.active = {"database": "mlflow_b", "prefix": "live-b"}
    place.look()
    assert place.made == 2


@pytest.mark.parametrize(
    ("now", "manifest", "reading", "seconds"),
    [
        (0, None, 0.0, 0.0),
        (200 << 20, None, 0.0, 30.0),
        (
            200 << 20,
            {"seconds": 10.0, "new_bytes": 200 << 20, "object_bytes": 190 << 20, "dump_bytes": 10 << 20},
            0,
            20,
        ),
        # 40 MiB more at 20 MiB a second
        (
            240 << 20,
            {"seconds": 10.0, "new_bytes": 200 << 20, "object_bytes": 190 << 20, "dump_bytes": 10 << 20},
            0,
            24,
        ),
        # a backup of almost nothing does not tell how fast one is
        (240 << 20, {"seconds": 2.0, "new_bytes": 100, "object_bytes": 190 << 20, "dump_bytes": 10 << 20}, 0, 18),
        (200 << 20, {"seconds": 2.0, "new_bytes": 0, "object_bytes": 0, "dump_bytes": 200 << 20}, 100 << 20, 4),
        # a notebook that took three hours and gave nothing
        (
            200 << 20,
            {
                "seconds": 10802.0,
                "workspace_seconds": 10800.0,
                "workspace_problem": "it takes too long",
                "new_bytes": 0,
                "object_bytes": 0,
                "dump_bytes": 200 << 20,
            },
            100 << 20,
            4,
        ),
    ],
)
def test_how_long_it_may_take(now: int, manifest: dict[str, Any] | None, reading: float, seconds: float) -> None:
    assert lead.needs(now, manifest, reading) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", "soon"),
        ("seconds", float("inf")),
        ("seconds", float("nan")),
        ("seconds", -1),
        ("new_bytes", []),
        pytest.param("object_bytes", 10**400, id="object_bytes-huge"),
        ("made", "0001-01-01T00:00:00"),
    ],
)
def test_numbers_of_a_manifest_that_cannot_be_are_not_reckoned_with(place: Place, name: str, value: object) -> None:
    """Whoever can write to a plain place may have written them."""
    place.create(place.lab, "")
    (path,) = place.folder.glob("backups/*.json")
    path.write_bytes(repository.rendered(json.loads(path.read_bytes()) | {name: value}))
    place.clock.before(2 * DAY)
    assert "begins" in place.look().lines[0]
    assert last_backup.record(place.lab.settings.folder, SECONDS).lead == LEAST


def test_it_begins_the_earlier_the_longer_it_takes(place: Place) -> None:
    assert lead.lead(10.0) == LEAST and lead.lead(4000.0) == 6000.0
    place.size = 60 << 30  # 2:33 hours to write and to read at the speeds that are assumed, and half of it more
    place.clock.before(DAY)
    place.look()
    assert lead.lead(lead.needs(place.size, None)) == pytest.approx(3.84 * HOUR, rel=0.01)
    place.clock.before(3.9 * HOUR)
    assert "begins" in place.look().lines[0]
    place.clock.before(3.8 * HOUR)
    place.look()
    assert place.made == 1


# who tells the end


@pytest.mark.parametrize(
    ("cloud", "told_then"),
    [
        (
            lambda now: aws(
                {
                    "/latest/meta-data/instance-life-cycle": "spot",
                    **(
                        {"/latest/meta-data/spot/instance-action": json.dumps({"action": "stop", "time": END})}
                        if now >= SECONDS - 120
                        else {}
                    ),
                }
            ),
            SECONDS - 120,
        ),
        (
            lambda now: google(
                {
                    f"{notices.GOOGLE}scheduling/preemptible": "TRUE",
                    f"{notices.GOOGLE}preempted": "TRUE" if now >= SECONDS - 30 else "FALSE",
                }
            ),
            SECONDS - 30,
        ),
        (
            lambda now: pages(
                {"/openstack/latest/meta_data.json": json.dumps({"uuid": SERVER, "meta": {"lease_end": END}})}
            ),
            SECONDS - LEAST,
        ),
    ],
)
def test_each_cloud(place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch, cloud: Any, told_then: float) -> None:
    place.lab.settings = place.lab.settings.reload({}, lease_end="auto")
    monkeypatch.setattr(cloud_metadata, "SERVICE", serve(lambda *request: cloud(place.clock.now)(*request)))
    place.look()
    place.clock.now = told_then - 1
    place.look()
    assert place.made == 0
    place.clock.now = told_then
    assert place.look().ok and place.made == 1
    assert (lease.current(place.lab.settings) or pytest.fail()).end == pytest.approx(SECONDS)


def test_a_notice_that_comes_late_is_looked_for_all_the_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google gives 30 seconds; a timer of cron runs each minute."""
    place.lab.settings = place.lab.settings.reload({}, lease_end="auto")
    last_backup.save(place.lab.settings.folder, Setup(f"{place.folder}/", "cron", last_backup.SHORT))
    told = iter([notices.CloudNotice(short=True, why="none")] * 4)

    def ask(now: float) -> notices.CloudNotice:
        return next(told, notices.CloudNotice(now + 30, "a notice", True, True, True))

    def until(look: Any, seconds: float, pause: float) -> Any:
        assert seconds + last.PAUSE < 60 and pause < 30 / 4
        return next(filter(None, (look() for _ in range(round(seconds / pause)))), None)

    monkeypatch.setattr(notices, "ask", ask)
    monkeypatch.setattr(waiting, "until", until)
    place.look()
    assert place.made == 1


# what is in its way


def test_another_one_at_work_is_not_joined(place: Place) -> None:
    place.clock.before(60)
    with state.lock(place.lab.settings.folder / last_backup.LOCK):
        assert "at work already" in place.look().lines[0]
    assert place.made == 0


HOLDER = """
import sys, time
from pathlib import Path
from helpers.project import state
with state.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def scheduled(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A scheduled backup that takes very long."""
    argv = [sys.executable, "-c", HOLDER, str(folder / backup_schedule.LOCK)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_scheduled_backup_that_is_at_work_is_ended_when_time_is_short(place: Place) -> None:
    place.clock.before(60)
    lines: list[str] = []
    with scheduled(place.lab.settings.folder) as process:
        last.run_if_due(place.lab, Silent(), lines.append)
        assert process.wait(PATIENCE) and place.made == 1
    assert any("goes first" in line for line in lines)


def test_only_who_holds_the_lock_is_ended(place: Place) -> None:
    """A name that was left in the file is another process's by now."""
    path = place.lab.settings.folder / backup_schedule.LOCK
    with subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL) as other:
        path.write_text(json.dumps({"pid": other.pid, "command": "invoke", "since": ""}))
        assert last._holders(path) == []
        other.kill()
    with scheduled(place.lab.settings.folder) as process:
        assert last._holders(path) == [process.pid]


def test_a_state_folder_behind_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.lab.settings.folder)
    with scheduled(tmp_path / "link") as process:
        assert last._holders(tmp_path / "link" / backup_schedule.LOCK) == [process.pid]


def test_a_schedule_makes_way_for_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.lab.settings.folder
    Schedule(HOUR, f"{place.folder}/", place.clock.now, "cron", 5).save(folder)
    place.look()  # measures
    place.clock.before(LEAST - 60)
    ran = schedule.run_if_due(place.lab, Silent(), lambda line: None)
    assert "goes first" in ran.lines[0] and place.made == 0
    Result("done", SECONDS - 2 * HOUR).save(folder)
    place.clock.before(LEAST + 60)
    schedule.run_if_due(place.lab, Silent(), lambda line: None)
    assert place.made == 1


def test_a_place_that_fails_is_told_long_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise TrackbedError("the place does not answer", "see to it")

    monkeypatch.setattr(lead, "newest", gone)
    with pytest.raises(TrackbedError):
        place.look()
    assert "its last backup failed: the place does not answer" in told(place.lab)[1]
    monkeypatch.undo()


def test_a_backup_that_cannot_be_read_back_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.clock.before(60)

    def damaged(*given: Any) -> Any:
        result = Place.create(place, *given)
        for path in place.folder.glob("pieces/*/*"):
            path.write_bytes(b"other")
        return result

    monkeypatch.setattr(create, "create", damaged)
    with pytest.raises(TrackbedError, match="cannot be read back|damaged"):
        place.look()
    level, words, data = told(place.lab)
    assert level is Level.ERROR and "its last backup failed" in words and not data["verified"]


def test_one_that_somebody_deleted_is_made_again(place: Place) -> None:
    place.clock.before(800)
    place.look()
    for path in place.folder.glob("*/trackbed-*.json"):
        path.unlink()
    place.clock.now += 300
    assert place.look().ok and place.made == 2
    assert Path(told(place.lab)[2]["backup"]).exists()


def test_a_look_that_fails_claims_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> tuple[str, ...]:
        raise TrackbedError("the database does not answer")

    place.clock.before(800)
    with monkeypatch.context() as patched:
        patched.setattr(later, "written", gone)
        for _ in range(2):  # after the backup, and at a later look
            with pytest.raises(TrackbedError):
                place.look()
            _, words, data = told(place.lab)
            assert "nothing came after" not in words and "the database does not answer" in words
            assert data["verified"] and place.made == 1
    place.look()
    assert told(place.lab)[2]["later"] == [] and place.made == 1


def test_one_that_did_not_begin_is_told(place: Place) -> None:
    place.clock.before(120)
    level, words, _ = told(place.lab)
    assert level is Level.ERROR and "was to begin by now" in words


# what makes it


@pytest.fixture
def machine(place: Place, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What this machine runs, by name: the line for cron."""
    runs: dict[str, str] = {}

    def install(timer: timers.Timer, runner: str) -> tuple[str, ...]:
        runs[timer.name] = timer.cron
        return ("x",)

    def remove(name: str, stays: str = "") -> tuple[str, ...]:
        return ("removed",) if not stays and runs.pop(name, "") else ()

    monkeypatch.setattr(timers, "runner", lambda: "cron")
    monkeypatch.setattr(timers, "install", install)
    monkeypatch.setattr(timers, "remove", remove)
    monkeypatch.setattr(timers, "installed", lambda name, runner: name in runs)
    last_backup.forget(place.lab.settings.folder)
    return runs


def test_up_sets_it_up_once_and_takes_it_away(place: Place, machine: dict[str, str]) -> None:
    (line,) = last.follow(place.lab)
    assert "looks every 5 minutes" in line and list(machine.values()) == ["*/5 * * * *"]
    assert last.follow(place.lab) == ()
    place.lab.settings = place.lab.settings.reload({}, lease_end="")
    assert last.follow(place.lab)[1:] == ("removed",) and not machine and last.follow(place.lab) == ()


def test_without_a_place_nothing_is_set_up(place: Place, machine: dict[str, str]) -> None:
    place.lab.settings = place.lab.settings.reload({}, backup_to="")
    assert last.follow(place.lab) == () and not machine
    Schedule(HOUR, f"{place.folder}/", 0.0, "cron", 5).save(place.lab.settings.folder)
    assert last.follow(place.lab) and machine  # that of the schedule is one


def test_a_cloud_with_short_notices_is_asked_each_minute(
    place: Place, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.lab.settings = place.lab.settings.reload({}, lease_end="auto")
    monkeypatch.setattr(notices, "ask", lambda now: notices.CloudNotice(short=True, why="none yet"))
    (line,) = last.follow(place.lab)
    assert "looks every minute" in line and list(machine.values()) == ["* * * * *"]


def test_nothing_that_runs_it_is_a_warning(
    place: Place, machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "runner", lambda: "")
    lines = last.follow(place.lab)
    assert lines[0].startswith("warning: ") and "backup.last --if-due" in lines[1]
    assert "no last backup is set up" in told(place.lab)[1]


def test_a_remote_machine_cannot_be_asked_about_here(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(now: float) -> notices.CloudNotice:
        raise AssertionError("this machine's cloud was asked")

    monkeypatch.setattr(notices, "ask", never)
    settings = place.lab.settings.reload({}, lease_end="auto")
    finding, _ = lease.look(settings, "node.example.org") or pytest.fail()
    assert "the services run on node.example.org" in finding.detail and "--lease-end=" in finding.fix


def test_what_is_typed(place: Place) -> None:
    ran = last.run(place.lab, Silent(), lambda line: None)
    assert ran.ok and place.made == 1 and "read back" in ran.lines[1]
    place.lab.settings = place.lab.settings.reload({}, lease_end="")
    with pytest.raises(SettingError, match="LEASE_END is missing"):
        last.run(place.lab, Silent(), lambda line: None)
    place.lab.settings = place.lab.settings.reload({}, backup_to="")
    with pytest.raises(SettingError, match="no place"):
        last.run(place.lab, Silent(), lambda line: None)


def test_what_is_known_of_it_stays_when_the_project_stops(place: Place, machine: dict[str, str]) -> None:
    last.follow(place.lab)
    place.clock.before(60)
    place.look()
    assert last.remove(place.lab) and not machine
    level, words, data = told(place.lab)
    assert level is Level.ERROR and "read back" in words and "no later one is set up" in words and data["verified"]
    last.follow(place.lab)
    assert "no later one" not in told(place.lab)[1]


def test_one_that_lacks_something_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.clock.before(60)
    monkeypatch.setattr(
        create, "create", lambda *given: (*place.create(*given)[:2], Health(("x",), lacks="the workspace: x"))
    )
    assert not place.look().ok
    assert "whole, but it lacks files of the workspace: x" in told(place.lab)[1] and told(place.lab)[2]["verified"]


def test_a_damaged_record_is_none(place: Place) -> None:
    folder = place.lab.settings.folder
    for text in ("{", "[]", json.dumps({"end": "soon"})):
        (folder / last_backup.RECORD).write_text(text)
        assert last_backup.record(folder, SECONDS) == Record(SECONDS)


@pytest.mark.parametrize("into", ["", "beside"])
def test_a_restored_project_is_backed_up_as_one_that_was_started(
    into: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next machine of a lab is leased too, and nobody has to type `up` there after `restore`."""
    created = project(tmp_path)
    facts = {"tables": {}, "objects": 0, "object_bytes": 0, "schema": "", "made": "today"}
    monkeypatch.setattr(data, "restore_backup", lambda *_: (created, Restored(facts, None)))
    monkeypatch.setattr(data, "show_services", lambda *_, **__: None)
    view = SimpleNamespace(settings=created.settings, ready=True)
    monkeypatch.setattr(status, "read", lambda _: view)
    monkeypatch.setattr(status, "rows", lambda one, seen: [("Open", "LINK")] if (one, seen) == (created, view) else [])
    monkeypatch.setattr(options, "load", lambda given: created)
    monkeypatch.setattr(schedule, "follow", lambda target: ("the schedule is made",))
    monkeypatch.setattr(last, "follow", lambda target: ("the last backup is set up",))
    (tmp_path / "lab.tar").touch()
    data.restore({}, str(tmp_path / "lab.tar"), into, False, False, True, False)
    said = capsys.readouterr().err
    assert " is ready " in said and "Open  LINK" in said, "as `up` ends: MLflow's address alone asks for a token"
    assert ("the schedule is made" in said, "the last backup is set up" in said) == (not into, not into)
    view.ready = False
    data.restore({}, str(tmp_path / "lab.tar"), into, False, False, True, False)
    assert " is incomplete " in capsys.readouterr().err

    def silent(_: object) -> None:
        raise TrackbedError("Docker does not answer", "see `invoke doctor`")

    monkeypatch.setattr(status, "read", silent)
    data.restore({}, str(tmp_path / "lab.tar"), into, False, False, True, False)
    assert "warning: Docker does not answer" in capsys.readouterr().err, "what was restored is restored"
