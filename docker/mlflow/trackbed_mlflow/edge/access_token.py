"""The access token: who does not know it gets nothing from this server, not even its pages.

A client sends it as MLFLOW_TRACKING_TOKEN (Bearer) or as the password of any user name (Basic). A browser follows a
link with ?token= once and has a cookie from then on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from trackbed_mlflow import jobs
from trackbed_mlflow.edge.token_file import read_token

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "trackbed-mlflow-"  # and the port: browsers send a cookie to every port of its host
COOKIE_SECONDS = 30 * 24 * 3600
COOKIE_PURPOSE = b"cookie of Trackbed's MLflow"
HELP = (
    b'{"error_code": "UNAUTHENTICATED", "message": "This MLflow server asks for its access token. Set '
    b"MLFLOW_TRACKING_TOKEN in the client's environment, or open the link that `invoke up` printed. "
    b'`invoke credentials` shows the token."}'
)


class Access:
    """An ASGI application that only answers who knows the token."""

    def __init__(self, app: App, token: str, job_token: str = "") -> None:
        import hmac

        self.app = app
        self.token = token.encode()
        self.job_token = job_token.encode()  # of the server's own jobs; "" without
        self.cookie = cookie_value(token).encode()
        self.equal = hmac.compare_digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] == "GET" and b"token=" in scope["query_string"] and self._linked(scope):
            await self._enter(scope, send)
        elif self._known(scope["headers"], scope["method"], scope["path"]):
            await self.app(scope, receive, send)
        else:
            await send(
                {
                    "type": "http.response.start",
                    "status": 401,
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"content-length", b"%d" % len(HELP)),
                        (
                            b"www-authenticate",
                            b'Basic realm="MLflow: the access token is the password", charset="UTF-8"',
                        ),
                        (b"cache-control", b"no-store"),
                        (b"x-frame-options", b"DENY"),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else HELP})

    def _known(self, headers: list[tuple[bytes, bytes]], method: str, path: str) -> bool:
        for name, value in headers:
            if name == b"authorization":
                kind, _, rest = value.strip().partition(b" ")
                kind, rest = kind.lower(), rest.strip()
                if kind == b"bearer" and self.equal(rest, self.token):
                    return True
                if kind == b"basic" and (password := jobs.password(rest)):
                    if self.equal(password, self.token):
                        return True
                    if self.job_token and self.equal(password, self.job_token):
                        return jobs.may(method, path)
            elif name == b"cookie" and COOKIE.encode() in value:
                # of any port: what counts is the value
                if any(self.equal(item, self.cookie) for item in _cookies(value)):
                    return True
        return False

    def _linked(self, scope: Scope) -> bool:
        from urllib.parse import parse_qsl

        result = [value for name, value in _query(scope, parse_qsl) if name == "token"]
        return any(self.equal(value.encode(), self.token) for value in result)

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Gives the cookie and leads to the same address without the token, which must not stay in the history."""
        from urllib.parse import parse_qsl, urlencode

        rest = urlencode([pair for pair in _query(scope, parse_qsl) if pair[0] != "token"])
        await redirect(scope, send, scope["path"], [cookie(scope, COOKIE, self.cookie.decode())], rest)


def cookie_value(token: str) -> str:
    """What a browser keeps. Not the token itself: it lies in the browser's files, and a new token has to end it."""
    import hashlib
    import hmac

    return hmac.new(token.encode(), COOKIE_PURPOSE, hashlib.sha256).hexdigest()


def port(scope: Scope) -> str:
    """The port that the browser asked, "" for its scheme's own."""
    hosts = (value.decode("latin-1") for name, value in scope["headers"] if name == b"host")
    return next((m[1] for host in hosts if (m := re.search(r":(\d{1,5})$", host))), "")


def cookie(
    scope: Scope, name: str, value: str, path: str = "/", seconds: int = COOKIE_SECONDS, same_site: str = "Lax"
) -> bytes:
    """The header's value; ``name`` gets the port. ``seconds`` 0: until the browser ends."""
    age = f"; Max-Age={seconds}" if seconds else ""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{name}{port(scope)}={value}; Path={path}{age}; HttpOnly; SameSite={same_site}{secure}".encode()


async def redirect(scope: Scope, send: Send, path: str, cookies: Iterable[bytes], query: str = "") -> None:
    """To a page of this server, with cookies; the address that led here stays unknown to it."""
    headers = [
        (b"location", location(path, query)),
        *((b"set-cookie", value) for value in cookies),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def location(path: str, query: str) -> bytes:
    """A redirect's target on this same server."""
    from urllib.parse import quote

    # one slash: two would name another host
    address = "/" + quote(path.lstrip("/\\"), safe="/~!$&'()*+,;=:@-._")
    return f"{address}?{query}".encode("latin-1") if query else address.encode()  # a query's bytes as they came


def _query(scope: Scope, parse: Callable[..., list[tuple[str, str]]]) -> list[tuple[str, str]]:
    try:
        return parse(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []


def _cookies(header: bytes) -> Iterator[bytes]:
    for part in header.split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name.startswith(COOKIE.encode()):
            yield value


def protected(app: App, environment: Mapping[str, str] = os.environ) -> App:
    """``app`` behind the token; ``app`` itself where there is none."""
    token = read_token(environment)
    return Access(app, token, environment.get("TRACKBED_JOB_TOKEN", "")) if token else app
