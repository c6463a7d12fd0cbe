"""The notebook's folder: who writes to it, and what is said when nothing can be saved there."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import docker.errors
import pytest

from helpers import safe_files, workspace
from helpers.engines.base import Engine, ExecResult
from helpers.engines.docker import id_mapping, mapped_workspace
from helpers.engines.docker.client import DockerApi
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.docker.id_mapping import IdMapping
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.engines.docker.workspace import Workspace
from helpers.engines.host import LOCAL
from helpers.errors import TrackbedError
from helpers.findings import Level
from helpers.project import workspace_folder
from tests.conftest import PATIENCE
from tests.unit.fakes import project

OTHER = 1234


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other accounts can reach; pytest's own they cannot."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        folder = Path(name, "my work 100%")
        folder.mkdir()
        yield folder


def engine(folder: Path, uid: int = OTHER, answer: ExecResult | None = None) -> Engine:
    """One whose notebook is a process of this machine, or that answers what it is told."""

    def run(service: str, argv: tuple[str, ...], timeout: float = 0) -> ExecResult:
        if answer is not None:
            return answer
        who = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **who)  # type: ignore[call-overload]
        return ExecResult(done.returncode, done.stdout, done.stderr)

    return cast(
        Engine,
        SimpleNamespace(
            exec=run,
            workspace_inside=str(folder),
            workspace_fix=lambda: "the fix",
            deployment=SimpleNamespace(workspace=folder),
        ),
    )


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other accounts")


@as_root
def test_a_file_is_saved_and_nothing_stays(place: Path) -> None:
    os.chown(place, OTHER, OTHER)
    assert workspace.attempt(engine(place)) == workspace.Writing()
    assert list(place.iterdir()) == []


@as_root
def test_folders_in_it_that_are_closed_are_named(place: Path) -> None:
    os.chown(place, OTHER, OTHER)
    (place / "course").mkdir()
    (place / "own").mkdir()
    os.chown(place / "own", OTHER, OTHER)
    (place / "own" / "deep").mkdir()
    (place / "link").symlink_to("/etc")
    result = workspace.attempt(engine(place))
    assert result.closed == ("course", "own/deep") and result.problem == ""
    assert list(workspace.Trial().require(engine(place))) == [
        "warning: the notebook cannot save in course, own/deep; if it should: the fix"
    ]


@as_root
def test_a_folder_of_another_account_is_an_error(place: Path) -> None:
    with pytest.raises(TrackbedError) as caught:
        workspace.Trial().require(engine(place))
    assert f"cannot save files in {place}" in caught.value.message and "denied" in caught.value.message.lower()
    assert caught.value.hint == "the fix"
    place.chmod(0o700)
    assert "cannot save files" in workspace.attempt(engine(place)).problem


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ("sh: 4: cannot create .trackbed-7: Read-only file system", 8, "mount it writable"),
        ("sh: write error: No space left on device", 8, "free some space"),
        ("sh: write error: Disk quota exceeded", 8, "free some space"),
        ("sh: cd: can't cd to /w: Stale file handle", 9, "`invoke down`, then `invoke up`"),
        ("sh: cannot create .trackbed-7: Permission denied", 8, "the fix"),
        ("Error response from daemon: container x is not running", 1, "`invoke logs jupyter`"),
    ],
)
def test_the_reason_leads_to_the_fix(words: str, code: int, fix: str) -> None:
    result = workspace.attempt(engine(Path("/srv/my work"), answer=ExecResult(code, words + "\n", "")))
    assert words.rpartition(": ")[2] in result.problem and fix in result.fix


def test_what_the_notebook_prints_is_no_terminals(place: Path) -> None:
    words = "\x1b]0;owned\x07"
    assert "\x1b" not in workspace.attempt(engine(place, answer=ExecResult(8, words, ""))).problem
    closed = workspace.attempt(engine(place, answer=ExecResult(0, f"closed {words}/\n", ""))).closed
    assert "\x1b" not in "".join(closed)


def test_what_was_begun_beside_something_else_is_not_done_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, asked = engine(place, answer=ExecResult(0, "closed course/\n", "")), list[str]()
    begun = ExecResult(0, "closed own/\n", "")

    def begin(service: str, argv: tuple[str, ...], timeout: float) -> Callable[[], ExecResult]:
        asked.append(argv[-1])
        return lambda: begun

    monkeypatch.setattr(one, "begin", begin, raising=False)
    trial = workspace.Trial()
    trial.begin(one)
    assert asked == [str(place)] and "cannot save in own;" in "".join(trial.require(one))
    trial.forget()  # the notebook was started again
    assert "cannot save in course;" in "".join(trial.require(one))
    begun = ExecResult(8, "No space left on device", "")
    trial.begin(one)
    with pytest.raises(TrackbedError, match="No space left"):
        trial.require(one)


@pytest.mark.parametrize("code", [1, 126, 137])
def test_a_try_that_ended_with_the_notebook_is_made_again(
    place: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(place, answer=ExecResult(0, "", ""))
    ended = ExecResult(code, "the container is not running", "")
    monkeypatch.setattr(one, "begin", lambda *_: lambda: ended, raising=False)
    trial = workspace.Trial()
    trial.begin(one)
    assert trial.require(one) == ()

    def gone(*_: object) -> Callable[[], ExecResult]:
        raise TrackbedError("jupyter has no container")

    monkeypatch.setattr(one, "begin", gone)
    trial.begin(one)
    assert trial.require(one) == ()


# who will own it


def test_a_workspace_that_is_not_there_yet_will_be_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = project(tmp_path).settings
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert workspace_folder.owner(settings.workspace) == workspace_folder.UID
    monkeypatch.setenv("SUDO_UID", "1001")
    assert workspace_folder.owner(settings.workspace) == 1001
    monkeypatch.setattr(os, "geteuid", lambda: 1002)
    assert workspace_folder.owner(settings.workspace) == 1002


@as_root
def test_what_a_mode_shows(place: Path) -> None:
    problem, fix = workspace_folder.problem(place, 1000)
    assert "belongs to root" in problem and fix.startswith(f"chown -hR 1000:100 '{place}'")
    os.chown(place, 1000, 100)
    assert workspace_folder.problem(place, 1000) == ("", "")
    place.chmod(0o555)
    assert "by its owner" in workspace_folder.problem(place, 1000)[0]
    os.chown(place, 0, 100)
    place.chmod(0o775)
    assert workspace_folder.problem(place, 1000) == ("", ""), "its group may"
    info = place.stat()
    group = info.st_gid
    assert workspace_folder.problem(place, info.st_uid + 1, group + 1)[0]
    assert workspace_folder.problem(place, info.st_uid + 1, group + 1, (7, group)) == ("", ""), "further groups too"


# user namespaces


def test_accounts_of_an_engine_without_user_namespaces() -> None:
    plain = id_mapping.read({"SecurityOptions": ["name=seccomp,profile=builtin"]})
    assert plain == IdMapping() and plain.to_container(1234) == plain.to_host(1234) == 1234


def test_accounts_of_a_remapped_engine() -> None:
    info = {"SecurityOptions": ["name=seccomp", "name=userns"], "DockerRootDir": "/var/lib/docker/100000.100000"}
    result = id_mapping.read(info)
    assert (result.kind, result.to_host(1000), result.to_container(101000)) == ("userns-remap", 101000, 1000)
    assert result.to_container(1000) is None and result.to_container(0) is None
    unknown = id_mapping.read({"SecurityOptions": ["name=userns"], "DockerRootDir": "/var/lib/docker"})
    assert unknown.to_host(1000) is None and unknown.to_container(101000) is None


def test_accounts_of_a_rootless_engine(tmp_path: Path) -> None:
    own, listed = os.geteuid(), tmp_path / "subuid"
    listed.write_text(f"somebody:100000:65536\n{own}:165536:65536\n")
    result = id_mapping.read({"SecurityOptions": ["name=rootless"]}, str(listed))
    assert (result.to_container(own), result.to_host(0)) == (0, own)
    assert (result.to_container(166535), result.to_host(1000)) == (1000, 166535)
    assert id_mapping.read({"SecurityOptions": ["name=rootless"]}, str(tmp_path / "none")).to_host(1000) is None


@as_root
def test_root_asks_another_users_rootless_engine(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER, OTHER)
    result = id_mapping.read({"SecurityOptions": ["name=rootless"], "DockerRootDir": str(tmp_path)})
    assert result.root_uid == OTHER and result.to_container(OTHER) == 0


REMAPPED = IdMapping("userns-remap", 100000)


def may(uid: int, *argv: str | Path) -> bool:
    return (
        subprocess.run(
            argv, user=uid, group=uid, extra_groups=[], capture_output=True, timeout=PATIENCE, check=False
        ).returncode
        == 0
    )


@as_root
def test_a_remapped_engines_workspace_is_the_persons_and_the_notebooks(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    monkeypatch.setenv("SUDO_GID", str(OTHER))
    work, notebooks = place / "work", 101000
    mapped_workspace.make(work, REMAPPED)
    if not os.listxattr(work):
        pytest.skip("NOT TESTED: no access lists on this file system")
    assert work.stat().st_uid == OTHER and not mapped_workspace.is_closed(work, REMAPPED)
    for maker, other in ((notebooks, OTHER), (OTHER, notebooks)):  # each edits and deletes what the other made
        assert may(maker, "sh", "-c", f"umask 077; mkdir '{work}/folder' && echo a >'{work}/folder/file'")
        assert may(other, "sh", "-c", f"echo b >>'{work}/folder/file' && cat '{work}/folder/file'")
        assert may(other, "rm", "-r", work / "folder")
    assert not may(4322, "touch", work / "foreign")
    assert mapped_workspace.problem(work, REMAPPED, workspace_folder.UID, "image") == ("", "")


@pytest.fixture
def sudo(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody behind sudo, with files from before."""
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    monkeypatch.setenv("SUDO_GID", str(OTHER))
    script = (
        "umask 027; mkdir -p course/deep private; echo a >course/deep/file; echo a >private/key; "
        "chmod 600 private/key; echo exit >run.sh; chmod 750 run.sh; cp run.sh tool; ln -s /etc/hostname link; "
        "ln run.sh again"
    )
    os.chown(place, OTHER, OTHER)
    subprocess.run(
        ["sh", "-c", script], cwd=place, user=OTHER, group=OTHER, extra_groups=[], check=True, timeout=PATIENCE
    )
    (place / "roots").write_text("a")
    os.chmod(place / "roots", 0o640)
    if not mapped_workspace.takes_lists(place):
        pytest.skip("NOT TESTED: no access lists on this file system")
    return place


@as_root
def test_what_was_in_a_workspace_is_the_remapped_notebooks_too(sudo: Path) -> None:
    assert mapped_workspace.is_closed(sudo, REMAPPED)
    mapped_workspace.make(sudo, REMAPPED)
    for path in ("course/deep/file", "private/key"):
        assert may(101000, "sh", "-c", f"echo b >>'{sudo}/{path}'")
        assert may(OTHER, "sh", "-c", f"echo c >>'{sudo}/{path}'")
        assert (sudo / path).read_text() == "a\nb\nc\n" and (sudo / path).stat().st_uid == OTHER
        assert not may(4322, "cat", sudo / path) and not os.access(sudo / path, os.X_OK)
    assert may(101000, "test", "-x", sudo / "tool") and not may(101000, "test", "-x", sudo / "private/key")
    assert may(101000, "sh", "-c", f"umask 077; echo a >'{sudo}/course/deep/new'")
    assert may(OTHER, "sh", "-c", f"echo b >>'{sudo}/course/deep/new'")
    for left in ("roots", "run.sh"):  # root's; a file with several names may be elsewhere as well
        assert not os.listxattr(sudo / left) and not may(101000, "sh", "-c", f"echo b >>'{sudo}/{left}'")
    assert os.listxattr("/etc/hostname") == []


@as_root
def test_a_list_that_was_there_gives_nobody_more(sudo: Path) -> None:
    """The group's mode beside a list is the mask: taken for the group's rights, all of it could write."""
    base = mapped_workspace.access_list(0o750, [4323], 5)
    os.setxattr(sudo / "course", mapped_workspace.ACCESS, base)
    os.chmod(sudo / "course", 0o740)  # the mask: 4323 may list
    mapped_workspace.make(sudo, REMAPPED)
    both = {(1, 7): {-1}, (2, 4): {4323}, (2, 7): {OTHER, 101000}, (4, 4): {-1}, (16, 7): {-1}, (32, 0): {-1}}
    for name in (mapped_workspace.ACCESS, mapped_workspace.DEFAULT):
        result: dict[tuple[int, int], set[int]] = {}
        for tag, right, who in struct.iter_unpack("<HHi", os.getxattr(sudo / "course", name)[4:]):
            result.setdefault((tag, right), set()).add(who)
        assert result == both


@as_root
def test_a_walk_that_was_interrupted_is_taken_up_again(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mapped_workspace, "_let_in", interrupted)
        mapped_workspace.make(sudo, REMAPPED)
    assert mapped_workspace.is_closed(sudo, REMAPPED)
    mapped_workspace.make(sudo, REMAPPED)
    assert not mapped_workspace.is_closed(sudo, REMAPPED) and may(101000, "sh", "-c", f"echo b >>'{sudo}/private/key'")


@as_root
def test_a_folder_that_is_another_one_meanwhile_is_left(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may change the folder above puts root's or somebody's own in its place between the look and the change."""
    victim = sudo.parent / "victim"
    victim.mkdir(mode=0o700)
    really = safe_files.make_way
    ways: list[Path] = []

    def swapped(path: Path, trusted: set[int]) -> tuple[int, bool]:
        ways.append(path)
        return really(path if len(ways) == 1 else victim, trusted)

    monkeypatch.setattr(safe_files, "make_way", swapped)
    mapped_workspace.make(sudo, REMAPPED)
    assert len(ways) == 2 and os.listxattr(victim) == [] and victim.stat().st_uid == 0


@as_root
def test_a_link_in_it_that_is_not_the_persons_is_an_error(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's link to the person's own secrets."""
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    link = sudo.parent / "link"
    link.symlink_to(sudo)
    os.lchown(link, 101000, 101000)
    with pytest.raises(TrackbedError, match="is a link of uid 101000|cannot be opened to the notebook's account"):
        mapped_workspace.make(link, REMAPPED)
    assert os.listxattr(sudo) == []


@as_root
def test_a_file_system_without_access_lists_is_said_before_the_start(
    sudo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert mapped_workspace.problem(sudo, REMAPPED, workspace_folder.UID, "image") == ("", ""), "a start lets it in"
    assert mapped_workspace.fix(sudo, REMAPPED, workspace_folder.UID, "image").startswith("setfacl -R -m u:101000:rwX")
    monkeypatch.setattr(os, "getxattr", without)
    result, line = mapped_workspace.problem(sudo, REMAPPED, workspace_folder.UID, "image")
    assert f"belongs to uid {OTHER}" in result and line.startswith(f"sudo chown -hR 101000:100100 '{sudo}'")
    assert not mapped_workspace.is_closed(sudo, REMAPPED), "or each `up` would start again"


@as_root
def test_a_remapped_engines_workspace_of_root_is_the_notebooks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    mapped_workspace.make(place / "work", REMAPPED)
    info = (place / "work").stat()
    assert (info.st_uid, info.st_gid) == (101000, 100100)
    with pytest.raises(TrackbedError) as caught:  # course material that root cloned
        mapped_workspace.make(place, REMAPPED)
    assert "belongs to root" in caught.value.message and "chown -hR 101000:100100 " in caught.value.hint


@as_root
def test_without_access_lists_the_remapped_account_gets_the_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    monkeypatch.setattr(mapped_workspace, "share", lambda *_: False)
    mapped_workspace.make(place / "work", REMAPPED)
    assert (place / "work").stat().st_uid == 101000


def test_a_rootless_engines_workspace_is_its_users(tmp_path: Path) -> None:
    ids = IdMapping("rootless", 165536, 1, os.geteuid() or OTHER)
    mapped_workspace.make(tmp_path / "work", ids)
    assert (tmp_path / "work").stat().st_uid == ids.root_uid
    assert mapped_workspace.problem(tmp_path / "work", ids, 0, "image") == ("", "")


@as_root
def test_what_is_typed_on_a_rootless_engine(place: Path) -> None:
    ids = IdMapping("rootless", 165536, 1, OTHER)
    os.chown(place, 166535, 165635)  # only the engine's root can give it back
    assert " --entrypoint chown " in mapped_workspace.problem(place, ids, 0, "image")[1]
    os.chown(place, 4322, 4322)
    assert f"chown -hR {OTHER}:" in mapped_workspace.problem(place, ids, 0, "image")[1]


@as_root
def test_a_persons_home_is_not_opened(sudo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a list a key's mode shows rights of the group, and ssh refuses such keys."""
    homes = {OTHER: str(sudo / "course")}
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=homes[uid], pw_gid=uid))
    for place in (sudo, sudo / "course"):
        mapped_workspace.make(place, REMAPPED)
        result, line = mapped_workspace.problem(place, REMAPPED, workspace_folder.UID, "image")
        assert "holds your home" in result and "name a folder in it" in line
        assert os.listxattr(place) == []
    assert mapped_workspace.problem(sudo / "course" / "deep", REMAPPED, workspace_folder.UID, "image") == ("", "")


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('invalid mount config for type "bind": stat /nfs/ada: permission denied', True),
        ('invalid mount config for type "bind": bind source path does not exist: /nfs/ada', False),
        ("No such image: trackbed.invalid/nothing:none", False),
    ],
)
def test_a_folder_that_the_engines_root_may_not_enter(tmp_path: Path, said: str, closed: bool) -> None:
    """Asked for before anything is built: the engine looks at folders first, and the image is nowhere."""
    asked: list[dict[str, Any]] = []

    def create(body: dict[str, Any]) -> None:
        asked.append(body)
        raise docker.errors.APIError(said, explanation=said)

    api = DockerApi()
    api._client = SimpleNamespace(api=SimpleNamespace(create_container_from_config=create))
    deployment = SimpleNamespace(
        workspace=project(tmp_path).settings.workspace, owner=1000, host=LOCAL, api=api, ids=SimpleNamespace(kind="")
    )
    notebook_container = SimpleNamespace(devices=SimpleNamespace(accelerator=SimpleNamespace(groups=())))
    result = Workspace(cast(DockerDeployment, deployment), cast(NotebookContainer, notebook_container))
    problem, fix = result.problem()
    assert (said in problem, "root_squash" in fix) == (closed, closed)
    assert asked[0]["HostConfig"]["Mounts"][0]["Source"] == str(tmp_path), "what is there of a folder to be made"


@pytest.mark.parametrize(("others", "level"), [(True, Level.WARNING), (False, Level.OK)])
def test_doctor_tells_of_a_workspace_that_is_open(tmp_path: Path, place: Path, others: bool, level: Level) -> None:
    docker = DockerEngine(project(tmp_path, workspace=str(place)))
    assert [(found.level, found.check) for found in docker.checks.workspace(others)] == [(level, "workspace")]
    place.parent.chmod(0o700)
    assert docker.checks.workspace(others) == [], "nobody gets to it"
    place.parent.chmod(0o755)
    place.chmod(0o750)
    assert docker.checks.workspace(others) == []


def test_the_folder_that_up_makes_with_docker_is_closed(place: Path) -> None:
    LOCAL.make_workspace(place / "work")
    assert (place / "work").stat().st_mode & 0o007 == 0
