"""The staging database's rows into PostgreSQL, counted and compared: what is read back is what was there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trackbed_mlflow.errors import FAILED, Stop

BLOCK = 5000
# the migrations write the first; nothing of the others is data
SKIPPED = ("alembic_version", "job_locks", "scheduler_leases")
# MLflow's own clients cut these too (MLFLOW_TRUNCATE_LONG_VALUES)
CUT = (("params", "value"), ("tags", "value"), ("experiment_tags", "value"))
Tell = Callable[[int], None]


@dataclass
class Table:
    """A table on both sides: ``shape`` has its columns in one order, in types that both databases read alike."""

    name: str
    shape: Any
    lengths: dict[str, int]


class Sum:
    """Rows and their checksum, in any order."""

    def __init__(self) -> None:
        self.count, self._total = 0, 0

    def add(self, row: tuple[Any, ...]) -> None:
        self.count += 1
        self._total = (self._total + int.from_bytes(hashlib.sha256(repr(row).encode("utf-8")).digest())) % 2**256

    @property
    def text(self) -> str:
        return f"{self.count} {self._total:064x}"


def counts(source: Any) -> dict[str, int]:
    """How many rows each table of the staging database has, without those that are not data."""
    import sqlalchemy

    names = [name for name in sqlalchemy.inspect(source).get_table_names() if name not in SKIPPED]
    with source.connect() as connection:
        return {
            name: int(connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar() or 0)
            for name in names
            if not name.startswith("trackbed_")
        }


def copy(source: Any, target: Any, tell: Tell) -> list[str]:
    """All rows in one transaction, and the same read back. Gives what was cut or left out, in lines.

    Raises Stop where the target does not have what the source has.
    """
    import sqlalchemy

    remarks: list[str] = []
    tables, unknown = _tables(source, target)
    sums: dict[str, str] = {}
    done = 0
    with source.connect() as reading:
        try:
            with target.begin() as writing:
                for table in tables:
                    expected = Sum()
                    for block in _rows(reading, table.shape):
                        rows = [_fitting(table, row, remarks) for row in block]
                        for row in rows:
                            expected.add(row)
                        names = [column.name for column in table.shape.columns]
                        writing.execute(_insert(table), [dict(zip(names, row, strict=True)) for row in rows])
                        tell(done := done + len(rows))
                    sums[table.name] = expected.text
                _set_sequences(writing)
        except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
            said = " ".join(str(getattr(error, "orig", error)).split())[:300]
            raise Stop(FAILED, f"table {table.name} does not take the source's rows: {said}") from None
    _compare(target, tables, sums)
    with source.connect() as reading:
        for name in unknown:
            if count := reading.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar():
                remarks.append(f"left out: {count} rows of {name}, which is no table of MLflow's own")
    return remarks


def _tables(source: Any, target: Any) -> tuple[list[Table], list[str]]:
    """The tables of both in an order in which rows may come, and those of the source alone."""
    import sqlalchemy

    theirs, ours = sqlalchemy.inspect(source), sqlalchemy.MetaData()
    ours.reflect(target)
    existing = [name for name in theirs.get_table_names() if not name.startswith("trackbed_")]
    result = []
    for table in ours.sorted_tables:
        if table.name in SKIPPED or table.name not in existing:
            continue
        known = {column["name"] for column in theirs.get_columns(table.name)}
        columns = [column for column in table.columns if column.name in known and column.computed is None]
        twin = sqlalchemy.table(table.name, *(_column(column) for column in columns))
        lengths = {column.name: length for column in columns if (length := getattr(column.type, "length", None))}
        result.append(Table(table.name, twin, lengths))
    names = {table.name for table in ours.sorted_tables}
    return result, [name for name in existing if name not in names and name not in SKIPPED]


def _column(column: Any) -> Any:
    import sqlalchemy

    kind = column.type.as_generic(allow_nulltype=True)
    if isinstance(kind, sqlalchemy.JSON):
        kind = sqlalchemy.String()  # its text passes as it is
    return sqlalchemy.column(column.name, kind)


def _insert(table: Table) -> Any:
    from sqlalchemy.dialects import postgresql

    statement = postgresql.insert(table.shape)
    # the prepared schema brings its one row
    return statement.on_conflict_do_nothing() if table.name == "workspaces" else statement


def _rows(connection: Any, table: Any) -> Iterator[list[tuple[Any, ...]]]:
    result = connection.execution_options(yield_per=BLOCK).execute(table.select())
    for block in result.partitions():
        yield [tuple(row) for row in block]


def _fitting(table: Table, row: tuple[Any, ...], remarks: list[str]) -> tuple[Any, ...]:
    """A row whose texts are as long as the column takes. SQLite and file stores know no limit."""
    cells = list(row)
    for place, column in enumerate(table.shape.columns):
        length = table.lengths.get(column.name)
        if length is None or not isinstance(cells[place], str) or len(cells[place]) <= length:
            continue
        if (table.name, column.name) not in CUT:
            shown = cells[place][:60]
            raise ValueError(f"{column.name} has {len(cells[place])} characters, at most {length} fit: {shown!r}...")
        remarks.append(f"cut to {length} characters, as MLflow does: {table.name} {_shown_key(table, cells)}")
        cells[place] = cells[place][:length]
    return tuple(cells)


def _shown_key(table: Table, cells: list[Any]) -> str:
    """Whose row it is."""
    names = [column.name for column in table.shape.columns]
    return " ".join(str(cells[names.index(name)]) for name in ("run_uuid", "experiment_id", "key") if name in names)


def _set_sequences(connection: Any) -> None:
    """Numbers that PostgreSQL gives come after those that are there."""
    import sqlalchemy

    columns = connection.execute(
        sqlalchemy.text(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' AND "
            "pg_get_serial_sequence(quote_ident(table_name), column_name) IS NOT NULL"
        )
    ).fetchall()
    for table, column in columns:
        connection.exec_driver_sql(
            f"SELECT setval(pg_get_serial_sequence('\"{table}\"', '{column}'), GREATEST(m, 1), m >= 1) "
            f'FROM (SELECT coalesce(max("{column}"), 0) AS m FROM "{table}") latest'
        )


def _compare(target: Any, tables: list[Table], sums: dict[str, str]) -> None:
    with target.connect() as connection:
        for table in tables:
            found = Sum()
            for block in _rows(connection, table.shape):
                for row in block:
                    found.add(row)
            if table.name != "workspaces" and found.text != sums[table.name]:
                raise Stop(
                    FAILED,
                    f"table {table.name} has {found.count} rows that are not those of the source: please report it",
                )
