"""The kubernetes engine: throughput with more and more replicas, and the tasks in a cluster that is large.

    python -m benchmarks.kubernetes load [--replicas=1,2,4,8] [--seconds=10] [--pod-cpu=200m]
    python -m benchmarks.kubernetes scale [--nodes=200] [--projects=1000] [--rounds=5]

Asks the project of this clone's settings (`invoke up --engine=kubernetes --local-access=open` first; in the namespace
of its name) in the cluster of tests/environment/kubernetes. ``load`` runs its 32 clients in the notebook's pod.
``scale`` simulates nodes with four GPUs each and projects with a notebook each, and removes them afterwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.systems import say
from helpers.clone import ROOT

KINDS = ("log-metric", "log-batch", "search")
CLIENT = Path(__file__).with_name("client.py")
PROGRAM = ROOT / "tests" / "environment" / "kubernetes" / "program.sh"
SIMULATED = "trackbed.test/simulated"
GPUS = 4  # of a simulated node
SERVICES = ("mlflow", "postgres")
WARM_SECONDS = 2.0
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpuacct"))  # cgroup v2, v1
SELECTOR = f"--selector={SIMULATED}=yes"


def output(*argv: str, stdin: str = "", timeout: float = 600) -> str:
    """The stdout of a command. Raises SystemExit with its error."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def invoke(*words: str) -> str:
    return output(sys.executable, "-m", "invoke", *words, timeout=900)


# load


class Processor:
    """Seconds of the processor that the pods of a service have used, from the cgroups of this machine."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def used(self, service: str) -> float:
        words = ("get", "pods", f"--namespace={self.namespace}", f"--selector=app.kubernetes.io/component={service}")
        found = output("kubectl", *words, "--output=jsonpath={.items[*].metadata.uid}").split()
        return sum(self._of(identity) for identity in found)

    def _of(self, identity: str) -> float:
        for top in GROUPS:
            for folder in (top / "trackbed-kubernetes").glob(f"**/pod{identity}"):
                if (usage := folder / "cpuacct.usage").is_file():
                    return int(usage.read_text()) / 1e9
                if "usage_usec" in (text := (folder / "cpu.stat").read_text()):
                    return int(text.split("usage_usec")[1].split()[0]) / 1e6
        return 0.0


def connections(namespace: str) -> int:
    """Of clients, to PostgreSQL."""
    counted = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'"
    words = ("exec", f"--namespace={namespace}", "statefulset/postgres", "--", "psql", "-U", "postgres", "-At", "-c")
    return int(output("kubectl", *words, counted))


def load(namespace: str, kind: str, seconds: float) -> tuple[float, float, int]:
    """Requests a second, the processors that the clients used, and the most connections that were seen."""
    argv = ["kubectl", "exec", "-i", f"--namespace={namespace}", "statefulset/jupyter", "--", "python", "-"]
    most = 0
    with (
        CLIENT.open() as program,
        subprocess.Popen(
            [*argv, "load", "http://mlflow:8000", str(seconds), kind], stdin=program, stdout=subprocess.PIPE, text=True
        ) as clients,
    ):
        while clients.poll() is None:
            most = max(most, connections(namespace))
            time.sleep(2)
        said = clients.communicate()[0]
    if clients.returncode:
        raise SystemExit(f"the clients failed with exit code {clients.returncode}")
    result = json.loads(said.splitlines()[-1])
    if not result["per_second"]:
        raise SystemExit(
            "no request was answered: start the project with --local-access=open, the clients have no token"
        )
    return float(result["per_second"]), float(result["client_cpus"]), most


def limit(namespace: str, cpu: str) -> None:
    """Let each of MLflow's pods use so much of a processor, until the next `invoke up`."""
    what = ("deployment/mlflow", f"--namespace={namespace}")
    output("kubectl", "set", "resources", *what, "--containers=mlflow", f"--limits=cpu={cpu}", "--requests=cpu=50m")
    output("kubectl", "rollout", "status", *what, "--timeout=300s")


def load_test(replicas: Sequence[int], seconds: float, pod_cpu: str) -> None:
    """One line for each number of replicas and kind of request. Its processor time includes its clients' start."""
    namespace = str(json.loads(invoke("status", "--format=json"))["project"])
    processor = Processor(namespace)
    print("| replicas | request | requests/s | server | PostgreSQL | processors | connections |")
    print("|---|---|---|---|---|---|---|")
    for number in replicas:
        invoke("up", f"--mlflow-replicas={number}", "--yes")
        if pod_cpu:
            limit(namespace, pod_cpu)
        load(namespace, KINDS[0], WARM_SECONDS)
        for kind in KINDS:
            before = [processor.used(service) for service in SERVICES]
            rate, clients, most = load(namespace, kind, seconds)
            used = [processor.used(service) - was for service, was in zip(SERVICES, before, strict=True)]
            server, database = (1000 * one / (rate * seconds) for one in used)
            shares = " + ".join(f"{one:.2f}" for one in (*(one / seconds for one in used), clients))
            print(
                f"| {number} | {kind} | {rate:.0f} | {server:.2f} ms | {database:.2f} ms | {shares} | {most} |",
                flush=True,
            )
            say(f"{number} {kind}: {rate:.0f}/s")


# scale


def node(number: int) -> dict[str, Any]:
    resources = {"cpu": "64", "memory": "512Gi", "pods": "110", "amd.com/gpu": str(GPUS)}
    marked = {SIMULATED: "yes"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"simulated-{number:04}", "labels": marked, "annotations": marked},
        "spec": {"taints": [{"key": SIMULATED, "value": "yes", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }


def project(number: int) -> Iterator[dict[str, Any]]:
    """A notebook with one GPU, as `invoke jupyter` would have made it in a namespace of its own."""
    name = f"student-{number:04}"
    labels = {
        "app.kubernetes.io/name": "trackbed",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "jupyter",
    }
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {SIMULATED: "yes", **labels}}}
    metadata = {"name": "jupyter", "namespace": name, "labels": labels}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"MLFLOW_TRACKING_URI": "http://m"}}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 8888}]},
    }
    container = {
        "name": "jupyter",
        "image": "trackbed/jupyter-mlflow:rocm",
        "resources": {"limits": {"amd.com/gpu": "1"}, "requests": {"cpu": "250m", "memory": "1Gi"}},
    }
    pod = {
        "containers": [container],
        "nodeSelector": {SIMULATED: "yes"},
        "tolerations": [{"key": SIMULATED, "operator": "Exists"}],
        "automountServiceAccountToken": False,
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "serviceName": "jupyter",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def create(objects: Sequence[dict[str, Any]]) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    output("kubectl", "create", "-f", "-", stdin=json.dumps(items), timeout=1200)


@contextmanager
def simulated(nodes: int, projects: int) -> Iterator[None]:
    """A large cluster; gone afterwards."""
    output(str(PROGRAM), "start", "kwok")
    try:
        create([node(number) for number in range(nodes)])
        say(f"{nodes} nodes")
        create([one for number in range(projects) for one in project(number)])
        expected = min(projects, nodes * GPUS)
        running = ("get", "pods", "--all-namespaces", "--field-selector=status.phase=Running", "--output=name")
        while output("kubectl", *running).count("pod/jupyter-0") < expected:
            time.sleep(2)
        say(f"{projects} projects, of which {expected} have a GPU")
        yield
    finally:
        output("kubectl", "delete", "namespaces", SELECTOR, "--wait=false")
        while output("kubectl", "get", "namespaces", SELECTOR, "--output=name"):
            time.sleep(2)
        output("kubectl", "delete", "nodes", SELECTOR)
        output(str(PROGRAM), "stop", "kwok")


def timed(rounds: int, *words: str) -> float:
    """The median, in seconds."""
    result = []
    for _ in range(rounds):
        began = time.monotonic()
        invoke(*words)
        result.append(time.monotonic() - began)
    return statistics.median(result)


def scale_test(nodes: int, projects: int, rounds: int) -> None:
    """One line for each task, in the small cluster and in the large one."""
    tasks = ("status", "doctor")
    small = {task: timed(rounds, task) for task in tasks}
    with simulated(nodes, projects):
        large = {task: timed(rounds, task) for task in tasks}
    print(f"| task | 2 nodes, 1 project | {nodes} nodes more, {projects} projects more |\n|---|---|---|")
    for task in tasks:
        print(f"| `invoke {task}` | {small[task]:.2f} s | {large[task]:.2f} s |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kubernetes")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("load")
    one.add_argument("--replicas", default="1,2,4,8")
    one.add_argument("--seconds", type=float, default=10)
    one.add_argument("--pod-cpu", default="", help="processors that each of MLflow's pods may use, such as 200m")
    other = commands.add_parser("scale")
    other.add_argument("--nodes", type=int, default=200)
    other.add_argument("--projects", type=int, default=1000)
    other.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.command == "load":
        load_test([int(number) for number in args.replicas.split(",")], args.seconds, args.pod_cpu)
    else:
        scale_test(args.nodes, args.projects, args.rounds)


if __name__ == "__main__":
    main()
