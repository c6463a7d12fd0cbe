"""What the parts are told on every engine: names, lists and environment derived from the settings alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from helpers.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MLFLOW_FOLDER = ROOT / "docker" / "mlflow"
SERVER_PACKAGE = MLFLOW_FOLDER / "trackbed_mlflow"
JUPYTER_FOLDER = ROOT / "docker" / "jupyter"
DATABASE_ADMIN = "postgres"  # superuser: reached through the socket beside the data alone, has no password
DATABASE_USER = "mlflow"  # the server's role: owns its databases and nothing else
# For a load of many small transactions and pages of search results. What decides whether an answered request survives
# (fsync, synchronous_commit, full_page_writes) stays as PostgreSQL has it.
DATABASE_SETTINGS = {
    "shared_buffers": "256MB",
    "work_mem": "16MB",  # a search ordered by a metric sorts every run of the experiment: not on the disk
    "maintenance_work_mem": "128MB",  # indexes of a restored backup
    "random_page_cost": "1.1",  # SSDs
    "jit": "off",  # compiling costs more than these queries take
    "wal_compression": "on",
}
POOLS = ("tracking", "registry")  # stores of a worker that have a pool each
POOLED = 120  # connections of all workers to one kind of store, as long as each worker has 4
JOB_PROCESSES = 8  # MLFLOW_JOBS=on: the runner, the scheduler, and six jobs, as trackbed_mlflow/jobs.py bounds them
JOB_POOL = 5  # connections that each of these may open
RESERVED = 25  # beside the pools: checks, backups, gc, the server's first look, PostgreSQL's own 3 for the superuser
TRAINING_PAGE = "#/experiments?workflowType=machine_learning"  # else MLflow opens among what is for language models
STRAIGHT_FROM = 50 * 2**20  # bytes of a file that the notebook sends to the store itself
# A terminal of JupyterLab: bash with the notebook's programs on PATH, also in an image that has no file of ours. Not a
# login shell, whose /etc/profile sets a PATH of its own. Who chooses another shell by SHELL gets that.
TERMINAL = "; ".join(
    (
        'case "${SHELL##*/}" in ""|sh|dash|bash|nologin|false) ;; *) exec "$SHELL" ;; esac',
        "command -v bash >/dev/null || exec sh",
        'rc="${TRACKBED_STARTUP:-}/terminal.bashrc"',
        '[ -r "$rc" ] || rc="$HOME/.bashrc"',
        'exec bash --rcfile "$rc"',
    )
)
TITLES = {
    "postgres": "PostgreSQL",
    "store": "object store",
    "store-sync": "object store's sync",
    "bucket": "bucket",
    "mlflow": "MLflow",
    "jupyter": "JupyterLab",
    "gateway": "gateway",
}
CHECK_RESULT = ".written/result.json"  # in the artifact store: docker/mlflow/trackbed_mlflow/write_journal.py


def server_files() -> tuple[Path, ...]:
    """The tracking server's own files: its program, the package that it runs, and MLflow's empty schema."""
    return (MLFLOW_FOLDER / "start.py", *sorted(SERVER_PACKAGE.rglob("*.py")), SERVER_PACKAGE / "schema.sql")


def pool(workers: int) -> tuple[int, int]:
    """Connections that each store of a worker keeps, and how many more it may open: MLflow's own 5 and 10 with few
    workers. With many, fewer each: a connection is a process of PostgreSQL with memory of its own."""
    most = max(4, min(15, POOLED // workers))
    kept = min(5, most - 1)
    return kept, most - kept  # MLflow takes 0 for "not set"


def has_jobs(settings: Settings) -> bool:
    """Whether MLflow's jobs run beside its server; behind the gateway it has no way out to a model."""
    return settings.mlflow_jobs == "on" and not settings.public and not settings.tracking_uri


def jobs_words(settings: Settings) -> str:
    """Whether they run, and what that means; "" where there is no server of ours."""
    if settings.tracking_uri:
        return ""
    if not has_jobs(settings):
        return "off: " + (
            "with PUBLIC=true the server has no way out to models"
            if settings.public
            else "`invoke up --mlflow-jobs=on` offers judges, evaluations and automatic scoring on the server"
        )
    where = "any address" if settings.mlflow_jobs_models == "any" else "public https addresses"
    return f"on: judges, evaluations and automatic scoring on the server, with models at {where}"


def max_connections(workers: int, jobs: bool = False) -> int:
    """Never fewer than the pools of all workers may open, and room for the toolkit and the superuser. ``jobs``: and
    those of MLflow's jobs, for which each worker has one pool more."""
    pools, beside = (len(POOLS) + 1, JOB_PROCESSES * JOB_POOL) if jobs else (len(POOLS), 0)
    return max(100, workers * pools * sum(pool(workers)) + beside + RESERVED)


def database_options(connections: int | str) -> tuple[str, ...]:
    """DATABASE_SETTINGS and the number of connections as arguments of `postgres`."""
    every = {**DATABASE_SETTINGS, "max_connections": connections}
    return tuple(word for name, value in every.items() for word in ("-c", f"{name}={value}"))


def public_names(settings: Settings) -> tuple[str, ...]:
    """Every host name a browser or client may use for the tracking server."""
    names = ["localhost", "127.0.0.1", "[::1]", "mlflow"]
    bound = "" if settings.public else settings.bind_address  # one loopback address for each person, say
    names += [name for name in (settings.domain, settings.public_address, bound) if name and name not in names]
    return tuple(names)


def public_name(settings: Settings) -> str:
    """What the gateway is called from outside, "" while that is not known."""
    return settings.domain or settings.public_address


def public_url(settings: Settings, part: str) -> str:
    """Where a part is reached through the gateway. Only with PUBLIC=true, and for parts that it publishes."""
    port = {
        "mlflow": settings.mlflow_port,
        "jupyter": settings.jupyter_port,
        "store": settings.s3_console_port,
        "s3": settings.s3_port,
    }[part]
    return f"https://{public_name(settings)}:{port}"


def allowed_hosts(settings: Settings) -> str:
    """MLFLOW_SERVER_ALLOWED_HOSTS: each name alone (ports 80, 443) and with any port (a tunnel may end anywhere)."""
    entries = []
    for name in public_names(settings):
        # patterns are fnmatch's, where a bare [ opens a character class
        entries += [name, name.replace("[", "[[]") + ":*"]
    return ",".join(entries)


def cors_origins(settings: Settings) -> str:
    """MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: the UI's own origins, from the same list as the hosts.

    No ``scheme://*`` and no lone ``*``: each entry names a host. localhost is always allowed by MLflow itself.
    """
    scheme = "https" if settings.public else "http"
    return ",".join(f"{scheme}://{name}:{settings.mlflow_port}" for name in public_names(settings))


def local_host(settings: Settings) -> str:
    """What a browser or client on this machine (or at the end of a tunnel) is told: the bind address itself.

    Not localhost: that may be ::1 too, where any account of the machine can listen and take the link's token.
    """
    return settings.bind_address


def browser_url(settings: Settings) -> str:
    """MLflow as the user's browser reaches it: directly on this machine, or through the printed ``ssh -L`` line."""
    if settings.tracking_uri:
        return settings.tracking_uri
    if settings.public:
        return public_url(settings, "mlflow")
    return f"http://{local_host(settings)}:{settings.mlflow_port}"


def s3_browser_url(settings: Settings) -> str:
    """The S3 API as the user's browser reaches it: the store's console asks it from there, not from the server."""
    return public_url(settings, "s3") if settings.public else f"http://{local_host(settings)}:{settings.s3_port}"


def store_network(settings: Settings, instance: str) -> str:
    """What a client says that reaches the object store, "" where none does: a name that no other system's server takes.

    Behind the gateway the store is on a network that the notebook is not on; a server elsewhere has a store of its own.
    """
    return "" if settings.public or settings.tracking_uri else digest("store network", instance)


def notebook_environment(
    settings: Settings, tracking_uri: str, instance: str, startup: str, person: str = ""
) -> dict[str, str]:
    """What a notebook is told on every engine; ``instance``: the system's id, ``startup``: where the files of
    docker/jupyter/startup are there, ``person``: whose runs they are."""
    return {
        # MLflow's name for the user of a run; the account is a service's
        **({"LOGNAME": person, "USER": person} if person else {}),
        "TRACKBED_STARTUP": startup,
        "MLFLOW_TRACKING_URI": tracking_uri,
        # MLflow would print links to the tracking URI, a name that no browser knows; a start-up hook prints ours
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "TRACKBED_BROWSER_URL": browser_url(settings),
        "TRACKBED_SERVER_URI": tracking_uri,  # MLflow changes its own; links to other servers are left alone
        "MLFLOW_NOTEBOOK_TRACE_RENDERER_BASE_URL": browser_url(settings),  # traces are shown in a frame of the browser
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKBED_STORE_NETWORK": store_network(settings, instance),
        # in parts straight to the store, where the server offers it, is twice as quick; MLflow's own limit is 500 MB
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(STRAIGHT_FROM),
        # ours turns them on where they can be measured: docker/jupyter/startup/trackbed_metrics.py
        **({"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true"} if settings.jupyter_image else {}),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "600",  # a proxied artifact of several GB answers late
        "GIT_PYTHON_REFRESH": "quiet",
        **settings.jupyter_env,
    }


def notebook_options(settings: Settings) -> tuple[str, ...]:
    """Options of JupyterLab on every engine: its terminals, and the culler, which also ends kernels of open tabs."""
    terminal = json.dumps({"shell_command": ["/bin/sh", "-c", TERMINAL]})
    options = (f"--ServerApp.terminado_settings={terminal}",)
    if not settings.cull_idle:
        return options
    return (
        *options,
        f"--MappingKernelManager.cull_idle_timeout={settings.cull_idle}",
        f"--MappingKernelManager.cull_interval={max(1, min(300, settings.cull_idle // 4))}",
        "--MappingKernelManager.cull_connected=True",
    )


def digest(*items: object) -> str:
    """A short stable hash of values and files (a Path stands for its content)."""
    sha = hashlib.sha256()
    for item in items:
        if isinstance(item, Path):
            sha.update(item.read_bytes())
        else:
            sha.update(json.dumps(item, sort_keys=True, default=str).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def folder_digest(folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """A hash of every file below a folder, by name and content; what an image is built from."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return digest([p.relative_to(folder).as_posix() for p in files], *files, dict(extra or {}))
