"""What the toolkit tells the start page (helpers/start_page.py), when, and how its link is opened (helpers/browser.py)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import sys
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from helpers import browser, gateway, lifecycle, start_page
from helpers.engines import select
from helpers.engines.docker import volumes
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.embedded.deployment import EmbeddedDeployment
from helpers.engines.kubernetes import logins, secrets
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.leases import last_backup, lease
from helpers.project import access, backup_schedule
from helpers.project.backup_runs import MADE, Good, Result, Schedule
from helpers.project.project import OPEN, Project
from helpers.services import Availability, ExecResult
from tests.unit.fakes import Silent, project
from tests.unit.memory_engine import MemoryEngine, in_memory

PUBLIC = {"public": "true", "public_address": "203.0.113.7"}


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


class Told(MemoryEngine):
    """Keeps what it is handed."""

    handed: ClassVar[list[dict[str, Any]]] = []

    def put_start_page(self, content: bytes) -> None:
        self.handed.append(json.loads(content))


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(Told, "handed", [])
    with in_memory(tmp_path, monkeypatch, Told) as created:
        created.state.save()
        yield created


def told(folder: Path, **given: str) -> dict[str, Any]:
    created = project(folder, **given)
    return start_page.document(created, Told(created))


# what it is told


def test_a_private_project(tmp_path: Path) -> None:
    result = told(tmp_path)
    token = project(tmp_path).credentials()["JUPYTER_TOKEN"]
    assert result["notebook_url"] == "http://127.0.0.1:8888/lab"
    assert result["notebook_digest"] == hashlib.sha256(start_page.PURPOSE + token.encode()).hexdigest()
    assert [service["name"] for service in result["services"]] == ["postgres", "mlflow", "jupyter"]
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:8000" in result["client"]
    assert result["backups"] == {"last": None, "note": "", "scheduled": False, "problem": ""}
    assert result["lease"] is None and "console_url" not in result


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    for given in ({}, PUBLIC, {"local_access": "token"}):
        created = project(tmp_path, **given)
        text = json.dumps(start_page.document(created, Told(created)))
        values = [created.credentials()[name] for name in created.credentials().names]
        assert not [value for value in values if value and value in text]


def test_people_with_a_login_get_no_paths_and_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Finding(Level.ERROR, "backups", "/srv/backups is full", "")
    monkeypatch.setattr(backup_schedule, "look", lambda *_: (problem, {"place": "/srv/backups", "last_good": None}))
    (tmp_path / "state" / "trackbed").mkdir(parents=True)
    (tmp_path / "state" / "trackbed" / gateway.ROOT_FILE).write_text("the root")
    (tmp_path / "state" / "trackbed" / "users").write_text(f"ann:{'0' * 32}:{'0' * 64}\nend\n")
    result = told(tmp_path, **PUBLIC)
    text = json.dumps(result)
    assert str(tmp_path) not in text and "/srv" not in text and "ann" not in text
    assert "export MLFLOW_TRACKING_USERNAME={login}\n" in result["client"] and "the root" in result["client"]
    assert result["notebook_url"] == "https://203.0.113.7:8888/lab" and result["notebook_digest"] == ""
    assert result["backups"]["problem"] == "there is a problem, which `invoke status` tells"


def test_before_the_gateway_has_a_certificate_there_are_no_lines(tmp_path: Path) -> None:
    assert told(tmp_path, **PUBLIC)["client"] == ""


def test_backups_and_the_lease_as_status_tells_them(tmp_path: Path) -> None:
    created = project(tmp_path, lease_end="2030-01-02T03:04:00+00:00")
    folder = created.settings.folder
    folder.mkdir(parents=True)
    Schedule(3600.0, "s3://b/p", time.time(), "cron", 7, {}, {}).save(folder)
    Result("done", 1.0, "", Good(time.time() - 60, "s3://b/p/x", 5)).save(folder)
    result = start_page.document(created, Told(created))
    assert result["lease"]["end"] == 1893553440.0 and result["lease"]["problem"] == "no last backup is set up"
    assert result["backups"]["last"] == pytest.approx(time.time() - 60, abs=30)
    assert result["backups"]["note"] == "to s3://b/p" and "no longer runs" in result["backups"]["problem"]
    assert result["backups"]["scheduled"]
    seen = lease.look(created.settings)
    assert seen and seen[1]["problem"] == result["lease"]["problem"]


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_last_good_backup_counts_whoever_made_it(tmp_path: Path, scheduled: bool) -> None:
    created = project(tmp_path)
    folder, now = created.settings.folder, time.time()
    folder.mkdir(parents=True)
    if scheduled:
        Schedule(3600.0, "s3://b/p", now, "cron", 7, {}, {}).save(folder)
        Result("done", 1.0, "", Good(now - 90, "s3://b/p/x", 5)).save(folder)
    Good(now - 60, "/srv/by-hand.tar", 5).save(folder)
    seen = start_page.document(created, Told(created))["backups"]
    assert (seen["last"], seen["note"], seen["scheduled"]) == (now - 60, "to /srv/by-hand.tar", scheduled)
    Good(now - 120, "/srv/older.tar", 5).save(folder)
    seen = start_page.document(created, Told(created))["backups"]
    assert seen["note"] == ("to s3://b/p" if scheduled else "to /srv/older.tar")
    last_backup.Record(now + 3600, backup="s3://b/last/x", moment=now - 30).save(folder)  # a pod's, without a schedule
    seen = start_page.document(created, Told(created))["backups"]
    assert (seen["last"], seen["note"]) == (now - 30, "to s3://b/last/x")
    (folder / last_backup.RECORD).unlink()
    (folder / MADE).write_text('{"ended": "no"}')
    seen = start_page.document(created, Told(created))["backups"]
    assert seen["last"] == (now - 90 if scheduled else None)


def test_a_store_of_ours_has_a_console(tmp_path: Path) -> None:
    created = project(tmp_path)
    engine = Told(created)
    engine.deployment.object_store = "versitygw"
    result = start_page.document(created, engine)
    assert (result["console_url"], result["console_title"]) == ("http://127.0.0.1:9001", "VersityGW")
    created = project(tmp_path, **PUBLIC)
    engine = Told(created)
    engine.deployment.object_store = "versitygw"
    assert "console_url" not in start_page.document(created, engine)  # of no use without PUBLIC_S3


def test_where_the_server_reaches_the_others(tmp_path: Path) -> None:
    created = project(tmp_path, jupyter_port="8899")
    assert DockerDeployment(created, api=None).inside_address("jupyter") == ("jupyter", 8888, True)  # type: ignore[arg-type]
    assert DockerDeployment(created, api=None).inside_address("store-sync") == ("store-sync", 9002, False)  # type: ignore[arg-type]
    assert EmbeddedDeployment(created).inside_address("jupyter") == ("127.0.0.1", 8899, True)
    assert EmbeddedDeployment(created).inside_address("postgres") is None
    assert KubernetesDeployment(created).inside_address("jupyter") == ("jupyter", 8888, True)
    assert KubernetesDeployment(created).inside_address("store") == ("store", 9000, True)


# when


def test_a_start_hands_it_over_before_anything_runs(
    one: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    start = Told.start

    def look(engine: Told, progress: Any) -> Any:
        seen.append(engine.deployment.start_page)
        return start(engine, progress)

    monkeypatch.setattr(Told, "start", look)
    lifecycle.up(one, Silent(), lambda line: None)
    assert json.loads(seen[0])["project"] == "trackbed" and not Told.handed  # one way, and once
    lifecycle.up(project(tmp_path), Silent(), lambda line: None)
    assert not Told.handed and len(seen) == 1


def test_an_up_that_changes_nothing_else_brings_what_is_new(one: Project, tmp_path: Path) -> None:
    lifecycle.up(one, Silent(), lambda line: None)
    lifecycle.up(project(tmp_path, lease_end="2030-01-02T03:04:00+00:00"), Silent(), lambda line: None)
    assert [page["lease"]["end"] for page in Told.handed] == [1893553440.0]
    assert abs(Told.handed[0]["written"] - time.time()) < 60


def test_after_a_backup_it_is_handed_over_and_a_failure_is_none_of_the_backups(
    one: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_page.refresh(one)
    assert not Told.handed  # nothing was started yet
    lifecycle.up(one, Silent(), lambda line: None)
    start_page.refresh(one)
    assert len(Told.handed) == 1

    def fail(*_: object) -> None:
        raise TrackbedError("no engine")

    monkeypatch.setattr(Told, "put_start_page", fail)
    start_page.refresh(one)


def test_an_engine_that_was_found_is_not_looked_for_again(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.up(one, Silent(), lambda line: None)
    found = select.current(one)

    def look(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Told, "availability", look)
    start_page.refresh(one, found)
    assert len(Told.handed) == 1


def test_an_engine_that_was_not_found_yet_is_looked_for_where_it_runs(
    one: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its look finds its machine over ssh, or its cluster: without one it would act on this machine."""
    lifecycle.up(one, Silent(), lambda line: None)
    order: list[str] = []
    answer = Availability(True, True, "in memory")

    def look(*_: object) -> Availability:
        order.append("found")
        return answer

    monkeypatch.setattr(Told, "availability", look)
    monkeypatch.setattr(Told, "put_start_page", lambda *_: order.append("handed over"))
    start_page.refresh(one)
    assert order == ["found", "handed over"]
    answer = Availability(False, True, "it does not answer")
    start_page.refresh(one)
    assert order == ["found", "handed over", "found"]


def test_beside_a_remote_tracking_server_there_is_none(tmp_path: Path) -> None:
    created = project(tmp_path, tracking_uri="https://mlflow.example.org")
    engine = Told(created)
    assert start_page.attach(created, engine) == "" and engine.deployment.start_page == b""
    start_page.publish(created, engine)
    assert start_page.APPLIED not in created.state.applied


# how


def test_docker_puts_it_beside_the_servers_secrets(tmp_path: Path) -> None:
    filled: list[Any] = []

    class Api:
        def fill(self, *arguments: Any) -> None:
            filled.append(arguments)

    created = project(tmp_path)
    volumes.Volumes(DockerDeployment(created, Api())).put_start_page(b"{}")  # type: ignore[arg-type]
    ((image, roots, files),) = filled
    assert image == created.settings.mlflow_image and roots == {"trackbed_secrets-mlflow": (10001, 10001, 0o700)}
    (entry,) = files["trackbed_secrets-mlflow"]
    assert (entry.path, entry.content, entry.uid, entry.mode) == ("start-page.json", b"{}", 10001, 0o400)


def test_a_cluster_gets_it_in_the_servers_secret_without_a_new_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = project(tmp_path)
    deployment = KubernetesDeployment(created)
    changed: list[Any] = []
    marked: list[tuple[str, ...]] = []

    class Kubectl:
        def patch(self, *arguments: Any) -> bool:
            changed.append(arguments)
            return True

        def run(self, *arguments: str) -> ExecResult:
            marked.append(arguments)
            return ExecResult(1, "", "")  # whether they are marked or not: the Secret has it

    class Target:
        namespace, context = "lab", "kind"

    deployment.__dict__ |= {"kubectl": Kubectl(), "target": Target(), "certificates": "", "proxies": {}}
    before = deployment.secrets_digest()
    logins.Logins(deployment).put_start_page(b"{}")
    assert changed == [
        ("secret", "secrets-mlflow", {"data": {"start-page.json": base64.b64encode(b"{}").decode()}}, "the start page")
    ]
    ((verb, what, selector, *_),) = marked
    assert (verb, what) == ("annotate", "pods") and selector.endswith("app.kubernetes.io/component=mlflow")
    deployment.start_page = b"{}"
    made = {thing["metadata"]["name"]: thing["data"] for thing in secrets.rendered(deployment)}
    assert base64.b64decode(made["secrets-mlflow"]["start-page.json"]) == b"{}"
    assert deployment.secrets_digest() == before


# the browser


@pytest.mark.parametrize(
    ("environ", "there"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "192.0.2.9 5 192.0.2.7 22"}, False),
    ],
)
def test_where_a_window_could_open(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], there: bool) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert browser.has_display(environ) is there


def test_the_token_is_no_programs_argument_where_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))  # type: ignore[func-returns-value]
    link, display = "http://127.0.0.1:8000/start?token=abc&x", {"DISPLAY": ":0"}
    assert browser.show(link, tmp_path, True, display) and browser.show(link, tmp_path, False, display)
    path = tmp_path / browser.FILE
    assert opened == [path.as_uri(), link] and "token=abc&amp;x" in path.read_text()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not browser.show(link, tmp_path, False, {})


def test_a_machine_without_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> bool:
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "open", fail)
    assert not browser.show("http://x/", tmp_path, False, {"DISPLAY": ":0"})


def test_open_prints_the_link_and_the_way_to_it(
    one: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers.cli import options
    from helpers.cli import status as task

    lifecycle.up(one, Silent(), lambda line: None)
    monkeypatch.setattr(options, "load", lambda given: one)
    shown: list[str] = []
    monkeypatch.setattr(browser, "show", lambda link, *_: bool(shown.append(link)))  # type: ignore[func-returns-value]
    task.open_page({})
    printed = capsys.readouterr()
    link = printed.out.strip()
    assert "/start?token=" in link and shown == [link] and "no browser was found" in printed.err
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.9 5 192.0.2.7 22")
    task.open_page({})
    printed = capsys.readouterr()
    assert printed.out.strip() == link and shown == [link] and "your own computer: ssh -N -L" in printed.err


@pytest.mark.parametrize("others", [set(), {"ann"}])
def test_others_do_not_see_the_link_in_a_browsers_arguments(
    one: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: set[str]
) -> None:
    from helpers.cli import options
    from helpers.cli import status as task

    lifecycle.up(one, Silent(), lambda line: None)
    one.state.access["mode"] = OPEN  # MLflow asks for nothing, and JupyterLab does
    assert not one.asks
    monkeypatch.setattr(options, "load", lambda given: one)
    monkeypatch.setattr(access, "other_accounts", lambda *_: others)
    told: list[bool] = []
    monkeypatch.setattr(browser, "show", lambda *words: not told.append(words[2]))  # type: ignore[func-returns-value]
    task.open_page({})
    assert told == [bool(others)]
