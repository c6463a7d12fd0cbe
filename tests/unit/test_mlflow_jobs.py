"""MLflow's background jobs beside the server (trackbed_mlflow/jobs.py), and what they open."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from trackbed_mlflow import PROGRAM, errors, job_guards, jobs
from trackbed_mlflow.edge import middleware, routes, token_file

from tests.conftest import PATIENCE, until
from tests.unit import asgi

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = jobs.MODEL_CALL[1]
# of MLflow, what the guards of a job take hold of
JOBS = """_ALLOWED_JOB_NAME_LIST = ["invoke_scorer", "optimize_prompts"]
_SUPPORTED_JOB_FUNCTION_LIST = ["a.invoke_scorer_job", "a.optimize_prompts_job"]
"""
GUARDED = {
    "metrics/genai/model_utils.py": "def _parse_model_uri(uri): return uri.split(':/')\n"
    "def _get_provider_instance(provider, model): return model\n",
    "store/artifact/artifact_repository_registry.py": "class ArtifactRepositoryRegistry:\n"
    "    def get_artifact_repository(self, uri): return uri\n",
}
ON = {jobs.SWITCH: "on", jobs.TOKEN: "of-this-start"}


def basic(password: str) -> str:
    return "Basic " + b64encode(f"{jobs.ACCOUNT}:{password}".encode()).decode()


def offered(on: bool) -> set[tuple[str, str]]:
    return {route for group in routes.table(on) if group.offered for route in group.routes()}


def test_on_opens_what_judges_evaluations_and_scoring_need_and_nothing_else() -> None:
    page = "/ajax-api/3.0/mlflow"
    assert offered(True) - offered(False) == {
        ("POST", f"{page}/scorer/invoke"),
        ("POST", f"{page}/genai/evaluate/invoke"),
        ("GET", f"{page}/jobs/{{}}"),
        ("PATCH", f"{page}/jobs/cancel/{{}}"),
        ("GET", "/ajax-api/3.0/jobs/{}"),
        ("PATCH", "/ajax-api/3.0/jobs/cancel/{}"),
        ("PUT", f"{page}/scorers/online-config"),
        ("PUT", "/api/3.0/mlflow/scorers/online-config"),
    }
    assert offered(False) <= offered(True)


@pytest.mark.parametrize(
    ("method", "path", "password", "status"),
    [
        ("POST", MODEL, "of-this-start", 200),
        ("POST", MODEL, "another", 404),
        ("POST", MODEL, "", 404),
        ("GET", MODEL, "of-this-start", 404),
        ("POST", "/gateway/openai/v1/chat/completions", "of-this-start", 404),
        ("POST", "/gateway/proxy/x/a", "of-this-start", 404),
        ("PUT", "/ajax-api/3.0/mlflow/assistant/config", "of-this-start", 404),
    ],
)
def test_a_model_is_called_for_the_servers_own_jobs_only(method: str, path: str, password: str, status: int) -> None:
    app = middleware.guarded(asgi.Inner(), ON)
    assert asgi.ask(app, path, method, authorization=basic(password)).status == status
    assert asgi.ask(app, path, method, authorization="Basic !").status == 404
    assert asgi.ask(app, path, method).status == 404


@pytest.mark.parametrize("environment", [{}, {jobs.SWITCH: "off"}, {jobs.SWITCH: "on"}])
def test_no_token_opens_nothing(environment: dict[str, str]) -> None:
    app = middleware.guarded(asgi.Inner(), environment)
    for password in ("", "of-this-start"):
        assert asgi.ask(app, MODEL, "POST", authorization=basic(password)).status == 404


def test_jobs_pass_the_access_token_with_their_own(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the-access-token")
    app = middleware.guarded(asgi.Inner(), {**ON, token_file.FILE: str(file)})
    assert asgi.ask(app, MODEL, "POST", authorization=basic("of-this-start")).status == 200
    assert asgi.ask(app, f"{jobs.ARTIFACTS}/1/a", authorization=basic("of-this-start")).status == 200
    for method, path in (
        ("GET", "/version"),
        ("POST", "/api/2.0/mlflow/runs/create"),
        ("PUT", f"{jobs.ARTIFACTS}/1/a"),
        ("GET", "/"),
    ):  # who gets hold of a job's token gets no further than a job
        assert asgi.ask(app, path, method, authorization=basic("of-this-start")).status == 401
    assert asgi.ask(app, "/version", authorization=basic("another")).status == 401
    closed = middleware.guarded(asgi.Inner(), {token_file.FILE: str(file)})
    for password in ("", "of-this-start"):  # no jobs, no second token
        assert asgi.ask(closed, "/version", authorization=basic(password)).status == 401


def test_whatever_the_environment_says_the_setting_decides() -> None:
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
        jobs.TOKEN: "planted",
    }
    jobs.prepare(environment)
    assert environment == {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    }
    environment = {jobs.SWITCH: "on", jobs.TOKEN: "planted"}
    jobs.prepare(environment)
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "true"
    assert environment["MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS"] == "false"
    assert environment["MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS"] == "false"
    assert len(environment[jobs.TOKEN]) > 30
    with pytest.raises(errors.Stop, match="off or on"):
        jobs.prepare({jobs.SWITCH: "yes"})


def test_jobs_get_no_keys() -> None:
    parts = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["mlflow"]["environment"]
    named = {name for name in parts if re.search("SECRET|TOKEN|CREDENTIALS|_KEY|PASSPHRASE", name)}
    assert {"TRACKBED_SECRETS_FOLDER", "AWS_SHARED_CREDENTIALS_FILE", token_file.FILE} <= named
    keys = dict.fromkeys({*jobs.WITHHELD, *named}, "secret") | {jobs.TOKEN: "of-this-start", "TRACKBED_PORT": "8001"}
    result = jobs.job_environment(keys, 12)
    assert "secret" not in result.values() and jobs.TOKEN not in result
    assert result["MLFLOW_TRACKING_URI"] == result["MLFLOW_GATEWAY_URI"] == "http://127.0.0.1:8001"
    assert result["MLFLOW_TRACKING_PASSWORD"] == "of-this-start" and result[jobs.SERVER] == "12"


@pytest.mark.parametrize("system", ["Linux", "without prctl"])
def test_the_runner_is_started_again_and_ends_with_the_server(tmp_path: Path, system: str) -> None:
    """A stand-in for MLflow's runner, and a server that is killed without a chance to tell anybody."""
    own, server = _server(tmp_path, "jobs.PAUSE = 0.1")
    if system != "Linux":  # macOS
        (tmp_path / "ctypes.py").write_text("class CDLL:\n    def __init__(self, *_, **__): pass\n")
    with server() as process:
        try:
            pid, queue = _lines(tmp_path / "started", 2)[1].split(" ")[:2]
            assert [str(path) for path in own.iterdir()] == [queue]  # of this start alone
        finally:
            process.kill()
    until(lambda: not Path("/proc", pid).exists() and not list(own.iterdir()))


def test_a_second_word_to_stop_does_not_cut_the_first_short() -> None:
    before = signal.signal(signal.SIGTERM, jobs._stopped)
    try:
        with pytest.raises(SystemExit, match=str(errors.STOPPED)):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_watches_the_runner_is_started_again(tmp_path: Path) -> None:
    """However it ended: killed when memory is short, say. Its runner ends when it finds that out."""
    (tmp_path / "first").touch()
    _, server = _server(tmp_path, "jobs.RESTART_DELAY = 0.1")
    with server() as process:
        try:
            first, _, watcher = _lines(tmp_path / "started", 1)[0].split(" ")
            os.kill(int(watcher), signal.SIGKILL)
            assert _lines(tmp_path / "started", 2)[1].split(" ")[2] != watcher
            until(lambda: not Path("/proc", first).exists(), lambda: "never two")
        finally:
            process.kill()
            said = process.communicate(timeout=PATIENCE)[1].decode()
    assert "what keeps MLflow's job runner running had ended: it is started again" in said


def _server(tmp_path: Path, quick: str) -> tuple[Path, Callable[[], subprocess.Popen[bytes]]]:
    """A server that has jobs and does nothing else, and the folder that is its own."""
    package = tmp_path / "mlflow" / "server" / "jobs"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "__init__.py").write_text(JOBS)
    for name, text in GUARDED.items():
        place = tmp_path / "mlflow" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (package / "_executor_runner.py").write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from mlflow.server import jobs\n"
        "assert jobs._ALLOWED_JOB_NAME_LIST == ['invoke_scorer']\n"
        f"started = Path({str(tmp_path / 'started')!r})\n"
        "with started.open('a') as file:\n"
        f"    print(os.getpid(), os.environ[{jobs.QUEUE!r}], os.getppid(), file=file)\n"
        f"if len(started.read_text().splitlines()) > 1 or Path({str(tmp_path / 'first')!r}).exists():\n"
        f"    while Path('/proc', os.environ[{jobs.SERVER!r}]).exists():\n"  # as MLflow's does
        "        time.sleep(0.05)\n"
    )
    own = tmp_path / "own"
    (own / f"{jobs.FOLDER}old").mkdir(parents=True)
    code = f"import os, time; from trackbed_mlflow import jobs; {quick}; jobs.start(os.environ); time.sleep(600)"
    environment = {
        **os.environ,
        **ON,
        "PYTHONPATH": f"{tmp_path}:{Path(PROGRAM).parent}",
        "TRACKBED_OWN_TMP": str(own),
        "MLFLOW_ARTIFACTS_DESTINATION": str(own),
    }
    return own, lambda: subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _lines(path: Path, count: int) -> list[str]:
    """The file's lines, once there are so many, each whole."""
    text = until(lambda: path.exists() and (text := path.read_text()).count("\n") >= count and text)
    return str(text).splitlines()


def test_the_answer_while_off_names_the_command_and_what_it_costs() -> None:
    answer = asgi.ask(middleware.guarded(asgi.Inner(), {}), "/ajax-api/3.0/mlflow/scorer/invoke", "POST")
    said = json.loads(answer.body)["message"]
    assert answer.status == 404 and "invoke up --mlflow-jobs=on" in said and "0.5 GB" in said


class Refused(Exception):
    """Stands for MLflow's error."""

    @classmethod
    def invalid_parameter_value(cls, message: str) -> Refused:
        return cls(message)


@pytest.fixture
def model_utils(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's module, and one that took a reference to it before."""
    created: dict[str, Any] = {name: ModuleType(name) for name in ("mlflow.exceptions", "guarded", "took_before")}
    created["mlflow.exceptions"].MlflowException = Refused
    exec(GUARDED["metrics/genai/model_utils.py"], created["guarded"].__dict__)
    created["took_before"]._parse_model_uri = created["guarded"]._parse_model_uri
    for name, module in created.items():
        monkeypatch.setitem(sys.modules, name, module)
    return created["guarded"]


@pytest.mark.parametrize("provider", ["ollama", "vertex_ai", "bedrock", "openai", "databricks", "endpoints"])
def test_a_job_calls_models_through_the_server_alone(model_utils: Any, provider: str) -> None:
    job_guards.through_gateway(model_utils)
    for module in (model_utils, sys.modules["took_before"]):
        assert module._parse_model_uri("gateway:/mine")[0] == "gateway"
        with pytest.raises(Refused, match="choose gateway:/ENDPOINT"):
            module._parse_model_uri(f"{provider}:/x")
    assert model_utils._get_provider_instance("gateway", "x") == "x"
    for words, named in (((provider, "x"), {}), ((), {"provider": provider, "model": "x"})):
        with pytest.raises(Refused):
            model_utils._get_provider_instance(*words, **named)


def test_rows_of_other_jobs_start_nothing() -> None:
    created = SimpleNamespace()
    exec(JOBS, created.__dict__)
    job_guards.offered_alone(created)
    assert created._ALLOWED_JOB_NAME_LIST == ["invoke_scorer"]
    assert created._SUPPORTED_JOB_FUNCTION_LIST == ["a.invoke_scorer_job"]


def test_a_job_that_cannot_be_guarded_ends(tmp_path: Path) -> None:
    """An MLflow that is built otherwise: Python would go on after an error in its first step."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    leading = f"{jobs.confine(tmp_path)}:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", "print('ran')"],
        env={**os.environ, "PYTHONPATH": leading},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1 and "ran" not in done.stdout and "mlflow.server" in done.stderr


def test_models_are_where_mlflow_checks_the_address_and_the_key_is_the_endpoints() -> None:
    asked: list[bool] = []
    gateway = SimpleNamespace(upstream_ssrf_protection=SimpleNamespace(set=asked.append))
    jobs.guard_models(gateway)
    gateway._enable_upstream_ssrf_protection(SimpleNamespace(models=[]), raw_proxy=False)
    assert asked == [True]
    with pytest.raises(AttributeError):
        jobs.guard_models(SimpleNamespace())
    for models, local in (("public", False), ("any", True)):
        environment = {jobs.SWITCH: "on", jobs.MODELS: models}
        jobs.prepare(environment)
        allowed = environment["MLFLOW_GATEWAY_ALLOWED_PROVIDERS"].split(",")
        assert "openai" in allowed and ("ollama" in allowed) is local
        assert not {"vertex_ai", "bedrock", "amazon-bedrock", "databricks", "litellm", "sap-ai-core"} & set(allowed)
        assert environment["MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_ENV"] == "false"
        assert environment["MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_FILE"] == "false"
