"""`invoke explain`: what runs, in words, on an engine that nothing above it has heard of, and without a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invoke.exceptions import Exit

import lab_tasks
from helpers import explain, lifecycle, status
from helpers.cli import options
from helpers.engines import select
from helpers.engines.base import Details, Hide
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.supervisor import Supervisor
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.services import (
    JUPYTER,
    MLFLOW,
    POSTGRES,
    TITLES,
    Mount,
    Network,
    Port,
    SecretFile,
    ServiceSpec,
    ServiceStatus,
    State,
)
from helpers.settings import BY_NAME
from helpers.settings.model import TABLE
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project
from tests.unit.memory_engine import MemoryEngine, Web

PRIVATE = "sesame-sesame"


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setitem(select.ENGINES, MemoryEngine.name, MemoryEngine)
    monkeypatch.setattr(MemoryEngine, "web", Web(), raising=False)
    monkeypatch.setattr(MemoryEngine, "running", {})
    monkeypatch.setattr(MemoryEngine, "volumes", set())
    (tmp_path / "clone").mkdir()
    created = project(tmp_path, jupyter_env=f"HF_HUB={PRIVATE}", mlflow_port="18000")
    created.state.engine = MemoryEngine.name
    created.settings.workspace.mkdir(parents=True)
    created.state.save()
    monkeypatch.setattr(options, "load", lambda given: replace(created))  # a command of its own
    yield created
    MemoryEngine.web.close()


def said(capsys: pytest.CaptureFixture[str], *words: str, **flags: Any) -> str:
    lab_tasks.explain.body(None, service="".join(words), **flags)
    return capsys.readouterr().out


def test_a_service_that_runs_and_one_that_does_not(one: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert "It is not running" in (text := said(capsys, "postgres")) and "postgres: PostgreSQL, missing" in text
    lifecycle.up(one, Silent(), lambda line: None)
    text = said(capsys, "mlflow")
    assert "mlflow: MLflow, ready" in text and "127.0.0.1:18000" in text
    assert "MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow@/mlflow" in text
    assert "postgres: rows, in SQL" in text and "jupyter: logs runs, over HTTP" in text
    assert "    MLFLOW_PORT=18000" in text and "--mlflow-port" in text
    assert "MLFLOW_IMAGE" not in text, "this engine has no images"


def test_a_wrong_name_leads_on(one: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as ended:
        said(capsys, "mlflw")
    text = capsys.readouterr().err
    assert ended.value.code == 2 and "Did you mean mlflow?" in text and "  -> write mlflow\n" in text


@pytest.mark.parametrize("columns", ["50", "80"])
def test_the_whole_system(
    one: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = said(capsys)
    assert all(f"{name}: {TITLES[name]}" in text for name in (POSTGRES, MLFLOW, JUPYTER))
    assert max(map(len, text.splitlines())) <= int(columns)
    assert text.count("asked by") == 2, "nobody asks the notebook"
    reported = json.loads(said(capsys, json=True))
    assert reported["engine"] == "memory" and [one["service"] for one in reported["services"]] == [
        *(POSTGRES, MLFLOW, JUPYTER)
    ]


def test_no_secret_is_shown(one: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of the project's, not what a person put into the notebook's environment, not a login in a URL."""
    one.state.existed = True
    token = one.credentials()["JUPYTER_TOKEN"]
    proxy, url = "http://ann:sesame@proxy:3128", "https://bob:sesame@example.org/x"
    hidden = {"HF_HUB": PRIVATE, "https_proxy": proxy, "A": token, "B": url}
    plan = replace(
        one_plan := MemoryEngine(one).plan(),
        services=tuple(replace(spec, environment={**hidden, "PLAIN": "yes"}) for spec in one_plan.services),
        networks=(Network("inner", internal=True),),
        secrets=(SecretFile(JUPYTER, "box", "token", "{JUPYTER_TOKEN}", ("JUPYTER_TOKEN",), 1, 1),),
    )
    runs = ServiceSpec(
        JUPYTER,
        "JupyterLab",
        command=("serve", f"--token={token}"),
        environment={**hidden, "PLAIN": "yes", "LATER": PRIVATE},
        ports=(Port("http", 8888, 18888),),
        mounts=(Mount("volume", "box", "/run/secrets", read_only=True),),
        networks=("inner",),
    )

    def details(self: MemoryEngine, service: str, hide: Hide) -> Details:
        spec = hide(runs)
        return Details(spec, lines=(("by hand", " ".join([*spec.command, *spec.environment.values()])),))

    monkeypatch.setattr(MemoryEngine, "plan", lambda self: plan)
    monkeypatch.setattr(MemoryEngine, "details", details)
    for text in (said(capsys, "jupyter"), said(capsys, "jupyter", json=True)):
        assert token not in text and "sesame" not in text
        assert "HF_HUB=***" in text and "LATER=***" in text and "PLAIN=yes" in text and "--token=***" in text
        assert "JUPYTER_TOKEN in /run/secrets/token" in text and "inner (no way out)" in text


def test_explaining_makes_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a secret for a project that nobody has made, and none of one that is there, whatever is given."""
    created = project(tmp_path, engine="embedded", gpu="none", postgres_password="sesame-sesame", local_access="token")
    monkeypatch.setattr(options, "load", lambda given: replace(created))
    monkeypatch.setattr(EmbeddedEngine, "services", lambda self, detail=False: [ServiceStatus(MLFLOW, State.MISSING)])
    monkeypatch.setattr(
        EmbeddedEngine, "details", lambda self, service, hide: Details(hide(self.plan().service(service)), True)
    )
    assert "TRACKBED_SECRETS" in said(capsys, "mlflow")
    assert not (tmp_path / "state").exists()
    folder = tmp_path / "state" / created.settings.project / "secrets"
    folder.mkdir(parents=True)
    (folder / "POSTGRES_PASSWORD").write_text("that-of-the-database")
    assert "sesame-sesame" not in said(capsys, "mlflow")
    assert [(one.name, one.read_text()) for one in folder.iterdir()] == [("POSTGRES_PASSWORD", "that-of-the-database")]


def test_where_a_secret_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "generated" where somebody gave it, or where there is none."""
    monkeypatch.setattr(MemoryEngine, "object_store", "folder")
    created = project(
        tmp_path, postgres_password="sesame-sesame", tracking_uri="https://m.example.org", tracking_password="sesame"
    )
    created.only_look()
    engine = MemoryEngine(created)
    wanted = {
        "POSTGRES_PASSWORD": ("***", "TRACKBED_POSTGRES_PASSWORD"),
        "JUPYTER_TOKEN": ("", "generated"),
        "TRACKING_PASSWORD": ("***", "TRACKBED_TRACKING_PASSWORD"),
        "TRACKING_TOKEN": ("", "default"),
        "S3_SECRET_KEY": ("", "generated"),
        "S3_ACCESS_KEY": ("", "generated"),
    }
    assert {name: explain._of_secret(created, engine, name) for name in wanted} == wanted
    monkeypatch.setattr(MemoryEngine, "object_store", "external")
    assert explain._of_secret(created, engine, "S3_SECRET_KEY") == ("", "default")
    assert explain._of_secret(created, engine, "S3_ACCESS_KEY") == ("", "default")


def test_settings_of_env_have_the_values_that_it_says(tmp_path: Path) -> None:
    """Not the default beside the line of .env; and an access key as a secret's name."""
    (tmp_path / "clone").mkdir()
    lines = ("MLFLOW_PORT=48000", "S3_ACCESS_KEY=sesame-sesame", "CULL_IDLE=30m", "WORKSPACE=~/notes")
    (tmp_path / "clone" / ".env").write_text("\n".join(lines))
    created = project(tmp_path, jupyter_port="48888")
    created.only_look()
    engine = MemoryEngine(created)
    shown = {name: (value, origin) for name, value, origin in explain._settings(created, engine, MLFLOW)}
    shown |= {name: (value, origin) for name, value, origin in explain._settings(created, engine, JUPYTER)}
    assert shown["MLFLOW_PORT"] == ("48000", ".env line 1")
    assert explain._of_secret(created, engine, "S3_ACCESS_KEY") == ("***", ".env line 2")
    assert shown["CULL_IDLE"] == ("30m", ".env line 3") and shown["WORKSPACE"] == ("~/notes", ".env line 4")
    assert shown["JUPYTER_PORT"] == ("48888", "--jupyter-port") and shown["GPU"] == ("auto", "default")
    assert "sesame" not in str([*shown.values()])
    created.state.remember({"CULL_IDLE": "45m"})
    created.state.save()
    (tmp_path / "clone" / ".env").unlink()
    later = project(tmp_path)
    later.only_look()
    shown = {name: (value, origin) for name, value, origin in explain._settings(later, MemoryEngine(later), JUPYTER)}
    assert shown["CULL_IDLE"] == ("45m", "the last up")


def test_a_plan_that_cannot_be_made_hides_no_service_that_runs(
    one: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle.up(one, Silent(), lambda line: None)
    spec = MemoryEngine(one).plan().service(MLFLOW)

    def no_plan(self: MemoryEngine) -> None:
        raise TrackbedError("the GPU has gone")

    statuses = MemoryEngine(one).services()
    monkeypatch.setattr(MemoryEngine, "services", lambda self, detail=False: statuses)
    monkeypatch.setattr(MemoryEngine, "details", lambda self, service, hide: Details(hide(spec)))
    monkeypatch.setattr(MemoryEngine, "plan", no_plan)
    assert "MLFLOW_BACKEND_STORE_URI=***" in said(capsys, "mlflow")


def test_every_service_and_every_setting_is_explained() -> None:
    assert explain.PURPOSES.keys() == explain.SETTINGS.keys() == TITLES.keys()
    listed = {name for names in explain.SETTINGS.values() for name in names}
    assert listed <= BY_NAME.keys()
    # of no one service: where and how a project runs, its images' way, its data sets' and backups' places
    apart = {"REGISTRY_MIRROR", "BUILD_NETWORK", "KUBE_CONTEXT", "KUBE_NAMESPACE", "IMAGE_REGISTRY", "LEASE_END"}
    themes = ("Project and engine", "Backups", "Import")
    assert {row.name for row in TABLE if row.theme not in themes} - listed - apart == set()


def test_an_embedded_service_is_explained_by_what_its_supervisor_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EmbeddedEngine(project(tmp_path))
    wrapped = ("python", "-I", "-S", "/app/launch.py", "trackbed-nb", "44,27", "/work", "jupyter", "lab")
    told = {"TRACKBED_TO_SERVICE_HOME": "/home"}
    monkeypatch.setattr(engine.layout, "check", lambda: None)
    monkeypatch.setattr(Supervisor, "running", lambda self: True)
    monkeypatch.setattr(Supervisor, "applied", lambda self, name: (wrapped, told, "/"))
    monkeypatch.setattr(Supervisor, "states", lambda self: {})
    details = engine.details(JUPYTER, lambda spec: spec)
    assert not details.planned
    assert (details.spec.user, details.spec.working_dir, details.spec.command) == (
        *("trackbed-nb", "/work"),
        ("jupyter", "lab"),
    )
    assert details.spec.environment == {"HOME": "/home"}
    ((what, line),) = details.lines
    assert what == "the command that runs" and line.startswith("cd /work && ") and line.endswith("jupyter lab")


def test_a_service_of_a_cluster_is_explained_by_its_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = FakeKubectl(tmp_path / "bin", monkeypatch)
    engine = KubernetesEngine(project(tmp_path, engine="kubernetes", kube_context="lab"))
    labels = {objects.PART: "mlflow"}
    pod = {
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001},
        "containers": [{"name": "mlflow", "image": "i:1", "env": [{"name": "A", "value": "1"}]}],
    }
    kubectl.answer(
        r"get \S+ -o json",
        {
            "items": [
                {
                    "kind": "Deployment",
                    "metadata": {"name": "mlflow", "labels": labels},
                    "spec": {"template": {"spec": pod}},
                },
                {"kind": "Service", "metadata": {"name": "mlflow", "labels": labels}},
                {"kind": "Service", "metadata": {"name": "store", "labels": {objects.PART: "store"}}},
            ]
        },
    )
    monkeypatch.setattr(engine.namespace, "refuse_others", lambda: None)
    details = engine.details(MLFLOW, lambda spec: spec)
    assert (details.planned, details.spec.image, details.spec.user) == (False, "i:1", "10001:10001")
    assert [line for what, line in details.lines if what == "objects"] == ["deployment/mlflow", "service/mlflow"]
    assert (
        f"kubectl --context=lab --namespace={engine.deployment.target.namespace} get deployment/mlflow service/mlflow"
        in [line for _, line in details.lines]
    )


def test_what_runs_is_told_by_the_same_words_as_status(one: Project) -> None:
    lifecycle.up(one, Silent(), lambda line: None)
    engine = MemoryEngine(one)
    assert [each.state for each in explain.system(engine, status.overview(engine))] == ["ready"] * 3
