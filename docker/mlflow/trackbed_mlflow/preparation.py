"""What is there before a server serves: MLflow's tables and the bucket.

Several servers of one database leave the making to one process (`prepare`, `bucket`) and wait for it (`wait`).
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from trackbed_mlflow import PROGRAM, bucket, schema
from trackbed_mlflow.errors import FAILED, REFUSED, NotYet, Stop, required, say, wait

LONGEST = 600.0  # seconds; whoever runs `wait` or `serve` starts it again
REPLACED_SECONDS = 10.0
STORE_SECONDS = 10.0  # for which a start waits for a store that gives no answer


def starting_schema(
    environment: Mapping[str, str],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str | None]:
    """The schema of a database that starts beside this server: it may have to repair itself first, and the password of
    the server's role may still be replaced, so that it refuses for a moment."""
    end = math.inf

    def look() -> dict[str, str | None]:
        nonlocal end
        try:
            return schema.look(environment)
        except Stop as stop:
            end = min(end, clock() + REPLACED_SECONDS)
            if stop.code != REFUSED or clock() >= end:
                raise
            raise NotYet(str(stop).partition("\n")[0]) from None

    return wait("the database", look, LONGEST, clock, sleep)


def prepare_database(starting: bool = False) -> str:
    """The schema of this MLflow, or Stop: an empty database is filled, an older one is migrated where that is asked.
    Gives what it was: empty, older or current."""
    return _prepare(starting_schema(os.environ) if starting else schema.schema(os.environ))


def prepare_if_it_answers() -> str:
    """The same where the database answers already, else "": what ends a start does so before MLflow is imported."""
    try:
        found = schema.look(os.environ)
    except NotYet:
        return ""
    except Stop as stop:
        if stop.code != REFUSED:
            raise
        return ""
    return _prepare(found)


def _prepare(result: Mapping[str, str | None]) -> str:
    if result["state"] == "empty" and (statements := schema.template(str(result["code"]))):
        schema.fill(os.environ["MLFLOW_BACKEND_STORE_URI"], statements)
    if schema.guard(result, os.environ.get("TRACKBED_MIGRATE") == "1"):
        say(f"migrating the database from {result['database']} to {result['code']}")
        done = subprocess.run([sys.executable, PROGRAM, "migrate"], check=False)
        if done.returncode:
            raise Stop(FAILED, f"the migration failed (exit code {done.returncode}); nothing was started")
    return str(result["state"])


def await_bucket(
    environment: Mapping[str, str],
    first: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns when the bucket is there, which is made beside this start. Raises Stop where nobody makes it.

    After the ``first`` start a store that gives no answer, refuses, or has no such bucket any more is missing for
    artifacts alone: after a moment the rest is served without it.
    """
    if not required(environment, "MLFLOW_ARTIFACTS_DESTINATION").startswith("s3://"):
        return
    end = clock() + STORE_SECONDS

    def look() -> None:
        try:
            if bucket.is_there(environment):
                return
            missing = "there is no bucket"
        except (NotYet, Stop) as reason:
            missing = str(reason)
        if first or clock() < end:
            raise NotYet(missing)
        say(f"the server starts without the object store: {missing}")

    wait("the bucket", look, LONGEST, clock, sleep)


def make_tables() -> str:
    """MLflow's tables are there afterwards, made as MLflow does where the prepared ones could not be used."""
    prepare_database()
    current = schema.schema(os.environ)
    if current["state"] == "empty":
        schema.make_as_mlflow(required(os.environ, "MLFLOW_BACKEND_STORE_URI"))
    return f"the database has the schema {current['code']}"


def await_both(environment: Mapping[str, str], seconds: float = LONGEST) -> str:
    """`wait`: until a server can start. Changes nothing. Raises Stop for what waiting does not change."""

    def look() -> None:
        current = schema.look(environment)
        if current["state"] == "newer":
            schema.guard(current, False)
        if current["state"] != "current":
            raise NotYet(f"the database's schema is {current['database'] or 'empty'}, needed: {current['code']}")
        if not bucket.is_there(environment):
            raise NotYet("there is no bucket yet")

    wait("the database with its tables and the bucket", look, seconds)
    return "the database, its tables and the bucket are there"
