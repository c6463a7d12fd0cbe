"""Each way in which PostgreSQL does not start leads on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from helpers import database_failures
from helpers.engines import failures
from helpers.engines.base import POSTGRES, ServiceStatus, State
from helpers.engines.embedded import stale_locks

TIME = "2026-11-25 21:33:37.284 UTC [25988] "
DAMAGED, DISK, READ_ONLY = "files are damaged", "disk that holds the database is full", "is read-only"
OWNER, OTHER = "folder is not PostgreSQL's any more", "another PostgreSQL works on"


@pytest.mark.parametrize(
    ("line", "means", "fix"),
    [
        ("PANIC:  could not locate a valid checkpoint record at 0/1AF1628", DAMAGED, "invoke restore FILE --into=NAME"),
        ("PANIC:  could not locate a valid checkpoint record", DAMAGED, "invoke down --delete-data"),
        (
            'FATAL:  could not open file "global/pg_filenode.map": No such file or directory',
            DAMAGED,
            "invoke restore FILE",
        ),
        ('PANIC:  could not open file "global/pg_control": No such file or directory', DAMAGED, "invoke restore FILE"),
        ('FATAL:  required WAL directory "pg_wal" does not exist', DAMAGED, "invoke restore FILE"),
        ('FATAL:  could not read file "pg_logical/x": Input/output error', DAMAGED, "invoke restore FILE"),
        ("FATAL:  incorrect checksum in control file", DAMAGED, "invoke restore FILE"),
        ('FATAL:  could not open directory "pg_wal": No such file or directory', DAMAGED, "invoke restore FILE"),
        ("FATAL:  could not access status of transaction 0", "", ""),
        ('FATAL:  "/x/postgres-18" is not a valid data directory', DAMAGED, "invoke restore FILE"),
        (
            'initdb: error: directory "/var/lib/postgresql/18/docker" exists but is not empty',
            DAMAGED,
            "invoke restore FILE",
        ),
        ('FATAL:  could not write lock file "postmaster.pid": No space left on device', DISK, "df -h"),
        ('PANIC:  could not write to file "pg_wal/xlogtemp.30": No space left on device', DISK, "invoke up"),
        ('FATAL:  could not create lock file "postmaster.pid": Read-only file system', READ_ONLY, "dmesg"),
        ('FATAL:  data directory "/x/postgres-18" has wrong ownership', OWNER, "chown"),
        ('FATAL:  data directory "/x/postgres-18" has invalid permissions', OWNER, "chmod 700"),
        ('FATAL:  could not create lock file "postmaster.pid": Permission denied', OWNER, "chown"),
        ('FATAL:  could not open file "/x/PG_VERSION": Permission denied', OWNER, "chown"),
        ('FATAL:  lock file "postmaster.pid" already exists', OTHER, "ps aux"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "not enough memory", "invoke up"),
        ('FATAL:  role "x" does not exist', "", ""),
        ("LOG:  could not locate a valid checkpoint record", "", ""),
    ],
)
def test_the_last_words_lead_on(line: str, means: str, fix: str) -> None:
    result = database_failures.explain(["LOG:  starting", TIME + line, "LOG:  database system is shut down"])
    if not means:
        assert result is None
        return
    assert result and means in result[0] and fix in result[1]
    assert re.split(r"(?:[A-Z]+:  |error: )", line)[1] in result[0], "PostgreSQL's own words are told"


def test_the_service_that_failed_tells_it() -> None:
    class Engine:
        def logs(self, service: str, tail: int = 200, follow: bool = False) -> list[str]:
            return [TIME + "PANIC:  could not locate a valid checkpoint record"]

    error = failures.failure(Engine(), ServiceStatus(POSTGRES, State.EXITED, exit_code=1))  # type: ignore[arg-type]
    assert "the database's files are damaged" in error.message and "invoke restore" in error.hint


def test_who_works_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc, data, other = tmp_path / "proc", tmp_path / "data", tmp_path / "other"
    for folder in (data, other):
        folder.mkdir()
    assert stale_locks.workers(data, proc) is None, "no /proc: nothing is known"
    for pid, where in ((7, data), (8, other), (12, data)):
        (proc / str(pid)).mkdir(parents=True)
        os.symlink(where, proc / str(pid) / "cwd")
    (proc / "9").mkdir()  # of another account
    assert stale_locks.workers(data, proc) == [7, 12]
    assert stale_locks.workers(tmp_path / "gone", proc) is None
    real = os.stat

    def stat(path: Path, **words: bool) -> os.stat_result:
        if Path(path).name == "cwd":
            raise PermissionError
        return real(path, **words)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        hidden = stale_locks.workers(data, proc)
    assert hidden is None, "a container's root may not look: the lock stays"


@pytest.mark.parametrize(("text", "pid"), [("4711\n/data\n17\n", 4711), ("", 0), ("\0\0\0", 0), ("x\n", 0)])
def test_a_lock_file(text: str, pid: int) -> None:
    assert stale_locks.holder(text) == pid
