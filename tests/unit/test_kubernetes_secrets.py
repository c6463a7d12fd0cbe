"""Secrets for objects that are applied by hand: every file that docker/kubernetes mounts and names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.engines.kubernetes.new_secrets import OPERATOR, secrets
from tests.unit.test_kubernetes_yaml import COMPONENTS, OBJECTS, TEMPLATES, literals
from tests.unit.test_notebook import settings


def made(tmp_path: Path, **environ: str) -> dict[str, dict[str, str]]:
    """The content of each Secret by its name."""
    items: list[dict[str, Any]] = secrets(settings(tmp_path, PUBLIC="true", **environ))["items"]
    return {item["metadata"]["name"]: item["stringData"] for item in items}


def test_every_secret_that_a_pod_mounts_is_made(tmp_path: Path) -> None:
    mounted = {
        volume["secret"]["secretName"]
        for template in TEMPLATES.values()
        for volume in template["spec"]["volumes"]
        if "secret" in volume and volume["secret"]["secretName"] != "secrets-backup"  # `backup.schedule` makes it
    }
    named = OBJECTS["Cluster", "postgres"]["spec"]["bootstrap"]["initdb"]["secret"]["name"]
    assert named == OPERATOR
    assert made(tmp_path).keys() == mounted | {OPERATOR}


@pytest.mark.parametrize("component", ["", *COMPONENTS])
def test_every_file_that_a_variable_names_is_in_its_secret(component: str, tmp_path: Path) -> None:
    content = made(tmp_path)
    for name, values in literals(component).items():
        files = content[f"secrets-{'store' if name == 'store-sync' else name.partition('-')[0]}"]
        for value in values.values():
            if match := re.fullmatch(r"/run/secrets/(.+)", value):
                assert match[1] in files, f"{name}: {value}"


def test_they_are_new_each_time_but_for_what_is_given(tmp_path: Path) -> None:
    first, second = (made(tmp_path, POSTGRES_PASSWORD="a-password-of-mine") for _ in range(2))
    assert (
        first["secrets-mlflow"]["pgpass"] == "*:*:*:mlflow:a-password-of-mine\n" == second["secrets-mlflow"]["pgpass"]
    )
    assert first[OPERATOR] == {"username": "mlflow", "password": "a-password-of-mine"}
    assert first["secrets-jupyter"]["jupyter-token"] != second["secrets-jupyter"]["jupyter-token"]
    assert first["secrets-mlflow"]["access-token"] == first["secrets-jupyter"]["tracking-token"] != ""
    assert not (tmp_path / "state").exists()


def test_a_notebook_alone_has_its_own(tmp_path: Path) -> None:
    content = made(tmp_path, TRACKING_URI="https://mlflow.example.org")
    assert content.keys() == {"secrets-jupyter"} and "tracking-token" in content["secrets-jupyter"]
