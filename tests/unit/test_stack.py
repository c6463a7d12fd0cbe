"""The lists that MLflow compares hosts and origins with, checked with the same comparison."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers import stack
from helpers.engines.docker import images
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from tests.unit.fakes import system


def allowed(host: str, patterns: list[str]) -> bool:
    """MLflow's own rule: equal, or fnmatch where the entry has a star."""
    return any(fnmatch.fnmatch(host, p) if "*" in p else host == p for p in patterns)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("localhost:9999", True),
        ("127.0.0.1:8000", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("mlflow", True),
        ("mlflow:8000", True),
        ("gpu7.example.org:8000", True),
        ("gpu7.example.org", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("127.0.0.1.evil.example:80", False),
    ],
)
def test_hosts(tmp_path: Path, host: str, expected: bool) -> None:
    settings = system(tmp_path, public_address="gpu7.example.org").settings
    assert allowed(host, stack.allowed_hosts(settings).split(",")) is expected


def test_origins_name_hosts_and_have_no_star(tmp_path: Path) -> None:
    origins = stack.cors_origins(system(tmp_path, public_address="gpu7.example.org").settings).split(",")
    assert "http://gpu7.example.org:8000" in origins
    assert not any("*" in origin for origin in origins)


def test_both_engines_start_postgresql_with_the_same_settings() -> None:
    model = yaml.safe_load((stack.ROOT / "docker" / "compose.yaml").read_text())
    assert model["services"]["postgres"]["command"] == [
        "postgres",
        *stack.database_options("${TRACKBED_MAX_CONNECTIONS:-100}"),
    ]


@pytest.mark.parametrize("workers", range(1, 33))
def test_no_worker_is_turned_away_by_the_database(workers: int) -> None:
    kept, more = stack.pool(workers)
    assert kept >= 1 and more >= 1, "MLflow takes 0 for not set"
    assert workers * len(stack.POOLS) * (kept + more) + stack.RESERVED <= stack.max_connections(workers)
    assert stack.max_connections(workers) <= 300, "each is a process"


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
    asked = workers * (len(stack.POOLS) + 1) * sum(stack.pool(workers)) + processes * (kept + more) + stack.RESERVED
    assert asked <= stack.max_connections(workers, True) <= 500
    assert (processes, kept + more) == (stack.JOB_PROCESSES, stack.JOB_POOL)


def test_both_engines_count_the_connections_of_jobs(tmp_path: Path) -> None:
    said = {jobs: str(stack.max_connections(2, jobs)) for jobs in (False, True)}
    assert said[True] != said[False]
    for given, jobs in (({}, False), ({"mlflow_jobs": "on"}, True)):
        one = system(tmp_path, **given)
        assert DockerEngine(one).compose.values()["TRACKBED_MAX_CONNECTIONS"] == said[jobs]
        assert f"max_connections={said[jobs]}" in EmbeddedEngine(one).specs.spec("postgres").command
    public = system(tmp_path, engine="docker", public="true", mlflow_jobs="on").settings
    assert not stack.has_jobs(public)


def test_few_workers_have_mlflows_own_pools() -> None:
    assert stack.pool(2) == stack.pool(8) == (5, 10)
    assert stack.max_connections(2) == 100
    assert stack.pool(16) == (5, 2) and stack.pool(32) == (3, 1)


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit", "full_page_writes"])
def test_no_setting_gives_up_what_was_acknowledged(name: str) -> None:
    assert name not in stack.DATABASE_SETTINGS


def test_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = stack.folder_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = stack.folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, stack.folder_digest(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            "registry.example/" + "/".join(["minio"] * 2) + ":1",
            ("gone", "leave MINIO_IMAGE out", "OBJECT_STORE=versitygw"),
        ),
        ("postgres:18.6-trixie", ("online", "REGISTRY_MIRROR", "*_IMAGE")),
    ],
)
def test_a_failed_pull_says_why(image: str, words: tuple[str, ...]) -> None:
    assert all(word in images._pull_hint(image) for word in words)


def test_links_name_the_address_that_is_listened_on(tmp_path: Path) -> None:
    """Another account may listen on ::1, which `localhost` can mean as well."""
    assert stack.browser_url(system(tmp_path).settings) == "http://127.0.0.1:8000"
    assert stack.browser_url(system(tmp_path, bind_address="127.0.0.2").settings) == "http://127.0.0.2:8000"


def test_the_notebook_says_that_it_reaches_the_store_where_it_does(tmp_path: Path) -> None:
    private = system(tmp_path)
    told = stack.notebook_environment(private.settings, "http://mlflow:8000", private.state.instance, "")
    network = told["TRACKBED_STORE_NETWORK"]
    assert network and network == stack.store_network(private.settings, private.state.instance)
    assert network != stack.store_network(private.settings, "another system"), "it has another store of the same name"
    for words in ({"public": True}, {"tracking_uri": "https://mlflow.example.org"}):
        assert not stack.store_network(replace(private.settings, **words), private.state.instance)


def test_the_stores_console_asks_where_the_browser_reaches_it(tmp_path: Path) -> None:
    assert stack.s3_browser_url(system(tmp_path).settings) == "http://127.0.0.1:9000"
    public = system(tmp_path, public="true", public_address="192.0.2.7", s3_port="9100").settings
    assert stack.s3_browser_url(public) == "https://192.0.2.7:9100"
    store = yaml.safe_load((stack.ROOT / "docker" / "compose.versitygw.yaml").read_text())["services"]["store"]
    assert {store["environment"][f"VGW_WEBUI_{name}GATEWAYS"] for name in ("", "ADMIN_")} == {
        "${TRACKBED_S3_BROWSER_URL:-}"
    }
