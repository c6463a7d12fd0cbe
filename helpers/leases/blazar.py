"""The end of this machine's lease as OpenStack's reservation service (Blazar) has it, with the credentials of an openrc
file in the environment. Nothing of them is kept."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from helpers.deadline import within
from helpers.leases import notices

TIMEOUT = 10.0  # seconds for one request
MOST = 4 << 20  # bytes of an answer
HINTS = "2.100"  # the version of Nova's API that shows a server's scheduler hints


class Refused(Exception):
    """Why the API did not tell."""


@dataclass(frozen=True)
class _Lease:
    name: str
    start: float
    end: float
    reservations: frozenset[str]


def configured(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there are credentials to ask with."""
    secret = environ.get("OS_APPLICATION_CREDENTIAL_SECRET") or environ.get("OS_PASSWORD") or environ.get("OS_TOKEN")
    return bool(environ.get("OS_AUTH_URL") and secret)


def ask(now: float, server: str, environ: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """When the lease of this machine ends, and who says so. Raises Refused. ``server``: its id, where that is known."""
    session = _Session(environ)
    leases = [lease for lease in session.leases() if lease.start <= now < lease.end]
    if not leases:
        raise Refused("Blazar has no lease of this project that runs now")
    hint = session.reservation(server) if server else ""
    ours = [lease for lease in leases if hint in lease.reservations] if hint else []
    if not ours and len(leases) > 1:
        names = ", ".join(f"{lease.name} until {_shown(lease.end)}" for lease in leases[:5])
        raise Refused(
            f"Blazar has {len(leases)} leases that run now ({names}), and does not say which is this machine's"
        )
    lease = (ours or leases)[0]
    return lease.end, f"the lease {lease.name} in Blazar"


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%MZ}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


class _Session:
    """A token of Keystone, and the services that it is good for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        try:
            context = ssl.create_default_context(cafile=environ.get("OS_CACERT") or None)
        except OSError as error:
            raise Refused(f"OS_CACERT={environ['OS_CACERT']}: {error.strerror or error}") from None
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))
        self._region = environ.get("OS_REGION_NAME", "")
        self._interface = environ.get("OS_INTERFACE", "public").removesuffix("URL")
        self._token = ""
        address = environ["OS_AUTH_URL"].rstrip("/")
        address = address if address.endswith("/v3") else f"{address}/v3"
        body = json.dumps({"auth": _auth(environ)}).encode()
        headers, answer = self._ask(f"{address}/auth/tokens", body, {"Content-Type": "application/json"})
        self._token = headers.get("X-Subject-Token", "")
        token = answer.get("token")
        catalog = token.get("catalog") if isinstance(token, dict) else None
        self._catalog = [entry for entry in catalog if isinstance(entry, dict)] if isinstance(catalog, list) else []
        if not self._token:
            raise Refused("Keystone gave no token")

    def leases(self) -> Iterator[_Lease]:
        address = self._endpoint("reservation")
        address = address if address.endswith("/v1") else f"{address}/v1"
        listed = self._ask(f"{address}/leases")[1].get("leases")
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict) and str(one.get("status") or "ACTIVE") == "ACTIVE":
                held = one.get("reservations")
                reservations = [r for r in held if isinstance(r, dict)] if isinstance(held, list) else []
                name = "".join(c for c in str(one.get("name", "")) if c.isprintable())[:60]
                yield _Lease(
                    name,
                    _utc(one.get("start_date")),
                    _utc(one.get("end_date")),
                    frozenset(str(reservation.get("id", "")) for reservation in reservations),
                )

    def reservation(self, server: str) -> str:
        """The reservation that a server was started in; "" where nobody tells."""
        try:
            address = f"{self._endpoint('compute')}/servers/{urllib.parse.quote(server, safe='')}"
            answer = self._ask(address, None, {"OpenStack-API-Version": f"compute {HINTS}"})[1]
        except Refused:
            return ""
        shown = answer.get("server")
        hints = shown.get("scheduler_hints") if isinstance(shown, dict) else None
        value = hints.get("reservation", "") if isinstance(hints, dict) else ""
        return str(value[0] if isinstance(value, list) and value else value)

    def _endpoint(self, kind: str) -> str:
        for entry in self._catalog:
            endpoints = entry.get("endpoints")
            for endpoint in endpoints if entry.get("type") == kind and isinstance(endpoints, list) else ():
                if not isinstance(endpoint, dict) or endpoint.get("interface") != self._interface:
                    continue
                url = str(endpoint.get("url", "")).rstrip("/")
                if self._region in ("", endpoint.get("region")) and url.startswith(("http://", "https://")):
                    return url
        where = f" in {self._region}" if self._region else ""
        raise Refused(f"Keystone names no {kind} service{where}")

    def _ask(
        self, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Mapping[str, str], dict[str, Any]]:
        if not url.startswith(("http://", "https://")):
            raise Refused("OS_AUTH_URL has to begin with https://")
        request = urllib.request.Request(url, data=body, headers={"Accept": "application/json", **(headers or {})})
        if self._token:
            request.add_unredirected_header("X-Auth-Token", self._token)

        def once() -> tuple[Mapping[str, str], dict[str, Any]]:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                data = json.loads(response.read(MOST))
                return response.headers, data if isinstance(data, dict) else {}

        host = urllib.parse.urlsplit(url).hostname
        try:
            return within(TIMEOUT + 1, once)
        except urllib.error.HTTPError as error:
            raise Refused(f"{host} answers HTTP {error.code}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise Refused(f"{host} does not answer: {getattr(error, 'reason', error)}") from None


def _utc(text: object) -> float:
    """Blazar's dates have no zone, and are of UTC."""
    return notices.date(text) or notices.date(f"{str(text)[:40].strip()}+00:00")


def _auth(environ: Mapping[str, str]) -> dict[str, Any]:
    """What Keystone asks for, as openrc files have it."""

    def named(prefix: str) -> dict[str, Any]:
        if identity := environ.get(f"{prefix}_ID"):
            return {"id": identity}
        domain = "OS_PROJECT_DOMAIN" if prefix == "OS_PROJECT" else "OS_USER_DOMAIN"
        name = environ.get(f"{domain}_NAME", environ.get("OS_DOMAIN_NAME", "Default"))
        domain_id = environ.get(f"{domain}_ID")
        return {
            "name": environ.get(f"{prefix}_NAME") or environ.get("OS_USERNAME" if prefix == "OS_USER" else "", ""),
            "domain": {"id": domain_id} if domain_id else {"name": name},
        }

    if secret := environ.get("OS_APPLICATION_CREDENTIAL_SECRET"):
        credential: dict[str, Any] = {"secret": secret}
        if identity := environ.get("OS_APPLICATION_CREDENTIAL_ID"):
            credential["id"] = identity
        else:
            credential |= {"name": environ.get("OS_APPLICATION_CREDENTIAL_NAME", ""), "user": named("OS_USER")}
        return {"identity": {"methods": ["application_credential"], "application_credential": credential}}
    scope = {"project": named("OS_PROJECT")}
    if token := environ.get("OS_TOKEN"):
        return {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}
    user = {**named("OS_USER"), "password": environ.get("OS_PASSWORD", "")}
    return {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
