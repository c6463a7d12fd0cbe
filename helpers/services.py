"""Services as plain data: what they are, how they are, what they are made from. Knows no engine.

A *service* of a project is PostgreSQL, the object store, MLflow, JupyterLab, or what one of them needs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

POSTGRES = "postgres"
STORE = "store"
STORE_SYNC = "store-sync"  # VersityGW only: syncs what it stored
SCHEMA = "schema"  # Kubernetes only: MLflow's tables, before the first of several servers
BUCKET = "bucket"
MLFLOW = "mlflow"
JUPYTER = "jupyter"
GATEWAY = "gateway"


class State(StrEnum):
    """The life of a service, in the engine-neutral words that ``status`` prints."""

    MISSING = "missing"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    EXITED = "exited"
    DONE = "done"  # a one-shot that ended with 0


@dataclass(frozen=True)
class Port:
    """A port of a service: ``target`` inside, ``published`` on the machine's ``address`` (0: not published)."""

    name: str
    target: int
    published: int = 0
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Mount:
    """``kind`` is ``volume``, ``bind`` or ``tmpfs``; ``source`` a volume name or a path ("" for tmpfs)."""

    kind: str
    source: str
    target: str
    read_only: bool = False
    options: str = ""


@dataclass(frozen=True)
class Health:
    """A health check: ``argv`` run inside the service, times in seconds."""

    argv: tuple[str, ...]
    interval: float = 10.0
    timeout: float = 5.0
    retries: int = 5
    start_period: float = 60.0
    start_interval: float = 1.0


@dataclass(frozen=True)
class DeviceRequest:
    """What ``--gpus`` (driver "") or a CDI name (driver "cdi") asks the engine for; ``ids`` ("all",) for every one."""

    driver: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class ServiceSpec:
    """One service as data: everything its engine needs to start it. No secret values in here."""

    name: str
    title: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    networks: tuple[str, ...] = ()
    container: str = ""
    hostname: str = ""
    user: str = ""
    group_add: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # nodes, or folders of nodes, of the machine
    device_requests: tuple[DeviceRequest, ...] = ()
    ulimits: Mapping[str, int] = field(default_factory=dict)  # soft and hard alike, -1 unlimited
    working_dir: str = ""
    read_only: bool = False
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    health: Health | None = None
    shm_size: str = ""
    memory: str = ""  # most of it, as in 512m; "" for no limit
    pids: int = 0
    restart: str = ""
    stop_signal: str = ""
    stop_grace: int = 10
    depends_on: Mapping[str, str] = field(default_factory=dict)  # service -> started | healthy | done
    one_shot: bool = False


@dataclass(frozen=True)
class Volume:
    """A named volume and the numeric owner of its root; ``secret`` volumes hold only generated files."""

    name: str
    uid: int
    gid: int
    mode: int = 0o700
    secret: bool = False


@dataclass(frozen=True)
class SecretFile:
    """A file a service reads its secret from.

    ``template`` is the file's text with ``{NAME}`` for each secret in ``names``; the values come from
    ``credentials`` at the last moment and are never part of a plan.
    """

    service: str
    volume: str
    path: str
    template: str
    names: tuple[str, ...]
    uid: int
    gid: int
    mode: int = 0o400


@dataclass(frozen=True)
class Network:
    """A container network; ``internal`` ones have no way out and publish nothing."""

    name: str
    internal: bool = False
    mtu: int = 0


@dataclass(frozen=True)
class Plan:
    """What ``start`` would run, in start order. Read by ``start``, ``--dry-run`` and ``status``."""

    engine: str
    project: str
    services: tuple[ServiceSpec, ...]
    volumes: tuple[Volume, ...] = ()
    networks: tuple[Network, ...] = ()
    secrets: tuple[SecretFile, ...] = ()

    def service(self, name: str) -> ServiceSpec:
        """The spec of that name; KeyError if this plan has none."""
        for spec in self.services:
            if spec.name == name:
                return spec
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.services)


@dataclass(frozen=True)
class ServiceStatus:
    """What the engine sees of a service now. ``memory`` in bytes (0: unknown); ``since`` an ISO 8601 time."""

    name: str
    state: State
    reason: str = ""
    exit_code: int | None = None
    image: str = ""
    ports: tuple[Port, ...] = ()
    memory: int = 0
    since: str = ""
    restarts: int = 0
    identity: str = ""  # container id or process id: changes when the service was recreated
    accelerator: str = ""  # the GPUs it was started with, in words
    image_id: str = ""  # of the image it was made from; another one may have its name by now

    @property
    def up(self) -> bool:
        return self.state in (State.READY, State.RUNNING, State.DONE)

    @property
    def failed(self) -> bool:
        return self.state in (State.EXITED, State.UNHEALTHY, State.RESTARTING)


@dataclass(frozen=True)
class Details:
    """A service as it was last started, or (``planned``) as a start would make it, which has nothing of it yet.

    ``lines``: what it is and the command that a person types for the same or to look at it, as in ("by hand", "docker
    run ..."). In ``spec`` and ``lines`` is nothing that was to be hidden.
    """

    spec: ServiceSpec
    planned: bool = False
    lines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Availability:
    """Whether the engine can be used here. ``present`` means it is there at all (even if it refuses)."""

    usable: bool
    present: bool
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class ExecResult:
    """The end of a command inside a service. ``stdout`` and ``stderr`` are decoded, undecodable bytes replaced."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Address:
    """Where this machine reaches a service's port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class DataItem:
    """Something ``remove_data`` deletes: a volume or a folder."""

    name: str
    what: str
    size: int = -1  # bytes; -1 when the engine cannot tell cheaply
    is_workspace: bool = False  # the user's own files, which no archive holds


@dataclass(frozen=True)
class StartReport:
    """What ``start`` did: the services it created, recreated or started. Empty when all was up."""

    changed: tuple[str, ...] = ()
    new_database: bool = False  # this start made it, so that nothing is in it that was there before


Notice = Callable[[str], None]  # takes a line for the user


def once(notice: Notice) -> Notice:
    """The same, for steps of one command that may say the same: a line is told the first time."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            notice(line)

    return tell


Hide = Callable[[ServiceSpec], ServiceSpec]  # takes out what nobody may see


class ProgressReporter(Protocol):
    """Receives progress; handed down, never called upward. Implemented by ``console`` and by tests."""

    def step(self, text: str) -> None:
        """One line of what is being done now, for steps that are not about one service."""

    def service(self, name: str, state: str, note: str = "") -> None:
        """The state of a service changed."""

    def amount(self, name: str, done: int, whole: int, note: str) -> None:
        """How many bytes of ``whole`` (0: not known) are done of a long copy; may be called for each of them."""

    def output(self, line: str) -> None:
        """One line of a long tool's own output (an image build, a pull, an install)."""


TITLES = {
    "postgres": "PostgreSQL",
    "store": "object store",
    "store-sync": "object store's sync",
    "schema": "database schema",
    "bucket": "bucket",
    "mlflow": "MLflow",
    "jupyter": "JupyterLab",
    "gateway": "gateway",
}
STORES = {"minio": "MinIO (Silo)", "versitygw": "VersityGW"}  # the titles of those of ours
CHECK_RESULT = ".written/result.json"  # in the artifact store: docker/mlflow/trackbed_mlflow/write_journal.py


def megabytes(progress: ProgressReporter, name: str) -> Callable[[int, int], None]:
    """Takes the bytes that are done, and all, and tells them."""
    return lambda done, whole: progress.amount(name, done, whole, f"{done / 2**20:.0f} of {whole / 2**20:.0f} MiB")
