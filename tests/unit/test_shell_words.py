"""Lines that somebody is told to type as root."""

from __future__ import annotations

import os
import shutil

import pytest

from helpers.engines.docker import checks
from helpers.gpu import advice
from helpers.shell_words import as_root

SUDO = "/usr/bin/sudo"


@pytest.mark.parametrize(
    ("uid", "sudo", "command", "line"),
    [
        (0, SUDO, "systemctl start docker", "systemctl start docker"),
        (0, None, "systemctl start docker", "systemctl start docker"),
        (1000, SUDO, "systemctl start docker", "sudo systemctl start docker"),
        (1000, None, "systemctl start docker", "su -c 'systemctl start docker'"),
        (1000, SUDO, "curl x | sh", "sudo sh -c 'curl x | sh'"),
        (1000, None, "curl x | sh", "su -c 'curl x | sh'"),
    ],
)
def test_a_command_for_root(
    monkeypatch: pytest.MonkeyPatch, uid: int, sudo: str | None, command: str, line: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda name: sudo)
    assert as_root(command) == line


@pytest.mark.parametrize("release", ["ID=debian", "ID=fedora", "ID=arch"])
def test_how_to_get_docker(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: SUDO)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "sudo" not in checks.install_lines(release) and "log in again" not in checks.install_lines(release)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    lines = checks.install_lines(release).removesuffix(", then log in again").split(" && ")
    assert len(lines) > 1 and all(line.startswith("sudo ") for line in lines)


def test_what_a_driver_says_is_answered_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for message in (
        "no known GPU vendor found",
        "unresolvable CDI devices",
        "error gathering device information while adding custom device",
    ):
        found = advice.advice(message)
        assert found and "`" in found[1] and "sudo" not in found[1]
