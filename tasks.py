"""Trackbed's tasks: flags -> settings -> one call -> print. `invoke --list` names them all."""

# Nothing heavy may be imported here: it would slow down every `invoke --list`. What a task does is imported in it.
# Behind a parameter `given` stand flags of settings (--gpu, --mlflow-port, ...): `task` of command_line.py makes them
# from the declarations in helpers/settings/declared whose ``tasks`` name this task, and hands over what was typed.
from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

import command_line
import lab_tasks
from command_line import task
from helpers.settings.flags import Flags

YES = {"yes": "Do not ask before running kernels end"}
BOOT = {"on_boot": "Start at boot too, with a systemd unit (embedded only): true or false"}
STARTING = {
    **YES,
    "dry_run": "Print the plain commands that would do the same, and start nothing",
    "name_prefix": "With --dry-run: prefix of the script's containers and volumes (default: the project's name), with "
    "free ports, so that the script can run beside this project",
    "from_bundle": "File of `invoke bundle`: what a start builds or fetches comes from it, nothing from a network",
    "adopt": "Take over volumes of this project's name whose state folder was lost; without this flag they are refused",
}
FORMAT = {"format": "Format of the output: table, json or env"}
TABLE_OR_JSON = {"format": "Format of the output: table or json"}
PLACE = {"place": "Place of backups: a folder or s3://BUCKET/PREFIX (default: BACKUP_TO, or the state folder)"}
JSON = {"json": "Short for --format=json"}
USER = {"name": "Name of the login"}


@task(aliases=["start"], optional=[*BOOT], help={**BOOT, **STARTING})
def up(
    context: Context,
    given: Flags,
    on_boot: str | bool | None = None,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
    from_bundle: str | None = None,
) -> None:
    """Start everything, and return when it is ready. Run it again to repair or to change something."""
    from helpers.cli import running

    running.up(given, running.Start(dry_run, name_prefix, adopt, yes, from_bundle), on_boot)


@task(help=STARTING)
def jupyter(
    context: Context,
    given: Flags,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
    from_bundle: str | None = None,
) -> None:
    """Start only a notebook, for a remote tracking server. Name the server with --tracking-uri."""
    from helpers.cli import running

    running.jupyter(given, running.Start(dry_run, name_prefix, adopt, yes, from_bundle))


@task(
    aliases=["stop"],
    help={"delete_data": "Delete the data too; shows what will be deleted and asks", "yes": "Do not ask"},
)
def down(context: Context, given: Flags, delete_data: bool = False, yes: bool = False) -> None:
    """Stop everything, the notebook first. Your data stay unless you give --delete-data."""
    from helpers.cli import running

    running.down(given, delete_data, yes)


@task(
    aliases=["ps"],
    optional=["watch"],
    help={
        **FORMAT,
        **JSON,
        "check": "Exit with 1 too when a scheduled backup failed or is overdue",
        "watch": "Look again every so many seconds (5 where none are given), until Ctrl-C",
    },
)
def status(
    context: Context,
    given: Flags,
    format: str = "table",
    json: bool = False,
    check: bool = False,
    watch: str | bool | None = None,
) -> int:
    """Show each service with its state, URL and memory. The exit code is 1 when a service is not up."""
    from helpers.cli import status

    return status.status(given, format, json, check, watch)


@task(
    word="service",
    help={
        "service": "Service: postgres, store, mlflow, jupyter, gateway, ... (default: all)",
        "follow": "Print new lines until Ctrl-C",
        "tail": "Number of lines of each service",
        "raw": "Print lines unchanged, with their colours and control characters",
    },
)
def logs(
    context: Context, given: Flags, service: str = "", follow: bool = False, tail: int = 200, raw: bool = False
) -> None:
    """Print the log of all services, or of one. Control characters are escaped."""
    from helpers.cli import status

    status.logs(given, service, follow, tail, raw)


@task(name="open")
def open_(context: Context, given: Flags) -> None:
    """Open the start page, which leads to MLflow and JupyterLab, in a browser. Prints its link too."""
    from helpers.cli import status

    status.open_page(given)


@task(aliases=["url"])
def jupyter_url(context: Context, given: Flags) -> None:
    """Print the link that opens JupyterLab in a browser."""
    from helpers.cli import status

    status.jupyter_url(given)


@task()
def mlflow_url(context: Context, given: Flags) -> None:
    """Print the link that opens MLflow, with the token where it asks for one."""
    from helpers.cli import status

    status.mlflow_url(given)


@task()
def examples(context: Context, given: Flags) -> None:
    """Bring the examples into the notebook's workspace: missing ones, and new versions. What you changed stays."""
    from helpers.cli import examples

    examples.bring(given)


@task()
def check(context: Context, given: Flags) -> int:
    """Log a test run from the notebook and look for it everywhere. Computes on the GPUs too."""
    from helpers.cli import running

    return running.check(given)


@task()
def doctor(context: Context, given: Flags) -> int:
    """Find problems before or after a start, and how to fix them. Changes nothing."""
    from helpers.cli import running

    return running.doctor(given)


@task(name="list")
def users_list(context: Context, given: Flags) -> None:
    """List the logins of the gateway (public mode)."""
    from helpers.cli import people

    people.list_users(given)


@task(name="add", positional=["name"], help=USER)
def users_add(context: Context, given: Flags, name: str) -> None:
    """Create a login for the gateway and print its password. Nobody can see the password again."""
    from helpers.cli import people

    people.add_user(given, name)


@task(name="passwd", positional=["name"], help=USER)
def users_passwd(context: Context, given: Flags, name: str) -> None:
    """Replace a login's password and print the new one."""
    from helpers.cli import people

    people.new_password(given, name)


@task(name="remove", positional=["name"], help=USER)
def users_remove(context: Context, given: Flags, name: str) -> None:
    """Remove a login. It stops working within a second."""
    from helpers.cli import people

    people.remove_user(given, name)


@task(word="name", help={"name": "Name of the login (default: the first)"})
def env(context: Context, given: Flags, name: str = "") -> None:
    """Print lines for a shell on another machine that logs runs here. Put the password in yourself."""
    from helpers.cli import people

    people.env(given, name)


@task(name="show", help={**FORMAT, **JSON})
def credentials_show(context: Context, given: Flags, format: str = "table", json: bool = False) -> None:
    """Show the generated secrets."""
    from helpers.cli import people

    people.show_credentials(given, format, json)


@task(name="rotate")
def credentials_rotate(context: Context, given: Flags) -> None:
    """Replace every generated secret of the running project. The data stay."""
    from helpers.cli import people

    people.rotate_credentials(given)


@task(name="create", help={"with_secrets": "Put the generated secrets into the backup too, in plain text"})
def backup(context: Context, given: Flags, with_secrets: bool = False) -> int:
    """Back up runs, models and artifacts while everything runs; with --with-workspace the notebook's files too."""
    from helpers.cli import data

    return data.backup(given, with_secrets)


@task(
    name="verify",
    word="place",
    help={
        "place": "Place of backups: a file, a folder or s3://BUCKET/PREFIX, or one backup there (default: BACKUP_TO, "
        "else the files in the state folder's backups)",
        "repair": "Store damaged pieces again, from copies and from the running project",
    },
)
def backup_verify(context: Context, given: Flags, place: str = "", repair: bool = False) -> int:
    """Read backups back and name what is damaged, by run and artifact. No service has to run."""
    from helpers.cli import data

    return data.verify(given, place, repair)


@task(name="list", word="place", help={**PLACE, **TABLE_OR_JSON, **JSON})
def backup_list(context: Context, given: Flags, place: str = "", format: str = "table", json: bool = False) -> None:
    """List backups as `invoke restore` takes them, with what each holds. No service has to run."""
    from helpers.cli import data

    data.list_backups(given, place, format, json)


@task(
    name="prune",
    word="place",
    help={
        **PLACE,
        "dry_run": "Print which backups would go and which would stay, and change nothing",
        "now": "Free the disk at once, not a day later; only where no earlier version of Trackbed backs up there now",
    },
)
def backup_prune(context: Context, given: Flags, place: str = "", dry_run: bool = False, now: bool = False) -> None:
    """Forget old backups of this project, and free what no backup needs. Other projects' backups stay."""
    from helpers.cli import data

    data.prune(given, place, dry_run, now)


@task(
    name="passphrase",
    word="place",
    help={"place": "Place of encrypted backups: a folder or s3://BUCKET/PREFIX (default: BACKUP_TO)"},
)
def backup_passphrase(context: Context, given: Flags, place: str = "") -> None:
    """Change the passphrase of encrypted backups. It asks for the new one; the backups stay as they are."""
    from helpers.cli import data

    data.change_passphrase(given, place)


@task(
    name="schedule",
    help={
        "off": "End the schedule; the backups stay",
        "if_due": "Back up if it is time; the timer runs it",
    },
)
def backup_schedule(context: Context, given: Flags, off: bool = False, if_due: bool = False) -> int:
    """Back up by itself, at an interval, and forget old backups. Without a flag it shows the schedule."""
    from helpers.cli import data

    return data.backup_if_due(given) if if_due else data.schedule_backups(given, off)


@task(name="last", help={"if_due": "Make it if its time has come; the timer runs it"})
def backup_last(context: Context, given: Flags, if_due: bool = False) -> int:
    """Make the last backup of a lease now, read it back, and name what came after it. `up` has it made in time."""
    from helpers.cli import data

    return data.last_backup(given, if_due)


@task(
    positional=["source"],
    help={
        "source": "What `invoke backup` printed; or a folder or s3://BUCKET/PREFIX, for its newest backup",
        "into": "Name of a new or empty project to restore into, on free ports; this project stays unchanged",
        "no_backup": "Do not back up the current data before they are replaced",
        "skip_damaged": "Restore what is undamaged, and name what was left out",
        "no_workspace": "Leave out the notebook's files that the backup holds",
        "yes": "Do not ask",
    },
)
def restore(
    context: Context,
    given: Flags,
    source: str,
    into: str = "",
    no_backup: bool = False,
    skip_damaged: bool = False,
    no_workspace: bool = False,
    yes: bool = False,
) -> None:
    """Restore a backup, which replaces the current data. Those stay in use until the last step."""
    from helpers.cli import data

    data.restore(given, source, into, no_backup, skip_damaged, yes, no_workspace)


@task(
    name="import",
    positional=["source"],
    repeated=["artifacts"],
    help={
        "source": "Folder `mlruns` of another MLflow, its SQLite file (a path, or sqlite:///PATH), its database "
        "(postgresql://USER@HOST/DATABASE or mysql://...) or its server (https://HOST); it is only read",
        "artifacts": "OLD=NEW: artifacts whose location begins with OLD are in the folder or s3://BUCKET/PREFIX NEW; "
        "s3://BUCKET/PREFIX alone is read where it is; may be given several times",
        "dry_run": "Count what would come, with its size and about how long it takes; change nothing",
        "skip_missing": "Import the rest where artifacts cannot be read, and list what is missing",
        "merge": "Where this project has an experiment, model or prompt of the same name, put the source's into it; "
        "without this flag it gets the suffix -imported",
    },
)
def import_(
    context: Context,
    given: Flags,
    source: str,
    artifacts: list[str] | None = None,
    dry_run: bool = False,
    skip_missing: bool = False,
    merge: bool = False,
) -> None:
    """Import experiments, models and artifacts of another MLflow into this project, beside what it has."""
    from helpers.cli import imports

    imports.import_source(given, source, artifacts or [], dry_run, skip_missing, merge)


@task(help={"to": "Engine to move to: docker, embedded or kubernetes"})
def move(context: Context, given: Flags, to: str) -> None:
    """Move all data to the other engine. The old engine's data go when the new one is up."""
    from helpers.cli import data

    data.move(given, to)


@task(help={"back": "Return to the database that the last upgrade kept"})
def upgrade(context: Context, given: Flags, back: bool = False) -> None:
    """Upgrade the project to the versions of this clone. The old database is kept."""
    from helpers.cli import data

    (data.go_back if back else data.upgrade)(given)


@task(help={**TABLE_OR_JSON, **JSON})
def usage(context: Context, given: Flags, format: str = "table", json: bool = False) -> None:
    """Show disk usage by experiment, and the free disk space."""
    from helpers.cli import data

    data.usage(given, format, json)


@task(
    help={
        "older_than": "Minimum time since the deletion, as in 30d or 12h",
        "yes": "Remove it; without this flag, gc only shows it",
    }
)
def gc(context: Context, given: Flags, older_than: str = "30d", yes: bool = False) -> None:
    """Free disk space: remove for good what was deleted in MLflow. Without --yes it only shows that."""
    from helpers.cli import data

    data.gc(given, older_than, yes)


@task(
    word="image",
    help={
        "image": "Image: mlflow, jupyter, versitygw or gateway (default: mlflow and jupyter)",
        "push": "Push the images to --registry",
        "registry": "Registry to push to, as in ghcr.io/our-lab",
        "load": "Load the images into the nodes of your cluster (kind, k3d or minikube)",
    },
)
def build(
    context: Context, given: Flags, image: str = "", push: bool = False, registry: str = "", load: bool = False
) -> None:
    """Build the images, for this machine's GPU or a named one. Builds only what has changed."""
    from helpers.cli import toolkit

    toolkit.build(given, image, push, registry, load)


@task(help={"to": "File to write"})
def bundle(context: Context, given: Flags, to: str) -> None:
    """Write one file with all that a start needs, for a machine without a network: `invoke up --from-bundle=FILE`."""
    from helpers.cli import toolkit

    toolkit.bundle(given, to)


@task(help={**TABLE_OR_JSON, **JSON})
def version(context: Context, format: str = "table", json: bool = False) -> None:
    """Print the versions of Trackbed and of what it starts."""
    from helpers.cli import toolkit

    toolkit.version(format, json)


@task()
def prepare(context: Context, given: Flags) -> None:
    """Make the images, volumes and secrets that `docker compose up` needs, and start nothing. For Compose by hand."""
    from helpers.cli import running

    running.prepare(given)


@task(help={"upgrade": "Take newer versions where requirements.in allows them, and new digests of images"})
def lock(context: Context, upgrade: bool = False) -> None:
    """Refresh the locked requirements of the toolkit, the images and the embedded engine."""
    from helpers.cli import toolkit

    toolkit.lock(upgrade)


namespace = Collection(
    *(up, jupyter, down, status, logs, open_, jupyter_url, mlflow_url, examples, check, doctor),
    *(env, restore, import_, move, upgrade, usage, gc, build, bundle, prepare, version, lock),
    *(lab_tasks.demo, lab_tasks.explain, lab_tasks.completion),
)
# a noun that has verbs; alone it means its first
for noun, verbs in {
    "users": (users_list, users_add, users_passwd, users_remove),
    "credentials": (credentials_show, credentials_rotate),
    "data": (lab_tasks.data, lab_tasks.data_add, lab_tasks.data_remove),
    "backup": (backup, backup_list, backup_verify, backup_prune, backup_schedule, backup_last, backup_passphrase),
}.items():
    group = Collection(noun)
    for place, verb in enumerate(verbs):
        group.add_task(verb, default=place == 0)
    namespace.add_collection(group)
command_line.read(namespace)
