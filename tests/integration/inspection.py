"""What a project looks like from outside: its processes and containers, its ports, its database."""

from __future__ import annotations

import io
import json
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from helpers.engines.embedded import postgres_wheels
from tests.conftest import PATIENCE, Clone
from tests.conftest import until as until

T = TypeVar("T")
DIRECT = build_opener(ProxyHandler({}))
MARK = "TRACKBED_INSTANCE_OF_PROCESS"


def run(*argv: str, stdin: str = "", timeout: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, **options)


def output(*argv: str, **options: Any) -> str:
    """The stdout of a command that has to succeed."""
    done = run(*argv, **options)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def answering(call: Callable[[], object], refusal: type[Exception], seconds: float = PATIENCE) -> None:
    """Call again until what was just started accepts it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
            return
        except refusal:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def ask(url: str, body: object = None, host: str = "", timeout: float = 30) -> tuple[int, str]:
    """One HTTP request; status 0 when nobody answered."""
    headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with DIRECT.open(Request(url, data=data, headers=headers), timeout=timeout) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except (URLError, OSError) as error:
        return 0, str(error)


def mlflow(clone: Clone, path: str, body: object = None) -> dict[str, Any]:
    """MLflow's REST API."""
    status, text = ask(f"{clone.url('mlflow')}/api/2.0/mlflow/{path}", body)
    assert status == 200, text
    return dict(json.loads(text))


def new_run(clone: Clone) -> str:
    """A finished run with one parameter, logged from this machine."""
    created = mlflow(clone, "runs/create", {"experiment_id": "0", "run_name": "kept", "start_time": 1})["run"]["info"]
    mlflow(clone, "runs/log-parameter", {"run_id": created["run_id"], "key": "kept", "value": "yes"})
    return str(created["run_id"])


def has_run(clone: Clone, run_id: str) -> bool:
    result = mlflow(clone, f"runs/get?run_id={run_id}")["run"]
    return bool(result["data"]["params"] == [{"key": "kept", "value": "yes"}])


def instance(clone: Clone) -> str:
    return str(json.loads((clone.project_folder / "state.json").read_text())["instance"])


def processes(clone: Clone) -> dict[int, int]:
    """Every process that belongs to an embedded project, with its parent."""
    expected = f"{MARK}={instance(clone)}".encode()
    result = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if expected in (folder / "environ").read_bytes().split(b"\0"):
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    result[int(folder.name)] = int(parent)
        except (OSError, ValueError):
            continue
    return result


def supervisord(clone: Clone) -> int:
    existing = processes(clone)
    return next(pid for pid, parent in existing.items() if parent not in existing and "supervisord" in command(pid))


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    words = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def running(text: str) -> bool:
    """Whether a process of this machine, also in a container, has that in its command."""
    return any(text in command(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))


def kubectl(clone: Clone, *words: str) -> str:
    """The stdout of kubectl in the project's namespace, as whose KUBECONFIG the tests have."""
    return output("kubectl", f"--namespace={clone.project}", *words)


def workload(service: str) -> str:
    """What runs a service of the kubernetes engine."""
    return f"deployment/{service}" if service == "mlflow" else f"statefulset/{service}"


def container(clone: Clone, service: str) -> str:
    return f"{clone.project}-jupyter" if service == "jupyter" else f"{clone.project}-{service}-1"


def containers(clone: Clone) -> list[str]:
    """Every container of a project, running or not."""
    names = output("docker", "ps", "-a", "--format", "{{.Names}}").split()
    return sorted(n for n in names if n.startswith(f"{clone.project}-"))


def main_process(clone: Clone, service: str) -> int:
    """The process of this machine that is the service; 0 when it does not run."""
    if clone.engine == "docker":
        return int(output("docker", "inspect", "-f", "{{.State.Pid}}", container(clone, service)))
    words = {"postgres": "/postgres ", "mlflow": "mlflow", "jupyter": "jupyterlab"}
    existing = processes(clone)
    top = supervisord(clone)
    return next((pid for pid, parent in existing.items() if parent == top and words[service] in command(pid)), 0)


def running_process(clone: Clone, service: str) -> int:
    """The same, once it runs: 0 as an argument of `kill` would be the tests themselves."""
    return until(lambda: main_process(clone, service))


def identities(clone: Clone) -> dict[str, str]:
    """Changes when a service was recreated or started again."""
    if clone.engine == "docker":
        return {
            name: output("docker", "inspect", "-f", "{{.Id}} {{.State.StartedAt}}", name) for name in containers(clone)
        }
    if clone.engine == "kubernetes":
        pods = json.loads(kubectl(clone, "get", "pods", "--output=json"))["items"]
        return {
            pod["metadata"]["uid"]: str([status["restartCount"] for status in pod["status"]["containerStatuses"]])
            for pod in pods
        }
    return {service: str(main_process(clone, service)) for service in ("postgres", "mlflow", "jupyter")}


def nothing_runs(clone: Clone) -> bool:
    if clone.engine == "docker":
        return not containers(clone)
    if clone.engine == "kubernetes":
        return not kubectl(clone, "get", "pods", "--output=name")
    return not (clone.project_folder / "state.json").exists() or not processes(clone)


def active_database(clone: Clone) -> str:
    return str(json.loads((clone.project_folder / "state.json").read_text())["live"]["database"])


def sockets(clone: Clone) -> str:
    """The folder of the embedded PostgreSQL's socket."""
    return command(running_process(clone, "postgres")).split("-k ")[1].split()[0]


def programs(clone: Clone) -> Path:
    """Where the embedded engine's PostgreSQL is."""
    venvs = clone.project_folder / "embedded" / "venvs"
    return postgres_wheels.programs(next(venvs.glob("embedded-*/lib/python3*/site-packages")))


def postgres(clone: Clone, tool: str, *words: str, role: str = "mlflow", timeout: float = 120) -> str:
    """What one of PostgreSQL's own programs prints, run as the owner of the server's databases or the superuser."""
    words = ("-U", role, *words)
    if clone.engine == "docker":
        return output("docker", "exec", container(clone, "postgres"), tool, *words, timeout=timeout)
    if clone.engine == "kubernetes":
        return kubectl(clone, "exec", workload("postgres"), "--", tool, *words)
    return output(str(programs(clone) / tool), "-h", sockets(clone), *words, timeout=timeout)


def psql(clone: Clone, statement: str, database: str = "") -> str:
    """A statement in the tracking server's database as the server's role, or as the superuser in ``postgres``."""
    return postgres(
        clone,
        "psql",
        "-X",
        "-A",
        "-t",
        "-q",
        "-d",
        database or active_database(clone),
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        statement,
        role="postgres" if database == "postgres" else "mlflow",
    )


def create_database(clone: Clone, name: str) -> None:
    psql(clone, f"CREATE DATABASE {name} OWNER mlflow TEMPLATE template0", "postgres")


def database_address(clone: Clone, name: str = "") -> str:
    """A database's address (the active one's) as MLflow's service knows it."""
    name = name or active_database(clone)
    return (
        f"postgresql+psycopg2://mlflow@postgres:5432/{name}"
        if clone.engine != "embedded"
        else f"postgresql+psycopg2://mlflow@/{name}?host={sockets(clone)}"
    )


@contextmanager
def empty_database(clone: Clone, name: str) -> Iterator[str]:
    """A database beside the active one, gone afterwards; gives its address as MLflow's service knows it."""
    psql(clone, f"DROP DATABASE IF EXISTS {name}", "postgres")
    create_database(clone, name)
    try:
        yield database_address(clone, name)
    finally:
        psql(clone, f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def mlflow_python(clone: Clone) -> list[str]:
    """The command of the tracking server's Python; it reads a program from stdin."""
    if clone.engine == "docker":
        return ["docker", "exec", "-i", container(clone, "mlflow"), "python"]
    if clone.engine == "kubernetes":
        return ["kubectl", f"--namespace={clone.project}", "exec", "-i", workload("mlflow"), "--", "python"]
    return [str(next((clone.project_folder / "embedded" / "venvs").glob("mlflow-*/bin/python")))]


def listening() -> dict[int, set[str]]:
    """Every listening TCP port of this machine with the addresses it listens on."""
    result: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net", table)
        for row in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = row.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A":
                text = (
                    ".".join(str(int(address[i : i + 2], 16)) for i in (6, 4, 2, 0)) if len(address) == 8 else address
                )
                result.setdefault(int(port, 16), set()).add(text)
    return result


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """A failure as every failure has to be: the exit code, what was wrong, no traceback, nothing on stdout."""
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in:\n{done.stderr}"


def food11() -> bytes:
    """A data set as it is released, in an archive: pictures whose names begin with their class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split in ("training", "validation", "evaluation"):
            archive.writestr(f"Food-11/{split}/3_1.jpg", "a picture\n")
    return buffer.getvalue()
