"""Looking before anything is started: checks with findings and fixes. ``preflight`` is the part that stops ``up``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from helpers import addresses, database_pages, durability, fast_path, ports, side_by_side
from helpers import workspace as workspace_files
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.engines.host import LOCAL, Host, HostFacts
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.gpu import node_types
from helpers.leases import lease
from helpers.machine import existing
from helpers.project import access, backup_schedule, mlflow_jobs, workspace_folder
from helpers.project.project import OPEN, Project
from helpers.services import JUPYTER, MLFLOW, POSTGRES, Port, ServiceStatus, State
from helpers.settings import BY_NAME, Settings, relevance
from helpers.status import elsewhere, trouble

GIB = 1 << 30
DISK_LEAST = GIB // 2
MEMORY_NEEDED = 3 * GIB


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def check_ports(
    settings: Settings,
    planned: Iterable[tuple[str, Port]],
    statuses: Iterable[ServiceStatus],
    owners: Mapping[int, str] | None = None,
    host: Host | None = None,
) -> list[Finding]:
    """Every port the services publish: free, ours, or taken by whom. ``owners`` knows containers by port."""
    host = host or LOCAL
    ours = {p.published for s in statuses for p in s.ports}  # at any address: PUBLIC moves them
    listed = list(planned)
    taken = ports.of(settings) | {p.published for _, p in listed}
    result = []
    for service, port in listed:
        if not port.published or port.published in ours or host.is_free(port.address, port.published):
            continue
        setting = ports.SETTINGS.get(f"{service}:{port.name}", "")
        who = (owners or {}).get(port.published) or host.holder(port.published)
        free = addresses.next_free(port.address, port.published + 1, taken, host.is_free)
        taken.add(free)
        result.append(
            Finding(
                Level.ERROR,
                "ports",
                f"port {port.published} ({setting}) is taken by {who}",
                f"stop it, or choose another: {BY_NAME[setting].given(str(free))}",
            )
        )
    return result


def _all_ports(engine: Engine, statuses: Iterable[ServiceStatus]) -> list[Finding]:
    planned = [(spec.name, port) for spec in engine.plan().services for port in spec.ports]
    result = check_ports(engine.settings, planned, statuses, engine.port_owners(), engine.host)
    return [*result, *check_privileged(planned, engine.lowest_port())]


def check_privileged(planned: Iterable[tuple[str, Port]], lowest: int) -> list[Finding]:
    """Ports below ``lowest``, that only root may listen on, which no service is."""
    listed = [(port, ports.SETTINGS.get(f"{service}:{port.name}", "")) for service, port in planned]
    return [
        Finding(
            Level.ERROR,
            "ports",
            f"port {port.published} ({setting}) is below {lowest}: only root may listen "
            "there, and no service runs as root",
            "choose another: " + BY_NAME[setting].given(str(addresses.next_free(port.address, max(lowest, 8000)))),
        )
        for port, setting in listed
        if 0 < port.published < lowest
    ]


def check_disk(engine: Engine, facts: HostFacts, fresh: bool) -> Finding:
    """Free space where the services keep their data."""
    if not facts.knows_disk:
        return Finding(Level.OK, "disk", f"nobody can tell yet how much is free at {facts.disk_path}")
    text = f"{_size(facts.disk_free)} free at {facts.disk_path}"
    if fresh and facts.disk_free < engine.disk_needed:
        return Finding(
            Level.ERROR,
            "disk",
            f"{text}; a first start needs {_size(engine.disk_needed)}",
            f"free some, or {engine.larger_disk}",
        )
    if facts.disk_free < DISK_LEAST:
        return Finding(Level.ERROR, "disk", text, "free some disk: PostgreSQL stops when it is full")
    return Finding(Level.OK, "disk", text)


def preflight(engine: Engine, settings: Settings) -> None:
    """What would make ``up`` fail half-way, found before it touches anything. Raises TrackbedError."""
    statuses = engine.services()
    findings = _all_ports(engine, statuses)
    fresh = not engine.data()
    findings.append(check_disk(engine, engine.host_facts(), fresh))
    findings += engine.checks.programs()
    problem, fix = engine.workspace_problem()
    if problem:
        findings.append(Finding(Level.ERROR, "permissions", problem, fix))
    wrong = [f for f in findings if f.level is Level.ERROR]
    if wrong:
        raise TrackbedError("; ".join(f.detail for f in wrong), "; ".join(f.fix for f in wrong))


def _check_platform() -> list[Finding]:
    result = []
    if sys.platform.startswith("win"):
        result.append(Finding(Level.ERROR, "platform", "Windows", "use WSL2"))
    elif platform.machine() not in ("x86_64", "AMD64"):
        result.append(
            Finding(
                Level.WARNING,
                "platform",
                f"{platform.system()} {platform.machine()}",
                "expected to work, but not tested",
            )
        )
    else:
        result.append(
            Finding(
                Level.OK, "platform", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
            )
        )
    return result


def _check_memory(facts: HostFacts) -> Finding:
    text = f"{_size(facts.memory_available)} of {_size(facts.memory)} available"
    if facts.memory and facts.memory_available < MEMORY_NEEDED:
        return Finding(
            Level.WARNING, "memory", text, f"the services need {_size(MEMORY_NEEDED)}; MLFLOW_WORKERS=1 needs less"
        )
    return Finding(Level.OK, "memory", text)


def _check_gpu(engine: Engine) -> Finding:
    """What --gpu means here, and what the engine lacks to hand it over."""
    try:
        chosen = engine.accelerator
    except TrackbedError as error:
        return Finding(Level.ERROR, "gpu", error.message, error.hint)
    text = f"{chosen} ({chosen.reason})"
    if chosen.warning:
        return Finding(
            Level.WARNING,
            "gpu",
            f"the notebook gets none: {chosen.warning}",
            chosen.fix or "load or install the driver, then type `invoke up` again",
        )
    if missing := engine.checks.gpu():
        return missing[0]
    return Finding(Level.OK, "gpu", text + (f"; PyTorch for {chosen.torch_reason}" if chosen.torch_reason else ""))


def _check_pages(project: Project, engine: Engine, statuses: Iterable[ServiceStatus]) -> list[Finding]:
    """Damaged pages of a database that runs; nothing for one that does not."""
    if not any(s.name == POSTGRES and s.state is State.READY for s in statuses):
        return []
    try:
        pages_found = database_pages.look(engine, project.state.active["database"])
    except TrackbedError as error:
        return [Finding(Level.ERROR, "database", error.message, error.hint)]
    if pages_found.ok:
        return [Finding(Level.OK, "database", str(pages_found))]
    return [
        Finding(Level.ERROR if pages_found.damaged else Level.WARNING, "database", str(pages_found), pages_found.fix)
    ]


def _check_artifacts(engine: Engine) -> list[Finding]:
    """What the store promises, and what a look after an unclean stop found."""
    result = []
    if (looked := durability.look_back(engine)) and looked.ok:
        result.append(Finding(Level.OK, "artifacts", str(looked)))
    elif looked:
        result.append(
            Finding(
                Level.WARNING,
                "artifacts",
                f"{looked}: {', '.join(looked.names)}",
                "log them again, or take them from a backup: `invoke restore FILE`",
            )
        )
    if text := durability.promise(engine):
        result.append(Finding(Level.OK, "artifacts", text))
    return result


def _check_permissions(
    project: Project, engine: Engine | None = None, statuses: Iterable[ServiceStatus] = ()
) -> Finding:
    """``engine``: None where none can be used. The running notebook can tell of its own folder alone."""
    settings = engine.settings if engine else project.settings
    workspace = engine.deployment.workspace if engine else settings.workspace
    folders = [(settings.folder, "STATE_DIR"), (workspace, "WORKSPACE")]
    host = engine.host if engine else LOCAL
    for path, name in folders[:1] if host.remote else folders:
        ancestor = existing(path)
        if not os.access(ancestor, os.W_OK | os.X_OK):
            if engine and name == "WORKSPACE" and (problem := engine.workspace_problem())[0]:
                return Finding(Level.ERROR, "permissions", *problem)  # it says why, as far as it knows
            return Finding(
                Level.ERROR,
                "permissions",
                f"{ancestor} is not writable ({name}={path})",
                f"chown it, or set {name} to a folder of yours",
            )
    if engine and (forbidden := engine.checks.programs()):
        return forbidden[0]
    try:
        mounted = project.state.applied.get("workspace", str(workspace)) == str(workspace)
        if engine and mounted and any(s.name == JUPYTER and s.up for s in statuses):
            result = workspace_files.attempt(engine)
            if result.problem:
                return Finding(Level.ERROR, "permissions", result.problem, result.fix)
            if result.warning:
                return Finding(Level.WARNING, "permissions", result.warning, f"if it should: {result.fix}")
        elif engine and (problem := engine.workspace_problem())[0]:
            return Finding(Level.ERROR, "permissions", *problem)
    except TrackbedError as error:
        return Finding(Level.ERROR, "permissions", error.message, error.hint)
    where = f" on {host.name}" if host.remote else ""
    owner = engine.deployment.owner if engine else workspace_folder.owner(workspace)
    who = f"uid {owner}" if owner >= 0 else "an account of its own"
    return Finding(Level.OK, "permissions", f"the notebook writes to {workspace}{where} as {who}")


def _check_access(project: Project, engine: Engine) -> Finding:
    """Whether other accounts of the machine can use MLflow."""
    settings = engine.settings
    accounts = access.other_accounts(access.own_accounts(project), settings.folder)
    if engine.deployment.is_public or engine.deployment.notebook_only:
        return Finding(Level.OK, "local access", "MLflow is behind a login")
    more = "s" if len(accounts) > 1 else ""
    detail = (
        f"{len(accounts)} other account{more} on this machine"
        if accounts
        else "no other person has an account on this machine"
    )
    if project.asks:
        return Finding(Level.OK, "local access", f"MLflow asks for its token; {detail}")
    if accounts and project.state.engine:
        more = " --local-access=token" if settings.local_access == OPEN else ""
        return Finding(
            Level.WARNING, "local access", f"MLflow is open to {detail}", f"`invoke up{more}` makes it ask for a token"
        )
    if accounts:
        will = "MLflow will be open to" if settings.local_access == OPEN else "MLflow will ask for its token;"
        detail = f"{will} {detail}"
    return Finding(Level.OK, "local access", detail)


def _check_settings(engine: Engine) -> list[Finding]:
    """Values from elsewhere than the command line that do nothing here: they may be meant for the other engine."""
    try:
        gpu = engine.accelerator.kind != node_types.NONE
    except TrackbedError:
        gpu = True  # another finding says what is wrong about it
    return [
        Finding(Level.OK, "settings", f"no effect {why}: {', '.join(sorted(names))}")
        for why, names in relevance.idle(engine, gpu).items()
    ]


def examine(project: Project) -> list[Finding]:
    """Everything, for `invoke doctor`; nothing is changed. Never raises for what it finds."""
    settings = project.settings
    result = _check_platform()
    result += select.presence(project)
    try:
        choice = select.choose(project)
    except TrackbedError as error:
        if not any(f.level is Level.ERROR for f in result):
            result.append(Finding(Level.ERROR, "engine", error.message, error.hint))
        leases = lease.findings(settings, project.state.node)
        return [*result, _check_permissions(project), *leases, *backup_schedule.findings(settings)]
    return [
        *result,
        *_check_engine(project, choice.engine),
        *lease.findings(settings, elsewhere(choice.engine), choice.engine.scheduled_runs),
        *backup_schedule.findings(settings, choice.engine.scheduled_runs),
        *_check_address(settings, choice.engine),
    ]


def _check_engine(project: Project, engine: Engine) -> list[Finding]:
    """What can be looked at once the engine is known."""
    held = " (holds this project's data)" if project.state.engine else ""
    known = Finding(Level.OK, "engine", f"{engine.name}{held}")
    first: tuple[Callable[[], Any], ...] = (engine.services, engine.host_facts, engine.data)
    try:
        statuses, facts, data = side_by_side.each(first, engine.asked_at_once)
    except TrackbedError as error:  # what the rest would ask: the engine's own checks may tell why
        return [known, *engine.checks.client(), Finding(Level.ERROR, "services", error.message, error.hint)]
    others = bool(access.other_accounts(access.own_accounts(project), engine.settings.folder))
    questions: tuple[Callable[[], list[Finding]], ...] = (
        lambda: [known, *engine.checks.client()],
        lambda: _check_services(statuses),
        lambda: [check_disk(engine, facts, fresh=not data), _check_memory(facts)],
        lambda: _check_ports(engine, statuses),
        lambda: [_check_access(project, engine)],
        lambda: _check_server(engine, statuses),
        lambda: engine.checks.workspace(others),
        lambda: [_check_gpu(engine)],
        lambda: _check_pages(project, engine, statuses),
        lambda: [engine.checks.uplink(), engine.checks.site_network()],
        lambda: _check_leftovers(project, engine),
        lambda: _check_artifacts(engine),
        lambda: [_check_permissions(project, engine, statuses)],
        lambda: _check_settings(engine),
        engine.checks.exposure,
        engine.checks.limits,
        lambda: engine.checks.ways(statuses),
    )
    return [finding for findings in side_by_side.each(questions, engine.asked_at_once) for finding in findings]


def _check_ports(engine: Engine, statuses: Iterable[ServiceStatus]) -> list[Finding]:
    try:
        wrong = _all_ports(engine, statuses)
    except TrackbedError as error:
        return [Finding(Level.ERROR, "ports", error.message, error.hint)]
    planned = (str(port.published) for spec in engine.plan().services for port in spec.ports)
    return wrong or [Finding(Level.OK, "ports", ", ".join(planned))]


def _check_services(statuses: Iterable[ServiceStatus]) -> list[Finding]:
    """Whether all that was started runs; nothing is said of a project that is down."""
    listed = [status for status in statuses if status.state is not State.MISSING]
    detail, step = trouble(statuses)
    if detail:
        starting = all(status.up or status.state is State.STARTING for status in statuses)
        return [Finding(Level.WARNING if starting else Level.ERROR, "services", detail, step)]
    return [Finding(Level.OK, "services", f"all {len(listed)} run")] if listed else []


def _check_server(engine: Engine, statuses: Iterable[ServiceStatus]) -> list[Finding]:
    """How MLflow runs: with its jobs or without, on the fast path or not."""
    result = []
    if summary := mlflow_jobs.summary(engine.deployment):
        result.append(Finding(Level.OK, "jobs", summary))
    if any(status.name == MLFLOW and status.up for status in statuses):
        result.append(fast_path.check(fast_path.read(engine)))
    return result


def _check_leftovers(project: Project, engine: Engine) -> list[Finding]:
    found = [*select.left_behind(project, engine), *engine.checks.leftovers()]
    return found or [Finding(Level.OK, "leftovers", "none")]


def _check_address(settings: Settings, engine: Engine) -> list[Finding]:
    """Where the services are reached."""
    if engine.host.remote:
        return [Finding(Level.OK, "address", f"the services run on {engine.host.name}, reached over ssh")]
    over = "; reached over ssh" if addresses.is_remote_session() else ""
    return [Finding(Level.OK, "address", f"this machine is {addresses.machine_address(settings.public_address)}{over}")]
