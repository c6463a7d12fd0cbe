"""A remote tracking server: what a notebook of ours is told about it, its login and CA as files, and asking it."""

from __future__ import annotations

from urllib.parse import urlsplit

from helpers.errors import SettingError
from helpers.services import JUPYTER, SecretFile
from helpers.settings import Settings

PLUGIN = "trackbed"  # the name of docker/jupyter/trackbed_notebook/login.py among MLflow's plugins
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
    result = {
        **login(secrets),
        # left alone, the client is handed addresses of the object store, which often has a name only over there
        **PROXIED,
    }
    if settings.tracking_ca:
        result["MLFLOW_TRACKING_SERVER_CERT_PATH"] = f"{secrets}/{CA_FILE}"
    return result


def login(secrets: str) -> dict[str, str]:
    """What makes the notebook's MLflow log in with the files in that folder."""
    return {"MLFLOW_TRACKING_AUTH": PLUGIN, "TRACKBED_TRACKING_SECRETS": secrets}


def secret_files(settings: Settings, volume: str, uid: int, gid: int) -> tuple[SecretFile, ...]:
    """The files of the login and of the CA. Raises SettingError for a CA that cannot be read."""

    def file(path: str, template: str, *names: str) -> SecretFile:
        return SecretFile(JUPYTER, volume, path, template, names, uid, gid)

    if settings.tracking_username:
        result = [
            file(USERNAME_FILE, settings.tracking_username),
            file(PASSWORD_FILE, "{TRACKING_PASSWORD}", "TRACKING_PASSWORD"),
            file(TOKEN_FILE, ""),
        ]
    else:  # an empty file takes the place of what an earlier `up` was given
        result = [
            file(USERNAME_FILE, ""),
            file(PASSWORD_FILE, ""),
            file(TOKEN_FILE, "{TRACKING_TOKEN}", "TRACKING_TOKEN"),
        ]
    return (*result, file(CA_FILE, authority(settings)))


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
