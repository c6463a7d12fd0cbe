"""A dump and the contents of its moment: counted by the database while pg_dump reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.data import database

ANSWERS = {
    "pg_export_snapshot": "00000003-1",
    "clock_timestamp": "12.5 700:700:",
    "pg_tables": "alembic_version\nruns",
    "version_num": "abc",
    "UNION ALL": "alembic_version 1 5\nruns 3 17",
}


class Psql:
    """Answers what it is asked; remembers the order."""

    def __init__(self, order: list[str]) -> None:
        self._order, self._ready = order, list[bytes]()
        self.into = self

    def write(self, data: bytes) -> None:
        answer = next((text for part, text in ANSWERS.items() if part in data.decode()), "")
        self._order.append("counts" if "UNION ALL" in data.decode() else "asks")
        self._ready += [line.encode() + b"\n" for line in (*answer.splitlines(), "---")]

    def flush(self) -> None: ...

    @property
    def out(self) -> Iterator[bytes]:
        while self._ready:
            yield self._ready.pop(0)

    def finish(self, timeout: float = 0) -> None: ...


class Dumping:
    def __init__(self, order: list[str]) -> None:
        self.out, self._order = io.BytesIO(b"PGDMP"), order

    def finish(self, timeout: float = 0) -> None:
        self._order.append("dumped")


class Engine:
    def __init__(self) -> None:
        self.order: list[str] = []
        self.commands: list[tuple[str, ...]] = []

    @contextmanager
    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> Iterator[Any]:
        self.commands.append(argv)
        if argv[0] == "pg_dump":
            self.order.append("begins to dump")
        yield Dumping(self.order) if argv[0] == "pg_dump" else Psql(self.order)


def test_the_rows_are_counted_while_they_are_dumped() -> None:
    engine: Any = Engine()
    with database.dump(engine, "mlflow") as dump:
        assert engine.order[-2:] == ["counts", "begins to dump"]
        assert dump.stream.read() == b"PGDMP"
        result = dump.contents()
    assert engine.order[-1] == "dumped"
    assert result == database.Contents("abc", {"alembic_version": ["1", "5"], "runs": ["3", "17"]}, (12.5, "700:700:"))
    assert "--snapshot=00000003-1" in engine.commands[1]
