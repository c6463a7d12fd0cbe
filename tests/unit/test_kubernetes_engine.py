"""The kubernetes engine on a kubectl that answers as a real one did."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from helpers import references
from helpers.engines import select
from helpers.engines.kubernetes import images, kustomization, loading, memory, objects, pending, pods, refusals, secrets
from helpers.engines.kubernetes.checks import RIGHTS
from helpers.engines.kubernetes.cluster import node
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.kubernetes.kubectl import Kubectl
from helpers.errors import EngineUnavailable, NotListening, SettingError, TrackbedError
from helpers.findings import Level
from helpers.project import access
from helpers.project.project import Project
from helpers.services import BUCKET, JUPYTER, MLFLOW, POSTGRES, SCHEMA, STORE, STORE_SYNC, State
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

FORBIDDEN = (
    'Error from server (Forbidden): statefulsets.apps is forbidden: User "alice" cannot list resource "statefulsets" in '
    'API group "apps" in the namespace "trackbed"\n'
)
NODES_FORBIDDEN = (
    'Error from server (Forbidden): nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the '
    "cluster scope\n"
)
REFUSED = "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?\n"


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


@pytest.fixture
def one(tmp_path: Path, kubectl: FakeKubectl) -> Project:
    return project(tmp_path, engine="kubernetes")


@pytest.fixture
def engine(one: Project) -> KubernetesEngine:
    return KubernetesEngine(one)


# where it is


def test_it_is_taken_only_when_it_is_asked_for(tmp_path: Path, kubectl: FakeKubectl, one: Project) -> None:
    assert select.choose(one).engine.name == "kubernetes"
    assert not KubernetesEngine.is_automatic


def test_the_current_context_counts_once(one: Project, kubectl: FakeKubectl) -> None:
    first = KubernetesEngine(one)
    assert first.availability().reason == "Kubernetes v1.36.1, context lab"
    first.namespace.make()
    kubectl.answer("config view", {"current-context": "other", "contexts": [{"name": "lab"}, {"name": "other"}]})
    assert KubernetesEngine(one).deployment.target.context == "lab"


def test_another_context_than_the_datas_is_refused(tmp_path: Path, one: Project, kubectl: FakeKubectl) -> None:
    KubernetesEngine(one).namespace.make()
    other = KubernetesEngine(project(tmp_path, engine="kubernetes", kube_context="other"))
    with pytest.raises(SettingError, match=r"KUBE_CONTEXT=other \(from --kube-context\): .* context lab"):
        other.deployment.target  # noqa: B018


def test_a_context_that_is_not_there(tmp_path: Path, kubectl: FakeKubectl) -> None:
    given = KubernetesEngine(project(tmp_path, engine="kubernetes", kube_context="nope")).availability()
    assert not given.usable and given.present and "no context nope" in given.reason and "lab, other" in given.fix


def test_no_kubeconfig(tmp_path: Path, kubectl: FakeKubectl, engine: KubernetesEngine) -> None:
    kubectl.answer("config view", {"contexts": None, "current-context": ""})
    given = engine.availability()
    assert not given.usable and "names no cluster" in given.reason and "KUBECONFIG" in given.fix


def test_no_kubectl(engine: KubernetesEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given = engine.availability()
    assert (given.usable, given.present) == (False, False) and "no kubectl" in given.reason and "install" in given.fix
    with pytest.raises(EngineUnavailable, match="no kubectl"):
        Kubectl("lab", "trackbed").run("get", "pods")


# what is refused


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        (
            FORBIDDEN,
            "alice has no right to list statefulsets.apps",
            "kubectl auth can-i list statefulsets.apps -n trackbed --context lab",
        ),
        (NODES_FORBIDDEN, "alice has no right to list nodes", "kubectl auth can-i list nodes --context lab"),
        (REFUSED, "the cluster of context lab does not answer", "kubectl cluster-info --context lab"),
        (
            'error: Operation cannot be fulfilled on namespaces "a": the object has been modified; please apply\nSee '
            "https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts\n",
            "somebody else changed it at the same time",
            "type the same command again",
        ),
        ('error: context "lab" does not exist\n', "no context lab", "kubectl config get-contexts"),
        ("error: You must be logged in to the server (Unauthorized)\n", "does not accept the login", "log in again"),
        (
            'pods "a" is forbidden: exceeded quota: students, requested: amd.com/gpu=3, used: amd.com/gpu=1, limited: '
            "amd.com/gpu=2",
            "the quota students of namespace trackbed allows amd.com/gpu=2",
            "kubectl describe quota -n trackbed --context lab",
        ),
        (
            'The Service "gateway" is invalid: spec.ports[0].nodePort: Invalid value: 30810: provided port is already '
            "allocated\n",
            "port 30810 is another Service's in the cluster",
            "choose another with --mlflow-port",
        ),
        (
            'The Service "gateway" is invalid: spec.ports[1].nodePort: Invalid value: 30811: provided port is not in '
            "the valid range. The range of valid ports is 20000-22767\n",
            "port 30811 is none of its node ports in the cluster",
            "kubectl get services --all-namespaces --context lab",
        ),
    ],
)
def test_what_kubectl_says_becomes_a_message_and_a_next_step(
    kubectl: FakeKubectl, said: str, words: str, hint: str
) -> None:
    kubectl.answer("get pods", "", said, 1)
    with pytest.raises(TrackbedError) as caught:
        Kubectl("lab", "trackbed").listed("pods")
    assert words in caught.value.message and "lab" in caught.value.message and hint in caught.value.hint


def test_every_call_names_its_context_and_its_namespace(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    engine.services()
    engine.data()
    asked = [line for line, _ in kubectl.calls if not line.startswith("config view")]
    assert asked and all("--context=lab --namespace=trackbed " in line for line in asked)


def test_the_exit_code_of_a_command_is_its_own_and_kubectls_line_is_not(
    engine: KubernetesEngine, kubectl: FakeKubectl
) -> None:
    kubectl.answer("get namespace trackbed ", namespace(**{objects.INSTANCE: engine.project.state.instance}))
    kubectl.answer(" exec ", "out\n", "no such table\ncommand terminated with exit code 3\n", 3)
    done = engine.exec(MLFLOW, ("trackbed-mlflow", "schema"))
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "no such table\n")
    with engine.pipe(POSTGRES, ("psql",)) as pipe, pytest.raises(TrackbedError, match="psql failed: no such table"):
        pipe.finish()
    assert refusals.without_end("command terminated with exit code 1\n") == ""


# whose it is


def namespace(**annotations: str) -> dict[str, Any]:
    return {
        "kind": "Namespace",
        "metadata": {"name": "trackbed", "annotations": annotations},
        "status": {"phase": "Active"},
    }


def test_a_namespace_of_somebody_else_is_refused(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    kubectl.answer("get namespace trackbed", namespace())
    with pytest.raises(
        TrackbedError, match=r"namespace trackbed of context lab exists and is not Trackbed's"
    ) as caught:
        engine.check_foreign()
    assert "--adopt" in caught.value.hint
    kubectl.answer("get namespace trackbed", namespace(**{objects.INSTANCE: "f" * 32}))
    with pytest.raises(TrackbedError, match="belongs to another Trackbed project"):
        engine.check_foreign()
    kubectl.answer("get namespace trackbed", namespace(**{objects.INSTANCE: engine.project.state.instance}))
    engine.check_foreign()


def test_an_adopted_namespace_gives_back_its_data(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    active = json.dumps({"database": "mlflow_b", "prefix": "live-b", "store": "versitygw"})
    kubectl.answer("get namespace trackbed", namespace(**{objects.INSTANCE: "f" * 32, objects.ACTIVE: active}))
    assert engine.adopt()
    assert engine.project.state.instance == "f" * 32 and engine.project.state.active["database"] == "mlflow_b"


def test_a_namespace_that_was_given_is_not_deleted(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    mine = {objects.INSTANCE: engine.project.state.instance}
    kubectl.answer("get namespace trackbed", namespace(**mine))
    engine.namespace.remove()
    assert not [line for line, _ in kubectl.calls if "delete namespace" in line]
    kubectl.answer("get namespace trackbed", namespace(**mine, **{objects.MADE: "true"}))
    engine.namespace.remove()
    assert [line for line, _ in kubectl.calls if "delete namespace trackbed" in line]


# secrets


def test_secrets_go_through_stdin_alone(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    engine.deployment.kubectl.apply(secrets.rendered(engine.deployment), "secrets")
    values = [value for value in engine.project.credentials().values.values() if value]
    (call,) = [(line, stdin) for line, stdin in kubectl.calls if " apply " in line]
    assert "--server-side" in call[0]  # so that no copy of them is kept in an annotation
    assert not [line for line, _ in kubectl.calls for value in values if value in line]
    items = {item["metadata"]["name"]: item for item in json.loads(call[1])["items"]}
    assert set(items) == {"secrets-postgres", "secrets-store", "secrets-mlflow", "secrets-jupyter", secrets.ENVIRONMENT}
    token = base64.b64decode(items["secrets-jupyter"]["data"]["jupyter-token"]).decode()
    assert token == engine.project.credentials()["JUPYTER_TOKEN"]


# images and sizes


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ((), "ghcr.io/versity/versitygw:v1@sha256:1"),
        (("ghcr.io/versity/versitygw:v1",), "ghcr.io/versity/versitygw:v1"),
        (
            ("ghcr.io/versity/versitygw:v1", "ghcr.io/versity/versitygw:v1@sha256:1"),
            "ghcr.io/versity/versitygw:v1@sha256:1",
        ),
        (("docker.io/library/postgres:18",), "ghcr.io/versity/versitygw:v1@sha256:1"),
    ],
)
def test_an_image_that_was_loaded_has_no_digest(present: tuple[str, ...], expected: str) -> None:
    assert images.local("ghcr.io/versity/versitygw:v1@sha256:1", present) == expected


def test_names_and_sizes() -> None:
    assert images.full("postgres:18") == "docker.io/library/postgres:18"
    assert images.full("trackbed/mlflow:1") == "docker.io/trackbed/mlflow:1"
    assert images.full("localhost:5000/a:1") == "localhost:5000/a:1"
    assert (objects.quantity("512m"), objects.quantity("16g")) == ("512Mi", "16Gi")
    assert [objects.number(text) for text in ("2", "500m", "4Gi", "1k")] == [2, 0.5, 2**32, 1000]
    assert objects.namespace("my_lab-") == "my-lab"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("kind-lab", "kind load docker-image a:1 b:1 --name lab"),
        ("k3d-lab", "k3d image import a:1 b:1 --cluster lab"),
        ("minikube", "minikube image load a:1 b:1"),
        ("lab", ""),
        ("kind", ""),
    ],
)
def test_how_images_are_loaded(context: str, expected: str) -> None:
    assert " ".join(loading.command(context, ("a:1", "b:1"))) == expected


def test_a_cluster_that_nothing_loads_into(one: Project, kubectl: FakeKubectl) -> None:
    with pytest.raises(TrackbedError, match="neither kind, k3d nor minikube") as caught:
        loading.load(one.settings, ("trackbed/mlflow:1",), Silent())
    assert "docker save trackbed/mlflow:1 | ctr -n k8s.io images import -" in caught.value.hint


# states


def pod(service: str, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"{service}-0",
            "labels": {objects.PART: service},
            "creationTimestamp": "2026-11-26T16:00:00Z",
        },
        "spec": {"containers": [{"name": service}]},
        "status": {"phase": "Running", **status},
    }


def container(service: str, **more: Any) -> dict[str, Any]:
    return {"name": service, "image": "i:1", "restartCount": 0, "ready": False, **more}


def workload(service: str, **status: Any) -> dict[str, Any]:
    kind = objects.WORKLOADS[service].kind
    return {
        "kind": kind,
        "metadata": {"name": service, "uid": "u", "generation": 2},
        "spec": {"replicas": 1, "template": {"metadata": {}, "spec": {"containers": [{"name": service}]}}},
        "status": {"observedGeneration": 2, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, **status},
    }


def state(service: str, thing: dict[str, Any] | None, *found: dict[str, Any]) -> tuple[State, str, int | None]:
    result = pods.status(service, objects.WORKLOADS[service], thing, found)
    return result.state, result.reason, result.exit_code


RUNNING = {"running": {"startedAt": "2026-11-26T16:00:01Z"}}
CRASHED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
    "lastState": {"terminated": {"exitCode": 78, "reason": "Error"}},
    "restartCount": 2,
}
NO_IMAGE = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1"'}}}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"containerStatuses": [container(MLFLOW, ready=True, state=RUNNING)]}, (State.READY, "", None)),
        ({"containerStatuses": [container(MLFLOW, **CRASHED)]}, (State.RESTARTING, "exit code 78", 78)),
        (
            {"containerStatuses": [container(MLFLOW, **NO_IMAGE)]},
            (State.EXITED, 'its node cannot get the image i:1: Back-off pulling image "i:1"', None),
        ),
        (
            {
                "initContainerStatuses": [{"name": "wait", "ready": False, "state": RUNNING}],
                "containerStatuses": [container(MLFLOW, state={"waiting": {"reason": "PodInitializing"}})],
            },
            (State.STARTING, "waits for the database, its tables and the bucket", None),
        ),
        (
            {"containerStatuses": [container(MLFLOW, state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}})]},
            (State.RESTARTING, "killed: it needed more memory than its limit", 137),
        ),
    ],
)
def test_the_state_of_a_pod(statuses: dict[str, Any], expected: tuple[State, str, int | None]) -> None:
    assert state(MLFLOW, workload(MLFLOW), pod(MLFLOW, **statuses)) == expected


def test_a_workload_that_is_not_there_or_scaled_to_none() -> None:
    assert state(MLFLOW, None) == (State.MISSING, "", None)
    halted = workload(MLFLOW)
    halted["spec"]["replicas"] = 0
    assert state(MLFLOW, halted)[:2] == (State.EXITED, "stopped")


def test_an_old_pod_that_still_answers_is_not_the_new_one() -> None:
    ready = pod(MLFLOW, containerStatuses=[container(MLFLOW, ready=True, state=RUNNING)])
    assert state(MLFLOW, workload(MLFLOW, observedGeneration=1), ready)[0] is State.STARTING
    assert state(MLFLOW, workload(MLFLOW, updatedReplicas=0), ready)[:2] == (State.STARTING, "0 of 1 replaced")


def test_a_job() -> None:
    done, failed = workload(SCHEMA, succeeded=1), workload(SCHEMA)
    assert state(SCHEMA, done)[0] is State.DONE
    failed["status"] = {"conditions": [{"type": "Failed", "status": "True", "message": "Job has reached its limit"}]}
    assert state(SCHEMA, failed)[:2] == (State.EXITED, "Job has reached its limit")


def test_the_services_of_a_project(engine: KubernetesEngine) -> None:
    assert engine.deployment.services == (POSTGRES, STORE, STORE_SYNC, SCHEMA, BUCKET, MLFLOW, JUPYTER)
    assert [status.state for status in engine.services()] == [State.MISSING] * 7


# a pod without a node


def pending_pod(message: str, **limits: str) -> dict[str, Any]:
    thing = pod(JUPYTER, phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": message}])
    thing["spec"]["containers"][0]["resources"] = {"limits": limits}
    return thing


def held_by(project: str, count: str) -> dict[str, Any]:
    thing = pod(JUPYTER)
    thing["metadata"]["labels"][objects.PROJECT] = project
    thing["spec"] |= {
        "nodeName": "node1",
        "containers": [{"name": "jupyter", "resources": {"limits": {"amd.com/gpu": count}}}],
    }
    return thing


def gpu_node(name: str, **allocatable: str) -> Any:
    return node(
        {
            "metadata": {"name": name, "labels": {}},
            "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )


def test_who_holds_the_gpus() -> None:
    asking = pending_pod(
        "0/2 nodes are available: 2 Insufficient amd.com/gpu. preemption: none", **{"amd.com/gpu": "3"}
    )
    nodes = [gpu_node("node1", **{"amd.com/gpu": "2"}), gpu_node("node2", cpu="2")]
    words, fix = pending.explain(asking, nodes, [held_by("alice", "1"), asking], "lab")
    assert words == "no node has 3 free amd.com/gpu: 2 in all, 1 held by project alice"
    assert "--gpu-count=1" in fix
    assert pending.explain(asking, nodes, None, "lab")[0] == "no node has 3 free amd.com/gpu: 2 in all"
    assert pending.explain(asking, [], None, "lab")[0] == "no node has 3 free amd.com/gpu"
    assert "device plugin" in pending.explain(asking, nodes[1:], [], "lab")[1]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "its volume was not made yet"),
        ("0/2 nodes are available: 1 node(s) had volume node affinity conflict.", "attach to one node only"),
        (
            "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) were "
            "unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not "
            "helpful for scheduling.",
            "attach to one node only",
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: only}.", "kept for others (gpu: only)"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", "no node has the labels"),
        (
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable.",
            "is cordoned",
        ),
        ("0/1 nodes are available: 1 Insufficient memory.", "no node has 4.0 GiB free memory: 2.0 GiB in all"),
    ],
)
def test_other_reasons_for_no_node(message: str, words: str) -> None:
    given, fix = pending.explain(pending_pod(message, memory="4Gi"), [gpu_node("a", memory="2Gi")], [], "lab")
    assert words in given and "lab" in fix or "node" in fix


def test_an_image_that_is_not_ours_is_not_to_be_built() -> None:
    assert "invoke build --load" in images.bring(MLFLOW) and "invoke build --load" in images.bring(JUPYTER)
    for service in (POSTGRES, STORE):
        assert "build" not in images.bring(service) and "REGISTRY_MIRROR=HOST/PATH" in images.bring(service)


def attach_event(said: str, reason: str = "FailedAttachVolume", at: str = "16:00:00") -> dict[str, Any]:
    return {"reason": reason, "message": said, "lastTimestamp": f"2026-11-26T{at}Z"}


USED = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) postgres-0'
EXCLUSIVE = (
    'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node and can\'t be attached to '
    "another"
)


@pytest.mark.parametrize(
    ("events", "nodes", "why", "fix"),
    [
        ([attach_event(USED)], ["node1"], "attached to node node1: it can attach to one", "kubectl delete node node1 "),
        ([attach_event(EXCLUSIVE)], [], "attached to another node: it can attach to one", "get volumeattachments"),
        ([attach_event("timed out waiting for external-attacher")], [], "be attached to its node: timed out", "doctor"),
        ([attach_event("well", "SuccessfulAttachVolume", "16:00:01"), attach_event(USED)], ["node1"], "", ""),
        ([attach_event("is slow", "FailedMount")], [], "", ""),
    ],
)
def test_a_volume_that_another_node_holds(
    engine: KubernetesEngine,
    kubectl: FakeKubectl,
    events: list[dict[str, Any]],
    nodes: list[str],
    why: str,
    fix: str,
) -> None:
    """Before, the pod waited and nothing told for what. The words are those of Kubernetes 1.36."""
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data-postgres-0"}}
    new = pod(POSTGRES, phase="Pending")
    new["spec"] |= {"nodeName": "node2", "volumes": [claim]}
    old = [pod(POSTGRES) for _ in nodes]
    for one, holder in zip(old, nodes, strict=True):
        one["spec"]["nodeName"] = holder
        one["metadata"]["deletionTimestamp"] = "2026-11-26T16:00:00Z"
    kubectl.items("get events -o json --field-selector=involvedObject.name=postgres-0", events)
    found = engine.inspection.stuck(POSTGRES, [*old, new])
    assert why in found[0] and fix in found[1] and bool(why) is bool(found[0])


@pytest.mark.parametrize(
    ("ready", "ends", "words"),
    [
        ("Unknown", "", "node node1, which has its volume, does not answer; bring that node back"),
        (
            "True",
            "2026-11-26T16:00:00Z",
            "node node1, which has its volume, does not end its pod; bring that node back",
        ),
        ("True", "2999-11-26T16:00:00Z", "the pods that it had are ending"),
        ("True", "", "0 of 1 ready"),
    ],
)
def test_a_node_that_is_away_keeps_the_database_down(
    engine: KubernetesEngine, kubectl: FakeKubectl, ready: str, ends: str, words: str
) -> None:
    """Before, the status said for minutes that it was starting, or ending. A node that takes no new pods answers."""
    conditions = [{"type": "Ready", "status": ready}]
    node1 = {"metadata": {"name": "node1"}, "spec": {"unschedulable": True}, "status": {"conditions": conditions}}
    last = pod(POSTGRES, containerStatuses=[container(POSTGRES, ready=True, state=RUNNING)])
    last["spec"]["nodeName"] = "node1"
    last["metadata"] |= {"deletionTimestamp": ends} if ends else {}
    kubectl.items("get --raw /api/v1/nodes", [node1])
    kubectl.items("get statefulsets.apps,", [workload(POSTGRES, readyReplicas=0), last])
    (found,) = [one for one in engine.services() if one.name == POSTGRES]
    assert found.state is State.STARTING and found.reason.startswith(words)


def test_why_a_workload_gets_no_pod() -> None:
    event = {
        "reason": "FailedCreate",
        "involvedObject": {"name": "mlflow-7d9"},
        "message": 'Error creating: pods "mlflow-7d9-x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile',
        "lastTimestamp": "2026-11-26T16:00:00Z",
    }
    assert "pod security restricted:latest" in pending.refused([event], "mlflow")
    assert pending.refused([event], "postgres") == ""


def test_a_pod_of_an_earlier_template_that_never_came_up_is_replaced() -> None:
    """The StatefulSet's controller waits for it to be ready before it makes another."""
    thing = workload(JUPYTER, updateRevision="jupyter-2")
    stuck = pending_pod("0/2 nodes are available: 2 Insufficient amd.com/gpu.", **{"amd.com/gpu": "3"})
    stuck["metadata"]["labels"]["controller-revision-hash"] = "jupyter-1"
    assert pods.is_left(stuck, thing)
    stuck["metadata"]["labels"]["controller-revision-hash"] = "jupyter-2"
    assert not pods.is_left(stuck, thing)
    assert not pods.is_left(stuck, workload(JUPYTER, updateRevision="jupyter-3", observedGeneration=1))


def test_a_node_type_chooses_the_nodes_that_say_so(tmp_path: Path, kubectl: FakeKubectl) -> None:
    labels = {
        "node1": {"amd.com/gpu.product-name": "AMD_Instinct_MI100"},
        "node2": {"nvidia.com/gpu.product": "Quadro-RTX-6000"},
    }
    items = [
        {"metadata": {"name": name, "labels": given}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        for name, given in labels.items()
    ]
    kubectl.items("get --raw /api/v1/nodes", items)
    mi100 = KubernetesEngine(project(tmp_path, engine="kubernetes", gpu="mi100", gpu_count="2")).rendering.gpus
    assert (mi100.limits, mi100.models) == ({"amd.com/gpu": "2"}, ("AMD_Instinct_MI100",))
    assert str(mi100) == "2 x amd.com/gpu (AMD_Instinct_MI100)"
    rtx = KubernetesEngine(project(tmp_path, engine="kubernetes", gpu="rtx_6000")).rendering.gpus
    assert rtx.label == "nvidia.com/gpu.product" and "tolerations" in rtx.placement
    with pytest.raises(TrackbedError, match="no node of the cluster has such a GPU"):
        KubernetesEngine(project(tmp_path, engine="kubernetes", gpu="h100")).rendering.gpus  # noqa: B018


def test_the_gpu_that_nobody_names(tmp_path: Path, kubectl: FakeKubectl) -> None:
    given = KubernetesEngine(project(tmp_path, engine="kubernetes")).rendering.gpus
    assert not given.resource and given.accelerator.reason == "auto: no node has a GPU"


METRICS = {
    "items": [{"metadata": {"name": "mlflow-0"}, "containers": [{"name": "mlflow", "usage": {"memory": "2Ki"}}]}]
}
SUMMARY = {
    "pods": [
        {
            "podRef": {"name": "mlflow-0", "namespace": space},
            "containers": [{"name": "mlflow", "memory": {"workingSetBytes": 3000}}],
        }
        for space in ("trackbed", "other")
    ]
}


def test_memory_is_asked_of_the_metrics_server_else_of_the_nodes(kubectl: FakeKubectl) -> None:
    ready = pod(MLFLOW, containerStatuses=[container(MLFLOW, ready=True, state=RUNNING)])
    ready["spec"]["nodeName"] = "node1"
    given = Kubectl("lab", "trackbed")
    assert memory.look(given, [ready]) == {}  # neither answers
    kubectl.answer("get --raw /api/v1/nodes/node1/proxy/stats/summary", SUMMARY)
    assert memory.look(given, [ready]) == {("mlflow-0", "mlflow"): 3000}
    kubectl.answer("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/trackbed/pods", METRICS)
    assert memory.look(given, [ready]) == {("mlflow-0", "mlflow"): 2048}


# the ways to the services


def test_a_way_for_each_service_with_ports(engine: KubernetesEngine) -> None:
    programs = {program.name: program for program in engine.forwards.programs()}
    assert set(programs) == {"store-s3", "store-console", "mlflow-http", "jupyter-http"}
    words = " ".join(programs["store-console"].command)
    assert words.endswith(
        "kubectl --context=lab --namespace=trackbed port-forward --address=127.0.0.1 service/store :console"
    )
    assert programs["store-console"].listens == ("127.0.0.1", 9001)
    assert engine.forwards.running() == frozenset() and not engine.forwards.are_current()


def test_a_look_takes_a_way_of_its_own_to_the_newest_pod_that_is_ready(
    engine: KubernetesEngine, kubectl: FakeKubectl
) -> None:
    with pytest.raises(NotListening, match="mlflow has no pod that runs"), engine.open(MLFLOW, "http"):
        pass
    with pytest.raises(NotListening, match="postgres publishes no port http"), engine.open(POSTGRES, "http"):
        pass
    listed = []
    for number, (ready, more) in enumerate(
        (("True", {}), ("True", {}), ("False", {}), ("True", {"deletionTimestamp": "now"}))
    ):
        one = pod(MLFLOW, conditions=[{"type": "Ready", "status": ready}])
        one["metadata"] |= {"name": f"mlflow-{number}", "creationTimestamp": f"2026-11-26T16:0{number}:00Z", **more}
        listed.append(one)
    kubectl.items("get pods", listed)
    kubectl.answer("port-forward", "Forwarding from 127.0.0.1:40123 -> 8000\n")
    with engine.open(MLFLOW, "http") as address:
        assert (address.host, address.port) == ("127.0.0.1", 40123)
    assert [line for line, _ in kubectl.calls if "port-forward --address=127.0.0.1 pod/mlflow-1 :8000" in line]
    kubectl.answer("port-forward", "", "error: unable to forward", 1)
    with pytest.raises(NotListening, match="no way to mlflow"), engine.open(MLFLOW, "http"):
        pass


# rights


def test_doctor_names_the_right_that_is_missing(engine: KubernetesEngine, kubectl: FakeKubectl) -> None:
    kubectl.allow(*(str(right) not in ("create secrets", "create pods/exec") for right in RIGHTS))
    kubectl.items("get storageclasses", [{"metadata": {"name": "slow"}}])
    found = {finding.check: finding for finding in engine.checks.client()}
    assert found["rights"].level is Level.ERROR and "create secrets, create pods/exec" in found["rights"].detail
    assert "kubectl auth can-i create secrets -n trackbed --context lab" in found["rights"].fix
    assert found["storage"].level is Level.ERROR and "STORAGE_CLASS" in found["storage"].fix
    assert "its nodes may not be seen" in found["cluster"].detail
    (asked,) = [stdin for line, stdin in kubectl.calls if ".status.allowed" in line]
    parts = [one["spec"]["resourceAttributes"]["subresource"] for one in json.loads(asked)["items"]]
    assert parts == ["", "", "", "", "exec", "portforward"]  # pods/exec would be a pod that is named exec
    kubectl.answer(r"status\.allowed", "", REFUSED, 1)
    (unknown,) = [one for one in engine.checks.client() if one.check == "rights"]
    assert unknown.level is Level.WARNING and "does not answer" in unknown.detail


def test_mlflow_asks_for_its_token_in_a_cluster(engine: KubernetesEngine) -> None:
    """NetworkPolicies keep others out only where the network plugin enforces them."""
    assert "pods of others" in access.decide(engine.project, engine.neighbours) and engine.project.asks


# what settings make of docker/kubernetes


def kustomized(engine: KubernetesEngine) -> dict[str, dict[str, Any]]:
    """The patches by the name of what they are for; a ConfigMap's with its kind."""
    here = engine.rendering
    content = kustomization.kustomization(engine.deployment, here.images, here.notebook, here.gpus, "")
    patches = [json.loads(patch["patch"]) for patch in content["patches"]]
    return {
        f"{'map ' if patch['kind'] == 'ConfigMap' else ''}{patch['metadata']['name']}": patch for patch in patches
    } | {"all": content}


def test_the_pools_of_all_pods_fit_into_the_database(tmp_path: Path, kubectl: FakeKubectl) -> None:
    given = kustomized(
        KubernetesEngine(project(tmp_path, engine="kubernetes", mlflow_replicas="8", mlflow_workers="4"))
    )
    server, database = given["map mlflow-server"]["data"], given["map postgres"]["data"]
    kept, more = (int(server[f"MLFLOW_SQLALCHEMYSTORE_{name}"]) for name in ("POOL_SIZE", "MAX_OVERFLOW"))
    pods_during_an_update = 2 * 8
    assert pods_during_an_update * 4 * 2 * (kept + more) < int(database["TRACKBED_MAX_CONNECTIONS"])
    assert given["mlflow"]["spec"]["replicas"] == 8


def test_values_go_to_their_objects(tmp_path: Path, kubectl: FakeKubectl) -> None:
    asked = {
        "engine": "kubernetes",
        "storage_class": "fast",
        "database_volume_size": "40g",
        "memory_limit": "2g",
        "image_registry": "registry.example.org/lab",
        "jupyter_env": "WORDS='a \"b\" $c'",
    }
    given = kustomized(KubernetesEngine(project(tmp_path, **asked)))
    (claim,) = given["postgres"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast" and claim["spec"]["resources"]["requests"]["storage"] == "40Gi"
    (container,) = given["mlflow"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "2Gi"
    assert "WORDS" not in given["map jupyter"]["data"]
    named = {one["name"]: one for one in given["all"]["images"]}
    assert named["trackbed/mlflow"]["newName"] == "registry.example.org/lab/mlflow"
    assert named["versitygw"]["newName"] == "ghcr.io/versity/versitygw" and named["versitygw"]["digest"].startswith(
        "sha256:"
    )
    assert "mlflow.trackbed.svc.cluster.local:*" in given["map mlflow-server"]["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"]


@pytest.mark.parametrize("store", [name for name in KubernetesEngine.stores if name != "external"])
def test_every_store_of_ours_has_its_image(tmp_path: Path, kubectl: FakeKubectl, store: str) -> None:
    here = KubernetesEngine(project(tmp_path, engine="kubernetes", object_store=store))
    named = {one["name"]: one for one in kustomized(here)["all"]["images"]}
    assert named[store]["newName"] == references.image(store).name.rpartition(":")[0]
    assert (f"components/{store}" in kustomized(here)["all"]["components"]) == (store == "minio")


def test_a_notebook_alone(tmp_path: Path, kubectl: FakeKubectl) -> None:
    asked = {"engine": "kubernetes", "tracking_uri": "https://mlflow.example.org"}
    given = kustomized(KubernetesEngine(project(tmp_path, **asked)))
    assert given["all"]["components"] == ["components/notebook-only"] and "postgres" not in given
    assert given["map jupyter"]["data"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org"
