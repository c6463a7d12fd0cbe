"""helpers/rotation.py: what counts as a proof that an old secret opens nothing."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any, cast

import pytest

from helpers import rotation
from helpers.engines.base import Engine, ExecResult, Plan, SecretFile
from helpers.errors import TrackbedError
from helpers.project.credentials import (
    JUPYTER_TOKEN,
    KEK_PASSPHRASE,
    POSTGRES_PASSWORD,
    S3_ACCESS_KEY,
    S3_SECRET_KEY,
    WEBHOOK_KEY,
    Credentials,
)

NEW = Credentials(
    {
        name: f"new-{name}"
        for name in (POSTGRES_PASSWORD, S3_ACCESS_KEY, S3_SECRET_KEY, JUPYTER_TOKEN, KEK_PASSPHRASE, WEBHOOK_KEY)
    }
)
OLD = {name: f"old-{name}" for name in NEW.names}


class Server:
    """An engine whose services take the secrets in ``accepted``."""

    def __init__(self, *accepted: str, rows: int = 2, used: tuple[str, ...] = NEW.names) -> None:
        self.accepted, self.rows, self.used = accepted, rows, used

    def plan(self) -> Plan:
        return Plan("x", "x", (), secrets=(SecretFile("x", "x", "x", "", self.used, 0, 0),))

    def exec(self, service: str, argv: tuple[str, ...], stdin: bytes = b"", timeout: float = 0) -> ExecResult:
        asked = json.loads(stdin)
        if argv[1] == "opens":
            result: Any = {
                name: [
                    all(word in self.accepted for word in pair if word != "mlflow" and word != "postgres")
                    for pair in pairs
                ]
                for name, pairs in asked.items()
            }
        else:
            result = {
                "rows": dict.fromkeys(asked, self.rows),
                "lost": {name: [] for name in asked},
                "opened": {
                    name: [self.rows if key in self.accepted else 0 for key in keys] for name, keys in asked.items()
                },
            }
        return ExecResult(0, json.dumps(result), "")


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens and cookies that JupyterLab takes."""
    accepted = [f"token new-{JUPYTER_TOKEN}", f"token old-{JUPYTER_TOKEN}"]

    def ask(engine: object, service: str, path: str, **headers: str) -> rotation.Answer:
        return rotation.Answer(200 if set(headers.values()) & set(accepted) else 403, "user=old")

    monkeypatch.setattr(rotation, "ask", ask)
    return accepted


def proofs(server: Server, jupyter: list[str], *further: str) -> dict[str, rotation.Proof]:
    watch = rotation.Watch(cast(Engine, server), OLD)
    jupyter[1:] = further
    result = watch.prove(NEW)
    assert [proof.name for proof in result] == list(OLD)
    return {proof.name: proof for proof in result}


def test_every_secret_is_tried_both_ways(jupyter: list[str]) -> None:
    result = proofs(Server(*NEW.values.values()), jupyter)
    assert all(proof.ok and proof.detail == "the new one opens, the old one does not" for proof in result.values())
    rotation.require(tuple(result.values()))


@pytest.mark.parametrize("name", NEW.names)
def test_an_old_one_that_still_opens_is_an_error(name: str, jupyter: list[str]) -> None:
    server = Server(*NEW.values.values(), f"old-{name}")
    result = proofs(server, jupyter, *([f"token old-{name}"] if name == JUPYTER_TOKEN else []))
    assert not result[name].ok and result[name].detail == "the old one still opens"
    with pytest.raises(TrackbedError) as error:
        rotation.require(tuple(result.values()))
    assert name in error.value.message and "invoke down" in error.value.hint


def test_a_cookie_that_still_opens_is_an_error(jupyter: list[str]) -> None:
    result = proofs(Server(*NEW.values.values()), jupyter, "user=old")
    assert result[JUPYTER_TOKEN].detail == "a cookie of the old one still opens"


@pytest.mark.parametrize("name", NEW.names)
def test_a_new_one_that_does_not_open_is_an_error(name: str, jupyter: list[str]) -> None:
    jupyter[0] = "nothing"
    result = proofs(
        Server(*(f"new-{other}" for other in NEW.names if other != name)),
        jupyter,
        *([] if name == JUPYTER_TOKEN else [f"token new-{JUPYTER_TOKEN}"]),
    )
    assert not result[name].ok and result[name].detail.startswith("the new one does not open")


def test_what_an_engine_does_not_use_is_said(jupyter: list[str]) -> None:
    result = proofs(Server(*NEW.values.values(), used=(JUPYTER_TOKEN, KEK_PASSPHRASE, WEBHOOK_KEY), rows=0), jupyter)
    assert result[POSTGRES_PASSWORD].detail == result[S3_SECRET_KEY].detail == "not used here"
    assert result[KEK_PASSPHRASE].ok and "nothing is encrypted yet" in result[KEK_PASSPHRASE].detail


def test_a_server_that_does_not_tell_proves_nothing(jupyter: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(server, "exec", lambda *_, **__: ExecResult(1, "", "trackbed: broken"))
    result = proofs(server, jupyter)
    assert [name for name, proof in result.items() if proof.ok] == [JUPYTER_TOKEN]


def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Down:
        @contextmanager
        def open(self, service: str, port: str) -> Any:
            raise TrackbedError("no")
            yield

    assert rotation.ask(cast(Engine, Down()), "jupyter", "/") == rotation.Answer(0)
