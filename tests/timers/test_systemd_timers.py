"""A schedule of backups that systemd runs as PID 1: of the system, and of a user with linger who never logs in.

What would take hours is written into the files that tell when the last run was: Trackbed's and systemd's own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from helpers.project import backup_runs
from tests.conftest import require_docker
from tests.integration import inspection
from tests.timers.systemd_machine import PROJECT, Machine, machine

pytestmark = pytest.mark.timeout(1800)
STAMPS = {"root": "/var/lib/systemd/timers", "ann": "/home/ann/.local/share/systemd/timers"}
UNITS = {"root": "/etc/systemd/system", "ann": "/home/ann/.config/systemd/user"}
DAY = 24 * backup_runs.HOUR
AGE = """
import json, sys
path, seconds = sys.argv[1], float(sys.argv[2])
content = json.load(open(path))
content["started"] -= seconds
content["good"]["ended"] -= seconds
json.dump(content, open(path, "w"))
"""


@pytest.mark.parametrize("user", ["root", "ann"])
def test_systemd_makes_up_for_what_was_missed_and_tries_again(user: str) -> None:
    require_docker()
    if os.geteuid() or not shutil.which("debootstrap"):
        pytest.skip("NOT TESTED: a machine with systemd needs root and debootstrap")
    with machine(user) as one:
        one.value("sh", "setup.sh", "up", "--on-boot=true")
        done = one.invoke("backup.schedule", "--every=6h", f"--to={one.home}/repo")
        assert done.returncode == 0 and "enable-linger" not in done.stderr, done.stderr
        (timer,) = one.value("sh", "-c", f"cd {UNITS[user]} && ls -d *.timer").split()
        assert timer in systemctl(one, "list-timers", "--no-pager", timer)
        # its minute of each hour becomes each minute
        drop_in = f"{UNITS[user]}/{timer}.d"
        one.value("mkdir", drop_in)
        one.value("sh", "-c", f"printf '[Timer]\\nOnCalendar=\\nOnCalendar=*:*:00\\n' >{drop_in}/each-minute.conf")
        reload(one, timer)
        eventually(one, lambda: len(names(one)) == 1 and result(one)["state"] == "done", "the first backup")
        assert one.invoke("status", "--check").returncode == 0
        # a place that is gone, and comes back
        one.value("sh", "-c", f"cd {one.home} && mv repo away && touch repo")
        age(one, DAY / 4)
        eventually(one, lambda: result(one)["state"] == "failed", "the failure")
        for task in (("status", "--check"), ("doctor",)):
            done = one.invoke(*task)
            assert done.returncode == 1 and "the last scheduled backup failed" in done.stderr + done.stdout, done
        one.value("sh", "-c", f"cd {one.home} && rm repo && mv away repo")
        eventually(one, lambda: len(names(one)) == 2 and result(one)["state"] == "done", "the next try")
        assert one.invoke("status", "--check").returncode == 0
        # switched off for a day, at its own minute of each hour again
        one.value("rm", "-r", drop_in)
        reload(one, timer)
        age(one, DAY)
        done = one.invoke("status", "--check")
        assert done.returncode == 1 and "more than twice its interval" in done.stderr, done.stderr
        one.value("touch", "--date=yesterday", f"{STAMPS[user]}/stamp-{timer}")
        one.reboot()
        eventually(one, lambda: len(names(one)) == 3 and result(one)["state"] == "done", "the one that was missed")
        assert one.invoke("status", "--check").returncode == 0
        done = one.invoke("backup.verify", f"{one.home}/repo")
        assert done.returncode == 0, done.stderr
        done = one.invoke("backup.schedule", "--off")
        assert done.returncode == 0 and f"{timer} was removed" in done.stderr, done.stderr
        assert timer not in systemctl(one, "list-timers", "--all", "--no-pager")
        one.value(".venv/bin/invoke", "down", "--delete-data", "--yes")


def systemctl(one: Machine, *words: str) -> str:
    mine = [] if one.user == "root" else ["--user", f"--machine={one.user}@"]
    return one.as_root("systemctl", *mine, *words)


def reload(one: Machine, timer: str) -> None:
    systemctl(one, "daemon-reload")
    systemctl(one, "restart", timer)


def eventually(one: Machine, holds: Callable[[], bool], what: str) -> None:
    inspection.until(holds, lambda: f"{what}: {result(one)}\n{one.journal()}", pause=2)


def names(one: Machine) -> list[str]:
    done = one.typed("sh", "-c", f"ls {one.home}/repo/backups 2>/dev/null || true")
    return done.stdout.split()


def result(one: Machine) -> dict[str, Any]:
    done = one.typed("cat", f"{one.state}/{PROJECT}/{backup_runs.RESULT}")
    return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout else {"state": ""}


def age(one: Machine, seconds: float) -> None:
    """As if so much time had gone since the last backup."""
    one.value("python3", "-c", AGE, f"{one.state}/{PROJECT}/{backup_runs.RESULT}", str(seconds))
