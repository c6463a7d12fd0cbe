"""MLflow's own secrets: the keys that rows of its database are encrypted with, as files, and what they open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helpers import remote_tracking
from helpers.engines.base import JUPYTER, MLFLOW, Engine, SecretFile
from helpers.errors import TrackbedError
from helpers.project.credentials import FORMER, KEK_PASSPHRASE, MLFLOW_TOKEN, WEBHOOK_KEY
from helpers.spelling import shown

FILES = {
    KEK_PASSPHRASE: "kek-passphrase",
    WEBHOOK_KEY: "webhook-key",
}  # read by trackbed_mlflow/encryption.py
ACCESS_FILE = "access-token"
ACCESS_VARIABLE = "TRACKBED_ACCESS_TOKEN_FILE"
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


def sealed(engine: Engine, tried: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """What is encrypted, what of it nobody can decrypt, and how many rows each of the ``tried`` keys opens.

    {"rows": {NAME: count}, "lost": {NAME: [names]}, "opened": {NAME: [count, ...]}} by the names of the keys.
    Raises TrackbedError where the server does not tell.
    """
    done = engine.exec(MLFLOW, ("trackbed-mlflow", "sealed"), stdin=json.dumps(tried or {}).encode(), timeout=120)
    try:
        found = json.loads(done.stdout[done.stdout.index("{") :]) if done.code == 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise TrackbedError(f"MLflow does not report what it has encrypted: {lines[-1]}", "`invoke logs mlflow`")
    return found


def lost(found: Mapping[str, Any]) -> str:
    """One line about what cannot be decrypted and what to do; "" when everything can."""
    words = {KEK_PASSPHRASE: "API keys in MLflow", WEBHOOK_KEY: "secrets of webhooks"}
    gone = {name: names for name, names in found["lost"].items() if names}
    if not gone:
        return ""
    what = "; ".join(
        f"{words[name]}: {', '.join(shown(str(one), 60) for one in names[:20])}"
        + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        for name, names in gone.items()
    )
    return (
        f"warning: cannot be decrypted with the keys of this system and is not used: {what}. Enter them again in "
        f"MLflow, or put {' and '.join(gone)} of the system that they come from into .env, then `invoke up`"
    )
