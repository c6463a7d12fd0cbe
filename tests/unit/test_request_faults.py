"""Requests that MLflow cannot read (trackbed_mlflow/edge/bad_requests.py): 400 with the reason, never an empty body."""

from __future__ import annotations

import io
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow.edge import bad_requests as faults


class Error(Exception):
    """Stands for MlflowException."""

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        super().__init__(message)
        self.message, self.error_code = message, error_code

    @classmethod
    def invalid_parameter_value(cls, message: str) -> Error:
        return cls(message, "INVALID_PARAMETER_VALUE")

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.message})

    def get_http_status_code(self) -> int:
        return 500 if self.error_code == "INTERNAL_ERROR" else 400


@pytest.fixture(autouse=True)
def mlflow_error(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("mlflow.exceptions")
    module.MlflowException = type("MlflowException", (Error,), {})
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", module)
    return module.MlflowException


# bodies


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({}, "5"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, "5"),
        ({"HTTP_TRANSFER_ENCODING": "gzip, Chunked"}, "5"),
        ({"CONTENT_LENGTH": "5"}, "5"),
        ({"CONTENT_LENGTH": "9", "HTTP_TRANSFER_ENCODING": "chunked"}, "5"),
    ],
)
def test_a_body_has_its_length_however_it_came(headers: dict[str, str], length: str) -> None:
    seen: dict[str, Any] = {}

    def wsgi(environ: Any, start: Any) -> list[bytes]:
        seen.update(environ)
        return [b"done"]

    assert faults.measured(wsgi)({**headers, "wsgi.input": io.BytesIO(b"hello")}, print) == [b"done"]
    assert seen["CONTENT_LENGTH"] == length and "HTTP_TRANSFER_ENCODING" not in seen


def reading(body: bytes) -> Any:
    """What MLflow's reader, with ours around it, gives for a body."""

    def own(request: Any) -> Any:
        try:
            return json.loads(request.get_data())
        except ValueError:
            return None

    return faults.reader(own, None)(SimpleNamespace(get_data=lambda: body))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"", {}),
        (b" \n", {}),
        (b"null", {}),
        (b"{}", {}),
        (b'"{\\"a\\": 1}"', {"a": 1}),
        (b'"null"', {}),
        ('{"a": "ü"}'.encode("utf-16"), {"a": "ü"}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"a": "\ud55c"}'.encode(), {"a": "\ud55c"}),
        (b'{"a": Infinity}', {"a": float("inf")}),
    ],
)
def test_what_mlflow_reads_stays(body: bytes, found: dict[str, Any]) -> None:
    assert reading(body) == found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (json.dumps("[" * 200_000).encode(), "nested too deeply"),
        (b"hello", "no JSON: Expecting value"),
        (b'{"a": ', "no JSON: Expecting value"),
        (b'{"a": "\xff"}', "no JSON: 'utf-8'"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON: Exceeds the limit"),
        (b'"hello"', "no JSON: Expecting"),
        (b'{"a": [{"b": "\\ud800"}]}', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b'{"a": "\xed\xa0\x80"}', "surrogate"),
        (b"[1]", "object but list"),
        (b"1", "object but int"),
        (b"true", "object but bool"),
        (b'"[1]"', "object but list"),
    ],
)
def test_what_mlflow_cannot_read_is_told(body: bytes, said: str) -> None:
    with pytest.raises(Error, match=said) as raised:
        reading(body)
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


# errors

INVALID = "INVALID_PARAMETER_VALUE"
NUL = ValueError("A string literal cannot contain NUL (0x00) characters.")


@pytest.mark.parametrize(
    ("cause", "code", "said"),
    [
        (NUL, INVALID, "NUL character"),
        (ValueError("embedded null byte"), INVALID, "NUL"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), INVALID, "surrogate"),
        (RecursionError(), INVALID, "nested too deeply"),
        (KeyError("x"), INVALID, "KeyError: 'x'"),
        (NotADirectoryError(20, "x"), INVALID, "cannot have this path"),
        (OSError(36, "x"), INVALID, "too long"),
        (OSError(28, "No space left"), "INTERNAL_ERROR", "failed"),
        (None, "INTERNAL_ERROR", "failed"),
        (MemoryError(), "INTERNAL_ERROR", "failed"),
        (RuntimeError("x"), "INTERNAL_ERROR", "failed"),
    ],
)
def test_an_error_around_a_fault_is_the_senders(
    mlflow_error: Any, cause: Exception | None, code: str, said: str
) -> None:
    faults.blame_senders(mlflow_error)
    for first in ("serialize_as_json", "get_http_status_code"):  # handlers ask in either order
        error = mlflow_error("failed")
        error.__cause__ = cause
        getattr(error, first)()
        assert error.get_http_status_code() == (500 if code == "INTERNAL_ERROR" else 400)
        assert json.loads(error.serialize_as_json())["error_code"] == code
        assert said in json.loads(error.serialize_as_json())["message"]
    error = mlflow_error("not here", "RESOURCE_DOES_NOT_EXIST")
    error.__cause__ = ValueError()
    assert "not here" in error.serialize_as_json()


def test_what_no_handler_caught_is_told_in_mlflows_form(capsys: pytest.CaptureFixture[str]) -> None:
    def upload(code: str) -> Exception:  # as boto3 does
        refusal: Any = Exception(code)
        refusal.response = {"Error": {"Code": code}}
        failed: Any = Exception("Failed to upload")
        failed.__context__ = refusal
        return failed  # type: ignore[no-any-return]

    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")
    syntax = type("GraphQLSyntaxError", (Exception,), {"__module__": "graphql.error"})("more than 1000 tokens")
    for error, method, query, status in (
        (syntax, "POST", "", 400),
        (TypeError("x"), "POST", "", 400),
        (TypeError("x"), "GET", b"a=b", 400),
        (TypeError("x"), "GET", b"", 500),
        (SystemError("x"), "POST", "", 500),
        (wrapped, "POST", "", 400),
        (IsADirectoryError(21, "x"), "PUT", "", 400),
        (OSError(36, "x"), "GET", b"", 404),
        (OSError(28, "x"), "GET", b"", 500),
        (FileExistsError(17, "x"), "PUT", "", 400),
        (OSError(28, "x"), "PUT", "", 500),
        (upload("ObjectParentIsFile"), "PUT", "", 400),
        (upload("XMinioParentIsObject"), "PUT", "", 400),
        (upload("KeyTooLongError"), "PUT", "", 400),
        (upload("InsufficientStorage"), "PUT", "", 500),
        (Exception("the store does not answer"), "PUT", "", 500),
        (Exception("cannot contain NUL (0x00) characters"), "POST", "", 400),
        (upload("AccessDenied"), "PUT", "", 500),
    ):
        result, text = faults.answer(error, method, "/a\n\x1b[2J", query)
        assert result == status
        assert (
            json.loads(text)["error_code"]
            == {400: "INVALID_PARAMETER_VALUE", 404: "RESOURCE_DOES_NOT_EXIST", 500: "INTERNAL_ERROR"}[status]
        )
    assert json.loads(faults.refused(404, "no")) == {
        "error_code": "ENDPOINT_NOT_FOUND",
        "message": "no",
        "detail": "no",
    }
    assert json.loads(faults.refused(400, [1]))["error_code"] == "BAD_REQUEST"
    assert "\x1b" not in capsys.readouterr().err
