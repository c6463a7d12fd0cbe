"""The kubernetes engine, when settings, images or the cluster change under what runs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from helpers import site_network
from helpers.clone import ROOT
from helpers.engines.kubernetes import gpus, kustomization, objects, pods, pushed, secrets
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.kubernetes.volumes import Volumes
from helpers.errors import SettingError, TrackbedError
from helpers.project import shell_environment
from helpers.services import JUPYTER, MLFLOW, SCHEMA, State
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

BASE = ROOT / "docker" / "kubernetes" / "base"
REFUSED = "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?\n"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of this machine's own site."""
    for name in shell_environment.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(site_network, "ANCHORS", ())


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


def engine(folder: Path, **given: str) -> KubernetesEngine:
    return KubernetesEngine(project(folder, engine="kubernetes", **given))


def commands(kubectl: FakeKubectl, word: str) -> list[str]:
    return [line for line, _ in kubectl.calls if f" {word} " in line]


# volumes


def claim(name: str, size: str, of_class: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"resources": {"requests": {"storage": size}}}
    return {"metadata": {"name": name}, "spec": {**spec, **({"storageClassName": of_class} if of_class else {})}}


def stateful_set(size: str, of_class: str = "") -> dict[str, Any]:
    return {
        "kind": "StatefulSet",
        "metadata": {"name": "postgres"},
        "spec": {"volumeClaimTemplates": [claim("data", size, of_class)]},
    }


def settle(here: KubernetesEngine, planned: dict[str, Any]) -> None:
    Volumes(here.deployment).settle([planned], Silent())


def test_a_volume_grows_and_its_stateful_set_is_made_anew_around_its_pod(tmp_path: Path, kubectl: FakeKubectl) -> None:
    kubectl.items("get persistentvolumeclaims", [claim("data-postgres-0", "20Gi", "fast")])
    kubectl.items("get statefulsets", [stateful_set("20Gi")])
    kubectl.answer(" patch ")
    here = engine(tmp_path)
    settle(here, stateful_set("20480Mi"))
    assert not commands(kubectl, "patch") and not commands(kubectl, "delete")
    settle(here, stateful_set("40Gi"))
    (patch,) = commands(kubectl, "patch")
    assert "persistentvolumeclaim data-postgres-0" in patch and '"storage":"40Gi"' in patch
    (deleted,) = commands(kubectl, "delete")
    assert deleted.endswith("delete statefulset postgres --cascade=orphan")


def test_what_no_volume_can_do_is_refused_before_anything_changes(tmp_path: Path, kubectl: FakeKubectl) -> None:
    kubectl.items("get persistentvolumeclaims", [claim("data-postgres-0", "20Gi", "fast")])
    kubectl.items("get statefulsets", [stateful_set("20Gi")])
    here = engine(tmp_path, storage_class="slow", database_volume_size="10g")
    with pytest.raises(SettingError, match=r"STORAGE_CLASS=slow .* is of class fast, which cannot be changed"):
        settle(here, stateful_set("20Gi", "slow"))
    with pytest.raises(SettingError, match=r"DATABASE_VOLUME_SIZE .* is 10Gi: .* has 20Gi, and no volume shrinks"):
        settle(here, stateful_set("10Gi"))
    kubectl.answer(
        " patch ",
        "",
        "persistentvolumeclaims is forbidden: only dynamically provisioned pvc can be resized and the "
        "storageclass that provisions the pvc must support resize",
        1,
    )
    with pytest.raises(TrackbedError, match="its storage class does not let volumes grow"):
        settle(here, stateful_set("40Gi"))
    assert not commands(kubectl, "delete")


# images


def test_the_digest_that_was_pushed_is_what_nodes_are_told(tmp_path: Path, kubectl: FakeKubectl) -> None:
    here = engine(tmp_path, image_registry="registry.example.org/lab")
    name = here.rendering.images.references()[MLFLOW]
    assert name.startswith("registry.example.org/lab/mlflow:") and "@" not in name
    pushed.keep(here.settings, [f"{name}@sha256:1", "registry.example.org/lab/other:1"])
    assert here.rendering.images.references()[MLFLOW] == f"{name}@sha256:1"
    pushed.keep(here.settings, [f"{name}@sha256:2"])
    assert here.rendering.images.references()[MLFLOW] == f"{name}@sha256:2"


def test_an_image_that_is_loaded_again_under_its_name_starts_what_runs_it(tmp_path: Path, kubectl: FakeKubectl) -> None:
    """Before, the nodes had it and nothing ran it: the name is the same."""
    here = engine(tmp_path)
    assert kustomization._loaded_patches(here.deployment, here.rendering.images) == []
    names = here.rendering.images.references()
    pushed.keep_loaded(here.settings, {names[MLFLOW]: "sha256:1", "trackbed/other:1": "sha256:2"})
    given = {
        (one["kind"], one["metadata"]["name"]): one["spec"]["template"]["metadata"]["annotations"]
        for one in kustomization._loaded_patches(here.deployment, here.rendering.images)
    }
    run_it = [("StatefulSet", "store"), ("Job", "schema"), ("Job", "bucket"), ("Deployment", "mlflow")]
    assert given == dict.fromkeys(run_it, {objects.IMAGE: "sha256:1"})
    pushed.keep_loaded(here.settings, {names[JUPYTER]: "sha256:3"})
    assert len(kustomization._loaded_patches(here.deployment, here.rendering.images)) == 5
    elsewhere = engine(tmp_path, image_registry="registry.example.org/lab")
    assert kustomization._loaded_patches(elsewhere.deployment, elsewhere.rendering.images) == []


# MLflow's jobs


def test_jobs_and_several_servers_are_refused(tmp_path: Path, kubectl: FakeKubectl) -> None:
    both = engine(tmp_path, mlflow_jobs="on", mlflow_replicas="2")
    with pytest.raises(SettingError, match="MLFLOW_REPLICAS=2 and MLFLOW_JOBS=on: each server would run every job"):
        kustomization._server_patches(both.deployment)


@pytest.mark.parametrize(("jobs", "strategy"), [("on", {"type": "Recreate", "rollingUpdate": None}), ("off", None)])
def test_a_server_with_jobs_ends_before_the_next_begins(
    tmp_path: Path, kubectl: FakeKubectl, jobs: str, strategy: object
) -> None:
    patches = kustomization._server_patches(engine(tmp_path, mlflow_jobs=jobs).deployment)
    (patch,) = [one for one in patches if one["metadata"]["name"] == MLFLOW]
    assert patch["spec"].get("strategy") == strategy


def test_servers_that_are_too_many_end_before_the_database_allows_fewer_connections(
    tmp_path: Path, kubectl: FakeKubectl
) -> None:
    here = engine(tmp_path, mlflow_replicas="2")
    three = {"kind": "Deployment", "metadata": {"name": MLFLOW}, "spec": {"replicas": 3}}
    here.startup._end_surplus([three], Silent())
    (scaled,) = commands(kubectl, "scale")
    assert scaled.endswith(" scale deployment/mlflow --replicas=2")
    assert "get statefulsets.apps," in kubectl.calls[-1][0]  # it waits for the end of their pods
    here.startup._end_surplus([{**three, "spec": {"replicas": 2}}], Silent())
    here.startup._end_surplus([], Silent())
    assert len(commands(kubectl, "scale")) == 1


# memory, GPUs, names


def test_no_service_requests_more_memory_than_its_limit(tmp_path: Path, kubectl: FakeKubectl) -> None:
    documents = [one for path in BASE.glob("*.yaml") for one in yaml.safe_load_all(path.read_text())]
    templates = [one["spec"]["template"]["spec"] for one in documents if "template" in (one or {}).get("spec", {})]
    requested = [
        objects.number(one["resources"]["requests"]["memory"]) for spec in templates for one in spec["containers"]
    ]
    assert max(requested) <= kustomization.MOST_REQUESTED
    patches = kustomization._server_patches(engine(tmp_path, memory_limit="512m").deployment)
    for patch in patches:
        for one in patch["spec"]["template"]["spec"].get("containers", ()):
            assert one["resources"] == {"limits": {"memory": "512Mi"}, "requests": {"memory": "512Mi"}}
    large = kustomization._limited(MLFLOW, "4g")
    assert large["resources"] == {"limits": {"memory": "4Gi"}}


def test_an_amd_notebook_is_in_the_groups_of_its_devices(tmp_path: Path, kubectl: FakeKubectl) -> None:
    (component,) = yaml.safe_load_all((BASE.parent / "components" / "gpu-amd" / "jupyter.yaml").read_text())
    given = engine(tmp_path, gpu="amd").rendering.gpus
    assert given.placement["securityContext"] == component["spec"]["template"]["spec"]["securityContext"]
    assert "securityContext" not in engine(tmp_path, gpu="nvidia").rendering.gpus.placement


def test_auto_leaves_a_notebook_its_gpu_while_the_node_is_away(tmp_path: Path, kubectl: FakeKubectl) -> None:
    limits = {"resources": {"limits": {"amd.com/gpu": "1"}}}
    pod = {"containers": [{"name": JUPYTER, **limits}]}
    assert gpus.given(None) == ""
    kubectl.answer("get StatefulSet jupyter", {"spec": {"template": {"spec": pod}}})
    assert engine(tmp_path).rendering.gpus.limits == {"amd.com/gpu": "1"}
    assert engine(tmp_path, gpu="none").rendering.gpus.limits == {}


def test_quantities_of_every_unit() -> None:
    given = ("1Pi", "1P", "100n", "5u", "2Ei", "1E", "1e3", "")
    assert [objects.number(text) for text in given] == pytest.approx([2**50, 1e15, 1e-7, 5e-6, 2**61, 1e18, 1000, 0])


def test_a_projects_name_is_a_labels_value(tmp_path: Path, kubectl: FakeKubectl) -> None:
    assert [objects.label(name) for name in ("lab-", "my_lab", "a_")] == ["lab", "my_lab", "a"]


# the notebook's variables


def test_the_users_variables_are_in_a_secret_alone(tmp_path: Path, kubectl: FakeKubectl) -> None:
    here = engine(tmp_path, jupyter_env="HTTPS_PROXY=http://me:hush@proxy:3128 WORDS='a b'")
    here.project.credentials()
    listed = {one["metadata"]["name"]: one for one in secrets.rendered(here.deployment)}
    data = {key: base64.b64decode(value).decode() for key, value in listed[secrets.ENVIRONMENT]["data"].items()}
    assert data == {"HTTPS_PROXY": "http://me:hush@proxy:3128", "WORDS": "a b"}
    made = kustomization.kustomization(
        here.deployment, here.rendering.images, here.rendering.notebook, here.rendering.gpus, ""
    )
    assert "hush" not in json.dumps(made)
    (notebook,) = [
        one["spec"]["template"]["spec"]["containers"][0]
        for one in (json.loads(patch["patch"]) for patch in made["patches"])
        if (one["kind"], one["metadata"]["name"]) == ("StatefulSet", JUPYTER)
    ]
    assert {"secretRef": {"name": secrets.ENVIRONMENT, "optional": True}} in notebook["envFrom"]
    assert "environment-jupyter: HTTPS_PROXY, WORDS" in secrets.by_hand(here.deployment)


def test_the_sites_proxies_and_certificates_reach_the_notebook(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy's password in the Secret alone; what is in the cluster is asked for without a proxy."""
    bundle = tmp_path / "site.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n")
    site = {"HTTPS_PROXY": "http://ada:hush@proxy:3128", "ALL_PROXY": "http://127.0.0.1:1", "PIP_CERT": str(bundle)}
    for name, value in site.items():
        monkeypatch.setenv(name, value)
    here = engine(tmp_path, kube_namespace="lab")
    here.project.credentials()
    listed = {one["metadata"]["name"]: one for one in secrets.rendered(here.deployment)}
    data = {key: base64.b64decode(value).decode() for key, value in listed[secrets.ENVIRONMENT]["data"].items()}
    assert data["HTTPS_PROXY"] == data["https_proxy"] == site["HTTPS_PROXY"]
    assert {"mlflow", "store", "jupyter-0", ".lab", ".svc", ".cluster.local"} <= set(data["NO_PROXY"].split(","))
    assert data.keys() == {"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"}, (
        "no pod reaches this machine's loopback"
    )
    pem = base64.b64decode(listed["secrets-jupyter"]["data"]["site-ca.pem"]).decode()
    assert pem.startswith(bundle.read_text())
    made = json.dumps(
        kustomization.kustomization(
            here.deployment, here.rendering.images, here.rendering.notebook, here.rendering.gpus, ""
        )
    )
    assert "hush" not in made and "/run/secrets/site-ca.pem" in made
    by_hand = secrets.by_hand(here.deployment)
    assert "hush" not in by_hand and "site-ca.pem" in by_hand and "HTTPS_PROXY" in by_hand
    assert "127.0.0.1:1" in here.checks.site_network().detail

    for uri, inside in (("http://mlflow.other:8000", True), ("https://mlflow.example.org", False)):
        remote = engine(tmp_path, tracking_uri=uri)
        assert (urlsplit(uri).hostname in remote.deployment.proxies["NO_PROXY"].split(",")) == inside
    own = engine(tmp_path, jupyter_env="https_proxy=http://mine:1")
    assert own.deployment.private_environment == {"https_proxy": "http://mine:1"}


def test_more_certificates_than_a_secret_takes_are_refused(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "site.pem"
    bundle.write_text(f"-----BEGIN CERTIFICATE-----\n{'A' * 950_000}\n-----END CERTIFICATE-----\n")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    with pytest.raises(TrackbedError, match=r"site.pem, are 95\d+ bytes, and a Secret takes 900000"):
        engine(tmp_path).rendering.notebook  # noqa: B018


def test_other_variables_replace_the_notebook_alone(tmp_path: Path, kubectl: FakeKubectl) -> None:
    def read(words: str) -> list[str]:
        here = engine(tmp_path, jupyter_env=words)
        here.project.credentials()
        things = (
            *kustomization._server_patches(here.deployment),
            kustomization._notebook_patch(here.deployment, here.rendering.notebook, here.rendering.gpus, ""),
        )
        return [one["spec"]["template"]["metadata"]["annotations"][objects.SECRETS] for one in things]

    first, second = read("A=1"), read("A=2")
    assert first[:-1] == second[:-1] and first[-1] != second[-1]


# what starts, and what ends


@pytest.mark.parametrize(("asked", "first"), [("1", ["halt mlflow"]), ("", [])])
def test_a_migration_finds_no_server_that_writes(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch, asked: str, first: list[str]
) -> None:
    here, done = engine(tmp_path), list[str]()
    monkeypatch.setenv("TRACKBED_MIGRATE", asked)
    monkeypatch.setattr(here, "halt", lambda service, progress: done.append(f"halt {service}"))
    monkeypatch.setattr(here.startup, "_renew_jobs", lambda: done.append("jobs"))
    monkeypatch.setattr(here.startup, "_await", lambda names, progress: done.append(f"await {', '.join(names)}"))
    here.startup._prepare(Silent())
    assert done == [*first, "jobs", "await schema, bucket"]
    assert kustomization.environments(here.deployment)["mlflow-server"]["TRACKBED_MIGRATE"] == asked


def test_a_job_that_would_fail_again_has_failed() -> None:
    job = {
        "kind": "Job",
        "metadata": {"name": SCHEMA, "uid": "u"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"name": SCHEMA}]}}},
        "status": {},
    }
    ended = {"exitCode": 78, "reason": "Error"}
    statuses = [{"name": SCHEMA, "restartCount": 0, "ready": False, "state": {"terminated": ended}}]
    failed = {"metadata": {"name": "schema-1"}, "status": {"phase": "Running", "containerStatuses": statuses}}
    result = pods.status(SCHEMA, objects.WORKLOADS[SCHEMA], job, [failed])
    assert (result.state, result.exit_code) == (State.EXITED, 78)
    ended["exitCode"] = 1
    assert pods.status(SCHEMA, objects.WORKLOADS[SCHEMA], job, [failed]).state is State.STARTING


def test_one_answer_that_does_not_come_is_not_the_end_of_a_start(
    tmp_path: Path, kubectl: FakeKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = engine(tmp_path).startup
    kubectl.answer("get statefulsets.apps", "", REFUSED, 1)
    looks: list[str] = []

    def late(*_: object) -> str:
        looks.append("")
        return "" if len(looks) > 1 else startup.inspection.statuses()[0].name  # the first raises

    monkeypatch.setattr(startup, "_late", late)
    startup._await((MLFLOW,), Silent())
    assert len(looks) == 2


def test_down_deletes_the_pods_of_commands_that_were_killed(tmp_path: Path, kubectl: FakeKubectl) -> None:
    here = engine(tmp_path)
    here.stopping.stop(Silent(), 1)
    (line,) = [line for line in commands(kubectl, "delete") if " pods " in line]
    assert f"{here.project.state.instance},app.kubernetes.io/component in (run-postgres,run-store," in line
