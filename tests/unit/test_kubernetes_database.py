"""DATABASE_HOST: a PostgreSQL of the user's in the place of ours; on a kubectl that answers as a real one did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import start
from helpers.data import database
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.kubernetes import kustomization, objects
from helpers.engines.kubernetes.database import SERVER
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.errors import ServiceFailed, SettingError, WrongProject
from helpers.findings import Level
from helpers.services import POSTGRES
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

HOST = {"database_host": "db.example.org", "postgres_password": "a-password-of-mine"}
CLAIM = {"kind": "PersistentVolumeClaim", "metadata": {"name": "data-postgres-0"}}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKubectl:
    return FakeKubectl(tmp_path / "bin", monkeypatch)


def external(folder: Path, **given: str) -> KubernetesEngine:
    return KubernetesEngine(project(folder, engine="kubernetes", **HOST, **given))


def is_ours(engine: KubernetesEngine) -> dict[str, Any]:
    notes = {objects.INSTANCE: engine.project.state.instance}
    return {"kind": "Namespace", "metadata": {"name": "trackbed", "annotations": notes}, "status": {"phase": "Active"}}


@pytest.mark.parametrize(
    ("given", "uri", "told"),
    [
        (
            {},
            "postgresql+psycopg2://mlflow@db.example.org:5432/mlflow?sslmode=require",
            {"PGHOST": "db.example.org", "PGPORT": "5432", "PGSSLMODE": "require"},
        ),
        (
            {"database_host": "db:6432", "database_tls": "off"},
            "postgresql+psycopg2://mlflow@db:6432/mlflow?sslmode=disable",
            {"PGHOST": "db", "PGPORT": "6432", "PGSSLMODE": "disable"},
        ),
    ],
)
def test_server_and_programs_are_told_where_it_is(
    tmp_path: Path, kubectl: FakeKubectl, given: dict[str, str], uri: str, told: dict[str, str]
) -> None:
    deployment = KubernetesEngine(project(tmp_path, engine="kubernetes", **{**HOST, **given})).deployment
    maps = kustomization.environments(deployment)
    assert maps["mlflow"]["MLFLOW_BACKEND_STORE_URI"] == uri and maps["postgres"] == told
    assert kustomization.components(deployment) == ["database-client"]


def test_its_databases_are_made_by_the_servers_own_role(tmp_path: Path, kubectl: FakeKubectl) -> None:
    engine = external(tmp_path)
    kubectl.answer("get namespace trackbed ", is_ours(engine))
    kubectl.answer(" exec ", "mlflow\n")
    database.databases(engine)
    (line,) = [line for line, _ in kubectl.calls if " exec " in line]
    assert " -U mlflow -d postgres " in line
    assert KubernetesEngine(project(tmp_path / "b", engine="kubernetes")).deployment.database_admin == "postgres"


def test_a_server_that_refuses_says_what_its_administrator_types(tmp_path: Path, kubectl: FakeKubectl) -> None:
    engine = external(tmp_path)
    kubectl.answer(" exec ", "", 'psql: error: FATAL:  role "mlflow" does not exist\n', 2)
    with pytest.raises(
        ServiceFailed, match="the PostgreSQL at db.example.org:5432 refuses: .* does not exist"
    ) as caught:
        engine.database.settle(Silent())
    assert "CREATE ROLE mlflow LOGIN CREATEDB" in caught.value.hint
    assert caught.value.service == POSTGRES


def test_too_few_connections_are_told(tmp_path: Path, kubectl: FakeKubectl) -> None:
    engine, said = external(tmp_path), Silent()
    kubectl.answer(" exec ", "100\n")
    engine.database.settle(said)
    (line,) = said.steps
    assert "allows 100 connections, and MLflow's pods may open 145" in line and "MLFLOW_WORKERS" in line
    assert engine.deployment.connections_problem(145) == ""
    for answer, level in (("100\n", Level.WARNING), ("200\n", Level.OK)):
        kubectl.answer(" exec ", answer)
        (found,) = engine.database.findings()
        assert found.level is level and "db.example.org:5432" in found.detail


def test_another_server_than_the_datas_is_refused(tmp_path: Path, kubectl: FakeKubectl) -> None:
    engine = external(tmp_path)
    engine.database.check()
    kubectl.answer("get persistentvolumeclaim data-postgres-0", CLAIM)
    with pytest.raises(WrongProject, match=r"is in volume claim data-postgres-0 .* means db.example.org:5432"):
        engine.database.check()
    engine.database.keep()
    engine.database.check()
    assert engine.project.state.active[SERVER] == "db.example.org:5432"
    engine.project.state.save()
    for given in ({"database_host": "other.example.org"}, {"database_host": ""}):
        again = KubernetesEngine(project(tmp_path, engine="kubernetes", **{**HOST, **given}))
        with pytest.raises(WrongProject, match=r"this project's database is in db.example.org:5432"):
            again.database.check()


def test_what_stays_there_is_told(tmp_path: Path, kubectl: FakeKubectl) -> None:
    engine = external(tmp_path)
    engine.database.keep()
    (line,) = engine.remove_data(Silent())
    assert "the database mlflow stays in the PostgreSQL at db.example.org:5432" in line
    assert SERVER not in engine.project.state.active


def test_other_engines_refuse_it_wherever_it_comes_from(tmp_path: Path) -> None:
    engine = DockerEngine(project(tmp_path, **HOST))
    with pytest.raises(SettingError, match=r"DATABASE_HOST=db.example.org \(from .*\): the docker engine has a Post"):
        start.check_database(engine)


def test_it_needs_its_password(tmp_path: Path) -> None:
    engine = KubernetesEngine(project(tmp_path, engine="kubernetes", database_host="db.example.org"))
    with pytest.raises(SettingError, match="POSTGRES_PASSWORD is missing"):
        start.check_database(engine)
