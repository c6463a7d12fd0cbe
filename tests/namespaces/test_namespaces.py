"""Engines with user namespaces, started by the test: what a normal user types on them, and whose the files are."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone, as_user, make_clone, require_docker
from tests.integration import inspection
from tests.integration.test_workspace import save
from tests.second_engine import Engine, Rootless, network_namespace

pytestmark = pytest.mark.timeout(1800)
ACCOUNT, REMAPPED = "tb-rootless", "dockremap"  # dockerd makes the second one itself
PROGRAMS = ("dockerd", "useradd", "rootlesskit", "slirp4netns", "newuidmap")


@pytest.fixture(scope="module")
def account() -> Iterator[str]:
    """A normal user with subordinate ids."""
    require_docker()
    if missing := [name for name in PROGRAMS if shutil.which(name) is None] or (["root"] if os.geteuid() else []):
        pytest.skip(f"NOT TESTED: an engine with user namespaces needs {', '.join(missing)}")
    existed = inspection.run("id", REMAPPED).returncode == 0
    inspection.run("userdel", "-r", ACCOUNT)  # of a run that was killed
    inspection.output("useradd", "--create-home", "--shell", "/bin/bash", ACCOUNT)
    tun, mode = Path("/dev/net/tun"), os.stat("/dev/net/tun").st_mode & 0o777
    tun.chmod(0o666)  # as udev leaves it on every machine
    yield ACCOUNT
    tun.chmod(mode)
    inspection.run("userdel", "-r", ACCOUNT)
    if not existed:
        inspection.run("userdel", REMAPPED)


@pytest.fixture(scope="module", params=["rootless", "userns-remap"])
def engine(request: pytest.FixtureRequest, account: str, deployments: Callable[[str], Clone]) -> Iterator[Engine]:
    first = deployments("docker")  # its images are there
    folder = Path(tempfile.mkdtemp(prefix="tb-engine-", dir="/var/tmp"))
    folder.chmod(0o755)
    created = Rootless(folder, account) if request.param == "rootless" else Engine(folder, "--userns-remap=default")
    later = folder / "later"  # what is mounted there later reaches a rootless engine, as everywhere below systemd
    later.mkdir()
    with network_namespace():  # a rootless engine has one anyway
        try:
            inspection.output("mount", "--bind", str(later), str(later))
            inspection.output("mount", "--make-shared", str(later))
            created.start()
            (folder / "docker.sock").chmod(0o666)  # whoever is in its group
            created.load_images_of(first)
            yield created
        finally:
            inspection.run("umount", "-R", str(later))
            created.close()


@pytest.fixture(scope="module")
def clone(engine: Engine, account: str) -> Iterator[Clone]:
    folder = Path(tempfile.mkdtemp(prefix="trackbed-test-"))
    folder.chmod(0o755)
    created = make_clone(folder, "docker")
    as_user(created, folder, account)
    config = folder / "home" / ".docker"  # the engine by its context alone, as its own setup tool leaves it
    created.environment["DOCKER_CONFIG"] = str(config)
    for argv in (
        ["docker", "context", "create", "own", "--docker", f"host={engine.host}"],
        ["docker", "context", "use", "own"],
    ):
        subprocess.run(argv, env=created.environment, check=True, capture_output=True, timeout=60)
    subprocess.run(["chown", "-R", f"{account}:", str(config)], check=True, timeout=60)
    yield created
    created.invoke("down", "--delete-data", "--yes")
    shutil.rmtree(folder, ignore_errors=True)


def typed(account: str, script: str) -> str:
    """A line in the person's own shell on the machine."""
    return inspection.output(
        "setpriv", f"--reuid={account}", f"--regid={account}", "--init-groups", "--", "sh", "-c", script
    )


def test_a_persons_first_hour(clone: Clone, account: str) -> None:
    clone.up()
    assert "file saved in the workspace" in clone.value("check")
    own = clone.project_folder / "workspace"
    assert save(clone, "first.ipynb") == 201
    # what the notebook saved is the person's to read, edit and delete; what the person made is the notebook's
    typed(
        account,
        f"cd {own} && cat first.ipynb >/dev/null && echo >>first.ipynb && rm -r first.ipynb "
        ".ipynb_checkpoints && mkdir lab && echo own >lab/mine.txt",
    )
    assert save(clone, "lab/second.ipynb") == 201
    typed(account, f"rm -r {own}/lab")
    assert own.stat().st_uid == Path(clone.folder).stat().st_uid
    assert "permissions   ok" in clone.value("doctor")

    archive = clone.folder.parent / "home" / "backup.tar"
    clone.value("backup", f"--to={archive}")
    clone.value("down")
    assert "stopped" in clone.invoke("status").stdout
    clone.up()
    clone.value("restore", f"--source={archive}", "--yes")
    clone.value("down", "--delete-data", "--yes")
    assert own.is_dir(), "notebooks are nobody's data to delete"


def test_a_workspace_that_cannot_be_written(clone: Clone, account: str) -> None:
    fixed = clone.folder.parent / "fixed"
    fixed.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(fixed)], check=True, timeout=60)
    try:
        inspection.refused(clone.invoke("up", f"--workspace={fixed}"), 1, "mounted read-only", "mount it writable")
    finally:
        subprocess.run(["umount", str(fixed)], check=True, timeout=60)
    foreign = clone.folder.parent / "foreign"
    foreign.mkdir()
    os.chown(foreign, 4321, 4321)
    refused = clone.invoke("up", f"--workspace={foreign}")
    inspection.refused(refused, 1, "belongs to uid 4321", "chown -hR ")
    line = refused.stderr.rpartition("-> ")[2].partition("   (or")[0].removeprefix("sudo ")
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    done = clone.invoke("up", f"--workspace={foreign}")
    assert done.returncode == 0, done.stderr
    assert save(clone, "third.ipynb") == 201


@pytest.fixture
def closed_to_root(clone: Clone, engine: Engine, account: str) -> Iterator[Path]:
    """A folder of the person that root may not enter: a FUSE mount, as a file server with root_squash is."""
    if shutil.which("bindfs") is None:
        pytest.skip("NOT TESTED: a folder that root may not enter needs bindfs")
    real, place = clone.folder.parent / "real", engine.folder / "later" / "closed"
    for folder in (real, place):
        folder.mkdir()
        shutil.chown(folder, account)
    fuse, mode = Path("/dev/fuse"), os.stat("/dev/fuse").st_mode & 0o777
    fuse.chmod(0o666)  # as udev leaves it on every machine
    typed(account, f"exec bindfs --no-allow-other {real} {place} >/dev/null 2>&1")
    try:
        with pytest.raises(PermissionError):
            place.stat()
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)
        fuse.chmod(mode)


def test_a_workspace_that_root_may_not_enter(clone: Clone, engine: Engine, account: str, closed_to_root: Path) -> None:
    clone.value("down")
    if isinstance(engine, Rootless):  # is the person, who may
        clone.value("up", f"--workspace={closed_to_root}/lab")
        assert save(clone, "fourth.ipynb") == 201
        typed(account, f"rm {closed_to_root}/lab/fourth.ipynb")
        clone.value("down")  # which lets go of the mount
        return
    for task in ("up", "doctor"):
        done = clone.invoke(task, f"--workspace={closed_to_root}/lab")
        reported = " ".join((done.stdout + done.stderr).split())
        assert (
            done.returncode == 1
            and "the Docker engine may not enter WORKSPACE" in reported
            and "root_squash" in reported
        )
