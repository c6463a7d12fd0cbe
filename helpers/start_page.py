"""The start page that the MLflow server shows: what only the toolkit knows of it, and the one link that leads there.

The server looks at the rest when somebody asks (docker/mlflow/trackbed_mlflow/start_page). What is written down here is
what `invoke status` says of backups and the lease, at the time that the page names.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from helpers import digests, gateway, services, status, urls
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.leases import last_backup, lease
from helpers.project import backup_schedule
from helpers.project.credentials import JUPYTER_TOKEN
from helpers.project.project import Project
from helpers.services import JUPYTER, STORE
from helpers.settings import Settings

PURPOSE = b"start page of Trackbed\n"  # of the digest of the notebook's token, as the server makes it
APPLIED = "start_page"  # in the state: the hash of what was written last


def document(project: Project, engine: Engine) -> dict[str, Any]:
    """All that the page is told, but for the time. No secret is in it; people with a login of their own get no paths of
    this machine."""
    here, settings = engine.deployment, engine.settings
    token = project.credentials()[JUPYTER_TOKEN].encode()
    ends = lease.look(settings, status.elsewhere(engine), engine.scheduled_runs)
    result: dict[str, Any] = {
        "project": settings.project,
        "engine": engine.name,
        "public": here.is_public,
        "services": [
            {"name": name, "title": _title(engine, name), "address": here.inside_address(name)}
            for name in here.services
            if name not in (services.BUCKET, services.SCHEMA)
        ],
        "notebook_url": _url(engine, JUPYTER) + "/lab",
        "notebook_digest": "" if here.is_public else hashlib.sha256(PURPOSE + token).hexdigest(),
        "gpu": str(engine.accelerator),
        "gpu_kind": engine.accelerator.kind,
        "disk": not engine.in_cluster,
        "client": _client(project),
        "backups": _backups(settings, engine.scheduled_runs, paths=not here.is_public),
        "lease": _lease(*ends, paths=not here.is_public) if ends else None,
    }
    if here.object_store in services.STORES and (here.console_is_public or not here.is_public):
        result |= {"console_url": _url(engine, STORE), "console_title": services.STORES[here.object_store]}
    if not here.is_public:
        result["workspace"] = str(here.workspace)
    return result


def _title(engine: Engine, name: str) -> str:
    return services.STORES.get(engine.object_store, services.TITLES[name]) if name == STORE else services.TITLES[name]


def _url(engine: Engine, service: str) -> str:
    settings = engine.settings
    if engine.deployment.is_public:
        return urls.public_url(settings, service)
    port = {JUPYTER: settings.jupyter_port, STORE: settings.s3_console_port}[service]
    return f"http://{urls.local_host(settings)}:{port}"


def _client(project: Project) -> str:
    try:
        return gateway.client_lines(project, None, who="{login}")
    except TrackbedError:
        return ""  # before its first start the gateway has no certificate


def _backups(settings: Settings, of_engine: backup_schedule.OfEngine, paths: bool) -> dict[str, Any]:
    """The last good one, whether a schedule made it, a person or the end of a lease, and how the schedule does."""
    finding, data = backup_schedule.look(settings, of_engine) or (None, {})
    scheduled, made = data.get("last_good"), backup_schedule.last_made(settings.folder)
    last, place = (scheduled["ended"] if isinstance(scheduled, dict) else None), data.get("place")
    if made and made.ended > (last or 0.0):
        last, place = made.ended, made.backup
    of_lease = last_backup.made(settings.folder)  # a pod that made it saved nothing here but this
    if of_lease and of_lease.moment > (last or 0.0):
        last, place = of_lease.moment, of_lease.backup
    return {
        "last": last,
        "note": f"to {place}" if paths and place else "",
        "scheduled": finding is not None,
        **_problem(finding, paths),
    }


def _lease(finding: Finding, data: dict[str, object], paths: bool) -> dict[str, Any]:
    end = data.get("end")
    seconds = datetime.fromisoformat(end).timestamp() if isinstance(end, str) else None
    announced = "its end is announced" if data.get("announced") else ""
    told = {"problem": str(data.get("problem") or "") if paths else ""}
    return {"end": seconds, "note": announced, **told}


def _problem(finding: Finding | None, paths: bool) -> dict[str, str]:
    """``paths``: for those who may know this machine's; others are told that there is one."""
    if finding is None or finding.level is Level.OK:
        return {"problem": ""}
    return {"problem": finding.detail if paths else "there is a problem, which `invoke status` tells"}


def attach(project: Project, engine: Engine) -> str:
    """Let the start that follows hand the page over; gives the hash of it, for ``APPLIED``."""
    if engine.deployment.notebook_only:
        return ""
    told = document(project, engine)
    engine.deployment.start_page = _file(told)
    return digests.digest(told)


def publish(project: Project, engine: Engine) -> None:
    """Hand it over to a project that runs, where it has changed since. Changes the state without saving it."""
    if engine.deployment.notebook_only:
        return
    told = document(project, engine)
    if (now := digests.digest(told)) != project.state.applied.get(APPLIED):
        engine.put_start_page(_file(told))
        project.state.applied = {**project.state.applied, APPLIED: now}


def refresh(project: Project, engine: Engine | None = None) -> None:
    """Hand it over after something that it tells of; nothing where nothing runs. That it fails is told by the page's
    own age, and is no reason for a backup to fail. ``engine``: the project's, where it was found already."""
    with suppress(TrackbedError, OSError):
        engine = engine or select.current(project)
        if not engine.deployment.notebook_only and project.state.applied.get(APPLIED):
            engine.put_start_page(_file(document(project, engine)))


def _file(told: dict[str, Any]) -> bytes:
    return json.dumps({**told, "written": round(time.time())}).encode()
