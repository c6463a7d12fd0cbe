"""The gateway of PUBLIC=true from this side: which address it has, whether it answers, whom its clients trust."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import shlex
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from helpers import cloud_metadata, urls
from helpers.engines.base import GATEWAY, Engine
from helpers.errors import SettingError, TrackbedError
from helpers.project import users
from helpers.project.project import Project
from helpers.settings import DEFAULT, FOUND_ADDRESS, Settings

ROOT_FILE = "gateway-root.crt"
LOOPBACK = "127.0.0.1"


def resolve_address(project: Project, notice: Callable[[str], None]) -> None:
    """Find out what others call this machine: the setting, else the cloud's metadata service. Raises SettingError.

    The address that was found is remembered for later commands.
    """
    settings = project.settings
    given = settings.domain or settings.origin("PUBLIC_ADDRESS") != DEFAULT
    if not project.is_public or given:
        project.state.remembered.pop(FOUND_ADDRESS, None)
        return
    result = cloud_metadata.public_address()
    before = project.state.remembered.get(FOUND_ADDRESS, "")
    if result.address:
        if result.address != before:
            notice(f"public address: {result.address} (from the metadata service: {result.cloud})")
    elif before:
        notice(f"warning: {result.why}; keeping {before}, its previous answer")
    else:
        raise SettingError(
            f"PUBLIC=true needs the address that others reach this machine at: {result.why}.",
            "`invoke up --public --public-address=203.0.113.7` (or --domain=lab.example.org)",
        )
    address = result.address or before
    project.state.remembered[FOUND_ADDRESS] = address
    project.settings = settings.reload(project.state.remembered)


def check_settings(settings: Settings, engine: Engine | type[Engine], node: str = "") -> None:
    """Refuse what cannot be public. Raises SettingError."""
    if settings.public and not engine.can_be_public:
        raise SettingError(
            f"PUBLIC=true needs the docker engine, or kubernetes, and this is {engine.name}: without containers the "
            "notebook could read and change everything, past every login.",
            "install Docker (`invoke doctor` prints the lines); or stay private (--public=false) and reach it through "
            "the ssh line that `invoke up` prints",
        )
    if settings.public and node:
        raise SettingError(
            f"PUBLIC=true is for the machine that Trackbed runs on, but the services would run on {node}.",
            "run Trackbed there, or leave PUBLIC out and use the ssh line",
        )
    name = urls.public_name(settings)
    if settings.public and engine.in_cluster and not settings.domain and settings.origin("PUBLIC_ADDRESS") == DEFAULT:
        raise SettingError(
            "PUBLIC=true in a cluster needs the name or address at which others reach its nodes or its load balancer.",
            "`invoke up --public --public-address=203.0.113.7` (or --domain=lab.example.org)",
        )
    if settings.public and _is_local(name):
        where = "DOMAIN" if settings.domain else "PUBLIC_ADDRESS"
        raise SettingError(
            f"{where}={name} (from {settings.origin(where)}): every machine calls itself that, so "
            "nobody else reaches this one by it. On this machine the gateway answers at "
            f"https://localhost:{settings.mlflow_port} whatever its public address is.",
            "`invoke up --public --public-address=203.0.113.7` (or --domain=lab.example.org)",
        )
    if settings.public and settings.tracking_uri:
        raise SettingError(
            "PUBLIC=true opens a tracking server of ours, and TRACKING_URI names a remote one.",
            "leave one of the two out",
        )


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_local(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


# the certificate


def root_path(settings: Settings) -> Path:
    """Where the root certificate of the gateway's own CA is written to."""
    return settings.folder / ROOT_FILE


def export_root(engine: Engine) -> Path:
    """Write the root certificate of the gateway's own CA to its file, readable to all. TrackbedError without one."""
    path = root_path(engine.settings)
    done = engine.exec(GATEWAY, ("/usr/bin/gateway", "root"), timeout=20)
    if done.code or "BEGIN CERTIFICATE" not in done.stdout:
        raise TrackbedError(f"the gateway has no root certificate yet: {done.stderr.strip() or 'no answer'}")
    try:
        if not path.exists() or path.read_text() != done.stdout:
            temporary = path.with_suffix(".new")
            temporary.write_text(done.stdout)
            temporary.chmod(0o644)
            os.replace(temporary, path)
    except OSError as error:
        raise TrackbedError(f"{path}: {error.strerror}") from None
    return path


def fingerprint(path: Path) -> str:
    """SHA-256 of a PEM certificate, as browsers show it."""
    text = path.read_text()
    first = text[: text.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def renewed(settings: Settings, before: str) -> str:
    """What to tell when the gateway's own CA is another one than that with the fingerprint ``before``; "" else."""
    path = root_path(settings)
    if not before or settings.acme or not path.exists() or fingerprint(path) == before:
        return ""
    return (
        f"the gateway's own CA is a new one, good for {urls.public_name(settings)} and localhost only: clients "
        f"need the new {path}; take the old one out of browsers"
    )


def trusted(settings: Settings) -> str:
    """The file of roots that a client needs, "" where every machine has them already."""
    if settings.acme:
        return settings.acme_root
    return str(root_path(settings))


def answers(engine: Engine) -> str:
    """Empty when the gateway serves under its public name, with a certificate that its clients accept."""
    settings = engine.settings
    name = urls.public_name(settings)
    # who asks for an address names none in TLS, and gets the certificate of the address that he reached: a way into a
    # cluster ends at the pod's loopback
    inside = engine.in_cluster and _is_address(name)
    try:
        if inside or not settings.acme:
            export_root(engine)
        roots = str(root_path(settings)) if inside else trusted(settings)
        context = ssl.create_default_context(cafile=roots or None)
        address = LOOPBACK if settings.gateway_address == "0.0.0.0" else settings.gateway_address
        with (
            socket.create_connection((address, settings.mlflow_port), 5) as link,
            context.wrap_socket(link, server_hostname=LOOPBACK if inside else name) as secure,
        ):
            connection = http.client.HTTPConnection(name, settings.mlflow_port, timeout=10)
            connection.sock = secure
            connection.request("GET", "/")
            status = connection.getresponse().status
    except TrackbedError as error:
        return error.message
    except ssl.SSLCertVerificationError as error:
        return f"its certificate for {name}: {error.verify_message}"
    except (OSError, http.client.HTTPException) as error:
        wait = f", the certificate from {settings.acme_ca} does not exist yet" if settings.acme else ""
        return f"the gateway does not serve {name}{wait}: {str(error) or type(error).__name__}"
    return "" if status == 401 else f"the gateway answers HTTP {status} instead of asking for a login"


def notes(settings: Settings, logins: int) -> list[str]:
    """What to tell after a start: whom clients have to trust, and how somebody gets in."""
    lines = []
    path = root_path(settings)
    if not settings.acme and path.exists():
        lines += [
            f"certificates: the gateway's own CA. Its root: {path}",
            f"  SHA-256 {fingerprint(path)}",
            "  browser: import that file as an authority, or compare the fingerprint and accept it once",
            f"  Python:  export MLFLOW_TRACKING_SERVER_CERT_PATH={path.name}   (a copy of that file)",
        ]
    if not logins:
        lines.append("nobody can log in yet: `invoke users.add NAME` makes a login and prints its password")
    lines.append("`invoke env NAME` prints the lines for a shell on another machine")
    return lines


def client_lines(project: Project, name: str | None, who: str = "") -> str:
    """What to type on another machine so that MLflow's own clients log to this one. No secret is in it.

    ``who``: stands in the place of a login's name, whoever may log in. Raises SettingError for a name without a login.
    """
    settings = project.settings
    if not project.is_public:
        from helpers import addresses

        bound = settings.bind_address
        tunnel = addresses.ssh_line((settings.mlflow_port,), settings.public_address, bound=bound)
        return (
            f"# this project is not public: keep the tunnel open while you work\n{tunnel} &\n"
            f"export MLFLOW_TRACKING_URI=http://{bound}:{settings.mlflow_port}"
            + (
                "\nread -rsp 'MLFLOW_TOKEN, as `invoke credentials` shows it: ' MLFLOW_TRACKING_TOKEN && "
                "export MLFLOW_TRACKING_TOKEN && echo"
                if project.asks
                else ""
            )
        )
    known = users.load(settings)
    if name and name not in known:
        raise users.unknown(name, known)
    login = who or shlex.quote(name or next(iter(sorted(known)), "NAME"))
    lines = [
        f"export MLFLOW_TRACKING_URI={urls.public_url(settings, 'mlflow')}",
        f"export MLFLOW_TRACKING_USERNAME={login}",
        f"read -rsp 'password of {login}: ' MLFLOW_TRACKING_PASSWORD && export MLFLOW_TRACKING_PASSWORD && echo",
    ]
    if trust := trusted(settings):
        try:
            text = Path(trust).read_text().strip()
        except OSError as error:
            raise TrackbedError(f"{trust}: {error.strerror}", "`invoke up` writes it") from None
        lines += [
            f"cat >trackbed-root.crt <<'END'\n{text}\nEND",
            'export MLFLOW_TRACKING_SERVER_CERT_PATH="$PWD/trackbed-root.crt"',
        ]
    return "\n".join(lines)
