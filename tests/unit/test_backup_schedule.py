"""The schedule of backups: when one is due, what is told of it, and what runs it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import crontab, status, systemd
from helpers.backups import create, manage, schedule
from helpers.backups.create import Health
from helpers.backups.retention import Policy
from helpers.errors import SettingError, TrackbedError
from helpers.findings import Level
from helpers.project import backup_runs, backup_schedule, state
from helpers.project.backup_runs import FILE, HOUR, RESULT, Good, Result, Schedule
from helpers.project.project import Project
from helpers.settings import Settings
from tests.unit.fakes import Silent, project

MANIFEST: dict[str, Any] = {
    "tables": {"runs": ["1", "5"]},
    "objects": 2,
    "object_bytes": 2**20,
    "dump_bytes": 2**20,
    "schema": "abc",
    "made": "2026-01-01",
}
CRONTAB = """#!/bin/sh
case "$1" in
-l) [ -e "$0.lines" ] || { echo "no crontab for me" >&2; exit 1; }; cat "$0.lines" ;;
-) cat > "$0.lines" ;;
esac
"""


class Services:
    """An engine of which only this is asked."""

    runs_schedules = False

    def scheduled_runs(self) -> None: ...


class View:
    def __init__(self, stopped: bool) -> None:
        self.stopped = stopped


@pytest.fixture
def cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab of the test's own, on a machine that systemd did not start; gives the file with its lines."""
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(CRONTAB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(systemd, "RUNNING", tmp_path / "nothing")
    monkeypatch.setattr(systemd, "folder", lambda: tmp_path / "units")
    monkeypatch.setattr(crontab, "usable", lambda: True)
    return program.with_name("crontab.lines")


@pytest.fixture
def lab(tmp_path: Path, cron: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that runs, as far as anybody asks."""
    result = project(tmp_path, project="lab")
    result.state.save()
    monkeypatch.setattr(status, "running", lambda project: Services())
    monkeypatch.setattr(status, "overview", lambda engine: View(False))
    return result


def backs_up(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Health]) -> list[str]:
    """Backups are made by ``act``; gives where to, as they are made."""
    made: list[str] = []

    def made_to(project: Project, to: str, *_: object, **named: object) -> tuple[str, dict[str, Any], Health]:
        made.append(to)
        return f"{to}backups/x.json", MANIFEST, act()

    monkeypatch.setattr(create, "create", made_to)
    return made


def asked(lab: Project, every: str, to: str, **keep: int) -> None:
    """Its settings ask for that schedule."""
    words = {f"backup_keep_{name}": str(count) for name, count in keep.items()}
    lab.settings = lab.settings.reload({}, backup_every=every, backup_to=to, **words)


def set_up(lab: Project, every: str, to: str, **keep: int) -> tuple[str, ...]:
    asked(lab, every, to, **keep)
    return schedule.set_up(lab)


def found_every(lab: Project) -> str:
    """The interval of the schedule that is there, and does well."""
    found = backup_schedule.condition(lab.settings.reload({}, backup_every=""))
    assert found is not None and not found.problem, found
    return backup_runs.period(found.schedule.every)


def look(lab: Project) -> schedule.Ran:
    return schedule.run_if_due(lab, Silent(), lambda line: None)


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    now = time.time() + hours * HOUR
    monkeypatch.setattr(time, "time", lambda: now)


# when


@pytest.mark.parametrize(("text", "seconds"), [("1h", HOUR), ("6h", 6 * HOUR), ("7d", 168 * HOUR)])
def test_intervals(lab: Project, text: str, seconds: float) -> None:
    asked(lab, text, "/x")
    assert lab.settings.backup_every == seconds and backup_runs.period(seconds) == text


@pytest.mark.parametrize("text", ["6", "0h", "30m", "32d", "6 h", "-1h"])
def test_intervals_that_are_none(lab: Project, text: str) -> None:
    with pytest.raises(SettingError, match="1h to 31d"):
        asked(lab, text, "/x")


def test_a_backup_is_due(lab: Project) -> None:
    every6h = Schedule(6 * HOUR, "/x/", 0, "cron", 10)
    now = 1000 * HOUR
    for result, due in (
        (Result(), True),
        (Result("done", now - 7 * HOUR), True),
        (Result("done", now - 6 * HOUR + 60), True),  # the timer came a minute early
        (Result("done", now - 5 * HOUR), False),
        (Result("done", now + 24 * HOUR), True),  # the clock was wrong
        (Result("failed", now - HOUR), True),
        (Result("running", now - HOUR), True),  # it was killed
        (Result("skipped", now - HOUR), True),
    ):
        assert backup_runs.due(every6h, result, now) is due, result
    assert backup_runs.next_run(every6h, Result(), now) == now + 600
    assert backup_runs.next_run(every6h, Result("done", now + 600), now + 700) == now + 6 * HOUR + 600


# how it went


def test_a_day_of_a_schedule(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backs_up(monkeypatch, Health)
    pruned: list[Policy] = []
    monkeypatch.setattr(manage, "pruned", lambda project, place, policy, *_: pruned.append(policy))
    lines = set_up(lab, "6h", f"{tmp_path}/repo", last=7, weekly=2)
    assert "crontab" in lines[0] and "it has made none yet" in lines[-1]
    assert look(lab).ok and made == [f"{tmp_path}/repo/"] and pruned == [Policy(last=7, weekly=2)]
    assert not look(lab).lines[0].startswith("/") and len(made) == 1
    found = backup_schedule.condition(lab.settings)
    assert found is not None and not found.problem and "2.0 MiB" in found.line and "every 6h" in found.line
    for hours in range(1, 25):
        with monkeypatch.context() as patch:
            later(patch, hours)
            look(lab)
    assert len(made) == 5


def failing() -> Health:
    raise TrackbedError("the place does not answer", "see to it")


def test_a_failure_is_told_and_tried_again(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    backs_up(monkeypatch, Health)
    look(lab)
    good = backup_schedule.load_result(lab.settings.folder).good
    later(monkeypatch, 6)
    backs_up(monkeypatch, failing)
    with pytest.raises(TrackbedError, match="does not answer"):
        look(lab)
    found = backup_schedule.condition(lab.settings)
    assert found is not None and "failed: the place does not answer" in found.problem and "invoke backup" in found.fix
    assert found.result.good == good and found.data["problem"] == found.problem
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.ERROR and finding.fix
    backs_up(monkeypatch, Health)
    later(monkeypatch, 1)
    assert look(lab).ok
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.OK


def test_old_backups_that_cannot_go_are_told(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo", last=1)
    made = backs_up(monkeypatch, Health)
    monkeypatch.setattr(manage, "pruned", lambda *_: failing())
    assert not look(lab).ok
    found = backup_schedule.condition(lab.settings)
    assert found is not None and "is whole, but old backups could not be forgotten" in found.problem
    look(lab)
    assert len(made) == 1  # not each hour because of that


def test_damage_in_earlier_backups_is_told(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    backs_up(monkeypatch, lambda: Health(("x",), True))
    assert not look(lab).ok
    assert "backup.verify" in (backup_schedule.condition(lab.settings) or pytest.fail()).problem


def test_what_is_stopped_is_not_backed_up(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    made = backs_up(monkeypatch, Health)
    monkeypatch.setattr(status, "overview", lambda engine: View(True))
    assert look(lab).ok and not made
    later(monkeypatch, 48)
    found = backup_schedule.condition(lab.settings)
    assert found is not None and not found.problem and "paused" in found.line
    monkeypatch.setattr(status, "overview", lambda engine: View(False))
    look(lab)
    assert len(made) == 1


def test_no_backup_for_long_and_one_that_was_killed(
    lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    folder, now = lab.settings.folder, time.time()
    Result("running", now).save(folder)
    assert "interrupted" in (backup_schedule.condition(lab.settings) or pytest.fail()).problem
    with state.lock(folder / backup_schedule.LOCK):
        assert (backup_schedule.condition(lab.settings) or pytest.fail()).problem == ""
        assert "at work" in look(lab).lines[0]
    Result("done", now, "", Good(now, "x", 1)).save(folder)
    later(monkeypatch, 11)
    assert (backup_schedule.condition(lab.settings) or pytest.fail()).problem == ""
    later(monkeypatch, 2)
    assert "13 hours old" in (backup_schedule.condition(lab.settings) or pytest.fail()).problem


def test_a_damaged_file_is_told(lab: Project, tmp_path: Path) -> None:
    assert backup_schedule.condition(lab.settings) is None
    set_up(lab, "6h", f"{tmp_path}/repo")
    (lab.settings.folder / RESULT).write_text("{")
    assert not (backup_schedule.condition(lab.settings) or pytest.fail()).result.state
    (lab.settings.folder / FILE).write_text("[]")
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.ERROR and "is damaged" in finding.detail
    set_up(lab, "6h", f"{tmp_path}/repo")
    assert backup_schedule.condition(lab.settings)


# what runs it


def test_others_lines_of_the_crontab_stay(lab: Project, cron: Path, tmp_path: Path) -> None:
    others = "MAILTO=me\n# mine\n5 4 * * * true # trackbed-lab-backup-0\n"
    cron.write_text(others)
    set_up(lab, "6h", f"{tmp_path}/repo")
    set_up(lab, "1d", f"{tmp_path}/repo")
    lines = cron.read_text().splitlines()
    assert lines[:3] == others.splitlines() and len(lines) == 4
    assert lines[3].endswith(f"# {backup_schedule.mark(lab.settings)}") and "env -i" in lines[3]
    assert stat.S_IMODE((lab.settings.folder / FILE).stat().st_mode) == 0o600
    assert "removed" in schedule.remove(lab)[0] and cron.read_text() == others
    assert schedule.remove(lab) == () and backup_schedule.condition(lab.settings) is None


def test_a_crontab_that_cannot_be_read_is_not_taken_for_empty(lab: Project, cron: Path, tmp_path: Path) -> None:
    cron.with_name("crontab").write_text("#!/bin/sh\n[ $1 = -l ] && echo 'not allowed' >&2 && exit 1\ntouch $0.lines\n")
    with pytest.raises(TrackbedError, match="not allowed"):
        set_up(lab, "6h", f"{tmp_path}/repo")
    assert not cron.exists() and backup_schedule.load(lab.settings.folder) is None


def test_a_schedule_whose_line_somebody_removed(lab: Project, cron: Path, tmp_path: Path) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    cron.write_text("")
    assert "cron no longer runs" in (backup_schedule.condition(lab.settings) or pytest.fail()).problem


def test_the_line_is_a_command_of_sh(lab: Project, cron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cron takes % for the end of a line, and hands the rest to sh."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/per%cent/with space")
    set_up(lab, "6h", f"{tmp_path}/repo")
    line = cron.read_text().split(" ", 5)[5]
    assert "\\%" in line
    line = (
        line.replace("\\%", "%")
        .replace(f"cd {lab.settings.clone} &&", "")
        .replace(
            "-m invoke",
            '-c \'import os, sys;open(sys.argv[-1].partition("=")[2] + "/seen", "w").write(repr(dict(os.environ)))\'',
        )
    )
    done = subprocess.run(["sh", "-c", line], env={"LEAK": "1", "PATH": "/usr/bin:/bin"}, timeout=60, check=False)
    seen = eval((lab.settings.state_dir / "seen").read_text())  # noqa: S307
    assert done.returncode == 0 and set(seen) - {"LC_CTYPE"} == {"HOME", "PATH", "LC_ALL"}
    assert seen["PATH"].endswith("/per%cent/with space")


def test_a_line_that_cron_would_not_take(
    lab: Project, cron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = os.environ["PATH"]
    monkeypatch.setenv("PATH", ":".join([shell] * 40))  # what is named twice counts once
    set_up(lab, "6h", f"{tmp_path}/repo")
    before = cron.read_text()
    assert before.count(shell.split(":")[0]) == 1
    monkeypatch.setenv("PATH", f"{shell}:{'/x' * 500}")
    with pytest.raises(TrackbedError, match="cron takes 998"):
        set_up(lab, "1d", f"{tmp_path}/repo")
    assert cron.read_text() == before and found_every(lab) == "6h"
    schedule.remove(lab)
    with pytest.raises(TrackbedError, match="cron takes 998"):
        set_up(lab, "1d", f"{tmp_path}/repo")
    assert backup_schedule.load(lab.settings.folder) is None


def test_systemd_takes_the_units(lab: Project, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT TESTED: no systemd-analyze on this machine")
    lab.settings.clone.mkdir(exist_ok=True)
    names = [tmp_path / f"trackbed-x-backup.{kind}" for kind in ("service", "timer")]
    for path, text in zip(
        names, (schedule.timer(lab.settings, 7).service_unit, schedule.timer(lab.settings, 7).timer_unit), strict=True
    ):
        path.write_text(text)
    done = subprocess.run(
        [analyze, "verify", *map(str, names)], capture_output=True, text=True, timeout=60, check=False
    )
    assert not [line for line in done.stderr.splitlines() if "trackbed-x" in line], done.stderr


def test_with_systemd(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "answers", lambda: True)
    monkeypatch.setattr(systemd, "usable", lambda: True)
    monkeypatch.setattr(systemd, "ask", lambda *args, hint="": asked.append(args))
    lines = set_up(lab, "6h", f"{tmp_path}/repo")
    name = backup_schedule.mark(lab.settings)
    assert asked == [("daemon-reload",), ("enable", "--now", f"{name}.timer")] and "runs it" in lines[0]
    assert {path.suffix for path in (tmp_path / "units").iterdir()} == {".service", ".timer"}
    assert not (backup_schedule.condition(lab.settings) or pytest.fail()).problem
    schedule.remove(lab)
    assert not list((tmp_path / "units").iterdir()) and ("disable", "--now", f"{name}.timer") in asked


# one that cannot be made, or is made while a backup runs


def breaks(cron: Path) -> None:
    """The crontab is read, and takes nothing any more."""
    cron.with_name("crontab").write_text(CRONTAB.replace('cat > "$0.lines"', "echo 'no space left' >&2; exit 1"))


def test_a_crontab_that_takes_nothing_keeps_the_earlier_schedule(lab: Project, cron: Path, tmp_path: Path) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    Result("done", time.time(), "", Good(time.time(), "x", 1)).save(lab.settings.folder)
    before = cron.read_text()
    breaks(cron)
    cron.write_text(cron.read_text().replace(" invoke", "  invoke"))  # of an earlier version
    other = cron.read_text()
    with pytest.raises(TrackbedError, match="no space left"):
        set_up(lab, "1d", f"{tmp_path}/other")
    assert cron.read_text() == other != before and found_every(lab) == "6h"
    assert backup_schedule.load_result(lab.settings.folder).good


def test_a_crontab_that_is_cut_gets_the_earlier_lines_back(lab: Project, cron: Path, tmp_path: Path) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    before = cron.read_text() + "1 1 * * * mine\n"
    cron.write_text(before)
    cut = 'cat > "$0.new"; [ -e "$0.once" ] && mv "$0.new" "$0.lines" || { : > "$0.once"; head -c 9 "$0.new" > "$0.lines"; }'
    cron.with_name("crontab").write_text(CRONTAB.replace('cat > "$0.lines"', cut))
    cron.write_text(before.replace(" invoke", "  invoke"))
    before = cron.read_text()
    with pytest.raises(TrackbedError, match="could not be written"):
        set_up(lab, "1d", f"{tmp_path}/other")
    assert cron.read_text() == before and found_every(lab) == "6h"


@pytest.mark.parametrize("fails", ["daemon-reload", "enable"])
def test_units_that_systemd_does_not_take_leave_the_earlier_ones(
    lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    asked, broken = list[tuple[str, ...]](), False

    def ask(*args: str, hint: str = "") -> None:
        asked.append(args)
        if broken and args[0] == fails:
            raise TrackbedError(f"systemctl {fails} failed", hint)

    for name in ("answers", "usable"):
        monkeypatch.setattr(systemd, name, lambda: True)
    monkeypatch.setattr(systemd, "ask", ask)

    def units() -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / "units").glob("*")}

    broken = True
    with pytest.raises(TrackbedError, match=fails) as error:
        set_up(lab, "6h", f"{tmp_path}/repo")
    assert not units() and "nothing was changed" in error.value.hint
    assert backup_schedule.condition(lab.settings.reload({}, backup_every="")) is None
    broken = False
    set_up(lab, "6h", f"{tmp_path}/repo")
    before, broken = units(), True
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/more")
    with pytest.raises(TrackbedError, match=fails):
        set_up(lab, "1d", f"{tmp_path}/repo")
    assert units() == before and found_every(lab) == "6h"
    assert ("disable", "--now", f"{backup_schedule.mark(lab.settings)}.timer") not in asked[-3:]


def test_another_runner_takes_the_place_of_the_first(
    lab: Project, cron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    for name in ("answers", "usable"):
        monkeypatch.setattr(systemd, name, lambda: True)

    def refuse(*args: str, hint: str = "") -> None:
        raise TrackbedError("systemctl failed", hint)

    monkeypatch.setattr(systemd, "ask", refuse)
    with pytest.raises(TrackbedError, match="systemctl failed"):
        set_up(lab, "1d", f"{tmp_path}/repo")
    assert cron.read_text() and found_every(lab) == "6h"
    monkeypatch.setattr(systemd, "ask", lambda *args, hint="": None)
    assert any("removed" in line for line in set_up(lab, "1d", f"{tmp_path}/repo"))
    assert not cron.read_text() and found_every(lab) == "1d"


class Cluster(Services):
    """An engine that runs schedules itself; ``runs``: what it runs now."""

    runs_schedules, broken = True, False

    def __init__(self, lab: Project) -> None:
        self.lab, self.runs = lab, ""

    def start_schedule(self) -> tuple[str, ...]:
        made = backup_schedule.load(self.lab.settings.folder) or pytest.fail()
        self.runs = backup_runs.period(made.every)
        if self.broken and self.runs == "1d":
            raise TrackbedError("the API does not answer", "")
        return ()

    def end_schedule(self) -> tuple[str, ...]:
        self.runs = ""
        return ()


def test_a_cluster_that_does_not_take_it_runs_the_earlier_one(lab: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(lab)
    monkeypatch.setattr(status, "running", lambda project: cluster)
    monkeypatch.setattr(schedule, "_place", lambda settings, in_bucket: (settings.backup_to, []))
    cluster.broken = True
    with pytest.raises(TrackbedError, match="does not answer"):
        set_up(lab, "1d", "s3://bucket/x")
    assert cluster.runs == "" and not backup_schedule.exists(lab.settings)
    set_up(lab, "6h", "s3://bucket/x")
    with pytest.raises(TrackbedError, match="does not answer"):
        set_up(lab, "1d", "s3://bucket/x")
    assert cluster.runs == "6h"
    assert (backup_schedule.load(lab.settings.folder) or pytest.fail()).every == 6 * HOUR


def test_a_damaged_schedule_that_cannot_be_made_again_is_told_still(lab: Project, cron: Path, tmp_path: Path) -> None:
    set_up(lab, "6h", f"{tmp_path}/repo")
    (lab.settings.folder / FILE).write_text("[]")
    breaks(cron)
    cron.write_text("")
    with pytest.raises(TrackbedError, match="no space left"):
        set_up(lab, "1d", f"{tmp_path}/repo")
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.ERROR and "is damaged" in finding.detail


@pytest.mark.parametrize("ended", [False, True], ids=["made again", "ended"])
def test_a_schedule_that_is_made_again_while_a_backup_runs_starts_no_second_one(
    lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Nor does the first one forget anything by the policy that it began with, or tell of the new schedule."""
    set_up(lab, "6h", f"{tmp_path}/repo", last=1)
    pruned: list[Policy] = []
    monkeypatch.setattr(manage, "pruned", lambda project, place, policy, *_: pruned.append(policy))
    second: list[str] = []

    def meanwhile() -> Health:
        schedule.remove(lab)
        if not ended:
            set_up(lab, "6h", f"{tmp_path}/other", last=50)
            second.extend(look(lab).lines)
            assert found_every(lab) == "6h"
        return Health()

    made = backs_up(monkeypatch, meanwhile)
    ran = look(lab)
    assert ran.ok and "made again meanwhile" in ran.lines[-1] and made == [f"{tmp_path}/repo/"] and not pruned
    assert ended or second == ["a scheduled backup is at work already"]
    assert not (lab.settings.folder / RESULT).exists()
    if not ended:
        made = backs_up(monkeypatch, Health)
        assert look(lab).ok and made == [f"{tmp_path}/other/"] and pruned == [Policy(last=50)]


# what .env asks for


def from_file(lab: Project, text: str) -> None:
    """The project as its .env says."""
    lab.settings.env_file.parent.mkdir(exist_ok=True)
    lab.settings.env_file.write_text(text)
    words = {"project": "lab", "state_dir": str(lab.settings.state_dir)}
    lab.settings = Settings.load(words, {}, lab.settings.env_file, {})


def test_up_makes_the_schedule_of_the_file_once(lab: Project, cron: Path, tmp_path: Path) -> None:
    assert schedule.follow(lab) == () and not cron.exists()
    from_file(lab, f"BACKUP_EVERY=6h\nBACKUP_TO={tmp_path}/repo\nBACKUP_KEEP_LAST=7\n")
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.ERROR and "there is none" in finding.detail and ".env line 1" in finding.detail
    assert "every 6h" in schedule.follow(lab)[-1] and schedule.follow(lab) == ()
    made = backup_schedule.load(lab.settings.folder) or pytest.fail()
    assert (made.place, made.keep) == (f"{tmp_path}/repo/", {"--keep-last": 7})
    from_file(lab, f"BACKUP_EVERY=1d\nBACKUP_TO={tmp_path}/repo\nBACKUP_KEEP_LAST=7\n")
    (finding,) = backup_schedule.findings(lab.settings)
    assert f"--every=6h --to={tmp_path}/repo/ --keep-last=7" in finding.detail and "backup.schedule" in finding.fix
    assert "every 1d" in schedule.follow(lab)[-1]
    from_file(lab, "")  # a schedule that was made stays until it is ended
    assert schedule.follow(lab) == () and backup_schedule.condition(lab.settings)


def test_a_schedule_of_the_file_that_cannot_be_made_is_no_failed_start(lab: Project) -> None:
    from_file(lab, "BACKUP_EVERY=6h\n")
    warning, fix, where = schedule.follow(lab)
    assert where == "  see docs/troubleshooting.md#schedule"
    assert "BACKUP_EVERY=6h" in warning and "--to is missing" in warning and "`invoke backup.schedule`" in fix
    (finding,) = backup_schedule.findings(lab.settings)
    assert finding.level is Level.ERROR
    (lab.settings.folder / FILE).write_text("{}")  # nor is one that is damaged
    warning, hint, *_ = schedule.follow(lab)
    assert "damaged" in warning and "--every=6h" in hint


@pytest.mark.parametrize(
    ("text", "flags", "place"),
    [
        ("BACKUP_TO=/mnt/b", {}, "/mnt/b/"),
        ("BACKUP_TO=s3://b/x", {}, "s3://b/x"),
        ("BACKUP_TO=/mnt/b", {"to": "x.tar"}, "x.tar"),  # a file, below the current folder
        ("BACKUP_TO=/mnt/b", {"to": ""}, ""),
        ("", {}, ""),
    ],
)
def test_where_a_backup_goes(tmp_path: Path, text: str, flags: dict[str, str], place: str) -> None:
    file = tmp_path / "clone" / ".env"
    file.parent.mkdir()
    file.write_text(text)
    given = {"state_dir": str(tmp_path / "state"), **flags}
    assert Settings.load(given, {}, file, {}).backup_place == place


@pytest.mark.parametrize("value", ["backups", "./b", "s3:b", "/b\tc"])
def test_a_place_that_means_another_in_each_folder_is_refused_in_the_file(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingError, match="BACKUP_TO"):
        Settings.load(
            {"state_dir": str(tmp_path / "s")}, {"TRACKBED_BACKUP_TO": value}, tmp_path / "clone" / ".env", {}
        )


# what is refused in words


def test_a_list_without_a_place_names_the_schedules(lab: Project, tmp_path: Path) -> None:
    with pytest.raises(TrackbedError, match="no backup found") as error:
        manage.listing(lab, "")
    assert "`invoke backup` makes one" in error.value.hint
    set_up(lab, "6h", f"{tmp_path}/repo")
    with pytest.raises(TrackbedError, match="no backup found") as error:
        manage.listing(lab, "")
    assert f"those of the schedule are in {tmp_path}/repo/" in error.value.hint


def test_where_nothing_would_run_it(lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crontab, "usable", lambda: False)
    with pytest.raises(TrackbedError, match="neither systemd nor cron") as error:
        set_up(lab, "6h", f"{tmp_path}/repo")
    assert f"every 6h: cd {lab.settings.clone} && " in error.value.hint
    assert f"-m invoke backup --to={tmp_path}/repo/ " in error.value.hint, "as it was typed: nothing is left to fill in"
    assert "prune" not in error.value.hint
    with pytest.raises(TrackbedError) as error:
        set_up(lab, "6h", f"{tmp_path}/repo", last=7, weekly=2)
    assert f"-m invoke backup.prune {tmp_path}/repo/ --keep-last=7 --keep-weekly=2 " in error.value.hint


def test_keys_of_the_shell_are_refused(lab: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBED_BACKUP_S3_SECRET_KEY", "x" * 20)
    with pytest.raises(SettingError, match=r"write it into \.env"):
        set_up(lab, "6h", "s3://bucket/x")


def test_a_cluster_makes_no_backup_into_a_folder_of_this_machine(
    lab: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Services, "runs_schedules", True)
    with pytest.raises(SettingError, match="into a bucket"):
        set_up(lab, "6h", f"{tmp_path}/repo")


def test_a_place_is_needed(lab: Project) -> None:
    with pytest.raises(SettingError, match="--to is missing"):
        set_up(lab, "6h", "")
    with pytest.raises(TrackbedError, match="there is no schedule"):
        look(lab)
