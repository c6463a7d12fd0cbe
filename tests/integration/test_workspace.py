"""The notebook's folder on Docker: of another account, of root, read-only; and what is typed then."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone, require_docker
from tests.integration import inspection

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other accounts")


def save(clone: Clone, path: str) -> int:
    """Save a notebook as JupyterLab does; gives the HTTP status."""
    body = json.dumps(
        {
            "type": "notebook",
            "format": "json",
            "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5},
        }
    ).encode()
    request = urllib.request.Request(
        f"{clone.url('jupyter')}/api/contents/{path}",
        body,
        method="PUT",
        headers={"Authorization": f"token {clone.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.docker
def test_a_workspace_of_whom_it_may_be(clone_factory: Callable[..., Clone]) -> None:
    require_docker()
    clone = clone_factory("docker")
    clone.environment |= {"SUDO_UID": "1001", "SUDO_GID": "1001", "SUDO_USER": "someone"}
    clone.up()
    assert inspection.output("docker", "exec", f"{clone.project}-jupyter", "id", "-u").strip() == "1001"
    assert save(clone, "first.ipynb") == 201
    assert "file saved in the workspace" in clone.value("check")

    # somebody took it away under the running notebook
    own = clone.project_folder / "workspace"
    os.chown(own, 0, 0)
    inspection.refused(clone.invoke("check"), 1)
    reported = clone.invoke("doctor")
    assert f"cannot save files in {own}" in reported.stdout and "permissions: chown -hR 1000:100 " in reported.stderr
    os.chown(own, 1001, 1001)

    # course material that root cloned: the printed line makes all of it the notebook's
    course = clone.folder.parent / "my course"
    (course / "week 1").mkdir(parents=True)
    refused = clone.invoke("up", f"--workspace={course}")
    inspection.refused(refused, 1, "belongs to root", f"chown -hR 1000:100 '{course}'")
    line = refused.stderr.rpartition("-> ")[2].partition("   (or")[0]
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    done = clone.invoke("up", f"--workspace={course}")
    assert done.returncode == 0, done.stderr
    assert save(clone, "week%201/lab.ipynb") == 201
    os.chown(course / "week 1", 0, 0)
    again = clone.invoke("up")
    assert again.returncode == 0 and "the notebook cannot save in week 1; if it should: " in again.stderr

    # a file system that cannot be written
    fixed = clone.folder.parent / "fixed"
    fixed.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,uid=1000,gid=100,size=1m", "tmpfs", str(fixed)], check=True)
    try:
        inspection.refused(clone.invoke("up", f"--workspace={fixed}"), 1, "mounted read-only", "mount it writable")
        reported = clone.invoke("doctor")
        assert "mounted read-only" in reported.stdout and "--workspace" in reported.stderr, (
            "it looks at what up was told"
        )
    finally:
        subprocess.run(["umount", str(fixed)], check=True)


@pytest.mark.embedded
def test_a_workspace_that_the_notebooks_account_may_not_write_to(
    clone_factory: Callable[..., Clone], tmp_path: Path
) -> None:
    clone = clone_factory("embedded")
    folder = clone.folder.parent / "work"
    folder.mkdir()
    os.chown(folder, 1234, 1234)
    refused = clone.invoke("up", f"--workspace={folder}")
    inspection.refused(refused, 1, f"cannot save files in {folder}", "chown -hR ")
    line = refused.stderr.rpartition("-> ")[2].partition("   (or")[0]
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    done = clone.invoke("up", f"--workspace={folder}")
    assert done.returncode == 0, done.stderr
    assert "file saved in the workspace" in clone.value("check")
