"""The prepared schema (docker/mlflow/trackbed_mlflow/schema.sql) is exactly what MLflow's own first tables and migrations make."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conftest import Clone
from tests.integration import inspection

OWN_WAY = (
    "import sys, sqlalchemy; from mlflow.store.db.utils import _safe_initialize_tables as make; "
    "make(sqlalchemy.create_engine(sys.argv[1]))"
)
MADE = "-- revision "


@pytest.fixture
def databases(deployment: Clone) -> Iterator[tuple[str, str]]:
    """A database made by MLflow alone, and one from the prepared schema."""
    own, prepared = "schema_own_way", "schema_prepared"
    with inspection.empty_database(deployment, own) as address, inspection.empty_database(deployment, prepared):
        inspection.output(*inspection.mlflow_python(deployment), "-c", OWN_WAY, address, timeout=300)
        yield own, prepared


def dumped(deployment: Clone, name: str, *more: str) -> list[str]:
    text = inspection.postgres(deployment, "pg_dump", "--no-owner", *more, "-d", name)
    # the tool's own key of each dump is random
    return [line for line in text.splitlines() if not re.match(r"\\(un)?restrict ", line)]


def test_it_is_what_mlflows_migrations_make(deployment: Clone, databases: tuple[str, str]) -> None:
    own, prepared = databases
    statements = (deployment.folder / "docker" / "mlflow" / "trackbed_mlflow" / "schema.sql").read_text()
    revision = inspection.psql(deployment, "SELECT version_num FROM alembic_version", own)
    assert statements.startswith(f"{MADE}{revision}\n"), "MLflow has changed: python -m helpers.schema_template"
    inspection.psql(deployment, statements, prepared)
    for part in ("--schema-only", "--data-only"):
        expected = dumped(deployment, own, part, "--inserts")
        assert dumped(deployment, prepared, part, "--inserts") == expected
        assert len(expected) > 10


def test_a_first_start_used_it(deployment: Clone) -> None:
    """Its tables are of one transaction: MLflow's way would commit each migration for itself."""
    created = inspection.psql(
        deployment,
        "SELECT count(DISTINCT xmin::text) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    assert created == "1"
