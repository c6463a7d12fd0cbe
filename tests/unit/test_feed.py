"""What a container reads comes over a named pipe where it can, and through the engine where it cannot."""

from __future__ import annotations

import os
import platform
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.engines.docker import compose, service_commands
from helpers.errors import TrackbedError

READS = (
    "import os, sys; s = open(os.environ['TRACKBED_FEED'], 'rb') if 'TRACKBED_FEED' in os.environ else sys.stdin.buffer"
)
PRINTS = f"{READS}; c = s.read(); print(len(c), 'TRACKBED_FEED' in os.environ)"
REFUSED = f"import os, sys; 'TRACKBED_FEED' in os.environ and sys.exit(1); {PRINTS}"
SIZE = 3 * 2**20


class Commands(service_commands.ServiceCommands):
    """On an engine that answers ``info``, and runs a program of the tests instead."""

    def __init__(self, program: str, info: dict[str, str], remote: bool = False) -> None:
        self.made: list[list[str]] = []
        self.deployment = cast("Any", SimpleNamespace(host=SimpleNamespace(remote=remote), api=self))
        self.program, self.answer = program, info
        self.compose = cast("Any", self)

    @property
    def api(self) -> Any:
        return SimpleNamespace(info=lambda: self.answer)

    def environment(self, overlay: str) -> dict[str, str]:
        self.made.append(overlay.split(":"))
        return {"PATH": os.environ["PATH"]}

    def fresh(self, service: str, argv: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", self.program]


HERE = {"KernelVersion": platform.release(), "Name": socket.gethostname()}
BY_PIPE, BY_ENGINE = [compose.STREAM, compose.FEED], [compose.STREAM]


@pytest.mark.parametrize(
    ("commands", "made"),
    [
        (Commands(PRINTS, HERE), [BY_PIPE]),
        (Commands(REFUSED, HERE), [BY_PIPE, BY_ENGINE]),
        (Commands(PRINTS, {**HERE, "KernelVersion": "6.10.14-linuxkit"}), [BY_ENGINE]),
        (Commands(PRINTS, {**HERE, "Name": "the machine around this container"}), [BY_ENGINE]),
        (Commands(PRINTS, HERE, remote=True), [BY_ENGINE]),
    ],
)
def test_much_goes_by_the_shortest_way_there_is(commands: Commands, made: list[list[str]]) -> None:
    with commands.feed("mlflow", ("program",)) as pipe:
        pipe.into.write(bytes(SIZE))
        pipe.close()
        assert pipe.out.read().split() == [b"%d" % SIZE, str(made[-1] == BY_PIPE).encode()]
        pipe.finish()
    assert commands.made == made


def test_a_program_that_ends_early_is_told_as_such() -> None:
    commands = Commands(f"{READS}; s.read(10); s.close(); sys.exit('no room')", HERE)
    with pytest.raises(TrackbedError, match="no room"), commands.feed("mlflow", ("program",)) as pipe:
        try:
            for _ in range(100):
                pipe.into.write(bytes(2**20))
        except BrokenPipeError:
            pass
        pipe.finish()


def test_nobody_else_finds_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    plain: Any = subprocess.Popen

    def popen(argv: Any, *words: Any, env: Any, **options: Any) -> Any:
        found.append(env["TRACKBED_FEED"])
        return plain(argv, *words, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with Commands(PRINTS, HERE).feed("mlflow", ("program",)) as pipe:
        path = Path(found[0])
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and path.is_fifo()
        pipe.close()
        pipe.finish()
    assert not path.parent.exists()
