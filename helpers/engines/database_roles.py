"""The two roles of the database: the superuser, and the role of the tracking server, which owns its databases.

Pure SQL, run by either engine's `psql` beside the data. Projects made before there were two roles are brought over:
their server's role is the one that initdb made, which PostgreSQL lets nobody demote. It is renamed to the superuser's
name by a temporary one, a new role takes the old name, and every object is handed to it. The temporary role exists
until that is done, so that a run that was interrupted at any moment is seen and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helpers import commands, database_settings
from helpers.errors import ServiceFailed
from helpers.services import POSTGRES, ExecResult

ADMIN, SERVER = database_settings.ADMIN, database_settings.USER
TEMPORARY = "trackbed_handover"
ROLES = (ADMIN, SERVER, TEMPORARY)  # whom the engine's psql has to be let in as
READY = "trackbed-ready"  # a file beside PG_VERSION: this cluster has been good once, and has both roles
MAINTENANCE = "postgres"  # the database that is always there

FIRST_OWN = 16384  # PostgreSQL gives numbers from here on to what is made after initdb

Psql = Callable[[str, str, str], ExecResult]  # role, database, statements

# A statement with a password must not reach the log, also when it fails.
QUIET = (
    "SET log_statement = 'none';\nSET log_min_error_statement = 'panic';\n"
    "SET log_min_duration_statement = -1;\nSET search_path = pg_catalog;\n"
)
ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
LOOK = f"""
SELECT b.rolname,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{TEMPORARY}'),
       b.rolpassword IS NULL
       AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{SERVER}' AND rolcanlogin AND NOT
                   (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
                       WHERE (d.datname ~ '^{SERVER}(_|$)' AND o.rolname <> '{SERVER}')
                          OR (d.datname <> 'template0'
                              AND pg_catalog.has_database_privilege('public', d.oid, 'CONNECT'))),
       EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = '%s')
  FROM pg_catalog.pg_authid b WHERE b.oid = 10;
"""
# In each database: what initdb did not make, belongs to no extension and is the first role's. Event triggers of an
# archive must not run as the superuser meanwhile.
HAND_OVER = (
    QUIET
    + f"""
SET session_replication_role = 'replica';
SET lock_timeout = '60s';
DO $do$
DECLARE
  item record;
BEGIN
  FOR item IN
    SELECT named.type, named.identity FROM (
      SELECT 'pg_namespace'::regclass::oid AS classid, oid AS objid FROM pg_namespace
       WHERE nspowner = 10 AND nspname !~ '^pg_' AND (oid >= 16384 OR nspname = 'public')
      UNION ALL SELECT 'pg_class'::regclass, c.oid FROM pg_class c
       WHERE relowner = 10 AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND relpersistence <> 't'
         AND NOT (relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                    AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
      UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proowner = 10
      UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type
       WHERE typowner = 10 AND typtype IN ('b', 'd', 'e', 'r') AND typcategory <> 'A'
      UNION ALL SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata WHERE lomowner = 10
      UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation WHERE collowner = 10
      UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion WHERE conowner = 10
      UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprowner = 10
      UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcowner = 10
      UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily WHERE opfowner = 10
      UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxowner = 10
      UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict WHERE dictowner = 10
      UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config WHERE cfgowner = 10
      UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server WHERE srvowner = 10
    ) AS owned CROSS JOIN LATERAL pg_identify_object(owned.classid, owned.objid, 0) AS named
    WHERE (owned.objid >= 16384 OR owned.classid IN ('pg_namespace'::regclass, 'pg_largeobject'::regclass))
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = owned.classid AND d.objid = owned.objid
                        AND d.deptype = 'e')
  LOOP
    EXECUTE format('ALTER %s %s OWNER TO {SERVER}',
                   CASE item.type WHEN 'composite type' THEN 'type' WHEN 'statistics object' THEN 'statistics'
                                  WHEN 'foreign server' THEN 'server' ELSE item.type END, item.identity);
  END LOOP;
  IF (SELECT datdba FROM pg_database WHERE datname = current_database()) = 10 THEN
    EXECUTE format('ALTER DATABASE %I OWNER TO {SERVER}', current_database());
  END IF;
END $do$;
"""
)
RENAME = (
    QUIET
    + f"""
BEGIN;
ALTER ROLE {SERVER} RENAME TO {ADMIN};
CREATE ROLE {SERVER} {ATTRIBUTES};
COMMIT;
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = 10 AND backend_type = 'client backend';
"""
)


@dataclass(frozen=True)
class RoleState:
    """Name of the role that initdb made, whether a hand-over is under way, whether all roles are as they should be,
    and whether the active database is there."""

    first: str
    unfinished: bool
    complete: bool
    active: bool


def settings(password_file: str = "") -> str:
    """The statements that make the server's role where it is missing, and take away what it must not have.

    ``password_file``: as psql's own shell reads it; "" where the kernel says who is there and nobody has a password.
    """
    password = (
        f"\\set password `cat {password_file}`\nALTER ROLE {SERVER} PASSWORD :'password';\n" if password_file else ""
    )
    return (
        QUIET
        + f"""
SELECT 'CREATE ROLE {SERVER}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVER}') \\gexec
ALTER ROLE {SERVER} {ATTRIBUTES};
{password}ALTER ROLE {ADMIN} PASSWORD NULL;
SELECT format('ALTER DATABASE %I OWNER TO {SERVER}', datname) FROM pg_database
 WHERE datname ~ '^{SERVER}(_|$)' AND datdba <> (SELECT oid FROM pg_roles WHERE rolname = '{SERVER}') \\gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname) FROM pg_database WHERE datname <> 'template0' \\gexec
"""
    )


def look(psql: Psql, active: str) -> RoleState:
    """How the roles are now. Raises ServiceFailed when the database lets neither of them in."""
    done = psql(ADMIN, MAINTENANCE, LOOK % active)
    if done.code:
        older = psql(SERVER, MAINTENANCE, LOOK % active)  # of a project that has only this one
        if older.code:
            raise _failed(done)
        done = older
    first, *rest = done.stdout.split()
    return RoleState(first, *(word == "t" for word in rest))


def ensure(psql: Psql, active: str, password_file: str = "", stop_server: Callable[[], None] = lambda: None) -> str:
    """Make both roles and the active database what they should be; gives a line to tell, or "" when they were.

    ``stop_server`` is called before the role that the running server is connected as is replaced.
    """
    result = look(psql, active)
    created = ""
    if result.first == SERVER:
        stop_server()
        _run(psql, SERVER, f"DROP ROLE IF EXISTS {TEMPORARY};\nCREATE ROLE {TEMPORARY} SUPERUSER LOGIN;")
        _run(psql, TEMPORARY, RENAME)
    if result.first == SERVER or result.unfinished:
        stop_server()
        _run(psql, ADMIN, settings(password_file))
        names = _run(
            psql,
            ADMIN,
            "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate "
            f"AND datname <> '{MAINTENANCE}' ORDER BY 1;",
        ).splitlines()
        for name in names:
            _run(psql, ADMIN, HAND_OVER, name)
        _run(psql, ADMIN, f"DROP ROLE {TEMPORARY};")
        created = (
            f"the server's database role {SERVER} is no longer a superuser: {len(names)} "
            f"database{'s' * (len(names) != 1)} handed over to it, the superuser is called {ADMIN}"
        )
    elif not result.complete:
        _run(psql, ADMIN, settings(password_file))
    if not result.active:
        _run(psql, ADMIN, f'CREATE DATABASE "{active}" OWNER {SERVER};\nREVOKE ALL ON DATABASE "{active}" FROM PUBLIC;')
    return created


def match_password(run: Callable[[tuple[str, ...]], ExecResult], psql: Psql, active: str, password_file: str) -> bool:
    """POSTGRES_PASSWORD_FILE counts at the first start only: make the existing database accept today's password.

    ``run``: a command in the database's container, where the password stays: psql itself reads it from the file. True
    when it was another one.
    """
    login = (
        f'PGPASSWORD="$(cat {password_file})" psql -X -q -h "$(hostname -i)" -U {SERVER} '
        '-d "$0" -c "SELECT 1" >/dev/null 2>&1'
    )
    if run(("sh", "-c", login, active)).code == 0:
        return False
    done = psql(ADMIN, MAINTENANCE, settings(password_file))
    if done.code:
        raise ServiceFailed(
            POSTGRES,
            "the existing database does not accept the password, and Trackbed could not change it: "
            + commands.last_line(done.stderr),
            "put the old one into .env as POSTGRES_PASSWORD",
        )
    return True


def _run(psql: Psql, role: str, statements: str, database: str = MAINTENANCE) -> str:
    done = psql(role, database, statements)
    if done.code:
        raise _failed(done)
    return done.stdout


def _failed(done: ExecResult) -> ServiceFailed:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if "ERROR:" in line or "FATAL:" in line), lines[-1] if lines else done.code)
    if f'role "{ADMIN}" already exists' in done.stderr:
        return ServiceFailed(
            POSTGRES,
            f"the database has a role {ADMIN} of its own, and that is the superuser's name now",
            f"as {SERVER}, ALTER ROLE {ADMIN} RENAME TO another name; then type `invoke up`",
        )
    return ServiceFailed(
        POSTGRES,
        f"the database's roles could not be set: {said}",
        "`invoke logs postgres` shows more; `invoke up` goes on from there",
        tuple(lines[-5:]),
    )
