"""What `status` and `doctor` say of the fast path (helpers/fast_path.py), from what the server tells."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import fast_path
from helpers.errors import TrackbedError
from helpers.findings import Level
from helpers.services import ExecResult, ServiceStatus, State


def engine(stdout: str, code: int = 0) -> Any:
    def run(service: str, argv: tuple[str, ...], timeout: float) -> ExecResult:
        assert (service, argv) == ("mlflow", ("trackbed-mlflow", "fast-path")) and timeout <= 60
        return ExecResult(code, stdout, "")

    return SimpleNamespace(exec=run)


@pytest.mark.parametrize(
    ("stdout", "level", "words"),
    [
        ('{"enabled": true, "fallbacks": {}}', Level.OK, fast_path.ON),
        ('{"enabled": false, "fallbacks": {}}', Level.OK, "off: MLflow runs as it is"),
        (
            '{"enabled": true, "fallbacks": {"tracking store": "ImportError: no _get_routing_session_maker"}}',
            Level.WARNING,
            "MLflow's own, slower way is used for tracking store: ImportError: no _get_routing_session_maker",
        ),
        ('{"enabled": true, "fallbacks": {"x": "\\u001b[2J"}}', Level.WARNING, "x: \\x1b[2J"),
        (
            '{"enabled": true, "fallbacks": {}, "limited": {"search processes": "MEMORY_LIMIT=3g\\u001b"}}',
            Level.OK,
            "on without search processes: logging may wait for searches; `MEMORY_LIMIT=3g\\x1b` in .env and `invoke up`",
        ),
        ('{"enabled": true, "fallbacks": {}, "limited": 3}', Level.OK, fast_path.ON),
        ("[]", Level.WARNING, "does not say"),
        ('{"fallbacks": []}', Level.WARNING, "does not say"),
        ("usage: ...", Level.WARNING, "does not say"),
    ],
)
def test_one_line_says_whether_it_is_used_and_why_not(stdout: str, level: Level, words: str) -> None:
    result = fast_path.check(fast_path.read(engine(stdout)))
    assert result.level is level and words in result.detail and "\x1b" not in result.detail
    assert bool(result.fix) is (level is Level.WARNING)


def test_a_server_of_an_earlier_version_is_no_error() -> None:
    def refused(*_: object, **__: object) -> ExecResult:
        raise TrackbedError("no answer", "")

    assert fast_path.summary(fast_path.read(engine("", code=2))).endswith("; start it again: `invoke up`")
    assert fast_path.summary(fast_path.read(engine('{"enabled": true, "fallbacks": {}}'))) == fast_path.ON
    result = fast_path.check(fast_path.read(engine("", code=2)))
    assert result.level is Level.WARNING and result.fix == "start it again: `invoke up`"
    assert "does not say" in fast_path.check(fast_path.read(SimpleNamespace(exec=refused))).detail  # type: ignore[arg-type]


def test_what_up_noted_counts_as_long_as_that_server_runs() -> None:
    on = {"enabled": True, "fallbacks": {}}
    server, one = ServiceStatus("mlflow", State.READY, identity="7"), engine(json.dumps(on))
    began = {"7": "10:00"}
    one.process = lambda status: f"{status.identity}@{began[status.identity]}"
    said = fast_path.note(one, [ServiceStatus("postgres", State.READY), server])
    assert said and fast_path.summary(fast_path.noted(one, {"fast_path": said}, server)) == fast_path.ON
    began["7"] = "10:01"  # the container is the same one, and its process another
    assert fast_path.noted(one, {"fast_path": said}, server) is None
    others: tuple[Any, ...] = (None, [], {"fallbacks": 1}, on)  # the last one is of an earlier version
    for other in others:
        assert fast_path.noted(one, {"fast_path": other}, server) is None
    assert fast_path.noted(one, {}, server) is None
    assert fast_path.note(engine("", code=2), []) is None
