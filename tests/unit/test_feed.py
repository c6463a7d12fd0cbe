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
PRINTS = f"{READS}; c = s.read(); print(len(c), 'TRACKBED_FEED' in os.environ, sys.argv[1:])"
REFUSED = f"import os, sys; 'TRACKBED_FEED' in os.environ and sys.exit(1); {PRINTS}"
EARLIER = f"import sys; len(sys.argv) > 2 and sys.exit(2); {PRINTS}"  # which knows one word, and no pipe
SIZE = 3 * 2**20


class Commands(service_commands.ServiceCommands):
    """On an engine that answers ``info``, and runs a program of the tests instead."""

    def __init__(self, program: str, info: dict[str, str], remote: bool = False) -> None:
        self.made: list[list[str]] = []
        self.deployment = cast("Any", SimpleNamespace(host=SimpleNamespace(remote=remote), info=info))
        self.program = program
        self.compose = cast("Any", self)

    def environment(self, overlay: str) -> dict[str, str]:
        self.made.append(overlay.split(":"))
        return {"PATH": os.environ["PATH"]}

    def fresh(self, service: str, argv: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-c", self.program, *argv[1:]]


HERE = {"KernelVersion": platform.release(), "Name": socket.gethostname()}
BY_PIPE, BY_ENGINE = [compose.STREAM, compose.FEED], [compose.STREAM]


@pytest.mark.parametrize(
    ("commands", "made"),
    [
        (Commands(PRINTS, HERE), [BY_PIPE]),
        (Commands(REFUSED, HERE), [BY_PIPE, BY_ENGINE]),
        (Commands(EARLIER, HERE), [BY_PIPE, BY_ENGINE]),
        (Commands(PRINTS, {**HERE, "KernelVersion": "6.10.14-linuxkit"}), [BY_ENGINE]),
        (Commands(PRINTS, {**HERE, "Name": "the machine around this container"}), [BY_ENGINE]),
        (Commands(PRINTS, HERE, remote=True), [BY_ENGINE]),
    ],
)
def test_much_goes_by_the_shortest_way_there_is(commands: Commands, made: list[list[str]]) -> None:
    with commands.feed("mlflow", ("program", "in")) as pipe:
        pipe.into.write(bytes(SIZE))
        pipe.close()
        by_pipe = made[-1] == BY_PIPE
        words = ["in", *([compose.FEED_PATH] if by_pipe else [])]
        assert pipe.out.read().decode() == f"{SIZE} {by_pipe} {words}\n"
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


def test_nobody_else_finds_the_pipe_and_nothing_is_left_where_the_task_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Path] = []
    plain: Any = subprocess.Popen

    def popen(argv: Any, *words: Any, env: Any, **options: Any) -> Any:
        found.append(path := Path(env["TRACKBED_FEED"]))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and path.is_fifo()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, "a container's user may have the group of this one"
        return plain(argv, *words, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with Commands(PRINTS, HERE).feed("mlflow", ("program",)) as pipe:
        assert not found[0].parent.exists(), "both sides have it"
        pipe.into.write(b"content")
        pipe.close()
        assert pipe.out.read().startswith(b"7 True")
        pipe.finish()


@pytest.mark.parametrize("cannot", ["mkdir", "mkfifo", "chmod"])
def test_a_disk_that_is_full_or_has_no_named_pipes_needs_none(monkeypatch: pytest.MonkeyPatch, cannot: str) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, cannot, refused)
    commands = Commands(PRINTS, HERE)
    with commands.feed("mlflow", ("program",)) as pipe:
        pipe.close()
        assert pipe.out.read().startswith(b"0 False")
        pipe.finish()
    assert commands.made == [BY_ENGINE]
