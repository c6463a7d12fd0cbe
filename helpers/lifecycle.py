"""What the tasks do, one function each: load, up, down, status, by-hand preparation. No printing, no Invoke."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from helpers import (
    boot,
    clone,
    doctor,
    durability,
    encrypted_rows,
    gateway,
    kernels,
    ports,
    readiness,
    remote_server,
    rotation,
    services,
    urls,
)
from helpers import workspace as workspace_files
from helpers.backups import journal, moving
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import Interrupted, SettingError, TrackbedError
from helpers.gpu import node_types, verify
from helpers.project import access, credentials, failed_start, remote_tracking, state, surroundings, users
from helpers.project.project import Project
from helpers.services import JUPYTER, MLFLOW, STORE, DataItem, PartStatus, Sink, State
from helpers.settings import BY_NAME, Settings, default_state_dir, generated, relevance

Notice = Callable[[str], None]
ALMOST_FULL = 2 << 30  # bytes


@dataclass(frozen=True)
class Row:
    """A line of the status table. ``memory`` in bytes, 0 unknown."""

    status: PartStatus
    title: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """What ``up`` and ``status`` tell about a system."""

    engine: str
    settings: Settings
    rows: tuple[Row, ...]
    changed: tuple[str, ...] = ()
    node: str = ""  # another machine that runs the parts, as `ssh` takes it
    token: str = field(default="", repr=False)  # what MLflow asks for
    workspace: Path | None = None  # on the machine that runs the services

    @property
    def stopped(self) -> bool:
        """Whether nothing of it is there, as after `down`."""
        return all(row.status.state is State.MISSING for row in self.rows)

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(p.published for row in self.rows for p in row.status.ports if p.published))


def load(flags: Mapping[str, str | None]) -> Project:
    """The system that flags, environment, .env and its own memory describe. Starts nothing."""
    settings = Settings.load(flags, os.environ, clone.ROOT / ".env", state.remembered)
    return Project(settings, state.State.load(settings.folder))


def last_tried(flags: Mapping[str, str | None]) -> tuple[Project, tuple[str, ...]]:
    """The system as the last start was told to make it, and the flags that count because it failed."""
    system = load(flags)
    given = {*system.settings.told, *(name.upper() for name, value in flags.items() if value is not None)}
    more = {name: value for name, value in failed_start.told(system.settings.folder).items() if name not in given}
    if more:
        with suppress(TrackbedError):  # this version may take them no more
            return load({**flags, **more}), tuple(sorted(BY_NAME[name].option for name in more))  # values may be secret
    return system, ()


@contextmanager
def changing(system: Project, notice: Notice) -> Iterator[None]:
    """Hold the project's lock and see its state as the last holder left it."""
    with state.lock(system.settings.folder / state.LOCK, on_wait=notice):
        fresh = state.State.load(system.settings.folder)
        system.state = fresh
        yield


def _claim(system: Project, engine: Engine) -> None:
    """One clone at a time changes a running system: another one is told where it lives."""
    other = system.state.clone
    here = str(system.settings.clone)
    if not other or other == here or not Path(other, "tasks.py").exists():
        return
    if any(s.state is not State.MISSING for s in engine.parts()):
        raise TrackbedError(
            f"project {system.settings.project} runs from another clone, {other}",
            "work there, or `invoke down` first to move it here, or start a second system with "
            "--project=NAME and other ports",
        )


def up(
    system: Project, sink: Sink, notice: Notice, adopt: bool = False, consent: kernels.Consent | None = None
) -> Overview:
    """Bring everything up and return when it is usable; a no-op that only looks when nothing changed.

    ``consent``: asked before kernels that run are ended; None: that is only said.
    """
    if kind := select.kind(system.settings.engine):  # what cannot be is refused before anything is made
        gateway.check_settings(system.settings, kind)
        system.settings.check_store(kind.name, kind.stores)
    with changing(system, notice), failed_start.noted(system.settings):
        moving.settle(system, sink)
        seen, engine = bring_up(system, sink, notice, adopt, consent)
        journal.settle(system.state, engine, sink)
        for line in workspace_files.require(engine):
            notice(line)
        if warning := low_disk(engine):
            notice(warning)
        return seen


def bring_up(
    system: Project, sink: Sink, notice: Notice, adopt: bool = False, consent: kernels.Consent | None = None
) -> tuple[Overview, Engine]:
    """What `up` does, for those who hold the project's lock."""
    found = _bring_up(system, sink, notice, adopt, consent)
    failed_start.forget(system.settings.folder)
    return found


def _bring_up(
    system: Project, sink: Sink, notice: Notice, adopt: bool, consent: kernels.Consent | None
) -> tuple[Overview, Engine]:
    gateway.settle_address(system, notice)
    if system.state.existed:
        system.credentials()  # before any engine reads them: only the first look sees what the user has changed
    choice = select.choose(system)
    engine = choice.engine
    settings = engine.settings
    gateway.check_settings(settings, engine, engine.host.url)
    relevance.check(engine)
    if adopt and not engine.adopts:
        raise SettingError(
            f"--adopt has no effect on the {engine.name} engine: it takes over Docker's volumes.",
            "leave it out; `invoke up --state-dir=FOLDER` names the folder that holds the data",
        )
    _claim(system, engine)
    if line := surroundings.differ(system.state):
        notice(line)
    known = dict(system.state.access), system.state.person
    system.state.person = system.state.person or access.person()
    access_line = access.decide(system, engine.host.url)
    if system.state.existed and engine.unchanged():
        readiness.wait(engine, _names(engine), settings.ready_timeout, sink, changed=False)
        if not system.aside:  # another project's `up` may have been the last one in this clone
            _leave_in_clone(engine, settings, notice)
        for line in engine.network_guard():
            notice(line)
        kept = {**system.state.remembered, **settings.told}
        if system.state.remembered != kept or (system.state.access, system.state.person) != known:
            system.state.remembered = {name: value for name, value in kept.items() if value}
            system.state.save()
        return overview(engine, settings), engine
    if chosen := _choose_ports(system, engine, notice):
        engine = select.choose(system).engine
        settings = engine.settings
    if choice.notice:
        notice(choice.notice)
    _begin_below_own_prefix(system, settings)
    if adopt and engine.adopt():
        engine = select.choose(system).engine  # its store is the one that holds the data
        settings = engine.settings
    engine.check_foreign()
    _check_server(system, engine)
    doctor.preflight(engine, settings)  # asks for the plan: a GPU word that contradicts the machine ends here
    if warning := engine.disk_warning():
        notice(warning)
    kernels.before_a_restart(system, engine, notice, consent)
    engine.prepare(sink)
    for remark in (*engine.remarks(), *filter(None, [access_line, durability.promise(engine)])):
        notice(remark)
    # from here on the choice of the engine is kept: what follows carries this instance's id and will hold data
    system.state.engine, system.state.clone = engine.name, str(settings.clone)
    system.state.node = engine.host.url
    system.state.live["store"] = engine.object_store
    # the ports stay: what is up already has them
    before, around = {**system.state.remembered, **chosen}, system.state.surroundings
    system.state.remember({**chosen, **settings.told})
    system.state.applied = {**system.state.applied, "hash": "", "identities": {}}
    system.state.surroundings = surroundings.kept(system.state)
    system.state.save()
    try:
        return _start(system, engine, sink, notice), engine
    except (TrackbedError, OSError) as error:
        if not isinstance(error, Interrupted):  # after Ctrl-C the next `up` goes on with the same
            system.state.surroundings = around
            _forget(system, before, notice)
        raise


def _forget(system: Project, before: dict[str, str], notice: Notice) -> None:
    """What a start that failed was told is not the next one's."""
    told = sorted(
        name for name in {**before, **system.state.remembered} if before.get(name) != system.state.remembered.get(name)
    )
    system.state.remembered = before
    system.state.save()
    if told:
        notice(f"not remembered, because this start failed: {', '.join(told)}")


def _start(system: Project, engine: Engine, sink: Sink, notice: Notice) -> Overview:
    """The part of `up` that changes what runs."""
    settings = engine.settings
    if not system.aside:
        _leave_in_clone(engine, settings, notice)
    guarded = engine.network_guard()
    root = gateway.root_path(settings)
    trusted = gateway.fingerprint(root) if settings.public and root.exists() else ""
    watch = rotation.Watch(engine, system.replaced or system.credentials().replaced)
    report = engine.start(sink)
    for line in engine.network_guard() or guarded:
        notice(line)
    sink.step("waiting until everything is usable")
    readiness.wait(engine, _names(engine), settings.ready_timeout, sink, changed=bool(report.changed))
    if line := gateway.renewed(settings, trusted):
        notice(line)
    if MLFLOW in report.changed:
        if line := encrypted_rows.lost(encrypted_rows.sealed(engine)):
            notice(line)
        credentials.forget_former(settings)  # the server has encrypted anew what they opened
    proofs = watch.prove(system.credentials())
    if report.changed and engine.accelerator.kind != node_types.NONE:
        verify.verify(engine, sink)
    seen = overview(engine, settings, report.changed)
    system.state.applied = {
        "hash": engine.fingerprint(),
        "identities": {row.status.name: row.status.identity for row in seen.rows},
        "notebook": kernels.made_from(system, engine),
    }
    system.state.save()
    for proof in proofs:
        notice(f"{proof.name} was replaced: {proof.detail}")
    rotation.require(proofs)
    return seen


def _begin_below_own_prefix(system: Project, settings: Settings) -> None:
    """The bucket of an external store may be other systems' too; what one of them restores or removes is its own."""
    if not system.state.existed and settings.object_store == "external":
        system.state.live["prefix"] = f"live-{system.state.instance[:12]}"


def _check_server(system: Project, engine: Engine) -> None:
    """A notebook for a remote tracking server is a project of its own: beside ours it would hide that one."""
    settings = engine.settings
    if not settings.tracking_uri:
        return
    remote_tracking.check_address(settings, engine.own_loopback)
    if any(item.what.startswith("database:") for item in engine.data()):
        raise TrackbedError(
            f"project {settings.project} has a tracking server and data of its own, and TRACKING_URI "
            f"(from {settings.origin('TRACKING_URI')}) names another one",
            "start the notebook as a second system: --project=NAME with another --jupyter-port; or "
            "give this one up: `invoke down --delete-data`",
        )


def _choose_ports(system: Project, engine: Engine, notice: Notice) -> dict[str, str]:
    """The next free ports where somebody else has the defaults; gives those settings. A gateway's stay: they are what
    others were told."""
    statuses = engine.parts()
    if engine.settings.public or any(s.state is not State.MISSING for s in statuses):
        return {}
    planned = [(spec.name, port) for spec in engine.plan().parts for port in spec.ports]
    chosen, line = ports.free_instead(system.settings, planned, statuses, engine.host)
    if chosen:
        notice(line)
        system.settings = system.settings.again({**system.state.remembered, **chosen})
    return chosen


def _names(engine: Engine) -> tuple[str, ...]:
    server = (remote_server.NAME,) if engine.settings.tracking_uri else ()
    return (*(s.name for s in engine.parts()), *server)


def _leave_in_clone(engine: Engine, settings: Settings, notice: Notice) -> None:
    """What a bare `docker compose` in the clone needs, and where the state is."""
    left = dict(engine.variables_by_hand())
    if not left and settings.project != "trackbed":
        left["COMPOSE_PROJECT_NAME"] = settings.project
    if settings.state_dir != default_state_dir():
        left["TRACKBED_STATE_DIR"] = str(settings.state_dir)
    for line in generated.write(settings.env_file, left):
        notice(line)


def initialise(system: Project, sink: Sink, notice: Notice) -> Engine:
    """Everything but the start, for those who use Compose by hand: images, volumes, secrets, compose.yaml."""
    with changing(system, notice):
        engine = select.choose(system).engine
        if not engine.by_hand:
            raise TrackbedError(
                f"credentials.init prepares a system for `docker compose`; this one is {engine.name}",
                "`invoke up` makes what it needs by itself",
            )
        if engine.settings.tracking_uri:
            raise TrackbedError(
                "credentials.init prepares services for `docker compose`; with TRACKING_URI there are none",
                "`invoke up` starts the notebook",
            )
        engine.check_foreign()
        _begin_below_own_prefix(system, engine.settings)
        system.state.engine, system.state.clone = engine.name, str(system.settings.clone)
        system.state.node = engine.host.url
        system.state.remember(system.settings.told)
        system.state.save()
        engine.prepare(sink)
        engine.make_volumes()
        _leave_in_clone(engine, engine.settings, notice)
        return engine


def rotate(system: Project, sink: Sink, notice: Notice) -> tuple[Overview, tuple[str, ...]]:
    """New secrets on a running system, all data kept. Gives what runs, and the names of those that the user gave.

    Each is tried, and its old value too. Raises TrackbedError when an old one still opens. Interrupted, the next ``up``
    takes the new ones over.
    """
    with changing(system, notice):
        running(system)
        notice("JupyterLab restarts: running kernels end")
        replaced, kept = credentials.renew(system.settings)
        fresh = Project(system.settings, system.state, replaced=replaced)  # reads them again
        return bring_up(fresh, sink, notice)[0], kept


def down(system: Project, sink: Sink, notice: Notice) -> tuple[str, ...]:
    """Stop the parts, the notebook first; data stay. Gives what was stopped."""
    if not system.state.existed:
        return ()
    with changing(system, notice):
        engine = select.current(system)
        stopped = engine.stop(sink)
        system.state.clone = ""
        system.state.applied = {"hash": "", "identities": {}}
        system.state.surroundings = None
        system.state.save()
        return stopped


def busy(system: Project) -> str:
    """What computes in JupyterLab now, by name; "" where nothing does."""
    if not system.state.existed or not system.state.engine:
        return ""
    try:
        works = kernels.running(select.current(system), system.credentials()["JUPYTER_TOKEN"])
    except TrackbedError:
        return ""  # it has to be stopped all the same
    return kernels.names(work for work in works if work.busy)


def data(system: Project) -> tuple[DataItem, ...]:
    """What ``delete_data`` would delete."""
    return select.current(system).data() if system.state.existed else ()


def workspace(system: Project) -> str:
    """The notebook's folder, and the machine it is on where that is another one."""
    engine = select.current(system)
    where = f" on {engine.host.name}" if engine.host.remote else ""
    return f"{engine.deployment.workspace}{where}"


def delete_data(system: Project, sink: Sink, notice: Notice) -> None:
    """Delete the data of a stopped system, its secrets and its memory. The workspace stays: it is the user's."""
    with changing(system, notice):
        select.current(system).remove_data(sink)
        boot.remove(system.settings)
        credentials.forget(system.settings)
        users.forget(system.settings)
        gateway.root_path(system.settings).unlink(missing_ok=True)
        moving.done(system)
        for name in (journal.FILE, journal.KEPT, failed_start.FILE, state.FILE):
            (system.settings.folder / name).unlink(missing_ok=True)


def overview(engine: Engine, settings: Settings, changed: tuple[str, ...] = (), detail: bool = False) -> Overview:
    """The state of every part with the URLs a browser can use."""
    host = urls.local_host(settings)
    rows = []
    for status in engine.parts(detail):
        links = tuple(
            f"http://{host}:{p.published}" + ("/lab" if status.name == JUPYTER else "")
            for p in sorted(status.ports, key=lambda p: p.target)
            if p.published
        )
        if settings.public:
            links = _public_urls(settings, engine, status)
        title = services.TITLES[status.name]
        if status.name == STORE:
            title = {"minio": "MinIO (Silo)", "versitygw": "VersityGW"}.get(engine.object_store, title)
        rows.append(Row(status, title, links))
    token = "" if settings.public else engine.access_token()  # people have a login there, the gateway the token
    return Overview(engine.name, settings, tuple(rows), changed, engine.host.tunnel, token, engine.deployment.workspace)


def _public_urls(settings: Settings, engine: Engine, status: PartStatus) -> tuple[str, ...]:
    """The addresses of a part behind the gateway; the gateway's own row has none."""
    console = engine.console_is_public
    if status.name not in (MLFLOW, JUPYTER, *((STORE,) if console else ())) or not status.up:
        return ()
    links = [urls.public_url(settings, status.name) + ("/lab" if status.name == JUPYTER else "")]
    if status.name == STORE and settings.public_s3:
        links.insert(0, f"https://{urls.public_name(settings)}:{settings.s3_port}")
    return tuple(links)


def change_users(system: Project, notice: Notice, change: Callable[[], str]) -> str:
    """Change the users and hand them to a gateway that runs; effective within a second. Gives what ``change`` gives."""
    with changing(system, notice):
        made = change()
        if system.state.engine and system.settings.public:
            select.current(system).put_users()
        return made


def mlflow_url(view: Overview) -> str:
    """MLflow's page as a browser opens it, with the token where it asks for one; "" where it has no address."""
    url = next((row.urls[0] for row in view.rows if row.status.name == MLFLOW and row.urls), "")
    token = f"?token={view.token}" if view.token else ""
    return f"{url}/{token}{urls.TRAINING_PAGE}" if url else ""


def status(system: Project) -> Overview:
    """What is there now, of a system that may be down."""
    engine = select.current(system)
    return overview(engine, engine.settings, detail=True)


def condition(system: Project, view: Overview) -> str:
    """The whole of it in a word: ready, stopped (as after `down`), incomplete, or not made yet."""
    if view.stopped:
        return "stopped" if system.state.existed else "not made yet"
    return "ready" if all(row.status.up for row in view.rows) else "incomplete"


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


def running(system: Project) -> Engine:
    """The engine of a system that was started, for commands that need one."""
    if not system.state.existed or not system.state.engine:
        raise TrackbedError(f"project {system.settings.project} does not exist yet", "`invoke up` creates it")
    return select.current(system)


def environment(view: Overview) -> list[tuple[str, object]]:
    """Lines for a shell that wants to use the system."""
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


def durable(engine: Engine) -> list[str]:
    """What there is to say about the artifacts and a power cut."""
    return durability.lines(engine)


def low_disk(engine: Engine) -> str:
    """A warning when the disk that holds the data is almost full; "" when it is not."""
    facts = engine.host_facts()
    if facts.disk_free >= ALMOST_FULL:
        return ""
    return (
        f"warning: only {facts.disk_free / 2**30:.1f} GiB are free at {facts.disk_path}; when it is full, logging "
        "fails with an error until you free some (`invoke usage`, `invoke gc`)"
    )
