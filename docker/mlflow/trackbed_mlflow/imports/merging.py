"""The staging database's rows into a database that has others, while its server works: all in one transaction.

What is not there is added. What is there stays as it is, unless the source's is the same thing later: a run that had
not ended, the last value of a metric.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trackbed_mlflow.errors import FAILED, Stop
from trackbed_mlflow.imports import rows
from trackbed_mlflow.imports.rows import Table, Tell

Row = tuple[Any, ...]
NAMED = 10
# which rows were not finished: their column, its values, and what the source's finished row brings
UNFINISHED: dict[str, tuple[str, tuple[Any, ...], tuple[str, ...]]] = {
    "runs": ("status", ("RUNNING", "SCHEDULED"), ("status", "end_time")),
    "logged_models": ("status", (1,), ("status", "status_message", "last_updated_timestamp_ms")),
}
LATER = ("step", "timestamp", "value")  # of a metric's values the last one, as MLflow compares them
RUN = "run_uuid"
LOCK = 0x7472_6163_6B62_6564  # PostgreSQL's advisory lock of the one import that may write


@dataclass
class Merged:
    """Rows of each table that were added; what differs; runs that were here and got more."""

    added: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    grown: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        result = list(self.remarks)
        if self.grown:
            named = ", ".join(sorted(self.grown)[:NAMED])
            more = f" and {len(self.grown) - NAMED} more" if len(self.grown) > NAMED else ""
            result.append(f"runs that were here and have grown in the source: {named}{more}; what is new in them comes")
        result += [
            f"{number} rows of {table} are others here than in the source: they stay as they are here"
            for table, number in sorted(self.different.items())
        ]
        return result


def merge(source: Any, target: Any, tell: Tell, write: bool) -> Merged:
    """Add what is missing, and read it back before it is committed; ``write=False``: only count.

    Raises Stop where something is not taken; then nothing was added.
    """
    import sqlalchemy

    result = Merged()
    tables, unknown = rows._tables(source, target)
    done, name = 0, ""
    with source.connect() as reading, target.connect() as writing:
        try:
            with writing.begin() as transaction:
                # keys lead to rows: the blocks are small, the tables large
                writing.exec_driver_sql("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
                known: set[str] = set()
                for table in tables:
                    name = table.name
                    one = _Table(writing, table, result, known, write)
                    for block in rows._rows(reading, table.shape):
                        one.take([rows._fitting(table, row, result.remarks) for row in block])
                        tell(done := done + len(block))
                if not write:
                    transaction.rollback()
        except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
            said = " ".join(str(getattr(error, "orig", error)).split())[:300]
            raise Stop(FAILED, f"table {name} does not take the source's rows: {said}") from None
        for name in unknown:
            if number := reading.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar():
                result.remarks.append(f"left out: {number} rows of {name}, which is no table of MLflow's own")
    return result


class _Table:
    """One table on both sides."""

    def __init__(self, connection: Any, table: Table, result: Merged, known: set[str], write: bool) -> None:
        import sqlalchemy

        self._connection, self._table, self._result, self._known, self._write = connection, table, result, known, write
        self._columns = [column.name for column in table.shape.columns]
        key = sqlalchemy.inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
        self._places = [self._columns.index(column) for column in key]
        self._run = self._columns.index(RUN) if RUN in self._columns else -1
        quoted = ", ".join(f'"{column}"' for column in key)
        connection.exec_driver_sql("DROP TABLE IF EXISTS pg_temp.trackbed_keys")
        connection.exec_driver_sql(
            f'CREATE TEMPORARY TABLE trackbed_keys ON COMMIT DROP AS SELECT {quoted} FROM "{table.name}" WITH NO DATA'
        )
        self._keys = sqlalchemy.table("trackbed_keys", *(rows._column(table.shape.c[column]) for column in key))
        matches = [table.shape.c[column] == self._keys.c[column] for column in key]
        self._lookup = sqlalchemy.select(*table.shape.columns).join(self._keys, sqlalchemy.and_(*matches))
        self._names = key

    def _key(self, row: Row) -> str:
        return repr(tuple(row[place] for place in self._places))

    def _found(self, block: list[Row]) -> dict[str, Row]:
        """The rows here of the keys that those rows have."""
        if not block:
            return {}
        self._connection.exec_driver_sql("DELETE FROM pg_temp.trackbed_keys")
        keys = [dict(zip(self._names, (row[place] for place in self._places), strict=True)) for row in block]
        self._connection.execute(self._keys.insert(), keys)
        return {self._key(tuple(row)): tuple(row) for row in self._connection.execute(self._lookup)}

    def take(self, block: list[Row]) -> None:
        doubtful = [
            row for row in block if self._run < 0 or self._table.name == "runs" or row[self._run] in self._known
        ]
        here = self._found(doubtful)
        if self._table.name == "runs":
            self._known.update(row[self._run] for row in here.values())
        missing = [row for row in block if self._key(row) not in here]
        for row in doubtful:
            other = here.get(self._key(row))
            if other is not None and repr(other) != repr(row):
                self._differs(row, other)
        for row in missing:
            if self._run >= 0 and row[self._run] in self._known:
                self._result.grown.add(row[self._run])
        self._result.added[self._table.name] += len(missing)
        if self._write and missing:
            self._add(missing)

    def _add(self, missing: list[Row]) -> None:
        from sqlalchemy.dialects import postgresql

        statement = postgresql.insert(self._table.shape).on_conflict_do_nothing()
        self._connection.execute(statement, [dict(zip(self._columns, row, strict=True)) for row in missing])
        back = self._found(missing)
        for row in missing:
            if repr(back.get(self._key(row))) != repr(row):
                raise Stop(
                    FAILED,
                    f"table {self._table.name}: {self._key(row)[:200]} was given to something else while this import "
                    "ran. Run the same command again: it goes on",
                )

    def _differs(self, row: Row, other: Row) -> None:
        """A row that is here with another content."""
        theirs, ours = (dict(zip(self._columns, one, strict=True)) for one in (row, other))
        name = self._table.name
        changed: tuple[str, ...] = ()
        if name == "latest_metrics" and [theirs[one] for one in LATER] > [ours[one] for one in LATER]:
            changed = (*LATER, "is_nan")
        elif name in UNFINISHED:
            column, values, brought = UNFINISHED[name]
            if ours[column] in values and theirs[column] not in values:
                changed = brought
        if not changed:
            self._result.different[name] += 1
            return
        if self._run >= 0:
            self._result.grown.add(row[self._run])
        self._result.updated[name] += 1
        if self._write:
            columns = self._table.shape.c
            where = [columns[one] == theirs[one] for one in self._names]
            statement = self._table.shape.update().where(*where)
            self._connection.execute(statement.values({one: theirs[one] for one in changed}))


@contextmanager
def alone(engine: Any) -> Iterator[None]:
    """No other import writes meanwhile. Raises Stop for one that still does.

    One whose `invoke import` was killed may: its rows are not seen yet, and its artifacts would be taken for stale.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")  # no transaction that stays open
        if not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK})").scalar():
            raise Stop(
                FAILED,
                "an import that was interrupted still writes its rows: wait a minute, then run the same command again",
            )
        yield


def asking(engine: Any) -> tuple[Callable[..., list[Row]], Callable[[], int]]:
    """What `beside.plan` asks the database, and gets numbers of new experiments from."""
    from psycopg2.extras import execute_values  # type: ignore[import-untyped,unused-ignore]

    def ask(statement: str, values: list[Row] | None = None) -> list[Row]:
        with engine.begin() as connection, connection.connection.cursor() as cursor:
            if values is None:
                cursor.execute(statement)
                return [tuple(row) for row in cursor.fetchall()]
            found = execute_values(cursor, statement, values, page_size=len(values) or 1, fetch=True)
            return [tuple(row) for row in found]

    def reserve() -> int:
        return int(ask("SELECT nextval('experiments_experiment_id_seq')")[0][0])

    return ask, reserve
