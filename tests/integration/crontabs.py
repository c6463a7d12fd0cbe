"""A crontab of the test's own, and its lines as cron would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.unit.test_backup_schedule import CRONTAB


@dataclass(frozen=True)
class Crontab:
    """``around``: variables for tasks that are to find it."""

    file: Path
    around: dict[str, str]

    @property
    def text(self) -> str:
        return self.file.read_text()

    @property
    def line(self) -> str:
        """The only one."""
        (found,) = self.text.splitlines()
        return found


@contextmanager
def standing(folder: Path) -> Iterator[Crontab]:
    """A crontab, its daemon, which does nothing, and no systemd to ask."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {"crontab": CRONTAB, "systemctl": "#!/bin/sh\nexit 1\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    shutil.copy(shutil.which("sleep") or "/bin/sleep", programs / "cron")
    with subprocess.Popen([programs / "cron", "600"], stdin=subprocess.DEVNULL) as daemon:
        try:
            yield Crontab(programs / "crontab.lines", {"PATH": f"{programs}:{os.environ['PATH']}"})
        finally:
            daemon.kill()


def run(line: str) -> subprocess.CompletedProcess[str]:
    """With nothing of this process's environment."""
    return subprocess.run(
        ["sh", "-c", line.split(" ", 5)[5].replace("\\%", "%").replace(">/dev/null 2>&1", "")],
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
