"""MLFLOW_JOBS=on: a judge and an evaluation as MLflow's page starts them, with a model that the test answers for."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Clone
from tests.integration import inspection

SCRIPT = Path(__file__).with_name("judge_job.py")
asked: list[tuple[str, str]] = []


class Model(BaseHTTPRequestHandler):
    """Says yes to everything, as OpenAI's chat completions do."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append((self.path, self.headers["Authorization"]))
        body = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o",
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": json.dumps({"result": True, "rationale": "short"})},
                    }
                ],
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def job_processes(clone: Clone) -> dict[int, str]:
    words = ("start.py jobs", "_executor_runner", "huey_consumer")
    return {pid: name for pid in inspection.processes(clone) for name in words if name in inspection.command(pid)}


def said(clone: Clone) -> str:
    """The server's last words, the job runner's among them."""
    return clone.invoke("logs", "mlflow", "--tail=60").stdout


def until(clone: Clone, condition: Callable[[dict[int, str]], bool]) -> dict[int, str]:
    def found() -> dict[int, str]:
        result = job_processes(clone)
        return result if condition(result) else {}

    return inspection.until(found, lambda: f"{job_processes(clone)}\n{said(clone)}")


@pytest.mark.timeout(10 * PATIENCE)
def test_a_judge_and_an_evaluation_run_on_the_server(clone_factory: Callable[..., Clone], model: str) -> None:
    clone = clone_factory("embedded")
    clone.environment |= {"TRACKBED_LOCAL_ACCESS": "token", "TRACKBED_MLFLOW_JOBS_MODELS": "any"}
    done = clone.invoke("up", "--mlflow-jobs=on", timeout=900)
    assert done.returncode == 0, done.stderr
    reported = dict(word.split("=", 1) for word in shlex.split(clone.value("status", "--format=env")) if "=" in word)
    python = inspection.mlflow_python(clone)[0]
    done = inspection.run(
        python,
        str(SCRIPT),
        model,
        str(2 * PATIENCE),
        timeout=8 * PATIENCE,  # three jobs
        env={**os.environ, **reported, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, f"{done.stderr}\n{said(clone)}"
    result = json.loads(done.stdout.splitlines()[-1])
    answers = {name: result[name] for name in ("judged", "evaluated", "run")}
    assert (result["judge"]["status"], result["evaluation"]["status"]) == ("SUCCEEDED", "SUCCEEDED"), (
        f"{result}\n{said(clone)}"
    )
    assert answers == {
        "judged": [["good", True, None]],
        "evaluated": [["good", True, None]],
        "run": ["FINISHED", {"good/mean": 1.0}],
    }, f"{result}\n{said(clone)}"
    assert asked and set(asked) == {("/v1/chat/completions", "Bearer of-the-test")}
    assert "choose gateway:/ENDPOINT" in result["past the gateway"]
    assert result["direct"][0] == 404 and "switched off in Trackbed" in result["direct"][1]

    running = until(clone, lambda found: len(found) == 3)
    server = inspection.running_process(clone, "mlflow")
    keys = {"MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"}
    for pid in running:
        assert os.stat(f"/proc/{pid}").st_uid == os.stat(f"/proc/{server}").st_uid
        assert not keys & inspection.environment(pid).keys()
    os.kill(server, signal.SIGKILL)  # nobody is told; the next server has jobs of its own
    until(clone, lambda found: len(found) == 3 and not found.keys() & running.keys())
    done = clone.invoke("down")
    assert done.returncode == 0 and not job_processes(clone), f"{done.stderr}\n{job_processes(clone)}"
