"""Settings of the tracking server and its database."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import UP, setting
from helpers.settings.kinds import one_of


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class TrackingServer:
    """Tracking server"""

    mlflow_port: int = setting(
        "8000",
        kinds.PORT,
        "Port of the MLflow server",
        tasks=UP,
        compose=True,
        only=("server",),
        instead="the address of that server belongs into --tracking-uri",
    )
    local_access: str = setting(
        "auto",
        one_of("auto", "open", "token"),
        "Access to MLflow on this machine: token asks for MLFLOW_TOKEN, auto does so where other people have accounts",
        tasks=UP,
        only=("server", "private"),
        instead="the gateway and a remote tracking server have logins of their own; leave --local-access out",
    )
    mlflow_token: str = setting(
        "", kinds.TOKEN, "Token that opens MLflow, with LOCAL_ACCESS=token; generated when empty", secret=True
    )
    mlflow_fast_path: str = setting(
        "auto",
        one_of("auto", "off"),
        "Fast path through MLflow for logging and searching: auto, or off for plain MLflow",
        tasks=UP,
        only=("server",),
        compose=True,
    )
    mlflow_jobs: str = setting(
        "off",
        one_of("off", "on"),
        "Judges, evaluations and automatic scoring on the server; 0.5 GB of memory, 0.25 GB for each of up to 6 jobs",
        tasks=UP,
        only=("server", "private"),
        instead="a public server has no way out to models: run judges in a notebook, and leave --mlflow-jobs out",
    )
    mlflow_jobs_models: str = setting(
        "public",
        one_of("public", "any"),
        "Models that judges may call, with MLFLOW_JOBS=on: public https addresses only, or any (a local vLLM)",
        only=("server", "private", "jobs"),
    )
    mlflow_workers: int = setting(
        "2",
        kinds.integer(1, 32),
        "Number of the MLflow server's processes; up to as many more search beside them",
        compose=True,
        only=("server",),
    )
    postgres_password: str = setting(
        "", kinds.key(8), "Password of the database; generated when empty", secret=True, only=("server", "containers")
    )
    mlflow_crypto_kek_passphrase: str = setting(
        "",
        kinds.key(16),
        "Passphrase that encrypts the API keys stored in MLflow; generated when empty",
        secret=True,
    )
    mlflow_webhook_secret_encryption_key: str = setting(
        "", kinds.FERNET, "Key that encrypts the secrets of webhooks; generated when empty", secret=True
    )
