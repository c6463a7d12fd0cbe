"""Address discovery against a small server that answers as each cloud does."""

from __future__ import annotations

import threading

import pytest

from helpers import cloud_metadata
from tests.conftest import PATIENCE
from tests.unit import metadata_service
from tests.unit.metadata_service import Cloud, Reply, Serve, pages

ADDRESS = "/latest/meta-data/public-ipv4"
google = metadata_service.google({cloud_metadata.GOOGLE: "203.0.113.9"})


def openstack(address: str) -> Cloud:
    return pages({ADDRESS: address})


def aws(address: str) -> Cloud:
    return metadata_service.aws({ADDRESS: address} if address else {})


def azure(method: str, path: str, headers: dict[str, str]) -> Reply:
    return (200, "203.0.113.8") if path == cloud_metadata.AZURE and headers.get("metadata") == "true" else (400, "no")


@pytest.mark.parametrize(
    ("cloud", "address", "name"),
    [
        (openstack("203.0.113.7"), "203.0.113.7", "AWS or OpenStack"),
        (openstack("203.0.113.7\n"), "203.0.113.7", "AWS"),
        (aws("203.0.113.6"), "203.0.113.6", "AWS"),
        (google, "203.0.113.9", "Google"),
        (azure, "203.0.113.8", "Azure"),
    ],
)
def test_clouds(serve: Serve, cloud: Cloud, address: str, name: str) -> None:
    result = cloud_metadata.public_address(serve(cloud))
    assert result.address == address and result.cloud.startswith(name)


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        (openstack(""), "HTTP 200, empty"),
        (aws(""), "HTTP 404"),
        (openstack("<html>log in</html>"), "no address"),
        (openstack("0.0.0.0"), "no address"),
        (openstack("127.0.0.1"), "no address"),
        (openstack("169.254.1.1"), "no address"),
        (openstack("10.0.0.1\n10.0.0.2"), "no address"),
        (lambda m, p, h: (302, ""), "HTTP 302"),
        (lambda m, p, h: (500, "x"), "HTTP 500"),
    ],
)
def test_no_address(serve: Serve, cloud: Cloud, words: str) -> None:
    result = cloud_metadata.public_address(serve(cloud))
    assert result.address == "" and words in result.why


def test_nobody_there() -> None:
    assert "no metadata service" in cloud_metadata.public_address(("127.0.0.1", 1)).why


def test_a_proxy_is_not_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert cloud_metadata.public_address(serve(openstack("203.0.113.7"))).address == "203.0.113.7"


def test_a_hanging_service_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_metadata, "READ", 0.2)

    given_up = threading.Event()

    def slow(method: str, path: str, headers: dict[str, str]) -> Reply:
        given_up.wait(PATIENCE)
        return 200, "203.0.113.7"

    assert cloud_metadata.public_address(serve(slow)).address == ""
    given_up.set()
