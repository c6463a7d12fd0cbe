"""What machines on the same network can reach behind Docker's back, and the drop rules against it.

Before Docker 28 a port published on 127.0.0.1 takes packets from other hosts on the network. They are addressed to
127.0.0.1 (the engine rewrites them before the kernel would refuse them), or to the container's own address with this
machine as the way.
The rules stand in the raw table, before any rewriting, and carry the project's name as a comment.
They are gone after a reboot; `up` sets them again.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import commands
from helpers.shell_words import as_root

CURED_IN = 28
METADATA = "169.254.169.254"  # a cloud's metadata service: on most clouds it gives out the machine's credentials
INTERFACES = Path("/sys/class/net")
Rule = tuple[str, ...]


@dataclass(frozen=True)
class Bridge:
    """A container network as the kernel has it: its interface and its IPv4 subnets."""

    interface: str
    subnets: tuple[str, ...]


def let_in(version: str) -> bool:
    """Whether an engine of this version lets other hosts in. A version that cannot be read is taken for a new one."""
    major = version.split(".")[0]
    return major.isdigit() and int(major) < CURED_IN


def loopback_rules(project: str) -> tuple[Rule, ...]:
    """What can be set before any container is there. In the words and order of `iptables -S`."""
    return (("-d", "127.0.0.0/8", "!", "-i", "lo", *_end(project)),)


def address_rules(project: str, bridges: Iterable[Bridge]) -> tuple[Rule, ...]:
    """Container addresses take packets from their own bridge only; answers to containers are not meant by this:
    they still carry this machine's address when they pass the raw table."""
    return tuple(
        ("-d", subnet, "!", "-i", bridge.interface, *_end(project)) for bridge in bridges for subnet in bridge.subnets
    )


def metadata_rules(project: str, bridges: Iterable[Bridge]) -> tuple[Rule, ...]:
    """No container reaches the cloud's metadata service. Its port only: some clouds serve DNS on the same address."""
    return tuple(
        ("-d", f"{METADATA}/32", "-i", bridge.interface, "-p", "tcp", "-m", "tcp", "--dport", "80", *_end(project))
        for bridge in bridges
    )


def _end(project: str) -> Rule:
    return ("-m", "comment", "--comment", f"trackbed:{project}", "-j", "DROP")


def lines(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The commands that set the rules, for someone who is not root here."""
    return tuple(as_root(shlex.join(("iptables", "-t", "raw", "-I", "PREROUTING", *rule))) for rule in rules)


def may_change() -> bool:
    """Whether this process can look at the rules and set them."""
    return os.geteuid() == 0 and shutil.which("iptables") is not None


def existing(project: str) -> tuple[Rule, ...]:
    """The project's rules that are there. Only where ``may_change``; empty when iptables fails."""
    return _of(project, _listed())


def _listed() -> list[Rule]:
    lines = (shlex.split(line) for line in _iptables("-S", "PREROUTING")[1].splitlines())
    return [tuple(words[2:]) for words in lines if words[:2] == ["-A", "PREROUTING"]]


def _of(project: str, listed: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rule for rule in listed if f"trackbed:{project}" in rule)


def _without_stale(listed: Iterable[Rule]) -> list[Rule]:
    """Take away the rules of networks that are gone, whichever project's; gives the others.

    Docker gives their subnet to another network sooner or later, which such a rule would cut off.
    """
    kept = []
    for rule in listed:
        ours = any(word.startswith("trackbed:") for word in rule)
        interface = rule[rule.index("-i") + 1] if ours and "-i" in rule[:-1] else ""
        if interface and not (INTERFACES / interface).exists():
            _iptables("-D", "PREROUTING", *rule)
        else:
            kept.append(rule)
    return kept


def put(project: str, expected: Sequence[Rule]) -> tuple[str, bool]:
    """Make the project's rules exactly these: missing ones are added, others of its own removed. Gives what failed, and
    whether one was missing."""
    current = _of(project, _without_stale(_listed()))
    missing = [rule for rule in expected if rule not in current]
    for rule in missing:
        if problem := _iptables("-I", "PREROUTING", *rule)[0]:
            return problem, True
    kept: set[Rule] = set()
    for rule in current:  # after the additions: no moment without
        if rule in expected and rule not in kept:
            kept.add(rule)
        else:
            _iptables("-D", "PREROUTING", *rule)
    return "", bool(missing)


def remove(project: str) -> None:
    """Take the project's rules away; nothing where there are none."""
    if may_change():
        put(project, ())


def _iptables(*args: str) -> tuple[str, str]:
    """What went wrong ("" for nothing) and the output of an iptables command on the raw table."""
    done = commands.attempt(["iptables", "-w", "10", "-t", "raw", *args], 30)
    return ("" if done.code == 0 else f"iptables: {' '.join(done.stderr.split()) or 'failed'}"), done.stdout
