"""Damaged pages of the database: what PostgreSQL's checksums have found, and a reading of every table.

As the server's role, which owns the tables: what lies in them is never given the superuser's rights.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from helpers import database_settings
from helpers.engines.base import POSTGRES, Engine
from helpers.errors import TrackbedError

MOST = 2 << 30  # bytes; a larger database is not read whole, only the counters are looked at
SECONDS = 90
REBUILD = "`invoke backup`, then `invoke restore FILE` writes every table and index again"
FIX = (
    "save what can be read (`invoke backup`), and look at the disk (`dmesg | tail`); "
    "`invoke restore FILE --into=NAME` brings a backup from before as a second project"
)
# each row whole, so that what is stored beside the table is read too; no index, which could answer without the table
LOOK = """
SET statement_timeout = '{seconds}s';
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SET enable_bitmapscan = off;
SET max_parallel_workers_per_gather = 0;
SELECT json_build_object('checksums', current_setting('data_checksums') = 'on',
  'failures', (SELECT coalesce(sum(checksum_failures), 0) FROM pg_catalog.pg_stat_database
                WHERE datname = pg_catalog.current_database()),
  'size', pg_catalog.pg_database_size(pg_catalog.current_database()));
CREATE FUNCTION pg_temp.damage() RETURNS SETOF text LANGUAGE plpgsql AS $do$
DECLARE
  name text;
BEGIN
  IF pg_catalog.pg_database_size(pg_catalog.current_database()) > {most} THEN RETURN; END IF;
  FOR name IN SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
               WHERE c.relkind = 'r' AND c.relnamespace = 'public'::pg_catalog.regnamespace ORDER BY 1 LOOP
    BEGIN
      EXECUTE 'SELECT max(length(t::text)) FROM ' || name || ' t';
    EXCEPTION WHEN data_corrupted OR index_corrupted OR io_error OR internal_error OR undefined_file THEN
      RETURN NEXT pg_catalog.json_build_object('table', name, 'said', SQLERRM)::text;
    END;
  END LOOP;
END $do$;
SELECT * FROM pg_temp.damage();
"""


@dataclass(frozen=True)
class Pages:
    """What was found: whether there are checksums, how many pages failed since the counters began, whether every
    table was read (not in a large database), and a line for each table that cannot be read whole."""

    checksums: bool
    failures: int
    complete: bool
    damaged: tuple[str, ...]

    @property
    def fix(self) -> str:
        return "" if self.ok else FIX if self.damaged else REBUILD

    @property
    def ok(self) -> bool:
        return not self.failures and not self.damaged

    def __str__(self) -> str:
        if self.damaged:
            return "; ".join(self.damaged)
        if self.failures:
            return f"{self.failures} pages did not match their checksum when they were read" + (
                "; every table can be read now, an index may be damaged" if self.complete else ""
            )
        read = "every table was read" if self.complete else "too large to be read whole; no damaged page was met so far"
        return read if self.checksums else f"{read}; this database was made without checksums"


def look(engine: Engine, database: str) -> Pages:
    """Read the active database. Raises TrackbedError where it does not answer."""
    script = LOOK.format(seconds=SECONDS, most=MOST)
    done = engine.exec(
        POSTGRES,
        ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", database_settings.USER, "-d", database),
        script.encode(),
        timeout=SECONDS + 30,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    slow = "statement timeout" in done.stderr
    if not lines or (done.code and not slow):
        stderr = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.code}"]
        raise TrackbedError(f"the database cannot be read: {stderr[0]}", "`invoke logs postgres`")
    first, *rest = lines
    damaged = tuple(f"table {line['table']} is damaged: {_block(str(line['said']))}" for line in rest)
    return Pages(bool(first["checksums"]), int(first["failures"]), int(first["size"]) <= MOST and not slow, damaged)


def _block(said: str) -> str:
    match = re.search(r"in block (\d+) of relation \"?([^\s\"]+)", said)
    return f"block {match[1]} of {match[2]} does not match its checksum" if match else said
