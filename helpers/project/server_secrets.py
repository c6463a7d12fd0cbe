"""MLflow's own secrets: the keys that rows of its database are encrypted with, as files."""

from __future__ import annotations

from helpers.project import remote_tracking
from helpers.project.credentials import FORMER, KEK_PASSPHRASE, MLFLOW_TOKEN, WEBHOOK_KEY
from helpers.services import JUPYTER, MLFLOW, SecretFile

FILES = {
    KEK_PASSPHRASE: "kek-passphrase",
    WEBHOOK_KEY: "webhook-key",
}  # read by trackbed_mlflow/encryption.py
ACCESS_FILE = "access-token"
ACCESS_VARIABLE = "TRACKBED_ACCESS_TOKEN_FILE"
START_PAGE = "start-page.json"  # beside them, and no secret; read by trackbed_mlflow/start_page
FOLDER_VARIABLE = "TRACKBED_SECRETS_FOLDER"


def files(volume: str, uid: int, gid: int, token: bool) -> tuple[SecretFile, ...]:
    """Each key's file, and beside it the earlier ones, with which rows may still be encrypted; the token that MLflow
    asks for, empty where it asks for none."""
    listed = [SecretFile(MLFLOW, volume, ACCESS_FILE, *token_text(token), uid, gid)]
    for name, path in FILES.items():
        listed += [
            SecretFile(MLFLOW, volume, path, f"{{{name}}}", (name,), uid, gid),
            SecretFile(MLFLOW, volume, f"former-{path}s", f"{{{FORMER}{name}}}", (FORMER + name,), uid, gid),
        ]
    return tuple(listed)


def token_text(token: bool) -> tuple[str, tuple[str, ...]]:
    """Template and names of a file with the token; nothing where there is none."""
    return (f"{{{MLFLOW_TOKEN}}}", (MLFLOW_TOKEN,)) if token else ("", ())


def notebook_files(volume: str, uid: int, gid: int, token: bool) -> tuple[SecretFile, ...]:
    """The token for the notebook's MLflow, in the file that its plugin for logins reads."""
    return (SecretFile(JUPYTER, volume, remote_tracking.TOKEN_FILE, *token_text(token), uid, gid),)


def notebook_environment(secrets: str, token: bool) -> dict[str, str]:
    """What makes the notebook's MLflow read it; nothing where there is none: an image of your own needs no plugin."""
    return remote_tracking.login(secrets) if token else {}
