"""Users, addresses, what the gateway is told and what is refused; no engine is asked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import clone, cloud_metadata, gateway, status, urls
from helpers.engines import container_secrets, gateway_spec
from helpers.engines.base import ServiceStatus, State
from helpers.engines.docker import variables
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.host import LOCAL
from helpers.engines.select import ENGINES
from helpers.errors import SettingError, TrackbedError
from helpers.project import credentials, users
from helpers.settings import FOUND_ADDRESS
from tests.unit.fakes import deployed, project


def test_a_password_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    settings = project(tmp_path).settings
    password = users.add(settings, "ann")
    text = users.path(settings).read_text()
    name, salt, digest = text.splitlines()[0].split(":")
    assert name == "ann" and password not in text and len(password) == 32 and text.endswith("\nend\n")
    assert digest == hashlib.sha256(bytes.fromhex(salt) + password.encode()).hexdigest()
    assert users.path(settings).stat().st_mode & 0o777 == 0o600
    assert users.passwd(settings, "ann") != password and users.path(settings).read_text() != text
    users.add(settings, "bob@example.org")
    assert sorted(users.load(settings)) == ["ann", "bob@example.org"]
    users.remove(settings, "ann")
    assert list(users.load(settings)) == ["bob@example.org"]


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "-x", "a" * 65, "ä", "a\nb", ".x"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError):
        users.add(project(tmp_path).settings, name)


def test_user_mistakes(tmp_path: Path) -> None:
    settings = project(tmp_path).settings
    users.add(settings, "annabel")
    for change in (users.passwd, users.remove):
        with pytest.raises(SettingError, match="Did you mean annabel"):
            change(settings, "anabel")
    with pytest.raises(SettingError, match="exists already"):
        users.add(settings, "annabel")
    users.path(settings).write_text("broken\n")
    with pytest.raises(TrackbedError, match="damaged"):
        users.load(settings)


def test_public_names_hosts_and_origins_are_one_list(tmp_path: Path) -> None:
    settings = project(tmp_path, public="true", public_address="203.0.113.7", mlflow_port="8001").settings
    assert urls.browser_url(deployed(settings)) == "https://203.0.113.7:8001"
    assert "203.0.113.7:*" in urls.allowed_hosts(deployed(settings)).split(",")
    origins = urls.cors_origins(deployed(settings)).split(",")
    assert "https://203.0.113.7:8001" in origins and all(o.startswith("https://") for o in origins)


def test_the_address_is_asked_for_remembered_and_never_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = project(tmp_path, public="true")
    said: list[str] = []
    monkeypatch.setattr(
        cloud_metadata, "public_address", lambda: cloud_metadata.PublicAddress(why="no metadata service answers")
    )
    with pytest.raises(SettingError, match="needs the address"):
        gateway.resolve_address(created, said.append)
    monkeypatch.setattr(cloud_metadata, "public_address", lambda: cloud_metadata.PublicAddress("203.0.113.7", "AWS"))
    gateway.resolve_address(created, said.append)
    assert created.settings.public_address == "203.0.113.7" and "203.0.113.7" in said[0]
    created.state.save()
    again = project(tmp_path, public="true")
    assert again.settings.public_address == "203.0.113.7"
    monkeypatch.setattr(cloud_metadata, "public_address", lambda: cloud_metadata.PublicAddress(why="silent"))
    gateway.resolve_address(again, said.append)  # the service is silent today
    assert again.settings.public_address == "203.0.113.7" and said[-1].startswith("warning: silent")
    reported = project(tmp_path, public="true", public_address="lab.example.org")
    gateway.resolve_address(reported, said.append)
    assert reported.settings.public_address == "lab.example.org" and FOUND_ADDRESS not in reported.state.remembered


@pytest.mark.parametrize(
    ("flags", "engine", "node", "words"),
    [
        ({"public": "true"}, "embedded", "", "needs the docker engine"),
        ({"public": "true"}, "docker", "ssh://node", "would run on ssh://node"),
    ],
)
def test_what_cannot_be_public(tmp_path: Path, flags: dict[str, str], engine: str, node: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        gateway.check_settings(project(tmp_path, **flags).settings, ENGINES[engine], node)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"bind_address": "0.0.0.0"}, "loopback"),
        ({"public": "true", "public_address": "2001:db8::1"}, "IPv4"),
        ({"public": "true", "domain": "203.0.113.7"}, "PUBLIC_ADDRESS"),
        ({"public": "ja"}, "one of true, false"),
        ({"public": "true", "domain": "lab.example.org", "mlflow_port": "443"}, "cannot share a port"),
        ({"acme_ca": "http://ca/dir"}, "https://"),
        ({"acme_root": "/nowhere.pem"}, "PEM"),
    ],
)
def test_wrong_settings(tmp_path: Path, flags: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        project(tmp_path, **flags)


@pytest.mark.parametrize(
    ("flags", "overlays"),
    [
        ({}, ["versitygw"]),
        ({"object_store": "minio"}, ["minio"]),
        ({"public": "true", "object_store": "minio"}, ["minio", "public", "public-store", "public-console"]),
        ({"public": "true"}, ["versitygw", "public", "public-store"]),
        (
            {"public": "true", "object_store": "versitygw", "public_s3": "true"},
            ["versitygw", "public", "public-store", "public-console", "public-s3"],
        ),
        ({"public": "true", "domain": "lab.example.org"}, ["versitygw", "public", "public-store", "public-acme"]),
    ],
)
def test_overlays(tmp_path: Path, flags: dict[str, str], overlays: list[str]) -> None:
    created = project(tmp_path, **{"public_address": "203.0.113.7", **flags})
    files = DockerEngine(created).compose.files
    assert [f.removeprefix("docker/compose.").removesuffix(".yaml") for f in files[1:]] == overlays
    assert all((clone.ROOT / f).exists() for f in files)


@pytest.mark.parametrize(
    ("flags", "certificates", "bound"),
    [
        ({}, "internal", "0.0.0.0"),
        ({"domain": "lab.example.org"}, "acme", "0.0.0.0"),
        ({"certificates": "acme"}, "acme_address", "0.0.0.0"),
        ({"bind_address": "192.0.2.1"}, "internal", "192.0.2.1"),
        ({"domain": "lab.example.org", "certificates": "internal"}, "internal", "0.0.0.0"),
    ],
)
def test_what_the_gateway_is_told(tmp_path: Path, flags: dict[str, str], certificates: str, bound: str) -> None:
    created = project(tmp_path, public="true", public_address="203.0.113.7", **flags)
    reported = variables.gateway_variables(DockerEngine(created).deployment)
    assert reported["TRACKBED_GATEWAY_CERTIFICATES"] == certificates
    assert reported["TRACKBED_GATEWAY_ADDRESS"] == bound


def test_the_gateways_key_follows_the_secrets_and_tells_none(tmp_path: Path) -> None:
    values = {name: name.lower() for name in credentials.NAMES}

    def derived(name: str, **changed: str) -> str:
        return credentials.Credentials({**values, **changed}).derived(name)

    assert len({derived(name) for name in credentials.DERIVED}) == 2
    for name in credentials.DERIVED:
        key = derived(name)
        assert len(key) == 64 and not [v for v in values.values() if v in key]
        for source in (credentials.POSTGRES_PASSWORD, credentials.S3_SECRET_KEY, credentials.KEK_PASSPHRASE):
            assert derived(name, **{source: "another"}) != key
        # what the notebook has is none of them
        for theirs in (credentials.JUPYTER_TOKEN, credentials.MLFLOW_TOKEN):
            assert derived(name, **{theirs: "another"}) == key


def test_behind_the_gateway_mlflow_asks_for_its_token_and_people_are_told_of_none(tmp_path: Path) -> None:
    settings = project(tmp_path, public="true", public_address="203.0.113.7", project="lab").settings
    files = {(file.service, file.path): file for file in container_secrets.secret_files(deployed(settings))}
    for service, path in (("mlflow", "access-token"), ("gateway", "access-token"), ("jupyter", "tracking-token")):
        assert files[service, path].template == "{MLFLOW_TOKEN}"
    assert {service for service, path in files if path == "gateway-key"} == {"mlflow", "gateway"}
    assert {service for service, path in files if path == "store-sync-token"} == {"mlflow", "store"}
    values = {name: name.lower() for name in credentials.NAMES}
    for file in files.values():
        if not any(name.startswith(credentials.FORMER) for name in file.names):
            assert credentials.Credentials(values).render(file.template, file.names)
    ready = ServiceStatus("mlflow", State.READY)
    engine = SimpleNamespace(
        name="docker",
        services=lambda detail: (ready,),
        access_token=lambda: "token",
        host=LOCAL,
        console_is_public=False,
        object_store="versitygw",
        settings=settings,
        deployment=deployed(settings),
    )
    view = status.overview(engine)  # type: ignore[arg-type]
    assert view.token == "" and status.mlflow_url(view) == f"https://203.0.113.7:8000/{urls.TRAINING_PAGE}"


@pytest.mark.parametrize(
    ("flags", "there"),
    [
        ({}, False),
        ({"domain": "lab.example.org"}, True),
        ({"certificates": "acme"}, False),
        ({"domain": "lab.example.org", "certificates": "internal"}, False),
    ],
)
def test_browsers_are_bound_to_https_only_where_they_know_the_certificate(
    tmp_path: Path, flags: dict[str, str], there: bool
) -> None:
    settings = project(tmp_path, public="true", public_address="203.0.113.7", **flags).settings
    assert bool(gateway_spec.hsts(settings)) is there
    root = tmp_path / "root.pem"
    root.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    own = project(tmp_path, public="true", public_address="203.0.113.7", acme_root=str(root), **flags).settings
    assert gateway_spec.hsts(own) == ""


def test_another_root_is_told_once(tmp_path: Path) -> None:
    settings = project(tmp_path, public="true", public_address="203.0.113.7").settings
    root = gateway.root_path(settings)
    root.parent.mkdir(parents=True, exist_ok=True)
    assert gateway.renewed(settings, "AA:BB") == ""  # not there yet
    root.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert gateway.renewed(settings, "") == "" and gateway.renewed(settings, gateway.fingerprint(root)) == ""
    assert str(root) in gateway.renewed(settings, "AA:BB")


def test_client_lines_hold_no_password(tmp_path: Path) -> None:
    created = project(tmp_path, public="true", public_address="203.0.113.7")
    settings = created.settings
    password = users.add(settings, "ann")
    gateway.root_path(settings).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    lines = gateway.client_lines(created, None)
    assert "MLFLOW_TRACKING_USERNAME=ann" in lines and "BEGIN CERTIFICATE" in lines and password not in lines
    with pytest.raises(SettingError, match="no such user"):
        gateway.client_lines(created, "zed")
    assert "ssh -N" in gateway.client_lines(project(tmp_path), None)


@pytest.mark.parametrize(
    "flags",
    [
        {"public_address": "localhost"},
        {"public_address": "127.0.0.1"},
        {"public_address": "127.0.0.2"},
        {"public_address": "LOCALHOST."},
        {"public_address": "lab.localhost"},
        {"public_address": "0.0.0.0"},
        {"domain": "lab.localhost", "certificates": "internal"},
    ],
)
def test_what_every_machine_calls_itself_is_no_public_address(tmp_path: Path, flags: dict[str, str]) -> None:
    settings = project(tmp_path, public="true", **flags).settings
    with pytest.raises(SettingError, match="every machine calls itself that") as caught:
        gateway.check_settings(settings, DockerEngine)
    assert "--public-address=" in caught.value.hint
    gateway.check_settings(project(tmp_path, public="true", public_address="lab7").settings, DockerEngine)


def test_another_loopback_address_is_a_name_of_mlflow_and_at_both_ends_of_the_tunnel(tmp_path: Path) -> None:
    created = project(tmp_path, bind_address="127.0.0.2")
    settings = created.settings
    assert {"127.0.0.2", "127.0.0.2:*", "127.0.0.1"} <= set(urls.allowed_hosts(deployed(settings)).split(","))
    assert f"http://127.0.0.2:{settings.mlflow_port}" in urls.cors_origins(deployed(settings)).split(",")
    lines = gateway.client_lines(created, None)
    port = settings.mlflow_port
    assert f"-L 127.0.0.2:{port}:127.0.0.2:{port}" in lines and f"URI=http://127.0.0.2:{port}" in lines
    assert f"-L {port}:127.0.0.1:{port}" in gateway.client_lines(project(tmp_path), None)
