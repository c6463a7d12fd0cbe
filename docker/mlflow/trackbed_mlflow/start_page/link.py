"""The one link that `invoke up` prints: /start with the notebook's token.

Who knows that token has a shell in the notebook, and from there MLflow. So it opens MLflow too, where that asks for its
own, and the browser keeps it for the page's link to JupyterLab. Behind the gateway people log in: no link has a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from trackbed_mlflow.edge import access_token, identity, token_file
from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send
from trackbed_mlflow.start_page import document

PATH = "/start"
COOKIE = "trackbed-start-"  # and the port, as MLflow's


class StartLink:
    """``app``, and before it the link."""

    def __init__(self, app: App, environment: Mapping[str, str]) -> None:
        self.app = app
        self.environment = environment
        self.token = token_file.read_token(environment)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self._brought(scope)
        if not token:
            await self.app(scope, receive, send)
            return
        # of the session: a browser that has opened JupyterLab once has JupyterLab's own cookie
        cookies = [access_token.cookie(scope, COOKIE, token, path=PATH, seconds=0, same_site="Strict")]
        if self.token:
            cookies.append(access_token.cookie(scope, access_token.COOKIE, access_token.cookie_value(self.token)))
        await access_token.redirect(scope, send, PATH, cookies)

    def _brought(self, scope: Scope) -> str:
        """The notebook's token, where the request is the link; "" for any other."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
            return ""
        if b"token=" not in scope["query_string"]:
            return ""
        try:
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=10)
        except ValueError:
            return ""
        known = document.read(self.environment)
        return next((v for name, v in pairs if name == "token" and document.is_notebook_token(known, v)), "")


def kept(scope: Scope, known: Mapping[str, object]) -> str:
    """The token that the browser keeps, "" without one, or with one that was replaced."""
    name = f"{COOKIE}{access_token.port(scope)}".encode()
    for header, value in scope["headers"]:
        if header == b"cookie":
            for part in value.split(b";"):
                key, _, token = part.strip().partition(b"=")
                if key == name and document.is_notebook_token(known, token.decode("latin-1")):
                    return str(token.decode("latin-1"))
    return ""


def opened(app: App, environment: Mapping[str, str]) -> App:
    """``app`` behind the link; as it is where a gateway is in front of it, which takes cookies away."""
    return app if environment.get(identity.FILE) else StartLink(app, environment)
