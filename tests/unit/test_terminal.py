"""What JupyterLab's terminals start, run by a real shell with made start-up files."""

from __future__ import annotations

import ast
import os
import pty
import subprocess
from pathlib import Path

from helpers import clone
from helpers.engines import jupyterlab
from helpers.engines.embedded import overlay
from helpers.settings import Settings
from tests.conftest import PATIENCE


def command(tmp_path: Path) -> list[str]:
    reported = Settings.load({}, {"TRACKBED_STATE_DIR": str(tmp_path / "state")}, tmp_path / "clone" / ".env", {})
    option = jupyterlab.options(reported)[0]
    words = ast.literal_eval(option.removeprefix("--ServerApp.terminado_settings="))["shell_command"]
    return [str(word) for word in words]


def typed(tmp_path: Path, line: str, **environment: str) -> str:
    """What a terminal prints for a line; its prompts and echo go to the terminal, which nobody reads."""
    terminal, inside = pty.openpty()
    try:
        os.write(terminal, f"{line}\nexit\n".encode())
        done = subprocess.run(
            command(tmp_path),
            stdin=inside,
            stderr=inside,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
            start_new_session=True,
            env={
                "PATH": os.defpath,
                "HOME": str(tmp_path),
                "TRACKBED_STARTUP": str(clone.SHELL_FILES),
                "TRACKBED_PROGRAMS": "/note book/bin:/locked/bin",
                **environment,
            },
        )
    finally:
        os.close(terminal)
        os.close(inside)
    return done.stdout


def test_the_persons_file_counts_and_the_notebooks_programs_come_first(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("PATH=/own/bin:$PATH; MINE=yes\n")
    shown = typed(tmp_path, 'echo "$MINE $PATH ${BASH_VERSION:+bash}"')
    assert shown == f"yes /note book/bin:/locked/bin:/own/bin:{os.defpath} bash\n"


def test_a_path_that_is_right_is_left_alone(tmp_path: Path) -> None:
    right = f"/note book/bin:/locked/bin:{os.defpath}"
    assert typed(tmp_path, "echo $PATH", PATH=right) == f"{right}\n"


def test_an_image_without_our_files_has_a_terminal_too(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("MINE=yes\n")
    for place in ("/nonexistent", ""):
        assert typed(tmp_path, 'echo "$MINE ${BASH_VERSION:+bash}"', TRACKBED_STARTUP=place) == "yes bash\n"


def test_another_shell_can_be_chosen_and_sh_is_not_one(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho chosen\n")
    other.chmod(0o755)
    assert typed(tmp_path, "", SHELL=str(other)) == "chosen\n"
    for shell in ("/bin/sh", "/bin/bash", "/usr/sbin/nologin", ""):
        assert typed(tmp_path, "echo ${BASH_VERSION:+bash}", SHELL=shell) == "bash\n"


def test_a_login_shell_of_the_notebooks_account(tmp_path: Path) -> None:
    overlay.profile(str(tmp_path))
    (tmp_path / ".bashrc").write_text("MINE=yes\n")
    environment = {
        "HOME": str(tmp_path),
        "TRACKBED_STARTUP": str(clone.SHELL_FILES),
        "TRACKBED_PROGRAMS": "/a/bin:/b/bin",
    }
    shown = subprocess.run(
        ["bash", "-lc", 'echo "$MINE $PATH"'],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert shown.startswith("yes /a/bin:/b/bin:")


def test_a_login_file_of_the_persons_own_stays(tmp_path: Path) -> None:
    (tmp_path / ".bash_login").write_text("mine\n")
    overlay.profile(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".bash_login"]
