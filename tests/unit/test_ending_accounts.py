"""Everything that runs as an account of root's embedded project ends, also what hides or defends itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import process_table
from helpers.engines.embedded.accounts import Accounts
from tests.conftest import PATIENCE
from tests.unit import disguise


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root becomes other accounts")
@pytest.mark.parametrize(
    "code",
    [disguise.named(0), disguise.HEADLESS, disguise.STOPPER],
    ids=["named as root", "first thread ended", "stops the killer"],
)
def test_nothing_of_an_account_escapes_its_end(code: str) -> None:
    uid = 60100 + os.getpid() % 2500 * 2  # nobody else's: everything of it is killed
    account: Any = SimpleNamespace(pw_uid=uid, pw_gid=uid)
    with (
        disguise.started(code, uid=uid) as process,
        disguise.started("import time; print(flush=True); time.sleep(60)", uid=uid + 1) as another,
    ):
        assert uid in process_table.owners()
        Accounts._end(account)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert another.poll() is None, "it is another account's"
    assert uid not in process_table.owners()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root becomes other accounts")
def test_a_container_with_a_user_of_the_same_uid_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's image runs as 999, which useradd gives to the first account that it makes."""
    uid = 60100 + os.getpid() % 2500 * 2
    account: Any = SimpleNamespace(pw_uid=uid, pw_gid=uid)
    sleeping = "import time; print(flush=True); time.sleep(60)"
    with disguise.started(disguise.HEADLESS, uid=uid) as process, disguise.started(sleeping, uid=uid) as contained:
        monkeypatch.setattr(process_table, "in_container", lambda pid: pid == contained.pid)
        Accounts._end(account)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert contained.poll() is None
        assert process_table.of_account(uid) == [contained.pid]


NAME = "/docker/" + "0123456789abcdef" * 4
SCOPE = "/system.slice/docker-" + "0123456789abcdef" * 4 + ".scope"
POD = "/kubepods/burstable/pod1"
ALL = "0 0 4294967295"


@pytest.mark.parametrize(
    ("numbers", "uid_map", "cgroup", "own", "result"),
    [
        ("812 1", ALL, NAME, ("7", ALL, "/"), True),
        ("812 1", ALL, SCOPE, ("7", ALL, "/user.slice"), True),
        ("812 31", ALL, POD, ("7", ALL, "/"), True),
        ("812", ALL, NAME, ("7", ALL, "/"), False),  # --pid=host: not told from others
        ("812 1", "0 899 1", NAME, ("7", ALL, "/"), False),  # a user namespace, which the account itself can make
        ("812 1", ALL, "/user.slice", ("7", ALL, "/user.slice"), False),  # by bwrap or firejail
        ("812", ALL, NAME, ("7", ALL, NAME), False),  # the toolkit is in a container, and this one is beside it
        ("812 1", ALL, NAME, ("7", ALL, NAME), False),
        ("812 1", ALL, POD, ("7", ALL, POD), False),  # the same in a pod
        ("9 812 1", ALL, NAME + NAME.replace("a", "f"), ("9 7", ALL, NAME), True),  # a container in the toolkit's one
    ],
)
def test_who_is_in_a_container(
    tmp_path: Path, numbers: str, uid_map: str, cgroup: str, own: tuple[str, str, str], result: bool
) -> None:
    for pid, (ids, mapped, group) in {"812": (numbers, uid_map, cgroup), "self": own}.items():
        folder = tmp_path / pid
        folder.mkdir()
        tabs = ids.replace(" ", chr(9))
        (folder / "status").write_text(f"Name:\tx\nUid:\t999\t999\t999\t999\nNSpid:\t{tabs}\nThreads:\t1\n")
        (folder / "uid_map").write_text(f"         {mapped}\n")
        (folder / "cgroup").write_text(f"0::{group}\n")
    assert process_table.in_container(812, tmp_path) is result
    assert not process_table.in_container(813, tmp_path)
