"""What bash, zsh and fish offer at the Tab key: asked of the shells themselves, with this clone's own `invoke`."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import command_line
import tasks
from helpers.cli import completion, toolkit
from helpers.cli import help as pages
from helpers.errors import SettingError
from tests.conftest import PATIENCE
from tests.unit.pty_screen import Screen

ROOT = Path(__file__).resolve().parents[2]
KNOWN = command_line.known(tasks.namespace)
FOLDERS = (ROOT, ROOT / "docs")


def offered(line: str) -> list[str]:
    return completion.candidates(KNOWN, line.split(" "))


@pytest.mark.parametrize(
    ("line", "some", "never"),
    [
        ("", {"up", "users.add", "explain"}, {"--gpu="}),
        ("sta", {"status"}, {"up"}),
        ("users.", {"users.add", "users.remove"}, {"users"}),
        ("-", {"--help", "--list"}, {"up"}),
        ("--help u", {"up", "usage"}, {"down"}),
        ("help u", {"up"}, {"down"}),
        ("up ", {"--gpu=", "--dry-run"}, {"up"}),
        ("up --e", {"--engine=", "--env="}, {"--gpu="}),
        ("up --engine=", {"--engine=docker", "--engine=embedded"}, {"--engine="}),
        ("up --engine=e", {"--engine=embedded"}, {"--engine=docker"}),
        ("up --engine e", {"embedded"}, {"docker"}),
        ("up --gpu=", {"--gpu=none", "--gpu=mi100", "--gpu=auto"}, set()),
        ("up --gpu=none --", {"--engine="}, {"--gpu="}),
        ("up --env=A=b --", {"--env="}, set()),
        ("logs ", {"mlflow", "jupyter", "postgres"}, {"up", "--follow"}),
        ("logs m", {"mlflow"}, {"mlflow-url"}),
        ("logs mlflow -", {"--follow", "--tail="}, {"mlflow"}),
        ("explain j", {"jupyter"}, {"jupyter-url"}),
        ("move ", {"docker", "embedded", "kubernetes"}, set()),
        ("build mlflow logs j", {"jupyter"}, set()),
        ("up check --", {"--project="}, {"--gpu="}),
        ("completion ", {"bash", "zsh", "fish"}, set()),
    ],
)
def test_what_is_offered(line: str, some: set[str], never: set[str]) -> None:
    result = set(offered(line))
    assert some <= result and not never & result, result


@pytest.mark.parametrize(
    "line", ["restore ", "restore /mn", "up --workspace=", "backup --to=/", "xyzzy --", "logs -n "]
)
def test_where_a_file_or_a_number_may_stand_nothing_is_offered(line: str) -> None:
    assert [one for one in offered(line) if not one.startswith("--")] == []


def test_what_a_candidate_means_is_said_behind_it() -> None:
    listed = dict(line.split("\t") for line in completion.described(KNOWN, ["up", "--"]))
    assert listed["--dry-run"].startswith("Print the plain commands") and "Port of" in listed["--mlflow-port="]
    tasks_listed = dict(line.split("\t") for line in completion.described(KNOWN, [""]))
    assert tasks_listed["status"] == "Show each service with its state, URL and memory"
    assert completion.described(KNOWN, ["up", "--engine=e"]) == ["--engine=embedded"]
    for task in KNOWN:
        words = [task, "--"]
        assert [one.partition("\t")[0] for one in completion.described(KNOWN, words)] == offered(" ".join(words))


def test_every_flag_with_few_values_offers_them() -> None:
    for task in KNOWN.values():
        for flag in task.flags:
            if "|" in (name := pages.value_name(flag)) and not flag.word:
                assert offered(f"{task.name} {flag.option}=") == [f"{flag.option}={value}" for value in name.split("|")]


def test_without_a_shell_one_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "")
    with pytest.raises(SettingError, match="SHELL is not set") as raised:
        toolkit.completion("")
    assert raised.value.hint == "name it: `invoke completion bash`"
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    toolkit.completion("")
    assert "function __trackbed" in capsys.readouterr().out


def shell(name: str) -> str:
    """The shell's program; the test is skipped, or fails in CI, where there is none."""
    if program := shutil.which(name):
        return program
    if os.environ.get("TRACKBED_REQUIRE_SHELLS") == "1":
        pytest.fail(f"TRACKBED_REQUIRE_SHELLS=1, but no {name} is installed")
    pytest.skip(f"NOT TESTED: no {name} on this machine")


def invoke() -> Path:
    """The clone's own `invoke`, which is not on PATH."""
    return Path(sys.executable).with_name("invoke")


def script(name: str, folder: Path) -> Path:
    done = subprocess.run(
        [str(invoke()), "completion", name], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    path = folder / f"completion.{name}"
    path.write_text(done.stdout)
    return path


INTERACTIVE = {"bash": ("--norc", "--noprofile", "-i"), "zsh": ("-f", "-i")}


@pytest.mark.parametrize("name", ["bash", "zsh"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_tab_key(name: str, folder: Path, tmp_path: Path) -> None:
    """`invoke` is not on PATH: it is typed with its path, as README has it."""
    program, source = shell(name), script(name, tmp_path)
    (tmp_path / "bin").mkdir()
    typed = tmp_path / "bin" / "invoke"
    typed.write_text(f'#!/bin/sh\nexec {invoke()} "$@"\n')
    typed.chmod(0o755)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        environment = {"PATH": "/usr/bin:/bin", "TERM": "dumb", "HOME": str(tmp_path), "PS1": "$ ", "LC_ALL": "C"}
        os.execve(program, [program, *INTERACTIVE[name]], environment)
    screen = Screen(terminal)

    def said(pattern: str) -> None:
        screen.wait(pattern)
        screen.shown = ""

    def send(text: str) -> None:
        os.write(terminal, text.encode())

    send(f"source {source}; echo sour''ced\r")
    said("sourced")
    send(f"echo {typed} statu\x15{typed} statu\t")  # what was typed first is removed again
    said(r"statu\x07?s")
    send(f"\x15{typed} up --engine=emb\t")
    said(r"engine=emb(edded|.*edded)")
    send(f"\x15{typed} logs mlfl\t")
    said(r"mlfl\x07?ow")
    send("\x15exit\r")
    end = time.monotonic() + PATIENCE
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < end
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, 1 << 16)
            except OSError:
                pass
    os.close(terminal)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_fish(folder: Path, tmp_path: Path) -> None:
    program, source = shell("fish"), script("fish", tmp_path)
    (tmp_path / "data").mkdir()

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            [program, "--no-config", "-c", f"source {source}; complete -C '{line}'"],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert complete(f"{invoke()} statu") == ["status"]
    assert complete("invoke statu") == ["status"], "not on PATH, it is the clone's own"
    assert complete("invoke up --engine=e") == ["--engine=embedded"]
    assert {"mlflow", "jupyter"} <= set(complete("invoke logs "))
    assert complete(f"invoke up --workspace={tmp_path}/da") == [f"--workspace={tmp_path}/data/"]


# asks the shell's function as the Tab key does, in a line that says what it was given
ASKED = {
    "bash": "COMP_WORDS=({0} sta) COMP_LINE='{0} sta' COMP_POINT=999; _trackbed; echo ${{COMPREPLY[*]}}",
    "zsh": "compdef() {{ }}; compadd() {{ print -- $@ }}; source {1}; words=({0} sta) CURRENT=2; _trackbed; "
    "compadd() {{ print -- $others_shown }}; _trackbed",
    "fish": "complete -C '{0} sta'",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root is kept from it")
@pytest.mark.parametrize("name", completion.SHELLS)
def test_the_tab_key_runs_nothing_of_the_folder_that_root_stands_in(name: str, tmp_path: Path) -> None:
    """It may be the notebook's, and Invoke runs the tasks.py that it finds there."""
    program, source = shell(name), script(name, tmp_path)
    (tmp_path / "workspace").mkdir()
    trap = f"#!/bin/sh\ntouch {tmp_path}/ran\n"
    (tmp_path / "workspace" / "tasks.py").write_text(f"open('{tmp_path}/ran', 'w')\n")
    (tmp_path / "workspace" / "invoke").write_text(trap)
    (tmp_path / "workspace" / "invoke").chmod(0o755)
    for typed in (str(invoke()), "./invoke"):
        done = subprocess.run(
            [program, "-c", f"{'' if name == 'zsh' else f'source {source}; '}{ASKED[name].format(typed, source)}"],
            cwd=tmp_path / "workspace",
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "status" in done.stdout and not (tmp_path / "ran").exists(), done.stdout + done.stderr
