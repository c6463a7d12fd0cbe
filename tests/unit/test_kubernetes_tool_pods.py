"""The pod of a task's single commands, on a kubectl that answers as a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import at_end
from helpers.cli import failures
from helpers.engines.kubernetes import objects, tool_pods
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.errors import FAILED, INTERRUPTED, TrackbedError
from helpers.services import MLFLOW, POSTGRES
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

RUNNING = {"ready": True, "state": {"running": {"startedAt": "2026-11-26T16:00:01Z"}}}
CRASHED = {"state": {"terminated": {"exitCode": 128, "reason": "StartError", "message": "runc create failed"}}}
GONE = 'Error from server (NotFound): pods "run-mlflow-1" not found\n'


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubectl]:
    with at_end.task():
        yield FakeKubectl(tmp_path / "bin", monkeypatch)


def workload(service: str, image: str, **environment: str) -> dict[str, Any]:
    container = {
        "name": service,
        "image": image,
        "args": ["serve"],
        "env": [
            {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            *({"name": name, "value": value} for name, value in environment.items()),
        ],
    }
    template = {"metadata": {"labels": {objects.PART: service}}, "spec": {"containers": [container]}}
    return {"kind": objects.WORKLOADS[service].kind, "metadata": {"name": service}, "spec": {"template": template}}


@pytest.fixture
def engine(tmp_path: Path, kubectl: FakeKubectl) -> KubernetesEngine:
    return of(KubernetesEngine(project(tmp_path, engine="kubernetes")), kubectl, DATABASE="one")


def of(engine: KubernetesEngine, kubectl: FakeKubectl, image: str = "i:1", **environment: str) -> KubernetesEngine:
    """Whose MLFlow would run that image with those variables, and whose tool pod runs."""
    engine.rendering.__dict__["things"] = (workload(MLFLOW, image, **environment), workload(POSTGRES, image))
    notes = {objects.INSTANCE: engine.project.state.instance}
    kubectl.answer("get namespace trackbed ", {"metadata": {"name": "trackbed", "annotations": notes}})
    kubectl.answer("get pod run-", status(**RUNNING))
    kubectl.answer(" exec ", "done\n")
    return engine


def status(**container: Any) -> dict[str, Any]:
    statuses = [
        {"name": name, "image": "i:1", "restartCount": 0, "ready": False, **container} for name in (MLFLOW, POSTGRES)
    ]
    return {"metadata": {"name": "run-1"}, "status": {"phase": "Running", "containerStatuses": statuses}}


def applied(kubectl: FakeKubectl) -> list[dict[str, Any]]:
    return [json.loads(stdin)["items"][0] for line, stdin in kubectl.calls if " apply " in line]


def lines(kubectl: FakeKubectl, word: str) -> list[str]:
    return [line for line, _ in kubectl.calls if f" {word} " in line]


def test_one_pod_serves_the_commands_of_a_task(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    """Before, each made its own, and waited for it."""
    with at_end.task():
        assert engine.one_shot(MLFLOW, ("first",)).stdout == "done\n"
        with engine.pipe(MLFLOW, ("second",), fresh=True) as pipe:
            pipe.finish()
        (pod,) = applied(kubectl)
        assert pod["spec"]["activeDeadlineSeconds"] == tool_pods.LONGEST
        assert pod["spec"]["containers"][0]["command"] == ["sleep", str(tool_pods.LONGEST)]
        name = pod["metadata"]["name"]
        assert [line.partition(" -- ")[2] for line in lines(kubectl, "exec")] == ["first", "second"]
        assert all(f" pod/{name} " in line and " --container=mlflow " in line for line in lines(kubectl, "exec"))
        assert not lines(kubectl, "delete")
    (deleted,) = lines(kubectl, "delete")
    assert f"delete pod {name} " in deleted and "--grace-period=0" in deleted


def test_another_database_is_told_to_the_command_alone(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    engine.one_shot(MLFLOW, ("first",))
    beside = KubernetesEngine(replace(engine.project, state=replace(engine.project.state)))
    of(beside, kubectl, DATABASE="two", NEW="a b").one_shot(MLFLOW, ("second",))
    of(beside, kubectl).one_shot(MLFLOW, ("third",))
    of(beside, kubectl, DATABASE="one").one_shot(MLFLOW, ("fourth",))
    assert len(applied(kubectl)) == 1
    assert [line.partition(" -- ")[2] for line in lines(kubectl, "exec")] == [
        "first",
        "env DATABASE=two NEW=a b second",
        "env -u DATABASE third",
        "fourth",
    ]


def test_another_image_other_secrets_or_a_pod_that_has_gone_make_another_pod(
    engine: KubernetesEngine, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.one_shot(MLFLOW, ("true",))
    of(engine, kubectl, image="i:2", DATABASE="one").one_shot(MLFLOW, ("true",))
    monkeypatch.setattr(type(engine.deployment), "secrets_digest", lambda self: "rotated")
    engine.one_shot(MLFLOW, ("true",))
    ending = status(**RUNNING)
    ending["metadata"]["deletionTimestamp"] = "2026-11-26T16:00:02Z"
    first = applied(kubectl)[-1]["metadata"]["name"]
    kubectl.answer(f"get pod {first}", ending)
    engine.one_shot(MLFLOW, ("true",))
    names = [pod["metadata"]["name"] for pod in applied(kubectl)]
    assert len(set(names)) == 4
    assert [line.partition(" delete pod ")[2].split()[0] for line in lines(kubectl, "delete")] == names[:3]


def test_the_pod_of_a_volume_is_on_its_node(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    kubectl.items("get pods -o json --selector=app.kubernetes.io/component=postgres", [{"spec": {"nodeName": "n1"}}])
    engine.one_shot(POSTGRES, ("true",))
    kubectl.items("get pods -o json --selector=app.kubernetes.io/component=postgres", [{"spec": {"nodeName": "n2"}}])
    engine.one_shot(POSTGRES, ("true",))
    engine.one_shot(MLFLOW, ("true",))
    assert [pod["spec"].get("nodeName") for pod in applied(kubectl)] == ["n1", "n2", None]


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (KeyboardInterrupt(), INTERRUPTED), (TrackbedError("no", "try again"), FAILED)]
)
def test_it_goes_with_the_task_however_that_ends(
    engine: KubernetesEngine, kubectl: FakeKubectl, error: BaseException | None, code: int
) -> None:
    def task() -> None:
        engine.one_shot(MLFLOW, ("true",))
        if error:
            raise error

    assert failures.exit_code(task) == code
    (pod,) = applied(kubectl)
    assert f"delete pod {pod['metadata']['name']} " in lines(kubectl, "delete")[0]


def test_a_pod_that_its_node_could_not_begin_is_tried_once_more(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    kubectl.answer("get pod run-mlflow", status(**CRASHED))
    with pytest.raises(TrackbedError, match=r"pod run-mlflow-\w+ does not start: runc create failed"):
        engine.one_shot(MLFLOW, ("true",))
    names = [pod["metadata"]["name"] for pod in applied(kubectl)]
    assert len(set(names)) == 2
    assert [line.partition(" delete pod ")[2].split()[0] for line in lines(kubectl, "delete")] == names
    kubectl.answer("get pod run-mlflow", status(**RUNNING))
    assert engine.one_shot(MLFLOW, ("true",)).stdout == "done\n"


def test_the_failure_of_a_command_is_told_although_its_pod_stays(
    engine: KubernetesEngine, kubectl: FakeKubectl
) -> None:
    kubectl.answer(" delete ", "", GONE, 1)
    kubectl.answer(" apply ", "", 'pods "a" is forbidden: violates PodSecurity "restricted:latest": no\n', 1)
    with pytest.raises(TrackbedError, match="its pod security restricted:latest refuses"):
        engine.one_shot(MLFLOW, ("true",))
    assert len(lines(kubectl, "delete")) == 1


def test_data_sets_are_written_by_a_pod_that_has_their_claim_alone(
    engine: KubernetesEngine, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(engine.rendering), "images", SimpleNamespace(references=lambda: {MLFLOW: "i:1"}))
    things = engine.rendering.__dict__["things"]
    kubectl.items("get pods -o json --selector=app.kubernetes.io/component=jupyter", [{"spec": {"nodeName": "n1"}}])
    volume = engine.data_volume()
    assert not volume.exists()
    volume.make(5 << 30, Silent())
    (claim,) = applied(kubectl)
    assert claim["kind"] == "PersistentVolumeClaim" and claim["metadata"] == {
        "name": "food11"
    }  # it outlives the project
    assert int(objects.number(claim["spec"]["resources"]["requests"]["storage"])) == 7 << 30
    assert "things" not in engine.rendering.__dict__  # the notebook mounts it from now on
    engine.rendering.__dict__["things"] = things
    running = status(**RUNNING)
    running["status"]["containerStatuses"][0]["name"] = "data"
    kubectl.answer("get pod run-data", running)
    for _ in range(2):
        with volume.pipe(("python", "-c", "pass")) as pipe:
            pipe.finish()
    pod = applied(kubectl)[-1]
    assert len(applied(kubectl)) == 2 and pod["metadata"]["labels"][objects.PART] == "run-data"
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "n1"}  # the volume may attach to no other node
    assert spec["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "food11"}}]
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert "env" not in container and len(container["volumeMounts"]) == 1


def test_data_sets_of_a_cluster_are_in_no_folder_of_this_machine(tmp_path: Path, kubectl: FakeKubectl) -> None:
    here = of(KubernetesEngine(project(tmp_path, engine="kubernetes", data_volume=str(tmp_path))), kubectl)
    with pytest.raises(TrackbedError, match="which the cluster's nodes do not see") as caught:
        here.data_volume()
    assert "--data-volume=food11" in caught.value.hint
