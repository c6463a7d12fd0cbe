"""More of Trackbed's tasks, as tasks.py has them: backups, and what brings data in, back, or to another engine."""

# As in tasks.py nothing heavy may be imported here.
from __future__ import annotations

from invoke.context import Context

from command_line import TABLE_OR_JSON, task
from helpers.settings.flags import Flags

PLACE = {"place": "Place of backups: a folder or s3://BUCKET/PREFIX (default: BACKUP_TO, or the state folder)"}


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


@task(name="list", word="place", help={**PLACE, **TABLE_OR_JSON})
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


# the verbs of `backup`, the first is what it means alone
BACKUP = (backup, backup_list, backup_verify, backup_prune, backup_schedule, backup_last, backup_passphrase)
