"""MLflow's own client against ours and against a plain server: outside the project with nothing but an address, and in
the notebook. What is read back is the same."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request

import pytest

from tests import remote_clients
from tests.claims import free_ports
from tests.conftest import PATIENCE, Clone, require_docker
from tests.integration import inspection
from tests.integration.workload import Lab


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_clients.make_python(tmp_path_factory.mktemp("client") / "venv")


@pytest.fixture(scope="session")
def docker(deployments: Callable[[str], Clone]) -> Clone:
    require_docker()
    return deployments("docker")


@pytest.fixture(scope="module")
def plain(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a client reads back from a plain server."""
    folder = tmp_path_factory.mktemp("plain")
    with remote_clients.plain_server(python, folder) as uri:
        return remote_clients.logged(python, uri, folder, "clients", **remote_clients.SMALLER)


@pytest.fixture(scope="module")
def name() -> str:
    """The experiment and the model that the client outside leaves."""
    return f"clients-{uuid.uuid4().hex[:6]}"


def test_a_client_outside_needs_the_address_alone(
    deployment: Clone, python: Path, plain: dict[str, Any], name: str, tmp_path: Path
) -> None:
    assert remote_clients.logged(python, deployment.url("mlflow"), tmp_path, name, **remote_clients.SMALLER) == plain


@pytest.mark.docker
def test_switches_that_ask_for_the_store_itself_do_no_harm(docker: Clone, python: Path, tmp_path: Path) -> None:
    """Older advice, or a shell that was set up for another server: MLflow's client then asks without being offered."""
    forced = {"MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true"}
    (tmp_path / "large.bin").write_bytes(os.urandom(remote_clients.LARGE))
    code = (
        "import mlflow, sys, os\n"
        "with mlflow.start_run() as run: mlflow.log_artifact('large.bin')\n"
        "path = mlflow.artifacts.download_artifacts(f'runs:/{run.info.run_id}/large.bin', dst_path='back')\n"
        "print(open(path, 'rb').read() == open('large.bin', 'rb').read())\n"
    )
    done = inspection.run(
        str(python),
        "-c",
        code,
        cwd=tmp_path,
        timeout=120,
        env=remote_clients.environment(python, docker.url("mlflow"), tmp_path, **remote_clients.SMALLER, **forced),
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "True", done.stderr[-3000:]


@pytest.mark.docker
def test_the_notebook_gets_the_same_straight_from_the_store(docker: Clone, plain: dict[str, Any]) -> None:
    script = remote_clients.SCRIPT.read_text()
    first = (
        f"import os, sys; os.environ.update({remote_clients.SMALLER!r})\n"
        f"sys.argv = ['', 'notebook-{uuid.uuid4().hex[:6]}', '20', '{remote_clients.LARGE}']"
    )
    result = Lab(docker.value("jupyter-url")).run_cells([first, script]).result
    assert result == plain


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # beside the test that leaves what it reads
def test_the_commands_that_people_type_outside(deployment: Clone, python: Path, name: str, tmp_path: Path) -> None:
    """`mlflow artifacts download` and `mlflow models serve`: both hung while the store's addresses were offered."""
    ours = remote_clients.environment(python, deployment.url("mlflow"), tmp_path)
    experiment = inspection.mlflow(deployment, f"experiments/get-by-name?experiment_name={name}")["experiment"][
        "experiment_id"
    ]
    runs = {
        run["info"]["run_name"]: run["info"]["run_id"]
        for run in inspection.mlflow(deployment, "runs/search", {"experiment_ids": [experiment]})["runs"]
    }
    inspection.output(
        str(python),
        "-m",
        "mlflow",
        "artifacts",
        "download",
        "--run-id",
        runs["first"],
        "--dst-path",
        "got",
        cwd=tmp_path,
        env=ours,
        timeout=120,
    )
    assert (tmp_path / "got" / "a.txt").read_text() == "hello"
    assert len(list((tmp_path / "got" / "tree").rglob("*.txt"))) == 20
    port = free_ports(1)[0]
    argv = [
        str(python),
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        f"models:/{name}/1",
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    with remote_clients.program(argv, tmp_path / "serving", f"http://127.0.0.1:{port}/ping", env=ours):
        status, text = inspection.ask(f"http://127.0.0.1:{port}/invocations", {"inputs": [[10.0], [20.0]]})
    assert status == 200 and [round(one, 6) for one in json.loads(text)["predictions"]] == [20, 40]


@pytest.fixture(scope="module")
def logged(engine: str, deployments: Any) -> Iterator[tuple[Clone, str, str, str]]:
    """A run with `a.txt` and `d/b.txt`, a logged model and a trace: the project, the run, the model, the trace."""
    deployment = deployments(engine)
    run = inspection.mlflow(deployment, "runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]
    for path in ("a.txt", "d/b.txt"):
        target = f"{deployment.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/0/{run['run_id']}/artifacts/{path}"
        inspection.DIRECT.open(Request(target, data=b"hello", method="PUT"), timeout=30).close()
    model = inspection.mlflow(deployment, "logged-models", {"experiment_id": "0", "name": "m"})["model"]["info"][
        "model_id"
    ]
    trace = f"tr-{uuid.uuid4().hex}"
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    status, text = inspection.ask(
        f"{deployment.url('mlflow')}/api/3.0/mlflow/traces",
        {
            "trace": {
                "trace_info": {
                    "trace_id": trace,
                    "trace_location": place,
                    "request_time": "2026-01-01T00:00:00Z",
                    "execution_duration": "1s",
                    "state": "OK",
                }
            }
        },
    )
    assert status == 200, text
    yield deployment, run["run_id"], model, trace
    inspection.mlflow(deployment, "runs/delete", {"run_id": run["run_id"]})


def test_what_is_not_there_is_a_404_at_once_on_every_route(logged: tuple[Clone, str, str, str]) -> None:
    """MLflow's clients ask seven times more, four minutes long, where a server says 500."""
    deployment, run, model, trace = logged
    below = f"0/{run}/artifacts"

    def ask(url: str) -> tuple[int, str]:
        return inspection.ask(f"{deployment.url('mlflow')}/{url}", timeout=PATIENCE)

    name = f"m{uuid.uuid4().hex}"
    inspection.mlflow(deployment, "registered-models/create", {"name": name})
    inspection.mlflow(deployment, "model-versions/create", {"name": name, "source": f"runs:/{run}/d", "run_id": run})
    assert ask(f"model-versions/get-artifact?name={name}&version=1&path=b.txt")[1] == "hello"
    for path in ("none.txt", "x/y/none.txt", "a.txt/x"):
        word = quote(path, safe="")
        for url in (
            f"api/2.0/mlflow-artifacts/artifacts/{below}/{path}",
            f"ajax-api/2.0/mlflow-artifacts/artifacts/{below}/{path}",
            f"get-artifact?run_id={run}&path={word}",
            f"ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path={word}",
        ):
            status, text = ask(url)
            assert status == 404 and json.loads(text)["error_code"] == "RESOURCE_DOES_NOT_EXIST", (url, text)
        status, text = ask(f"model-versions/get-artifact?name={name}&version=1&path={word}")
        assert status == 404 and json.loads(text)["error_code"] == "RESOURCE_DOES_NOT_EXIST", (path, text)
        for url in (
            f"api/2.0/mlflow-artifacts/artifacts?path={below}/{word}",
            f"api/2.0/mlflow/artifacts/list?run_id={run}&path={word}",
            f"api/2.0/mlflow/logged-models/{model}/artifacts/directories?artifact_directory_path={word}",
        ):
            status, text = ask(url)
            assert status == 200 and not json.loads(text).get("files"), (url, text)
    for api in ("2.0", "3.0"):
        assert ask(f"ajax-api/{api}/mlflow/get-trace-artifact?request_id={trace}")[0] == 404
    attachment = f"ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}&path={uuid.uuid4()}"
    assert ask(attachment)[0] == 404
    status, text = ask(f"api/2.0/mlflow-artifacts/artifacts/{below}/d")
    assert status == 400 and "directory" in text, "a folder is no file, and the connection stays whole"


def test_nobody_outside_is_told_an_address_of_the_store(logged: tuple[Clone, str, str, str]) -> None:
    deployment, run, _, _ = logged
    for api in ("api", "ajax-api"):
        reported = json.loads(inspection.ask(f"{deployment.url('mlflow')}/{api}/3.0/mlflow/server-info")[1])
        assert not reported["multipart_uploads_enabled"] and not reported["multipart_downloads_enabled"]
        base = f"{deployment.url('mlflow')}/{api}/2.0/mlflow-artifacts"
        for path, body in (
            (f"presigned/0/{run}/artifacts/a.txt", None),
            (f"mpu/create/0/{run}/artifacts", {"path": "x", "num_parts": 1}),
            (f"mpu/complete/0/{run}/artifacts", {"path": "x", "upload_id": "1", "parts": []}),
            (f"mpu/abort/0/{run}/artifacts", {"path": "x", "upload_id": "1"}),
        ):
            status, text = inspection.ask(f"{base}/{path}", body)
            assert status == 501 and "is not supported" in text and "http" not in text, (path, text)
