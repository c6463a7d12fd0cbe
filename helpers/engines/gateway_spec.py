"""The gateway as it is on every engine that has one: what its Caddyfile is told. No secret among it."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import urls
from helpers.errors import TrackbedError
from helpers.project import users
from helpers.project.deployment import Deployment
from helpers.settings import Settings

ROOT_FILE = "acme-root.pem"  # among its secret files


def environment(deployment: Deployment) -> dict[str, str]:
    """The variables that depend on settings, by the names of docker/gateway/Caddyfile."""
    settings, name = deployment.settings, urls.public_name(deployment.settings)
    certificates = "internal"
    if settings.acme:
        certificates = "acme_address" if re.fullmatch(r"[0-9.]+", name) else "acme"
    return {
        "GATEWAY_NAME": name,
        "GATEWAY_CERTIFICATES": certificates,
        "GATEWAY_ACME_ROOT": f"trusted_roots /run/secrets/{ROOT_FILE}" if settings.acme_root else "",
        "GATEWAY_CONSOLE": "import public 9001 console" if deployment.console_is_public else "",
        "GATEWAY_S3": "import public 9000 s3" if deployment.s3_is_public else "",
        "GATEWAY_HSTS": hsts(settings),
    }


def files(settings: Settings) -> dict[str, bytes]:
    """The files beside its secrets: who may log in, and the root of an ACME CA of the site's own."""
    result = {users.FILE: users.render(users.load(settings)).encode()}
    if settings.acme_root:
        try:
            result[ROOT_FILE] = Path(settings.acme_root).read_bytes()
        except OSError as error:
            raise TrackbedError(f"ACME_ROOT {settings.acme_root}: {error.strerror}") from None
    return result


def hsts(settings: Settings) -> str:
    """The gateway's line that tells browsers to use HTTPS only, "" where they do not know the certificate by itself.

    With a CA of one's own a browser would lock its user out as soon as that CA changes; for addresses there is none.
    """
    known = settings.acme and not settings.acme_root and settings.domain
    return "header Strict-Transport-Security max-age=15552000" if known else ""
