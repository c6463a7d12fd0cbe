"""Public mode leaves a trace: who, from where, what, with which answer; and a run says whose login made it."""

from __future__ import annotations

import configparser
import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration import inspection
from tests.security.conftest import Target
from tests.security.wire import basic

pytestmark = pytest.mark.docker
API = "/api/2.0/mlflow"
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<service>\S+) (?P<address>[0-9a-f.:]+) (?P<status>\d+) "
    r"login=(?P<login>right|wrong|none|-) user=(?P<user>\S+) in=\d+ out=\d+ [\d.]+s (?P<method>\S+) (?P<host>\S+) "
    r"(?P<path>\S+)( \(\d+ more of this address left out\))?"
)
TOKEN = "/run/secrets/tracking-token"  # of MLflow, in the notebook


def log(target: Target, last: str, count: int = 1) -> list[str]:
    """The access log's lines, as `invoke logs gateway` takes them from the engine, once so many hold that text: a line
    is written when its request has ended."""

    def lines() -> list[str]:
        text = inspection.run("docker", "logs", inspection.container(target.clone, "gateway")).stdout
        return [line for line in text.splitlines() if not line.startswith("{")]

    inspection.until(lambda: sum(last in line for line in lines()) >= count, lambda: (last, lines()[-20:]))
    return lines()


def fail2ban() -> str:
    """The filter as the documentation prints it."""
    text = (ROOT / "docs" / "security.md").read_text()
    return re.search(r"```ini\n(\[Definition\]\n.*?)```", text, re.DOTALL)[1]  # type: ignore[index]


def test_200_wrong_passwords_are_200_lines_that_fail2ban_finds(attack: Target, tmp_path: Path) -> None:
    door, name = attack.door("mlflow"), f"eve-{secrets.token_hex(4)}"
    for number in range(200):
        assert door.ask("/version?x=y", headers={"Authorization": basic(name, f"wrong{number}")}).status in (401, 429)
    assert door.ask("/version", headers=attack.login).status == 200
    every = log(attack, f"user={name}", 200)
    lines = [line for line in every if f"user={name}" in line]
    assert len(lines) == 200
    result = [LINE.fullmatch(line) for line in lines]
    assert all(
        m and m["address"] == attack.other_host.address and m["login"] == "wrong" and m["path"] == "/version"
        for m in result
    ), lines[:3]
    parser = configparser.ConfigParser()
    parser.read_string(fail2ban())
    patterns = [
        re.compile(p.replace("<HOST>", r"(?P<host>[0-9a-f.:]+)").replace(r"^\s*", r"^\S+ "))
        for p in parser["Definition"]["failregex"].split("\n")
    ]
    assert all(any((m := p.match(line)) and m["host"] == attack.other_host.address for p in patterns) for line in lines)
    assert not [x for x in every if "login=right" in x and any(p.match(x) for p in patterns)]
    if program := shutil.which("fail2ban-regex"):
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        (tmp_path / "trackbed.conf").write_text(fail2ban())
        done = subprocess.run(
            [program, str(tmp_path / "log"), str(tmp_path / "trackbed.conf")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "200 matched" in done.stdout, done.stdout


def test_every_answer_has_its_line(attack: Target) -> None:
    mark = secrets.token_hex(6)
    mlflow, jupyter = attack.door("mlflow"), attack.door("jupyter")
    made = mlflow.json(f"{API}/experiments/create", {"name": mark}, attack.login)
    assert made.status == 200
    for door, path, method, headers, expected in (
        (mlflow, "", "GET", {}, "401 login=none user=-"),
        (mlflow, "", "GET", attack.login, "404 login=right user=ann"),
        (mlflow, "", "TRACE", attack.login, "405 login=right user=ann"),
        (mlflow, "", "POST", {**attack.login, "Origin": "http://localhost:5173"}, "403 login=right user=ann"),
        (mlflow, "", "GET", {"Host": "evil.example", **attack.login}, "421 login=- user=-"),
        (jupyter, "/api/contents/", "GET", {}, "403 login=- user=-"),
        (attack.door("s3"), "/mlflow-artifacts/", "GET", {}, "403 login=- user=-"),
        (attack.door("console"), "", "GET", {}, "401 login=none user=-"),
    ):
        path = f"{path or '/'}{mark}-{secrets.token_hex(3)}"
        door.ask(path, method, headers)
        line = [line for line in log(attack, path) if path in line]
        assert len(line) == 1 and f" {attack.other_host.address} {expected} " in line[0], (path, line)
    mlflow.json(f"{API}/experiments/delete", {"experiment_id": json.loads(made.body)["experiment_id"]}, attack.login)
    last = log(attack, f"{API}/experiments/delete")[-1]
    assert "200 login=right user=ann" in last and f"{API}/experiments/delete" in last


def test_no_secret_is_in_the_log_and_nobody_forges_a_line(attack: Target) -> None:
    mlflow, jupyter, mark = attack.door("mlflow"), attack.door("jupyter"), secrets.token_hex(6)
    secret = f"sesame{mark}"
    forged = f"x\n2026-11-25T21:10:00.123Z mlflow 192.0.2.99 401 login=wrong user={mark}"
    jupyter.ask(f"/lab?token={attack.token}")
    jupyter.ask(f"/lab%3Ftoken={secret}")
    for headers in (
        {"Authorization": basic(forged, secret)},
        {"Authorization": f"token {secret}"},
        {"Cookie": f"a={secret}"},
        {"Referer": f"https://x/?token={secret}"},
        {"X-Y": secret},
    ):
        mlflow.ask(f"/{mark}%0a%0d%1b[31m?q={secret}", headers=headers)
        jupyter.ask(f"/{mark}?X-Amz-Signature={secret}", headers=headers)
    mlflow.ask(f"/{mark}", headers={"Host": f"ann:{secret}@evil.example"})
    lines = log(attack, mark, 10)  # of the last one, whose Host is none, there is no line
    assert all(LINE.fullmatch(line) for line in lines), [line for line in lines if not LINE.fullmatch(line)][:3]
    text = "\n".join(lines)
    assert mark in text
    assert not [
        word
        for word in (secret, attack.password, attack.token, "192.0.2.99 401")
        if word in re.sub(r"user=\S+", "", text)
    ]
    assert not [line for line in lines if line.split()[2] == "192.0.2.99"]


def test_the_log_is_a_file_too(attack: Target, tmp_path: Path) -> None:
    attack.door("mlflow").ask(f"/{(mark := secrets.token_hex(6))}")
    container = inspection.container(attack.clone, "gateway")

    def kept() -> list[str]:
        inspection.output("docker", "cp", f"{container}:/data/log/access.log", str(tmp_path / "log"))
        return [line for line in (tmp_path / "log").read_text().splitlines() if mark in line]

    assert all(LINE.fullmatch(line) for line in inspection.until(kept))
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


# whose run it is


def created(target: Target, path: str = f"{API}/runs/create", **headers: str) -> dict:  # type: ignore[type-arg]
    body = {"experiment_id": "0", "user_id": "bob", "tags": [{"key": "mlflow.user", "value": "bob"}]}
    made = target.door("mlflow").json(path, body, {**target.login, **headers})
    assert made.status == 200, made.text
    run = json.loads(made.body)["run"]
    return {
        "id": run["info"]["run_id"],
        "user": run["info"]["user_id"],
        **{tag["key"]: tag["value"] for tag in run["data"]["tags"]},
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Trackbed-Login": "bob 00"},
        {"X_Trackbed_Login": "bob 00"},
        {"X-Forwarded-User": "bob"},
        {"Remote-User": "bob"},
        {"Connection": "close, X-Trackbed-Login"},
    ],
    ids=lambda headers: next(iter(headers), "none"),
)
@pytest.mark.parametrize("api", ["/api", "/ajax-api"])
def test_a_run_of_anns_login_does_not_say_bob(attack: Target, api: str, headers: dict[str, str]) -> None:
    run = created(attack, f"{api}/2.0/mlflow/runs/create", **headers)
    assert (run["user"], run["mlflow.user"], run["trackbed.client_user"]) == ("ann", "ann", "bob")
    door = attack.door("mlflow")
    for name, body in (
        ("set-tag", {"key": "mlflow.user", "value": "bob"}),
        ("delete-tag", {"key": "mlflow.user"}),
        ("log-batch", {"tags": [{"key": "mlflow.user", "value": "bob"}]}),
    ):
        assert door.json(f"{api}/2.0/mlflow/runs/{name}", {"run_id": run["id"], **body}, attack.login).status == 403
    assert (
        door.json(
            f"{api}/2.0/mlflow/runs/set-tag", {"run_id": run["id"], "key": "a", "value": "b"}, attack.login
        ).status
        == 200
    )
    got = json.loads(door.ask(f"{API}/runs/get?run_id={run['id']}", headers=attack.login).body)["run"]
    assert got["info"]["user_id"] == "ann" and {"key": "mlflow.user", "value": "ann"} in got["data"]["tags"]


def test_models_are_the_logins_too(attack: Target) -> None:
    door, name = attack.door("mlflow"), f"m-{secrets.token_hex(4)}"
    run = created(attack)["id"]
    assert door.json(f"{API}/registered-models/create", {"name": name}, attack.login).status == 200
    made = door.json(
        f"{API}/model-versions/create",
        {"name": name, "run_id": run, "source": f"mlflow-artifacts:/0/{run}/artifacts/m"},
        attack.login,
    )
    assert made.status == 200 and json.loads(made.body)["model_version"]["user_id"] == "ann", made.text
    made = door.json(
        f"{API}/logged-models", {"experiment_id": "0", "tags": [{"key": "mlflow.user", "value": "bob"}]}, attack.login
    )
    assert made.status == 200 and '"bob"' in made.text
    tags = {tag["key"]: tag["value"] for tag in json.loads(made.body)["model"]["info"]["tags"]}
    assert tags == {"mlflow.user": "ann", "trackbed.client_user": "bob"}


def test_the_notebook_cannot_be_a_login(attack: Target) -> None:
    """It reaches MLflow without the gateway: its own runs have its own name, ann's stay ann's."""
    run = created(attack)["id"]
    code = f"""
import json, urllib.error, urllib.request
token = open("{TOKEN}").read()
def ask(path, body, **headers):
    request = urllib.request.Request("http://mlflow:8000{API}/" + path, json.dumps(body).encode(),
                                     {{"Content-Type": "application/json",
                                       "Authorization": "Bearer " + token, **headers}})
    try:
        return urllib.request.urlopen(request, timeout=20).read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)
new = {{"experiment_id": "0", "user_id": "jovyan", "tags": []}}
print(json.loads(ask("runs/create", new))["run"]["info"]["user_id"])
for value in ("ann", "ann 00", "ann {"0" * 64}"):
    print(ask("runs/create", new, **{{"X-Trackbed-Login": value}}))
print(ask("runs/set-tag", {{"run_id": "{run}", "key": "mlflow.user", "value": "jovyan"}}))
"""
    done = inspection.run("docker", "exec", inspection.container(attack.clone, "jupyter"), "python", "-c", code)
    assert done.stdout.split() == ["jovyan", "403", "403", "403", "403"], done.stdout + done.stderr


def test_a_trace_that_is_begun_again_stays_its_makers(attack: Target) -> None:
    """MLflow replaces rows of a trace that is there: the notebook, or another login, could take it over."""
    trace = f"tr-{secrets.token_hex(16)}"

    def begun(user: str, **assessment: object) -> dict[str, object]:
        verdict = {
            "assessment_name": "good",
            "trace_id": trace,
            "feedback": {"value": 1},
            "source": {"source_type": "HUMAN", "source_id": user},
            "create_time": "2026-01-01T00:00:00Z",
            "last_update_time": "2026-01-01T00:00:00Z",
            **assessment,
        }
        return {
            "trace": {
                "trace_info": {
                    "trace_id": trace,
                    "request_time": "2026-01-01T00:00:00Z",
                    "state": "OK",
                    "tags": {"mlflow.user": user},
                    "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
                    "trace_metadata": {"mlflow.user": user},
                    "assessments": [verdict],
                }
            }
        }

    made = attack.door("mlflow").json("/api/3.0/mlflow/traces", begun("ann"), attack.login)
    assert made.status == 200, made.text
    verdict = json.loads(made.body)["trace"]["trace_info"]["assessments"][0]["assessment_id"]
    again = begun("eve", assessment_id=verdict, source={"source_type": "LLM_JUDGE", "source_id": "eve"})
    code = f"""
import json, urllib.request
request = urllib.request.Request("http://mlflow:8000/api/3.0/mlflow/traces", {json.dumps(again)!r}.encode(),
                                 {{"Content-Type": "application/json",
                                   "Authorization": "Bearer " + open("{TOKEN}").read()}})
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""
    done = inspection.run("docker", "exec", inspection.container(attack.clone, "jupyter"), "python", "-c", code)
    info = json.loads(done.stdout)["trace"]["trace_info"]
    assert info["trace_metadata"]["mlflow.user"] == info["tags"]["mlflow.user"] == "ann", done.stdout + done.stderr
    assert [each["source"] for each in info["assessments"] if each["assessment_id"] == verdict] == [
        {"source_type": "HUMAN", "source_id": "ann"}
    ]


def test_a_verdict_is_changed_by_its_login_alone_and_a_trace_of_opentelemetry_is_the_logins(attack: Target) -> None:
    number, door = secrets.token_hex(16), attack.door("mlflow")
    span = {
        "traceId": number,
        "spanId": "0102030405060708",
        "name": "a",
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
    }
    sent = door.json(
        "/v1/traces",
        {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]},
        {**attack.login, "x-mlflow-experiment-id": "0"},
    )
    assert sent.status == 200, sent.text
    path = f"/api/3.0/mlflow/traces/tr-{number}"
    info = json.loads(door.ask(path, headers=attack.login).body)["trace"]["trace_info"]
    assert info["trace_metadata"]["mlflow.user"] == "ann"
    made = {
        "assessment": {
            "assessment_name": "good",
            "trace_id": f"tr-{number}",
            "feedback": {"value": True},
            "source": {"source_type": "HUMAN", "source_id": "bob"},
            "create_time": "2026-01-01T00:00:00Z",
            "last_update_time": "2026-01-01T00:00:00Z",
        }
    }
    code = f"""
import json
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
creds = get_default_host_creds("http://mlflow:8000")
print(http_request(creds, "{path}/assessments", "POST", json=json.loads({json.dumps(made)!r})).text)
"""
    done = inspection.run(
        "docker", "exec", inspection.container(attack.clone, "jupyter"), "python", "-W", "ignore", "-c", code
    )
    bobs = json.loads(done.stdout)["assessment"]["assessment_id"]
    body = json.dumps({"assessment": {"feedback": {"value": False}}, "update_mask": "feedback"}).encode()
    changed = door.ask(
        f"{path}/assessments/{bobs}", "PATCH", {**attack.login, "Content-Type": "application/json"}, body
    )
    assert changed.status == 403 and "you are ann" in changed.text, changed.text
