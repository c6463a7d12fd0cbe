"""Secrets from the side of those who do not have them: the token of MLflow, rotation, what MLflow encrypts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Clone
from tests.integration import inspection

STRANGER = 54321  # a uid that nothing here knows
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
HOOKS = "/api/2.0/mlflow/webhooks"
KERNELS = "/api/kernels"
KEK, HOOK_KEY = "MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
# What a Trackbed without these keys left behind: MLflow's public passphrase, and a key that ended with its process.
AS_BEFORE = """
import sys
import sqlalchemy
from cryptography.fernet import Fernet
from mlflow.utils.crypto import DEFAULT_KEK_PASSPHRASE, KEKManager, unwrap_dek, wrap_dek
uri, passphrase = sys.argv[1], sys.stdin.read().strip()
with sqlalchemy.create_engine(uri).begin() as connection:
    say = lambda text, **words: connection.execute(sqlalchemy.text(text), words)
    (wrapped,) = say("SELECT wrapped_dek FROM secrets WHERE secret_name = 'of before'").one()
    key = unwrap_dek(bytes(wrapped), KEKManager(passphrase, 1).get_kek())
    say("UPDATE secrets SET wrapped_dek = :key WHERE secret_name = 'of before'",
        key=wrap_dek(key, KEKManager(DEFAULT_KEK_PASSPHRASE, 1).get_kek()))
    say("UPDATE webhooks SET secret = :secret WHERE name = 'lost'",
        secret=Fernet(Fernet.generate_key()).encrypt(b"x").decode())
"""


def ask(url: str, body: object = None, method: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers (all cookies as a request sends them in one) and text of one request.

    By curl, as an account that has no part in the system.
    """
    drop = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups") if os.geteuid() == 0 else ()
    argv = [*drop, shutil.which("curl") or "curl", "-s", "-m", "60", "-D", "-", url]
    argv += [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    argv += ["-X", method] if method else []
    if body is not None:
        argv += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    head, _, text = inspection.output(*argv, cwd="/").replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.splitlines()
    fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
    cookies = "; ".join(value.partition(";")[0] for name, value in fields if name == "set-cookie")
    return int(first.split()[1]), {**dict(fields), "cookies": cookies}, text


def secrets(clone: Clone) -> dict[str, str]:
    return dict(json.loads(clone.value("credentials", "--format=json")))


def sealed(clone: Clone, **tried: str) -> dict[str, Any]:
    """What the server says of its encrypted rows, and how many each of the tried keys opens."""
    asked = json.dumps({name: [key] for name, key in tried.items()})
    if clone.engine == "docker":
        argv = ("docker", "exec", "-i", inspection.container(clone, "mlflow"), "trackbed-mlflow", "sealed")
        return dict(json.loads(inspection.output(*argv, stdin=asked)))
    server = inspection.main_process(clone, "mlflow")
    entry = next(word for word in inspection.command(server).split() if word.endswith("start.py"))
    return dict(
        json.loads(
            inspection.output(
                *inspection.mlflow_python(clone), entry, "sealed", stdin=asked, env=inspection.environment(server)
            )
        )
    )


@pytest.fixture(scope="module")
def asking(engine: str, clone_factory: Callable[..., Clone]) -> Clone:
    """A project whose MLflow asks for its token."""
    clone = clone_factory(engine)
    clone.environment["TRACKBED_LOCAL_ACCESS"] = "token"
    clone.up()
    return clone


def test_another_account_gets_nothing_without_a_secret(asking: Clone) -> None:
    mlflow, token = asking.url("mlflow"), secrets(asking)["MLFLOW_TOKEN"]
    for path in (SEARCH, "/", "/version", "/health", "/static-files/index.html", HOOKS):
        status, headers, _ = ask(mlflow + path)
        assert status == 401 and headers["www-authenticate"].startswith("Basic"), path
    for wrong in (f"Bearer {token}x", "Bearer ", "Basic bWxmbG93Om1sZmxvdw=="):
        assert ask(mlflow + SEARCH, Authorization=wrong)[0] == 401, wrong
    assert ask(mlflow + SEARCH, Authorization=f"Bearer {token}")[0] == 200
    assert ask(asking.url("jupyter") + KERNELS)[0] == 403
    # who has it: the link once, then a cookie; the notebook, the checks, a shell
    status, headers, _ = ask(asking.value("mlflow-url"))
    assert status == 303 and token not in headers["location"] + headers["set-cookie"]
    assert ask(mlflow + SEARCH, Cookie=headers["cookies"])[0] == 200
    assert f"export MLFLOW_TRACKING_TOKEN={token}" in asking.value("status", "--format=env")
    assert asking.invoke("check").returncode == 0
    assert asking.invoke("gc", "--older-than=1d", "--yes").returncode == 0
    reported = asking.invoke("status")
    assert token not in reported.stdout + reported.stderr
    if asking.engine == "docker":
        for service in ("mlflow", "jupyter"):
            assert token not in inspection.output("docker", "inspect", inspection.container(asking, service))
    elif os.geteuid() == 0:
        drop = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
        socket = inspection.run(*drop, "ls", inspection.sockets(asking))
        files = inspection.run(*drop, "cat", str(asking.project_folder / "embedded" / "secrets" / "access-token"))
        assert socket.returncode and files.returncode


def keep_key(clone: Clone, name: str) -> None:
    """An API key that MLflow encrypts."""
    login = {"Authorization": f"Bearer {secrets(clone)['MLFLOW_TOKEN']}"}
    key = {"secret_name": name, "secret_value": {"api_key": "of-nobody-and-nothing"}, "provider": "openai"}
    created = ask(f"{clone.url('mlflow')}/api/3.0/mlflow/gateway/secrets/create", key, **login)
    assert created[0] == 200, created


def keep_hook(clone: Clone, name: str) -> None:
    """A webhook, whose secret MLflow encrypts."""
    login = {"Authorization": f"Bearer {secrets(clone)['MLFLOW_TOKEN']}"}
    events = [{"entity": "REGISTERED_MODEL", "action": "CREATED"}]
    hook = {"name": name, "url": "https://93.184.216.34/hook", "secret": "of-nobody", "events": events}
    created = ask(clone.url("mlflow") + HOOKS, hook, **login)
    assert created[0] == 200, created


def test_old_secrets_open_nothing(asking: Clone) -> None:
    mlflow, jupyter, old = asking.url("mlflow"), asking.url("jupyter"), secrets(asking)
    login = {"Authorization": f"Bearer {old['MLFLOW_TOKEN']}"}
    for name in ("of today", "of before"):
        keep_key(asking, name)
    for name in ("kept", "lost"):
        keep_hook(asking, name)
    inspection.output(
        *inspection.mlflow_python(asking), "-c", AS_BEFORE, inspection.database_address(asking), stdin=old[KEK]
    )
    cookie = ask(f"{jupyter}/lab?token={old['JUPYTER_TOKEN']}")[1]["cookies"]
    assert ask(jupyter + KERNELS, Cookie=cookie)[0] == 200

    done = asking.invoke("credentials.rotate")
    assert done.returncode == 0, done.stderr
    assert "running kernels end" in done.stderr
    new = secrets(asking)
    assert set(new) == set(old) and not set(new.values()) & set(old.values())
    used = set(new) if asking.engine == "docker" else {"JUPYTER_TOKEN", "MLFLOW_TOKEN", KEK, HOOK_KEY}
    for name in used:
        assert f"{name} was replaced: the new one opens, the old one does not" in done.stderr
    assert "secrets of webhooks: lost." in done.stderr and "of before" not in done.stderr
    assert not [value for value in (*old.values(), *new.values()) if value in done.stdout + done.stderr]
    assert ask(jupyter + KERNELS, Cookie=cookie)[0] == 403
    assert ask(jupyter + KERNELS, Authorization=f"token {old['JUPYTER_TOKEN']}")[0] == 403
    assert ask(jupyter + KERNELS, Authorization=f"token {new['JUPYTER_TOKEN']}")[0] == 200
    assert ask(mlflow + SEARCH, **login)[0] == 401
    result = sealed(asking, **{KEK: old[KEK], HOOK_KEY: old[HOOK_KEY]})
    assert result == {
        "rows": {KEK: 2, HOOK_KEY: 2},
        "lost": {KEK: [], HOOK_KEY: ["lost"]},
        "opened": {KEK: [0], HOOK_KEY: [0]},
    }
    assert sealed(asking, **{KEK: "mlflow-default-kek-passphrase-for-development-only"})["opened"][KEK] == [0]
    # a webhook whose secret nobody has is listed, and can be deleted
    login = {"Authorization": f"Bearer {new['MLFLOW_TOKEN']}"}
    status, _, text = ask(mlflow + HOOKS, **login)
    hooks = {hook["name"]: hook["webhook_id"] for hook in json.loads(text)["webhooks"]}
    assert status == 200 and set(hooks) == {"kept", "lost"}
    assert ask(f"{mlflow}{HOOKS}/{hooks['lost']}", method="DELETE", **login)[0] == 200


def test_a_token_that_the_user_changes_ends_the_old_one(asking: Clone) -> None:
    jupyter, old = asking.url("jupyter"), secrets(asking)["JUPYTER_TOKEN"]
    cookie = ask(f"{jupyter}/lab?token={old}")[1]["cookies"]
    asking.environment["TRACKBED_JUPYTER_TOKEN"] = own = "a-token-of-my-own-choice"
    done = asking.up()
    assert "JUPYTER_TOKEN was replaced: the new one opens, the old one does not" in done.stderr
    assert ask(jupyter + KERNELS, Cookie=cookie)[0] == 403
    assert ask(jupyter + KERNELS, Authorization=f"token {old}")[0] == 403
    assert ask(jupyter + KERNELS, Authorization=f"token {own}")[0] == 200


@pytest.mark.parametrize("engine", ["embedded"], indirect=True, scope="session")  # the same code for every engine
def test_a_restore_takes_over_what_was_encrypted(asking: Clone) -> None:
    """With the secrets of the backup all is readable again; without, one line says what is not, and MLflow works."""
    keep_key(asking, "taken over")
    keep_hook(asking, "taken-over")
    bare, whole = (str(asking.folder.parent / name) for name in ("bare.tar", "whole.tar"))
    asking.value("backup", f"--to={bare}")
    asking.value("backup", f"--to={whole}", "--with-secrets")
    passphrase = secrets(asking)[KEK].encode()
    with open(bare, "rb") as file:
        assert passphrase not in file.read()
    assert asking.invoke("credentials.rotate").returncode == 0
    done = asking.invoke("restore", bare, "--yes", "--no-backup")
    assert done.returncode == 0, done.stderr
    (lost,) = (line for line in done.stderr.splitlines() if "cannot be decrypted" in line)
    keys, _, hooks = lost.partition("; secrets of webhooks: ")
    assert "API keys in MLflow: " in keys and "taken over" in keys and "taken-over" in hooks, lost
    login = {"Authorization": f"Bearer {secrets(asking)['MLFLOW_TOKEN']}"}
    assert ask(asking.url("mlflow") + HOOKS, **login)[0] == 200
    done = asking.invoke("restore", whole, "--yes", "--no-backup")
    assert done.returncode == 0 and "cannot be decrypted" not in done.stderr, done.stderr
    assert sealed(asking)["lost"] == {KEK: [], HOOK_KEY: []}
