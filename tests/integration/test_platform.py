"""A project that is up, as its user sees it: the same on every engine."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path
from urllib.request import Request

import pytest

from tests.conftest import Clone
from tests.integration import inspection
from tests.integration.workload import Execution, Lab

NOTEBOOK = Path(__file__).with_name("digits.ipynb")
# what is packed must come back packed; several ranges; nothing at all; and beside them no part of a file
DOWNLOADS = """
import gzip, json, os, tempfile
from pathlib import Path
os.environ["MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE"] = str(1 << 20)
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

client, sent, back = MlflowClient(), tempfile.mkdtemp(), tempfile.mkdtemp()
content = {"table.csv.gz": gzip.compress(b"1,2" * 9999), "all.tar.gz": gzip.compress(os.urandom(3 << 20)),
           "model.bin": os.urandom((3 << 20) + 1), "empty": b"", "größe +&,.txt": b"a", "large.bin": os.urandom((50 << 20) + 1)}
for name, data in content.items():
    Path(sent, name).write_bytes(data)
run = client.create_run("0")
client.log_artifacts(run.info.run_id, sent, "folder")
found = Path(client.download_artifacts(run.info.run_id, "folder", back))
repository = get_artifact_repository(run.info.artifact_uri)
again = Path(repository.download_artifacts("folder", tempfile.mkdtemp()))
print(json.dumps({"equal": {path.name: path.read_bytes() == content.get(path.name) for path in found.iterdir()},
                  "again": {path.name: path.read_bytes() == content.get(path.name) for path in again.iterdir()},
                  "many": repository._addresses._offered,
                  "straight": [name for name in content if repository._should_multipart_upload(Path(sent, name))],
                  "by": type(repository).__module__}))
"""
SERVICES = {
    "embedded": ["postgres", "mlflow", "jupyter"],
    "docker": ["postgres", "store", "store-sync", "bucket", "mlflow", "jupyter"],
    "kubernetes": ["postgres", "store", "store-sync", "schema", "bucket", "mlflow", "jupyter"],
}
ONE_SHOTS = ("schema", "bucket")


@pytest.fixture(scope="session")
def trained(deployment: Clone) -> Execution:
    """The digits notebook, run once in the running JupyterLab."""
    return Lab(deployment.value("jupyter-url")).run_notebook(NOTEBOOK)


def test_the_database_syncs_what_it_acknowledges(deployment: Clone) -> None:
    names = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
    for name in names:
        assert inspection.psql(deployment, f"SHOW {name}") == "on", name


def test_up_ends_with_a_table(deployment: Clone) -> None:
    assert deployment.first_up is not None
    lines = deployment.first_up.stdout.splitlines()
    assert re.split(r"\s{2,}", lines[0].strip())[:4] == ["service", "what", "state", "URL"]
    rows = {line.split()[0]: line for line in lines[1:] if line.strip() and not set(line) <= set("-─ ")}
    assert list(rows) == SERVICES[deployment.engine]
    for service, row in rows.items():
        assert re.search(r"\s(done|ready)\b" if service in ONE_SHOTS else r"\sready\b", row), row
    assert f"http://127.0.0.1:{deployment.ports['mlflow']}" in rows["mlflow"]
    assert f"http://127.0.0.1:{deployment.ports['jupyter']}/lab" in rows["jupyter"]
    box = deployment.first_up.stderr[deployment.first_up.stderr.index(f"{deployment.project} is ready") :]
    link = re.search(r"http://\S+/start\?token=\S+", box)
    assert link and inspection.ask(link[0])[0] == 200, box
    files = "/home/jovyan/work" if deployment.engine == "kubernetes" else str(deployment.project_folder / "workspace")
    assert f"http://127.0.0.1:{deployment.ports['mlflow']}/" in box and files in box
    line = re.search(r"cd .* check", box)
    assert line and "passed" in inspection.output("sh", "-c", line[0], cwd="/", env=deployment.environment)
    assert "Traceback" not in deployment.first_up.stderr
    assert "ssh -N" not in deployment.first_up.stdout + deployment.first_up.stderr


def test_ssh_line_for_someone_at_another_computer(deployment: Clone) -> None:
    done = deployment.invoke("status", SSH_CONNECTION="192.0.2.9 50000 192.0.2.7 22")
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "ssh -N" in line)
    for service in ("mlflow", "jupyter"):
        assert f"-L {deployment.ports[service]}:127.0.0.1:{deployment.ports[service]}" in line
    assert line.endswith("@192.0.2.7")


def test_second_up_recreates_nothing(deployment: Clone) -> None:
    deployment.up()
    before = inspection.identities(deployment)
    deployment.up()
    assert inspection.identities(deployment) == before


def test_another_shell_restarts_nothing_and_no_work_ends_without_a_word(deployment: Clone) -> None:
    asked = {"Authorization": f"token {deployment.token}", "Content-Type": "application/json"}
    request = Request(f"{deployment.url('jupyter')}/api/terminals", b"{}", asked)
    with inspection.DIRECT.open(request, timeout=30) as answer:
        terminal = f"terminal {json.load(answer)['name']} (busy)"
    before = inspection.identities(deployment)
    done = deployment.invoke("up", TZ="Asia/Tokyo", HTTPS_PROXY="http://127.0.0.1:9", REQUESTS_CA_BUNDLE="")
    assert done.returncode == 0, done.stderr
    inspection.refused(deployment.invoke("up", "--env", "A=b"), 1, terminal, "nothing was changed", "--yes")
    assert inspection.identities(deployment) == before
    assert "JUPYTER_ENV" not in (deployment.project_folder / "state.json").read_text()
    meaningless = {"embedded": "--s3-port=9123", "docker": "--domain=lab.example.org"}[deployment.engine]
    inspection.refused(deployment.invoke("up", meaningless), 2, f"{meaningless} has no effect")
    ended = deployment.invoke("up", "--cull-idle=12h", "--yes")
    assert ended.returncode == 0 and f"which ends: {terminal}" in ended.stderr, ended.stderr
    variables = deployment.value("status", "--format=env")
    reported = inspection.run(
        "sh",
        "-c",
        f'{variables}\n"$0" -m invoke status',
        sys.executable,
        cwd=deployment.folder,
        env=deployment.environment,
    )
    assert reported.returncode == 0 and "warning" not in reported.stderr, reported.stderr


def test_status_in_every_format(deployment: Clone) -> None:
    table = deployment.value("status")
    assert all(service in table for service in SERVICES[deployment.engine])
    assert (
        "MiB" in table or deployment.engine == "kubernetes"
    )  # there a metrics-server knows, and few clusters have one
    reported = json.loads(deployment.value("status", "--format=json"))
    assert reported["project"] == deployment.project and reported["engine"] == deployment.engine
    assert [service["service"] for service in reported["services"]] == SERVICES[deployment.engine]
    assert {service["state"] for service in reported["services"]} <= {"ready", "done"}
    lines = deployment.value("status", "--format=env")
    shell = inspection.output("sh", "-c", f"{lines}\necho $MLFLOW_TRACKING_URI $JUPYTER_URL")
    assert shell.startswith(
        f"http://127.0.0.1:{deployment.ports['mlflow']} http://127.0.0.1:{deployment.ports['jupyter']}"
    )


def test_explain_tells_what_really_runs_and_no_secret(deployment: Clone) -> None:
    secrets = json.loads(deployment.value("credentials", "--format=json"))
    whole = deployment.value("explain")
    assert all(f"{service}: " in whole for service in SERVICES[deployment.engine])
    for service in SERVICES[deployment.engine]:
        text = deployment.value("explain", service)
        told = json.loads(deployment.value("explain", service, "--json"))
        assert not told["planned"] and told["by_hand"] and told["service"] == service
        assert all(value not in text for name, value in secrets.items())
    told = json.loads(deployment.value("explain", "mlflow", "--json"))
    assert any(str(deployment.ports["mlflow"]) in line for line in told["ports"])
    assert any(line.startswith("MLFLOW_BACKEND_STORE_URI=postgresql") for line in told["environment"])


def test_the_notebook_address_stands_alone_on_stdout(deployment: Clone) -> None:
    done = deployment.invoke("jupyter-url")
    assert done.returncode == 0
    assert re.fullmatch(rf"http://127\.0\.0\.1:{deployment.ports['jupyter']}/lab\?token=\S{{16,}}\n", done.stdout)
    assert inspection.ask(done.stdout.strip())[0] == 200
    assert inspection.ask(f"{deployment.url('jupyter')}/api/contents")[0] == 403, "JupyterLab answers without the token"


def test_credentials_in_every_format(deployment: Clone) -> None:
    reported = json.loads(deployment.value("credentials", "--format=json"))
    assert {"POSTGRES_PASSWORD", "JUPYTER_TOKEN"} <= set(reported) and all(reported.values())
    lines = deployment.value("credentials", "--format=env")
    for name, value in reported.items():
        assert inspection.output("sh", "-c", f'{lines}\nprintf %s "${name}"') == value
    assert reported["JUPYTER_TOKEN"] == deployment.token


def test_check_passes_line_by_line(deployment: Clone) -> None:
    done = deployment.invoke("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    for line in ("run in PostgreSQL", "metrics in PostgreSQL", "object in the store"):
        assert re.search(rf"{line}\s+passed", done.stdout), done.stdout
    assert done.stderr.endswith(f"all {len(done.stdout.splitlines()) - 1} checks passed\n")
    left = inspection.ask(f"{deployment.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=99&view_type=ALL")[
        1
    ]
    assert "trackbed-check" not in str(left), "it stays among the user's"


def test_doctor_finds_nothing_wrong(deployment: Clone) -> None:
    done = deployment.invoke("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\serror\s", done.stdout), done.stdout
    assert "taken" not in done.stdout, "our own ports do not count"


def test_logs_of_each_service(deployment: Clone) -> None:
    silent = {"store-sync"}  # while all is well
    spoken = [service for service in SERVICES[deployment.engine] if service not in silent]
    for service in spoken:
        assert deployment.value("logs", service), service
    assert len(deployment.value("logs", "mlflow", "--tail=2").splitlines()) <= 2
    assert {line.split(" | ")[0] for line in deployment.value("logs").splitlines()} - silent == set(spoken)


def test_logs_follow_until_ctrl_c(deployment: Clone) -> None:
    follower = deployment.start("logs", "jupyter", "--follow", "--tail=1")
    try:
        follower.until(r"\n")
        inspection.ask(f"{deployment.url('jupyter')}/no-such-page-here")
        follower.until("no-such-page-here")
    finally:
        code = follower.interrupt()
    assert code in (0, 130) and "Traceback" not in follower.output


def test_notebook_trains_and_its_run_is_there(deployment: Clone, trained: Execution) -> None:
    result = inspection.mlflow(deployment, f"runs/get?run_id={trained.result['run_id']}")["run"]
    assert result["info"]["status"] == "FINISHED"
    assert {m["key"] for m in result["data"]["metrics"]} >= {"train_loss", "test_loss", "accuracy"}
    artifacts = inspection.mlflow(deployment, f"artifacts/list?run_id={trained.result['run_id']}")["files"]
    assert "confusion_matrix.png" in {file["path"] for file in artifacts}
    assert trained.result["accuracy"] > 0.95


def test_artifacts_come_back_as_they_were(deployment: Clone) -> None:
    result = Lab(deployment.value("jupyter-url")).run_cells([DOWNLOADS]).result
    names = ("table.csv.gz", "all.tar.gz", "model.bin", "empty", "größe +&,.txt", "large.bin")
    assert result["equal"] == result["again"] == dict.fromkeys(names, True)
    assert result["many"] is (deployment.engine != "embedded"), "addresses of many files at once"
    assert result["straight"] == ([] if deployment.engine == "embedded" else ["large.bin"])
    assert result["by"] == "trackbed_notebook.artifacts", "this MLflow is not built as the plugin expects"


def test_lists_of_artifacts_are_those_of_the_store(deployment: Clone) -> None:
    """Unusual names, folders, pages, what arrives by another way: all of them as VersityGW itself lists them."""
    if deployment.engine == "embedded":
        return  # a folder; MLflow lists it
    script = Path(__file__).with_name("artifact_lists.py").read_text("utf-8")
    result = json.loads(inspection.output(*inspection.mlflow_python(deployment), "-", stdin=script))
    assert result["unequal"] == [] and result["said"] == [], result
    assert result["counts"]["many"] == 11 and result["counts"]["late"] == result["counts"]["gone"] + 1
    assert result["fetched"] == ["below/deep.bin", "inside.bin"]


def test_links_in_the_notebook_open_in_the_browser(deployment: Clone, trained: Execution) -> None:
    links = re.findall(r"https?://\S+", trained.stdout)
    assert links, trained.stdout
    assert all(link.startswith(f"http://127.0.0.1:{deployment.ports['mlflow']}/") for link in links), links
    assert inspection.ask(links[0])[0] == 200


def test_everything_listens_on_loopback_only(deployment: Clone) -> None:
    existing = inspection.listening()
    published = {deployment.ports[name] for name in ("mlflow", "jupyter")}
    if deployment.engine == "docker":
        published |= {deployment.ports["s3"], deployment.ports["console"]}
    for port in published:
        assert existing.get(port) == {"127.0.0.1"}, f"port {port}: {existing.get(port)}"


def test_a_page_of_another_name_is_refused(deployment: Clone) -> None:
    """A web page elsewhere whose name resolves to 127.0.0.1 must not reach the API."""
    assert (
        inspection.ask(
            f"{deployment.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1", host="evil.example"
        )[0]
        == 403
    )


def test_no_secret_is_seen_anywhere(deployment: Clone) -> None:
    secrets = json.loads(deployment.value("credentials", "--format=json"))
    values = [value.encode() for name, value in secrets.items()]
    leaks: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:
                    continue
                leaks.update(words.replace(b"\0", b" ").decode("utf-8", "replace") for v in values if v in words)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        notes = [
            deployment.invoke("up"),
            deployment.invoke("check"),
            deployment.invoke("status", "--format=json"),
            deployment.invoke("status"),
            deployment.invoke("doctor"),
            deployment.invoke("logs", "--tail=10000"),
            deployment.invoke("up", "--dry-run"),
            deployment.invoke("status", "--format=env"),
            deployment.invoke("--debug", "status"),
        ]
        failed = [
            deployment.invoke(*words, TRACKBED_TRACEBACK="1")
            for words in (("logs", "nobody"), ("up", "--mlflow-port=70000"), ("restore", "nothing.trackbed"))
        ]
    finally:
        stop.set()
        watcher.join()
    assert not leaks, "in a process's arguments"
    for done in notes:
        assert done.returncode == 0, done.stderr
    for done in failed:
        assert done.returncode != 0 and "Traceback" in done.stderr
    texts = [done.stdout + done.stderr for done in (*notes, *failed)]
    if deployment.engine == "docker":
        texts += [
            inspection.output("docker", "inspect", *inspection.containers(deployment)),
            (deployment.folder / ".trackbed.env").read_text(),
            inspection.output("docker", "volume", "inspect", f"{deployment.project}_postgres"),
        ]
    else:
        texts += [(deployment.project_folder / "embedded" / "supervisord.conf").read_text()]
    texts.append((deployment.project_folder / "state.json").read_text())
    texts[0] = texts[0].replace(f"/start?token={secrets['JUPYTER_TOKEN']}", "/start")  # up's last words: to be opened
    for text in texts:
        result = [name for name, value in secrets.items() if value in text]
        assert not result, f"{result} in: {text[:300]}"


def test_secret_files_are_the_owners_alone(deployment: Clone) -> None:
    folder = deployment.project_folder / "secrets"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


INDEXES = "SELECT indexname FROM pg_indexes WHERE starts_with(indexname, 'trackbed_') ORDER BY 1"
NEWEST = """EXPLAIN SELECT DISTINCT runs.*, CASE WHEN (runs.start_time IS NULL) THEN 1 ELSE 0 END AS clause_1 FROM runs
WHERE runs.experiment_id IN (0) AND runs.lifecycle_stage IN ('active')
ORDER BY clause_1, runs.start_time DESC, runs.run_uuid LIMIT 101"""
VALUES = "EXPLAIN SELECT run_uuid FROM latest_metrics WHERE key = 'loss' AND NOT is_nan ORDER BY value DESC LIMIT 500"
LISTED = "EXPLAIN SELECT * FROM experiments WHERE lifecycle_stage IN ('active') ORDER BY {} LIMIT 26"
HASHES = """EXPLAIN SELECT run_uuid FROM {0} WHERE key = 'k' AND value = 'v'
AND hashtextextended({0}.value, 0) = hashtextextended('v', 0)"""


def test_our_indexes_are_there_and_serve_what_the_pages_ask(deployment: Clone) -> None:
    served = {
        "trackbed_experiments_created": LISTED.format("creation_time DESC, experiment_id"),
        "trackbed_experiments_updated": LISTED.format("last_update_time DESC, experiment_id DESC"),
        "trackbed_latest_values": VALUES,
        "trackbed_param_hashes": HASHES.format("params"),
        "trackbed_runs_newest_listed": NEWEST,
        "trackbed_tag_hashes": HASHES.format("tags"),
    }
    assert inspection.psql(deployment, INDEXES).split() == sorted([*served, "trackbed_runs_newest"])
    # an almost empty table is read whole: the question is whether the index can serve it
    for name, question in served.items():
        plan = inspection.psql(deployment, f"SET enable_seqscan = off; SET enable_bitmapscan = off; {question}")
        assert name in plan, plan


def test_json_requests_take_the_short_way_and_keep_the_checks(deployment: Clone) -> None:
    url = f"{deployment.url('mlflow')}/api/2.0/mlflow/experiments/search"
    assert inspection.ask(url, {"max_results": 1}, host="evil.example")[0] == 403
    assert inspection.ask(url, {"max_results": "many"})[0] == 400
    assert "MLflow's own way" not in deployment.invoke("logs", "mlflow", "--tail=1000").stdout


def test_down_and_up_keep_the_run(deployment: Clone, trained: Execution) -> None:
    kept = inspection.new_run(deployment)
    done = deployment.invoke("down")
    assert done.returncode == 0 and "data are kept" in done.stderr, done.stderr
    assert inspection.nothing_runs(deployment)
    status = deployment.invoke("status", "--format=json")
    assert status.returncode == 1
    assert {service["state"] for service in json.loads(status.stdout)["services"]} == {"missing"}
    again = deployment.invoke("down")
    assert again.returncode == 0 and "nothing was running" in again.stderr
    asked = deployment.invoke("jupyter-url")
    inspection.refused(asked, 1, "invoke up")
    reported = deployment.invoke("status")
    assert (
        reported.returncode == 1
        and reported.stdout == f"{deployment.project}: stopped\n"
        and "invoke up" in reported.stderr
    )
    checked = deployment.invoke("check")
    assert (checked.returncode, checked.stdout) == (1, "") and len(checked.stderr.splitlines()) == 1, checked.stderr
    deployment.up()
    assert inspection.has_run(deployment, kept)
    assert (
        inspection.mlflow(deployment, f"runs/get?run_id={trained.result['run_id']}")["run"]["info"]["status"]
        == "FINISHED"
    )
    image = f"get-artifact?path=confusion_matrix.png&run_uuid={trained.result['run_id']}"
    assert inspection.ask(f"{deployment.url('mlflow')}/{image}")[0] == 200
