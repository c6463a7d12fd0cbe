"""JupyterLab's terminal is the notebook's environment, whatever the machine's or the person's shell files say."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.conftest import Clone
from tests.integration import inspection
from tests.integration.terminals import Terminal
from tests.integration.workload import Lab

# the program that a name means, and whether it is the notebook's Python that runs it
PROGRAMS = "for name in python python3 pip mlflow jupyter; do command -v $name; done"


def folders(words: str) -> set[str]:
    return {str(PurePosixPath(word).parent) for word in words.split()}


@pytest.fixture
def lab(deployment: Clone) -> Lab:
    return Lab(deployment.value("jupyter-url"))


def test_terminal_is_bash_with_the_notebooks_programs_first(deployment: Clone, lab: Lab) -> None:
    kernel = lab.run_cells(["import sys, shutil; print(sys.prefix); print(shutil.which('mlflow'))"]).stdout.split()
    with Terminal(lab) as terminal:
        assert terminal.type("echo $BASH_VERSION") and "bash" in terminal.type("echo $SHELL")
        path = terminal.type("echo $PATH").split(":")
        result = terminal.type(PROGRAMS).split()
        assert len(result) == 5 and folders(" ".join(result)) <= set(path[:2]), (result, path)
        assert terminal.type("python -c 'import sys; print(sys.prefix)'") == kernel[0]
        assert terminal.type("command -v mlflow") == kernel[1]
        # a login shell, as tmux starts one
        assert terminal.type(f"bash -lc '{PROGRAMS}'").split() == result
        assert terminal.type(f"bash -lic '{PROGRAMS}' 2>/dev/null").split() == result


WHEEL = """
import zipfile
with zipfile.ZipFile("tb_tiny-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tb_tiny.py", "import sys; place = sys.prefix")
    info, end = "tb_tiny-1.0.dist-info/", ",,\\n"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: tb-tiny\\nVersion: 1.0\\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(info + "RECORD", end.join(["tb_tiny.py", info + "METADATA", info + "WHEEL", info + "RECORD", ""]))
"""


def test_what_pip_installs_in_a_terminal_is_there_in_kernels(lab: Lab) -> None:
    lab.run_cells([WHEEL])
    with Terminal(lab) as terminal:
        terminal.type("pip install -q --no-index --disable-pip-version-check ./tb_tiny-1.0-py3-none-any.whl")
        try:
            seen_by = lab.run_cells(["import sys, tb_tiny; print(tb_tiny.place == sys.prefix)"]).stdout.strip()
            assert seen_by == "True" and terminal.type("python -c 'import tb_tiny; print(1)'") == "1"
        finally:
            terminal.type("pip uninstall -qy tb-tiny; rm tb_tiny-1.0-py3-none-any.whl")


def test_mlflows_command_finds_its_server_from_a_terminal(deployment: Clone, lab: Lab) -> None:
    run = inspection.new_run(deployment)
    with Terminal(lab, timeout=120) as terminal:
        assert terminal.type("python -c 'import mlflow; print(mlflow.get_tracking_uri())'").startswith("http")
        assert run in terminal.type("COLUMNS=250 mlflow runs list --experiment-id 0 2>/dev/null")


def test_a_persons_own_shell_files_count_and_do_not_hide_the_notebooks_python(lab: Lab) -> None:
    with Terminal(lab) as terminal:
        expected = terminal.type("command -v python")
        terminal.type(
            "cp ~/.bashrc ~/.bashrc.kept 2>/dev/null; "
            "echo 'export MINE=yes PATH=/usr/bin:/bin:/usr/sbin; alias ours=true' >~/.bashrc"
        )
    try:
        with Terminal(lab) as terminal:
            assert terminal.type("echo $MINE; alias ours").startswith("yes")
            assert terminal.type("command -v python") == expected
            assert terminal.type("bash -ic 'echo $MINE' 2>/dev/null") == "yes"
    finally:
        with Terminal(lab) as terminal:
            terminal.type("rm ~/.bashrc; mv ~/.bashrc.kept ~/.bashrc 2>/dev/null")
