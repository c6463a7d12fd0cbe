"""MLflow's empty schema as statements: schema.sql of the server, which a first start loads instead of 40 migrations.

    python -m helpers.schema_template >docker/mlflow/trackbed_mlflow/schema.sql

makes it again with a running project, after the pinned MLflow has changed. A template of another revision is not used.
"""

from __future__ import annotations

import re
import sys

from helpers import database_settings, lifecycle, status
from helpers.backups import unpack
from helpers.data import database, journal
from helpers.engines.base import MLFLOW, POSTGRES, Engine
from helpers.errors import TrackbedError
from helpers.project.project import Project

# `IN` as pg_dump writes it down; read back, it would be written in yet another way, unlike MLflow's own
ANY_OF = re.compile(r"\(\((\w+)\)::text = ANY \(\(ARRAY\[([^]]*)\]\)::text\[\]\)\)")


def original(line: str) -> str:
    """A dumped line with its lists of values as MLflow had written them."""
    return ANY_OF.sub(lambda m: f"({m[1]} IN ({m[2].replace('::character varying', '')}))", line)


def text(engine: Engine, name: str) -> str:
    """The database's tables, and the rows that its migrations put into them, as statements; the revision in front."""
    done = engine.exec(
        POSTGRES, ("pg_dump", "--no-owner", "--no-privileges", "--inserts", "-U", database_settings.USER, "-d", name)
    )
    if done.code:
        raise TrackbedError(f"pg_dump: {done.stderr.strip()[-300:]}", "`invoke logs postgres`")
    # settings of a session: not every server knows them all, and every name is written with its schema
    dropped = ("--", "\\", "SET ", "SELECT pg_catalog.set_config")
    lines = [original(line) for line in done.stdout.splitlines() if line and not line.startswith(dropped)]
    with database.session(engine, name) as opened:
        revision = opened.ask("SELECT version_num FROM alembic_version")[0]
    return "\n".join([f"-- revision {revision}", *lines]) + "\n"


def make(project: Project) -> str:
    """What MLflow's own migrations make of an empty database beside the active one."""
    engine = status.running(project)
    name = f"{journal.fresh()['database']}_template"
    database.create(engine, name)
    try:
        beside = unpack.beside(project, {**project.state.active, "database": name})
        done = beside.one_shot(MLFLOW, (unpack.PROGRAM, "migrate"), timeout=600)
        if done.code:
            raise TrackbedError(f"the migration failed: {done.stderr.strip()[-300:]}", "please report it")
        return text(engine, name)
    finally:
        database.drop(engine, name)


if __name__ == "__main__":
    sys.stdout.write(make(lifecycle.load({})))
