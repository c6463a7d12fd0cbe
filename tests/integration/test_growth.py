"""Large histories: what PostgreSQL reads for a page, and how often the store is asked, counted. No time is measured.

`nox -s bench_growth` asks for the same pages with 10^6 runs, and has their times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth, runs
from benchmarks.growth import LARGE, PAGES, SMALL
from tests.conftest import PATIENCE, Clone, require_docker
from tests.integration import inspection

FILES = 10_000
SHOWN = 100  # runs of the longest page
WALKED = ("search_runs page, ordered by a metric", "search_runs page, parameter of one run")
STATEMENTS = Path(growth.__file__).with_name("statements.py").read_text()
# MLflow's tables and our indexes in an empty database
SCHEMA = """
import sys
sys.path.insert(0, sys.argv[1])
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from trackbed_mlflow import indexes
indexes.ensure(SqlAlchemyStore(sys.argv[2], "file:///unused").engine)
"""


@pytest.fixture(scope="module")
def read(deployments: Callable[[str], Clone], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What PostgreSQL reads for each question with 10^3 runs, with 10^5 and 10^6 rows of metrics, and for some of them
    without the fast path."""
    clone = deployments("embedded")
    script = tmp_path_factory.mktemp("growth") / "script.sql"
    modules, python = str(clone.folder / "docker" / "mlflow"), inspection.mlflow_python(clone)

    def statements(address: str, asked: dict[str, growth.Question], mode: str) -> Any:
        requests = json.dumps({name: question.to_api for name, question in asked.items()})
        words = (*python, "-c", STATEMENTS, modules, address)
        environment = {**os.environ, "TRACKBED_FAST_PATH": mode}
        return json.loads(inspection.output(*words, stdin=requests, timeout=PATIENCE, env=environment).splitlines()[-1])

    def measured(size: int, listed: int) -> Iterator[Any]:
        name = f"growth_{size}"

        def psql(text: str, **variables: object) -> list[str]:
            script.write_text(text)
            words = [word for key, value in variables.items() for word in ("-v", f"{key}={value}")]
            options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", name, *words, "-f", str(script))
            return inspection.postgres(clone, "psql", *options, timeout=PATIENCE).splitlines()

        with inspection.empty_database(clone, name) as address:
            inspection.output(*python, "-c", SCHEMA, modules, address, timeout=PATIENCE)
            runs.fill(psql, size, 1, listed)
            asked = growth.questions(runs.first_experiment(psql), size)
            yield statements(address, asked, "auto")
            yield statements(address, {name: asked[name] for name in WALKED}, "off")

    few, _ = measured(SMALL, PAGES[0])
    many, plain = measured(LARGE, PAGES[1])
    return {"few": few, "many": many, "plain": plain}


def test_a_page_of_a_hundred_times_as_many_runs_reads_little_more(read: Any) -> None:
    for name, few in read["few"].items():
        many = read["many"][name]
        seen = {key: (few[key], many[key]) for key in few if key != "plans"}
        assert many["statements"] == few["statements"], (name, seen)
        assert many["rows"] <= 5 * few["rows"], (name, seen)
        # what lay side by side on one page of 8 KiB lies on several, and each index is a level deeper
        assert many["pages"] <= 6 * few["pages"] + 8 * SHOWN, (name, seen)
        assert many["spilled"] == 0 and many["kib"] <= few["kib"] + 1024, (name, seen)


def test_a_chart_of_a_hundred_runs_is_one_statement(read: Any) -> None:
    assert [found["statements"] for name, found in read["many"].items() if name.startswith("chart ")] == [1]


def test_mlflows_own_statements_read_every_run_of_the_same_pages(read: Any) -> None:
    """So the counts tell a page that grows from one that does not."""
    for name in WALKED:
        assert read["plain"][name]["rows"] > LARGE, name


@pytest.mark.docker
def test_many_files_are_listed_and_fetched_with_as_few_requests_as_can_be(
    deployments: Callable[[str], Clone],
) -> None:
    """A list asks the store nothing, a download asks it once for each file, and addresses come many at a time."""
    require_docker()
    clone = deployments("docker")
    script = Path(__file__).with_name("many_files.py").read_text("utf-8")
    run = inspection.mlflow(clone, "runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]
    folder = f"{run['artifact_uri'].removeprefix('mlflow-artifacts:/')}/many"

    def ask(service: str, *words: str) -> Any:
        python = ("docker", "exec", "-i", inspection.container(clone, service), "python", "-")
        return json.loads(inspection.output(*python, *words, stdin=script, timeout=PATIENCE).splitlines()[-1])

    try:
        stored = ask("mlflow", "store", folder, str(FILES))
        fetched = ask("jupyter", "fetch", run["run_id"])
    finally:
        ask("mlflow", "remove", folder)
    assert stored == {"listed": FILES, "requests": {"list": 0, "sign": 0}, "in all": 1}
    assert fetched["whole"] == fetched["objects"] == FILES
    assert fetched["store"] <= 1.01 * FILES, fetched  # more only where an answer was lost
    # as the first files come, few are known yet; MLflow by itself asks once for each
    assert sum(fetched["server"].values()) <= FILES // 20, fetched
