"""A schedule of encrypted backups as cron runs it, with nothing of the shell that made it."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.backups import encrypted, repository
from helpers.backups.encrypted import Encrypted
from helpers.backups.storage import Folder
from helpers.project import backup_runs
from tests.conftest import Clone
from tests.integration import crontabs, inspection

pytestmark = pytest.mark.transfer


@pytest.fixture
def passphrase(own: dict[str, Clone]) -> Iterator[str]:
    """In the project's `.env`, where a schedule finds it."""
    env, phrase = own["embedded"].folder / ".env", secrets.token_urlsafe(16)
    before = env.read_bytes() if env.exists() else b""
    env.touch(0o600)
    env.chmod(0o600)
    env.write_bytes(before + f"\nBACKUP_PASSPHRASE={phrase}\n".encode())
    yield phrase
    env.write_bytes(before)


def test_a_schedule(own: dict[str, Clone], passphrase: str, tmp_path: Path) -> None:
    clone, repo = own["embedded"], tmp_path / "repo"
    make = ("backup.schedule", "--every=1h", f"--to={repo}", "--keep-last=1", "--keep-daily=1", "--keep-weekly=1")
    with crontabs.standing(tmp_path) as crontab:
        done = clone.invoke(*make, around=crontab.around)
    assert done.returncode == 0, done.stderr
    assert "without this passphrase nobody can read these backups again" in done.stderr
    line, path = crontab.line, crontab.around

    def hour() -> subprocess.CompletedProcess[str]:
        return crontabs.run(line)

    done = hour()
    assert done.returncode == 0, done.stderr
    (name,) = repository.names(Folder(repo))
    assert isinstance(encrypted.opened(Folder(repo), passphrase), Encrypted)
    written = [path for path in clone.project_folder.glob("*.json") if passphrase in path.read_text()]
    assert not written and passphrase not in line + done.stdout + done.stderr
    assert hour().returncode == 0 and repository.names(Folder(repo)) == [name]  # not due
    seen = json.loads(clone.invoke("status", "--json", "--check", around=path).stdout)["backups"]
    assert name in seen["last_good"]["backup"] and seen["problem"] == ""
    # an hour later the place is gone
    result = clone.project_folder / backup_runs.RESULT
    result.write_text(json.dumps({**json.loads(result.read_text()), "started": 0}))
    repo.rename(tmp_path / "away")
    repo.write_text("no folder")
    assert hour().returncode == 1
    done = clone.invoke("status", "--check", around=path)
    assert done.returncode == 1 and "the last scheduled backup failed" in done.stderr
    assert clone.invoke("status", around=path).returncode == 0
    inspection.refused(clone.invoke("backup.schedule", "--off", "--every=6h", around=path), 2, "no effect", "leave")
    repo.unlink()
    (tmp_path / "away").rename(repo)
    assert hour().returncode == 0 and len(repository.names(Folder(repo))) == 1  # the first one was forgotten
    assert repository.names(Folder(repo)) != [name]
    done = clone.invoke("backup.schedule", "--off", around=path)
    assert done.returncode == 0 and not crontab.text
    assert clone.invoke("status", "--check", around=path).returncode == 0
