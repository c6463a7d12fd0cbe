"""Every flag of `up` on every engine: it does something, or it is an error that says what to use instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from invoke.exceptions import Exit

import tasks
from helpers.checks import doctor
from helpers.cli import options
from helpers.engines.base import Engine
from helpers.errors import SettingError
from helpers.gpu.accelerator import Accelerator
from helpers.project import mlflow_jobs
from helpers.project.deployment import Deployment
from helpers.settings import TABLE, Settings, flags, relevance
from helpers.settings.model import BY_OPTION
from tests.unit.fakes import deployed

REMOTE = {"tracking_uri": "https://mlflow.example.org"}
# a value of each flag that is no default
VALUES = {
    "--gpu": "none",
    "--devices": "0",
    "--torch": "cpu",
    "--data-volume": "images",
    "--cull-idle": "2h",
    "--lease-end": "2026-11-28T18:00Z",
    "--object-store": "auto",
    "--mlflow-port": "8100",
    "--jupyter-port": "8101",
    "--s3-port": "9100",
    "--s3-console-port": "9101",
    "--s3-bucket": "mine",
    "--local-access": "token",
    "--certificates": "internal",
    "--mlflow-fast-path": "off",
    "--mlflow-jobs": "on",
    "--domain": "lab.example.org",
    "--public-s3": "true",
    "--bind-address": "127.0.0.2",
    "--engine": "auto",
    "--http-port": "8180",
    "--https-port": "8181",
    "--public-address": "lab.example.org",
    "--ready-timeout": "60",
    "--env": "A=b",
    "--volume": "data:/data",
    "--tracking-uri": "https://mlflow.example.org",
    "--tracking-username": "me",
    "--kube-context": "lab",
    "--kube-namespace": "alice",
    "--gpu-count": "2",
    "--mlflow-replicas": "2",
    "--gateway-service": "nodeport",
    "--notebook-namespaces": "alice,bob",
    "--database-host": "db.example.org",
}
SERVERS_OWN = {
    "--object-store",
    "--s3-port",
    "--s3-console-port",
    "--s3-bucket",
    "--local-access",
    "--mlflow-port",
    "--mlflow-fast-path",
    "--mlflow-jobs",
    "--lease-end",
}
PUBLIC = {"--domain", "--certificates", "--public-s3", "--http-port", "--https-port", "--gateway-service"}
CLUSTER = {
    "--kube-context",
    "--kube-namespace",
    "--gpu-count",
    "--mlflow-replicas",
    "--gateway-service",
    "--notebook-namespaces",
    "--database-host",
}
EMBEDDED = {"--s3-port", "--s3-console-port", "--s3-bucket", "--data-volume", "--volume", "--devices"}
# what is refused: engine, further settings, whether there is a GPU, flags
CASES: list[tuple[str, dict[str, str], bool, set[str]]] = [
    ("docker", {}, True, PUBLIC | CLUSTER | {"--tracking-username"}),
    ("docker", {}, False, PUBLIC | CLUSTER | {"--tracking-username", "--devices"}),
    ("docker", {"public": "true"}, True, CLUSTER | {"--local-access", "--mlflow-jobs", "--tracking-username"}),
    ("docker", REMOTE, True, SERVERS_OWN | PUBLIC | CLUSTER),
    ("embedded", {}, False, EMBEDDED | PUBLIC | CLUSTER | {"--tracking-username"}),
    ("embedded", REMOTE, True, (SERVERS_OWN | EMBEDDED | PUBLIC | CLUSTER) - {"--devices"}),
    ("kubernetes", {}, True, PUBLIC | {"--devices", "--volume", "--tracking-username"}),
    (
        "kubernetes",
        REMOTE,
        False,
        SERVERS_OWN
        | PUBLIC
        | {"--devices", "--gpu-count", "--volume", "--mlflow-replicas", "--notebook-namespaces", "--database-host"},
    ),
]


@dataclass
class Chosen:
    """An engine, as far as it matters here."""

    settings: Settings
    name: str
    gpu: bool | None = True  # None: nobody asks

    @property
    def runs_containers(self) -> bool:
        return self.name in ("docker", "kubernetes")

    @property
    def in_cluster(self) -> bool:
        return self.name == "kubernetes"

    @property
    def can_be_public(self) -> bool:
        return self.runs_containers

    @property
    def deployment(self) -> Deployment:
        return deployed(self.settings)

    @property
    def object_store(self) -> str:
        chosen = self.settings.object_store
        return chosen if chosen != "auto" else "versitygw" if self.runs_containers else "folder"

    @property
    def accelerator(self) -> Accelerator:
        assert self.gpu is not None, "the GPU does not matter"
        return Accelerator("amd" if self.gpu else "none")


def chosen(
    tmp_path: Path, engine: str, flags: dict[str, str | None], environ: dict[str, str], gpu: bool | None = True
) -> relevance.Chosen:
    given = {f"TRACKBED_{name.upper()}": value for name, value in environ.items()}
    result = Settings.load(
        flags,
        {"HOME": "/nonexistent", "TRACKBED_STATE_DIR": str(tmp_path / "s"), **given},
        tmp_path / "clone" / ".env",
        {},
    )
    return cast(relevance.Chosen, Chosen(result, engine, gpu))


@pytest.mark.parametrize(("engine", "others", "gpu", "refused"), CASES)
@pytest.mark.parametrize("option", VALUES)
def test_every_flag_on_every_engine(
    tmp_path: Path, engine: str, others: dict[str, str], gpu: bool, refused: set[str], option: str
) -> None:
    name = BY_OPTION[option].name
    environ = {key: value for key, value in others.items() if key != name.lower()}
    given = chosen(tmp_path, engine, {name.lower(): VALUES[option]}, environ, gpu)
    if option not in refused:
        relevance.check(given)
        return
    with pytest.raises(SettingError) as caught:
        relevance.check(given)
    assert caught.value.message.startswith(f"{option}={VALUES[option]} has no effect ") and caught.value.hint
    # the same from .env or the environment is for the other engine: allowed, and named by doctor
    elsewhere = chosen(tmp_path, engine, {}, environ | {name.lower(): VALUES[option]}, gpu)
    relevance.check(elsewhere)
    assert any(name in line for lines in relevance.idle(elsewhere, gpu).values() for line in lines)


def test_every_flag_of_up_is_walked_over() -> None:
    options = {row.option for row in flags.taken("up").values()}
    # what names the project, and a file or folder each, which mean the same on both engines
    assert options - {"--project", "--state-dir", "--public", "--workspace", "--tracking-ca"} == VALUES.keys()


def test_every_condition_is_known_and_every_flag_says_what_instead() -> None:
    for setting in TABLE:
        assert set(setting.only) <= relevance.CONDITIONS.keys(), setting.name


def test_what_forgets_a_setting_is_always_taken(tmp_path: Path) -> None:
    relevance.check(chosen(tmp_path, "embedded", {"s3_port": "", "domain": "", "jupyter_volumes": ""}, {}))


def test_a_folder_is_a_data_set_everywhere(tmp_path: Path) -> None:
    relevance.check(chosen(tmp_path, "embedded", {"data_volume": str(tmp_path)}, {}))


def test_all_devices_may_be_named_without_a_gpu(tmp_path: Path) -> None:
    relevance.check(chosen(tmp_path, "embedded", {"devices": "all"}, {}, gpu=False))


def test_nothing_is_asked_of_the_machine_without_need(tmp_path: Path) -> None:
    relevance.check(chosen(tmp_path, "embedded", {"mlflow_port": "8100"}, {}, gpu=None))


def test_doctor_names_what_has_no_effect(tmp_path: Path) -> None:
    engine = chosen(tmp_path, "embedded", {}, {"s3_port": "9100", "mlflow_port": "8100"}, gpu=False)
    result = doctor._check_settings(cast(Engine, cast(Any, engine)))
    assert [(str(f.level), f.detail) for f in result] == [
        ("ok", "no effect on the embedded engine: S3_PORT (TRACKBED_S3_PORT)")
    ]


@pytest.mark.parametrize("engine", ["docker", "embedded"])
def test_where_models_may_be_means_nothing_without_jobs(tmp_path: Path, engine: str) -> None:
    alone = chosen(tmp_path, engine, {}, {"mlflow_jobs_models": "any"})
    assert relevance.idle(alone) == {"without MLFLOW_JOBS=on": ["MLFLOW_JOBS_MODELS (TRACKBED_MLFLOW_JOBS_MODELS)"]}
    assert relevance.idle(chosen(tmp_path, engine, {}, {"mlflow_jobs_models": "any", "mlflow_jobs": "on"})) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "off: `invoke up --mlflow-jobs=on` offers"),
        ({"mlflow_jobs": "on"}, "on: judges, evaluations and automatic"),
        ({"mlflow_jobs": "on"}, "public https addresses"),
        ({"mlflow_jobs": "on", "mlflow_jobs_models": "any"}, "any address"),
        ({"mlflow_jobs": "on", "public": "true"}, "off: with PUBLIC=true"),
    ],
)
def test_one_line_says_whether_jobs_are_on(tmp_path: Path, given: dict[str, str], words: str) -> None:
    assert words in mlflow_jobs.summary(deployed(chosen(tmp_path, "docker", {}, given).settings))
    assert mlflow_jobs.summary(deployed(chosen(tmp_path, "docker", {}, REMOTE).settings)) == ""


def test_a_hint_names_flags_that_exist() -> None:
    import re

    for setting in TABLE:
        for option in re.findall(r"--[a-z0-9-]+", setting.instead):
            named = next(one for one in TABLE if one.option == option)
            assert set(setting.tasks) <= set(named.tasks), f"{setting.name}: who gets the hint has no {option}"


@pytest.mark.parametrize(
    ("task", "flags", "said"),
    [
        ("up", {"name_prefix": "two"}, "--name-prefix has no effect without --dry-run."),
        ("up", {"dry_run": True, "adopt": True}, "--adopt has no effect with --dry-run"),
        ("up", {"dry_run": True, "yes": True}, "--yes has no effect with --dry-run"),
        ("up", {"dry_run": True, "on_boot": True}, "--on-boot has no effect with --dry-run"),
        ("restore", {"source": "x", "into": "two", "no_backup": True}, "--no-backup has no effect with --into"),
        ("status", {"json": True, "format": "env"}, "--json and --format=env contradict each other"),
    ],
)
def test_flags_that_need_or_exclude_each_other(
    task: str,
    flags: dict[str, Any],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(options, "load", lambda flags: None)  # it is refused before anything is looked at
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(Exit) as caught:
        tasks.namespace[task].body(None, **flags)
    assert caught.value.code == 2 and said in capsys.readouterr().err
