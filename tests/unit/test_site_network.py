"""Proxies and certificates of a site: where they are found, and what never goes through them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from helpers import site_network, url_logins
from helpers.engines import jupyterlab, notebook_spec
from helpers.engines.docker import client_config
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.gpu.accelerator import Accelerator
from helpers.settings import Settings
from helpers.site_network import SiteNetwork
from tests.unit.fakes import deployed, project

PROXY, OTHER = "http://proxy.example:3128", "http://other.example:3128"


def settings(folder: Path, dotenv: str = "", **environ: str) -> Settings:
    clone = folder / "clone"
    clone.mkdir(exist_ok=True)
    (clone / ".env").write_text(dotenv)
    return Settings.load({}, {"TRACKBED_STATE_DIR": str(folder / "state"), **environ}, clone / ".env", {})


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificates of this machine's own site."""
    monkeypatch.setattr(site_network, "ANCHORS", ())


def find(
    folder: Path, dotenv: str = "", system: str = "", client: dict[str, str] | None = None, **environ: str
) -> SiteNetwork:
    (folder / "environment").write_text(system)
    return site_network.find(settings(folder, dotenv), environ, client or {}, str(folder / "environment"))


@pytest.mark.parametrize(
    ("places", "origin", "proxy"),
    [
        ({"https_proxy": PROXY, "dotenv": f"HTTPS_PROXY={OTHER}\n"}, "the environment", PROXY),
        ({"HTTPS_PROXY": PROXY}, "the environment", PROXY),
        ({"dotenv": f"HTTPS_PROXY={PROXY}\n", "system": f"HTTPS_PROXY={OTHER}\n"}, ".env", PROXY),
        ({"client": {"HTTPS_PROXY": PROXY}, "system": f"https_proxy={OTHER}\n"}, "Docker's config.json", PROXY),
        ({"system": f'# of the site\nexport https_proxy="{PROXY}"\n'}, "", PROXY),
    ],
)
def test_wherever_they_are_configured(tmp_path: Path, places: dict[str, str], origin: str, proxy: str) -> None:
    result = find(tmp_path, **places)  # type: ignore[arg-type]
    assert dict(result.proxies) == {"HTTPS_PROXY": proxy}
    assert result.origin == (origin or str(tmp_path / "environment"))


def test_what_is_inside_never_goes_through_them(tmp_path: Path) -> None:
    result = find(
        tmp_path, http_proxy=PROXY, no_proxy="10.0.0.0/8, intern.example", client={"NO_PROXY": "registry.example"}
    )
    reported = result.environment(site_network.inside(settings(tmp_path, TRACKBED_BIND_ADDRESS="127.0.0.2")))
    assert reported["HTTP_PROXY"] == reported["http_proxy"] == PROXY
    assert reported["NO_PROXY"] == reported["no_proxy"]
    listed = reported["NO_PROXY"].split(",")
    assert {
        "localhost",
        "127.0.0.1",
        "127.0.0.2",
        "::1",
        "mlflow",
        "store",
        "10.0.0.0/8",
        "intern.example",
        "registry.example",
    } <= set(listed)
    assert find(tmp_path).environment() == {}, "no proxy, no variables"
    assert site_network.exceptions("a.example, store") == ",".join((*site_network.INSIDE, "a.example"))


def test_a_proxy_of_the_loopback_is_none_for_containers(tmp_path: Path) -> None:
    result = find(tmp_path, http_proxy="http://ada:hunter2@127.0.0.1:3128", https_proxy=PROXY)
    assert dict(result.reachable_from_containers().proxies) == {"HTTPS_PROXY": PROXY}
    assert result.unreachable_proxies == ("http://***@127.0.0.1:3128",)
    assert "hunter2" not in str(result) and "from the environment" in str(result)


def pem(word: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{word}\n-----END CERTIFICATE-----\n"


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "site.pem"
    own.write_text(pem("ours"))
    result = find(tmp_path, PIP_CERT=str(own))
    assert (result.bundles, result.bundle_origin) == ((str(own),), "PIP_CERT")
    text = site_network.certificates(result.bundles)
    assert text.startswith(own.read_text()) and text.count("BEGIN CERTIFICATE") > 50, "the public ones too"
    assert find(tmp_path, dotenv=f"SSL_CERT_FILE={own}\n").bundles == (str(own),)
    assert find(tmp_path, PIP_CERT="/nowhere").bundles == ()

    store = tmp_path / "store.pem"
    store.write_text(pem("stores"))
    result = find(tmp_path, PIP_CERT=str(own), AWS_CA_BUNDLE=str(store), CURL_CA_BUNDLE=str(own))
    assert (result.bundles, result.bundle_origin) == ((str(own), str(store)), "PIP_CERT, AWS_CA_BUNDLE")
    assert site_network.certificates(result.bundles).startswith(own.read_text() + store.read_text()), "both are trusted"
    assert site_network.certificates(["/nowhere"]) == ""

    secret = "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\nroot:hush\n"
    own.write_text(secret + pem("ours") + secret)
    assert "hush" not in (text := site_network.certificates(result.bundles)) and pem("ours") in text, (
        "certificates alone"
    )
    os.mkfifo(fifo := tmp_path / "fifo")
    assert site_network.certificates([str(fifo)]) == ""

    anchors = tmp_path / "anchors"
    anchors.mkdir()
    monkeypatch.setattr(site_network, "ANCHORS", (str(anchors),))
    monkeypatch.setattr(site_network, "SYSTEM", ("/nowhere", str(own)))
    assert find(tmp_path).bundles == ()
    (anchors / "site.crt").touch()
    assert (find(tmp_path).bundles, find(tmp_path).bundle_origin) == ((str(own),), str(anchors))


def test_the_notebook_is_told(tmp_path: Path) -> None:
    reported = SiteNetwork({"HTTPS_PROXY": PROXY}).environment() | site_network.trust("/run/secrets/site-ca.pem")
    spec = notebook_spec.container_spec(deployed(settings(tmp_path)), Accelerator(), "i:1", site=reported)
    assert spec.environment["https_proxy"] == PROXY and spec.environment["PIP_CERT"] == "/run/secrets/site-ca.pem"


def test_proxies_of_dockers_client(tmp_path: Path) -> None:
    reported = {"proxies": {"default": {"httpProxy": PROXY, "noProxy": "a.example"}, "tcp://x": {"httpProxy": OTHER}}}
    (tmp_path / "config.json").write_text(json.dumps(reported))
    assert client_config.proxies({"DOCKER_CONFIG": str(tmp_path)}) == {"HTTP_PROXY": PROXY, "NO_PROXY": "a.example"}
    (tmp_path / "config.json").write_text('{"proxies": []}')
    assert client_config.proxies({"DOCKER_CONFIG": str(tmp_path)}) == {}


def test_services_without_docker_read_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's own file may be in a folder that is closed to their accounts."""
    own = tmp_path / "site.pem"
    own.write_text(pem("ours"))
    for name in (*site_network.TRUST, "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CERT", str(own))
    monkeypatch.setenv("http_proxy", PROXY)
    engine = EmbeddedEngine(project(tmp_path))
    reported = engine.deployment.inherited_environment()
    copy = str(engine.deployment.app / jupyterlab.CERTIFICATES)
    assert {reported[name] for name in site_network.TRUST} == {copy}
    assert reported["http_proxy"] == PROXY and "127.0.0.1" in reported["no_proxy"].split(",")
    others = engine.deployment.inherited_environment(["HTTP_PROXY"])
    assert not {"http_proxy", "HTTP_PROXY"} & others.keys(), "a proxy that the user names is alone"
    own.unlink()
    assert site_network.TRUST[1] not in EmbeddedEngine(project(tmp_path)).deployment.inherited_environment()


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://user:word@127.0.0.1:3128", "http://***@127.0.0.1:3128"),
        ("user:word@127.0.0.1:3128", "***@127.0.0.1:3128"),
        ("http://user:wo/rd@127.0.0.1:3128", "http://***@127.0.0.1:3128"),
        ("http://user:wo[rd@127.0.0.1:3128", "http://***@127.0.0.1:3128"),
        ("127.0.0.1:3128", "127.0.0.1:3128"),
    ],
)
def test_no_login_of_a_proxy_is_told(proxy: str, shown: str) -> None:
    """However it is written: programs take one without http:// too."""
    site = site_network.SiteNetwork({"HTTP_PROXY": proxy}, origin=".env")
    assert str(site).startswith(f"proxy {shown} (from .env)")
    assert all(one == shown for one in site.unreachable_proxies)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:word@proxy:3128", "http://***@proxy:3128"),
        ("http://user:wo@rd@proxy/a@b", "http://***@proxy/a@b"),
        ("http://mlflow:word@proxy http://mlflow@host", "http://***@proxy http://mlflow@host"),
        ("http://host/a image@sha256:1", "http://host/a image@sha256:1"),
        ("http://host image@sha256:1", "http://host image@sha256:1"),
    ],
)
def test_a_url_is_shown_without_its_login(text: str, shown: str) -> None:
    assert url_logins.masked(text, "mlflow") == shown
