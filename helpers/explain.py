"""What a service is for, what it is made of, who talks to whom and which settings say so: from what runs, for teaching.

No value of a secret is shown, nor of a variable that is not the plan's own: somebody may have put one there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from helpers import database_settings, url_logins
from helpers import status as inspection
from helpers.engines import scripts
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.project.credentials import FORMER, NAMES, S3_ACCESS_KEY, S3_SECRET_KEY
from helpers.project.project import Project
from helpers.services import (
    BUCKET,
    GATEWAY,
    JUPYTER,
    MLFLOW,
    POSTGRES,
    SCHEMA,
    STORE,
    STORE_SYNC,
    Mount,
    Plan,
    ServiceSpec,
)
from helpers.settings import BY_NAME, DEFAULT, relevance
from helpers.settings.sources import LAST_UP

HIDDEN = "***"
PURPOSES: Mapping[str, str] = {
    POSTGRES: "The database. MLflow keeps experiments, runs, parameters, metrics and registered models there, as rows.",
    STORE: "The object store. It keeps artifacts (models, pictures, checkpoints) as objects of one bucket, over S3.",
    STORE_SYNC: "Syncs to the disk what the object store took, so that a power cut loses nothing it had confirmed.",
    BUCKET: "Creates the bucket of the artifacts, and ends.",
    SCHEMA: "Makes MLflow's tables before the first server starts, and ends.",
    MLFLOW: "The tracking server. Clients log runs to its API, browsers open its pages. It alone opens the database, "
    "and it hands artifacts on.",
    JUPYTER: "The notebook: JupyterLab with your files, the data sets and the GPUs. What runs there logs to MLflow.",
    GATEWAY: "The only way in for other machines: TLS and logins before MLflow and JupyterLab.",
}
# who asks whom, and for what
TALKS: tuple[tuple[str, str, str], ...] = (
    (GATEWAY, MLFLOW, "pages and API, over HTTP"),
    (GATEWAY, JUPYTER, "pages and kernels, over HTTP"),
    (JUPYTER, MLFLOW, "logs runs, over HTTP"),
    (MLFLOW, POSTGRES, "rows, in SQL"),
    (MLFLOW, STORE, "artifacts, over S3"),
    (BUCKET, STORE, "the bucket, over S3"),
    (STORE_SYNC, STORE, "reads its files"),
    (SCHEMA, POSTGRES, "tables, in SQL"),
)
_LIMITS = ("MEMORY_LIMIT", "PIDS_LIMIT")
_S3 = ("OBJECT_STORE", "S3_BUCKET", "S3_ENDPOINT", "S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY")
# the settings that a service is made from
SETTINGS: Mapping[str, tuple[str, ...]] = {
    POSTGRES: (
        *("POSTGRES_IMAGE", "POSTGRES_PASSWORD", "MLFLOW_WORKERS", *_LIMITS),
        *("DATABASE_HOST", "DATABASE_TLS", "DATABASE_VOLUME_SIZE", "STORAGE_CLASS"),
    ),
    STORE: (
        *("OBJECT_STORE", "MINIO_IMAGE", "VERSITYGW_IMAGE", "S3_PORT", "S3_CONSOLE_PORT", "BIND_ADDRESS"),
        *("S3_REGION", "S3_ACCESS_KEY", "S3_SECRET_KEY", *_LIMITS, "STORE_VOLUME_SIZE", "STORAGE_CLASS"),
    ),
    STORE_SYNC: ("OBJECT_STORE", "MLFLOW_IMAGE", *_LIMITS),
    BUCKET: ("MLFLOW_IMAGE", *_S3),
    SCHEMA: ("MLFLOW_IMAGE", "POSTGRES_PASSWORD", "DATABASE_HOST", "DATABASE_TLS"),
    MLFLOW: (
        *("MLFLOW_IMAGE", "MLFLOW_PORT", "BIND_ADDRESS", "PUBLIC_ADDRESS", "LOCAL_ACCESS", "MLFLOW_TOKEN"),
        *("MLFLOW_WORKERS", "MLFLOW_REPLICAS", "MLFLOW_FAST_PATH", "MLFLOW_JOBS", "MLFLOW_JOBS_MODELS"),
        *("MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "POSTGRES_PASSWORD", *_S3),
        *("DATABASE_HOST", "DATABASE_TLS", "NOTEBOOK_NAMESPACES", *_LIMITS),
    ),
    JUPYTER: (
        *("JUPYTER_IMAGE", "JUPYTER_PORT", "BIND_ADDRESS", "JUPYTER_TOKEN", "GPU", "DEVICES", "GPU_COUNT", "TORCH"),
        *("TORCH_INDEX", "WORKSPACE", "WORKSPACE_VOLUME_SIZE", "DATA_VOLUME", "JUPYTER_VOLUMES", "JUPYTER_ENV"),
        *("JUPYTER_MEMORY", "JUPYTER_SHM_SIZE", "CULL_IDLE", "TRACKING_URI", "TRACKING_USERNAME"),
        *("TRACKING_PASSWORD", "TRACKING_TOKEN", "TRACKING_CA", "STORAGE_CLASS"),
    ),
    GATEWAY: (
        *("GATEWAY_IMAGE", "PUBLIC", "DOMAIN", "PUBLIC_ADDRESS", "BIND_ADDRESS", "MLFLOW_PORT", "JUPYTER_PORT"),
        *("CERTIFICATES", "ACME_CA", "ACME_ROOT", "HTTP_PORT", "HTTPS_PORT", "PUBLIC_S3", "S3_PORT"),
        *("S3_CONSOLE_PORT", "GATEWAY_SERVICE", *_LIMITS),
    ),
}


@dataclass(frozen=True)
class Explanation:
    """A service in words: labels with their lines. ``by_hand``: what each line of a shell is for, and the line."""

    service: str
    title: str
    state: str
    planned: bool
    purpose: str
    facts: Mapping[str, tuple[str, ...]]
    by_hand: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str, str], ...] = ()  # name, value, where from


def service(project: Project, engine: Engine, view: inspection.Overview, name: str) -> Explanation:
    """All about one service. ``view``: what runs."""
    row = next(one for one in view.rows if one.status.name == name)
    plan = _plan(engine)
    hidden = Secrets(project, plan, name)
    details = engine.details(name, hidden.without)
    spec = details.spec
    files = [file for file in plan.secrets if file.service == name] if plan else []
    folders = {mount.source: mount.target for mount in spec.mounts}
    facts: dict[str, tuple[str, ...]] = {
        "image": (spec.image,) if spec.image else (),
        "program": () if spec.image else spec.command[:1],
        "user": (spec.user.strip(":"),) if spec.user.strip(":") else (),
        "folder": (spec.working_dir,) if spec.working_dir else (),
        "ports": tuple(_port(one.address, one.published, one.target) for one in spec.ports if one.published),
        "networks": tuple(f"{one}{_way_out(plan, one)}" for one in spec.networks),
        "volumes": tuple(map(_mount, spec.mounts)),
        "devices": (*spec.devices, *(f"{one.driver or 'gpu'} {', '.join(one.ids)}" for one in spec.device_requests)),
        "environment": tuple(f"{key}={value}" for key, value in sorted(spec.environment.items())),
        "secrets": tuple(
            f"{', '.join(names)} in {folders.get(one.volume, one.volume).rstrip('/')}/{one.path}"
            for one in files
            if (names := [key for key in one.names if not key.startswith(FORMER)])
        ),
        **_talks(engine, view, name),
    }
    return Explanation(
        name,
        row.title,
        str(row.status.state),
        details.planned,
        PURPOSES[name],
        {label: lines for label, lines in facts.items() if lines},
        tuple((what, hidden.of_line(line)) for what, line in details.lines),
        tuple(_settings(project, engine, name)),
    )


def system(engine: Engine, view: inspection.Overview) -> list[Explanation]:
    """All services, each in short."""
    return [
        Explanation(
            row.status.name,
            row.title,
            str(row.status.state),
            not row.status.up,
            PURPOSES[row.status.name],
            {"at": row.urls, **_talks(engine, view, row.status.name)},
        )
        for row in view.rows
    ]


def _plan(engine: Engine) -> Plan | None:
    """None where no start can be planned now, as without the GPU that it is for: what runs can be explained still."""
    try:
        return engine.plan()
    except TrackbedError:
        return None


class Secrets:
    """What is not shown of one service."""

    def __init__(self, project: Project, plan: Plan | None, name: str) -> None:
        services = {one.name: one for one in plan.services} if plan else {}
        own = services[name].environment if name in services else {}
        self.shown = set(own) - set(project.settings.jupyter_env)
        known = project.credentials().values.values()
        values = sorted({value for value in known if len(value) > 3}, key=len, reverse=True)
        self.values = re.compile("|".join(map(re.escape, values)) or r"(?!)")

    def without(self, spec: ServiceSpec) -> ServiceSpec:
        environment = {
            key: self.of_line(value) if key in self.shown and not scripts.has_password(key, value) else HIDDEN
            for key, value in spec.environment.items()
        }
        command, entrypoint = (tuple(map(self.of_line, words)) for words in (spec.command, spec.entrypoint))
        return replace(spec, environment=environment, command=command, entrypoint=entrypoint)

    def of_line(self, text: str) -> str:
        return self.values.sub(HIDDEN, without_login(text))


def without_login(text: str) -> str:
    """URLs without what stands before their host, but for the name of MLflow's role in the database."""
    return url_logins.masked(text, database_settings.USER)


def _port(address: str, published: int, target: int) -> str:
    return f"{address}:{published}" + (f" leads to {target} inside" if target != published else "")


def _way_out(plan: Plan | None, name: str) -> str:
    known = {one.name: one for one in plan.networks} if plan else {}
    return " (no way out)" if name in known and known[name].internal else ""


def _mount(mount: Mount) -> str:
    read_only = ", read-only" if mount.read_only else ""
    if mount.kind == "tmpfs":
        return f"{mount.target} (in memory)"
    if mount.source == mount.target:
        return f"{mount.source} (folder{read_only})"
    return f"{mount.target} is {'folder' if mount.kind == 'bind' else 'volume'} {mount.source}{read_only}"


def _talks(engine: Engine, view: inspection.Overview, name: str) -> dict[str, tuple[str, ...]]:
    names = {row.status.name for row in view.rows}
    asks = [f"{to}: {what}" for one, to, what in TALKS if one == name and to in names]
    if name in (MLFLOW, BUCKET) and STORE not in names:
        asks.append(
            "a folder of this machine: artifacts" if engine.object_store == "folder" else "an external S3 store"
        )
    if name == JUPYTER and view.settings.tracking_uri:
        asks.append(f"the tracking server {without_login(view.settings.tracking_uri)}: logs runs, over HTTP")
    asked = [f"{one}: {what}" for one, to, what in TALKS if to == name and one in names]
    return {"asks": tuple(asks), "asked by": tuple(asked)}


def _settings(project: Project, engine: Engine, name: str) -> Iterable[tuple[str, str, str]]:
    """Those that mean something here, with their values and where these are from."""
    settings = project.settings
    for row in map(BY_NAME.__getitem__, SETTINGS[name]):
        if relevance.without_effect(row, engine):
            continue
        origin = settings.origin(row.name)
        raw = settings.texts.get(row.name, row.default)
        if row.secret or row.name in NAMES:
            raw, origin = _of_secret(project, engine, row.name)
        elif row.name == "JUPYTER_ENV":
            raw = " ".join(f"{key}={HIDDEN}" for key in settings.jupyter_env)
        origin = "the last up" if origin == LAST_UP else origin  # a command there would be made one to type
        yield row.name, without_login(raw), origin


def _of_secret(project: Project, engine: Engine, name: str) -> tuple[str, str]:
    """What stands for its value, and where that is from."""
    if (origin := project.settings.origin(name)) != DEFAULT:
        return HIDDEN, origin
    if name in NAMES and not (name in (S3_ACCESS_KEY, S3_SECRET_KEY) and engine.object_store == "external"):
        return "", "generated"
    return (HIDDEN, LAST_UP) if project.credentials().values.get(name) else ("", DEFAULT)


def as_data(one: Explanation) -> dict[str, Any]:
    """What --json prints of it."""
    return {
        "service": one.service,
        "title": one.title,
        "state": one.state,
        "planned": one.planned,
        "purpose": one.purpose,
        **{label.replace(" ", "_"): list(lines) for label, lines in one.facts.items()},
        "by_hand": [{"what": what, "line": line} for what, line in one.by_hand],
        "settings": [{"name": name, "value": value, "from": origin} for name, value, origin in one.settings],
    }
