"""What people do in a project in the cluster on their first day, beside what test_platform.py has."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Clone
from tests.integration import inspection
from tests.integration.test_terminals import lab, test_terminal_is_bash_with_the_notebooks_programs_first
from tests.integration.workload import Lab
from tests.kubernetes import cluster

__all__ = ["lab", "test_terminal_is_bash_with_the_notebooks_programs_first"]


def test_the_demo_trains_in_the_notebooks_pod(deployment: Clone) -> None:
    done = deployment.invoke("demo", "--epochs=2")
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip().rpartition("/")[2]
    assert inspection.mlflow(deployment, f"runs/get?run_id={run}")["run"]["info"]["status"] == "FINISHED"


def test_the_welcome_notebook_runs_in_a_new_workspace(deployment: Clone, lab: Lab) -> None:
    cells = lab.download("welcome.ipynb")["cells"]
    code = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
    assert "View run" in lab.run_cells(code, "welcome.ipynb").stdout
    lab.delete("examples/3-sweep.ipynb")
    lines = dict(line.split(maxsplit=1) for line in deployment.value("examples").splitlines())
    assert lines["examples/3-sweep.ipynb"] == "added" and lines["welcome.ipynb"] == "up to date"


def test_a_data_set_comes_into_a_claim_and_goes_again(deployment: Clone, tmp_path: Path) -> None:
    for part in ("training", "validation", "evaluation"):
        for kind in ("bread", "soup"):
            (tmp_path / "food" / part / kind).mkdir(parents=True)
            (tmp_path / "food" / part / kind / "1.jpg").write_bytes(kind.encode())
    done = deployment.invoke("data.add", "food11", f"--from={tmp_path / 'food'}")
    assert done.returncode == 0 and done.stdout.strip() == "/mnt/Food-11", done.stderr
    try:
        listed = deployment.value("data.list")
        assert "food11" in listed and "whole" in listed
        again = deployment.invoke("data.add", "food11", f"--from={tmp_path / 'food'}")
        assert again.returncode == 0 and "nothing to do" in again.stderr, again.stderr
        removed = deployment.invoke("data.remove", "food11", "--yes")
        assert removed.returncode == 0 and "removed food11" in removed.stderr, removed.stderr
    finally:  # the other tests' project is planned without it
        cluster.kubectl("delete", "persistentvolumeclaim", "food11", f"--namespace={deployment.project}")


def test_the_start_page_leads_to_services_that_it_sees(deployment: Clone) -> None:
    opened = deployment.invoke("open", BROWSER="")
    assert opened.returncode == 0, opened.stderr
    status, page = inspection.ask(opened.stdout.strip())
    assert status == 200 and f"{deployment.url('jupyter')}/lab" in page
    told = json.loads(inspection.ask(f"{deployment.url('mlflow')}/start.json")[1])
    assert {one["state"] for one in told["services"]} == {"ready"}, told
