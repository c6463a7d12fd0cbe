"""More of Trackbed's tasks, as tasks.py has them: data sets, the demo, explanations."""

# As in tasks.py nothing heavy may be imported here.
from __future__ import annotations

from invoke.context import Context

from command_line import TABLE_OR_JSON, task
from helpers.settings.flags import Flags

DATA_SET = {"name": "Name of the data set, as in food11"}


@task(
    word="service",
    help={
        "service": "Service: postgres, store, mlflow, jupyter, gateway, ... (default: all, in short)",
        **TABLE_OR_JSON,
    },
)
def explain(context: Context, given: Flags, service: str = "", format: str = "table", json: bool = False) -> None:
    """Explain the system, or one service: what it is for, what really runs, the same by hand, what configures it."""
    from helpers.cli import explain

    explain.explained(given, service, format, json)


@task(
    word="shell",
    help={"shell": "Shell: bash, zsh or fish (default: that of SHELL)"},
)
def completion(context: Context, shell: str = "") -> None:
    """Print what makes a shell complete tasks, flags and their values at the Tab key."""
    from helpers.cli import toolkit

    toolkit.completion(shell)


@task(name="list", help=TABLE_OR_JSON)
def data(context: Context, given: Flags, format: str = "table", json: bool = False) -> None:
    """List the data sets that the notebook reads, with where they came from. Nothing has to run."""
    from helpers.cli import datasets

    datasets.list_sets(given, format, json)


@task(
    name="add",
    positional=["name"],
    help={
        **DATA_SET,
        "from_": "Where it is: https://..., a folder, an archive (.zip, .tar.gz) or s3://BUCKET/PREFIX",
        "sha256": "SHA-256 that the archive must have",
    },
)
def data_add(context: Context, given: Flags, name: str, from_: str = "", sha256: str = "") -> None:
    """Add a data set in class folders for the notebook, checked. Interrupted, the same command goes on."""
    from helpers.cli import datasets

    datasets.add(given, name, from_, sha256)


@task(name="remove", positional=["name"], help={**DATA_SET, "yes": "Do not ask"})
def data_remove(context: Context, given: Flags, name: str, yes: bool = False) -> None:
    """Remove a data set, or what an interrupted `data.add` has left. Shows what will go and asks."""
    from helpers.cli import datasets

    datasets.remove(given, name, yes)


@task(help={"epochs": "Number of rounds through the data"})
def demo(context: Context, given: Flags, epochs: int = 20) -> None:
    """Train a small model in the notebook, logged live to MLflow; prints the run's link and draws its accuracy."""
    from helpers.cli import lab

    lab.run_demo(given, epochs)
