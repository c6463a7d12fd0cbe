"""What the kubernetes engine deletes in a namespace, and what it leaves there, on a kubectl that answers as a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.cli import running
from helpers.data import move_note
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.engine import KubernetesEngine
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

STRANGER = "f" * 32


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


@pytest.fixture
def engine(tmp_path: Path, kubectl: FakeKubectl) -> KubernetesEngine:
    return KubernetesEngine(project(tmp_path, engine="kubernetes"))


def thing(kind: str, name: str, owner: str = "", **more: Any) -> dict[str, Any]:
    labels = {objects.INSTANCE: owner} if owner else {}
    return {"kind": kind, "metadata": {"name": name, "labels": labels}, **more}


def claim(name: str, owner: str = "") -> dict[str, Any]:
    return thing("PersistentVolumeClaim", name, owner, spec={"resources": {"requests": {"storage": "1Gi"}}})


def made(owner: str) -> dict[str, Any]:
    notes = {objects.INSTANCE: owner, objects.MADE: "true"}
    return {"metadata": {"name": "trackbed", "annotations": notes}, "status": {"phase": "Active"}}


def fill(kubectl: FakeKubectl, engine: KubernetesEngine, *others: dict[str, Any]) -> None:
    """A namespace that this project made, with its three claims and what others put there."""
    mine = engine.project.state.instance
    names = ("data-postgres-0", "data-store-0", "work-jupyter-0")
    kubectl.answer("get namespace trackbed ", made(mine))
    kubectl.items(r"get persistentvolumeclaims -o json$", [claim(name, mine) for name in names])
    kubectl.items(
        rf"get persistentvolumeclaims -o json --selector={objects.INSTANCE}={mine}", [claim(n, mine) for n in names]
    )
    kubectl.items(r"get persistentvolumeclaims,statefulsets", list(others))


def deleted(kubectl: FakeKubectl) -> list[str]:
    words = [line.partition(" delete ")[2].split() for line, _ in kubectl.calls if " delete " in line]
    return [f"{kind}/{name}" for kind, *names in words for name in names if not name.startswith("--")]


def test_a_move_leaves_the_workspace(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """No archive holds it; before, it went with the namespace."""
    fill(kubectl, engine)
    told: list[str] = []
    assert move_note.clear(engine, engine.project, Silent(), told.append)
    gone = deleted(kubectl)
    assert "persistentvolumeclaims/data-postgres-0" in gone and "persistentvolumeclaims/data-store-0" in gone
    assert not [name for name in gone if "work-jupyter-0" in name or name.startswith("namespace/")]
    assert len(told) == 1 and "volume claim work-jupyter-0 in namespace trackbed of context lab" in told[0]
    assert "`kubectl delete persistentvolumeclaim work-jupyter-0 --namespace trackbed --context lab`" in told[0]
    assert move_note.data_names(engine) == ("volume claim data-postgres-0", "volume claim data-store-0")


def test_what_delete_data_says_it_keeps(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, it said that it kept the workspace that it was to delete."""
    fill(kubectl, engine)
    items = engine.data()
    assert [item.name for item in items if item.is_workspace] == ["volume claim work-jupyter-0"]
    assert running.kept(engine.project, items) == ""


def test_a_namespace_with_nothing_else_is_deleted(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    fill(kubectl, engine, thing("Pod", "schema-x", engine.project.state.instance))
    assert engine.remove_data(Silent()) == ()
    assert "persistentvolumeclaims/work-jupyter-0" in deleted(kubectl) and "namespace/trackbed" in deleted(kubectl)


def test_a_namespace_with_somebodys_data_set_is_left(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, the claim that DATA_VOLUME names went with it, which no list had named."""
    token = thing("Secret", "default-token", type="kubernetes.io/service-account-token")
    fill(kubectl, engine, claim("scans"), thing("StatefulSet", "gateway", STRANGER), token)
    (line,) = engine.remove_data(Silent())
    assert "namespace trackbed of context lab stays" in line
    assert "persistentvolumeclaim/scans, statefulset/gateway in it" in line and "default-token" not in line
    assert not [name for name in deleted(kubectl) if name.startswith("namespace/")]
    back = [line for line, _ in kubectl.calls if " annotate namespace trackbed " in line]
    assert len(back) == 1 and f"{objects.INSTANCE}- {objects.ACTIVE}- {objects.MADE}-" in back[0]


def test_only_what_this_project_made_is_pruned_or_deleted(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, every `up` deleted the gateway and the ingress that its user had applied beside it."""
    mine = f"--selector={objects.INSTANCE}={engine.project.state.instance}"
    kubectl.answer("^kustomize ", "kind: Service\nmetadata: {name: mlflow}\n")
    engine.startup._prune(Silent())
    engine.stop(Silent())
    asked = [line for line, _ in kubectl.calls if "networkpolicies" in line]
    assert len(asked) == 2 and all(line.endswith(mine) or f"{mine} --wait=false" in line for line in asked)
