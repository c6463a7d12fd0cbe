"""The lessons of a new workspace, as its first reader goes through them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Clone
from tests.integration.workload import Lab, WorkloadError

LIGHTNING = "examples/2-lightning.ipynb"
NO_TORCH = "This notebook has no torch, torchvision, lightning"


def lessons(lab: Lab) -> list[str]:
    listed = lab.request("GET", "contents/examples")["content"]
    return ["welcome.ipynb", *sorted(one["path"] for one in listed if one["type"] == "notebook")]


def run(lab: Lab, name: str) -> str:
    """Run all cells of a notebook of the workspace, where it is; gives what it prints."""
    cells = lab.download(name)["cells"]
    return lab.run_cells(["".join(one["source"]) for one in cells if one["cell_type"] == "code"], name).stdout


@pytest.mark.docker
def test_each_lesson_runs_through(deployments: Callable[[str], Clone]) -> None:
    """Lightning's lesson says what to type where there is no PyTorch; `nox -s pytorch` runs it with one."""
    lab = Lab(deployments("docker").value("jupyter-url"))
    names = lessons(lab)
    assert len(names) == 6
    for name in names:
        if name == LIGHTNING:
            with pytest.raises(WorkloadError, match=NO_TORCH):
                run(lab, name)
        else:
            assert ("View run" in (text := run(lab, name))) or "question: Where do aliases live?" in text, name


def test_invoke_examples_brings_what_is_missing_and_leaves_what_was_changed(deployment: Clone) -> None:
    lab = Lab(deployment.value("jupyter-url"))
    sweep, registry = "examples/3-sweep.ipynb", "examples/4-registry.ipynb"
    given = lab.download(registry)
    workspace = deployment.project_folder / "workspace"
    assert {path.stat().st_uid for path in workspace.rglob("*.ipynb")} == {workspace.stat().st_uid}
    lab.delete(sweep)
    lab.upload(registry, {**given, "cells": given["cells"][:1]})
    try:
        lines = dict(line.split(maxsplit=1) for line in deployment.value("examples").splitlines())
        assert lines[sweep] == "added" and lines["welcome.ipynb"] == "up to date"
        assert lines[registry].startswith("changed by you, left unchanged")
        assert len(lab.download(registry)["cells"]) == 1 and lab.download(sweep)["cells"]
    finally:
        lab.upload(registry, given)
