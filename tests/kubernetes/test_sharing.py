"""What a project shares with others: a gateway at node ports, MLflow with other notebooks, a database and a store of
the user's. Each test has deployments of its own, so this is nightly."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers import references
from tests.conftest import Clone
from tests.integration.test_backup import everything, experiment, log_run
from tests.kubernetes import cluster

pytestmark = pytest.mark.timeout(900)
NAME = "lab.example.org"
MLFLOW, JUPYTER = 30970, 30971  # node ports
PASSWORD, KEY, SECRET = "external-password", "external-key", "external-secret"
Make = Callable[..., Clone]


def node_addresses() -> list[str]:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json"))["items"]
    own = [one for one in nodes if one["metadata"]["name"] in cluster.NODES]
    return [a["address"] for one in own for a in one["status"]["addresses"] if a["type"] == "InternalIP"]


class Gateway:
    """The gateway as somebody on the nodes' network reaches it."""

    def __init__(self, clone: Clone) -> None:
        self.context = ssl.create_default_context(cafile=str(clone.project_folder / "gateway-root.crt"))

    def get(self, node: str, port: int, path: str = "/", login: str = "", token: str = "") -> int:
        """The status of the answer, over TLS with the gateway's own CA."""
        connection = http.client.HTTPConnection(NAME, port, timeout=20)
        plain = socket.create_connection((node, port), 20)
        connection.sock = self.context.wrap_socket(plain, server_hostname=NAME)
        basic = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
        connection.request("GET", path, headers=basic | ({"Authorization": f"token {token}"} if token else {}))
        status = connection.getresponse().status
        connection.close()
        return status


def up(clone: Clone) -> None:
    done = clone.invoke("up", "--yes", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def check(clone: Clone) -> None:
    done = clone.invoke("check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_public_project_at_node_ports(clone_factory: Make) -> None:
    clone = clone_factory("kubernetes")
    clone.environment |= {
        "TRACKBED_PUBLIC": "true",
        "TRACKBED_PUBLIC_ADDRESS": NAME,
        "TRACKBED_GATEWAY_SERVICE": "nodeport",
        "TRACKBED_MLFLOW_PORT": str(MLFLOW),
        "TRACKBED_JUPYTER_PORT": str(JUPYTER),
    }
    cluster.bring_images(clone)
    up(clone)
    gateway, nodes = Gateway(clone), node_addresses()
    password = clone.value("users.add", "ann")
    for node in nodes:
        assert gateway.get(node, MLFLOW) == 401
        assert gateway.get(node, MLFLOW, login="ann:wrong") == 401
    cluster.until("the login counts", lambda: gateway.get(nodes[0], MLFLOW, login=f"ann:{password}") == 200)
    assert gateway.get(nodes[1], JUPYTER, "/api/contents") == 403
    assert gateway.get(nodes[1], JUPYTER, "/api/contents", token=clone.token) == 200
    another = clone.value("users.passwd", "ann")
    cluster.until("the old one does not", lambda: gateway.get(nodes[0], MLFLOW, login=f"ann:{password}") == 401)
    assert gateway.get(nodes[1], MLFLOW, login=f"ann:{another}") == 200
    check(clone)
    assert re.search(rf"exposure\s+ok .*port {MLFLOW}, as {NAME}", clone.invoke("doctor").stdout)
    done = clone.invoke("up", "--public=false", "--yes", timeout=600)
    assert done.returncode == 0, done.stderr
    assert cluster.objects("statefulsets", clone.project, "app.kubernetes.io/component=gateway") == []


def test_several_notebooks_log_to_one_tracking_server(clone_factory: Make) -> None:
    server = clone_factory("kubernetes")
    server.environment["TRACKBED_LOCAL_ACCESS"] = "token"
    up(server)
    token = json.loads(server.value("credentials", "--format=json"))["MLFLOW_TOKEN"]
    notebooks = [clone_factory("kubernetes") for _ in range(2)]
    before = {cluster.name(pod): pod["metadata"]["uid"] for pod in cluster.pods(server.project)}
    server.environment["TRACKBED_NOTEBOOK_NAMESPACES"] = ",".join(one.project for one in notebooks)
    up(server)
    after = {cluster.name(pod): pod["metadata"]["uid"] for pod in cluster.pods(server.project)}
    assert {name: uid for name, uid in after.items() if name in before} == before
    for one in notebooks:
        one.environment |= {
            "TRACKBED_TRACKING_URI": f"http://mlflow.{server.project}:8000",
            "TRACKBED_TRACKING_TOKEN": token,
        }
        up(one)
        check(one)
        assert [claim["metadata"]["name"] for claim in cluster.objects("pvc", one.project)] == ["work-jupyter-0"]
    assert notebooks[0].token != notebooks[1].token


@pytest.fixture
def outside() -> Iterator[str]:
    """A namespace with a PostgreSQL and an S3 store that are not Trackbed's."""
    name = f"outside-{time.time_ns()}"
    roles = f"CREATE ROLE mlflow LOGIN CREATEDB PASSWORD '{PASSWORD}'; CREATE DATABASE mlflow OWNER mlflow;"
    entry = (
        "printenv INIT >/docker-entrypoint-initdb.d/a.sql; exec docker-entrypoint.sh postgres -c max_connections=200"
    )
    serve = "mkdir -p /data/o /data/s; exec versitygw --port :7070 --region us-east-1 posix --sidecar /data/s /data/o"
    keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    cluster.kubectl("create", "namespace", name)
    items = [
        *_served(name, "database", 5432, "postgres", ["bash", "-c", entry], {"POSTGRES_PASSWORD": "a", "INIT": roles}),
        *_served(name, "s3", 7070, "versitygw", ["sh", "-c", serve], keys),
    ]
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.until("they run", lambda: all(map(cluster.ready, cluster.objects("pods", name))))
    yield name
    cluster.kubectl("delete", "namespace", name, "--grace-period=0", "--force")


def _served(
    namespace: str, name: str, port: int, image: str, command: list[str], environment: dict[str, str]
) -> list[dict[str, object]]:
    """A pod and the Service that leads to it."""
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    container = {
        "name": "main",
        "image": references.without_digest(references.image(image).reference),
        "command": command,
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    }
    volumes = [{"name": "data", "emptyDir": {}}]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1}
    service = {"selector": {"app": name}, "ports": [{"port": port}]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def test_a_database_and_a_store_of_the_users(clone_factory: Make, outside: str, tmp_path: Path) -> None:
    clone = clone_factory("kubernetes")
    clone.environment |= {
        "TRACKBED_DATABASE_HOST": f"database.{outside}",
        "TRACKBED_DATABASE_TLS": "off",
        "TRACKBED_POSTGRES_PASSWORD": PASSWORD,
        "TRACKBED_OBJECT_STORE": "external",
        "TRACKBED_S3_ENDPOINT": f"http://s3.{outside}:7070",
        "TRACKBED_S3_ACCESS_KEY": KEY,
        "TRACKBED_S3_SECRET_KEY": SECRET,
    }
    up(clone)
    assert [claim["metadata"]["name"] for claim in cluster.objects("pvc", clone.project)] == ["work-jupyter-0"]
    check(clone)
    log_run(clone, experiment(clone), "kept", b"content")
    before = everything(clone)
    archive = tmp_path / "lab.trackbed"
    for words in (("backup", f"--to={archive}"), ("restore", str(archive), "--yes")):
        done = clone.invoke(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        if words[0] == "backup":
            log_run(clone, experiment(clone), "later", b"")
    assert everything(clone) == before
    done = clone.invoke("up", "--database-host=", "--yes")
    assert done.returncode != 0 and f"this project's database is in database.{outside}:5432" in done.stderr
    done = clone.invoke("down", "--delete-data", "--yes")
    assert done.returncode == 0 and "stays in the PostgreSQL at" in done.stdout + done.stderr
