"""The shorter way through MLflow's server (trackbed_mlflow/fast_path/json_requests.py): what goes it, and what it answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import fast_path, router
from trackbed_mlflow.fast_path import json_requests
from trackbed_mlflow.request_queues import Queues


def call(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """What an ASGI application sends for these messages of the client."""
    incoming, sent = iter(messages), []

    async def receive() -> dict[str, Any]:
        return next(incoming)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


class Chunks:
    """A WSGI answer in pieces that wants to be closed."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"one ", b"two"))

    def close(self) -> None:
        self.closed = True


def bridge(chunks: Chunks) -> Any:
    def wsgi(environ: dict[str, Any], start: Any) -> Chunks:
        assert environ == {"path": "/x", "body": b"hello world"}
        start("404 NOT FOUND", [("Content-Type", " application/json")])
        return chunks

    return json_requests.WSGIBridge(wsgi, lambda scope, body: {"path": scope["path"], "body": body}, Queues())


def test_the_bridge_gives_a_whole_body_and_answers_in_one_piece() -> None:
    chunks = Chunks()
    sent = call(
        bridge(chunks),
        {"path": "/x"},
        {"type": "http.request", "body": b"hello ", "more_body": True},
        {"type": "http.request", "body": b"world"},
    )
    assert sent == [
        {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]},
        {"type": "http.response.body", "body": b"one two"},
    ]
    assert chunks.closed


def test_a_client_that_goes_away_while_sending_is_not_answered() -> None:
    sent = call(
        bridge(Chunks()),
        {"path": "/x"},
        {"type": "http.request", "body": b"hello ", "more_body": True},
        {"type": "http.disconnect"},
    )
    assert sent == []


@pytest.fixture(autouse=True)
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    result: dict[str, str] = {}
    monkeypatch.setattr(fast_path, "fallbacks", result)
    return result


@pytest.mark.parametrize(
    ("scope", "taken"),
    [
        ({"type": "http", "path": "/known"}, "short"),
        ({"type": "http", "path": "/known/"}, "full"),
        ({"type": "http", "path": "/other"}, "full"),
        ({"type": "http", "path": "/known", "root_path": "/prefix"}, "full"),
        ({"type": "websocket", "path": "/known"}, "full"),
        ({"type": "lifespan"}, "full"),
    ],
)
def test_only_known_addresses_go_the_short_way(scope: dict[str, Any], taken: str) -> None:
    def named(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"way": name})

        return app

    app = router.Router(named("full"), named("store"), Queues(), named("short"), frozenset({"/known"}))
    assert call(app, scope) == [{"way": taken}]


class Mount:
    """Stands for the route that leads to Flask."""


class Route:
    def __init__(self, path: str) -> None:
        self.path = path

    def matches(self, scope: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return ("full" if scope["path"] == self.path else "none"), {}


def test_addresses_with_arguments_streams_and_what_others_answer_are_not_known() -> None:
    def rule(path: str, endpoint: str = "_handler", arguments: tuple[str, ...] = ()) -> Any:
        return SimpleNamespace(rule=path, endpoint=endpoint, arguments=arguments)

    flask = SimpleNamespace(
        url_map=SimpleNamespace(
            iter_rules=lambda: [
                rule("/api/2.0/mlflow/runs/search"),
                rule("/ajax-api/2.0/mlflow/runs/search"),
                rule("/api/2.0/mlflow/logged-models/<id>", arguments=("id",)),
                rule("/health"),
                rule("/ajax-api/2.0/mlflow/upload-artifact", "serve_upload_artifact"),
                rule("/api/2.0/mlflow/theirs"),
            ]
        )
    )
    app = SimpleNamespace(routes=[Mount(), Route("/api/2.0/mlflow/theirs")])
    assert json_requests.paths(app, flask, Mount, "full") == {
        "/api/2.0/mlflow/runs/search",
        "/ajax-api/2.0/mlflow/runs/search",
    }


def test_without_the_known_parts_everything_goes_mlflows_own_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fallbacks: dict[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, "starlette.middleware.base", None)
    app = SimpleNamespace(user_middleware=[])
    assert json_requests.application(app, object(), Queues()) == (None, frozenset())
    assert "MLflow's own way" in capsys.readouterr().err
    assert "starlette.middleware.base" in fallbacks["JSON requests"]


def test_other_middlewares_than_known_are_told_and_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrapping:
        """Stands for BaseHTTPMiddleware."""

    names = (
        "starlette",
        "starlette.middleware",
        "starlette.middleware.base",
        "starlette.middleware.wsgi",
        "starlette.routing",
    )
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    modules["starlette.middleware.base"].BaseHTTPMiddleware = Wrapping
    modules["starlette.middleware.wsgi"].build_environ = None
    modules["starlette.routing"].Match = modules["starlette.routing"].Mount = Mount
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def unknown_middleware() -> None: ...

    app = SimpleNamespace(user_middleware=[SimpleNamespace(cls=Wrapping, kwargs={"dispatch": unknown_middleware})])
    assert json_requests.application(app, object(), Queues()) == (None, frozenset())
    assert "MLflow's own way" in (reported := capsys.readouterr().err) and "unknown_middleware" in reported
