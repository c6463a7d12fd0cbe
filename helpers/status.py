"""What runs: the services with their state and URLs, and what `up` and `status` tell of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from helpers import (
    addresses,
    invocations,
    notebook,
    services,
    urls,
)
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.services import JUPYTER, MLFLOW, STORE, ServiceStatus, State
from helpers.settings import Settings


@dataclass(frozen=True)
class Row:
    """A line of the status table. ``memory`` in bytes, 0 unknown."""

    status: ServiceStatus
    title: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """What ``up`` and ``status`` tell about a project."""

    engine: str
    settings: Settings
    rows: tuple[Row, ...]
    changed: tuple[str, ...] = ()
    node: str = ""  # another machine that runs the services, as `ssh` takes it
    token: str = field(default="", repr=False)  # what MLflow asks for
    is_public: bool = False  # behind the gateway
    workspace: Path | None = None  # on the machine that runs the services
    source: Engine = field(kw_only=True, repr=False, compare=False)  # that was asked

    @property
    def stopped(self) -> bool:
        """Whether nothing of it is there, as after `down`."""
        return all(row.status.state is State.MISSING for row in self.rows)

    @property
    def ready(self) -> bool:
        """Whether every service of it is up."""
        return all(row.status.up for row in self.rows)

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(p.published for row in self.rows for p in row.status.ports if p.published))


def overview(
    engine: Engine, changed: tuple[str, ...] = (), detail: bool = False, statuses: tuple[ServiceStatus, ...] = ()
) -> Overview:
    """The state of every service with the URLs a browser can use. ``statuses``: as the caller has just seen them."""
    settings, is_public = engine.settings, engine.deployment.is_public
    host = urls.local_host(settings)
    rows = []
    for status in statuses or engine.services(detail):
        links = tuple(
            f"http://{host}:{p.published}" + ("/lab" if status.name == JUPYTER else "")
            for p in sorted(status.ports, key=lambda p: p.target)
            if p.published and status.state is not State.RESTARTING  # it does not answer there for long
        )
        if is_public:
            links = _public_urls(settings, engine, status)
        title = services.TITLES[status.name]
        if status.name == STORE:
            title = services.STORES.get(engine.object_store, title)
        rows.append(Row(status, title, links))
    token = "" if is_public else engine.access_token()  # people have a login there, the gateway the token
    node, workspace = engine.host.tunnel, engine.deployment.workspace
    return Overview(engine.name, settings, tuple(rows), changed, node, token, is_public, workspace, source=engine)


def _public_urls(settings: Settings, engine: Engine, status: ServiceStatus) -> tuple[str, ...]:
    """The addresses of a service behind the gateway; the gateway's own row has none."""
    console = engine.deployment.console_is_public
    if status.name not in (MLFLOW, JUPYTER, *((STORE,) if console else ())) or not status.up:
        return ()
    links = [urls.public_url(settings, status.name) + ("/lab" if status.name == JUPYTER else "")]
    if status.name == STORE and settings.public_s3:
        links.insert(0, f"https://{urls.public_name(settings)}:{settings.s3_port}")
    return tuple(links)


def start_url(engine: Engine, view: Overview, token: str) -> str:
    """The one link to open: the start page, "" where no server of ours shows it now. ``token``: the notebook's.

    Behind the gateway people have logins, and the link has no token.
    """
    url = _mlflow(view) if _serves(view) else ""
    return f"{url}{urls.START_PAGE}" + ("" if view.is_public else f"?token={token}") if url else ""


def first_link(project: Project, engine: Engine, view: Overview) -> str:
    """The start page; the notebook where it is alone. Raises TrackbedError where neither can be opened."""
    token = project.credentials()["JUPYTER_TOKEN"]
    return start_url(engine, view, token) or notebook.url(engine, token)


def without_start_page(view: Overview) -> str:
    """Why the first link is the notebook's, and the next step; "" where it is the start page, or there is none."""
    server = next((row.status for row in view.rows if row.status.name == MLFLOW), None)
    if server is None or (_serves(view) and _mlflow(view)):
        return ""
    _, step = trouble(row.status for row in view.rows)
    return f"MLflow, which shows the start page, is {server.state}" + (f"; {step}" if step else "")


def _serves(view: Overview) -> bool:
    """Whether MLflow answers; one that starts again and again has an address, too."""
    return any(row.status.name == MLFLOW and row.status.up for row in view.rows)


def _mlflow(view: Overview) -> str:
    return next((row.urls[0] for row in view.rows if row.status.name == MLFLOW and row.urls), "")


def mlflow_url(view: Overview) -> str:
    """MLflow's page as a browser opens it, with the token where it asks for one; "" where it has no address."""
    url = _mlflow(view)
    token = f"?token={view.token}" if view.token else ""
    return f"{url}/{token}{urls.TRAINING_PAGE}" if url else ""


def read(project: Project) -> Overview:
    """What is there now, of a project that may be down."""
    engine = select.current(project)
    return overview(engine, detail=True)


def condition(project: Project, view: Overview) -> str:
    """The whole of it in a word: ready, stopped (as after `down`), incomplete, or not made yet."""
    if view.stopped:
        return "stopped" if project.state.existed else "not made yet"
    return "ready" if view.ready else "incomplete"


def not_running(view: Overview) -> str:
    """What is not there to be checked, as in "is stopped"; "" where everything runs, well or not."""
    if view.stopped:
        return "is stopped"
    ended = [
        f"{row.status.name} ({row.status.state})"
        for row in view.rows
        if row.status.state in (State.MISSING, State.EXITED)
    ]
    return f"runs without {', '.join(ended)}" if ended else ""


def trouble(statuses: Iterable[ServiceStatus]) -> tuple[str, str]:
    """What does not run, or not yet, and the next step; ("", "") where all is well, or nothing is there."""
    listed = list(statuses)
    wrong = [status for status in listed if not status.up]
    if all(status.state is State.MISSING for status in listed) or not wrong:
        return "", ""
    detail = "; ".join(
        f"{status.name} is {status.state}" + (f" ({status.reason[:80]})" if status.reason else "") for status in wrong
    )
    waits = all(status.state is State.STARTING for status in wrong)
    them = "it" if len(wrong) == 1 else "them"
    what = f"start {them}, or wait for {them}" if waits else f"start {them} again"
    step = f"to {what}: {invocations.anywhere('up')}"
    logged = next((status.name for status in wrong if status.state is not State.MISSING), "")
    return detail, step + (f"; to see why: {invocations.anywhere(f'logs {logged}')}" if logged else "")


def environment(view: Overview) -> list[tuple[str, object]]:
    """Lines for a shell that wants to use the project."""
    lines: list[tuple[str, object]] = [("TRACKBED_SYSTEM_ENGINE", view.engine)]
    if view.settings.tracking_uri:
        lines.append(("MLFLOW_TRACKING_URI", view.settings.tracking_uri))
    for row in view.rows:
        if row.status.name == MLFLOW and row.urls:
            lines.append(("MLFLOW_TRACKING_URI", row.urls[0]))
            if view.token:
                lines.append(("MLFLOW_TRACKING_TOKEN", view.token))
        if row.status.name == JUPYTER and row.urls:
            lines.append(("JUPYTER_URL", row.urls[0]))
        if row.status.name == STORE and row.urls:
            lines.append(("MLFLOW_S3_ENDPOINT_URL", row.urls[0]))
    return lines


def running(project: Project) -> Engine:
    """The engine of a project that was started, for commands that need one."""
    if not project.state.existed or not project.state.engine:
        raise TrackbedError(f"project {project.settings.project} does not exist yet", "`invoke up` creates it")
    return select.current(project)


def elsewhere(engine: Engine) -> str:
    """What holds the data where this machine does not, in words; "" where it does."""
    return engine.host.name if engine.host.remote else "a cluster" if engine.in_cluster else ""


def workspace(engine: Engine) -> str:
    """The notebook's folder, and the machine it is on where that is another one."""
    where = f" on {engine.host.name}" if engine.host.remote else ""
    return f"{engine.deployment.workspace}{where}"


def tunnel(view: Overview) -> str:
    """The ssh line that makes the links work where the user sits; "" where they work already."""
    bound = view.settings.bind_address
    if view.node and view.ports:
        return addresses.ssh_line(view.ports, target=view.node, bound=bound)
    if addresses.is_remote_session() and view.ports and not view.is_public:
        return addresses.ssh_line(view.ports, view.settings.public_address, bound=bound)
    return ""


def rows(project: Project, view: Overview) -> list[tuple[str, str]]:
    """Labels and values of the box, the link to open first. It carries a token, except into systemd's journal."""
    engine = view.source
    result: list[tuple[str, str]] = []
    kept_out = bool(os.environ.get("JOURNAL_STREAM"))  # at boot: others may read the journal

    def link(label: str, url: str) -> None:
        result.append((label, url.partition("?")[0] if kept_out else url))

    with suppress(TrackbedError):  # the table above says why it is not up
        link("Open", first_link(project, engine, view))
        if view.is_public:  # everybody with a login sees that page, and the notebook's token is not theirs
            link("Notebook", notebook.url(engine, project.credentials()["JUPYTER_TOKEN"]))
    if view.settings.tracking_uri:
        link("MLflow", view.settings.tracking_uri)
    result.append(("Your files", workspace(engine)))
    if line := tunnel(view):
        result.append(("Keep open" if view.node else "On your computer", line))
    beside = view.settings.project if project.aside else ""
    result += [("Next", invocations.anywhere("check", beside)), ("To stop", invocations.anywhere("down", beside))]
    return result
