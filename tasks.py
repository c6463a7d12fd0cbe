"""Trackbed's tasks: flags -> settings -> one helper call -> print. `invoke --list` names them all."""

# Nothing heavy may be imported here: it would slow down every `invoke --list`. Helpers are imported in the tasks,
# all but the declarations of the settings, which are the flags.
from __future__ import annotations

import functools
import inspect
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

import command_line
from command_line import OptionalWord, OurTask
from helpers.settings import flags
from helpers.settings.flags import Given

if TYPE_CHECKING:
    from helpers.errors import TrackbedError
    from helpers.lifecycle import Overview
    from helpers.project.project import Project

YES = {"yes": "do not ask before kernels that run are ended"}
BOOT = {"on_boot": "also after a reboot: writes a systemd unit (embedded); --on-boot=false removes it"}
STARTING = {
    **YES,
    "dry_run": "print the equivalent plain commands, start nothing",
    "name_prefix": "with --dry-run: another name and free ports, to run beside the real system",
    "adopt": "take over volumes whose state folder was lost",
}
FORMAT = {"format": "table, json or env (default: table)"}
JSON = {"json": "the same as --format=json"}


def reported(body: Callable[..., None]) -> Callable[..., None]:
    """Errors become a message and a next step, with the right exit code; never a traceback unless asked for."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **values: Any) -> None:
        from helpers import console
        from helpers.errors import FAILED, INTERRUPTED, EngineUnavailable, TrackbedError, traceback_wanted

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` is Ctrl-C: half-written files go
        try:
            body(context, *args, **values)
        except TrackbedError as error:
            if traceback_wanted():
                raise
            # an engine that does not answer may be one whose node was lost
            console.error((_lost() if isinstance(error, EngineUnavailable) else None) or error)
            raise Exit(code=error.code) from None
        except KeyboardInterrupt:
            console.notice("\ninterrupted; `invoke status` shows what is there")
            raise Exit(code=INTERRUPTED) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise Exit(code=0) from None
        except (Exit, SystemExit):
            raise
        except subprocess.TimeoutExpired as error:
            words = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd[:3]))
            console.error(
                TrackbedError(
                    f"`{words}` did not end within {error.timeout:.0f} s and was stopped",
                    "see `invoke doctor`; then run the same command again",
                )
            )
            raise Exit(code=FAILED) from None
        except Exception as error:
            if traceback_wanted():
                raise
            if lost := _lost():
                console.error(lost)
                raise Exit(code=FAILED) from None
            from helpers import machine_failures

            if told := machine_failures.known(error):
                console.error(told)
                raise Exit(code=FAILED) from None
            console.error(
                TrackbedError(
                    f"unexpected: {type(error).__name__}: {error}", "TRACKBED_TRACEBACK=1 shows where; please report it"
                )
            )
            raise Exit(code=FAILED) from None

    return run


def _lost() -> TrackbedError | None:
    """The error for a node whose connection has ended, if that is why something failed."""
    nodes = sys.modules.get("helpers.engines.docker.ssh")
    return nodes.lost() if nodes else None


def trackbed_task(
    help: Mapping[str, str] | None = None, optional: Sequence[str] = (), **options: Any
) -> Callable[[Callable[..., None]], Any]:
    """`@task` without automatic short flags, whose errors are reported.

    A body with a parameter ``given`` has the flags of the settings that name it as their task, and gets their values.
    """

    def decorate(body: Callable[..., None]) -> Any:
        signature = inspect.signature(body)
        context, *own = signature.parameters.values()
        name = body.__name__ if "given" in signature.parameters else ""
        settings = flags.taken(name) if name else {}

        @functools.wraps(body)
        def run(context: Context, *args: Any, **values: Any) -> None:
            if settings:
                values["given"] = flags.given({flag: values.pop(flag, None) for flag in settings})
            body(context, *args, **values)

        parameters = [
            context,
            *map(flags.parameter, settings),
            *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != "given"),
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        said = {**{flag: flags.text(row) for flag, row in settings.items()}, **(help or {})}
        wanted = {
            "help": said,
            "iterable": [flag for flag, row in settings.items() if row.repeated],
            "optional": [*(flag for flag, row in settings.items() if row.switch), *optional],
        }
        return task(auto_shortflags=False, **{"klass": OurTask, **wanted, **options})(reported(run))

    return decorate


def _load(given: Given) -> Project:
    """The system that the flags, the environment and .env describe; tells what was ignored in them."""
    from helpers import lifecycle

    return _warned(lifecycle.load(given))


def _warned(system: Project) -> Project:
    from helpers import console

    for warning in system.settings.warnings:
        console.notice(f"warning: {warning}")
    return system


def _choose(format: str, *allowed: str, what: str = "--format=") -> str:
    if format not in allowed:
        from helpers.errors import SettingError
        from helpers.spelling import did_you_mean, nearest

        if not format:
            raise SettingError(f"the {what.strip('-=')} is missing: one of {', '.join(allowed)}.")
        label = what if what.endswith("=") else f"{what} "
        raise SettingError(
            f"{label}{format}: must be one of {', '.join(allowed)}.{did_you_mean(nearest(format, allowed))}"
        )
    return format


def _refuse(wrong: bool, flag: str, why: str, instead: str = "") -> None:
    """No flag or word is silently ignored: SettingError where one would do nothing."""
    if wrong:
        from helpers.errors import SettingError

        raise SettingError(f"{flag} means nothing {why}.", instead or f"leave {flag} out")


def _format(format: str, json: bool, *allowed: str) -> str:
    """What --format and --json ask for together."""
    if json and format not in ("table", "json"):
        from helpers.errors import SettingError

        raise SettingError(f"--json and --format={format} contradict each other.", "leave one of them out")
    return _choose("json" if json else format, *allowed)


def _show(view: Overview, tunnel: bool = True) -> None:
    """The table of parts, and (``tunnel``) the ssh line for someone who sits elsewhere."""
    from helpers import addresses, console

    rows: list[tuple[str, ...]] = []
    for row in view.rows:
        memory = f"{row.status.memory / 2**20:.0f} MiB" if row.status.memory else ""
        state = str(row.status.state) + (f" ({row.status.reason})" if row.status.reason else "")
        rows.append((row.status.name, row.title, state, "  ".join(row.urls), memory))
    columns: tuple[str, ...] = ("part", "what", "state", "URL", "memory")
    if not any(row[4] for row in rows):
        columns, rows = columns[:4], [row[:4] for row in rows]
    console.table(columns, rows)
    for row in view.rows:
        if row.status.accelerator and row.status.up:
            words = (f"GPU: {row.status.accelerator}", row.status.image, row.status.since)
            console.notice(f"\nnotebook: {', '.join(word for word in words if word)}")
    if view.settings.tracking_uri:
        console.notice(f"\nthe notebook logs to {view.settings.tracking_uri}")
    if not tunnel:
        return
    bound = view.settings.bind_address
    if view.node and view.ports:
        console.notice("\nThe parts run on another machine. From this one, keep this open and use the same URLs:")
        console.notice("  " + addresses.ssh_line(view.ports, target=view.node, bound=bound))
    elif addresses.is_remote_session() and view.ports and not view.settings.public:
        console.notice("\nFrom your own computer, keep this open and use the same URLs there:")
        console.notice("  " + addresses.ssh_line(view.ports, view.settings.public_address, bound=bound))


@trackbed_task(aliases=["start"], optional=[*BOOT], help={**BOOT, **STARTING})
def up(
    context: Context,
    given: Given,
    on_boot: str | bool | None = None,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
) -> None:
    """Bring everything up; ready when it returns. Repairs what is half-started, does nothing when all is well."""
    wanted = None if on_boot is None else _choose(str(on_boot).lower(), "true", "false", what="--on-boot=") == "true"
    _refuse(wanted is not None and dry_run, "--on-boot", "with --dry-run, which changes nothing")
    system = _load(given)
    _up(system, dry_run, name_prefix, adopt, yes)
    if wanted is not None and not dry_run:
        from helpers import boot, console

        for line in boot.install(system) if wanted else boot.remove(system.settings):
            console.notice(line)


def _up(system: Project, dry_run: bool, name_prefix: str | None, adopt: bool, yes: bool) -> None:
    from helpers import console, kernels, lifecycle, summary

    _refuse(
        bool(name_prefix and not dry_run),
        "--name-prefix",
        "without --dry-run",
        f"to run a second system: --project={name_prefix} with ports of its own",
    )
    _refuse(adopt and dry_run, "--adopt", "with --dry-run, which starts nothing")
    _refuse(yes and dry_run, "--yes", "with --dry-run, which ends nothing")
    if dry_run:
        from helpers import dryrun

        console.value(dryrun.script(system, name_prefix or ""))
        return
    with console.Progress() as progress:
        consent = None if yes else kernels.Consent(progress.confirm, sys.stdin.isatty())
        view = lifecycle.up(system, progress, progress.notice, adopt, consent)
    _show(view, tunnel=False)
    if view.settings.public:
        from helpers import gateway
        from helpers.project import users

        for line in gateway.notes(view.settings, len(users.load(view.settings))):
            console.notice(line)
    console.notice()
    console.box(f"{view.settings.project} is ready", summary.rows(system, view))


@trackbed_task(help=STARTING)
def jupyter(
    context: Context,
    given: Given,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
) -> None:
    """Start only a notebook, which logs to a remote tracking server (--tracking-uri=https://...)."""
    from helpers.errors import SettingError

    system = _load(given)
    if not system.settings.tracking_uri:
        raise SettingError(
            "TRACKING_URI is missing: `invoke jupyter` starts only the notebook, for a tracking server "
            "elsewhere (--tracking-uri=https://HOST); `invoke up` starts everything."
        )
    _up(system, dry_run, name_prefix, adopt, yes)


@trackbed_task(
    aliases=["stop"], help={"delete_data": "delete the data too; names what goes and asks", "yes": "do not ask"}
)
def down(context: Context, given: Given, delete_data: bool = False, yes: bool = False) -> None:
    """Stop everything, the notebook first. Data stay unless --delete-data."""
    from helpers import console, lifecycle
    from helpers.errors import TrackbedError

    system = _load(given)
    if delete_data and (items := lifecycle.data(system)):
        console.notice("this deletes, for good:")
        for item in items:
            console.notice(f"  {item.name}: {item.what}")
        console.notice(f"  the secrets and settings of project {system.settings.project}")
        console.notice(f"it keeps the workspace {lifecycle.workspace(system)}")
        if not yes and not console.confirm("Delete them?"):
            raise TrackbedError(
                "nothing was deleted, nothing was stopped", "answer y, or pass --yes where there is no terminal"
            )
    if busy := lifecycle.busy(system):
        console.notice(f"this ends what computes in JupyterLab: {busy}")
        if not (yes or delete_data) and sys.stdin.isatty() and not console.confirm("Stop it?"):
            raise TrackbedError("nothing was stopped", "wait for them, or `invoke down --yes`")
    with console.Progress() as progress:
        stopped = lifecycle.down(system, progress, console.notice)
        if delete_data and system.state.existed:
            lifecycle.delete_data(system, progress, console.notice)
    console.notice(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
    if not delete_data and system.state.existed:
        console.notice("data are kept; `invoke up` goes on with them")


@trackbed_task(aliases=["ps"], help={**FORMAT, **JSON})
def status(context: Context, given: Given, format: str = "table", json: bool = False) -> None:
    """What is there: part, state, URL, memory. Exit code 1 when a part is not up."""
    from helpers import console, lifecycle, typed
    from helpers.project import mlflow_jobs

    format = _format(format, json, "table", "json", "env")
    system = _load(given)
    view = lifecycle.status(system)
    if format == "json":
        console.as_json(
            {
                "project": view.settings.project,
                "state": lifecycle.condition(system, view),
                "engine": view.engine,
                "state_dir": str(view.settings.state_dir),
                "workspace": str(view.settings.workspace),
                "tracking_uri": view.settings.tracking_uri,
                "node": view.node,
                "parts": [
                    {
                        "part": r.status.name,
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
        )
    elif format == "env":
        console.as_env(lifecycle.environment(view))
    elif view.stopped:
        console.value(f"{view.settings.project}: {lifecycle.condition(system, view)}")
        console.notice(
            f"to {'start it again with its data' if system.state.existed else 'make it'}: {typed.anywhere('up')}"
        )
    else:
        _show(view)
        if view.rows and system.state.existed:
            engine = lifecycle.running(system)
            for line in (*filter(None, [lifecycle.low_disk(engine)]), *lifecycle.durable(engine)):
                console.notice(f"\n{line}")
            if mlflow_jobs.enabled(engine.settings):
                console.notice(f"\nMLflow's jobs are {mlflow_jobs.summary(engine.settings)}")
    if not all(row.status.up for row in view.rows):
        raise Exit(code=1)


@trackbed_task(
    klass=OptionalWord,
    positional=["part"],
    help={
        "part": "postgres, store, bucket, mlflow or jupyter (default: all)",
        "follow": "go on until Ctrl-C",
        "tail": "lines to show (default: 200)",
        "raw": "as they were written, with colours and control characters",
    },
)
def logs(
    context: Context, given: Given, part: str | None = None, follow: bool = False, tail: int = 200, raw: bool = False
) -> None:
    """Log lines of a part, or of all. What a terminal would obey in them is shown as escapes."""
    from helpers import console, lifecycle
    from helpers.engines.base import State
    from helpers.errors import SettingError
    from helpers.spelling import did_you_mean, nearest

    engine = lifecycle.running(_load(given))
    there = [s.name for s in engine.parts()]
    if part and part not in there:
        raise SettingError(f"part {part}: must be one of {', '.join(there)}.{did_you_mean(nearest(part, there))}")
    if follow and not part:
        raise SettingError("--follow needs a part: `invoke logs mlflow --follow`")
    wanted = [part] if part else [s.name for s in engine.parts() if s.state is not State.MISSING]
    if not wanted:
        console.notice("nothing is running; `invoke logs PART` shows what is kept of a part")
    for name in wanted:
        for line in engine.logs(name, tail, follow):
            shown = line if raw else console.log_line(line)
            console.value(shown if part else f"{name} | {shown}", raw)


@trackbed_task(aliases=["url", "open"])
def jupyter_url(context: Context, given: Given) -> None:
    """The one line to paste into a browser."""
    from helpers import addresses, console, lifecycle, notebook

    system = _load(given)
    engine = lifecycle.running(system)
    console.value(notebook.url(engine, engine.settings, system.credentials()["JUPYTER_TOKEN"]))
    view = lifecycle.overview(engine, engine.settings)
    if view.node:
        ports = [p.published for r in view.rows if r.status.name in ("jupyter", "mlflow") for p in r.status.ports]
        console.notice(
            "with this open on this machine: "
            + addresses.ssh_line(ports, target=view.node, bound=view.settings.bind_address)
        )


@trackbed_task()
def mlflow_url(context: Context, given: Given) -> None:
    """MLflow's address for a browser, with the token where it asks for one."""
    from helpers import console, lifecycle
    from helpers.errors import TrackbedError

    system = _load(given)
    engine = lifecycle.running(system)
    if not (url := lifecycle.mlflow_url(lifecycle.overview(engine, engine.settings))):
        raise TrackbedError("MLflow has no address: it does not run here", "`invoke up` starts it")
    console.value(url)


@trackbed_task(
    klass=OptionalWord,
    positional=["action", "name"],
    help={"action": "add, remove, list or passwd (a new password)", "name": "whose login"},
)
def users(context: Context, given: Given, action: str | None = None, name: str | None = None) -> None:
    """Logins of the gateway: `users add NAME` makes one and prints its password, the only time it can be seen."""
    from helpers import console, lifecycle
    from helpers.errors import SettingError
    from helpers.project import users as logins

    _choose(action or "", "add", "remove", "list", "passwd", what="action")
    _refuse(action == "list" and bool(name), str(name), "behind `users list`, which shows everybody")
    system = _load(given)
    if action == "list":
        for known in sorted(logins.load(system.settings)):
            console.value(known)
        return
    if not name:
        raise SettingError(f"users {action} needs a name: `invoke users {action} NAME`")
    settings, who = system.settings, name
    changes = {
        "add": lambda: logins.add(settings, who),
        "passwd": lambda: logins.passwd(settings, who),
        "remove": lambda: logins.remove(settings, who),
    }
    password = lifecycle.change_users(system, console.notice, changes[action or ""])
    if password:
        console.notice(f"the password of {who}, shown this once:")
        console.value(password)
    else:
        console.notice(f"{who} may not log in any more")
    if not settings.public:
        console.notice("logins count with PUBLIC=true only: `invoke up --public`")


@trackbed_task(klass=OptionalWord, positional=["name"], help={"name": "whose login (default: the first)"})
def env(context: Context, given: Given, name: str | None = None) -> None:
    """Lines for a shell on another machine, to log runs from there. The password has to be put in."""
    from helpers import console, gateway, lifecycle

    system = _load(given)
    lifecycle.running(system)
    console.value(gateway.client_lines(system.settings, name, system.asks))


@trackbed_task(
    klass=OptionalWord,
    positional=["action"],
    help={
        **FORMAT,
        **JSON,
        "action": "rotate: new ones while it runs; without it they are shown",
        "init": "make what `docker compose up` needs: images, volumes, secrets, compose.yaml",
    },
)
def credentials(
    context: Context,
    given: Given,
    action: str | None = None,
    format: str = "table",
    json: bool = False,
    init: bool = False,
) -> None:
    """Show the generated secrets; `credentials rotate` replaces every one of them and keeps the data."""
    from helpers import console, lifecycle

    format = _format(format, json, "table", "json", "env")
    _refuse(
        format != "table" and (init or bool(action)),
        f"--format={format}",
        "where no secrets are shown",
        "`invoke credentials` shows them afterwards",
    )
    _refuse(init and bool(action), "--init", f"with `{action}`")
    system = _load(given)
    if init:
        with console.Progress() as progress:
            lifecycle.initialise(system, progress, console.notice)
        console.notice("ready for `docker compose up -d`")
        return
    if action:
        _choose(action, "rotate", what="action")
        with console.Progress() as progress:
            view, kept = lifecycle.rotate(system, progress, progress.notice)
        _show(view)
        if kept:
            console.notice(
                "not changed, because they were given (.env, environment or a remote tracking server): "
                + ", ".join(kept)
            )
        return
    lifecycle.running(system)
    found = system.credentials()
    pairs = [(name, found[name]) for name in found.names if found[name]]
    if format == "json":
        console.as_json(dict(pairs))
    elif format == "env":
        console.as_env(pairs)
    else:
        console.table(("secret", "value"), pairs)


@trackbed_task()
def check(context: Context, given: Given) -> None:
    """Log a run from inside the notebook, read it back, look for its row and its object."""
    from helpers import check as checks
    from helpers import console, lifecycle, typed
    from helpers.errors import TrackbedError

    system = _load(given)
    engine = lifecycle.running(system)
    if missing := lifecycle.not_running(lifecycle.overview(engine, engine.settings)):
        raise TrackbedError(f"{system.settings.project} {missing}; start it with: {typed.anywhere('up')}")
    with console.Progress() as progress:
        results = checks.run_check(engine, progress)
    words = {True: "passed", False: "failed", None: "not tested"}
    console.table(("check", "result", "detail"), [(r.name, words[r.ok], r.detail) for r in results])
    console.notice(f"\n{checks.verdict(results)}")
    if any(r.ok is False for r in results):
        raise Exit(code=1)


@trackbed_task()
def doctor(context: Context, given: Given) -> None:
    """Look before anything is started: engine, disk, memory, ports, network, leftovers, permissions."""
    from helpers import console, lifecycle
    from helpers import doctor as doctors
    from helpers.findings import Level

    system, tried = lifecycle.last_tried(given)
    found = doctors.examine(_warned(system))
    if tried:
        console.notice(f"with what the last `invoke up` was told, which failed: {', '.join(tried)}")
    console.table(("check", "result", "detail"), [(f.check, str(f.level), f.detail) for f in found])
    for finding in found:
        if finding.fix and finding.level is not Level.OK:
            console.notice(f"{finding.check}: {finding.fix}")
    if any(f.level is Level.ERROR for f in found):
        raise Exit(code=1)


@trackbed_task(
    klass=OptionalWord,
    positional=["image"],
    help={
        "image": "mlflow, jupyter, versitygw or gateway (default: mlflow and jupyter)",
        "push": "push them to --registry",
        "registry": "where to push, as in ghcr.io/our-lab",
    },
)
def build(
    context: Context, given: Given, image: str | None = None, push: bool = False, registry: str | None = None
) -> None:
    """Build our images, for this machine's GPU or a named one; a no-op when nothing changed."""
    from helpers import console
    from helpers.engines.docker import building
    from helpers.errors import SettingError

    if push != bool(registry):
        raise SettingError("--push and --registry=HOST/PATH go together")
    system = _load(given)
    with console.Progress() as progress:
        built = building.build(
            system, (image,) if image else ("mlflow", "jupyter"), progress, progress.notice, registry or ""
        )
    for one in built:
        size = f"{one.size / 2**20:.0f} MiB"
        console.notice(
            f"{one.name}: built in {one.seconds:.0f} s, {size}" if one.fresh else f"{one.name}: nothing changed, {size}"
        )
        if one.pushed:
            setting = {
                "mlflow": "MLFLOW_IMAGE",
                "jupyter-mlflow": "JUPYTER_IMAGE",
                "versitygw": "VERSITYGW_IMAGE",
                "gateway": "GATEWAY_IMAGE",
            }[one.name.split("/")[1].partition(":")[0]]
            console.notice(f"pushed; elsewhere, in .env: {setting}={one.pushed}")


@trackbed_task(help={"format": "table or json (default: table)", **JSON})
def version(context: Context, format: str = "table", json: bool = False) -> None:
    """Trackbed's version and those of what it starts."""
    from helpers import console
    from helpers.version import versions

    found = versions()
    if _format(format, json, "table", "json") == "json":
        console.as_json(found)
    else:
        commit = f" ({found['commit']})" if found["commit"] else ""
        console.value(
            f"Trackbed {found['trackbed']}{commit}: MLflow {found['mlflow']}, "
            f"PostgreSQL {found['postgres']}, VersityGW {found['versitygw']}"
        )


@trackbed_task(help={"upgrade": "take newer versions where requirements.in allows them, and today's digests of images"})
def lock(context: Context, upgrade: bool = False) -> None:
    """Refresh the hash-locked requirements of the toolkit, the images and the embedded engine (with uv)."""
    from helpers import console, locks, registry

    for path in locks.refresh(upgrade):
        console.notice(f"locked {path}")
    for key, problem in registry.refresh_digests() if upgrade else ():
        console.notice(
            f"image {key}: its digest is kept, the registry does not answer: {problem}"
            if problem
            else f"image {key}: digest refreshed"
        )
    for name, problem in locks.refresh_torch():
        console.notice(
            f"docker/jupyter/{name}: not locked, its index does not answer: {problem}"
            if problem
            else f"locked docker/jupyter/{name}"
        )


@trackbed_task(
    help={
        "to": "a file; or FOLDER/ or s3://BUCKET/PREFIX, where later backups store only what is "
        "new (default: a file in the state folder's backups)",
        "with_secrets": "put the generated secrets into it too (the file is 0600)",
    }
)
def backup(context: Context, given: Given, to: str = "", with_secrets: bool = False) -> None:
    """One consistent backup of database and artifacts, made while the system runs."""
    from helpers import backup_commands, console

    system = _load(given)
    with console.Progress() as progress:
        place, manifest, health = backup_commands.backup(system, to, with_secrets, progress, progress.notice)
    console.value(place)
    console.notice(backup_commands.words(manifest))
    if line := backup_commands.stored(manifest):
        console.notice(line)
    for line in health.lines:
        console.notice(line)
    if with_secrets:
        console.notice("it holds the secrets of this system in plain text; only you can read it (0600): keep it so")
    if health.damaged:
        raise Exit(code=1)


@trackbed_task(
    klass=OptionalWord,
    positional=["place"],
    name="verify",
    help={
        "place": "a file, a folder or s3://BUCKET/PREFIX with backups, or one of them (default: "
        "the files in the state folder's backups)",
        "repair": "store again what is damaged, from copies and from the running system",
    },
)
def backup_verify(context: Context, given: Given, place: str | None = None, repair: bool = False) -> None:
    """Read backups back and name what is damaged or missing, and whose artifacts that are."""
    from helpers import backup_commands, console

    system = _load(given)
    with console.Progress() as progress:
        found = backup_commands.verify(system, place or "", repair, progress, progress.notice)
    for line in found.lines:
        console.value(line)
    console.notice(found.summary)
    if not found.well:
        if found.repairable:
            console.notice(f"`invoke backup.verify {found.place} --repair` stores what the running system still has")
        raise Exit(code=1)


@trackbed_task(
    positional=["source"],
    help={
        "source": "what `invoke backup` printed: a file, a backup in a folder or s3://...; the "
        "folder or s3://BUCKET/PREFIX alone: its newest backup",
        "into": "restore into this new or empty project, on free ports; the current one stays as it is",
        "no_backup": "do not back up what is there before it is replaced",
        "skip_damaged": "restore what is whole of a damaged backup, and name what was left out",
        "yes": "do not ask",
    },
)
def restore(
    context: Context,
    given: Given,
    source: str,
    into: str = "",
    no_backup: bool = False,
    skip_damaged: bool = False,
    yes: bool = False,
) -> None:
    """Replace what is there by a backup, on any engine. Until the last step the old state is the live one."""
    from helpers import backup_commands, console, lifecycle
    from helpers.errors import TrackbedError

    _refuse(bool(into and no_backup), "--no-backup", "with --into, which replaces nothing")
    system = _load(given)
    if (
        not into
        and system.state.existed
        and not yes
        and not console.confirm(
            f"Replace the experiments and artifacts of project {system.settings.project} by {source}?"
        )
    ):
        raise TrackbedError("nothing was restored", "answer y, or pass --yes where there is no terminal")
    with console.Progress() as progress:
        target, done = backup_commands.restore_archive(
            system, source, progress, progress.notice, not no_backup, into, skip_damaged
        )
    console.notice(f"restored: {backup_commands.words(done.manifest)}")
    for line in done.left_lines:
        console.notice(line)
    if done.before:
        console.notice(f"what was there before: {done.before}")
    if done.users:
        console.notice(f"these may log in at the gateway, with the passwords they had: {', '.join(done.users)}")
    if done.users_left:
        console.notice("the logins in the backup were left out: this system has its own")
    if into:
        _show(lifecycle.status(target))
        console.notice(f"\nit is project {into}: --project={into} names it, as in `invoke down --project={into}`")


@trackbed_task(help={"to": "docker or embedded"})
def move(context: Context, given: Given, to: str) -> None:
    """Bring everything to the other engine: back up, restore there, switch, remove here."""
    from helpers import console, moves
    from helpers.engines import select

    _choose(to, *select.ENGINES, what="--to=")
    store = given.get("object_store")
    system = _load(given | {"object_store": store and "auto"})  # the store is the other engine's
    with console.Progress() as progress:
        archived, view = moves.move(system, to, store or "", progress, progress.notice)
    _show(view)
    console.notice(f"\nmoved; the archive it was carried in is kept: {archived}")


@trackbed_task(help={"back": "return to the state that the last upgrade kept"})
def upgrade(context: Context, given: Given, back: bool = False) -> None:
    """Go to this clone's versions: back up, migrate a copy of the database, prove it, switch. The old copy is kept."""
    from helpers import console, lifecycle, upgrades

    system = _load(given)
    if back:
        with console.Progress() as progress:
            kept, archived, runnable = upgrades.back(system, progress, progress.notice)
            if runnable:
                lifecycle.up(_load(given), progress, progress.notice)
        console.notice(f"back on the database {kept['database']} (schema {kept['schema']}) of {kept['at']}")
        console.notice(f"what was logged since is in {archived}")
        if not runnable:
            console.notice(
                "it needs the MLflow of that time: git checkout the version you had, then "
                f"`invoke up{upgrades.flags_of_up(system.settings)}`"
            )
        return
    with console.Progress() as progress:
        done = upgrades.upgrade(system, progress, progress.notice)
    console.table(("what", "from", "to"), [(c.what, c.old, c.new) for c in done.changes])
    if done.archive:
        console.notice(f"backup made before: {done.archive}")
        console.notice("`invoke upgrade --back` returns to the old database, which is kept")
    else:
        console.notice("the database's schema is current: nothing to migrate")


@trackbed_task(help={"format": "table or json (default: table)", **JSON})
def usage(context: Context, given: Given, format: str = "table", json: bool = False) -> None:
    """What takes how much room: experiments, database, and what is free."""
    from dataclasses import asdict

    from helpers import console, hygiene

    format = _format(format, json, "table", "json")
    found = hygiene.usage(_load(given))
    if format == "json":
        console.as_json(asdict(found))
        return
    mib = 2**20
    console.table(
        ("experiment", "id", "runs", "objects", "MiB", "MiB per day", "MiB deleted"),
        [
            (
                use.name,
                use.identity,
                str(use.runs),
                str(use.objects),
                f"{use.size / mib:.1f}",
                f"{use.growth / mib:.1f}",
                f"{use.deleted / mib:.1f}",
            )
            for use in found.experiments
        ],
    )
    if any(use.deleted for use in found.experiments):
        console.notice("`invoke gc` shows what was deleted more than 30 days ago, `invoke gc --yes` removes it")
    console.notice(f"database {found.database / mib:.0f} MiB; {found.free / 2**30:.1f} GiB free on the disk")


@trackbed_task(
    help={
        "older_than": "deleted longer ago than this, as in 30d or 12h (default: 30d)",
        "yes": "remove it; without this it is only shown",
    }
)
def gc(context: Context, given: Given, older_than: str = "30d", yes: bool = False) -> None:
    """Remove for good what was deleted long ago, with its artifacts. Shows first what would go."""
    from helpers import console, hygiene, lifecycle

    system = _load(given)
    found = hygiene.deleted(lifecycle.running(system), older_than)
    console.table(
        ("experiment id", "runs", "models", "objects", "MiB"),
        [
            (gone.identity, str(gone.runs), str(gone.models), str(gone.objects), f"{gone.size / 2**20:.1f}")
            for gone in found.rows
        ],
    )
    if found.kept:
        console.notice(
            f"{found.kept} deleted runs and models stay: a registered model version or another run needs them"
        )
    if not found.rows:
        console.notice(f"nothing was deleted longer ago than {older_than}")
    elif not yes:
        console.notice(f"nothing was removed; `invoke gc --older-than={older_than} --yes` removes {found.words}")
    if not yes:
        return
    with console.Progress() as progress:
        done = hygiene.collect(system, older_than, progress, progress.notice)
    console.notice(f"removed: {done.words}")


def _tasks() -> Collection:
    """Every task under its name; `backup` is a group as well, whose first is meant by `invoke backup`."""
    found = Collection(
        *(one for name, one in globals().items() if isinstance(one, Task) and not name.startswith("backup"))
    )
    group = Collection("backup")
    group.add_task(backup, name="create", default=True)
    group.add_task(backup_verify)
    found.add_collection(group)
    return found


namespace = _tasks()
command_line.read(namespace)
