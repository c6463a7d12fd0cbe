"""The database's schema: whether it is this MLflow's, and an empty one filled at once."""

from __future__ import annotations

import ast
import importlib.util
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackbed_mlflow import amounts
from trackbed_mlflow.errors import MISCONFIGURED, REFUSED, USAGE, NotYet, Stop, required, say, wait

_LINE = re.compile(r"^(revision|down_revision)\s*(?::[^=\n]+)?=\s*(.+?)\s*(?:#.*)?$", re.MULTILINE)
TEMPLATE = "schema.sql"  # beside this file; `python -m helpers.schema_template` makes it


def migrations(folder: Path) -> tuple[str, frozenset[str]]:
    """Newest revision and all known ones, read from the migration files as text.

    Alembic's own ScriptDirectory executes each file, which imports all of MLflow: 8 seconds.
    """
    known: set[str] = set()
    parents: set[str] = set()
    for path in folder.glob("*.py"):
        for name, text in _LINE.findall(path.read_text(encoding="utf-8")):
            value = ast.literal_eval(text)
            values = (value,) if isinstance(value, str) else tuple(value or ())
            (known if name == "revision" else parents).update(values)
    heads = known - parents
    if len(heads) != 1:
        raise Stop(MISCONFIGURED, f"{len(heads)} newest revisions instead of one in MLflow's {folder}")
    return heads.pop(), frozenset(known)


def steps(folder: Path, database: str, code: str) -> int:
    """How many migrations lead from one revision to another."""
    above: dict[str, tuple[str, ...]] = {}
    for path in folder.glob("*.py"):
        found = dict(_LINE.findall(path.read_text(encoding="utf-8")))
        if "revision" in found:
            before = ast.literal_eval(found.get("down_revision", "None"))
            above[ast.literal_eval(found["revision"])] = (before,) if isinstance(before, str) else tuple(before or ())

    def history(revision: str) -> set[str]:
        result, waiting = set[str](), [revision]
        while waiting:
            if (one := waiting.pop()) not in result:
                result.add(one)
                waiting += above.get(one, ())
        return result

    return len(history(code) - history(database))


class Steps(logging.Filter):
    """Tells of each migration that Alembic begins; it logs each of them. Nothing of it is written."""

    LOGGER = "alembic.runtime.migration"

    def __init__(self, whole: int) -> None:
        super().__init__()
        self._begun, self._whole = 0, whole

    def attach(self) -> None:
        logger = logging.getLogger(self.LOGGER)
        logger.setLevel(logging.INFO)
        logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("Running upgrade"):
            amounts.tell("migrations", self._begun, self._whole)
            self._begun += 1
        return record.levelno > logging.INFO


def tell_steps(environment: Mapping[str, str]) -> None:
    """From now on it is told how far a migration in this process is."""
    now = schema(environment)
    if now["state"] == "older" and now["database"] and now["code"]:
        Steps(steps(versions(), now["database"], now["code"])).attach()


def schema_state(database: str | None, populated: bool, code: str, known: frozenset[str]) -> str:
    """empty, current, older or newer.

    Tables without a revision and without runs are a first start that was killed half-way: MLflow goes on.
    """
    if database is None:
        return "older" if populated else "empty"
    if database == code:
        return "current"
    return "older" if database in known else "newer"


PASSWORD = (
    "type `invoke up`: it gives this project's database the password of its secrets. A database of your own "
    "(DATABASE_HOST) needs its password in .env first, as POSTGRES_PASSWORD"
)


def refused(message: str) -> bool:
    """True for answers of PostgreSQL that waiting does not change."""
    words = (
        "password authentication failed",
        "no password supplied",
        "no pg_hba.conf entry",
        "is not permitted to log in",
    )
    return any(word in message for word in words)


def read_database(uri: str) -> tuple[str | None, bool]:
    """The revision in the database, and whether it has runs."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(uri)
    options: dict[str, Any] = {"connect_timeout": 5} if url.get_backend_name() == "postgresql" else {}
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=options)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            rows: list[str] = []
            if "alembic_version" in tables:
                query = sqlalchemy.text("SELECT version_num FROM alembic_version")
                rows = sorted(connection.execute(query).scalars())
            populated = (
                "runs" in tables
                and connection.execute(sqlalchemy.text("SELECT 1 FROM runs LIMIT 1")).first() is not None
            )
    except sqlalchemy.exc.OperationalError as error:
        reason = " ".join(str(error.orig).split())
        if refused(reason):
            step = f"\n{PASSWORD}" if "password" in reason else ""
            raise Stop(REFUSED, f"the database refuses: {reason}{step}") from None
        raise NotYet(reason) from None
    except sqlalchemy.exc.InternalError as error:  # a page that does not match its checksum
        raise Stop(
            MISCONFIGURED,
            f"the database is damaged: {' '.join(str(error.orig).split())}\n"
            "`invoke check` names the tables; `invoke restore FILE --into=NAME` brings a backup as a second "
            "system",
        ) from None
    return ",".join(rows) or None, populated


def versions() -> Path:
    """Where the installed MLflow keeps its migrations."""
    spec = importlib.util.find_spec("mlflow")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise Stop(MISCONFIGURED, "MLflow is not installed here")
    return Path(next(iter(spec.submodule_search_locations)), "store", "db_migrations", "versions")


def find_migrations() -> None:
    """Let MLflow in this process find its migrations where a folder above them has % in its name.

    Alembic expands % in a configuration's values; MLflow doubles it in the database's address, not in that folder.
    """
    if "%" not in str(versions()):
        return
    from mlflow.store.db import utils  # type: ignore[import-not-found]

    utils._get_alembic_config = alembic_config


def alembic_config(db_url: str, alembic_dir: str | None = None) -> Any:
    """MLflow's function of that work, without its file: that holds these two values only."""
    from alembic.config import Config  # type: ignore[import-not-found]

    created = Config()
    for name, value in (("script_location", alembic_dir or str(versions().parent)), ("sqlalchemy.url", db_url)):
        created.set_main_option(name, value.replace("%", "%%"))
    return created


def known(revision: str) -> str:
    """What a revision is to this MLflow: current, older or newer."""
    code, revisions = migrations(versions())
    return schema_state(revision, True, code, revisions)


def look(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The schema as it is now. Raises NotYet while the database does not answer."""
    code, revisions = migrations(versions())
    database, populated = read_database(required(environment, "MLFLOW_BACKEND_STORE_URI"))
    return {"database": database, "code": code, "state": schema_state(database, populated, code, revisions)}


def schema(environment: Mapping[str, str]) -> dict[str, str | None]:
    """The schema as soon as the database answers."""
    return wait("the database", lambda: look(environment))


def guard(found: Mapping[str, str | None], migrate: bool) -> bool:
    """True when a migration has to run first; stops when the schema is not for this MLflow."""
    have, want = found["database"] or "none", found["code"]
    if found["state"] == "older" and not migrate:
        raise Stop(
            MISCONFIGURED,
            f"the database has the schema of an older MLflow ({have}, needed: {want}); "
            "it is not migrated silently\n`invoke upgrade` backs up, migrates a copy and switches to it; "
            "without Trackbed: TRACKBED_MIGRATE=1",
        )
    if found["state"] == "newer":
        raise Stop(
            MISCONFIGURED,
            f"the database has the schema of a newer MLflow ({have}, needed: {want})\n"
            "start the newer MLflow again, or restore a backup made with this one",
        )
    return found["state"] == "older"


def template(code: str) -> str | None:
    """The statements that make MLflow's empty schema, if what lies beside this file is of that revision."""
    try:
        first, _, statements = Path(__file__).with_name(TEMPLATE).read_text("utf-8").partition("\n")
    except OSError:
        return None
    return statements if first == f"-- revision {code}" else None


def fill(uri: str, statements: str) -> bool:
    """Make the tables of an empty PostgreSQL database at once; False when it is not empty or another kind.

    MLflow's own way is its first tables and 40 migrations over them. All or nothing: after an error MLflow makes them.
    """
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "postgresql":
        return False
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            # two servers on one empty database: the second one waits, and then finds tables
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(7236015)"))
            if sqlalchemy.inspect(connection).get_table_names():
                return False
            with connection.connection.cursor() as cursor:  # SQLAlchemy would take % for a placeholder
                cursor.execute(statements)
            return True
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error))
    except Exception as error:  # the driver's own
        if type(error).__module__.partition(".")[0] != "psycopg2":
            raise
        reason = str(error)
    say(f"the prepared schema could not be used ({' '.join(reason.split())}); MLflow makes it")
    return False


def make(uri: str, revision: str) -> None:
    """MLflow's schema of a revision in an empty database: its first tables, and its migrations up to there."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    if schema_state(revision, True, *migrations(versions())) == "newer":
        raise Stop(USAGE, f"{revision} is no revision of this MLflow's schema")
    engine = sqlalchemy.create_engine(uri, poolclass=NullPool)
    if sqlalchemy.inspect(engine).get_table_names():
        raise Stop(MISCONFIGURED, "the database is not empty")
    from alembic import command  # type: ignore[import-not-found]
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base  # type: ignore[import-not-found]

    Base.metadata.create_all(engine)
    find_migrations()
    config = utils._get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def make_as_mlflow(uri: str) -> None:
    """The tables of this MLflow as its own server makes them; goes on where that was cut off."""
    import sqlalchemy
    from mlflow.store.db import utils
    from sqlalchemy.pool import NullPool

    find_migrations()
    utils._initialize_tables(sqlalchemy.create_engine(uri, poolclass=NullPool))
