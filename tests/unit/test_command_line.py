"""What somebody types out of habit or by mistake: every wrong line leads on, help fits the terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.parser.parser import Parser

import command_line
import command_words
import tasks

ROOT = Path(__file__).resolve().parents[2]


def read(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | None:
    """`invoke WORDS` as far as our reading goes; its exit code, None where Invoke goes on."""
    monkeypatch.setattr(sys, "argv", ["/usr/lib/invoke/__main__.py", *words])
    try:
        command_line.read(tasks.namespace)
    except Exit as end:
        return end.code
    return None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("statsu", "no task statsu. Did you mean status?"),
        ("UP", "Did you mean up?"),
        ("jupyter_url", "Did you mean jupyter-url?"),
        ("backup.verfy", "Did you mean backup.verify?"),
        ("restart", "`invoke down`, then `invoke up`"),
        ("destroy", "`invoke down --delete-data`"),
        ("log", "`invoke logs`"),
        ("xyzzy", "`invoke --list` names them all"),
        ("--help statsu", "Did you mean status?"),
        ("up --gpuu=none", "up has no flag --gpuu. Did you mean --gpu?"),
        ("up --mlflow_port=8001", "Did you mean --mlflow-port?"),
        ("up --mlflow-workers=4", "TRACKBED_MLFLOW_WORKERS=... before the command"),
        ("up --jupyter-env=A=b", "it belongs to up or jupyter: `invoke up --env=...`"),
        ("status --mlflow-port=1", "it belongs to up"),
        ("lock --project=x", "other tasks: `invoke up --project=...`"),
        ("check --json", "these have it: status, credentials, usage"),
        ("up --detach", "returns when everything is ready"),
        ("down -v", "`invoke down --delete-data`"),
        ("--lst", "Did you mean --list?"),
        ("up --gpu", "--gpu needs a value: auto, none, amd, nvidia"),
        ("up --gpu --torch=cpu", "--gpu needs a value"),
        ("up --gpu --dry-run", "--gpu needs a value"),
        ("up --env", "--env needs a value"),
        ("up --env --gpu=none", "--env needs a value"),
        ("logs mlflow -n", "--tail needs a value: lines to show"),
        ("logs --tail=many", "--tail=many: must be a whole number"),
        ("up --dry-run=yes", "--dry-run takes no value"),
        ("up --gpu=none --gpu=amd", "--gpu is given twice"),
        ("down yes", "yes is a flag"),
        ("up chekc", "Did you mean the task check?"),
        ("logs mlflow jupyterr", "logs takes no further word"),
        ("up --public check", "write the flag's value too, as in --public=true check"),
        ("restore", "restore needs SOURCE: what `invoke backup` printed"),
        ("move", "move needs docker|embedded"),
    ],
)
def test_a_wrong_line_leads_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert read(monkeypatch, *line.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and said in told.err and len(told.err.splitlines()) == 2, told.err
    assert "Argument" not in told.err and "No idea" not in told.err


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "start --gpu=none",
        "stop",
        "ps",
        "url",
        "open",
        "logs",
        "logs mlflow",
        "logs mlflow -f",
        "logs -n 5 mlflow",
        "status --json",
        "credentials --json",
        "usage --json",
        "up --public",
        "up --public=false",
        "up check",
        "down --delete-data -y",
        "backup",
        "backup.verify",
        "restore x --into=y",
        "users add ada",
        "up --env A=b --env C=d",
        "up --gpu=",
        "up --env=",
        "-e up",
        "up --complete",
        "--list --list-format=json",
        "--complete -- up",
    ],
)
def test_what_is_right_goes_to_invoke(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    assert read(monkeypatch, *line.split()) is None


def test_another_program_that_reads_the_tasks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "statsu"])
    command_line.read(tasks.namespace)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("start", "up"), ("stop", "down"), ("ps", "status"), ("url", "jupyter-url"), ("open", "jupyter-url")],
)
def test_aliases_of_habit(alias: str, name: str) -> None:
    parsed = Parser(contexts=Collection.from_module(tasks).to_contexts()).parse_argv([alias])
    assert parsed[0].name == name


def test_short_flags_of_habit() -> None:
    parser = Parser(contexts=Collection.from_module(tasks).to_contexts())
    assert parser.parse_argv(["logs", "-f", "-n", "5"])[0].as_kwargs["follow"] is True
    assert parser.parse_argv(["logs", "-f", "-n", "5"])[0].as_kwargs["tail"] == 5
    assert parser.parse_argv(["down", "-y"])[0].as_kwargs["yes"] is True


KNOWN = command_line.known(tasks.namespace)


@pytest.mark.parametrize("width", [30, 50, 80])
@pytest.mark.parametrize("name", ["", *KNOWN])
def test_help_fits_the_terminal(name: str, width: int) -> None:
    lines = command_words.task_help(KNOWN[name], width) if name else command_words.listing(KNOWN, width)
    for line in lines:
        typed = line.startswith(("  invoke", "  eval", "usage", "`inv"))
        assert len(line) <= width or len(line.split()) <= 2 or typed, line


def test_every_task_is_in_a_group_and_every_flag_has_help() -> None:
    assert {name for names in command_words.GROUPS.values() for name in names} == KNOWN.keys()
    for task in KNOWN.values():
        assert all(flag.help for flag in task.flags), task.name
    flags = {flag.name for task in KNOWN.values() for flag in task.flags}
    assert {name for names in command_words.SECTIONS.values() for name in names} <= flags


def test_examples_and_advice_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [one for many in command_words.EXAMPLES.values() for one in many if "invoke" not in one]
    advice = (*command_words.HABITS.values(), *command_words.FLAG_HABITS.values())
    lines += [one for text in advice for one in re.findall(r"`invoke ([^`]+)`", text)]
    for line in lines:
        assert read(monkeypatch, *line.split()) in (None, 0) or "TASK" in line, line


def test_help_of_a_task_through_invoke_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "logs", "--help"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=True,
        env={"PATH": "/usr/bin", "COLUMNS": "50"},
    )
    assert "usage: invoke logs [PART] [flags]" in done.stdout and "  -n, --tail=LINES\n" in done.stdout
    assert "  invoke logs mlflow -f\n" in done.stdout and "-f, --follow" in done.stdout


def test_a_wrong_line_through_invoke_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "up", "--gpu"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: --gpu needs a value")
