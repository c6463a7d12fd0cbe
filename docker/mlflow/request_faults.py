"""What a request brings and MLflow cannot read or store is its sender's mistake: 400 with the reason, in MLflow's form.

MLflow makes a 500 of many of them, which its clients repeat for four minutes, and reads a body that is no JSON, or one
that came without its length, as an empty one.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from common import say

# What Python raises where a value is none that the code expects. A store or database that fails raises others.
FAULTS = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError)
SURROGATES = (b"\\ud", b"\\uD", b"\xed")  # how JSON and UTF-8 spell them, and other characters too
SHOWN = 200  # characters of Python's own words
DEEP = "The request is nested too deeply"


def reason(error: BaseException) -> str:
    """What is wrong with the request, as a sentence without its end."""
    if isinstance(error, RecursionError):
        return DEEP
    if isinstance(error, UnicodeEncodeError):
        return "Half of a surrogate pair (\\ud800 to \\udfff) is no text and cannot be stored. Remove it"
    said = " ".join(str(error).split())[:SHOWN]
    if "NUL (0x00)" in said or "embedded null" in said:
        return "A NUL character (\\u0000) cannot be stored. Remove it from the text"
    return f"MLflow cannot read this request: {type(error).__name__}: {said}"


def invalid(message: str) -> Exception:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]

    refused: Exception = MlflowException.invalid_parameter_value(f"{message}.")
    return refused


# a body without its length


Wsgi = Callable[[MutableMapping[str, Any], Callable[..., Any]], Iterable[bytes]]


def measured(wsgi: Wsgi) -> Wsgi:
    """``wsgi`` with the length of a body that came in chunks: it is here as a whole, and Flask reads none without."""

    def known(environ: MutableMapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        chunked = environ.pop("HTTP_TRANSFER_ENCODING", None)
        if (chunked or "CONTENT_LENGTH" not in environ) and isinstance(body := environ["wsgi.input"], io.BytesIO):
            environ["CONTENT_LENGTH"] = str(body.getbuffer().nbytes)
        return wsgi(environ, start)

    return known


# a body that is no JSON object


def reader(own: Callable[..., Any], default: Any) -> Callable[..., dict[str, Any]]:
    """MLflow's reader of JSON bodies, ``own``, which gives None for what it cannot read. ``default``: the request."""

    @functools.wraps(own)
    def read(flask_request: Any = default) -> dict[str, Any]:
        try:
            found = own(flask_request)
        except RecursionError:
            raise invalid(DEEP) from None
        data = flask_request.get_data()
        if SURROGATES[0] in data or SURROGATES[1] in data or SURROGATES[2] in data:
            text(found)
        if type(found) is dict:
            return found
        if found is None and not data.strip():
            return {}
        if found is None or isinstance(found, str):  # older clients send JSON in a JSON string
            found = parsed(data if found is None else found)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise invalid(f"The request's body is no JSON object but {type(found).__name__}")
        return found

    return read


def text(found: Any) -> None:
    """Refuses halves of pairs: protobuf would stop there, and MLflow go on with the beginning of the message."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid(reason(error)) from None


def parsed(body: str | bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise invalid(DEEP) from None
    except ValueError as error:
        raise invalid(f"The request's body is no JSON: {str(error)[:SHOWN]}") from None


# errors


def settle(error: Any) -> None:
    """MLflow's INTERNAL_ERROR around a fault becomes the sender's."""
    if error.error_code == "INTERNAL_ERROR" and isinstance(error.__cause__, FAULTS):
        error.__dict__.update(vars(invalid(reason(error.__cause__))))


def settled(exception: Any) -> None:
    """Let the class of MLflow's errors look at the cause before it becomes an answer."""

    def first(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def looked(self: Any) -> Any:
            settle(self)
            return method(self)

        return looked

    exception.serialize_as_json = first(exception.serialize_as_json)
    exception.get_http_status_code = first(exception.get_http_status_code)


def answer(error: BaseException, method: str, path: str, query: object) -> tuple[int, str]:
    """Status and body for what no handler of MLflow's caught; a request that brings nothing is not at fault."""
    request = f"{method} {path[:SHOWN]!r}"
    if isinstance(error, SystemError):  # protobuf's C code wraps the fault
        error = error.__cause__ or error
    if not isinstance(error, SystemError) and (query or method in ("POST", "PUT", "PATCH")):
        say(f"{request}: 400, {type(error).__name__}: {str(error)[:SHOWN]!r}")
        return 400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": f"{reason(error)}."})
    say(f"{request}: 500, {type(error).__name__}: {str(error)[:SHOWN]!r}")
    return 500, json.dumps({"error_code": "INTERNAL_ERROR", "message": f"MLflow failed: {type(error).__name__}."})


def guard(handlers: Any, flask: Any, app: Any) -> None:
    """All of it, for MLflow's handlers, its Flask application and the FastAPI application around that."""
    from flask import Response, request  # type: ignore[import-not-found]
    from graphql import GraphQLError  # type: ignore[import-not-found]
    from mlflow.exceptions import MlflowException
    from starlette.exceptions import HTTPException  # type: ignore[import-not-found]
    from starlette.responses import Response as Asgi  # type: ignore[import-not-found]
    from werkzeug.exceptions import BadRequest, UnsupportedMediaType  # type: ignore[import-not-found]

    def fault(error: Exception) -> Any:
        status, body = answer(error, request.method, request.path, request.query_string)
        return Response(body, status, mimetype="application/json")

    def known(error: Any) -> Any:  # of a handler without MLflow's own wrapper
        return Response(error.serialize_as_json(), error.get_http_status_code(), mimetype="application/json")

    def unread(error: Any) -> Any:
        return Response(invalid(str(error.description).rstrip(".")).serialize_as_json(), error.code,  # type: ignore[attr-defined]
                        mimetype="application/json")

    async def asgi_fault(asked: Any, error: Exception) -> Any:
        status, body = answer(error, asked.method, asked.url.path, asked.url.query)
        return Asgi(body, status, media_type="application/json")

    async def asgi_refused(_: Any, error: Any) -> Any:  # FastAPI's own form has no message that MLflow's clients show
        code = {400: "BAD_REQUEST", 422: "INVALID_PARAMETER_VALUE"}.get(error.status_code, "INTERNAL_ERROR")
        body = json.dumps({"error_code": code, "message": str(error.detail), "detail": error.detail})
        return Asgi(body, error.status_code, error.headers, "application/json")

    settled(MlflowException)
    app.add_exception_handler(HTTPException, asgi_refused)
    handlers._get_request_json = reader(handlers._get_request_json, request)
    flask.register_error_handler(MlflowException, known)
    for kind in (*FAULTS, SystemError, GraphQLError):
        flask.register_error_handler(kind, fault)
        app.add_exception_handler(kind, asgi_fault)
    for kind in (BadRequest, UnsupportedMediaType):
        flask.register_error_handler(kind, unread)
    flask.wsgi_app = measured(flask.wsgi_app)
