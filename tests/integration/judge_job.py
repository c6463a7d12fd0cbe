"""A judge as a person runs it from MLflow's page: `judge_job.py MODEL_ADDRESS SECONDS`; prints what became of it as JSON.

The tracking server and its token come from the environment, as `invoke status --format=env` prints them.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from typing import Any

import mlflow  # type: ignore[import-not-found]
import requests

SERVER = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
API, PAGE = f"{SERVER}/api/3.0/mlflow", f"{SERVER}/ajax-api/3.0/mlflow"
PATIENCE = float(sys.argv[2])  # seconds that one job, or one answer, may take
session = requests.Session()
session.trust_env = False
if "MLFLOW_TRACKING_TOKEN" in os.environ:
    session.headers["Authorization"] = f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"


def ask(method: str, url: str, body: Any = None) -> Any:
    answer = session.request(method, url, json=body, timeout=PATIENCE)
    if answer.status_code != 200:
        raise SystemExit(f"{method} {url}: {answer.status_code} {answer.text[:500]}")
    return answer.json()


def done(job: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = ask("GET", f"{PAGE}/jobs/{job}")
        if found["status"] not in ("JobStatus.PENDING", "JobStatus.RUNNING", "PENDING", "RUNNING"):
            return found
        time.sleep(0.5)
    raise SystemExit(f"the job did not end within {PATIENCE:.0f} s: {found}")


def assessments(trace: str) -> list[Any]:
    found = mlflow.get_trace(trace).info.assessments
    return [[one.name, one.value, one.error.error_message if one.error else None] for one in found]


name = uuid.uuid4().hex[:8]
experiment = mlflow.set_experiment(f"judge-{name}").experiment_id
traces = []
for question in ("a", "b"):
    with mlflow.start_span("answer") as span:
        span.set_inputs({"question": question})
        span.set_outputs(f"{question}!")
    traces.append(span.trace_id)
mlflow.flush_trace_async_logging()

secret = ask(
    "POST",
    f"{API}/gateway/secrets/create",
    {
        "secret_name": f"key-{name}",
        "secret_value": {"api_key": "of-the-test"},
        "provider": "openai",
        "auth_config": {"api_base": sys.argv[1]},
    },
)["secret"]["secret_id"]
model = ask(
    "POST",
    f"{API}/gateway/model-definitions/create",
    {"name": f"model-{name}", "secret_id": secret, "provider": "openai", "model_name": "gpt-4o"},
)["model_definition"]["model_definition_id"]
ask(
    "POST",
    f"{API}/gateway/endpoints/create",
    {
        "name": f"endpoint-{name}",
        "model_configs": [{"model_definition_id": model, "linkage_type": "PRIMARY", "weight": 1.0}],
    },
)


def judging(model: str) -> str:
    return json.dumps(
        {
            "name": "good",
            "mlflow_version": "3.17.2",
            "serialization_version": 1,
            "is_session_level_scorer": False,
            "instructions_judge_pydantic_data": {
                "instructions": "Is {{ outputs }} good?",
                "model": model,
                "feedback_value_type": {"type": "boolean"},
            },
        }
    )


judge = judging(f"gateway:/endpoint-{name}")

result: dict[str, Any] = {}
started = ask(
    "POST",
    f"{PAGE}/scorer/invoke",
    {"experiment_id": experiment, "serialized_scorer": judge, "trace_ids": traces[:1], "log_assessments": True},
)
result["judge"] = done(started["jobs"][0]["job_id"])
result["judged"] = assessments(traces[0])

started = ask(
    "POST",
    f"{PAGE}/genai/evaluate/invoke",
    {"experiment_id": experiment, "serialized_scorers": [judge], "trace_ids": traces[1:]},
)
result["evaluation"] = done(started["job_id"])
result["evaluated"] = assessments(traces[1])
run = mlflow.get_run(started["run_id"])
result["run"] = [run.info.status, run.data.metrics]

started = ask(
    "POST",
    f"{PAGE}/scorer/invoke",
    {
        "experiment_id": experiment,
        "serialized_scorer": judging("ollama:/x"),
        "trace_ids": traces[:1],
        "log_assessments": False,
    },
)
result["past the gateway"] = json.dumps(done(started["jobs"][0]["job_id"]))

# the model itself is called for the server's own jobs only
direct = session.post(
    f"{SERVER}/gateway/mlflow/v1/chat/completions",
    timeout=PATIENCE,
    json={"model": f"endpoint-{name}", "messages": [{"role": "user", "content": "hello"}]},
)
result["direct"] = [direct.status_code, direct.text[:200]]

if "--automatic" in sys.argv:
    ask("POST", f"{API}/scorers/register", {"experiment_id": experiment, "name": "good", "serialized_scorer": judge})
    ask("PUT", f"{PAGE}/scorers/online-config", {"experiment_id": experiment, "name": "good", "sample_rate": 1.0})
    with mlflow.start_span("later") as span:
        span.set_inputs({"question": "c"})
        span.set_outputs("c!")
    mlflow.flush_trace_async_logging()
    end = time.monotonic() + PATIENCE
    while not assessments(span.trace_id) and time.monotonic() < end:
        time.sleep(2)
    result["automatic"] = assessments(span.trace_id)
print(json.dumps(result))
