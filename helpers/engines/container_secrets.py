"""The secrets of services that are containers: which user each service is, and the files that it reads them from."""

from __future__ import annotations

from helpers.engines import database_roles, jupyterlab, shared
from helpers.project import remote_tracking, server_secrets, workspace_folder
from helpers.project.credentials import GATEWAY_KEY, MLFLOW_TOKEN, STORE_SYNC_TOKEN
from helpers.project.deployment import Deployment
from helpers.services import GATEWAY, JUPYTER, MLFLOW, POSTGRES, STORE, SecretFile

UIDS = {POSTGRES: (999, 999), STORE: (10002, 10002), MLFLOW: (10001, 10001), GATEWAY: (10003, 10003)}


def secret_files(deployment: Deployment) -> tuple[SecretFile, ...]:
    """The files in the folders of secrets, each for one service; `volume` is PROJECT_secrets-SERVICE."""
    settings, object_store = deployment.settings, deployment.object_store
    project, asks = settings.project, deployment.project.asks

    def secret(service: str, path: str, template: str, names: tuple[str, ...], uid: int, gid: int) -> SecretFile:
        return SecretFile(service, f"{project}_secrets-{service}", path, template, names, uid, gid)

    token = secret(
        JUPYTER,
        "jupyter-token",
        "{JUPYTER_TOKEN}",
        ("JUPYTER_TOKEN",),  # read without strip
        deployment.owner,
        workspace_folder.GID,
    )
    cookie = secret(JUPYTER, jupyterlab.COOKIE_FILE, jupyterlab.COOKIE, ("JUPYTER_TOKEN",), token.uid, token.gid)
    if deployment.notebook_only:
        return (token, cookie, *remote_tracking.secret_files(settings, token.volume, token.uid, token.gid))
    listed = [
        secret(POSTGRES, "postgres-password", "{POSTGRES_PASSWORD}", ("POSTGRES_PASSWORD",), *UIDS[POSTGRES]),
        # not secret itself; run once by the image's entry script, when it has made the database
        secret(POSTGRES, "roles.sql", database_roles.settings("/run/secrets/postgres-password"), (), *UIDS[POSTGRES]),
        # libpq ignores a passfile that others may read: 0400 and the right owner
        secret(MLFLOW, "pgpass", "*:*:*:mlflow:{POSTGRES_PASSWORD}\n", ("POSTGRES_PASSWORD",), *UIDS[MLFLOW]),
        secret(MLFLOW, "aws-credentials", shared.AWS_CREDENTIALS, ("S3_ACCESS_KEY", "S3_SECRET_KEY"), *UIDS[MLFLOW]),
        *server_secrets.files(f"{project}_secrets-{MLFLOW}", *UIDS[MLFLOW], asks),
        token,
        cookie,
        *server_secrets.notebook_files(token.volume, token.uid, token.gid, asks),
    ]
    if deployment.is_public:
        key = ("gateway-key", f"{{{GATEWAY_KEY}}}\n", (GATEWAY_KEY,))
        listed += [
            secret(MLFLOW, *key, *UIDS[MLFLOW]),
            secret(GATEWAY, *key, *UIDS[GATEWAY]),
            secret(GATEWAY, server_secrets.ACCESS_FILE, f"{{{MLFLOW_TOKEN}}}", (MLFLOW_TOKEN,), *UIDS[GATEWAY]),
            # nobody yet: the engine puts today's users and the CA's root in place of this
            secret(GATEWAY, "users", "end\n", (), *UIDS[GATEWAY]),
        ]
    if object_store == "versitygw":
        sync = ("store-sync-token", f"{{{STORE_SYNC_TOKEN}}}", (STORE_SYNC_TOKEN,))
        listed += [secret(MLFLOW, *sync, *UIDS[MLFLOW]), secret(STORE, *sync, *UIDS[STORE])]
    if object_store != "external":
        listed += [
            secret(STORE, "access-key", "{S3_ACCESS_KEY}", ("S3_ACCESS_KEY",), *UIDS[STORE]),
            secret(STORE, "secret-key", "{S3_SECRET_KEY}", ("S3_SECRET_KEY",), *UIDS[STORE]),
        ]
    return tuple(listed)
