"""docker/kubernetes: the same services as docker/compose*.yaml, as Kubernetes objects that restrict themselves.

The YAML is read as it is written, without kubectl; tests/kubernetes applies it to a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import cloud_metadata, database_settings, references
from helpers.clone import ROOT
from helpers.engines import jupyterlab
from helpers.engines.docker.compose_model import seconds
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.kustomization import environments
from helpers.settings import BY_NAME
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import deployed, project
from tests.unit.test_notebook import settings

DOCKER = ROOT / "docker"
FOLDER = DOCKER / "kubernetes"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
OWN = {"trackbed/mlflow", "trackbed/jupyter-mlflow", "trackbed/gateway"}
WRITABLE = {"jupyter": "people install packages in it"}
OPERATORS = {"Cluster": "its operator makes the pods, and restricts them"}
Data = dict[str, Any]


class Loader(yaml.SafeLoader):
    """With the tags of Compose, which say how files are laid over each other."""


for tag in ("!reset", "!override"):
    Loader.add_constructor(tag, lambda loader, node: None)


@cache
def documents(path: Path) -> tuple[Data, ...]:
    return tuple(document for document in yaml.load_all(path.read_text(), Loader) if document)


def written() -> Iterator[Data]:
    """Every object that a file has in full; what patches another one has no API of its own to ask."""
    for folder in (FOLDER / "base", *(FOLDER / "components" / name for name in COMPONENTS)):
        (kustomization,) = documents(folder / "kustomization.yaml")
        for name in kustomization.get("resources", ()):
            yield from documents(folder / name)


OBJECTS = {(item["kind"], item["metadata"]["name"]): item for item in written()}
TEMPLATES = {
    key: spec["template"]
    for key, item in OBJECTS.items()
    for spec in (item.get("spec", {}), item.get("spec", {}).get("jobTemplate", {}).get("spec", {}))
    if "template" in spec
}
CONTAINERS = {
    f"{kind} {name}: {container['name']}": container
    for (kind, name), template in TEMPLATES.items()
    for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"])
}


def literals(component: str = "") -> dict[str, dict[str, str]]:
    """Each generated ConfigMap of the base with a component over it."""
    result: dict[str, dict[str, str]] = {}
    for folder in (FOLDER / "base", *([FOLDER / "components" / component] if component else [])):
        (kustomization,) = documents(folder / "kustomization.yaml")
        for generator in (one for one in kustomization.get("configMapGenerator", ()) if "literals" in one):
            values = dict(literal.split("=", 1) for literal in generator["literals"])
            kept = result.get(generator["name"], {}) if generator.get("behavior") == "merge" else {}
            result[generator["name"]] = kept | values
    return result


def patched(component: str, kind: str, name: str) -> Data:
    """A component's own file that is laid over an object of the base; {} where it has none."""
    found = [
        document
        for path in (FOLDER / "components" / component).glob("*.yaml")
        for document in documents(path)
        if (document["kind"], document.get("metadata", {}).get("name")) == (kind, name)
    ]
    return found[0] if found else {}


# what every pod is like


@pytest.mark.parametrize("key", TEMPLATES, ids=" ".join)
def test_every_pod_is_restricted_and_knows_nothing_of_the_cluster(key: tuple[str, str]) -> None:
    pod = TEMPLATES[key]["spec"]
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] > 0 and context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod.keys()
    for volume in pod.get("volumes", ()):
        assert volume.keys() - {"name"} <= {"secret", "emptyDir", "configMap"}, volume
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), f"{volume}: may fill its node"


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_restricted_and_limited(name: str) -> None:
    container = CONTAINERS[name]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
    assert not {"privileged", "runAsUser"} & context.keys()
    assert context.get("readOnlyRootFilesystem") is (None if container["name"] in WRITABLE else True)
    for part in ("requests", "limits"):
        assert {"cpu", "memory"} <= container["resources"][part].keys()


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_image_is_one_that_we_know(name: str) -> None:
    assert CONTAINERS[name]["image"] in OWN | references.images().keys()


def test_the_namespace_refuses_pods_that_are_not_restricted() -> None:
    labels = OBJECTS["Namespace", "trackbed"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("key", TEMPLATES, ids=" ".join)
def test_what_a_pod_mounts_and_reads_is_there(key: tuple[str, str]) -> None:
    component = next((name for name in COMPONENTS if patched(name, *key) and key not in base_keys()), "")
    pod = TEMPLATES[key]["spec"]
    claims = {claim["metadata"]["name"] for claim in OBJECTS[key]["spec"].get("volumeClaimTemplates", ())}
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= claims | volumes
        for source in container.get("envFrom", ()):
            assert source["configMapRef"]["name"] in literals(component)
    services = {"Job": {"mlflow"}, "CronJob": {"mlflow", "backup"}}.get(key[0], {key[1]})
    for volume in pod.get("volumes", ()):
        if "secret" in volume:
            assert volume["secret"]["secretName"].removeprefix("secrets-") in services


def base_keys() -> set[tuple[str, str]]:
    (kustomization,) = documents(FOLDER / "base" / "kustomization.yaml")
    return {
        (item["kind"], item["metadata"]["name"])
        for name in kustomization["resources"]
        for item in documents(FOLDER / "base" / name)
    }


def test_every_service_leads_to_one_workload_and_to_ports_that_it_has() -> None:
    for (kind, name), item in OBJECTS.items():
        if kind != "Service":
            continue
        wanted = item["spec"]["selector"]
        labels = {
            key: {"app.kubernetes.io/name": "trackbed", **t["metadata"]["labels"]} for key, t in TEMPLATES.items()
        }
        chosen = [key for key, own in labels.items() if wanted.items() <= own.items()]
        assert len(chosen) == 1, f"{name}: {chosen}"
        ports = {port["name"] for one in TEMPLATES[chosen[0]]["spec"]["containers"] for port in one.get("ports", ())}
        assert {port["targetPort"] for port in item["spec"]["ports"]} <= ports


# who reaches whom


def test_nobody_reaches_where_clouds_hand_out_credentials() -> None:
    blocks = [
        to["ipBlock"]
        for (kind, _), item in OBJECTS.items()
        if kind == "NetworkPolicy"
        for rule in item["spec"].get("egress", ())
        for to in rule.get("to", ())
        if to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert len(blocks) == 4  # backend, notebook, gateway, scheduled backups
    assert all("169.254.0.0/16" in block["except"] for block in blocks)
    assert cloud_metadata.SERVICE[0].startswith("169.254.")


def test_the_notebook_is_no_client_of_the_database() -> None:
    assert OBJECTS["NetworkPolicy", "default-deny"]["spec"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "trackbed"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    backend = {
        name for (_, name), template in TEMPLATES.items() if "dev.trackbed.backend" in template["metadata"]["labels"]
    }
    assert backend == {"mlflow", "schema", "bucket", "backup"}
    (rule,) = OBJECTS["NetworkPolicy", "postgres"]["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"dev.trackbed.backend": "true"}}}]


def test_policies_are_for_pods_of_trackbed_alone() -> None:
    """Others may have some in a namespace that was given: one without a rule of its own would reach nothing more."""
    for (kind, name), item in OBJECTS.items():
        if kind == "NetworkPolicy":
            labels = item["spec"]["podSelector"]["matchLabels"]
            own = [key for key in labels if key.startswith("dev.trackbed.")]
            assert labels.get("app.kubernetes.io/name") == "trackbed" or own, name


# the same as with Docker


@dataclass(frozen=True)
class Pair:
    """A service of a Compose file, and the container that it is in a cluster."""

    file: str
    service: str
    workload: tuple[str, str]
    component: str = ""

    def __str__(self) -> str:
        return f"{self.file} {self.service}"

    @property
    def compose(self) -> Data:
        (document,) = documents(DOCKER / f"{self.file}.yaml")
        return dict(document["services"][self.service])

    @property
    def container(self) -> Data:
        """With what a component lays over it."""
        name = self.service
        (base,) = [one for one in TEMPLATES[self.workload]["spec"]["containers"] if one["name"] == name]
        over = patched(self.component, *self.workload) if self.component else {}
        if over and self.workload in base_keys():
            (found,) = [one for one in over["spec"]["template"]["spec"]["containers"] if one["name"] == name]
            mounts = [*base["volumeMounts"], *found.get("volumeMounts", ())]
            return {**base, **found, "volumeMounts": list({one["mountPath"]: one for one in mounts}.values())}
        return dict(base)

    @property
    def environment(self) -> dict[str, str]:
        maps = literals(self.component)
        result: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            result |= maps[source["configMapRef"]["name"]]
        return result | {one["name"]: one.get("value", "") for one in self._variables()}

    def _variables(self) -> list[Data]:
        listed: list[Data] = self.container.get("env", [])
        if self.component and self.workload[0] == "Job":  # patched by the path of the list
            (kustomization,) = documents(FOLDER / "components" / self.component / "kustomization.yaml")
            for patch in kustomization.get("patches", ()):
                if patch.get("target") == {"kind": self.workload[0], "name": self.workload[1]}:
                    listed = [*listed, *(one for step in yaml.safe_load(patch["patch"]) for one in step["value"])]
        return listed


PAIRS = [
    Pair("compose", "postgres", ("StatefulSet", "postgres")),
    Pair("compose", "bucket", ("Job", "bucket")),
    Pair("compose", "mlflow", ("Deployment", "mlflow")),
    Pair("compose.versitygw", "store", ("StatefulSet", "store")),
    Pair("compose.versitygw", "store-sync", ("StatefulSet", "store")),
    Pair("compose.versitygw", "mlflow", ("Deployment", "mlflow")),
    Pair("compose.minio", "store", ("StatefulSet", "store"), "minio"),
    Pair("compose.external", "bucket", ("Job", "bucket"), "external-store"),
    Pair("compose.public", "mlflow", ("Deployment", "mlflow"), "gateway"),
    Pair("compose.public", "gateway", ("StatefulSet", "gateway"), "gateway"),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)


def test_every_service_of_compose_has_a_counterpart() -> None:
    services = {
        (path.stem, name)
        for path in DOCKER.glob("compose*.yaml")
        for name, service in documents(path)[0].get("services", {}).items()
        if service.get("environment") or service.get("command")
    }
    assert services == {(pair.file, pair.service) for pair in PAIRS}


@each_pair
def test_the_environment_is_that_of_compose(pair: Pair) -> None:
    expected = {name: str(value) for name, value in (pair.compose.get("environment") or {}).items()}
    assert expected.keys() <= pair.environment.keys()
    fixed = {name: value for name, value in expected.items() if "$" not in value}
    assert fixed.items() <= pair.environment.items()


@each_pair
def test_what_compose_mounts_is_mounted(pair: Pair) -> None:
    targets = set()
    for volume in pair.compose.get("volumes", ()):
        targets.add(volume["target"] if isinstance(volume, dict) else volume.split(":")[1])
    targets |= {entry.partition(":")[0] for entry in pair.compose.get("tmpfs", ())}
    if "shm_size" in pair.compose:
        targets.add("/dev/shm")
    assert targets <= {mount["mountPath"] for mount in pair.container["volumeMounts"]}


@each_pair
def test_user_command_ports_and_time_to_stop_are_those_of_compose(pair: Pair) -> None:
    pod = TEMPLATES[pair.workload]["spec"]
    compose, container = pair.compose, pair.container
    if "user" in compose:
        context = pod["securityContext"]
        assert compose["user"] == f"{context['runAsUser']}:{context['runAsGroup']}"
        assert context.get("fsGroup") == context["runAsGroup"]
    if "command" in compose:
        words = [re.sub(r"\$\{(\w+)[^}]*\}", r"$(\1)", word).replace("$$", "$") for word in compose["command"]]
        if pair.component == "minio":  # the volume has VersityGW's objects beside it
            words = [word.replace("/data", "/data/minio") for word in words]
        assert [word.strip() for word in container["args"]] == [word.strip() for word in words]
    assert (container.get("command") or None) == compose.get("entrypoint")
    ports = {int(port.rpartition(":")[2]) for port in compose.get("ports") or ()}
    assert ports <= {port["containerPort"] for port in container.get("ports", ())}
    if grace := compose.get("stop_grace_period"):
        assert pod["terminationGracePeriodSeconds"] >= seconds(grace)


@each_pair
def test_it_is_ready_when_compose_calls_it_healthy(pair: Pair) -> None:
    test = pair.compose.get("healthcheck", {}).get("test")
    if test is None or pair.service in ("store", "store-sync"):
        return  # those are asked over HTTP and TCP, by the kubelet itself
    for probe in ("startupProbe", "readinessProbe"):
        assert pair.container[probe]["exec"]["command"] == test[1:]


@each_pair
def test_the_limit_of_memory_is_that_of_compose(pair: Pair) -> None:
    if limit := pair.compose.get("mem_limit"):
        default = re.sub(r"^\$\{\w+:-(\w+)\}$", r"\1", limit)
        expected = f"{default[:-1]}{default[-1].upper()}i"
        one_shot = pair.workload[0] == "Job"  # made for a moment: less
        assert one_shot or pair.container["resources"]["limits"]["memory"] == expected


def test_the_notebook_is_told_what_it_is_told_on_every_engine(tmp_path: Path) -> None:
    reported = jupyterlab.environment(deployed(settings(tmp_path)), "http://mlflow:8000", "/opt/trackbed/startup")
    ours = literals()["jupyter"]
    assert reported.keys() - {"LOGNAME", "USER"} <= ours.keys()
    for name in ("MLFLOW_TRACKING_URI", "TRACKBED_SERVER_URI", "TRACKBED_STARTUP", "TRACKBED_BROWSER_URL"):
        assert ours[name] == reported[name]


# numbers that are written once elsewhere


def _connections(maps: Mapping[str, Mapping[str, str]]) -> int:
    return int(maps["postgres"]["TRACKBED_MAX_CONNECTIONS"])


def _pool(maps: Mapping[str, Mapping[str, str]]) -> tuple[int, int]:
    server = maps["mlflow-server"]
    return int(server["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"]), int(server["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"])


def _opened(replicas: int, workers: int, pool: tuple[int, int]) -> int:
    """The connections of so many pods. An update never has more than these of before and these of now: it makes no
    more new ones than there will be, and those of before end beside them."""
    return replicas * workers * len(database_settings.POOLS) * sum(pool)


def test_an_update_makes_no_more_new_pods_than_there_will_be() -> None:
    assert OBJECTS["Deployment", "mlflow"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize(("component", "replicas"), [("", 1), ("", 2), ("autoscaling", 8)])
def test_no_number_of_pods_opens_more_connections_than_postgresql_allows(component: str, replicas: int) -> None:
    maps = literals(component)
    if component:
        assert OBJECTS["HorizontalPodAutoscaler", "mlflow"]["spec"]["maxReplicas"] == replicas
    workers = int(maps["mlflow-server"]["TRACKBED_WORKERS"])
    assert _pool(maps) == database_settings.pool(database_settings.cluster_workers(replicas, workers))
    opened = 2 * _opened(replicas, workers, _pool(maps))
    operator = OBJECTS["Cluster", "postgres"]["spec"]["postgresql"]["parameters"]["max_connections"]
    for allowed in (_connections(maps), int(operator)):  # with one component or with both
        assert opened + database_settings.RESERVED <= allowed


PODS = [1, 2, 3, 4, 5, 8, 9, 16, 31, 32]


def _told(folder: Path, replicas: int, workers: int) -> tuple[int, tuple[int, int]]:
    """What the engine tells PostgreSQL, and each worker."""
    given = {"mlflow_replicas": str(replicas), "mlflow_workers": str(workers)}
    maps = environments(KubernetesDeployment(project(folder, engine="kubernetes", **given)))
    return _connections(maps), _pool(maps)


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 32])
def test_no_setting_opens_more_connections_than_postgresql_allows(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeKubectl(tmp_path / "bin", monkeypatch)
    told = {replicas: _told(tmp_path, replicas, workers) for replicas in PODS}
    for replicas, (allowed, pool) in told.items():
        assert min(pool) >= 1, "MLflow takes 0 for not set"
        for before, (_, earlier) in told.items():
            if before <= replicas:  # more pods than before, or as many: theirs end beside the new ones
                opened = _opened(before, workers, earlier) + _opened(replicas, workers, pool)
                assert opened + database_settings.RESERVED <= allowed, (before, replicas)


@pytest.mark.parametrize("before", PODS)
def test_fewer_pods_than_before_fit_beside_those_that_end(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 15 workers in all, so that their pools have no lower bound; `up` ends more of them before the database."""
    FakeKubectl(tmp_path / "bin", monkeypatch)
    opened = _opened(before, 1, _told(tmp_path, before, 1)[1])
    for replicas in (1, 2, 5):
        allowed, pool = _told(tmp_path, replicas, 1)
        if replicas < before <= 15:
            assert opened + _opened(replicas, 1, pool) + database_settings.RESERVED <= allowed


def test_postgresql_is_set_as_on_every_engine() -> None:
    container = CONTAINERS["StatefulSet postgres: postgres"]
    assert tuple(container["args"][1:]) == database_settings.options("$(TRACKBED_MAX_CONNECTIONS)")
    parameters = OBJECTS["Cluster", "postgres"]["spec"]["postgresql"]["parameters"]
    assert parameters == database_settings.PARAMETERS | {"max_connections": str(_connections(literals("autoscaling")))}


def test_the_example_names_the_images_that_the_settings_have() -> None:
    (example,) = documents(FOLDER / "overlays" / "example" / "kustomization.yaml")
    named = {}
    for image in example["images"]:
        name = image.get("newName", image["name"])
        tag = f":{image['newTag']}" if "newTag" in image else ""
        digest = f"@{image['digest']}" if "digest" in image else ""
        named[image["name"]] = f"{name}{tag}{digest}"
    assert named.pop("trackbed/mlflow") == BY_NAME["MLFLOW_IMAGE"].default
    assert named.pop("trackbed/jupyter-mlflow") == "trackbed/jupyter-mlflow:cpu"
    for key, reference in named.items():
        known = references.image(key)
        assert reference in (known.reference, f"{known.name.rpartition(':')[0]}@{known.digest}")


def test_the_example_offers_every_component() -> None:
    text = (FOLDER / "overlays" / "example" / "kustomization.yaml").read_text()
    assert [name for name in COMPONENTS if name not in text] == []


def test_what_is_expected_of_no_pod_has_a_reason() -> None:
    workloads = {key[0] for key, item in OBJECTS.items() if "instances" in item.get("spec", {})}
    assert workloads <= OPERATORS.keys()
