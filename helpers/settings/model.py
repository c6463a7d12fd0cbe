"""Every setting, declared once: its type, default, kind of value, meaning, flag, and where it matters.

All else is derived from here: flags and their help, ``.env.example``, the settings page, what may be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from helpers import references
from helpers.gpu.node_types import GpuChoice
from helpers.settings import kinds
from helpers.settings.kinds import Kind, one_of, optional
from helpers.settings.parsers import ParseContext

T = TypeVar("T")
UNSETTLED: Any = None  # a folder whose default depends on other settings
# Tasks that have a setting's flag.
EVERY = ("*",)  # each task that is about a project
UP = ("up",)
NOTEBOOK = ("up", "jupyter")


@dataclass(frozen=True)
class Setting:
    """One row. ``default`` is the text that may be written in its place; ``tasks`` are those that have its flag.

    ``only``: where it means something, as words of ``relevance.CONDITIONS`` that all have to hold; ``instead``: what to
    use where it does not. ``repeated``: the flag may be given several times, each with one word; ``switch``: alone it
    is true. ``compose``: the Compose files read it as ``${TRACKBED_NAME}``. ``remembered``: later tasks know what an
    ``up`` was told.
    """

    default: str
    kind: Kind[Any]
    help: str
    tasks: tuple[str, ...] = ()
    secret: bool = False
    option: str = ""
    repeated: bool = False
    switch: bool = False
    compose: bool = False
    remembered: bool = True
    only: tuple[str, ...] = ()
    instead: str = ""
    name: str = ""

    @property
    def field(self) -> str:
        return self.name.lower()

    @property
    def allowed(self) -> str:
        """What completes "must be ..."."""
        return self.kind.allowed

    @property
    def flag(self) -> bool:
        """Whether some task takes it on the command line."""
        return bool(self.tasks)

    def given(self, value: str) -> str:
        """How a user gives that value: the command, or the line of .env where no task has a flag for it."""
        return f"`invoke up {self.option}={value}`" if self.flag else f"{self.name}={value} in .env"

    @property
    def forgetting(self) -> str:
        """The command that makes ``up`` forget what it was told."""
        return f"`invoke up {self.option}=`" if self.flag else f"`TRACKBED_{self.name}= invoke up`"

    def parse(self, text: str, context: ParseContext) -> Any:
        """The value; raises parsers.InvalidValue."""
        return self.kind.parse(text, context)


def setting(default: str, kind: Kind[T], help: str, **more: Any) -> T:
    """Declare a field of ``Declared``; the parser's type is the field's."""
    row = Setting(default, kind, help, **more)
    result: Any = field(repr=not row.secret, metadata={"setting": row})
    return result  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)  # what is derived from it has them
class Declared:
    """Every setting."""

    engine: str = setting(
        "auto",
        one_of("auto", "docker", "embedded"),
        "Engine that runs the services: auto takes the one that holds data, then Docker if it answers, then embedded",
        tasks=(*NOTEBOOK, "doctor"),
    )
    project: str = setting(
        "trackbed",
        kinds.PROJECT,
        "Name of the project, the prefix of its containers, volumes and folders",
        tasks=EVERY,
        remembered=False,
    )
    object_store: str = setting(
        "auto",
        one_of("auto", "minio", "versitygw", "external", "folder"),
        "Object store for artifacts: auto is versitygw with Docker (minio where it holds data), and a folder without",
        tasks=(*UP, "move"),
        only=("server",),
    )
    bind_address: str = setting(
        "127.0.0.1",
        kinds.BIND_ADDRESS,
        "Address that every port listens on (with PUBLIC=true: 0.0.0.0 unless given)",
        tasks=UP,
        compose=True,
    )
    public: bool = setting(
        "false",
        kinds.SWITCH,
        "Access from other machines, through a gateway with TLS and logins (Docker only); false ends it",
        tasks=UP,
        switch=True,
    )
    local_access: str = setting(
        "auto",
        one_of("auto", "open", "token"),
        "Access to MLflow on this machine: token asks for MLFLOW_TOKEN, auto does so where other people have accounts",
        tasks=UP,
        only=("server", "private"),
        instead="the gateway and a remote tracking server have logins of their own; leave --local-access out",
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
    mlflow_fast_path: str = setting(
        "auto",
        one_of("auto", "off"),
        "Fast path through MLflow for logging and searching: auto, or off for plain MLflow",
        tasks=UP,
        only=("server",),
        compose=True,
    )
    domain: str = setting(
        "",
        optional(kinds.DOMAIN, ""),
        "DNS name of the public address; Trackbed gets a certificate for it that browsers trust, over ports 80 and 443",
        tasks=UP,
        only=("containers", "public"),
        instead="for the name that others call this machine: --public-address=NAME",
    )
    certificates: str = setting(
        "auto",
        one_of("auto", "internal", "acme"),
        "Issuer of the gateway's certificate: auto is acme with DOMAIN, and a CA of Trackbed's own without",
        tasks=UP,
        only=("containers", "public"),
    )
    acme_ca: str = setting(
        "https://acme-v02.api.letsencrypt.org/directory",
        kinds.DIRECTORY,
        "Directory URL of the ACME CA, with CERTIFICATES=acme",
        compose=True,
        only=("containers", "public"),
    )
    acme_root: str = setting(
        "",
        optional(kinds.PEM, ""),
        "Root certificate of the ACME CA, where it is your site's own",
        only=("containers", "public"),
    )
    http_port: int = setting(
        "80",
        kinds.PORT,
        "Port of the CA's HTTP challenge and of the redirect to HTTPS, with CERTIFICATES=acme",
        tasks=UP,
        compose=True,
        only=("containers", "public"),
    )
    https_port: int = setting(
        "443",
        kinds.PORT,
        "Port of the CA's TLS challenge, with CERTIFICATES=acme",
        tasks=UP,
        compose=True,
        only=("containers", "public"),
    )
    public_s3: bool = setting(
        "false",
        kinds.SWITCH,
        "Access to the S3 API from other machines, for clients that have its keys",
        tasks=UP,
        only=("containers", "public"),
        instead="artifacts pass through MLflow, which needs no port of the store",
    )
    public_address: str = setting(
        "",
        optional(kinds.HOST, ""),
        "Name or IP address that other machines use for this one; with PUBLIC=true, empty asks the cloud for it",
        tasks=NOTEBOOK,
    )
    mlflow_port: int = setting(
        "8000",
        kinds.PORT,
        "Port of the MLflow server",
        tasks=UP,
        compose=True,
        only=("server",),
        instead="the address of that server belongs into --tracking-uri",
    )
    jupyter_port: int = setting("8888", kinds.PORT, "Port of JupyterLab", tasks=NOTEBOOK)
    s3_port: int = setting(
        "9000",
        kinds.PORT,
        "Port of the S3 API",
        tasks=UP,
        compose=True,
        only=("server", "containers", "own-store"),
        instead="artifacts are reached through MLflow: --mlflow-port",
    )
    s3_console_port: int = setting(
        "9001",
        kinds.PORT,
        "Port of the object store's console",
        tasks=UP,
        compose=True,
        only=("server", "containers", "own-store"),
        instead="artifacts are shown by MLflow's page: --mlflow-port",
    )
    s3_bucket: str = setting(
        "mlflow-artifacts",
        kinds.BUCKET,
        "Bucket that holds the artifacts",
        tasks=UP,
        compose=True,
        only=("server", "s3"),
        instead="a bucket needs a store: --object-store=external with S3_ENDPOINT",
    )
    s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "Endpoint of your own object store, with OBJECT_STORE=external",
        only=("server", "s3"),
    )
    s3_region: str = setting("us-east-1", kinds.REGION, "Region of the bucket", compose=True, only=("server", "s3"))
    s3_access_key: str = setting(
        "",
        kinds.ACCESS_KEY,
        "Access key of the object store: your own with OBJECT_STORE=external, otherwise generated when empty",
        only=("server", "s3"),
    )
    s3_secret_key: str = setting(
        "",
        kinds.key(8),
        "Secret key of the object store: your own with OBJECT_STORE=external, otherwise generated when empty",
        secret=True,
        only=("server", "s3"),
    )
    backup_s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "Endpoint of the object store for backups to s3://BUCKET/PREFIX; empty is AWS",
        remembered=False,
    )
    backup_s3_region: str = setting("us-east-1", kinds.REGION, "Region of the backup bucket", remembered=False)
    backup_s3_access_key: str = setting("", kinds.ACCESS_KEY, "Access key of the backup bucket", remembered=False)
    backup_s3_secret_key: str = setting(
        "", kinds.key(8), "Secret key of the backup bucket", secret=True, remembered=False
    )
    postgres_password: str = setting(
        "", kinds.key(8), "Password of the database; generated when empty", secret=True, only=("server", "containers")
    )
    jupyter_token: str = setting("", kinds.TOKEN, "Token that opens JupyterLab; generated when empty", secret=True)
    mlflow_token: str = setting(
        "", kinds.TOKEN, "Token that opens MLflow, with LOCAL_ACCESS=token; generated when empty", secret=True
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
    tracking_uri: str = setting(
        "",
        optional(kinds.TRACKING_URI, ""),
        "Address of a remote tracking server; Trackbed then starts only a notebook, which logs there",
        tasks=NOTEBOOK,
    )
    tracking_username: str = setting(
        "",
        kinds.USERNAME,
        "User name at the remote tracking server; TRACKING_PASSWORD or TRACKING_TOKEN goes into .env",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
    tracking_password: str = setting(
        "", kinds.printable(1024), "Password at the remote tracking server", secret=True, only=("remote",)
    )
    tracking_token: str = setting(
        "",
        kinds.printable(4000),
        "Token at the remote tracking server, instead of user name and password",
        secret=True,
        only=("remote",),
    )
    tracking_ca: Path | None = setting(
        "",
        optional(kinds.FILE, None),
        "Certificate of the CA that signed the remote tracking server's, a PEM file",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
    gpu: GpuChoice = setting(
        "auto",
        kinds.GPU,
        "GPUs of the notebook: auto (what the machine has), none, amd, nvidia, or a node type such as mi100 or liqid",
        tasks=(*NOTEBOOK, "build"),
    )
    devices: str = setting(
        "all",
        kinds.DEVICES,
        "Indexes of the GPUs to use, as in 0,1, to share a machine between people; or all",
        tasks=NOTEBOOK,
        only=("gpu",),
        instead="leave it out, or see `invoke doctor` why there is none",
    )
    torch: str = setting(
        "auto",
        one_of("auto", "cpu", "none"),
        "PyTorch of the notebook: auto fits the GPU's driver (embedded: only with a GPU), cpu is the CPU build",
        tasks=(*NOTEBOOK, "build"),
    )
    torch_index: str = setting(
        "",
        optional(kinds.INDEX, ""),
        "Package index of PyTorch's wheels, for a mirror or another CUDA or ROCm; empty is PyTorch's own",
    )
    data_volume: str = setting(
        "food11",
        kinds.DATA,
        "Docker volume or folder that the notebook sees read-only at /mnt; the default counts only while it exists",
        tasks=NOTEBOOK,
        only=("data",),
        instead="name a folder: --data-volume=/FOLDER",
    )
    jupyter_env: Mapping[str, str] = setting(
        "",
        kinds.VARIABLES,
        "Environment variable of the notebook, as in NAME=VALUE",
        tasks=NOTEBOOK,
        option="--env",
        repeated=True,
    )
    jupyter_volumes: tuple[str, ...] = setting(
        "",
        kinds.VOLUMES,
        "Folder or volume to mount in the notebook, as in SOURCE:/TARGET or SOURCE:/TARGET:ro",
        tasks=NOTEBOOK,
        option="--volume",
        repeated=True,
        only=("containers",),
        instead="this notebook sees the machine's folders as they are; for a data set: --data-volume=/FOLDER",
    )
    cull_idle: int = setting(
        "off",
        kinds.DURATION,
        "Time after which an idle kernel is shut down, so that it holds no GPU overnight: off, or as in 30m, 12h",
        tasks=NOTEBOOK,
    )
    workspace: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "Folder of this machine for the notebook's files (default: workspace in the state folder)",
        tasks=(*NOTEBOOK, "doctor"),
    )
    state_dir: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "Folder for state and secrets (default: your state folder; /var/lib/trackbed as root)",
        tasks=EVERY,
        remembered=False,
    )
    registry_mirror: str = setting(
        "",
        optional(kinds.REGISTRY, ""),
        "Registry that replaces all others for the default images and for the bases of our own",
        only=("containers",),
    )
    postgres_image: str = setting(
        references.image("postgres").reference, kinds.IMAGE, "Image of PostgreSQL", only=("server", "containers")
    )
    minio_image: str = setting(
        references.image("minio").reference,
        kinds.IMAGE,
        "Image of the object store minio: Silo, the maintained fork of MinIO",
        only=("server", "containers"),
    )
    versitygw_image: str = setting(
        references.image("versitygw").reference,
        kinds.IMAGE,
        "Image of the object store versitygw",
        only=("server", "containers"),
    )
    mlflow_image: str = setting(
        "trackbed/mlflow:3.17.2", kinds.IMAGE, "Image of the MLflow server", compose=True, only=("server", "containers")
    )
    jupyter_image: str = setting(
        "",
        optional(kinds.IMAGE, ""),
        "Image of the notebook; empty is our own trackbed/jupyter-mlflow:cpu, :cuda or :rocm",
        only=("containers",),
    )
    mlflow_workers: int = setting(
        "2", kinds.integer(1, 32), "Number of the MLflow server's processes", compose=True, only=("server",)
    )
    jupyter_shm_size: str = setting(
        "16g", kinds.SIZE, "Shared memory of the notebook, for data loaders", only=("containers",)
    )
    gateway_image: str = setting(
        "trackbed/gateway:2.11.7",
        kinds.IMAGE,
        "Image of the gateway",
        compose=True,
        only=("containers", "public"),
    )
    memory_limit: str = setting(
        "4g",
        kinds.SIZE,
        "Memory limit of each service (embedded: of the MLflow server's processes together, 1 GiB each at least)",
        compose=True,
    )
    jupyter_memory: str = setting(
        "",
        optional(kinds.SIZE, ""),
        "Memory limit of the notebook; empty is all of the machine's but 2 GiB",
        only=("containers",),
    )
    pids_limit: int = setting(
        "4096",
        kinds.integer(256, 1000000),
        "Limit of processes and threads in each service",
        compose=True,
        only=("containers",),
    )
    ready_timeout: int = setting(
        "180",
        kinds.integer(5, 3600, "seconds", "SECONDS"),
        "Seconds to wait until everything is ready",
        tasks=NOTEBOOK,
    )
    build_network: str = setting(
        "default",
        one_of("default", "host"),
        "Network of image builds; host where containers have no way out",
        only=("containers",),
    )


def _named(name: str, row: Setting) -> Setting:
    return replace(row, name=name.upper(), option=row.option or "--" + name.replace("_", "-"))


TABLE: tuple[Setting, ...] = tuple(_named(f.name, f.metadata["setting"]) for f in fields(Declared))
BY_NAME: Mapping[str, Setting] = {row.name: row for row in TABLE}
BY_OPTION: Mapping[str, Setting] = {row.option: row for row in TABLE}
