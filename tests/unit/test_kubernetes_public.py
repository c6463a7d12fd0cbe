"""PUBLIC=true in a cluster: the gateway, its Service, its logins; on a kubectl that answers as a real one did."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import gateway, lifecycle
from helpers.engines.kubernetes import exposure, kustomization, objects, secrets, specs
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.select import ENGINES
from helpers.errors import SettingError, TrackbedError
from helpers.findings import Level
from helpers.project import users
from helpers.services import GATEWAY, JUPYTER, MLFLOW, POSTGRES, STORE
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import project

NODES = {"gateway_service": "nodeport", "mlflow_port": "30800", "jupyter_port": "30888"}
PATCH_FORBIDDEN = (
    'Error from server (Forbidden): pods "gateway-0" is forbidden: User "ann" cannot patch resource "pods" in API group '
    '"" in the namespace "trackbed"\n'
)
EXTERNAL = {
    "object_store": "external",
    "s3_endpoint": "https://s3.example.org",
    "s3_access_key": "lab-key",
    "s3_secret_key": "lab-secret",
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


def public(folder: Path, **given: str) -> KubernetesEngine:
    flags = {"public": "true", "public_address": "lab.example.org", **given}
    return KubernetesEngine(project(folder, engine="kubernetes", **flags))


def service(engine: KubernetesEngine) -> dict[str, Any]:
    return {one["path"].removeprefix("/spec/"): one["value"] for one in exposure.service_patch(engine.deployment)}


@pytest.mark.parametrize("given", [{"public_address": ""}, {"public_address": "localhost"}])
def test_it_needs_a_name_that_others_know(tmp_path: Path, given: dict[str, str]) -> None:
    settings = public(tmp_path, **given).settings
    with pytest.raises(SettingError) as caught:
        gateway.check_settings(settings, ENGINES["kubernetes"])
    assert "--public-address=" in caught.value.hint


def test_an_address_that_a_cloud_named_is_another_machines(tmp_path: Path, kubectl: FakeKubectl) -> None:
    created = project(tmp_path, engine="kubernetes", public="true", public_address="")
    found = created.settings.reload({"FOUND_ADDRESS": "203.0.113.7"})
    assert found.public_address == "203.0.113.7"
    with pytest.raises(SettingError, match="in a cluster needs the name or address"):
        gateway.check_settings(found, ENGINES["kubernetes"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gateway_service": "nodeport"}, r"MLFLOW_PORT=8000 \(from default\) is no node port"),
        (NODES | {"jupyter_port": "8888"}, r"JUPYTER_PORT=8888 \(from --jupyter-port\) is no node port"),
        (NODES | {"public_s3": "true"}, "S3_PORT=9000"),
        (NODES | {"certificates": "acme"}, "ports 80 and 443, which are no node ports"),
        (NODES | {"domain": "lab.example.org"}, "ports 80 and 443, which are no node ports"),
    ],
)
def test_what_a_node_port_cannot_be(tmp_path: Path, given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        exposure.patches(public(tmp_path, **given).deployment)
    assert "invoke up --public" in caught.value.hint


def test_the_service_of_each_kind(tmp_path: Path) -> None:
    nodes = service(public(tmp_path / "a", **NODES))
    assert nodes["type"] == "NodePort" and nodes["externalTrafficPolicy"] == "Cluster"
    assert [(one["name"], one["port"], one["nodePort"]) for one in nodes["ports"]] == [
        ("mlflow", 30800, 30800),
        ("jupyter", 30888, 30888),
    ]
    balanced = service(public(tmp_path / "b", domain="lab.example.org", public_s3="true"))
    assert balanced["type"] == "LoadBalancer" and balanced["externalTrafficPolicy"] == "Local"
    listed = {one["name"]: one["port"] for one in balanced["ports"]}
    assert listed == {"mlflow": 8000, "jupyter": 8888, "s3": 9000, "console": 9001, "acme-http": 80, "acme-https": 443}
    assert not [one for one in balanced["ports"] if "nodePort" in one]


def test_the_notebooks_of_other_namespaces_are_let_in_by_name(tmp_path: Path) -> None:
    deployment = KubernetesEngine(project(tmp_path, engine="kubernetes", notebook_namespaces="alice,bob")).deployment
    (rule,) = exposure.patches(deployment)["NetworkPolicy", MLFLOW]
    (peer,) = rule["value"]["from"]
    (which,) = peer["namespaceSelector"]["matchExpressions"]
    assert (which["key"], which["values"]) == ("kubernetes.io/metadata.name", ["alice", "bob"])
    assert peer["podSelector"]["matchLabels"][objects.PART] == JUPYTER and rule["value"]["ports"] == [{"port": 8000}]
    assert exposure.patches(KubernetesEngine(project(tmp_path / "b", engine="kubernetes")).deployment) == {}


def test_only_the_gateways_ports_are_on_this_machine(tmp_path: Path) -> None:
    deployment = public(tmp_path, **NODES).deployment
    assert GATEWAY in deployment.services
    assert [(one.name, one.target, one.published) for one in specs.ports(GATEWAY, deployment)] == [
        ("mlflow", 8000, 30800),
        ("jupyter", 8888, 30888),
    ]
    for name in (MLFLOW, JUPYTER, STORE, POSTGRES):
        assert specs.ports(name, deployment) == ()
    assert (specs.target(MLFLOW, "http"), specs.target(STORE, "s3"), specs.target(POSTGRES, "http")) == (8000, 9000, 0)


def test_the_gateway_is_told_what_it_is_told_on_docker(tmp_path: Path, kubectl: FakeKubectl) -> None:
    told = kustomization.environments(public(tmp_path, **NODES).deployment)[GATEWAY]
    expected = {"GATEWAY_NAME": "lab.example.org", "GATEWAY_CERTIFICATES": "internal", "GATEWAY_MLFLOW_PORT": "30800"}
    assert expected.items() <= told.items()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["gateway", "isolated"]),
        (EXTERNAL, ["external-store", "gateway"]),
    ],
)
def test_the_server_has_no_way_out_where_it_needs_none(
    tmp_path: Path, given: dict[str, str], expected: list[str]
) -> None:
    assert kustomization.components(public(tmp_path, **given).deployment) == expected


# while a start that failed has left the gateway, the project is not public
@pytest.mark.parametrize("is_public", ["true", "false"])
def test_logins_are_handed_to_a_gateway_that_runs(tmp_path: Path, kubectl: FakeKubectl, is_public: str) -> None:
    given = {**NODES, "public_address": "lab.example.org"} if is_public == "true" else {}
    engine = KubernetesEngine(project(tmp_path, engine="kubernetes", public=is_public, **given))
    mine = {objects.INSTANCE: engine.project.state.instance}
    kubectl.answer(
        "get namespace trackbed ",
        {"kind": "Namespace", "metadata": {"name": "trackbed", "annotations": mine}, "status": {"phase": "Active"}},
    )
    engine.project.state.engine = "kubernetes"
    engine.project.state.save()
    told: list[str] = []
    assert lifecycle.change_users(engine.project, told.append, lambda: users.add(engine.settings, "ann")) and not told
    ((line, changed),) = [call for call in kubectl.calls if " patch " in call[0]]
    assert f" patch secret {secrets.name(GATEWAY)} --type=merge " in line and "--patch-file=/dev/stdin" in line
    content = base64.b64encode(users.path(engine.settings).read_bytes()).decode()
    assert json.loads(changed) == {"data": {"users": content}} and content not in line  # and no other key
    (noted,) = [line for line, _ in kubectl.calls if " annotate " in line]
    assert " pod gateway-0 dev.trackbed.users=" in noted and "--overwrite" in noted
    kubectl.answer(" annotate ", "", 'Error from server (NotFound): pods "gateway-0" not found\n', 1)
    assert engine.put_users() == (), "it is down"
    kubectl.answer(" annotate ", "", PATCH_FORBIDDEN, 1)
    (late,) = engine.put_users()
    assert "two minutes" in late and "ann has no right to patch pods" in late and "auth can-i patch pods" in late
    kubectl.answer(" patch ", "", 'Error from server (NotFound): secrets "secrets-gateway" not found\n', 1)
    assert engine.put_users() == (), "there is none"
    kubectl.answer(" patch ", "", PATCH_FORBIDDEN, 1)
    with pytest.raises(TrackbedError, match="has no right to patch"):
        engine.put_users()


def test_an_engine_that_does_not_answer_keeps_no_login_back(tmp_path: Path, kubectl: FakeKubectl) -> None:
    made = project(tmp_path, engine="kubernetes")
    made.state.engine = "kubernetes"
    made.state.save()
    kubectl.answer("get namespace", "", "The connection to the server 10.0.0.1:6443 was refused\n", 1)
    told: list[str] = []
    assert lifecycle.change_users(made, told.append, lambda: users.add(made.settings, "ann"))
    assert "no gateway was looked for: the cluster of context lab does not answer" in told[0]


@pytest.mark.parametrize(
    ("name", "certificates", "asked"),
    [
        ("lab.example.org", "internal", "lab.example.org"),
        ("203.0.113.7", "internal", "127.0.0.1"),
        ("203.0.113.7", "acme", "127.0.0.1"),
    ],
)
def test_an_address_is_no_name_in_tls(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch, name: str, certificates: str, asked: str
) -> None:
    seen: list[str] = []

    def context(cafile: str) -> Any:
        def wrap_socket(link: object, server_hostname: str) -> None:
            seen.extend((Path(cafile).name, server_hostname))
            raise OSError("enough")

        return SimpleNamespace(wrap_socket=wrap_socket)

    monkeypatch.setattr(ssl, "create_default_context", context)
    monkeypatch.setattr(socket, "create_connection", lambda *_: nullcontext())
    monkeypatch.setattr(gateway, "export_root", lambda engine: gateway.root_path(engine.settings))
    assert "enough" in gateway.answers(public(tmp_path, public_address=name, certificates=certificates))
    assert seen == [gateway.ROOT_FILE, asked]


def test_a_dry_run_names_every_file_of_the_gateway(tmp_path: Path, kubectl: FakeKubectl) -> None:
    root = tmp_path / "root.pem"
    root.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    own = public(tmp_path, certificates="acme", acme_root=str(root)).deployment
    assert "secrets-gateway: gateway-key, access-token, users, acme-root.pem" in secrets.by_hand(own)


def test_nobody_is_handed_logins_without_a_gateway(tmp_path: Path, kubectl: FakeKubectl) -> None:
    KubernetesEngine(project(tmp_path, engine="kubernetes")).put_users()
    assert not [line for line, _ in kubectl.calls if " patch " in line or " annotate " in line]


@pytest.mark.parametrize(
    ("given", "status", "level", "words"),
    [
        (NODES, {}, Level.OK, "every node's port 30800, as lab.example.org"),
        ({}, {}, Level.WARNING, "no load balancer yet"),
        ({}, {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}, Level.OK, "load balancer is 203.0.113.9"),
        ({}, {"loadBalancer": {"ingress": [{"hostname": "a.example.net"}]}}, Level.OK, "is a.example.net"),
    ],
)
def test_doctor_tells_how_others_reach_it(
    tmp_path: Path, given: dict[str, str], status: dict[str, Any], level: Level, words: str
) -> None:
    found = exposure.finding(public(tmp_path, **given).settings, {"status": status}, "namespace lab")
    assert found.level is level and words in found.detail
