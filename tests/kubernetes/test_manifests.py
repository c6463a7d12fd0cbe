"""docker/kubernetes as a cluster takes it: the base, each component over it, and the overlay that is applied by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration import inspection
from tests.kubernetes import cluster

FOLDER = ROOT / "docker" / "kubernetes"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
TOGETHER = (("gateway", "isolated", "autoscaling", "gpu-amd"), ("external-database", "external-store", "ingress"))
# what the API server has to know at least of CloudNativePG's objects, where their own schema cannot be fetched
OPERATOR = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.postgresql.cnpg.io"},
    "spec": {
        "group": "postgresql.cnpg.io",
        "scope": "Namespaced",
        "names": {"kind": "Cluster", "plural": "clusters", "singular": "cluster"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def rendered(
    folder: Path, namespace: str, resource: str, components: tuple[str, ...] = (), patches: tuple[str, ...] = ()
) -> str:
    """The YAML of an overlay of ours that lays them into a namespace."""
    folder.mkdir(parents=True)
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(FOLDER / resource, folder)],
        "components": [os.path.relpath(FOLDER / "components" / name, folder) for name in components],
        "patches": [{"patch": patch} for patch in patches],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(content))
    return cluster.kubectl("kustomize", str(folder))


def tried(text: str) -> subprocess.CompletedProcess[str]:
    """What the API server says of objects: fields that it does not know are errors. Nothing is made."""
    return inspection.run("kubectl", "apply", "--dry-run=server", "--server-side", "--filename=-", stdin=text)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """With the labels of docker/kubernetes: the API server then warns of each pod that it would refuse."""
    name = f"manifests-{time.time_ns()}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(made))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def operator() -> Iterator[bool]:
    """The API server knows CloudNativePG's objects; gives whether by their own schema."""
    try:
        schema = Path(cluster.script("operator.sh", timeout=400).strip()).read_text()
    except AssertionError:
        schema = ""
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=schema or json.dumps(OPERATOR))
    # `kubectl wait` and a jsonpath fail at once where the API server has not written a condition yet
    cluster.until(
        "CloudNativePG's objects", lambda: cluster.condition("crd/clusters.postgresql.cnpg.io", "Established")
    )
    yield bool(schema)
    cluster.kubectl("delete", "crd", "clusters.postgresql.cnpg.io", "--wait=false")


@pytest.mark.parametrize(
    ("resource", "components"),
    [("overlays/example", ()), *(("base", (name,)) for name in COMPONENTS), *(("base", names) for names in TOGETHER)],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
@pytest.mark.usefixtures("operator")
def test_the_cluster_takes_it_without_a_warning(
    resource: str, components: tuple[str, ...], namespace: str, tmp_path: Path
) -> None:
    done = tried(rendered(tmp_path / "overlay", namespace, resource, components))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "    maxUnavailable: 0\n",
            "    maxUnavailable: 0\n      maxSurges: 1\n",
            "maxSurges: field not declared in schema",
        ),
        ("  podSelector:\n", "  podSelectors: {}\n  podSelector:\n", "podSelectors: field not declared in schema"),
        ("cpu: 250m", "cpu: lots", "quantities must match the regular expression"),
        ("  instances: 3\n", "  instancez: 3\n  instances: 3\n", "instancez: field not declared in schema"),
        ("  instances: 3\n", "  instances: 0\n", "spec.instances in body should be greater than or equal to 1"),
    ],
)
def test_what_no_schema_has_is_refused(
    right: str, wrong: str, said: str, operator: bool, namespace: str, tmp_path: Path
) -> None:
    """So the test above says that every field is one, and has a value that it may have."""
    if "instances" in right and not operator:
        pytest.skip("NOT TESTED: CloudNativePG's schema cannot be fetched here")
    text = rendered(tmp_path / "overlay", namespace, "base", ("cloudnativepg",))
    assert right in text
    done = tried(text.replace(right, wrong, 1))
    assert done.returncode != 0 and said in done.stderr, done.stderr


def test_a_patch_has_the_last_word_over_a_component(tmp_path: Path) -> None:
    uri = "postgresql+psycopg2://mlflow@db.example.org:5432/mlflow"
    patch = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mlflow"},
        "data": {"MLFLOW_BACKEND_STORE_URI": uri},
    }
    component = ("external-database",)
    plain = rendered(tmp_path / "plain", "lab", "base", component)
    patched = rendered(tmp_path / "patched", "lab", "base", component, (json.dumps(patch),))
    assert f"MLFLOW_BACKEND_STORE_URI: {uri}\n" in patched
    name = re.compile(r"name: (mlflow-[0-9a-z]{10})\n")
    assert len(set(name.findall(plain))) == len(set(name.findall(patched))) == 1
    assert set(name.findall(plain)) != set(name.findall(patched))


def test_a_pod_that_asks_for_more_is_refused(namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy", "namespace": namespace},
        "spec": {"containers": [{"name": "main", "image": "trackbed-test/pause:1"}]},
    }
    done = tried(json.dumps(pod))
    assert done.returncode != 0 and 'violates PodSecurity "restricted' in done.stderr
