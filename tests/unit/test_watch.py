"""`invoke status --watch`: painted in one place on a terminal, block after block in a pipe, ended by Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import screen
from helpers.cli import watch
from helpers.errors import SettingError, TrackbedError
from tests.unit.pty_screen import Screen

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from helpers import console
from helpers.cli import watch
looks = []
def look():
    looks.append(1)
    return len(looks)
def show(number):
    console.table(("service", "state"), [("mlflow", "ready"), (f"look {number}", "starting")])
    console.notice("below the table")
sys.exit(watch.Watch(1.0, look, show).run())
"""


@pytest.mark.parametrize(("given", "expected"), [(None, None), (True, 5.0), ("2", 2.0), ("2.5", 2.5)])
def test_the_pause_between_two_looks(given: str | bool | None, expected: float | None) -> None:
    assert watch.seconds(given) == expected


@pytest.mark.parametrize("given", ["", "0", "-1", "soon", "nan", "inf", "99999"])
def test_a_pause_that_cannot_be(given: str) -> None:
    with pytest.raises(SettingError, match=r"--watch=.*: must be a number of seconds from 1 to 3600"):
        watch.seconds(given)


def test_in_a_pipe_each_look_is_a_block_and_one_that_fails_leaves_the_earlier_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers import console

    clock = [1000.0]
    answers: Iterator[str | BaseException] = iter(
        ["first", TrackbedError("Docker does not answer"), "third", KeyboardInterrupt()]
    )

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def look() -> str:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert watch.Watch(7.0, look, console.value).run() == 130
    blocks = capsys.readouterr().out.split("as of ")[1:]
    assert ["first" in blocks[0], "first" in blocks[1], "third" in blocks[2]] == [True] * 3
    assert "7 s old" in blocks[1] and "the last look failed: Docker does not answer" in blocks[1]
    assert "old" not in blocks[2] and "failed" not in blocks[2]
    assert "\x1b" not in "".join(blocks)


def test_a_first_look_that_fails_ends_it() -> None:
    def look() -> None:
        raise TrackbedError("no such project")

    with pytest.raises(TrackbedError):
        watch.Watch(5.0, look, lambda seen: None).run()


def test_what_does_not_fit_is_counted() -> None:
    text = "\n".join(f"line {number}" for number in range(10))
    assert screen.fitted(text, 80, 10) == text
    assert screen.fitted(text, 80, 5).splitlines() == [*text.splitlines()[:4], screen.LEFT_OUT.format(6)]
    folded = "x" * 100 + "\n" + text
    assert screen.fitted(folded, 50, 5).splitlines()[1:] == ["line 0", "line 1", screen.LEFT_OUT.format(8)]


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_is_painted_again_by_its_width_and_left_as_it_was(colour: bool) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, "-c", PROGRAM], environment | ({} if colour else {"NO_COLOR": "1"}))
    painted = Screen(terminal)

    def size(columns: int) -> None:
        painted.shown = ""
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    size(80)
    painted.wait(r"(?s)\x1b\[\?1049h.*as of [\d:]+.*; every 1 s until Ctrl-C.*look 1.*below the table")
    painted.wait(r"(?s)\x1b\[H.*look 2")
    assert ("\x1b[32m" in painted.shown) is colour
    size(40)
    painted.wait(r"\x1b\[Has of.{0,35}\r?\n")
    os.write(terminal, b"\x03")
    painted.wait(r"(?s)\x1b\[\?1049l.*as of [\d:]+(, \d+ s old)?\r\n.*below the table")
    assert "\x1b[?25h" in painted.shown, "the cursor stays away"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(terminal)
