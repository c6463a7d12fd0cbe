"""How a failure ends a task: a message with a next step, its exit code, no traceback."""

from __future__ import annotations

import subprocess
from typing import NoReturn

import pytest

from helpers import errors
from helpers.cli import failures
from helpers.engines.docker import ssh
from helpers.errors import EngineUnavailable, SettingError, TrackbedError


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (TrackbedError("the disk is full", "`invoke gc`"), 1, "error: the disk is full\n  -> `invoke gc`"),
        (SettingError("GPU=x: must be amd"), 2, "error: GPU=x"),
        (KeyboardInterrupt(), 130, "interrupted; `invoke status`"),
        (subprocess.TimeoutExpired(["docker", "ps", "-a", "-q"], 5), 1, "`docker ps -a` did not end within 5 s"),
        (ValueError("what"), 1, "unexpected: ValueError: what\n  -> TRACKBED_TRACEBACK=1"),
    ],
)
def test_a_failure_has_its_code_and_a_next_step(
    failure: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> NoReturn:
        raise failure

    assert failures.exit_code(fail) == code
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ValueError("what"), "the connection to node7 was lost"),
        (EngineUnavailable("no answer"), "the connection to node7 was lost"),
        (TrackbedError("the disk is full"), "the disk is full"),
    ],
)
def test_a_reason_behind_a_failure_is_told_instead(
    failure: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        errors, "REASONS", [lambda: None, lambda: EngineUnavailable("the connection to node7 was lost")]
    )

    def fail() -> NoReturn:
        raise failure

    assert failures.exit_code(fail) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}\n")


def test_a_node_that_was_lost_is_a_reason() -> None:
    assert ssh.lost_connection in errors.REASONS and errors.reason() is None


def test_a_traceback_is_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise ValueError("what")

    monkeypatch.setenv("TRACKBED_TRACEBACK", "1")
    with pytest.raises(ValueError, match="what"):
        failures.exit_code(fail)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_what_a_task_returns_is_its_exit_code(returned: int | None, code: int) -> None:
    assert failures.exit_code(lambda: returned) == code
