"""Machines as they are: surroundings that are not the tests' own, and every task in them. Nothing is "unexpected"."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from helpers import references
from tests.conftest import Clone, require_docker
from tests.integration import inspection

TASKS = (
    ("status",),
    ("doctor",),
    ("check",),
    ("usage",),
    ("backup", "--to={folder}/b.trackbed"),
    ("jupyter-url",),
    ("credentials",),
    ("down",),
)


def umask(clone: Clone, value: str) -> None:
    """From now on the clone's tasks run with this umask."""
    clone.command = ("sh", "-c", f'umask {value}; exec "$@"', "sh", *clone.command)


@pytest.mark.embedded
def test_a_user_with_umask_077_a_closed_home_and_odd_paths(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("embedded", user=True)
    base = clone.folder.parent
    home, state = base / "closed home", base / "my state 100% %(x)s"
    for folder, mode in ((home, 0o555), (state, 0o700)):
        folder.mkdir()
        if os.geteuid() == 0:
            owner = clone.folder.stat()
            os.chown(folder, owner.st_uid, owner.st_gid)
        folder.chmod(mode)
    clone.state = state
    clone.environment |= {"HOME": str(home), "TRACKBED_STATE_DIR": str(state)}
    umask(clone, "077")
    clone.up()
    for words in TASKS:
        done = clone.invoke(*(word.format(folder=state) for word in words))
        assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    # a full disk cut off what Python was writing
    cut = list((clone.project_folder / "embedded" / "pycache").rglob("*.pyc"))
    assert cut
    for path in cut:
        os.truncate(path, path.stat().st_size * 2 // 3)
    first = clone.invoke("up")
    if first.returncode:
        inspection.refused(first, 1, "its byte code is damaged", "`invoke up` removes it")
    clone.up()


@pytest.mark.embedded
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_state_folder_where_programs_may_not_run(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("embedded")
    clone.state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,size=8m,mode=755", "tmpfs", str(clone.state)], check=True)
    try:
        for task in ("doctor", "up"):
            done = clone.invoke(task)
            assert done.returncode == 1 and "noexec" in done.stdout + done.stderr
            assert "--state-dir=FOLDER" in done.stderr and "unexpected" not in done.stderr
    finally:
        subprocess.run(["umount", str(clone.state)], check=True)


@pytest.mark.docker
def test_somebody_elses_compose_project_of_the_same_name(clone_factory: Callable[..., Clone]) -> None:
    require_docker()
    clone = clone_factory("docker")
    image = references.image("postgres").reference  # it has a shell's tools
    labels = {
        "project": clone.project,
        "service": "postgres",
        "oneoff": "False",
        "project.working_dir": "/home/ada/lab",
    }
    words = [word for name, value in labels.items() for word in ("--label", f"com.docker.compose.{name}={value}")]
    theirs = inspection.output(
        "docker", "run", "--detach", "--network", "none", "--entrypoint", "sleep", *words, image, "600"
    ).strip()
    try:
        for task in ("up", "down", "doctor"):
            done = clone.invoke(task)
            reported = f"another Compose project is called {clone.project}" in done.stdout + done.stderr
            assert task == "down" or (done.returncode == 1 and reported)
        assert clone.invoke("down", "--delete-data", "--yes").returncode == 0
        assert inspection.output("docker", "inspect", "--format", "{{.State.Running}}", theirs).strip() == "true"
    finally:
        inspection.output("docker", "rm", "--force", theirs)
