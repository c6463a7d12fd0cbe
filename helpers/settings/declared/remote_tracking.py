"""Settings of a notebook that logs to a remote tracking server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.settings import kinds
from helpers.settings.declaration import NOTEBOOK, setting
from helpers.settings.kinds import optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class RemoteTracking:
    """Remote tracking server"""

    tracking_uri: str = setting(
        "",
        optional(kinds.TRACKING_URI, ""),
        "Address of a remote tracking server; Trackbed then starts only a notebook, which logs there",
        tasks=NOTEBOOK,
    )
    tracking_username: str = setting(
        "",
        kinds.USERNAME,
        "User name at the remote tracking server; TRACKING_PASSWORD or TRACKING_TOKEN goes into .env",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
    tracking_password: str = setting(
        "", kinds.printable(1024), "Password at the remote tracking server", secret=True, only=("remote",)
    )
    tracking_token: str = setting(
        "",
        kinds.printable(4000),
        "Token at the remote tracking server, instead of user name and password",
        secret=True,
        only=("remote",),
    )
    tracking_ca: Path | None = setting(
        "",
        optional(kinds.FILE, None),
        "Certificate of the CA that signed the remote tracking server's, a PEM file",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
