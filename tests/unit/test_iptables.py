"""Drop rules: which, for which engine, and put and removed against a stand-in for iptables."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.engines.docker import iptables
from helpers.engines.docker.checks import DockerChecks
from helpers.engines.docker.iptables import Bridge, Rule
from helpers.findings import Level

BRIDGES = (Bridge("br-1", ("172.18.0.0/16",)), Bridge("br-2", ("172.19.0.0/16", "10.9.0.0/24")))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("26.1.5+dfsg1", True),
        ("25.0.0", True),
        ("28.0.0", False),
        ("29.1", False),
        ("27.5.1", True),
        ("dev", False),
    ],
)
def test_which_engines(version: str, expected: bool) -> None:
    assert iptables.let_in(version) is expected


def test_rules_name_every_subnet_and_spare_its_own_bridge() -> None:
    rules = iptables.address_rules("lab", BRIDGES)
    assert [rule[:5] for rule in rules] == [
        ("-d", "172.18.0.0/16", "!", "-i", "br-1"),
        ("-d", "172.19.0.0/16", "!", "-i", "br-2"),
        ("-d", "10.9.0.0/24", "!", "-i", "br-2"),
    ]
    assert all(rule[-2:] == ("-j", "DROP") and "trackbed:lab" in rule for rule in rules)


def test_metadata_keeps_dns() -> None:
    rules = iptables.metadata_rules("lab", BRIDGES)
    assert len(rules) == 2
    assert all(rule[rule.index("--dport") + 1] == "80" and "tcp" in rule for rule in rules)


class Table:
    """The raw table as iptables keeps it: words in, `-S` out."""

    def __init__(self, *foreign: str) -> None:
        self.rules = [tuple(shlex.split(line)) for line in foreign]
        self.broken = ""

    def __call__(self, *words: str) -> tuple[str, str]:
        if self.broken and words[0] != "-S":
            return self.broken, ""
        if words[0] == "-S":
            lines = [shlex.join(("-A", "PREROUTING", *rule)) for rule in self.rules]
            return "", "\n".join(["-P PREROUTING ACCEPT", *lines])
        rule = tuple(words[2:])
        if words[0] == "-I":
            self.rules.insert(0, rule)
        else:
            self.rules.remove(rule)
        return "", ""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Table:
    for name in ("lo", "eth0", "br-1", "br-2"):
        (tmp_path / name).touch()
    monkeypatch.setattr(iptables, "INTERFACES", tmp_path)
    created = Table("-d 172.18.0.0/16 ! -i br-1 -m comment --comment trackbed:lab2 -j DROP", "-i eth0 -j ACCEPT")
    monkeypatch.setattr(iptables, "_iptables", created)
    monkeypatch.setattr(iptables, "may_change", lambda: True)
    return created


def wanted() -> tuple[Rule, ...]:
    return (*iptables.loopback_rules("lab"), *iptables.address_rules("lab", BRIDGES))


def test_twice_is_once_and_others_stay(table: Table) -> None:
    foreign = list(table.rules)
    for missing in (True, False):
        assert iptables.put("lab", wanted()) == ("", missing)
        assert sorted(iptables.existing("lab")) == sorted(wanted())
    iptables.put("lab", wanted()[:2])  # a network is gone
    assert sorted(iptables.existing("lab")) == sorted(wanted()[:2])
    iptables.remove("lab")
    assert table.rules == foreign


def test_a_network_that_is_gone_cuts_no_other_off(table: Table) -> None:
    """Its subnet may be another network's now."""
    foreign = list(table.rules)
    table.rules.insert(0, iptables.address_rules("old", [Bridge("br-gone", ("172.19.0.0/16",))])[0])
    table.rules.append(("-i", "wg9", "-j", "DROP"))  # somebody else's
    iptables.put("lab", wanted())
    iptables.remove("lab")
    assert table.rules == [*foreign, ("-i", "wg9", "-j", "DROP")]


def test_doubles_are_reduced_to_one(table: Table) -> None:
    table.rules += [wanted()[0], wanted()[0]]
    iptables.put("lab", wanted())
    assert sorted(iptables.existing("lab")) == sorted(wanted())


def test_a_failure_is_told(table: Table) -> None:
    table.broken = "iptables: Permission denied"
    assert iptables.put("lab", wanted()) == ("iptables: Permission denied", True)


@pytest.mark.parametrize(("uid", "sudo", "before"), [(0, "/usr/bin/sudo", []), (1000, "/usr/bin/sudo", ["sudo"])])
def test_lines_can_be_typed(monkeypatch: pytest.MonkeyPatch, uid: int, sudo: str, before: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda name: sudo)
    for line, rule in zip(iptables.lines(wanted()), wanted(), strict=True):
        assert shlex.split(line) == [*before, "iptables", "-t", "raw", "-I", "PREROUTING", *rule]


def test_lines_can_be_typed_where_there_is_no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for line, rule in zip(iptables.lines(wanted()), wanted(), strict=True):
        su, flag, command = shlex.split(line)
        assert (su, flag) == ("su", "-c") and shlex.split(command)[-len(rule) :] == list(rule)


def test_what_doctor_says_of_the_rules(table: Table) -> None:
    """Before the first start nothing is reachable, and that start sets them."""
    state = SimpleNamespace(engine="")
    deployment = SimpleNamespace(project=SimpleNamespace(state=state), settings=SimpleNamespace(project="lab"))
    guard = SimpleNamespace(reachable_from_network="26.1", rules=wanted, deployment=deployment)
    checks = DockerChecks(cast(Any, None), cast(Any, guard))
    (found,) = checks.exposure()
    assert found.level is Level.OK and found.detail.endswith("; `invoke up` sets drop rules against it")
    state.engine = "docker"
    guard.rules = tuple
    (found,) = checks.exposure()
    assert found.level is Level.WARNING and "0 drop rules" not in found.detail, "none would close them"
    guard.rules = wanted
    iptables.put("lab", wanted()[1:])
    (found,) = checks.exposure()
    assert found.level is Level.WARNING and found.detail.endswith("; 1 drop rule is not set"), found
    iptables.put("lab", wanted())
    (found,) = checks.exposure()
    assert found.level is Level.OK and found.detail.endswith(f"; {len(wanted())} drop rules are set against it")
