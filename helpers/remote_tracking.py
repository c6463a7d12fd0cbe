"""A remote tracking server: what a notebook of ours is told about it, its login and CA as files, and asking it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

from helpers.engines.base import Engine
from helpers.errors import SettingError, TrackbedError
from helpers.services import JUPYTER, SecretFile
from helpers.settings import Settings

SCRIPT = Path(__file__).parent / "probes" / "tracking_server.py"
NAME = "remote tracking server"  # among the parts to wait for
PLUGIN = "trackbed"  # the name of docker/jupyter/startup/trackbed_login.py among MLflow's plugins
PATIENCE = 30.0  # seconds for a server that may be just starting
USERNAME_FILE, PASSWORD_FILE, TOKEN_FILE, CA_FILE = (
    "tracking-username",
    "tracking-password",
    "tracking-token",
    "tracking-ca.pem",
)
PROXIED = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false"}
LOCAL = ("localhost", "127.0.0.1", "::1")


def environment(settings: Settings, secrets: str) -> dict[str, str]:
    """The notebook's environment: where its secret files are, never what is in them."""
    found = {
        **login(secrets),
        # left alone, the client is handed addresses of the object store, which often has a name only over there
        **PROXIED,
    }
    if settings.tracking_ca:
        found["MLFLOW_TRACKING_SERVER_CERT_PATH"] = f"{secrets}/{CA_FILE}"
    return found


def login(secrets: str) -> dict[str, str]:
    """What makes the notebook's MLflow log in with the files in that folder."""
    return {"MLFLOW_TRACKING_AUTH": PLUGIN, "TRACKBED_TRACKING_SECRETS": secrets}


def secret_files(settings: Settings, volume: str, uid: int, gid: int) -> tuple[SecretFile, ...]:
    """The files of the login and of the CA. Raises SettingError for a CA that cannot be read."""

    def file(path: str, template: str, *names: str) -> SecretFile:
        return SecretFile(JUPYTER, volume, path, template, names, uid, gid)

    if settings.tracking_username:
        found = [
            file(USERNAME_FILE, settings.tracking_username),
            file(PASSWORD_FILE, "{TRACKING_PASSWORD}", "TRACKING_PASSWORD"),
            file(TOKEN_FILE, ""),
        ]
    else:  # an empty file takes the place of what an earlier `up` was given
        found = [
            file(USERNAME_FILE, ""),
            file(PASSWORD_FILE, ""),
            file(TOKEN_FILE, "{TRACKING_TOKEN}", "TRACKING_TOKEN"),
        ]
    return (*found, file(CA_FILE, authority(settings)))


def authority(settings: Settings) -> str:
    """The text of TRACKING_CA; "" without one."""
    if settings.tracking_ca is None:
        return ""
    where = f"TRACKING_CA={settings.tracking_ca} (from {settings.origin('TRACKING_CA')})"
    try:
        text = settings.tracking_ca.read_text("ascii", "replace")
    except OSError as error:
        raise SettingError(f"{where}: {error.strerror or error}") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise SettingError(f"{where}: must be a file with a certificate in PEM form (-----BEGIN CERTIFICATE-----).")
    if "PRIVATE KEY" in text:
        raise SettingError(f"{where}: holds a private key; it must hold the CA's certificate only.")
    return text


def check_address(settings: Settings, own_loopback: bool) -> None:
    """Refuse an address that means another machine inside the notebook, which has its own loopback, than here."""
    host = urlsplit(settings.tracking_uri).hostname or ""
    if own_loopback and host in LOCAL:
        raise SettingError(
            f"TRACKING_URI={settings.tracking_uri} (from {settings.origin('TRACKING_URI')}): in the "
            f"notebook's container {host} is the container itself; name the machine by an address "
            "that others can reach."
        )


class ServerAnswers:
    """A probe, asked from inside the notebook: empty when the server answers with this login.

    Raises TrackbedError at once for what waiting does not mend (401, TLS), for the rest after ``patience`` seconds.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._deadline = time.monotonic() + patience

    def __call__(self, engine: Engine) -> str:
        done = engine.exec(JUPYTER, ("python", "-"), stdin=SCRIPT.read_bytes(), timeout=60)
        answer = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
        try:
            found = json.loads(answer)
            problem, fix, final = str(found["problem"]), str(found["fix"]), bool(found["final"])
        except (ValueError, KeyError, TypeError):
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            problem, fix, final = (lines or [f"exit code {done.code}"])[-1], "`invoke logs jupyter` may show why", False
        if not problem:
            return ""
        if final or time.monotonic() > self._deadline:
            raise TrackbedError(
                f"JupyterLab is up, but from inside it {engine.settings.tracking_uri} {problem}",
                f"{fix}   (`invoke up` tries again)",
            )
        return f"the tracking server {problem}"
