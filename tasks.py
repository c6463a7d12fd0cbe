"""Trackbed's tasks: flags -> settings -> one call -> print. `invoke --list` names them all."""

# Nothing heavy may be imported here: it would slow down every `invoke --list`. What a task does is imported in it.
# Behind a parameter `given` stand flags of settings (--gpu, --mlflow-port, ...): `task` of command_line.py makes them
# from the declarations in helpers/settings/declared whose ``tasks`` name this task, and hands over what was typed.
from __future__ import annotations

from helpers import byte_code  # noqa: F401 - first: Python keeps what is compiled from here on

# isort: split
from invoke.collection import Collection
from invoke.context import Context

import backup_tasks
import command_line
import lab_tasks
from command_line import JSON, TABLE_OR_JSON, task
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


@task(help=TABLE_OR_JSON)
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


@task(help=TABLE_OR_JSON)
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
    *(env, usage, gc, build, bundle, prepare, version, lock),
    *(backup_tasks.restore, backup_tasks.import_, backup_tasks.move, backup_tasks.upgrade),
    *(lab_tasks.demo, lab_tasks.explain, lab_tasks.completion),
)
# a noun that has verbs; alone it means its first
for noun, verbs in {
    "users": (users_list, users_add, users_passwd, users_remove),
    "credentials": (credentials_show, credentials_rotate),
    "data": (lab_tasks.data, lab_tasks.data_add, lab_tasks.data_remove),
    "backup": backup_tasks.BACKUP,
}.items():
    group = Collection(noun)
    for place, verb in enumerate(verbs):
        group.add_task(verb, default=place == 0)
    namespace.add_collection(group)
command_line.read(namespace)
