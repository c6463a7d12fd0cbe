"""MLflow's empty schema as statements: what pg_dump writes down, turned back into what MLflow had said."""

from __future__ import annotations

from helpers.clone import SERVER_PACKAGE
from helpers.schema_template import original

DUMPED = (
    "    CONSTRAINT s CHECK (((status)::text = ANY ((ARRAY['A'::character varying, 'B'::character varying])::text[]))),"
)


def test_lists_of_values_are_written_as_mlflow_wrote_them() -> None:
    assert original(DUMPED) == "    CONSTRAINT s CHECK ((status IN ('A', 'B'))),"


def test_other_lines_stay() -> None:
    line = "    CONSTRAINT c CHECK ((is_nan = ANY (ARRAY[true, false]))),"
    assert original(line) == line


def test_the_prepared_schema_needs_no_settings_and_no_owner() -> None:
    text = (SERVER_PACKAGE / "schema.sql").read_text()
    first, *lines = text.splitlines()
    assert first.startswith("-- revision ")
    assert not [line for line in lines if line.startswith(("SET ", "\\"))]
    assert "OWNER TO" not in text and "ANY ((ARRAY" not in text
    assert sum(line.startswith("CREATE TABLE public.") for line in lines) > 50
