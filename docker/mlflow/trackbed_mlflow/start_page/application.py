"""The start page's two addresses: /start for people, /start.json for programs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

from trackbed_mlflow.edge import identity
from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send
from trackbed_mlflow.start_page import document, link, rendering
from trackbed_mlflow.start_page.probes import Probes

JSON = "/start.json"
PATHS = frozenset({link.PATH, JSON})
AGAIN = ((b"refresh", b"0; url=" + link.PATH.encode()),)  # from this page itself the browser brings them
HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"  # MLflow's own list: patterns of fnmatch


def headers(style: str) -> tuple[tuple[bytes, bytes], ...]:
    """Nothing runs in the page, nothing is fetched by it, no page shows it in a frame, nobody keeps it."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        (b"content-security-policy", policy.encode()),
        (b"x-frame-options", b"DENY"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    )


def from_elsewhere(given: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether another page, or a file, has led here: a browser then keeps its strict cookies to itself."""
    return any(name == b"sec-fetch-site" and value in (b"cross-site", b"same-site") for name, value in given)


class StartPage:
    """``app`` (MLflow), and the start page before it."""

    def __init__(self, app: App, environment: Mapping[str, str], database: Callable[[], object]) -> None:
        self.app = app
        self.environment = environment
        self.probes = Probes(environment, database)
        self.hosts = tuple(filter(None, environment.get(HOSTS, "").split(",")))
        self.page = rendering.Page()
        self.headers = headers(self.page.style)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await self._send(scope, send, 405, b"text/plain; charset=utf-8", b"This address is only read.\n")
        elif not self._is_own(scope["headers"]):
            text = b"Invalid Host header: another name than this server's. MLflow refuses it too.\n"
            await self._send(scope, send, 403, b"text/plain; charset=utf-8", text)
        else:
            known = document.read(self.environment)
            view = rendering.View(known, await self.probes.look(known), identity.login.get())
            if scope["path"] == JSON:
                body = json.dumps(view.data(), indent=1).encode() + b"\n"
                await self._send(scope, send, 200, b"application/json", body)
            else:
                token = link.kept(scope, known)
                again = AGAIN if known.get("notebook_digest") and not token and from_elsewhere(scope["headers"]) else ()
                body = self.page.text(view, token).encode()
                await self._send(scope, send, 200, b"text/html; charset=utf-8", body, again)

    def _is_own(self, given: Iterable[tuple[bytes, bytes]]) -> bool:
        """Against DNS rebinding: a foreign name that leads here."""
        named = [value.decode("latin-1").lower() for name, value in given if name == b"host"]
        # a comma, a slash or a space is in no name that a pattern means
        return len(named) == 1 and bool(
            re.fullmatch(r"[\w.:\[\]-]+", named[0]) and any(fnmatch(named[0], pattern) for pattern in self.hosts)
        )

    async def _send(
        self, scope: Scope, send: Send, status: int, kind: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        given = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *self.headers, *more]
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def served(app: App, engines: Iterable[Any], environment: Mapping[str, str]) -> StartPage:
    """``engines``: SQLAlchemy's, of MLflow's stores."""
    engines = tuple(engines)

    def ask() -> None:
        from sqlalchemy import text

        for engine in engines[:1]:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))

    return StartPage(app, environment, ask)
