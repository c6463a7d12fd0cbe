"""Indexes of ours beside MLflow's own: they only add, and go as they came.

MLflow's search for runs sorts every run of the experiment for each page. In the order of the first two indexes it reads
the page's rows alone; so it does with pages of experiments and the next two. The second one is the order that the pages
ask for, which sort by "has a start time" first; its expression is the one in MLflow's query, or it would not be used.
The last three serve the fast path's own search (fast_path/pages.py). Values of parameters and tags may have 8,000
characters, and no B-tree takes these: it has hashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import Any

from trackbed_mlflow.errors import FAILED, USAGE, NotYet, Stop, required, say, wait

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
# Remembered in the database itself: who has removed them does not want them back at the next start. As a comment, which
# goes along in a copy of the database, not in a restore; for a parameter of the database, as before, a role has to be a
# superuser.
SWITCH = "trackbed.indexes"
UNWANTED = f"{SWITCH} = off"
ALONE = 7_270_921_415  # the advisory lock of who makes indexes of large tables, or removes ours; any number of our own
PATIENCE = 5  # seconds, for a lock that someone else holds
LONG_PATIENCE = 600  # nobody waits for us meanwhile; a backup may last that long
LARGE = 16 * 2**20  # bytes of a table whose index takes so long that others write meanwhile, and the server serves


def present(connection: Any) -> dict[str, bool]:
    """Our indexes in the database by name, and whether each is whole (an interrupted concurrent build is not)."""
    rows = connection.exec_driver_sql(
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = 'public' AND starts_with(c.relname, 'trackbed_')"
    )
    return dict(tuple(row) for row in rows)


def unwanted(connection: Any) -> bool:
    return any(_said(connection))


def _said(connection: Any) -> tuple[bool, bool]:
    """Whether the parameter, and whether the comment says that they are not wanted."""
    said = f"current_setting('{SWITCH}', true), obj_description(to_regclass('public.runs'), 'pg_class')"
    setting, comment = connection.exec_driver_sql(f"SELECT {said}").one()
    return setting == "off", comment == UNWANTED


@contextmanager
def _alone(connection: Any) -> Iterator[None]:
    """No other process is in here. The database forgets that a killed one was, once it has ended its statement.

    Asked again and again: a statement that waits has a snapshot, and a concurrent build waits for all of these.
    """

    def ask() -> None:
        if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({ALONE})").scalar():
            raise NotYet("it is still at work")

    wait("another process that makes or removes indexes", ask, LONG_PATIENCE)
    with _at_the_end(connection, f"SELECT pg_advisory_unlock({ALONE})"):
        yield


@contextmanager
def _at_the_end(connection: Any, statement: str) -> Iterator[None]:
    """``statement`` in any case; where that fails too, what failed before is what is raised."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            connection.exec_driver_sql(statement)
        raise
    connection.exec_driver_sql(statement)


def ensure(
    engine: Any,
    concurrently: bool = False,
    chosen: Mapping[str, str] = MappingProxyType(INDEXES),
    made: Callable[[str, float], None] = lambda name, seconds: None,
    patience: int = PATIENCE,
    alone: bool = False,
) -> list[str]:
    """Make what is missing of ``chosen``; gives the names. ``concurrently`` lets others write meanwhile, and waits for
    them. That is so for large tables in any case. ``made`` is told of each, with its seconds. Who does not want them
    any more meanwhile is asked before each, unless ``concurrently``: then they are wanted from now on."""
    created: list[str] = []
    with (
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        _alone(connection) if alone else nullcontext(),
        # the connection goes back to the server's others, which wait as long as they have to
        _at_the_end(connection, "RESET lock_timeout"),
    ):
        connection.exec_driver_sql(f"SET lock_timeout = '{patience}s'")
        for name, body in chosen.items():
            if not concurrently and unwanted(connection):
                return created
            if not present(connection).get(name):  # another process may have made it since
                began = time.monotonic()
                _create(connection, name, body, concurrently or _size(connection, body) > LARGE)
                created.append(name)
                made(name, time.monotonic() - began)
        if concurrently:
            _remember(connection, False)
    return created


def large(engine: Any) -> dict[str, int]:
    """Our indexes that are missing, wanted, and of large tables, with the bytes of the tables."""
    with engine.connect() as connection:
        if unwanted(connection):
            return {}
        result = present(connection)
        sizes = {name: _size(connection, body) for name, body in INDEXES.items() if not result.get(name)}
    return {name: size for name, size in sizes.items() if size > LARGE}


def remove(engine: Any) -> list[str]:
    """Drop them and remember that they are not wanted; gives the names."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _remember(connection, True)  # at first: who makes them stops
        with _alone(connection):
            result = [name for name in present(connection) if name in INDEXES]
            for name in result:
                connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    return result


def make(engine: Any) -> bool:
    """Our indexes of small tables, before the first request; gives whether ``make_large`` has something to do. Without
    indexes everything works, only slower: no reason not to start."""
    from sqlalchemy.exc import SQLAlchemyError

    if engine.dialect.name != "postgresql":
        return False
    later: dict[str, int] = {}
    try:
        later = large(engine)
        if created := ensure(engine, chosen={name: body for name, body in INDEXES.items() if name not in later}):
            say(f"made the indexes {', '.join(created)}")
    except SQLAlchemyError as error:
        _failed(error)
    if later:
        tables = {INDEXES[name].split()[0]: size for name, size in later.items()}
        amount = ", ".join(f"{table} {size / 2**20:.0f} MiB" for table, size in tables.items())
        say(f"making {len(later)} indexes of large tables ({amount}) beside the server; pages are slower until then")
    return bool(later)


def make_large(environment: Mapping[str, str]) -> str:
    """`indexes --missing`: what ``make`` has left, beside the server that started this."""
    import sqlalchemy

    engine = _engine(environment)
    try:
        ensure(
            engine,
            chosen={name: INDEXES[name] for name in large(engine)},
            made=lambda name, seconds: say(f"made the index {name} in {seconds:.0f} s"),
            patience=LONG_PATIENCE,
            alone=True,
        )
    except (
        sqlalchemy.exc.SQLAlchemyError,
        Stop,
    ) as error:  # gunicorn takes what ends otherwise for a worker that failed
        _failed(error)
    return "the indexes of large tables are looked after"


def change(environment: Mapping[str, str], away: bool) -> str:
    """`indexes`: make or remove them while the server works."""
    import sqlalchemy

    engine = _engine(environment)
    try:
        names = remove(engine) if away else ensure(engine, concurrently=True, alone=True)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise Stop(FAILED, f"the database refuses: {' '.join(str(error).split())[:300]}") from None
    return f"indexes {'removed' if away else 'made'}: {', '.join(names) or 'none'}"


def _engine(environment: Mapping[str, str]) -> Any:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(required(environment, "MLFLOW_BACKEND_STORE_URI"))
    if url.get_backend_name() != "postgresql":
        raise Stop(USAGE, "the indexes are for PostgreSQL")
    return sqlalchemy.create_engine(url, poolclass=NullPool)


def _failed(error: Exception) -> None:
    say(f"searching stays slower, an index could not be made: {' '.join(str(error).split())[:300]}")


def _create(connection: Any, name: str, body: str, concurrently: bool) -> None:
    how = " CONCURRENTLY" if concurrently else ""
    connection.exec_driver_sql(f"DROP INDEX{how} IF EXISTS {name}")  # of an interrupted build
    try:
        connection.exec_driver_sql(f"CREATE INDEX{how} {name} ON {body}")
    except BaseException:
        with suppress(Exception):  # where the connection has ended, the next start does it
            if present(connection).get(name) is False:  # it would cost writers time, and serve nobody
                connection.exec_driver_sql("SET lock_timeout = 0")  # what ended the build, as a backup, would end this
                connection.exec_driver_sql(f"DROP INDEX{how} {name}")
        raise


def _size(connection: Any, body: str) -> int:
    """Bytes of an index's table."""
    return int(connection.exec_driver_sql(f"SELECT pg_relation_size('{body.split()[0]}')").scalar_one())


def _remember(connection: Any, away: bool) -> None:
    parameter, comment = _said(connection)
    if away:
        if not (parameter or comment):
            connection.exec_driver_sql(f"COMMENT ON TABLE runs IS {UNWANTED!r}")
        return
    if comment:
        connection.exec_driver_sql("COMMENT ON TABLE runs IS NULL")
    if parameter:  # else it is not touched: that takes the owner of the database, who another one may be
        name = connection.exec_driver_sql("SELECT quote_ident(current_database())").scalar()
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET {SWITCH}")
        connection.exec_driver_sql(f"RESET {SWITCH}")
