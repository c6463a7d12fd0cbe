"""Everything that runs as an account of root's embedded project ends, also what hides or defends itself."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import process_table
from helpers.engines.embedded.accounts import Accounts
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
        assert process.wait(5) == -signal.SIGKILL
        assert another.poll() is None, "it is another account's"
    assert uid not in process_table.owners()
