"""What the kubernetes engine deletes in a namespace, and what it leaves there, on a kubectl that answers as a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import lifecycle
from helpers.cli import options, running
from helpers.data import move_note
from helpers.datasets import adding
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.kubernetes.forwards import Forwards
from helpers.errors import EngineUnavailable, TrackbedError, WrongProject
from helpers.project.project import Project
from helpers.services import MLFLOW, POSTGRES
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

STRANGER = "f" * 32
REFUSED = "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?\n"


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
    fill(kubectl, engine)
    engine.startup._prune(Silent())
    engine.stop(Silent())
    asked = [line for line, _ in kubectl.calls if "networkpolicies" in line]
    assert len(asked) == 2 and all(line.endswith(mine) or f"{mine} --wait=false" in line for line in asked)


def test_secrets_that_somebody_made_by_hand_stay(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, every Secret with Trackbed's name was deleted, whoever had made it."""
    mine = engine.project.state.instance
    by_hand = thing("Secret", "secrets-store")
    fill(kubectl, engine, by_hand)
    kubectl.items("get secrets -o json", [by_hand])
    kubectl.items(
        f"get secrets -o json --selector={objects.INSTANCE}={mine}", [thing("Secret", "secrets-mlflow", mine)]
    )
    (line,) = engine.remove_data(Silent())
    assert "secret/secrets-store in it is not Trackbed's" in line
    assert [name for name in deleted(kubectl) if name.startswith("secrets/")] == ["secrets/secrets-mlflow"]


def started(tmp_path: Path) -> Project:
    created = project(tmp_path, engine="kubernetes")
    created.state.engine = "kubernetes"
    created.state.save()
    return project(tmp_path, engine="kubernetes")


def test_a_cluster_that_is_gone_keeps_no_port_open(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, only a `down` without --delete-data closed them."""
    closed: list[str] = []
    here = started(tmp_path)
    kubectl.answer("get --raw /version", "", REFUSED, 1)
    monkeypatch.setattr(Forwards, "stop", lambda self: closed.append("all"))
    monkeypatch.setattr(options, "load", lambda given: here)
    with pytest.raises(EngineUnavailable, match="the cluster of context lab does not answer"):
        running.down({}, delete_data=True, yes=True)
    assert closed == ["all"]


def test_data_stay_as_long_as_a_move_has_left_a_copy(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, the note was forgotten, and with it the copy on the other engine."""
    here, told, cleared = started(tmp_path), list[str](), list[bool]()
    move_note.begin(here, "embedded", "auto")
    monkeypatch.setattr(move_note, "clear", lambda *_: bool(cleared))
    removed: list[str] = []

    def remove_data(engine: KubernetesEngine, progress: object) -> tuple[str, ...]:
        removed.append("all")
        return ()

    monkeypatch.setattr(KubernetesEngine, "remove_data", remove_data)
    with pytest.raises(TrackbedError, match="no data were deleted: the copy that a move left on another engine"):
        lifecycle.delete_data(here, Silent(), told.append)
    assert move_note.pending(here) and not removed
    cleared.append(True)
    lifecycle.delete_data(here, Silent(), told.append)
    assert not move_note.pending(here) and removed == ["all"]


# whose it is


@pytest.mark.parametrize("notes", [{}, {objects.INSTANCE: STRANGER}])
def test_nothing_is_touched_in_a_namespace_of_others(
    engine: KubernetesEngine, kubectl: FakeKubectl, notes: dict[str, str]
) -> None:
    """Before, only a start asked: `down --delete-data` deleted whatever was in a namespace of that name."""
    kubectl.answer("get namespace trackbed ", {"metadata": {"name": "trackbed", "annotations": notes}})
    kubectl.items("get persistentvolumeclaims", [claim("data-postgres-0", STRANGER)])
    kubectl.items("get statefulsets", [thing("StatefulSet", "postgres", STRANGER)])
    calls: list[Callable[[], object]] = [
        lambda: engine.stop(Silent()),
        lambda: engine.halt(MLFLOW, Silent()),
        lambda: engine.resume(MLFLOW, Silent()),
        lambda: engine.remove_data(Silent()),
        lambda: engine.exec(POSTGRES, ("psql",)),
        lambda: engine.one_shot(POSTGRES, ("psql",)),
        lambda: engine.pipe(POSTGRES, ("psql",)),
        lambda: engine.open(MLFLOW, "http"),
        lambda: engine.logs(MLFLOW),
        engine.namespace.make,
    ]
    for call in calls:
        with pytest.raises(WrongProject, match="namespace trackbed of context lab"):
            call()
    changing = (" port-forward ", " delete ", " exec ", " scale ", " apply ", " create ", " annotate ", " label ")
    assert not [line for line, _ in kubectl.calls if any(word in f"{line} " for word in changing)]


def test_the_status_shows_no_services_of_others(tmp_path: Path, kubectl: FakeKubectl) -> None:
    """Before, another project's services were shown as this one's."""
    engine = KubernetesEngine(started(tmp_path))
    theirs = thing("StatefulSet", "postgres", STRANGER, spec={"replicas": 0, "template": {"metadata": {}}})
    kubectl.items("get statefulsets.apps,", [theirs])
    with pytest.raises(WrongProject, match="namespace trackbed of context lab belongs to another Trackbed project"):
        engine.services(detail=True)
    mine = thing("StatefulSet", "postgres", engine.project.state.instance, spec=theirs["spec"])
    kubectl.items("get statefulsets.apps,", [mine])
    assert engine.services(detail=True)[0].name == POSTGRES


def test_what_opens_the_ports_is_said_once(tmp_path: Path, kubectl: FakeKubectl) -> None:
    """Before, the status of each service said it."""
    engine = KubernetesEngine(started(tmp_path))
    ready = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    running_since = {"running": {"startedAt": "2026-11-26T16:00:01Z"}}
    things = []
    for name, workload in objects.WORKLOADS.items():
        spec = {"replicas": 1, "template": {"metadata": {}, "spec": {"containers": [{"name": name}]}}}
        things.append(thing(workload.kind, workload.name, spec=spec, status=ready))
        container = {"name": workload.container, "ready": True, "restartCount": 0, "state": running_since}
        pod = thing("Pod", f"{workload.name}-0", status={"phase": "Running", "containerStatuses": [container]})
        pod["metadata"]["labels"] = {objects.PART: workload.name}
        things.append(pod)
    kubectl.items("get statefulsets.apps,", things)
    reasons = [one.reason for one in engine.services() if "no way to it" in one.reason]
    assert len(reasons) > 1 and [reason for reason in reasons if "`invoke up` opens it" in reason] == reasons[:1]


def test_a_namespace_that_is_gone_has_nothing_to_stop_or_delete(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    engine.namespace.make()
    engine = KubernetesEngine(engine.project)
    assert engine.stop(Silent()) == () and engine.remove_data(Silent()) == ()
    engine.halt(MLFLOW, Silent())
    assert not [line for line, _ in kubectl.calls if " delete " in line or " scale " in line]
    assert not list(engine.deployment.folder.iterdir())


def test_a_start_does_not_begin_anew_where_data_were(
    tmp_path: Path, engine: KubernetesEngine, kubectl: FakeKubectl
) -> None:
    """Before, it made an empty namespace and said nothing."""
    engine.check_foreign()
    engine.namespace.make()
    later = KubernetesEngine(project(tmp_path, engine="kubernetes"))
    with pytest.raises(TrackbedError, match="which has this project's data, is not there any more") as caught:
        later.check_foreign()
    assert "`invoke down --delete-data`" in caught.value.hint
    later.remove_data(Silent())
    KubernetesEngine(project(tmp_path, engine="kubernetes")).check_foreign()


def test_two_starts_at_once_make_one_namespace(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, the second took the first one's by force."""
    said = 'Error from server (AlreadyExists): error when creating "STDIN": namespaces "trackbed" already exists\n'
    kubectl.answer(" create ", "", said, 1)
    assert not engine.deployment.kubectl.create({}, "the namespace")
    make, looks = engine.namespace.look, iter([None, made(STRANGER)])
    engine.namespace.look = lambda: next(looks)  # type: ignore[method-assign]
    with pytest.raises(WrongProject, match="belongs to another Trackbed project"):
        engine.namespace.make()
    assert make() is None and not [line for line, _ in kubectl.calls if " apply " in line]
    assert not (engine.deployment.folder / "cluster.json").exists()


@pytest.mark.parametrize(
    ("uid", "server", "same"),
    [
        ("uid-of-the-lab", "https://10.0.0.1:6443", True),
        ("uid-of-the-lab", "https://10.0.0.2:6443", True),
        ("uid-of-another", "https://10.0.0.1:6443", False),
        ("", "https://10.0.0.1:6443", True),
        ("", "https://10.0.0.2:6443", False),
    ],
)
def test_a_context_that_leads_to_another_cluster(
    tmp_path: Path, engine: KubernetesEngine, kubectl: FakeKubectl, uid: str, server: str, same: bool
) -> None:
    """``uid``: "" for a user who may not see kube-system. Before, the context's name was all that was looked at."""
    engine.namespace.make()
    cluster = {"server": server, "certificate-authority-data": "Q0E="}
    kubectl.answer("config view --minify --raw", cluster)
    kubectl.answer(
        "get namespace kube-system ", uid, "" if uid else "Error from server (Forbidden): no", 0 if uid else 1
    )
    later = KubernetesEngine(project(tmp_path, engine="kubernetes"))
    given = later.availability()
    assert given.usable is same
    if not same:
        assert "context lab leads to another cluster" in given.reason and "cluster.json`" in given.fix
        with pytest.raises(EngineUnavailable):
            later.stop(Silent())


def test_a_namespace_with_pods_of_others_is_not_adopted(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """The NetworkPolicies would be theirs too. Before, only controllers were looked at."""
    kubectl.answer("get namespace trackbed ", {"metadata": {"name": "trackbed", "resourceVersion": "7"}})
    kubectl.items(r"get statefulsets,.*\bpods\b", [thing("Pod", "train", status={"phase": "Running"})])
    with pytest.raises(TrackbedError, match="runs something else already"):
        engine.adopt()
    kubectl.items(r"get statefulsets,.*\bpods\b", [thing("Pod", "train", status={"phase": "Succeeded"})])
    assert not engine.adopt()
    (stdin,) = [stdin for line, stdin in kubectl.calls if " apply " in line]
    assert json.loads(stdin)["items"][0]["metadata"]["resourceVersion"] == "7"


def test_whoever_may_not_change_the_namespace_adopts_it_all_the_same(
    engine: KubernetesEngine, kubectl: FakeKubectl
) -> None:
    """The role `admin` in a namespace does not reach the namespace itself: the marks are in a ConfigMap in it."""
    mine = engine.project.state.instance
    given = {"metadata": {"name": "trackbed", "annotations": {}}, "status": {"phase": "Active"}}
    kubectl.answer("get namespace trackbed", given)
    refused = (
        'namespaces "trackbed" is forbidden: User "alice" cannot patch resource "namespaces" in API group "" in the'
    )
    kubectl.answer(" apply ", "", refused, 1)
    kubectl.allow(True)
    with pytest.raises(TrackbedError, match="alice has no right to patch namespaces"):
        engine.adopt()  # something else was wrong than this right
    kubectl.allow(False)
    applied = engine.namespace._planned(made=False)["metadata"]["annotations"]
    with pytest.raises(TrackbedError):
        engine.adopt()  # this kubectl refuses the ConfigMap too
    kept = json.loads([stdin for line, stdin in kubectl.calls if " apply " in line][-1])["items"][0]
    (asked,) = json.loads([stdin for line, stdin in kubectl.calls if ".status.allowed" in line][-1])["items"]
    right = {"verb": "patch", "resource": "namespaces", "name": "trackbed", "namespace": "trackbed"}
    assert asked["spec"]["resourceAttributes"].items() >= right.items()
    assert (kept["kind"], kept["metadata"]["name"], kept["data"]) == ("ConfigMap", objects.MARKS, applied)
    assert objects.INSTANCE not in (kept["metadata"].get("labels") or {})  # `down` deletes what has it
    kubectl.answer(f"get configmap {objects.MARKS}", kept)
    kubectl.answer(" apply ")
    assert engine.namespace.is_there()
    engine.namespace.remove()
    assert [line for line, _ in kubectl.calls if f"delete configmap {objects.MARKS} " in line]
    assert not [line for line, _ in kubectl.calls if "annotate namespace" in line or "label namespace" in line]
    assert mine == kept["data"][objects.INSTANCE]


@pytest.mark.parametrize("namespace", [True, False])
def test_data_sets_are_listed_where_there_is_no_claim_for_them_yet(
    engine: KubernetesEngine, kubectl: FakeKubectl, namespace: bool
) -> None:
    if namespace:
        kubectl.answer("get namespace trackbed ", made(engine.project.state.instance))
    listed = adding.listing(engine.project, Silent())
    assert (listed.where, listed.sets, listed.free) == (
        f"the data sets' volume claim food11 in {engine.deployment.where}",
        (),
        0,
    )
    assert not [line for line, _ in kubectl.calls if " create " in line or " apply " in line]
