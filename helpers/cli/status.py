"""What runs and where: status, logs, addresses."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import (
    addresses,
    browser,
    console,
    durability,
    fast_path,
    invocations,
    lifecycle,
    notebook,
    side_by_side,
)
from helpers import status as inspection
from helpers.cli import options, watch
from helpers.engines import select
from helpers.engines.base import Engine, State
from helpers.errors import FAILED, SettingError, TrackbedError
from helpers.findings import Finding, Level
from helpers.leases import lease
from helpers.project import access, backup_schedule, mlflow_jobs
from helpers.project.project import Project
from helpers.services import MLFLOW
from helpers.settings.flags import Flags
from helpers.sizes import mib
from helpers.status import Overview


def show_ready(project: Project, view: Overview) -> None:
    """The box that a start ends with: the link to open, the user's files, what to type next."""
    state = "ready" if view.ready else "incomplete"
    console.notice()
    console.box(f"{view.settings.project} is {state}", inspection.rows(project, view))


def show_services(view: Overview, tunnel: bool = True) -> None:
    """The table of services, and (``tunnel``) the ssh line for someone who sits at another computer."""
    rows: list[tuple[str, ...]] = []
    for row in view.rows:
        memory = mib(row.status.memory, 0) if row.status.memory else ""
        state = str(row.status.state) + (f" ({row.status.reason})" if row.status.reason else "")
        rows.append((row.status.name, row.title, state, "  ".join(row.urls), memory))
    columns: tuple[str, ...] = ("service", "what", "state", "URL", "memory")
    if not any(row[4] for row in rows):
        columns, rows = columns[:4], [row[:4] for row in rows]
    console.table(columns, rows)
    for row in view.rows:
        if row.status.accelerator and row.status.up:
            details = (f"GPU: {row.status.accelerator}", row.status.image, row.status.since)
            console.notice(f"\nnotebook: {', '.join(word for word in details if word)}")
    if view.settings.tracking_uri:
        console.notice(f"\nthe notebook logs to {view.settings.tracking_uri}")
    if tunnel:
        _show_tunnel(view)


def _show_tunnel(view: Overview) -> None:
    if not (line := inspection.tunnel(view)):
        return
    if view.node:
        console.notice("\nThe services run on another machine. From this one, keep this open and use the same URLs:")
    else:
        console.notice("\nFrom your own computer, keep this open and use the same URLs there:")
    console.notice("  " + line)


@dataclass(frozen=True)
class Seen:
    """What one look found: services, backups, the lease, what is told below the table."""

    project: Project
    view: Overview
    backups: Finding | None
    schedule: dict[str, object] | None
    ends: Finding | None
    end: dict[str, object] | None
    remarks: tuple[str, ...] = ()


def look(project: Project, remarks: bool = True) -> Seen:
    """What there is now. ``remarks``: also what takes more questions."""
    engine = select.current(project)
    view = inspection.overview(engine, detail=True)
    backups, schedule = backup_schedule.look(project.settings, engine.scheduled_runs) or (None, None)
    ends, end = lease.look(project.settings, inspection.elsewhere(engine), engine.scheduled_runs) or (None, None)
    ours = remarks and not view.stopped and bool(view.rows) and project.state.existed
    lines = tuple(_remarks(project, engine, view)) if ours else ()
    return Seen(project, view, backups, schedule, ends, end, lines)


def show(seen: Seen) -> None:
    """The same for somebody to read."""
    project, view = seen.project, seen.view
    if view.stopped:
        console.value(f"{view.settings.project}: {inspection.condition(project, view)}")
        console.notice(
            f"to {'start it again with its data' if project.state.existed else 'make it'}: {invocations.anywhere('up')}"
        )
        show_finding(seen.backups)
        show_finding(seen.ends)
        return
    show_services(view)
    _, step = inspection.trouble(row.status for row in view.rows)
    if step and project.state.existed:
        console.notice(f"\n{step}")
    if view.rows and project.state.existed:
        for line in seen.remarks:
            console.notice(f"\n{line}")
        show_finding(seen.backups)
        show_finding(seen.ends)
    elif line := lifecycle.others(project, (row.status for row in view.rows)):
        console.notice(f"\n{line}; `invoke up` tells")


def status(given: Flags, format: str, json: bool, check: bool = False, watched: str | bool | None = None) -> int:
    format = options.output_format(format, json, "table", "json", "env")
    pause = watch.seconds(watched)
    options.refuse(pause is not None and format != "table", "--watch", f"with --format={format}")
    options.refuse(pause is not None and check, "--check", "with --watch, which Ctrl-C ends")
    project = options.load(given)
    if pause is not None:
        return watch.Watch(pause, lambda: look(lifecycle.load(given)), show).run()
    seen = look(project, format == "table")
    if format == "json":
        console.as_json({**_as_data(project, seen.view, seen.schedule), "lease": seen.end})
    elif format == "env":
        console.as_env(inspection.environment(seen.view))
    else:
        show(seen)
    failed = check and any(one is not None and one.level is Level.ERROR for one in (seen.backups, seen.ends))
    return 0 if seen.view.ready and not failed else FAILED


def show_finding(finding: Finding | None) -> None:
    """How the schedule of backups does, or the lease stands; nothing where there is none."""
    if finding is None:
        return
    wrong = finding.level is not Level.OK
    fix = f"; {finding.fix}" if wrong and finding.fix else ""
    console.notice(f"\n{'warning: ' if wrong else ''}{finding.check}: {finding.detail}{fix}")


def _remarks(project: Project, engine: Engine, view: Overview) -> list[str]:
    """What is told below the table: of the disk, of artifacts after an unclean stop, of how MLflow runs."""

    def server() -> list[str]:
        lines = []
        if mlflow_jobs.enabled(engine.deployment):
            lines.append(f"MLflow's jobs are {mlflow_jobs.summary(engine.deployment)}")
        if running := next((row.status for row in view.rows if row.status.name == MLFLOW and row.status.up), None):
            state = fast_path.noted(engine, project.state.applied, running) or fast_path.read(engine)
            lines.append(f"MLflow's fast path: {fast_path.summary(state)}")
        return lines

    questions = (lambda: [lifecycle.low_disk(engine)], lambda: durability.lines(engine), server)
    return [line for lines in side_by_side.each(questions, engine.asked_at_once) for line in lines if line]


def _as_data(project: Project, view: Overview, schedule: dict[str, object] | None) -> dict[str, object]:
    """What --json prints."""
    return {
        "project": view.settings.project,
        "state": inspection.condition(project, view),
        "engine": view.engine,
        "state_dir": str(view.settings.state_dir),
        "workspace": str(view.workspace),
        "tracking_uri": view.settings.tracking_uri,
        "node": view.node,
        "backups": schedule,
        "services": [
            {
                "service": r.status.name,
                "title": r.title,
                "state": str(r.status.state),
                "reason": r.status.reason,
                "urls": list(r.urls),
                "image": r.status.image,
                "gpu": r.status.accelerator,
                "memory": r.status.memory,
                "since": r.status.since,
            }
            for r in view.rows
        ],
    }


def logs(given: Flags, service: str, follow: bool, tail: int, raw: bool) -> None:
    engine = inspection.running(options.load(given))
    statuses = engine.services()
    if service:
        options.choose(service, *(s.name for s in statuses), option="service ")
    if follow and not service:
        raise SettingError("--follow needs a service: `invoke logs mlflow --follow`")
    shown = [service] if service else [s.name for s in statuses if s.state is not State.MISSING]
    if not shown:
        console.notice("nothing is running; `invoke logs SERVICE` shows what is kept of a service")
    for name in shown:
        for line in engine.logs(name, tail, follow):
            text = line if raw else console.log_line(line)
            console.value(text if service else f"{name} | {text}", raw)


def jupyter_url(given: Flags) -> None:
    project = options.load(given)
    engine = inspection.running(project)
    console.value(notebook.url(engine, project.credentials()["JUPYTER_TOKEN"]))
    view = inspection.overview(engine)
    if view.node:
        ports = [p.published for r in view.rows if r.status.name in ("jupyter", "mlflow") for p in r.status.ports]
        console.notice(
            "with this open on this machine: "
            + addresses.ssh_line(ports, target=view.node, bound=view.settings.bind_address)
        )


def mlflow_url(given: Flags) -> None:
    project = options.load(given)
    engine = inspection.running(project)
    if not (url := inspection.mlflow_url(inspection.overview(engine))):
        raise TrackbedError("MLflow has no address: it does not run here", "`invoke up` starts it")
    console.value(url)


def open_page(given: Flags) -> None:
    project = options.load(given)
    engine = inspection.running(project)
    view = inspection.overview(engine)
    link = inspection.first_link(project, engine, view)
    console.value(link)
    if lacking := inspection.without_start_page(view):
        console.notice(f"this is the notebook: {lacking}")
    line = inspection.tunnel(view)
    if line:
        console.notice(f"with this open on {'this machine' if view.node else 'your own computer'}: {line}")
    folder = project.settings.folder
    # whatever LOCAL_ACCESS says of MLflow: the link's token opens a shell
    others = project.asks or bool(access.other_accounts(access.own_accounts(project), folder))
    if not line and not browser.show(link, folder, others):
        console.notice("no browser was found here: open the link in yours")
