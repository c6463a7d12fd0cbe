"""What every start does, for those who hold the project's lock: validate, prepare, start, wait, prove."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from helpers import (
    bundles,
    durability,
    encrypted_rows,
    fast_path,
    gateway,
    kernels,
    ports,
    remote_server,
    rotation,
    start_page,
    status,
    workspace,
)
from helpers.checks import doctor, readiness
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import Interrupted, ServiceFailed, SettingError, TrackbedError, WrongProject
from helpers.gpu import node_types, verify
from helpers.leases import lease
from helpers.project import access, credentials, failed_start, remote_tracking, shell_environment
from helpers.project.project import Project
from helpers.services import MLFLOW, Notice, ProgressReporter, ServiceStatus, State
from helpers.settings import Settings, default_state_dir, generated, relevance


def _claim(project: Project, engine: Engine) -> None:
    """One clone at a time changes a running project: another one is told where it lives."""
    other = project.state.clone
    here = str(project.settings.clone)
    if not other or other == here or not Path(other, "tasks.py").exists():
        return
    if any(s.state is not State.MISSING for s in engine.services()):
        raise WrongProject(
            f"project {project.settings.project} runs from another clone, {other}",
            "work there, or `invoke down` first to move it here, or start a second project with "
            "--project=NAME and other ports",
        )


def check_early(settings: Settings) -> None:
    """Refuse what no machine could be, before anything is asked or made. Raises SettingError."""
    if kind := select.kind(settings.engine):
        gateway.check_settings(settings, kind)
        settings.check_store(kind.name, kind.stores)


def check(project: Project, engine: Engine, adopt: bool = False) -> None:
    """Refuse settings that contradict each other, the engine or the project's data. Raises TrackbedError."""
    settings = engine.settings
    gateway.check_settings(settings, engine, engine.host.url)
    relevance.check(engine)
    check_database(engine)
    if adopt and not engine.adopts:
        raise SettingError(
            f"--adopt has no effect on the {engine.name} engine: it takes over Docker's volumes, or a namespace of "
            "Kubernetes.",
            "leave it out; `invoke up --state-dir=FOLDER` names the folder that holds the data",
        )
    _check_lease(engine)
    if engine.deployment.notebook_only:
        remote_tracking.check_address(settings, engine.own_loopback)
        _check_no_server(engine)


def _check_lease(engine: Engine) -> None:
    """Refuse to ask this machine's cloud about another machine. Raises SettingError. A value from elsewhere than the
    command line may be meant for other projects too: `status` and `doctor` say so."""
    settings, where = engine.settings, status.elsewhere(engine)
    if where and settings.lease_end == lease.AUTO and settings.origin("LEASE_END").startswith("--"):
        raise SettingError(
            f"--lease-end=auto asks the cloud of this machine, and the services run on {where}.",
            "name the date, as in --lease-end=2026-11-28T18:00Z",
        )


def check_database(engine: Engine) -> None:
    """Refuse a PostgreSQL of the user's where none can be used, or without its password. Raises SettingError."""
    settings = engine.settings
    if not settings.database_host:
        return
    if not engine.in_cluster:
        raise SettingError(
            f"DATABASE_HOST={settings.database_host} (from {settings.origin('DATABASE_HOST')}): the {engine.name} "
            "engine has a PostgreSQL of its own beside the data, and takes no other.",
            "leave it out; or run in a cluster: --engine=kubernetes",
        )
    if not settings.postgres_password and not engine.deployment.notebook_only:
        raise SettingError(
            f"POSTGRES_PASSWORD is missing, that of role mlflow at DATABASE_HOST={settings.database_host}.",
            "put it into .env",
        )


def _check_no_server(engine: Engine) -> None:
    """A notebook for a remote tracking server is a project of its own: beside a server of ours it would hide that."""
    settings = engine.settings
    if any(item.what.startswith("database:") for item in engine.data()):
        raise WrongProject(
            f"project {settings.project} has a tracking server and data of its own, and TRACKING_URI "
            f"(from {settings.origin('TRACKING_URI')}) names another one",
            "start the notebook as a second project: --project=NAME with another --jupyter-port; or "
            "give this one up: `invoke down --delete-data`",
        )


def bring_up(
    project: Project,
    progress: ProgressReporter,
    notice: Notice,
    adopt: bool = False,
    consent: kernels.Consent | None = None,
    trial: workspace.Trial | None = None,
) -> tuple[status.Overview, Engine]:
    """What `up` does, for those who hold the project's lock. ``trial``: begun where nothing has to be started."""
    with failed_start.noted(project.settings):
        return _bring_up(project, progress, notice, adopt, consent, trial)


def _bring_up(
    project: Project,
    progress: ProgressReporter,
    notice: Notice,
    adopt: bool,
    consent: kernels.Consent | None,
    trial: workspace.Trial | None,
) -> tuple[status.Overview, Engine]:
    gateway.resolve_address(project, notice)
    if project.state.existed:
        project.credentials()  # before any engine reads them: only the first look sees what the user has changed
    choice = select.choose(project)
    engine = choice.engine
    check(project, engine, adopt)
    _claim(project, engine)
    if line := shell_environment.differ(project.state):
        notice(line)
    known = dict(project.state.access), project.state.person
    project.state.person = project.state.person or access.person()
    access_line = access.decide(project, engine.neighbours)
    if project.state.existed and (statuses := engine.unchanged()):
        # one that ended while it was looked at, as a command that was killed had told it to, is started
        with suppress(ServiceFailed):
            if project.bundle:
                notice(f"nothing has to be made, so {project.bundle.name} is not read")
            if trial:
                trial.begin(engine)
            return _look(project, engine, statuses, progress, notice, known), engine
        if trial:
            trial.forget()
    with bundles.given(project.bundle) as bundle:  # nobody is asked, and nothing changes, for a file that is not there
        engine, chosen = _prepare(project, choice, bundle, progress, notice, adopt, consent)
    for remark in (*engine.remarks(), *filter(None, [access_line, durability.promise(engine)])):
        notice(remark)
    return _start_or_forget(project, engine, chosen, progress, notice), engine


def _look(
    project: Project,
    engine: Engine,
    statuses: tuple[ServiceStatus, ...],
    progress: ProgressReporter,
    notice: Notice,
    known: tuple[dict[str, str], str],
) -> status.Overview:
    """Nothing has changed: see that it answers. ``known``: the access and the person as they were remembered."""
    settings = engine.settings
    seen = readiness.wait(engine, _names(engine), settings.ready_timeout, progress, changed=False, known=statuses)
    if not project.aside:  # another project's `up` may have been the last one in this clone
        leave_in_clone(engine, settings, notice)
    for line in engine.network_guard():
        notice(line)
    before = dict(project.state.remembered), project.state.applied
    project.state.remember(settings.explicit)
    start_page.publish(project, engine)
    after = project.state.remembered, project.state.applied
    if after != before or (project.state.access, project.state.person) != known:
        project.state.save()
    return status.overview(engine, statuses=seen)


def _prepare(
    project: Project,
    choice: select.Choice,
    bundle: bundles.Bundle | None,
    progress: ProgressReporter,
    notice: Notice,
    adopt: bool,
    consent: kernels.Consent | None,
) -> tuple[Engine, dict[str, str]]:
    """Ports, data to take over, checks, images or venvs; gives the engine as it will start, and the ports chosen."""
    engine = choice.engine
    chosen = _choose_ports(project, engine, notice)
    if choice.notice:
        notice(choice.notice)
    begin_below_own_prefix(project, engine.settings)
    if adopt and engine.adopt():
        engine = select.choose(project).engine  # its store is the one that holds the data
    engine.check_foreign()
    doctor.preflight(engine, engine.settings)  # here at the latest the plan is made, which a wrong --gpu ends
    if warning := engine.disk_warning():
        notice(warning)
    kernels.before_a_restart(project, engine, notice, consent)
    if bundle and project.bundle:
        bundles.admit(bundle, project.bundle.name, progress, notice)
        engine.take_bundle(bundle, progress)
    engine.prepare(progress)
    return engine, chosen


def _start_or_forget(
    project: Project, engine: Engine, chosen: dict[str, str], progress: ProgressReporter, notice: Notice
) -> status.Overview:
    """Start, and remember what was asked for; forget it when the start fails."""
    # from here on the choice of the engine is kept: what follows carries this instance's id and will hold data
    project.state.engine, project.state.clone = engine.name, str(engine.settings.clone)
    project.state.node = engine.host.url
    project.state.active["store"] = engine.object_store
    # the ports stay: what is up already has them
    before, around = {**project.state.remembered, **chosen}, project.state.surroundings
    project.state.remember({**chosen, **engine.settings.explicit})
    project.state.applied = {**project.state.applied, "hash": "", "identities": {}}
    project.state.surroundings = shell_environment.applied(project.state)
    project.state.save()
    try:
        return _start(project, engine, progress, notice)
    except (TrackbedError, OSError) as error:
        if not isinstance(error, Interrupted):  # after Ctrl-C the next `up` goes on with the same
            project.state.surroundings = around
            _forget(project, before, notice)
        raise


def _forget(project: Project, before: dict[str, str], notice: Notice) -> None:
    """What a start that failed was told is not the next one's."""
    given = sorted(
        name
        for name in {**before, **project.state.remembered}
        if before.get(name) != project.state.remembered.get(name)
    )
    project.state.remembered = before
    project.state.save()
    if given:
        notice(f"not remembered, because this start failed: {', '.join(given)}")


def _start(project: Project, engine: Engine, progress: ProgressReporter, notice: Notice) -> status.Overview:
    """The part of `up` that changes what runs."""
    settings = engine.settings
    if not project.aside:
        leave_in_clone(engine, settings, notice)
    guarded = engine.network_guard()
    root = gateway.root_path(settings)
    trusted = gateway.fingerprint(root) if engine.deployment.is_public and root.exists() else ""
    page = start_page.attach(project, engine)
    watch = rotation.Watch(engine, project.replaced or project.credentials().replaced)
    report = engine.start(progress)
    for line in engine.network_guard() or guarded:
        notice(line)
    progress.step("waiting until everything is usable")
    statuses = readiness.wait(engine, _names(engine), settings.ready_timeout, progress, changed=bool(report.changed))
    if line := gateway.renewed(settings, trusted):
        notice(line)
    if MLFLOW in report.changed:
        if not report.new_database and (line := encrypted_rows.undecryptable(encrypted_rows.sealed(engine))):
            notice(line)
        credentials.forget_former(settings)  # the server has encrypted what they opened with the new keys
    proofs = watch.prove(project.credentials())
    if report.changed and engine.accelerator.kind != node_types.NONE:
        verify.verify(engine, progress)
    seen = status.overview(engine, report.changed, statuses=statuses)
    project.state.applied = {
        "hash": engine.fingerprint(),
        "identities": {row.status.name: row.status.identity for row in seen.rows},
        "workspace": str(engine.deployment.workspace),
        "fast_path": fast_path.note(engine, statuses),
        start_page.APPLIED: page,
    }
    start_page.publish(project, engine)
    project.state.save()
    for proof in proofs:
        notice(f"{proof.name} was replaced: {proof.detail}")
    rotation.require(proofs)
    return seen


def begin_below_own_prefix(project: Project, settings: Settings) -> None:
    """The bucket of an external store may be other projects' too; what one of them restores or removes is its own."""
    if not project.state.existed and settings.object_store == "external":
        project.state.active["prefix"] = f"live-{project.state.instance[:12]}"


def _choose_ports(project: Project, engine: Engine, notice: Notice) -> dict[str, str]:
    """The next free ports where somebody else has the defaults; gives those settings. A gateway's stay: they are what
    others were told."""
    statuses = engine.services()
    if engine.deployment.is_public or any(s.state is not State.MISSING for s in statuses):
        return {}
    planned = [(spec.name, port) for spec in engine.plan().services for port in spec.ports]
    chosen, line = ports.free_instead(project.settings, planned, statuses, engine.host)
    if chosen:
        notice(line)
        # over all places: an empty value in one of them, which means the default, hides what is remembered
        fields = {name.lower(): value for name, value in chosen.items()}
        project.settings = project.settings.reload(project.state.remembered, **fields)
        engine.plan_anew()
    return chosen


def _names(engine: Engine) -> tuple[str, ...]:
    server = (remote_server.NAME,) if engine.deployment.notebook_only else ()
    return (*engine.deployment.services, *server)


def leave_in_clone(engine: Engine, settings: Settings, notice: Notice) -> None:
    """What a bare `docker compose` in the clone needs, and where the state is."""
    left = dict(engine.variables_by_hand())
    if not left and settings.project != "trackbed":
        left["COMPOSE_PROJECT_NAME"] = settings.project
    if settings.state_dir != default_state_dir():
        left["TRACKBED_STATE_DIR"] = str(settings.state_dir)
    for line in generated.write(settings.env_file, left):
        notice(line)
