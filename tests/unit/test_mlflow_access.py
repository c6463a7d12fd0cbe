"""The access token of the MLflow server (trackbed_mlflow/edge/access_token.py)."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from trackbed_mlflow import errors
from trackbed_mlflow.edge import access_token, token_file

from tests.unit import asgi

TOKEN = "t0ken_of-the-test"


@pytest.fixture
def inner() -> asgi.Inner:
    return asgi.Inner()


@pytest.fixture
def app(inner: asgi.Inner) -> access_token.Access:
    return access_token.Access(inner, TOKEN)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def cookie_of(answer: asgi.Answer) -> str:
    return answer.headers["set-cookie"].split(";")[0]


@pytest.mark.parametrize("path", ["/", "/health", "/static-files/main.js", "/api/2.0/mlflow/experiments/search"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_without_the_token_there_is_nothing(
    app: access_token.Access, inner: asgi.Inner, path: str, method: str
) -> None:
    answer = asgi.ask(app, path, method)
    assert answer.status == 401 and not inner.asked
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert (b"MLFLOW_TRACKING_TOKEN" in answer.body) == (method != "HEAD")


@pytest.mark.parametrize("login", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("", TOKEN), basic("anybody", TOKEN)])
def test_the_token_opens(app: access_token.Access, login: str) -> None:
    assert asgi.ask(app, "/static-files/main.js", authorization=login).status == 200


@pytest.mark.parametrize(
    "login",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        TOKEN,
        f"Token {TOKEN}",
        basic(TOKEN, ""),
        basic(TOKEN, "x"),
        "Basic",
        "Basic !!!",
        "Basic \xff",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    ],
)
def test_what_is_not_the_token_does_not(app: access_token.Access, inner: asgi.Inner, login: str) -> None:
    assert asgi.ask(app, authorization=login).status == 401 and not inner.asked


def test_a_link_gives_a_cookie_and_loses_the_token(app: access_token.Access, inner: asgi.Inner) -> None:
    answer = asgi.ask(app, "/", query=f"a=1&token={TOKEN}&b=%26", host="localhost:8123")
    assert answer.status == 303 and not inner.asked
    assert answer.headers["location"] == "/?a=1&b=%26"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("trackbed-mlflow-8123=") and TOKEN not in cookie
    assert "; HttpOnly" in cookie and "; SameSite=Lax" in cookie and "Secure" not in cookie
    assert asgi.ask(app, cookie=f"x=1; {cookie_of(answer)}; y=2").status == 200


def test_a_new_token_ends_the_cookie(app: access_token.Access, inner: asgi.Inner) -> None:
    cookie = cookie_of(asgi.ask(app, query=f"token={TOKEN}"))
    assert asgi.ask(access_token.Access(inner, TOKEN + "2"), cookie=cookie).status == 401
    assert asgi.ask(app, cookie=f"trackbed-mlflow-1={TOKEN}").status == 401


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "/a\r\nb"])
def test_a_link_leads_to_this_server_alone(app: access_token.Access, path: str) -> None:
    location = asgi.ask(app, path, query=f"token={TOKEN}").headers["location"]
    assert location.startswith("/") and not location.startswith(("//", "/\\")) and "\n" not in location


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "token="),
        ("GET", "token=x"),
        ("POST", f"token={TOKEN}"),
        ("GET", f"mytoken={TOKEN}"),
        ("GET", "token=x&" * 200),
    ],
)
def test_other_queries_open_nothing(app: access_token.Access, inner: asgi.Inner, method: str, query: str) -> None:
    assert asgi.ask(app, method=method, query=query).status == 401 and not inner.asked


def test_a_websocket_is_closed_and_the_servers_own_start_is_not(app: access_token.Access, inner: asgi.Inner) -> None:
    assert asgi.ask(app, kind="websocket", authorization=f"Bearer {TOKEN}").messages[0]["type"] == "websocket.close"
    assert not inner.asked
    asgi.ask(app, kind="lifespan")
    assert inner.asked == ["/"]


def test_no_file_or_an_empty_one_asks_for_nothing(tmp_path: Path, inner: asgi.Inner) -> None:
    (tmp_path / "empty").write_text("\n")
    for environment in (
        {},
        {token_file.FILE: ""},
        {token_file.FILE: str(tmp_path / "none")},
        {token_file.FILE: str(tmp_path / "empty")},
    ):
        assert access_token.protected(inner, environment) is inner


def test_the_files_token_is_the_one(tmp_path: Path, inner: asgi.Inner) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    app = access_token.protected(inner, {token_file.FILE: str(tmp_path / "token")})
    assert asgi.ask(app).status == 401
    assert asgi.ask(app, authorization=f"Bearer {TOKEN}").status == 200


def test_a_token_that_cannot_be_read_is_not_no_token(tmp_path: Path) -> None:
    os.mkdir(tmp_path / "token")
    with pytest.raises(errors.Stop, match="cannot be read") as caught:
        token_file.read_token({token_file.FILE: str(tmp_path / "token")})
    assert caught.value.code == errors.MISCONFIGURED
