"""Settings of backups: where to, how often, which stay, and the bucket's keys."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import setting
from helpers.settings.kinds import optional

SCHEDULE = ("backup.schedule",)
KEEPING = ("backup.prune", *SCHEDULE)
SERVER = ("server",)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Backups:
    """Backups"""

    backup_to: str = setting(
        "",
        optional(kinds.BACKUP_PLACE, ""),
        "Place of backups: FOLDER/ or s3://BUCKET/PREFIX; `backup --to` takes a file too; empty is a file in the state "
        "folder's backups",
        tasks=("backup", *SCHEDULE),
        option="--to",
        remembered=False,
        only=SERVER,
    )
    backup_every: int = setting(
        "",
        optional(kinds.INTERVAL, 0),
        "Time between two backups that are made by themselves; in .env, `up` makes that schedule; empty is no schedule",
        tasks=SCHEDULE,
        option="--every",
        remembered=False,
        only=SERVER,
    )
    lease_end: str = setting(
        "",
        optional(kinds.LEASE_END, ""),
        "When this machine is taken away: a date with time zone, as in 2026-11-28T18:00Z; auto asks the cloud",
        tasks=("up",),
        only=SERVER,
    )
    backup_keep_last: int = setting(
        "0", kinds.COUNT, "Number of newest backups to keep", tasks=KEEPING, option="--keep-last", remembered=False
    )
    backup_keep_daily: int = setting(
        "0",
        kinds.COUNT,
        "Number of days of which to keep the last backup",
        tasks=KEEPING,
        option="--keep-daily",
        remembered=False,
    )
    backup_keep_weekly: int = setting(
        "0",
        kinds.COUNT,
        "Number of weeks of which to keep the last backup",
        tasks=KEEPING,
        option="--keep-weekly",
        remembered=False,
    )
    backup_keep_monthly: int = setting(
        "0",
        kinds.COUNT,
        "Number of months of which to keep the last backup",
        tasks=KEEPING,
        option="--keep-monthly",
        remembered=False,
    )
    backup_workspace: bool = setting(
        "false",
        kinds.SWITCH,
        "Whether backups hold the files of the notebook's workspace too",
        tasks=("backup",),
        option="--with-workspace",
        switch=True,
        remembered=False,
        only=SERVER,
    )
    backup_workspace_exclude: tuple[str, ...] = setting(
        ".ipynb_checkpoints,__pycache__,.cache,.mypy_cache,.pytest_cache,.ruff_cache,.venv,node_modules,.Trash-*,"
        "lost+found",
        kinds.PATTERNS,
        "Names in the workspace that backups leave out, with commas; * and ? as in a shell, with a / it is a path",
        remembered=False,
        only=SERVER,
    )
    backup_workspace_largest: str = setting(
        "1g",
        kinds.SIZE,
        "Size of a file above which backups leave it out of the workspace",
        remembered=False,
        only=SERVER,
    )
    backup_passphrase: str = setting(
        "",
        optional(kinds.PASSPHRASE, ""),
        "Passphrase that encrypts backups in folders and buckets; without it nobody can read them again",
        secret=True,
        remembered=False,
    )
    backup_s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "Endpoint of the object store for backups to s3://BUCKET/PREFIX; empty is AWS",
        remembered=False,
    )
    backup_s3_region: str = setting("us-east-1", kinds.REGION, "Region of the backup bucket", remembered=False)
    backup_s3_access_key: str = setting("", kinds.ACCESS_KEY, "Access key of the backup bucket", remembered=False)
    backup_s3_secret_key: str = setting(
        "", kinds.key(8), "Secret key of the backup bucket", secret=True, remembered=False
    )
