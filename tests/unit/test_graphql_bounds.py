"""What one GraphQL query may cost (trackbed_mlflow/edge/graphql_limits.py)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow.edge import graphql_limits as bounds
from trackbed_mlflow.edge import middleware

from tests.unit import asgi


class Invalid(Exception):
    """Stands for MLflow's error."""


def parse(query: str, no_location: bool, max_tokens: int) -> None:
    if len(query.split()) > max_tokens:
        raise Invalid("too many words")


def ask(body: dict[str, Any], lookups: int = 0) -> str:
    """What the view answers to a body; it looks ``lookups`` runs up."""
    handlers = SimpleNamespace(look=bounds.counted(lambda number: number))

    def view() -> str:
        return f"{sum(handlers.look(1) for _ in range(lookups))} looked up"

    try:
        return str(bounds.bounded(view, lambda: body, Invalid, parse)())
    finally:
        assert bounds.left.get() is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "`query` has to be text"),
        ({"query": None}, "`query`"),
        ({"query": 5}, "`query`"),
        ({"query": ["a"]}, "`query`"),
        ({"query": "{a}", "variables": []}, "`variables` has to be an object"),
        ({"query": "{a}", "operationName": {}}, "`operationName` has to be text"),
        ({"query": "x" * (bounds.TEXT + 1)}, "32,768 characters"),
        ({"query": "x " * (bounds.TOKENS + 1)}, "too many words"),
    ],
)
def test_what_is_no_query_or_too_long_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        ask(body)


def test_runs_are_looked_up_for_one_query_within_its_bound() -> None:
    for body in (
        {"query": "{a}"},
        {"query": "{a}", "variables": None, "operationName": None},
        {"query": "{a}", "variables": {"a": 1}, "operationName": "b"},
    ):
        assert ask(body, bounds.LOOKUPS) == "2000 looked up"
    with pytest.raises(Invalid, match=r"of 1,000 runs\. Ask for fewer"):
        ask({"query": "{a}"}, bounds.LOOKUPS + 1)
    assert sum(bounds.counted(lambda: 1)() for _ in range(bounds.LOOKUPS + 1)) == bounds.LOOKUPS + 1  # REST's own


def test_mlflows_view_is_found_or_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    module: Any = ModuleType("graphql")
    module.parse = parse
    monkeypatch.setitem(sys.modules, "graphql", module)
    handlers = SimpleNamespace(
        get_experiment_impl=len,
        search_model_versions_impl=len,
        _graphql=lambda: "asked",
        _get_request_json=lambda: {"query": "{a}"},
    )
    flask = SimpleNamespace(view_functions={"graphql": handlers._graphql, "other": len})
    bounds.guard(handlers, flask, Invalid)
    assert flask.view_functions["graphql"]() == "asked" and flask.view_functions["other"] is len
    with pytest.raises(AttributeError):
        bounds.guard(handlers, SimpleNamespace(view_functions={}), Invalid)


@pytest.mark.parametrize("headers", [{"content_length": str(bounds.BODY + 1)}, {"transfer_encoding": "chunked"}])
def test_its_body_has_a_limit_of_its_own(headers: dict[str, str]) -> None:
    app = middleware.guarded(asgi.Inner(), {})
    parts = [b"x" * (bounds.BODY // 2)] * 2
    answer = asgi.ask(app, bounds.PATH, "POST", body=[*parts, b"x"], **headers)
    assert answer.status == 413 and "GraphQL request may have 1 MiB" in json.loads(answer.body)["message"]
    within = {"content_length": str(bounds.BODY)} if "content_length" in headers else headers
    assert asgi.ask(app, bounds.PATH, "POST", body=parts, **within).status == 200
