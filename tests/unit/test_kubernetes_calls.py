"""How often the kubernetes engine asks: each kubectl costs a process and a round trip, in a large cluster more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.checks import doctor
from helpers.cli import options, status
from helpers.engines.kubernetes import cluster, objects
from helpers.engines.kubernetes.checks import RIGHTS
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.findings import Level
from helpers.project.project import Project
from helpers.services import JUPYTER, POSTGRES, STORE
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import project
from tests.unit.test_kubernetes_engine import FORBIDDEN, RUNNING, container, namespace, pod, workload


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


@pytest.fixture
def started(tmp_path: Path, kubectl: FakeKubectl) -> Project:
    """Its services run."""
    one = project(tmp_path, engine="kubernetes")
    kubectl.answer("get namespace trackbed ", namespace(**{objects.INSTANCE: one.state.instance}))
    things: list[dict[str, Any]] = []
    for service in (POSTGRES, STORE, JUPYTER):
        ready = container(service, ready=True, state=RUNNING)
        things += [workload(service), pod(service, containerStatuses=[ready])]
    kubectl.items(r"get statefulsets\.apps,", things)
    kubectl.answer(" kustomize ")
    kubectl.answer(" exec ")
    kubectl.allow(*(True for _ in RIGHTS))
    KubernetesEngine(one).namespace.make()
    one.state.engine = "kubernetes"
    return one


def since(kubectl: FakeKubectl, before: int) -> list[str]:
    return [line for line, _ in kubectl.calls[before:]]


def of_the_things(lines: list[str]) -> list[str]:
    return [line for line in lines if "get statefulsets.apps," in line]


def test_doctor_looks_at_the_services_once(kubectl: FakeKubectl, started: Project) -> None:
    before = len(kubectl.calls)
    found = {finding.check for finding in doctor.examine(started)}
    assert {"cluster", "rights", "disk", "database", "permissions"} <= found
    lines = since(kubectl, before)
    assert len(of_the_things(lines)) == 1
    for question in ("get --raw /api/v1/nodes", ".status.allowed", "get namespace trackbed ", "-- df -Pk /store"):
        assert len([line for line in lines if question in line]) == 1, question
    assert len(lines) <= 20


def test_doctor_tells_a_login_that_may_not_look_what_it_lacks(kubectl: FakeKubectl, started: Project) -> None:
    kubectl.answer(r"get statefulsets\.apps,", "", FORBIDDEN, 1)
    found = {finding.check: finding for finding in doctor.examine(started)}
    assert "rights" in found and found["services"].level is Level.ERROR
    assert "alice has no right to list statefulsets.apps" in found["services"].detail


def test_facts_need_no_look_at_the_services(kubectl: FakeKubectl, started: Project) -> None:
    kubectl.answer(
        "-- df -Pk", "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 9 4 5 44% /store\n"
    )
    before = len(kubectl.calls)
    facts = KubernetesEngine(started).host_facts()
    assert (facts.disk_free, facts.disk_path) == (5 * 1024, "the volume of postgres")
    lines = since(kubectl, before)
    assert not of_the_things(lines)
    assert all(
        "--pod-running-timeout=1s" in line for line in lines if " df " in line
    )  # else a minute for one that is down


def test_the_pods_of_all_namespaces_are_taken_as_the_server_wrote_them(kubectl: FakeKubectl, started: Project) -> None:
    mine = pod(JUPYTER)
    mine["spec"] |= {"nodeName": "a", "containers": [{"resources": {"limits": {"amd.com/gpu": "2"}}}]}
    mine["metadata"]["labels"][objects.PROJECT] = "alice"
    kubectl.items("get --raw /api/v1/pods", [mine])
    found = KubernetesEngine(started).cluster.pods()
    assert found is not None and cluster.holders(found, "amd.com/gpu") == {"project alice": 2}
    (line,) = [line for line, _ in kubectl.calls if "/api/v1/pods" in line]
    assert "fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed" in line
    assert cluster.ENDED == ("Succeeded", "Failed")


def test_a_thousand_holders_are_not_named_one_by_one() -> None:
    listed = [pod(JUPYTER) for _ in range(1001)]
    for number, one in enumerate(listed):
        one["metadata"]["labels"][objects.PROJECT] = f"student-{number:04}" if number else "lab"
        one["spec"] |= {
            "nodeName": "a",
            "containers": [{"resources": {"limits": {"amd.com/gpu": "1" if number else "4"}}}],
        }
    every = cluster.holders(listed, "amd.com/gpu")
    shown = ", 4 held by project lab, 1 held by project student-0001, 1 held by project student-0002, 998 by 998 others"
    assert cluster.held_by(every) == shown
    assert cluster.held_by({"project lab": 2.0, "project b": 0.25}) == ", 2 held by project lab, 0.25 held by project b"


def test_status_asks_what_it_needs(
    kubectl: FakeKubectl, started: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "load", lambda given: started)
    started.state.existed = True
    before = len(kubectl.calls)
    status.status({}, "table", json=False)
    lines = since(kubectl, before)
    assert len(of_the_things(lines)) == 1 and len(lines) <= 10
    assert "postgres" in capsys.readouterr().out
