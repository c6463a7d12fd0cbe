"""Trackbed's tasks: flags -> settings -> one call -> print. `invoke --list` names them all."""

# Nothing heavy may be imported here: it would slow down every `invoke --list`. What a task does is imported in it.
from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

import command_line
from command_line import task
from helpers.settings.flags import Given

YES = {"yes": "Answer beforehand: do not ask before kernels that run are ended"}
BOOT = {"on_boot": "Start after a reboot too, by a systemd unit (embedded); --on-boot=false removes it"}
STARTING = {
    **YES,
    "dry_run": "Print the equivalent plain commands, start nothing",
    "name_prefix": "With --dry-run: another name and free ports, to run beside the real system",
    "adopt": "Take over volumes whose state folder was lost",
}
FORMAT = {"format": "Format of the output: table, json or env"}
TABLE_OR_JSON = {"format": "Format of the output: table or json"}
JSON = {"json": "Short for --format=json"}
USER = {"name": "Name of the login"}


@task(aliases=["start"], optional=[*BOOT], help={**BOOT, **STARTING})
def up(
    context: Context,
    given: Given,
    on_boot: str | bool | None = None,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
) -> None:
    """Start everything. It is ready when the command returns; run it again to repair or change something."""
    from helpers.cli import running

    running.up(given, running.Start(dry_run, name_prefix, adopt, yes), on_boot)


@task(help=STARTING)
def jupyter(
    context: Context,
    given: Given,
    dry_run: bool = False,
    name_prefix: str | None = None,
    adopt: bool = False,
    yes: bool = False,
) -> None:
    """Start only a notebook, for a remote tracking server (--tracking-uri=https://...)."""
    from helpers.cli import running

    running.jupyter(given, running.Start(dry_run, name_prefix, adopt, yes))


@task(
    aliases=["stop"],
    help={"delete_data": "Delete the data too; names what goes and asks", "yes": "Answer beforehand: do not ask"},
)
def down(context: Context, given: Given, delete_data: bool = False, yes: bool = False) -> None:
    """Stop everything, the notebook first. Data stay unless --delete-data."""
    from helpers.cli import running

    running.down(given, delete_data, yes)


@task(aliases=["ps"], help={**FORMAT, **JSON})
def status(context: Context, given: Given, format: str = "table", json: bool = False) -> int:
    """Show what runs: state, URL, memory. The exit code is 1 where a service is not up."""
    from helpers.cli import status

    return status.status(given, format, json)


@task(
    word="service",
    help={
        "service": "Service: postgres, store, bucket, mlflow, jupyter, ... (default: all)",
        "follow": "Go on until Ctrl-C",
        "tail": "Number of lines of each service",
        "raw": "Lines as they were written, with colours and control characters",
    },
)
def logs(
    context: Context, given: Given, service: str = "", follow: bool = False, tail: int = 200, raw: bool = False
) -> None:
    """Show log lines of all services, or of one. What a terminal would obey in them is shown as escapes."""
    from helpers.cli import status

    status.logs(given, service, follow, tail, raw)


@task(aliases=["url", "open"])
def jupyter_url(context: Context, given: Given) -> None:
    """Print JupyterLab's address, to paste into a browser."""
    from helpers.cli import status

    status.jupyter_url(given)


@task()
def mlflow_url(context: Context, given: Given) -> None:
    """Print MLflow's address, with the token where it asks for one."""
    from helpers.cli import status

    status.mlflow_url(given)


@task()
def check(context: Context, given: Given) -> int:
    """Prove that it works, with a run logged from the notebook. It is read back, and its row and object looked for."""
    from helpers.cli import running

    return running.prove(given)


@task()
def doctor(context: Context, given: Given) -> int:
    """Find out what is wrong, before or after a start. Looks at engine, disk, memory, ports, network, permissions."""
    from helpers.cli import running

    return running.examine(given)


@task(name="list")
def users_list(context: Context, given: Given) -> None:
    """List the logins of the gateway."""
    from helpers.cli import people

    people.list_users(given)


@task(name="add", positional=["name"], help=USER)
def users_add(context: Context, given: Given, name: str) -> None:
    """Make a login for the gateway. Its password is printed, the only time that it can be seen."""
    from helpers.cli import people

    people.add_user(given, name)


@task(name="passwd", positional=["name"], help=USER)
def users_passwd(context: Context, given: Given, name: str) -> None:
    """Give a login a new password, and print it."""
    from helpers.cli import people

    people.new_password(given, name)


@task(name="remove", positional=["name"], help=USER)
def users_remove(context: Context, given: Given, name: str) -> None:
    """Remove a login. It opens nothing any more."""
    from helpers.cli import people

    people.remove_user(given, name)


@task(word="name", help={"name": "Name of the login (default: the first)"})
def env(context: Context, given: Given, name: str = "") -> None:
    """Print lines for a shell on another machine, to log runs from there. The password has to be put in."""
    from helpers.cli import people

    people.env(given, name)


@task(name="show", help={**FORMAT, **JSON})
def credentials_show(context: Context, given: Given, format: str = "table", json: bool = False) -> None:
    """Show the generated secrets."""
    from helpers.cli import people

    people.show_credentials(given, format, json)


@task(name="rotate")
def credentials_rotate(context: Context, given: Given) -> None:
    """Replace every generated secret while it runs. The data stay."""
    from helpers.cli import people

    people.rotate_credentials(given)


@task(name="init")
def credentials_init(context: Context, given: Given) -> None:
    """Prepare for a bare `docker compose up`. Makes images, volumes, secrets and compose.yaml."""
    from helpers.cli import people

    people.make_credentials(given)


@task(
    name="create",
    help={
        "to": "Place of the backup: a file; or FOLDER/ or s3://BUCKET/PREFIX, where later backups store only what is "
        "new (default: a file in the state folder's backups)",
        "with_secrets": "Put the generated secrets into it too (the file is 0600)",
    },
)
def backup(context: Context, given: Given, to: str = "", with_secrets: bool = False) -> int:
    """Back up database and artifacts while everything runs. They are consistent with each other."""
    from helpers.cli import data

    return data.backup(given, to, with_secrets)


@task(
    name="verify",
    word="place",
    help={
        "place": "Place of backups: a file, a folder or s3://BUCKET/PREFIX, or one backup there (default: the files in "
        "the state folder's backups)",
        "repair": "Store again what is damaged, from copies and from the running system",
    },
)
def backup_verify(context: Context, given: Given, place: str = "", repair: bool = False) -> int:
    """Check backups by reading them back. Names what is damaged or missing, and whose artifacts that are."""
    from helpers.cli import data

    return data.verify(given, place, repair)


@task(
    positional=["source"],
    help={
        "source": "What `invoke backup` printed: a file, a backup in a folder or s3://...; the folder or "
        "s3://BUCKET/PREFIX alone: its newest backup",
        "into": "Name of a new or empty project to restore into, on free ports; the current one stays as it is",
        "no_backup": "Do not back up what is there before it is replaced",
        "skip_damaged": "Restore what is whole of a damaged backup, and name what was left out",
        "yes": "Answer beforehand: do not ask",
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
    """Replace what is there by a backup, on any engine. The old state stays in use until the last step."""
    from helpers.cli import data

    data.restore(given, source, into, no_backup, skip_damaged, yes)


@task(help={"to": "Engine to go to: docker or embedded"})
def move(context: Context, given: Given, to: str) -> None:
    """Bring everything to the other engine. Backs up, restores there, switches, removes here."""
    from helpers.cli import data

    data.move(given, to)


@task(help={"back": "Return to the state that the last upgrade kept"})
def upgrade(context: Context, given: Given, back: bool = False) -> None:
    """Upgrade to the versions of this clone. A copy of the database is migrated and proven; the old one is kept."""
    from helpers.cli import data

    (data.go_back if back else data.upgrade)(given)


@task(help={**TABLE_OR_JSON, **JSON})
def usage(context: Context, given: Given, format: str = "table", json: bool = False) -> None:
    """Show what takes room on the disk, by experiment, and what is free."""
    from helpers.cli import data

    data.usage(given, format, json)


@task(
    help={
        "older_than": "Least time since it was deleted, as in 30d or 12h",
        "yes": "Remove it; without this it is only shown",
    }
)
def gc(context: Context, given: Given, older_than: str = "30d", yes: bool = False) -> None:
    """Free the disk of what was deleted in MLflow long ago. Shows first what would go."""
    from helpers.cli import data

    data.gc(given, older_than, yes)


@task(
    word="image",
    help={
        "image": "Image: mlflow, jupyter, versitygw or gateway (default: mlflow and jupyter)",
        "push": "Push them to --registry",
        "registry": "Registry to push to, as in ghcr.io/our-lab",
    },
)
def build(context: Context, given: Given, image: str = "", push: bool = False, registry: str = "") -> None:
    """Build the images for this machine's GPU, or a named one. Does nothing where nothing changed."""
    from helpers.cli import toolkit

    toolkit.build(given, image, push, registry)


@task(help={**TABLE_OR_JSON, **JSON})
def version(context: Context, format: str = "table", json: bool = False) -> None:
    """Print the versions of Trackbed and of what it starts."""
    from helpers.cli import toolkit

    toolkit.version(format, json)


@task(help={"upgrade": "Take newer versions where requirements.in allows them, and today's digests of images"})
def lock(context: Context, upgrade: bool = False) -> None:
    """Refresh the hash-locked requirements. Those of the toolkit, the images and the embedded engine, with uv."""
    from helpers.cli import toolkit

    toolkit.lock(upgrade)


namespace = Collection(
    *(up, jupyter, down, status, logs, jupyter_url, mlflow_url, check, doctor),
    *(env, restore, move, upgrade, usage, gc, build, version, lock),
)
# a noun that has verbs; alone it means its first
for noun, verbs in {
    "users": (users_list, users_add, users_passwd, users_remove),
    "credentials": (credentials_show, credentials_rotate, credentials_init),
    "backup": (backup, backup_verify),
}.items():
    group = Collection(noun)
    for place, verb in enumerate(verbs):
        group.add_task(verb, default=place == 0)
    namespace.add_collection(group)
command_line.read(namespace)
