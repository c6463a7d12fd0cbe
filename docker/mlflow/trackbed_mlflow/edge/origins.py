"""Whose pages may use this server from a browser: its own. MLflow alone lets every page of http://localhost:ANY."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
DEFAULT_PORTS = {"http": 80, "https": 443}
REFUSED = "Pages of other addresses may not use this MLflow server from a browser"


def _parts(origin: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None for what is no address, as in `Origin: null`."""
    try:
        result = urlsplit(origin)
        if result.scheme not in DEFAULT_PORTS or not result.hostname or result.username is not None:
            return None
        return result.scheme, result.hostname, result.port or DEFAULT_PORTS[result.scheme]
    except ValueError:
        return None


class Origins:
    """This project's own origins: the listed ones, and the address that the browser itself asked for.

    The second is what a tunnel with another local port needs, and it is sound: MLflow refuses foreign Host headers.
    A listed origin counts at its own port alone: at the other end of a tunnel the same port may be another program.
    The scheme is one of the listed: what somebody put into plain HTTP on the way may not use the pages behind TLS.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self.listed = frozenset(filter(None, (_parts(origin.strip()) for origin in listed)))
        self.schemes = frozenset(scheme for scheme, _, _ in self.listed) or frozenset(DEFAULT_PORTS)

    def own(self, origin: str, host: str) -> bool:
        parts = _parts(origin)
        if parts is None or parts[0] not in self.schemes:
            return False
        asked = _parts(f"{parts[0]}://{host}")
        if asked is None:
            return False
        return parts[1:] == asked[1:] or (parts in self.listed and parts[2] == asked[2])

    def refusal(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Why a page may not do this; "" where it may, or where no browser asks."""
        host, referer, site, named = "", "", "", []
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                named.append(value.decode("latin-1"))
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
            elif name == b"referer":
                referer = value.decode("latin-1")
        if named:
            return "" if all(self.own(origin, host) for origin in named) else REFUSED
        if method not in CHANGING:
            return ""  # links lead here from everywhere; what they get, the other page cannot read
        if site in ("cross-site", "same-site"):
            return REFUSED
        if not site and referer and not self.own(referer, host):
            return REFUSED
        return ""
