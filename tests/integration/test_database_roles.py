"""The server's role is no superuser, on new projects and on those made before there were two roles."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.engines import database_roles
from helpers.engines.base import ExecResult
from helpers.errors import ServiceFailed
from tests.conftest import Clone
from tests.integration import clusters, inspection
from tests.integration.clusters import Cluster

# one of each kind of object that has an owner, in a database that the first role made
EVERYTHING = """
CREATE TABLE runs (id serial PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY, name text);
INSERT INTO runs (name) SELECT 'run ' || i FROM generate_series(1, 50) i;
CREATE INDEX ON runs (name);
CREATE STATISTICS runs_statistics ON id, name FROM runs;
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9);
CREATE SEQUENCE alone;
CREATE VIEW seen AS SELECT name FROM runs;
CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM runs;
CREATE SCHEMA "Odd schema";
CREATE TABLE "Odd schema"."T""able" (id int);
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE pair AS (a int, b int);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION trusted() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text';
CREATE PROCEDURE nothing() LANGUAGE sql AS '';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
CREATE COLLATION plain FROM "C";
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
SELECT lo_create(4711);
CREATE FUNCTION trap() RETURNS event_trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO "Odd schema"."T""able" VALUES (1); END';
CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION trap();
"""
OWNED_BY_FIRST = """
SELECT (SELECT count(*) FROM pg_class WHERE relowner = 10 AND oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace)
     + (SELECT count(*) FROM pg_proc WHERE proowner = 10 AND oid >= 16384)
     + (SELECT count(*) FROM pg_type WHERE typowner = 10 AND oid >= 16384
          AND typtype <> 'm' AND typcategory <> 'A')  -- 16 leaves multirange types behind
     + (SELECT count(*) FROM pg_namespace WHERE nspowner = 10 AND oid >= 16384)
     + (SELECT count(*) FROM pg_largeobject_metadata WHERE lomowner = 10)
     + (SELECT count(*) FROM pg_operator WHERE oprowner = 10 AND oid >= 16384)
     + (SELECT count(*) FROM pg_collation WHERE collowner = 10 AND oid >= 16384)
     + (SELECT count(*) FROM pg_ts_config WHERE cfgowner = 10 AND oid >= 16384)
     + (SELECT count(*) FROM pg_statistic_ext WHERE stxowner = 10)"""
NAMES = ("mlflow", "mlflow_20260101000000abcd", "own")


NEWEST = pytest.mark.parametrize("older", ["18.6"], indirect=True)


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    """Where the earlier PostgreSQL is put; readable for the account that runs it."""
    with tempfile.TemporaryDirectory(prefix="trackbed-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder, "wheel")


@pytest.fixture(scope="module")
def older(request: pytest.FixtureRequest, wheel: Path, deployments: Callable[[str], Clone]) -> Iterator[Cluster]:
    """A cluster as an earlier version made it, stopped: its superuser is the server's role.

    What 18.4 made goes on with today's server.
    """
    ours = inspection.programs(deployments("embedded"))
    maker = ours if request.param == "18.6" else clusters.earlier_programs(wheel, request.param)
    with clusters.cluster(maker) as created:
        created.make("mlflow")
        created.start()
        for name in NAMES:
            created.ask(f"CREATE DATABASE {name};", role="mlflow")
            created.ask(EVERYTHING, name, "mlflow")
        created.stop("fast")
        created.data.rename(created.folder / "older")
        if request.param == "18.4":
            created.programs = ours
        yield created


@pytest.fixture
def cluster(older: Cluster) -> Iterator[Cluster]:
    older.run("/bin/cp", "-r", "older", str(older.data))
    older.run("/bin/chmod", "700", str(older.data))
    older.start()
    yield older
    older.stop()
    older.run("/bin/rm", "-r", str(older.data))


class Dies(Exception):
    """The toolkit was killed."""


def all_is_handed_over(cluster: Cluster) -> None:
    assert cluster.ask("SELECT rolname FROM pg_roles WHERE oid = 10") == "postgres"
    assert cluster.ask("SELECT rolname FROM pg_roles WHERE oid >= 16384") == "mlflow"
    assert (
        cluster.ask("SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin FROM pg_roles WHERE rolname = 'mlflow'")
        == "f f f t"
    )
    assert cluster.ask("SELECT count(*) FROM pg_authid WHERE rolname = 'postgres' AND rolpassword IS NULL") == "1"
    for name in NAMES:
        assert cluster.ask(OWNED_BY_FIRST, name) == "0"
        assert cluster.ask("SELECT trusted()", name) == "mlflow"
        assert cluster.ask('SELECT count(*) FROM "Odd schema"."T""able"', name) == "0", "the archive's trigger ran"
        assert cluster.ask("SELECT count(*) FROM runs", name, "mlflow") == "50"
        cluster.ask(
            "BEGIN; INSERT INTO runs (name) VALUES ('more'); ALTER TABLE runs ADD COLUMN more int; ROLLBACK;",
            name,
            "mlflow",
        )
        cluster.run("pg_dump", "-h", str(cluster.folder), "-U", "mlflow", "-f", "/dev/null", name)
    refused = cluster.psql("mlflow", "mlflow", "COPY (SELECT 1) TO PROGRAM 'cat';")
    assert refused.code and "permission denied" in refused.stderr
    assert cluster.psql("mlflow", "postgres", "SELECT 1").code, "the superuser's own database is closed to it"


@pytest.mark.parametrize("older", ["18.6", "18.4", "16"], indirect=True)
def test_an_older_cluster_is_handed_over(cluster: Cluster) -> None:
    stopped: list[bool] = []
    reported = database_roles.ensure(cluster.psql, "mlflow", stop_server=lambda: stopped.append(True))
    assert reported == (
        "the server's database role mlflow is no longer a superuser: 3 databases handed over to it, the "
        "superuser is called postgres"
    )
    assert stopped
    all_is_handed_over(cluster)
    assert database_roles.ensure(cluster.psql, "mlflow") == ""


@NEWEST
@pytest.mark.parametrize("answered", [True, False])
def test_killed_at_each_step_it_goes_on(cluster: Cluster, answered: bool) -> None:
    """Each attempt comes one statement further, and is killed before it or after it."""
    for step in range(40):
        calls = iter(range(100))

        def dies(
            role: str, database: str, statements: str, end: int = step, calls: Iterator[int] = calls
        ) -> ExecResult:
            last = next(calls) == end
            if last and not answered:
                raise Dies
            done = cluster.psql(role, database, statements)
            if last:
                raise Dies
            return done

        try:
            database_roles.ensure(dies, "mlflow")
        except Dies:
            continue
        break
    assert 3 < step < 39
    assert database_roles.ensure(cluster.psql, "mlflow") == ""
    all_is_handed_over(cluster)


@NEWEST
def test_a_role_of_the_superusers_name_is_told(cluster: Cluster) -> None:
    cluster.ask("CREATE ROLE postgres LOGIN", "mlflow", "mlflow")
    with pytest.raises(ServiceFailed, match="has a role postgres of its own") as reported:
        database_roles.ensure(cluster.psql, "mlflow")
    assert "ALTER ROLE postgres RENAME TO" in reported.value.hint
    cluster.ask("ALTER ROLE postgres RENAME TO somebody", "mlflow", "mlflow")
    assert database_roles.ensure(cluster.psql, "mlflow")


@NEWEST
def test_a_password_reaches_no_log(cluster: Cluster, tmp_path: Path) -> None:
    secret = cluster.folder / "password"
    secret.write_text("a'strange password")
    secret.chmod(0o644)
    database_roles.ensure(cluster.psql, "mlflow", str(secret))
    assert cluster.ask("SELECT rolpassword LIKE 'SCRAM%' FROM pg_authid WHERE rolname = 'mlflow'") == "t"
    failing = database_roles.settings(str(secret)).replace("ALTER ROLE mlflow PASSWORD", "ALTER ROLE nobody PASSWORD")
    assert cluster.psql("postgres", "postgres", failing).code
    assert "strange" not in (cluster.folder / "log").read_text()


def test_the_server_of_a_system_is_no_superuser(deployment: Clone) -> None:
    """And owns what it works with; the superuser has no password that somebody could come in with."""
    reported = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE "
    assert inspection.psql(deployment, reported + "rolname = current_user") == "f"
    assert (
        inspection.psql(
            deployment, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'mlflow'"
        )
        == "0"
    )
    assert (
        inspection.psql(
            deployment, "SELECT count(*) FROM pg_authid WHERE rolsuper AND rolpassword IS NOT NULL", "postgres"
        )
        == "0"
    )
    assert (
        inspection.psql(
            deployment,
            "SELECT count(*) FROM pg_database WHERE has_database_privilege('public', oid, 'CONNECT') "
            "AND datname <> 'template0'",
            "postgres",
        )
        == "0"
    )
