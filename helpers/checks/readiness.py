"""Waiting: what to ask each service, how long, and when to give up at once. Written once for all engines."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from helpers import gateway, remote_server
from helpers.engines.base import GATEWAY, JUPYTER, MLFLOW, POSTGRES, Engine, ProgressReporter
from helpers.engines.failures import stop_at_failed
from helpers.errors import NotListening, NotReady, PortTaken
from helpers.http_request import SEARCH, Answer, ask
from helpers.services import ServiceStatus

# for which another program has a service's port: what a killed service left has been ended by then
TAKEN_SECONDS = 15.0
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class _NotYet(Exception):
    """What is missing and why, by service; that may still change."""

    def __init__(self, missing: Mapping[str, str]) -> None:
        super().__init__()
        self.missing = missing


def _asked(engine: Engine, service: str, path: str, *rest: Any, **named: Any) -> Answer:
    """``ask`` at a service; an answer of status 0 where what listens on its port is not the service."""
    try:
        with engine.open(service, "http") as address:
            return ask(address.url + path, *rest, **named)
    except PortTaken:
        raise  # its owner may keep it
    except NotListening as error:
        return Answer(0, error.message)


def database_answers(engine: Engine) -> str:
    """Empty when the tracking server reaches its database, else what is missing. /health would be 200 either way."""
    answer = _asked(engine, MLFLOW, SEARCH, token=engine.access_token())
    return "" if answer.ok else f"the tracking server's database: {_brief(answer)}"


def store_answers(engine: Engine) -> str:
    """Empty when the tracking server reaches the bucket, else what is missing."""
    answer = _asked(engine, MLFLOW, ARTIFACTS + "?path=__probe__", token=engine.access_token())
    if answer.ok:
        return ""
    known = {404: "the bucket is missing", 500: "the object store does not answer the tracking server"}
    return f"artifacts: {known.get(answer.status) or _brief(answer)}"


def notebook_answers(engine: Engine) -> str:
    """Empty when JupyterLab answers, else what is missing."""
    answer = _asked(engine, JUPYTER, "/api")
    return "" if answer.ok else f"JupyterLab: {_brief(answer)}"


def artifact_round_trip(engine: Engine) -> str:
    """Write, read and remove one tiny artifact through the tracking server; empty when it came back equal."""
    payload, token = uuid.uuid4().hex.encode(), engine.access_token()
    path = f"{ARTIFACTS}/__probe__/{payload.decode()}"
    written = _asked(engine, MLFLOW, path, "PUT", payload, timeout=30, token=token)
    read = _asked(engine, MLFLOW, path, timeout=30, token=token)
    _asked(engine, MLFLOW, path, "DELETE", timeout=30, token=token)
    if not written.ok:
        return f"an artifact could not be written: {_brief(written)}"
    return "" if read.body.encode() == payload else f"an artifact did not come back: {_brief(read)}"


Probe = Callable[[Engine], str]


def probes(services: Iterable[str], changed: bool) -> dict[str, tuple[Probe, ...]]:
    """What to ask, by service. When something was started, an artifact makes the whole way once."""
    expected: dict[str, tuple[Probe, ...]] = {}
    names = set(services)
    if MLFLOW in names:
        expected[MLFLOW] = (database_answers, store_answers) + ((artifact_round_trip,) if changed else ())
    if GATEWAY in names:
        expected[GATEWAY] = (gateway.answers,)
    if JUPYTER in names:
        expected[JUPYTER] = (
            notebook_answers,
            *([remote_server.ServerAnswers()] if remote_server.NAME in names else []),
        )
    return expected


def _newly_ready(
    engine: Engine, expected: Mapping[str, tuple[Probe, ...]], missing: dict[str, str], taken: dict[str, float]
) -> Iterator[str]:
    """Ask those that are missing; what is usable now is missing no more, of the rest the reason is kept.

    ``taken``: since when another program has a service's port. Raises PortTaken where it keeps it.
    """
    for service in tuple(missing):
        try:
            problem = next(filter(None, (check(engine) for check in expected[service])), "")
            taken.pop(service, None)
        except PortTaken as error:
            problem = error.message
            if time.monotonic() - taken.setdefault(service, time.monotonic()) >= TAKEN_SECONDS:
                raise
        if problem:
            missing[service] = problem
        else:
            del missing[service]
            yield service


def _not_up(statuses: Iterable[ServiceStatus], names: Collection[str], progress: ProgressReporter) -> dict[str, str]:
    """The services that are not up in the engine's own word, each with its state; those that are, without a probe too,
    are told as ready.

    An answer may come from a process that a killed service left behind, and `status` right after `up` says the engine's
    word: its own health check may come a moment after ours.
    """
    watched = [status for status in statuses if status.name in names]
    for status in watched:
        if status.name == POSTGRES and status.up:  # what was asked went through to it
            progress.service(POSTGRES, "ready")
    return {status.name: str(status.state) for status in watched if not status.up}


def wait(
    engine: Engine,
    services: Iterable[str],
    timeout: float,
    progress: ProgressReporter,
    changed: bool = True,
    known: tuple[ServiceStatus, ...] = (),
) -> tuple[ServiceStatus, ...]:
    """Return when every service is usable, through to the database and the object store, and every one of them is up.

    ``known``: the services as the caller has just seen them, so that the engine is not asked again where all is well.
    Gives them as they were seen last. Raises ServiceFailed at once when one has exited or is unhealthy for good,
    PortTaken when another program keeps the port of one, NotReady after ``timeout`` seconds, naming what was missing.
    """
    import tenacity  # late: it costs 0.1 s

    names = set(services)
    expected = probes(names, changed)
    missing: dict[str, str] = dict.fromkeys(expected, "no answer yet")
    seen: dict[str, int] = {}
    taken: dict[str, float] = {}
    deadline = time.monotonic() + timeout

    def look() -> tuple[ServiceStatus, ...]:
        nonlocal known
        for service in _newly_ready(engine, expected, missing, taken):
            progress.service(service, "ready")
        statuses, known = known or engine.services(), ()
        down = {} if missing else _not_up(statuses, names, progress)
        missing.update((name, state) for name, state in down.items() if name in expected)  # they are asked again
        if missing or down:
            stop_at_failed(engine, names, seen, statuses)
            raise _NotYet(missing | down)
        return statuses

    retrying = tenacity.Retrying(
        wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=0.5, exp_base=1.4, jitter=0.1),
        stop=lambda _: time.monotonic() >= deadline,
        retry=tenacity.retry_if_exception_type(_NotYet),
        reraise=True,
    )
    try:
        return retrying(look)
    except _NotYet as error:
        waited = "; ".join(f"{service} ({problem})" for service, problem in error.missing.items())
        raise NotReady(
            f"not ready after {timeout:.0f} s: {waited}",
            f"`invoke logs {next(iter(error.missing))}` shows why; READY_TIMEOUT raises the limit, "
            "`invoke up` waits again",
        ) from None


def _brief(answer: Answer) -> str:
    if answer.status == 0:
        return answer.body
    text = answer.body
    try:
        text = str(json.loads(answer.body).get("message", text))
    except (ValueError, AttributeError):
        pass
    return f"HTTP {answer.status} {' '.join(text.split())[:200]}"
