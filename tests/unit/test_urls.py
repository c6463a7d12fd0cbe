"""The lists that MLflow compares hosts and origins with, checked with the same comparison."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers import clone, urls
from helpers.engines import jupyterlab
from helpers.engines.docker import images
from helpers.project.deployment import Deployment
from tests.unit.fakes import deployed, project


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
    settings = project(tmp_path, public_address="gpu7.example.org").settings
    assert allowed(host, urls.allowed_hosts(deployed(settings)).split(",")) is expected


def test_origins_name_hosts_and_have_no_star(tmp_path: Path) -> None:
    origins = urls.cors_origins(deployed(project(tmp_path, public_address="gpu7.example.org").settings)).split(",")
    assert "http://gpu7.example.org:8000" in origins
    assert not any("*" in origin for origin in origins)


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
    assert urls.browser_url(deployed(project(tmp_path).settings)) == "http://127.0.0.1:8000"
    assert urls.browser_url(deployed(project(tmp_path, bind_address="127.0.0.2").settings)) == "http://127.0.0.2:8000"


def test_the_notebook_says_that_it_reaches_the_store_where_it_does(tmp_path: Path) -> None:
    private = Deployment(project(tmp_path), "versitygw")
    reported = jupyterlab.environment(private, "http://mlflow:8000", "")
    network = reported["TRACKBED_STORE_NETWORK"]
    assert network and network == jupyterlab.store_network(private)
    private.project.state.instance = "another project"
    assert network != jupyterlab.store_network(private), "it has another store of the same name"
    for words in ({"public": True}, {"tracking_uri": "https://mlflow.example.org"}):
        assert not jupyterlab.store_network(deployed(replace(private.settings, **words)))


def test_the_stores_console_asks_where_the_browser_reaches_it(tmp_path: Path) -> None:
    assert urls.s3_browser_url(deployed(project(tmp_path).settings)) == "http://127.0.0.1:9000"
    public = project(tmp_path, public="true", public_address="192.0.2.7", s3_port="9100").settings
    assert urls.s3_browser_url(deployed(public)) == "https://192.0.2.7:9100"
    store = yaml.safe_load((clone.ROOT / "docker" / "compose.versitygw.yaml").read_text())["services"]["store"]
    assert {store["environment"][f"VGW_WEBUI_{name}GATEWAYS"] for name in ("", "ADMIN_")} == {
        "${TRACKBED_S3_BROWSER_URL:-}"
    }
