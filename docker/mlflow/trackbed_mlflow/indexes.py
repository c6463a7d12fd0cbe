"""Indexes of ours beside MLflow's own: they only add, and go as they came.

MLflow's search for runs sorts every run of the experiment for each page. In the order of the first two indexes it reads
the page's rows alone; so it does with pages of experiments and the next two. The second one is the order that the pages
ask for, which sort by "has a start time" first; its expression is the one in MLflow's query, or it would not be used.
The last three serve the fast path's own search (fast_path/pages.py). Values of parameters and tags may have 8,000
characters, and no B-tree takes these: it has hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackbed_mlflow.errors import FAILED, USAGE, Stop, required, say

LATEST_VALUES, PARAM_HASHES, TAG_HASHES = "trackbed_latest_values", "trackbed_param_hashes", "trackbed_tag_hashes"
INDEXES = {
    "trackbed_runs_newest": "runs (experiment_id, start_time DESC, run_uuid)",
    "trackbed_runs_newest_listed": (
        "runs (experiment_id, (CASE WHEN start_time IS NULL THEN 1 ELSE 0 END), start_time DESC, run_uuid)"
    ),
    "trackbed_experiments_created": "experiments (creation_time DESC, experiment_id)",
    "trackbed_experiments_updated": "experiments (last_update_time DESC, experiment_id DESC)",
    LATEST_VALUES: "latest_metrics (key, value) WHERE NOT is_nan",
    PARAM_HASHES: "params (key, hashtextextended(value, 0))",
    TAG_HASHES: "tags (key, hashtextextended(value, 0))",
}
# remembered in the database itself: who has removed them does not want them back at the next start
SWITCH = "trackbed.indexes"
PATIENCE = "5s"  # for a lock that someone else holds
LARGE = 16 * 2**20  # bytes of a table whose index takes long enough to let others write meanwhile


def present(connection: Any) -> dict[str, bool]:
    """Our indexes in the database by name, and whether each is whole (an interrupted concurrent build is not)."""
    rows = connection.exec_driver_sql(
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'public' AND starts_with(c.relname, 'trackbed_')"
    )
    return dict(tuple(row) for row in rows)


def unwanted(connection: Any) -> bool:
    result = connection.exec_driver_sql(f"SELECT current_setting('{SWITCH}', true)").scalar()
    return bool(result == "off")


def ensure(engine: Any, concurrently: bool = False) -> list[str]:
    """Make what is missing; gives the names. ``concurrently`` lets others write meanwhile, and waits for them. That is
    so for large tables in any case."""
    created = []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if unwanted(connection) and not concurrently:
            return []
        connection.exec_driver_sql(f"SET lock_timeout = '{PATIENCE}'")
        result = present(connection)
        for name, body in INDEXES.items():
            if not result.get(name):
                _create(connection, name, body, concurrently or _large(connection, body.split()[0]))
                created.append(name)
        if concurrently:
            _remember(connection, f"RESET {SWITCH}")
        connection.exec_driver_sql("RESET lock_timeout")
    return created


def remove(engine: Any) -> list[str]:
    """Drop them and remember that they are not wanted; gives the names."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _remember(connection, f"SET {SWITCH} = 'off'")
        result = [name for name in present(connection) if name in INDEXES]
        for name in result:
            connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    return result


def make(engine: Any) -> None:
    """Our indexes, before the first request. Without them everything works, only slower: no reason not to start."""
    from sqlalchemy.exc import SQLAlchemyError

    if engine.dialect.name != "postgresql":
        return
    try:
        if created := ensure(engine):
            say(f"made the indexes {', '.join(created)}")
    except SQLAlchemyError as error:
        say(f"searching stays slower, an index could not be made: {' '.join(str(error).split())[:300]}")


def change(environment: Mapping[str, str], away: bool) -> str:
    """`indexes`: make or remove them while the server works."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(required(environment, "MLFLOW_BACKEND_STORE_URI"))
    if url.get_backend_name() != "postgresql":
        raise Stop(USAGE, "the indexes are for PostgreSQL")
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    try:
        names = remove(engine) if away else ensure(engine, concurrently=True)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise Stop(FAILED, f"the database refuses: {' '.join(str(error).split())[:300]}") from None
    return f"indexes {'removed' if away else 'made'}: {', '.join(names) or 'none'}"


def _create(connection: Any, name: str, body: str, concurrently: bool) -> None:
    how = " CONCURRENTLY" if concurrently else ""
    connection.exec_driver_sql(f"DROP INDEX{how} IF EXISTS {name}")  # of an interrupted build
    try:
        connection.exec_driver_sql(f"CREATE INDEX{how} {name} ON {body}")
    finally:
        if present(connection).get(name) is False:  # a build that failed: it would cost writers time, and serve nobody
            connection.exec_driver_sql(f"DROP INDEX{how} {name}")


def _large(connection: Any, table: str) -> bool:
    return bool(connection.exec_driver_sql(f"SELECT pg_relation_size('{table}') > {LARGE}").scalar_one())


def _remember(connection: Any, what: str) -> None:
    name = connection.exec_driver_sql("SELECT quote_ident(current_database())").scalar()
    connection.exec_driver_sql(f"ALTER DATABASE {name} {what}")
