"""Another MLflow's database on a server: the schema as MLflow's migrations make it there, the rows an old client's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql

from helpers import waiting
from tests.conftest import PATIENCE, ROOT, Clone
from tests.conftest import USER as OWNER
from tests.integration import clusters, inspection
from tests.integration.clusters import Cluster

USER, PASSWORD = "reader", "correct-horse:battery@staple"
# runs in the project's MLflow environment: an SQLite file's rows into MLflow's tables of the same revision
FILL = """
import sys, sqlalchemy
from trackbed_mlflow import schema
source, uri = sys.argv[1:]
schema.find_migrations()
theirs = sqlalchemy.create_engine(f"sqlite:///{source}")
with theirs.connect() as reading:
    revision = reading.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    schema.make(uri, revision)
    ours, shape = sqlalchemy.create_engine(uri), sqlalchemy.MetaData()
    shape.reflect(ours)
    with ours.begin() as writing:
        if ours.dialect.name != "postgresql":  # experiment 0 is no number to be given
            writing.exec_driver_sql("SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')")
        for table in shape.sorted_tables:
            if table.name == "alembic_version":
                continue
            columns = [column for column in table.columns if column.computed is None]
            for column in columns:
                if hasattr(column.type, "asdecimal"):
                    column.type.asdecimal = False  # MySQL's doubles would be cut to ten digits
            rows = reading.execute(sqlalchemy.select(*columns)).mappings().all()
            writing.execute(table.delete())
            if rows:
                writing.execute(table.insert(), [dict(row) for row in rows])
"""
ONLY = """
CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
"""


def fill(clone: Clone, sqlite: Path, uri: str, *drivers: Path) -> None:
    (python,) = inspection.mlflow_python(clone)
    subprocess.run(
        [python, "-c", FILL, str(sqlite), uri],
        check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "docker" / "mlflow", *drivers)))},
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


@contextmanager
def postgresql(clone: Clone, sqlite: Path) -> Iterator[Cluster]:
    """A server with the rows of an SQLite file in its database `source`, which `reader` may only read."""
    with clusters.cluster(inspection.programs(clone)) as created:
        created.make("postgres")
        created.start()
        created.ask("CREATE DATABASE source")
        fill(clone, sqlite, f"postgresql+psycopg2://postgres@/source?host={created.folder}")
        created.ask(ONLY, "source")
        created.ask(f"ALTER ROLE reader PASSWORD '{PASSWORD}'")
        (created.data / "pg_hba.conf").write_text("local all postgres trust\nlocal all reader scram-sha-256\n", "ascii")
        created.ask("SELECT pg_reload_conf()")
        yield created


def content(cluster: Cluster) -> str:
    """All rows and the schema of a source, as text."""
    return cluster.run("pg_dump", "-h", str(cluster.folder), "-U", "postgres", "source", "--restrict-key=x").stdout


MAKE_MARIADB = (
    *("mariadb-install-db", "--no-defaults", "--datadir=data", "--auth-root-authentication-method=normal"),
    *("--skip-test-db", "--skip-name-resolve", "--force"),
)
MYSQL_HOME = Path(os.environ.get("TRACKBED_RIG_HOME", "/var/tmp/trackbed-rig"), "mysql")  # what mysql.sh makes


def mariadb(clone: Clone, sqlite: Path, *network: str) -> AbstractContextManager[Path]:
    """The folder of a MariaDB server's socket `s`, with the same database and the same user. ``network``: options with
    which it listens to more than the socket."""
    return _served(clone, sqlite, MAKE_MARIADB, ("mariadbd", "--no-defaults"), network or ("--skip-networking",))


def mysql(clone: Clone, sqlite: Path, *network: str) -> AbstractContextManager[Path]:
    """The same of Oracle's MySQL, which makes its keys and certificates itself: `data/ca.pem` is its authority."""
    server = (str(MYSQL_HOME / "bin" / "mysqld"), "--no-defaults", f"--basedir={MYSQL_HOME}", "--mysqlx=OFF")
    make = (*server, "--datadir=data", "--initialize-insecure")
    return _served(clone, sqlite, make, server, network or ("--skip-networking",))


@contextmanager
def _served(
    clone: Clone, sqlite: Path, make: Sequence[str], server: Sequence[str], network: Sequence[str]
) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tb-my-"))  # short: the socket's path is limited
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = pwd.getpwnam(OWNER)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    common: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "cwd": folder,
        "env": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        **identity,
    }
    subprocess.run(
        [word.replace("=data", f"={folder / 'data'}") for word in make],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE,
        **common,
    )
    options = [f"--datadir={folder / 'data'}", f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}", *network]
    with (folder / "log").open("wb") as log, subprocess.Popen([*server, *options], stdout=log, **common) as process:
        try:
            waiting.until(lambda: _answers(folder), PATIENCE)
            ask(folder, "CREATE DATABASE source CHARACTER SET utf8mb4")
            drivers = folder / "drivers"  # of the tests' Python, for MLflow's
            shutil.copytree(Path(pymysql.__file__).parent, drivers / "pymysql")
            fill(clone, sqlite, f"mysql+pymysql://root@/source?unix_socket={folder / 's'}", drivers)
            ask(folder, f"CREATE USER {USER}@localhost IDENTIFIED BY '{PASSWORD}'")
            ask(folder, f"GRANT SELECT ON source.* TO {USER}@localhost")
            yield folder
        finally:
            process.terminate()
            process.wait(PATIENCE)
            shutil.rmtree(folder, ignore_errors=True)


def ask(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """As the server's superuser."""
    with closing(pymysql.connect(unix_socket=str(folder / "s"), user="root")) as connection:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


def _answers(folder: Path) -> bool:
    try:
        return bool(ask(folder, "SELECT 1"))
    except pymysql.MySQLError:
        return False


def checksums(folder: Path) -> list[tuple[Any, ...]]:
    """Of every table of the database."""
    tables = ask(folder, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'source' ORDER BY 1")
    return [row for (table,) in tables for row in ask(folder, f"CHECKSUM TABLE source.`{table}` EXTENDED")]
