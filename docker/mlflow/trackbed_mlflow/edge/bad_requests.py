"""What a request brings and MLflow cannot read or store is its sender's mistake: 400 with the reason, in MLflow's form.

MLflow makes a 500 of many of them, which its clients repeat for four minutes, and reads a body that is no JSON, or one
that came without its length, as an empty one.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import logging
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from trackbed_mlflow.errors import say

# What Python raises where a value is none that the code expects. A store or database that fails raises others.
FAULTS = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError)
READERS = ("google.protobuf", "graphql")  # libraries that read requests; their errors are of none of these kinds
# a path whose file or folder is there as the other, or that is too long; the same in the words of VersityGW, MinIO, AWS
PATHS = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP})
LONG = frozenset({errno.ENAMETOOLONG, "KeyTooLongError", "KeyTooLong"})
KEYS = frozenset(
    {
        "ObjectParentIsFile",
        "ExistingObjectIsDirectory",
        "DirectoryNotEmpty",
        "XMinioParentIsObject",
        "XMinioObjectExistsAsDirectory",
    }
)
CODES = {
    404: "ENDPOINT_NOT_FOUND",
    422: "INVALID_PARAMETER_VALUE",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}
CHAIN = 10  # errors that one error is looked through for its reason
SHOWN = 200  # characters of Python's own words
DEEP = "The request is nested too deeply"


def unfit(error: BaseException) -> str:
    """Why an artifact cannot have its path, where that is what a store said; else ""."""
    for _ in range(CHAIN):
        said: Any = error.errno if isinstance(error, OSError) else None
        if isinstance(response := getattr(error, "response", None), dict):  # of botocore's
            said = response.get("Error", {}).get("Code")
        if said in PATHS or said in KEYS:
            return (
                "An artifact cannot have this path: a file is where it needs a folder, or a folder where the file "
                "would be. Choose another path"
            )
        if said in LONG:
            return "An artifact cannot have this path: a name in it is too long"
        following = error.__cause__ or error.__context__
        if following is None:
            break
        error = following
    return ""


def reason(error: BaseException) -> str:
    """What is wrong with the request, as a sentence without its end."""
    if why := unfit(error):
        return why
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
            result = own(flask_request)
        except RecursionError:
            raise invalid(DEEP) from None
        data = flask_request.get_data()
        if b"\xed" in data or (b"\\" in data and (b"\\ud" in data or b"\\uD" in data)):  # JSON's and UTF-8's surrogates
            text(result)
        if type(result) is dict:
            return result
        if result is None and not data.strip():
            return {}
        if result is None or isinstance(result, str):  # older clients send JSON in a JSON string
            result = parsed(data if result is None else result)
        if result is None:
            return {}
        if not isinstance(result, dict):
            raise invalid(f"The request's body is no JSON object but {type(result).__name__}")
        return result

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


def blame_sender(error: Any) -> None:
    """MLflow's INTERNAL_ERROR around a fault becomes the sender's."""
    if error.error_code == "INTERNAL_ERROR" and (
        isinstance(error.__cause__, FAULTS) or (error.__cause__ and unfit(error.__cause__))
    ):
        error.__dict__.update(vars(invalid(reason(error.__cause__))))


def blame_senders(exception: Any) -> None:
    """Let the class of MLflow's errors look at the cause before it becomes an answer."""

    def first(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def looked(self: Any) -> Any:
            blame_sender(self)
            return method(self)

        return looked

    exception.serialize_as_json = first(exception.serialize_as_json)
    exception.get_http_status_code = first(exception.get_http_status_code)


def answer(error: BaseException, method: str, path: str, query: object) -> tuple[int, str]:
    """Status and body for what no handler of MLflow's caught; a request that brings nothing is not at fault."""
    if isinstance(error, SystemError):  # protobuf's C code wraps the fault
        error = error.__cause__ or error
    # what a store's or a database's library raises is none of these
    fault = isinstance(error, FAULTS) or type(error).__module__.startswith(READERS) or "NUL (0x00)" in str(error)
    other = isinstance(error, OSError) or hasattr(error, "response")
    request, said = f"{method} {path[:SHOWN]!r}", f"{type(error).__name__}: {str(error)[:SHOWN]!r}"
    if method in ("GET", "HEAD") and not query and (why := unfit(error)):  # nothing could ever be stored there
        return 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{why}."})
    if (unfit(error) or (fault and not other)) and (query or method in ("POST", "PUT", "PATCH")):
        say(f"{request}: 400, {said}")
        return 400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": f"{reason(error)}."})
    logging.getLogger("uvicorn.error").error(f"{request}: 500, {said}", exc_info=error)
    return 500, json.dumps({"error_code": "INTERNAL_ERROR", "message": f"MLflow failed: {type(error).__name__}."})


def refused(status: int, detail: Any) -> str:
    """FastAPI's own refusal; its form has no message that MLflow's clients show."""
    code = CODES.get(status, "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR")
    return json.dumps({"error_code": code, "message": str(detail), "detail": detail})


def guard(handlers: Any, flask: Any, app: Any, bucket: bool) -> None:
    """All of it, for MLflow's handlers, its Flask application and the FastAPI application around that.

    ``bucket``: artifacts are in one; its library has errors of its own.
    """
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
        created: Any = invalid(str(error.description).rstrip("."))
        return Response(created.serialize_as_json(), error.code, mimetype="application/json")

    async def asgi_fault(asked: Any, error: Exception) -> Any:
        status, body = answer(error, asked.method, asked.url.path, asked.url.query)
        return Asgi(body, status, media_type="application/json")

    async def asgi_refused(_: Any, error: Any) -> Any:
        return Asgi(refused(error.status_code, error.detail), error.status_code, error.headers, "application/json")

    kinds: list[type[Exception]] = [*FAULTS, SystemError, OSError, GraphQLError]
    if bucket:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import ClientError

        kinds += [Boto3Error, ClientError]
    blame_senders(MlflowException)
    app.add_exception_handler(HTTPException, asgi_refused)
    handlers._get_request_json = reader(handlers._get_request_json, request)
    flask.register_error_handler(MlflowException, known)
    for kind in kinds:
        flask.register_error_handler(kind, fault)
        app.add_exception_handler(kind, asgi_fault)
    for kind in (BadRequest, UnsupportedMediaType):
        flask.register_error_handler(kind, unread)
    flask.wsgi_app = measured(flask.wsgi_app)
