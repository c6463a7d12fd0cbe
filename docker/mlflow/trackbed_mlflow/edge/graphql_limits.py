"""What one GraphQL query may cost: MLflow's own bounds count fields after reading the query, not what they ask for.

The pages' longest query has 1,500 characters and 150 tokens. Reading and checking a query is Python's work, some of it
with the square of its fields; and each run of an answer can ask for its experiment and its model versions one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

PATH = "/graphql"
BODY = 1 << 20  # bytes; variables may hold a page of run ids
TEXT, TOKENS = 32 << 10, 1000  # of the query: characters, words and signs
LOOKUPS = 2000  # experiments and model versions of single runs; 1 to 2 ms each

left: ContextVar[list[int] | None] = ContextVar("left", default=None)


class Exceeded(BaseException):
    """Ends the whole query: the library turns an Exception into one of many errors, and goes on."""


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, a part of MLflow's handlers that GraphQL calls for each run of an answer."""

    @functools.wraps(function)
    def count(*args: Any, **kwargs: Any) -> Any:
        if (rest := left.get()) is not None:
            rest[0] -= 1
            if rest[0] < 0:
                raise Exceeded
        return function(*args, **kwargs)

    return count


def refusal(body: dict[str, Any]) -> str:
    """Why the request is no query that MLflow could run; "" for one that it may read."""
    for name, kind, word, needed in (
        ("query", str, "text", True),
        ("variables", dict, "an object", False),
        ("operationName", str, "text", False),
    ):
        value = body.get(name)
        if not (isinstance(value, kind) or (value is None and not needed)):
            return f"GraphQL: `{name}` has to be {word}"
    if len(body["query"]) > TEXT:
        return f"GraphQL: a query may have {TEXT:,} characters. What it asks for goes into its variables"
    return ""


def bounded(
    view: Callable[..., Any],
    read: Callable[[], dict[str, Any]],
    invalid: Callable[[str], Exception],
    parse: Callable[..., Any],
) -> Callable[..., Any]:
    """MLflow's ``view`` for queries within the bounds; ``parse`` raises for more than ``max_tokens``."""

    @functools.wraps(view)
    def ask(*args: Any, **kwargs: Any) -> Any:
        body = read()
        if why := refusal(body):
            raise invalid(why)
        parse(body["query"], no_location=True, max_tokens=TOKENS)
        token = left.set([LOOKUPS])
        try:
            return view(*args, **kwargs)
        except Exceeded:
            raise invalid(
                f"GraphQL: a query may ask for the experiments and model versions of {LOOKUPS // 2:,} runs. "
                "Ask for fewer runs at once (maxResults), or without them"
            ) from None
        finally:
            left.reset(token)

    return ask


def guard(handlers: Any, flask: Any, invalid: Callable[[str], Exception]) -> None:
    """An MLflow whose view is not found must not start: its queries would have no bound."""
    from graphql import parse  # type: ignore[import-not-found]

    for name in ("get_experiment_impl", "search_model_versions_impl"):
        setattr(handlers, name, counted(getattr(handlers, name)))
    views = [name for name, view in flask.view_functions.items() if view is handlers._graphql]
    if not views:
        raise AttributeError("MLflow's GraphQL view is another one")
    for name in views:
        flask.view_functions[name] = bounded(handlers._graphql, lambda: handlers._get_request_json(), invalid, parse)
