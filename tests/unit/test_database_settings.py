"""PostgreSQL is the same on both engines, and takes every connection that MLflow may open."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest
import yaml

from helpers import clone, database_settings
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.project import mlflow_jobs
from tests.unit.fakes import deployed, project


def allowed(host: str, patterns: list[str]) -> bool:
    """MLflow's own rule: equal, or fnmatch where the entry has a star."""
    return any(fnmatch.fnmatch(host, p) if "*" in p else host == p for p in patterns)


def test_both_engines_start_postgresql_with_the_same_settings() -> None:
    model = yaml.safe_load((clone.ROOT / "docker" / "compose.yaml").read_text())
    assert model["services"]["postgres"]["command"] == [
        "postgres",
        *database_settings.options("${TRACKBED_MAX_CONNECTIONS:-100}"),
    ]


@pytest.mark.parametrize("workers", range(1, 33))
def test_no_worker_is_turned_away_by_the_database(workers: int) -> None:
    kept, more = database_settings.pool(workers)
    assert kept >= 1 and more >= 1, "MLflow takes 0 for not set"
    assert workers * len(database_settings.POOLS) * (
        kept + more
    ) + database_settings.RESERVED <= database_settings.max_connections(workers)
    assert database_settings.max_connections(workers) <= 300, "each is a process"


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_no_job_is_turned_away_by_the_database(workers: int) -> None:
    from trackbed_mlflow import jobs

    bounds = {name: int(value) for name, value in jobs.BOUNDS.items()}
    judges, scoring, kept, more = (
        bounds[f"MLFLOW_{name}"]
        for name in (
            "SERVER_JUDGE_INVOKE_MAX_WORKERS",
            "SERVER_ONLINE_SCORING_MAX_WORKERS",
            "SQLALCHEMYSTORE_POOL_SIZE",
            "SQLALCHEMYSTORE_MAX_OVERFLOW",
        )
    )
    processes = 2 + 2 * judges + 2 * scoring  # runner, scheduler; judges, evaluations; traces, sessions
    asked = (
        workers * (len(database_settings.POOLS) + 1) * sum(database_settings.pool(workers))
        + processes * (kept + more)
        + database_settings.RESERVED
    )
    assert asked <= database_settings.max_connections(workers, True) <= 500
    assert (processes, kept + more) == (database_settings.JOB_PROCESSES, database_settings.JOB_POOL)


def test_both_engines_count_the_connections_of_jobs(tmp_path: Path) -> None:
    said = {jobs: str(database_settings.max_connections(2, jobs)) for jobs in (False, True)}
    assert said[True] != said[False]
    for given, jobs in (({}, False), ({"mlflow_jobs": "on"}, True)):
        one = project(tmp_path, **given)
        assert DockerEngine(one).compose.values()["TRACKBED_MAX_CONNECTIONS"] == said[jobs]
        assert f"max_connections={said[jobs]}" in EmbeddedEngine(one).specs.spec("postgres").command
    public = project(tmp_path, engine="docker", public="true", mlflow_jobs="on").settings
    assert not mlflow_jobs.enabled(deployed(public))


def test_few_workers_have_mlflows_own_pools() -> None:
    assert database_settings.pool(2) == database_settings.pool(8) == (5, 10)
    assert database_settings.max_connections(2) == 100
    assert database_settings.pool(16) == (5, 2) and database_settings.pool(32) == (3, 1)


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit", "full_page_writes"])
def test_no_setting_gives_up_what_was_acknowledged(name: str) -> None:
    assert name not in database_settings.PARAMETERS
