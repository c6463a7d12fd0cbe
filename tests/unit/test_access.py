"""helpers/project/access.py: whose accounts make MLflow ask for a token, and that nothing flips back by itself."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from helpers.checks import doctor
from helpers.project import access
from helpers.project.project import Project
from tests.unit import fakes

ANN, BOB = 1000, 1001


def account(name: str, uid: int, shell: str = "/bin/bash", home: object = "/home/x") -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", str(home), shell))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[pwd.struct_passwd]:
    """The accounts there are, beside what every machine has; ann runs the tasks."""
    listed = [
        account("root", 0),
        account("daemon", 1, "/usr/sbin/nologin"),
        account("postgres", 110),
        account("nobody", 65534),
        account("ann", ANN),
        account("kiosk", 1500, "/usr/sbin/nologin"),
    ]
    monkeypatch.setattr(pwd, "getpwall", lambda: listed)
    monkeypatch.setattr(access, "_present", lambda: iter(()))
    monkeypatch.setattr(access, "_lowest_uid", lambda: 1000)
    monkeypatch.setattr(access, "_uid", lambda: ANN)
    monkeypatch.delenv("SUDO_UID", raising=False)
    return listed


def project(tmp: Path, **flags: str) -> Project:
    return fakes.project(tmp, **flags)


def test_alone_it_is_open(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    mine = project(tmp_path)
    assert access.decide(mine) == "local access: open, MLflow asks for no token: no other person has an account here"
    assert not mine.asks and mine.access_token() == "" and mine.state.access == {"mode": "open", "uid": str(ANN)}


@pytest.mark.parametrize(
    "other",
    [
        account("bob", BOB),
        account("carl", 1002, ""),
        account("far", 1_700_000_000),
        account("trackbed-theirs-notebook", 400, "/usr/sbin/nologin"),
    ],
    ids=lambda entry: entry.pw_name,
)
def test_another_account_makes_it_ask(
    machine: list[pwd.struct_passwd], tmp_path: Path, other: pwd.struct_passwd
) -> None:
    machine.append(other)
    mine = project(tmp_path)
    said = access.decide(mine)
    assert mine.asks and len(mine.access_token()) == 43
    assert other.pw_name in said and "asks for a token" in said and mine.access_token() not in said


def test_services_of_this_project_are_no_others(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    mine = project(tmp_path)
    home = mine.settings.folder / "embedded" / "home" / "server"
    machine.append(account("trackbed-trackbed-mlflow", 400, "/usr/sbin/nologin", home))
    access.decide(mine)
    assert not mine.asks


def test_who_a_directory_service_does_not_list(
    machine: list[pwd.struct_passwd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {5000: account("dora", 5000), 5001: account("mail", 5001, "/usr/sbin/nologin")}
    monkeypatch.setattr(access, "_present", lambda: iter((0, ANN, 5000, 5001, 5002)))  # 5002 has gone
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: known[uid])
    assert access.other_accounts({0, ANN}, Path("/x")) == {"dora"}


def test_who_is_behind_sudo_is_who_runs_it_also_at_boot(
    machine: list[pwd.struct_passwd], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_uid", lambda: 0)
    mine = project(tmp_path)
    monkeypatch.setenv("SUDO_UID", str(ANN))
    access.decide(mine)
    assert not mine.asks
    monkeypatch.delenv("SUDO_UID")
    access.decide(mine)
    assert not mine.asks
    other = project(tmp_path / "other")
    access.decide(other)  # root of the machine where ann has an account
    assert other.asks


def test_an_account_that_appears_makes_it_ask_and_is_told(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    mine = project(tmp_path)
    access.decide(mine)
    digest = mine.credentials_digest()
    machine.append(account("bob", BOB))
    assert "now asks for a token, because bob has an account" in access.decide(mine)
    assert mine.asks and mine.credentials_digest() != digest  # whatever holds the old answer is started again
    machine.pop()
    assert "as decided before" in access.decide(mine) and mine.asks


@pytest.mark.parametrize(("chosen", "asks"), [("open", False), ("token", True)])
def test_who_chose_is_obeyed(machine: list[pwd.struct_passwd], tmp_path: Path, chosen: str, asks: bool) -> None:
    machine.append(account("bob", BOB))
    mine = project(tmp_path, local_access=chosen)
    assert "--local-access" in access.decide(mine) and mine.asks is asks
    assert mine.state.access == {}


@pytest.mark.parametrize(
    ("chosen", "says"),
    [("auto", "MLflow will ask for its token; 1 other account"), ("open", "MLflow will be open to 1 other account")],
)
def test_doctor_says_before_the_first_start_what_others_will_get(
    machine: list[pwd.struct_passwd], tmp_path: Path, chosen: str, says: str
) -> None:
    machine.append(account("bob", BOB))
    found = {finding.check: finding.detail for finding in doctor.examine(project(tmp_path, local_access=chosen))}
    assert found["local access"].startswith(says)


def test_behind_the_gateway_or_elsewhere_nothing_is_asked(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    machine.append(account("bob", BOB))
    public = project(tmp_path, public="true", local_access="token")
    assert "gateway" in access.decide(public) and public.asks  # the gateway adds it
    alone = project(tmp_path, tracking_uri="https://mlflow.example.org")
    assert access.decide(alone) == "" and not alone.asks


def test_on_another_machine_nobody_can_look(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    mine = project(tmp_path)
    assert "node7" in access.decide(mine, "others may have accounts on ssh://node7") and mine.asks


def test_it_is_remembered(machine: list[pwd.struct_passwd], tmp_path: Path) -> None:
    machine.append(account("bob", BOB))
    mine = project(tmp_path)
    access.decide(mine)
    mine.state.save()
    assert project(tmp_path).asks


def test_who_runs_it_also_behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert access.person() == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("SUDO_UID", str(pwd.getpwnam("daemon").pw_uid))
    assert access.person() == "daemon"
    monkeypatch.setattr(pwd, "getpwuid", dict[int, object]().__getitem__)  # no account: a uid alone
    for name, expected in (("ann", "ann"), ("an'n", ""), ("a\nb", "")):
        monkeypatch.setenv("LOGNAME", name)
        assert access.person() == expected
