"""Every setting, declared once: its type, default, kind of value, meaning, flag, and where it matters.

All else is derived from here: flags and their help, ``.env.example``, the settings page, what may be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from helpers import references
from helpers.settings import kinds
from helpers.settings.kinds import Kind, one_of, optional
from helpers.settings.parsers import Around

T = TypeVar("T")
UNSETTLED: Any = None  # a folder whose default depends on other settings
# Tasks that have a setting's flag.
EVERY = ("*",)  # each task that is about a system
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
    why: str
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

    def parse(self, text: str, around: Around) -> Any:
        """The value; raises parsers.Wrong."""
        return self.kind.parse(text, around)


def setting(default: str, kind: Kind[T], why: str, **more: Any) -> T:
    """Declare a field of ``Declared``; the parser's type is the field's."""
    row = Setting(default, kind, why, **more)
    found: Any = field(repr=not row.secret, metadata={"setting": row})
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)  # what is derived from it has them
class Declared:
    """Every setting."""

    engine: str = setting(
        "auto",
        one_of("auto", "docker", "embedded"),
        "where the parts run: auto takes what holds data already, then Docker if it answers, else no Docker at all",
        tasks=(*NOTEBOOK, "doctor"),
    )
    project: str = setting(
        "trackbed",
        kinds.PROJECT,
        "prefix of every container, volume and folder, so that two systems do not collide",
        tasks=EVERY,
        remembered=False,
    )
    object_store: str = setting(
        "auto",
        one_of("auto", "minio", "versitygw", "external", "folder"),
        "where artifacts go: auto is versitygw with Docker (minio where its data are) and a folder without",
        tasks=(*UP, "move"),
        only=("server",),
    )
    bind_address: str = setting(
        "127.0.0.1",
        kinds.BIND_ADDRESS,
        "address that every port listens on; others reach it through ssh -L (with PUBLIC=true: 0.0.0.0 unless given)",
        tasks=UP,
        compose=True,
    )
    public: bool = setting(
        "false",
        kinds.SWITCH,
        "open to other machines, through a gateway with TLS and logins (Docker); false ends that",
        tasks=UP,
        switch=True,
    )
    local_access: str = setting(
        "auto",
        one_of("auto", "open", "token"),
        "whether MLflow asks for MLFLOW_TOKEN on this machine: auto does where others have accounts on it",
        tasks=UP,
        only=("server", "private"),
        instead="the gateway and a server elsewhere have logins of their own; leave --local-access out",
    )
    mlflow_jobs: str = setting(
        "off",
        one_of("off", "on"),
        "judges, evaluations, automatic scoring on the server: 0.5 GB more memory, 0.25 GB for each that runs (6)",
        tasks=UP,
        only=("server", "private"),
        instead="a public server has no way out to models: run judges in a notebook, and leave --mlflow-jobs out",
    )
    mlflow_jobs_models: str = setting(
        "public",
        one_of("public", "any"),
        "with MLFLOW_JOBS=on, where judges' models may be: public https addresses, or any (a vLLM on this machine)",
        only=("server", "private", "jobs"),
    )
    domain: str = setting(
        "",
        optional(kinds.DOMAIN, ""),
        "name of the public address; gets a certificate that browsers know, over ports 80 and 443",
        tasks=UP,
        only=("docker", "public"),
        instead="for the name that others call this machine: --public-address=NAME",
    )
    certificates: str = setting(
        "auto",
        one_of("auto", "internal", "acme"),
        "whose certificates the gateway shows: auto is acme with DOMAIN, else a CA of its own",
        tasks=UP,
        only=("docker", "public"),
    )
    acme_ca: str = setting(
        "https://acme-v02.api.letsencrypt.org/directory",
        kinds.DIRECTORY,
        "where certificates are asked for, with CERTIFICATES=acme",
        compose=True,
        only=("docker", "public"),
    )
    acme_root: str = setting(
        "",
        optional(kinds.PEM, ""),
        "root certificate of that CA, where it is one of your own site",
        only=("docker", "public"),
    )
    http_port: int = setting(
        "80",
        kinds.PORT,
        "port where the CA looks for the proof, and where HTTP is redirected (acme)",
        tasks=UP,
        compose=True,
        only=("docker", "public"),
    )
    https_port: int = setting(
        "443",
        kinds.PORT,
        "port where the CA looks for the proof over TLS (acme)",
        tasks=UP,
        compose=True,
        only=("docker", "public"),
    )
    public_s3: bool = setting(
        "false",
        kinds.SWITCH,
        "opens the S3 API too, for those who have its keys",
        tasks=UP,
        only=("docker", "public"),
        instead="artifacts pass through MLflow, which needs no port of the store",
    )
    public_address: str = setting(
        "",
        optional(kinds.HOST, ""),
        "what others call this machine; PUBLIC=true asks the cloud when empty",
        tasks=NOTEBOOK,
    )
    mlflow_port: int = setting(
        "8000",
        kinds.PORT,
        "port of MLflow",
        tasks=UP,
        compose=True,
        only=("server",),
        instead="the address of that server belongs into --tracking-uri",
    )
    jupyter_port: int = setting("8888", kinds.PORT, "port of JupyterLab", tasks=NOTEBOOK)
    s3_port: int = setting(
        "9000",
        kinds.PORT,
        "port of the S3 API (Docker)",
        tasks=UP,
        compose=True,
        only=("server", "docker", "own-store"),
        instead="artifacts are reached through MLflow: --mlflow-port",
    )
    s3_console_port: int = setting(
        "9001",
        kinds.PORT,
        "port of the object store's console (Docker)",
        tasks=UP,
        compose=True,
        only=("server", "docker", "own-store"),
        instead="artifacts are shown by MLflow's page: --mlflow-port",
    )
    s3_bucket: str = setting(
        "mlflow-artifacts",
        kinds.BUCKET,
        "the bucket that holds the artifacts",
        tasks=UP,
        compose=True,
        only=("server", "s3"),
        instead="a bucket needs a store: --object-store=external with S3_ENDPOINT",
    )
    s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "address of your own object store, for OBJECT_STORE=external",
        only=("server", "s3"),
    )
    s3_region: str = setting("us-east-1", kinds.REGION, "region of the bucket", compose=True, only=("server", "s3"))
    s3_access_key: str = setting(
        "", kinds.ACCESS_KEY, "key name of your own object store; made for you otherwise", only=("server", "s3")
    )
    s3_secret_key: str = setting(
        "",
        kinds.key(8),
        "secret key of your own object store; made for you otherwise",
        secret=True,
        only=("server", "s3"),
    )
    backup_s3_endpoint: str = setting(
        "", optional(kinds.ENDPOINT, ""), "object store for backups to s3://BUCKET/PREFIX; empty: AWS", remembered=False
    )
    backup_s3_region: str = setting("us-east-1", kinds.REGION, "region of that bucket", remembered=False)
    backup_s3_access_key: str = setting("", kinds.ACCESS_KEY, "key name at that store", remembered=False)
    backup_s3_secret_key: str = setting("", kinds.key(8), "secret key at that store", secret=True, remembered=False)
    postgres_password: str = setting(
        "", kinds.key(8), "password of the database; made for you when empty", secret=True, only=("server", "docker")
    )
    jupyter_token: str = setting("", kinds.TOKEN, "what opens JupyterLab; made for you when empty", secret=True)
    mlflow_token: str = setting(
        "", kinds.TOKEN, "what opens MLflow, with LOCAL_ACCESS=token; made for you when empty", secret=True
    )
    mlflow_crypto_kek_passphrase: str = setting(
        "",
        kinds.key(16),
        "encrypts the API keys that people store in MLflow's page; made for you when empty",
        secret=True,
    )
    mlflow_webhook_secret_encryption_key: str = setting(
        "", kinds.FERNET, "encrypts the secrets of webhooks; made for you when empty", secret=True
    )
    tracking_uri: str = setting(
        "",
        optional(kinds.TRACKING_URI, ""),
        "a tracking server elsewhere: only the notebook is started here, and logs to that one",
        tasks=NOTEBOOK,
    )
    tracking_username: str = setting(
        "",
        kinds.USERNAME,
        "user at that server; TRACKING_PASSWORD or TRACKING_TOKEN go into .env",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
    tracking_password: str = setting(
        "", kinds.printable(1024), "password at that server", secret=True, only=("remote",)
    )
    tracking_token: str = setting(
        "", kinds.printable(4000), "token at that server, instead of user and password", secret=True, only=("remote",)
    )
    tracking_ca: Path | None = setting(
        "",
        optional(kinds.FILE, None),
        "certificate of the authority that signed that server's, in PEM form",
        tasks=NOTEBOOK,
        only=("remote",),
        instead="give --tracking-uri=https://HOST too",
    )
    gpu: str = setting(
        "auto",
        kinds.GPU,
        "GPUs for the notebook: auto (what this machine has), none, amd, nvidia or a node type, as in mi100 or liqid",
        tasks=(*NOTEBOOK, "build"),
    )
    devices: str = setting(
        "all",
        kinds.DEVICES,
        "which of the GPUs, to share a machine between people: all, or indexes as in 0,1",
        tasks=NOTEBOOK,
        only=("gpu",),
        instead="leave it out, or see `invoke doctor` why there is none",
    )
    torch: str = setting(
        "auto",
        one_of("auto", "cpu", "none"),
        "PyTorch for the notebook: auto takes the build for its GPU and driver (embedded: only with one), cpu the "
        "build for no GPU, none leaves it out",
        tasks=(*NOTEBOOK, "build"),
    )
    torch_index: str = setting(
        "",
        optional(kinds.INDEX, ""),
        "where PyTorch's wheels come from, for a mirror or another CUDA or ROCm; empty: PyTorch's own",
    )
    data_volume: str = setting(
        "food11",
        kinds.DATA,
        "Docker volume or folder that the notebook sees read-only at /mnt; the default is left out while there is none",
        tasks=NOTEBOOK,
        only=("data",),
        instead="name a folder: --data-volume=/FOLDER",
    )
    jupyter_env: Mapping[str, str] = setting(
        "",
        kinds.VARIABLES,
        "further environment variables of the notebook, as in NAME=VALUE",
        tasks=NOTEBOOK,
        option="--env",
        repeated=True,
    )
    jupyter_volumes: tuple[str, ...] = setting(
        "",
        kinds.VOLUMES,
        "further folders or volumes of the notebook (Docker), as in SOURCE:/TARGET or SOURCE:/TARGET:ro",
        tasks=NOTEBOOK,
        option="--volume",
        repeated=True,
        only=("docker",),
        instead="this notebook sees the machine's folders as they are; for a data set: --data-volume=/FOLDER",
    )
    cull_idle: int = setting(
        "off",
        kinds.DURATION,
        "end kernels that are idle for so long, so that a GPU is not held overnight: off, or as in 30m, 12h",
        tasks=NOTEBOOK,
    )
    workspace: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "the notebook's work folder on this machine (default: workspace in the state folder)",
        tasks=(*NOTEBOOK, "doctor"),
    )
    state_dir: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "where state and secrets are kept (default: your state folder; /var/lib/trackbed as root)",
        tasks=EVERY,
        remembered=False,
    )
    registry_mirror: str = setting(
        "",
        optional(kinds.REGISTRY, ""),
        "registry in place of the others for the default images, and for those that ours are built from (Docker)",
        only=("docker",),
    )
    postgres_image: str = setting(
        references.image("postgres").reference, kinds.IMAGE, "the database (Docker)", only=("server", "docker")
    )
    minio_image: str = setting(
        references.image("minio").reference,
        kinds.IMAGE,
        "the object store minio: Silo, the maintained fork of MinIO (Docker)",
        only=("server", "docker"),
    )
    versitygw_image: str = setting(
        references.image("versitygw").reference,
        kinds.IMAGE,
        "the object store versitygw (Docker)",
        only=("server", "docker"),
    )
    mlflow_image: str = setting(
        "trackbed/mlflow:3.17.2", kinds.IMAGE, "the tracking server (Docker)", compose=True, only=("server", "docker")
    )
    jupyter_image: str = setting(
        "",
        optional(kinds.IMAGE, ""),
        "the notebook (Docker); empty: our own trackbed/jupyter-mlflow, :cpu, :cuda or :rocm",
        only=("docker",),
    )
    mlflow_workers: int = setting(
        "2", kinds.integer(1, 32), "processes that serve MLflow", compose=True, only=("server",)
    )
    jupyter_shm_size: str = setting(
        "16g", kinds.SIZE, "shared memory of the notebook, for data loaders (Docker)", only=("docker",)
    )
    gateway_image: str = setting(
        "trackbed/gateway:2.11.7",
        kinds.IMAGE,
        "the gateway of PUBLIC=true (Docker)",
        compose=True,
        only=("docker", "public"),
    )
    memory_limit: str = setting(
        "4g",
        kinds.SIZE,
        "most memory of each service (embedded: of MLflow's processes, 1 GiB each at least)",
        compose=True,
    )
    jupyter_memory: str = setting(
        "",
        optional(kinds.SIZE, ""),
        "most memory of the notebook (Docker); empty: all but 2 GiB of the machine's",
        only=("docker",),
    )
    pids_limit: int = setting(
        "4096",
        kinds.integer(256, 1000000),
        "most processes and threads of each part (Docker)",
        compose=True,
        only=("docker",),
    )
    ready_timeout: int = setting(
        "180",
        kinds.integer(5, 3600, "seconds", "SECONDS"),
        "seconds to wait until everything is usable",
        tasks=NOTEBOOK,
    )
    build_network: str = setting(
        "default",
        one_of("default", "host"),
        "network of image builds; host where containers have no way out",
        only=("docker",),
    )


def _named(name: str, row: Setting) -> Setting:
    return replace(row, name=name.upper(), option=row.option or "--" + name.replace("_", "-"))


TABLE: tuple[Setting, ...] = tuple(_named(f.name, f.metadata["setting"]) for f in fields(Declared))
BY_NAME: Mapping[str, Setting] = {row.name: row for row in TABLE}
BY_OPTION: Mapping[str, Setting] = {row.option: row for row in TABLE}
