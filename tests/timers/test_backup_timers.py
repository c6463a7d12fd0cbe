"""A schedule of backups run by Debian's cron itself: what was missed is made up for, what failed is tried again.

The daemon has a spool and a PAM of its own, in a mount namespace. What would take hours is written into the file that
tells when the last backup was made. Its minute of each hour becomes each minute.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers.backups import repository
from helpers.backups.storage import Folder
from helpers.project import backup_runs
from tests.conftest import PATIENCE, Clone, clones
from tests.integration import inspection

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"),
        reason="NOT TESTED: cron in a mount namespace needs root on Debian",
    ),
]
PID_FILE = Path("/run/crond.pid")
DAY = 24 * backup_runs.HOUR
INSIDE = """#!/bin/sh
# a program of cron's where its spool and its PAM are the test's
set -eu
cd {folder}
mount -t tmpfs tmpfs /var/spool
mkdir -p /var/spool/cron/crontabs
mount --bind spool /var/spool/cron/crontabs
mount --bind pam.d /etc/pam.d
exec "$@"
"""
CRONTAB = """#!/bin/sh
exec unshare --mount --propagation private sh {folder}/inside {folder}/root/usr/bin/crontab "$@"
"""


class Cron:
    """Debian's cron. ``path``: where `crontab` is that edits its spool."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("bin", "spool", "pam.d", "root"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        inspection.output("sh", "-c", f"cd {folder} && apt-get download -q cron && dpkg-deb -x cron_*.deb root")
        (folder / "pam.d" / "cron").write_text(
            "".join(f"{k} required pam_permit.so\n" for k in ("auth", "account", "session"))
        )
        (folder / "inside").write_text(INSIDE.format(folder=folder))
        self.program = (str(folder / "root" / "usr" / "sbin" / "cron"), "-f")
        (self.path / "crontab").write_text(CRONTAB.format(folder=folder))
        (self.path / "crontab").chmod(0o755)
        (self.path / "systemctl").write_text("#!/bin/sh\nexit 1\n")
        (self.path / "systemctl").chmod(0o755)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*"unshare --mount --propagation private sh".split(), f"{self.folder}/inside", *self.program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        inspection.until(PID_FILE.exists, lambda: "cron does not start")

    def stop(self) -> None:
        """As when the machine is switched off: also what it runs."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        self._process = None
        PID_FILE.unlink(missing_ok=True)


@pytest.fixture
def cron(tmp_path: Path) -> Iterator[Cron]:
    if PID_FILE.exists():
        pytest.skip("NOT TESTED: this machine has a cron of its own")
    created = Cron(tmp_path / "cron")
    created.start()
    yield created
    created.stop()


def test_cron_makes_up_for_what_was_missed_and_tries_again(cron: Cron, tmp_path: Path) -> None:
    repo, around = tmp_path / "repo", {"PATH": f"{cron.path}:{os.environ['PATH']}"}
    with clones() as make:
        clone = make("embedded")
        clone.up()
        done = clone.invoke("backup.schedule", "--every=6h", f"--to={repo}", around=around)
        assert done.returncode == 0 and "crontab" in done.stderr, done.stderr
        edit = r"crontab -l | sed 's/^[0-9]* \* \* \* \* /* * * * * /' | crontab -"
        inspection.output("sh", "-c", edit, env={**os.environ, **around})

        def names() -> list[str]:
            return repository.names(Folder(repo))

        def checked() -> int:
            return clone.invoke("status", "--check", around=around).returncode

        eventually(lambda: len(names()) == 1 and result(clone)["state"] == "done", "the first backup")
        assert checked() == 0
        # switched off for a day
        cron.stop()
        age(clone, DAY)
        done = clone.invoke("status", "--check", around=around)
        assert done.returncode == 1 and "more than twice its interval" in done.stderr, done.stderr
        cron.start()
        eventually(lambda: len(names()) == 2 and result(clone)["state"] == "done", "the one that was missed")
        assert checked() == 0
        # a place that is gone, and comes back
        cron.stop()
        age(clone, DAY / 4)
        repo.rename(tmp_path / "away")
        repo.write_text("no folder")
        cron.start()
        eventually(lambda: result(clone)["state"] == "failed", "the failure")
        assert checked() == 1
        cron.stop()
        repo.unlink()
        (tmp_path / "away").rename(repo)
        cron.start()
        eventually(lambda: len(names()) == 3 and result(clone)["state"] == "done", "the next try")
        assert checked() == 0
        done = clone.invoke("backup.schedule", "--off", around=around)
        assert done.returncode == 0 and "crontab was removed" in done.stderr, done.stderr


def eventually(holds: Callable[[], bool], what: str) -> None:
    inspection.until(holds, lambda: what, seconds=PATIENCE + 120)


def result(clone: Clone) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((clone.project_folder / backup_runs.RESULT).read_text())
        return found
    return {"state": ""}


def age(clone: Clone, seconds: float) -> None:
    """As if so much time had gone since the last backup."""
    content = result(clone)
    content["started"] -= seconds
    content["good"]["ended"] -= seconds
    (clone.project_folder / backup_runs.RESULT).write_text(json.dumps(content))


def test_systemd_takes_the_hours_that_a_timer_names() -> None:
    """Each hour at its minute; `systemd-analyze verify` reads the units in tests/unit/test_backup_schedule.py."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("NOT TESTED: no systemd-analyze on this machine")
    said = inspection.output("systemd-analyze", "calendar", "--iterations=3", "*-*-* *:07:00")
    times = [line.split()[-2] for line in said.splitlines() if "Next elapse" in line or "Iter" in line]
    assert len(times) == 3 and {time.partition(":")[2] for time in times} == {"07:00"}
