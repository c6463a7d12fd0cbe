"""What somebody types out of habit or by mistake: every wrong line leads on, help fits the terminal."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.exceptions import Exit

import command_line
import tasks
from helpers.cli import help as pages
from helpers.cli import mistakes
from helpers.settings import sources
from helpers.settings.flags import given
from helpers.settings.model import BY_OPTION
from helpers.settings.parsers import ParseContext

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
        ("users.create ann", "Did you mean users.add?"),
        ("users.create ann", "-> `invoke users.add ann`"),
        ("user.add ann", "Did you mean users.add?"),
        ("user add ann", "-> `invoke users.add ann`"),
        ("users ad ann", "-> `invoke users.add ann`"),
        ("users delete ann --project=x", "-> `invoke users.remove ann --project=x`"),
        ("users ann", "users has list, add, passwd, remove: `invoke --list users`"),
        ("users-add ann", "-> `invoke users.add ann`"),
        ("users_add ann", "-> `invoke users.add ann`"),
        ("users.delete ann", "-> `invoke users.remove ann`"),
        ("users.xyzzy", "users has list, add, passwd, remove: `invoke --list users`"),
        ("rotate", "Did you mean credentials.rotate?"),
        ("credentials.rotat", "Did you mean credentials.rotate?"),
        ("passwd ann", "-> `invoke users.passwd ann`"),
        ("adduser ann", "`invoke users.add NAME`"),
        ("backup.check", "Did you mean backup.verify?"),
        ("backup.repair", "Did you mean backup.verify?"),
        ("users.list ann", "users has list, add, passwd, remove"),
        ("credentials.rotate --json", "these have it: status"),
        ("users.add", "users.add needs NAME: name of the login."),
        ("--list user", "you may want"),
        ("check --json", "these have it: status, explain, usage"),
        ("up --detach", "returns when everything is ready"),
        ("down -v", "`invoke down --delete-data`"),
        ("--lst", "Did you mean --list?"),
        ("up --gpu", "--gpu needs a value: auto, none, amd, nvidia"),
        ("up --gpu --torch=cpu", "--gpu needs a value"),
        ("up --gpu --dry-run", "--gpu needs a value"),
        ("up --env", "--env needs a value"),
        ("up --env --gpu=none", "--env needs a value"),
        ("logs mlflow -n", "--tail needs a value: number of lines"),
        ("bundle --engin=docker", "bundle has no flag --engin. Did you mean --engine?"),
        ("restore --int=copy FILE", "restore has no flag --int. Did you mean --into?"),
        ("bundle --to", "--to needs a value: file to write."),
        ("bundle --to", "-> `invoke bundle --to=FILE`"),
        ("backup --to", "--to needs a value: an absolute folder"),
        ("logs --tail=many", "--tail=many: must be a whole number"),
        ("up --dry-run=yes", "--dry-run takes no value"),
        ("up --gpu=none --gpu=amd", "--gpu is given twice"),
        ("down yes", "yes is a flag"),
        ("up gpu=none", "Did you mean --gpu=none?"),
        ("up gpu=none", "-> `invoke up --gpu=none`"),
        ("up MLFLOW_PORT=8001 --torch=cpu", "-> `invoke up --mlflow-port=8001 --torch=cpu`"),
        ("up chekc", "Did you mean the task check?"),
        ("logs --folow mlflow", "logs has no flag --folow. Did you mean --follow?"),
        ("logs --part=mlflow", "logs has no flag --part."),
        ("logs --part=mlflow", "it is called --service: `invoke logs --service="),
        ("up --gpus=all", "it is called --gpu: `invoke up --gpu="),
        ("status --gpus=all", "it is called --gpu and belongs to up: `invoke up --gpu="),
        ("up --part=mlflow", "it is called --service and belongs to logs: `invoke logs --service="),
        ("backup.list --to=/mnt/backups", "it is a word here: `invoke backup.list PLACE`"),
        ("backup.prune --to=/mnt/backups", "`invoke backup.prune PLACE`"),
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
    reported = capsys.readouterr()
    assert reported.out == "" and said in reported.err and len(reported.err.splitlines()) == 3, reported.err
    assert "Argument" not in reported.err and "No idea" not in reported.err


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
        "users.add ada",
        "up --env A=b --env C=d",
        "up --gpu=",
        "up --env=",
        "-e up",
        "up --complete",
        "--list --list-format=json",
    ],
)
def test_what_is_right_goes_to_invoke(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    assert read(monkeypatch, *line.split()) is None


@pytest.mark.parametrize(
    ("line", "now"),
    [
        ("users add ann", "users.add ann"),
        ("users passwd ann", "users.passwd ann"),
        ("users remove ann", "users.remove ann"),
        ("users list", "users.list"),
        ("users --project=two add ann", "users.add --project=two ann"),
        ("users add ann --project=two --state-dir=/x", "users.add ann --project=two --state-dir=/x"),
        ("users add ann --role=admin", "users.add ann --role=admin"),
        ("credentials rotate", "credentials.rotate"),
        ("credentials rotate --project=two", "credentials.rotate --project=two"),
        ("credentials --init", "prepare"),
        ("credentials.init --project=two", "prepare --project=two"),
        ("status credentials rotate", "status credentials.rotate"),
        ("backup verify /mnt/b --repair", "backup.verify /mnt/b --repair"),
        ("backup create --to=/mnt/b/", "backup.create --to=/mnt/b/"),
    ],
)
def test_a_removed_spelling_answers_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, now: str
) -> None:
    assert read(monkeypatch, *line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and f"error: `invoke {line}` is now `invoke {now}`.\n" in printed.err


@pytest.mark.parametrize("line", ["", "help"])
def test_invoke_alone_says_what_comes_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert read(monkeypatch, *line.split()) == 0
    printed = capsys.readouterr().out
    assert printed.index("invoke up ") < printed.index("invoke open ") < printed.index("invoke down")
    assert "`invoke --list`" in printed and len(printed.splitlines()) <= 30
    for line in (one for lines in pages.FIRST.values() for one in lines):
        command_line.parse(line.split(), tasks.namespace)


@pytest.mark.parametrize("line", ["--list users", "-l users"])
def test_a_noun_is_listed_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert read(monkeypatch, *line.split()) == 0
    printed = capsys.readouterr().out
    assert "users.add" in printed and "status" not in printed


@pytest.mark.parametrize("how", ["--help", "help"])
@pytest.mark.parametrize("name", ["users.add", "users", "users.list", "backup.create"])
def test_help_of_a_noun_s_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str, name: str
) -> None:
    assert read(monkeypatch, how, name) == 0
    printed = capsys.readouterr().out
    assert f"usage: invoke {name}" in printed or f"also: invoke {name}" in printed
    assert "See also:" in printed


@pytest.mark.parametrize("line", ["restore --help", "restore -h", "users.add --help", "import --skip-missing --help"])
def test_help_in_place_of_a_needed_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert read(monkeypatch, *line.split()) == 0
    assert f"usage: invoke {line.split()[0]} " in capsys.readouterr().out


def test_flags_of_settings_stand_under_their_themes() -> None:
    assert set(pages.STARTING) <= {flag.name for flag in KNOWN["up"].flags}
    for one in KNOWN.values():
        headings = [line.rstrip(":") for line in pages.task_help(one, KNOWN, 100) if line.rstrip(":") in pages.SECTIONS]
        flags = [BY_OPTION[flag.option] for flag in one.flags if flag.option in BY_OPTION]
        assert headings == [title for title in pages.SECTIONS if any(row.theme == title for row in flags)]


def test_a_word_that_may_be_left_out() -> None:
    for line, value in [("logs", ""), ("logs mlflow", "mlflow"), ("logs -f jupyter -n 5", "jupyter"), ("logs", "")]:
        assert command_line.parse(line.split(), tasks.namespace)[0].as_kwargs["service"] == value
    assert command_line.parse(["logs", "--service=mlflow"], tasks.namespace)[0].as_kwargs["service"] == "mlflow"
    two = command_line.parse(["build", "mlflow", "logs", "jupyter"], tasks.namespace)
    assert [one.name for one in two] == ["build", "logs"] and two[1].as_kwargs["service"] == "jupyter"


def test_another_program_that_reads_the_tasks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "statsu"])
    command_line.read(tasks.namespace)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("start", "up"), ("stop", "down"), ("ps", "status"), ("url", "jupyter-url"), ("open", "open")],
)
def test_aliases_of_habit(alias: str, name: str) -> None:
    assert command_line.parse([alias], tasks.namespace)[0].name == name


def test_short_flags_of_habit() -> None:
    typed = command_line.parse(["logs", "-f", "-n", "5"], tasks.namespace)[0].as_kwargs
    assert (typed["follow"], typed["tail"]) == (True, 5)
    assert command_line.parse(["down", "-y"], tasks.namespace)[0].as_kwargs["yes"] is True


KNOWN = command_line.known(tasks.namespace)


@pytest.mark.parametrize("width", [30, 50, 80])
@pytest.mark.parametrize("name", ["", *KNOWN])
def test_help_fits_the_terminal(name: str, width: int) -> None:
    lines = pages.task_help(KNOWN[name], KNOWN, width) if name else pages.listing(KNOWN, width) + pages.overview(width)
    for line in lines:
        typed = line.startswith(("  invoke", "  eval", "usage", "`inv"))
        assert len(line) <= width or len(line.split()) <= 2 or typed, line


def test_every_task_is_in_a_group_and_every_flag_has_help() -> None:
    assert {name for names in pages.GROUPS.values() for name in names} == KNOWN.keys()
    for task in KNOWN.values():
        assert all(flag.help for flag in task.flags), task.name


def test_every_task_has_examples() -> None:
    assert pages.EXAMPLES.keys() == KNOWN.keys()


@pytest.mark.parametrize("task", KNOWN.values(), ids=KNOWN)
def test_an_example_is_of_its_task_and_could_be_typed_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: pages.TaskHelp
) -> None:
    """Also a line of a shell: what `invoke` gets of it. Flags that are settings have values that may be set."""
    read_as = []
    for example in pages.examples(task):
        typed = re.search(r"invoke ([^)|]+)", example)
        assert typed is not None, example
        words = shlex.split(typed[1])
        assert read(monkeypatch, *words) is None, example  # Invoke goes on, and refuses nothing
        for context in command_line.parse(words, tasks.namespace):
            read_as.append(context.name)
            own = {f"--{(a.name or '').strip('_').replace('_', '-')}": a for a in context.args.values()}
            for option, argument in own.items():
                if option in BY_OPTION and argument.value not in (None, []):
                    flags = given({option: argument.value})
                    value = sources.from_flags(flags)[BY_OPTION[option].name]
                    sources.parse(BY_OPTION[option], value, ParseContext(tmp_path, str(tmp_path)))
    noun = task.name.partition(".")[0]
    assert {task.name, task.full} & set(read_as)
    assert all((name or "").partition(".")[0] == noun for name in read_as)


def test_advice_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    advice = (*mistakes.HABITS.values(), *mistakes.FLAG_HABITS.values())
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
    assert "usage: invoke logs [SERVICE] [flags]" in done.stdout and "  -n, --tail=LINES\n" in done.stdout
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


def test_only_what_was_typed_has_arguments_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_arguments() -> set[str]:
        return {context.name or "" for context in tasks.namespace.to_contexts() if context.args}

    assert read(monkeypatch, "ps", "--json", "backup") is None  # by their other names
    assert with_arguments() == {"status", "backup.create"}
    assert all(command_line.known(tasks.namespace)[name].flags for name in ("up", "down", "status"))
    assert {"up", "down", "status"} < with_arguments()
    assert read(monkeypatch, "up", "--gpuu=none") == 2 and "logs" in with_arguments()
