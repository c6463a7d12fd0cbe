"""Root's embedded project with an attacker in its notebook and its server: nothing of theirs is run, read or followed
by root, whatever they put where. And an earlier version's project, where one account owned everything, is taken over."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.integration import inspection, planted
from tests.integration.planted import SECRET, Canary

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root's services have accounts"),
]
TASKS = (
    ("status",),
    ("logs", "jupyter"),
    ("logs", "mlflow"),
    ("logs", "postgres"),
    ("jupyter-url",),
    ("doctor",),
    ("usage",),
    ("gc", "--yes"),
    ("check",),
    ("backup",),
    ("up", "--dry-run"),
)
CHANGES = (("down",), ("up",), ("status",))
READ = """
import os, sys
read = []
for folder, names, files in os.walk(sys.argv[1]):
    for name in files:
        path = os.path.join(folder, name)
        try:
            open(path, "rb").read(1)
            read.append(path)
        except OSError:
            pass
for pid in sys.argv[2:]:
    try:
        open("/proc/" + pid + "/environ", "rb").read()
        read.append(pid)
    except OSError:
        pass
print("\\n".join(read))
"""


@pytest.fixture(scope="module")
def victim(clone_factory: Callable[..., Clone]) -> Clone:
    """A project whose state folder has so long a name that its sockets lie elsewhere."""
    clone = clone_factory("embedded")
    clone.state = clone.state.parent / ("long" * 20)
    clone.environment |= {"TRACKBED_STATE_DIR": str(clone.state), "TRACKBED_READY_TIMEOUT": "60"}
    done = clone.invoke("up", TRACKBED_READY_TIMEOUT="300")
    assert done.returncode == 0, done.stderr
    return clone


@pytest.fixture(scope="module")
def canary(victim: Clone) -> Canary:
    return planted.canary(victim.folder.parent)


def tried(clone: Clone, canary: Canary, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A task of root's: it ends, without a traceback, and has neither told nor touched what is root's."""
    done = clone.invoke(*words, timeout=200, around=environment)
    reported = done.stdout + done.stderr
    assert "Traceback" not in reported, f"{words}: {reported}"
    assert SECRET not in reported, f"{words} printed a file of root's"
    assert canary.now == canary.before, f"{words} changed what is root's"
    assert 0 not in canary.ran, f"{words} ran planted code as root"
    return done


def test_the_sockets_of_a_long_state_folder_are_private(victim: Clone) -> None:
    sockets = Path(inspection.sockets(victim))
    assert sockets.parent.parent == Path("/run/trackbed")
    assert (sockets.parent.owner(), sockets.parent.stat().st_mode & 0o777) == ("root", 0o711)
    assert sockets.stat().st_mode & 0o777 == 0o710


def test_a_notebook_reads_nothing_of_the_others(victim: Clone, deployments: Callable[[str], Clone]) -> None:
    """Neither its own project's database, artifacts and secrets nor anything of another project's."""
    name = f"trackbed-{victim.project}-nb"
    for clone in (victim, deployments("embedded")):
        others = [
            str(pid)
            for pid in inspection.processes(clone)
            if Path(f"/proc/{pid}").stat().st_uid != pwd.getpwnam(name).pw_uid
        ]
        reported = planted.run_as(victim, name, READ, str(clone.project_folder), *others).splitlines()
        open_to_all = re.compile(rf"{re.escape(str(clone.project_folder))}/embedded/(venvs|app)/")
        uid = pwd.getpwnam(name).pw_uid
        assert [
            path
            for path in reported
            if not open_to_all.match(path) and (path.isdecimal() or Path(path).lstat().st_uid != uid)
        ] == []
        for file in ("kek-passphrase", "webhook-key"):  # the server's
            assert (clone.project_folder / "embedded" / "secrets" / file).stat().st_uid != uid


def test_what_is_planted_runs_as_its_own_account_only(victim: Clone, canary: Canary) -> None:
    for ending in ("nb", "mlflow"):
        assert planted.plant(victim, f"trackbed-{victim.project}-{ending}", canary) > 10
    for words in TASKS:
        done = tried(victim, canary, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert pwd.getpwnam(f"trackbed-{victim.project}-nb").pw_uid in canary.ran, "the planted code is never run"
    for words in CHANGES:
        done = tried(victim, canary, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_link_is_followed(victim: Clone, canary: Canary) -> None:
    socket = Path(inspection.sockets(victim)).parent / "supervisor.sock"
    assert socket.exists()
    backup = victim.value("backup")
    for ending in ("nb", "mlflow"):
        assert planted.link(victim, f"trackbed-{victim.project}-{ending}", canary) > 5
    for words in (
        *TASKS,
        ("restore", backup, "--yes"),
        ("credentials.rotate"),
        *CHANGES,
        ("down", "--delete-data", "--yes"),
    ):
        done = tried(victim, canary, *words, TRACKBED_READY_TIMEOUT="10")
    assert done.returncode == 0, done.stderr
    assert not (victim.project_folder / "embedded").exists()
    assert not socket.exists()  # other projects of this machine may have theirs beside it


EXISTS = 9  # as useradd ends where there is such an account


@pytest.fixture
def earlier(deployment: Clone) -> Iterator[Clone]:
    """The project as an earlier version left it, stopped: one account owns everything, the parents too."""
    words = ("--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "trackbed")
    inspection.until(lambda: inspection.run("useradd", *words).returncode in (0, EXISTS))  # others may hold its lock
    assert deployment.invoke("down").returncode == 0
    old, embedded = pwd.getpwnam("trackbed"), deployment.project_folder / "embedded"
    for name in ("run", "logs", "secrets", "tmp"):
        inspection.output("rm", "-rf", str(embedded / name))
        (embedded / name).mkdir(mode=0o700)
    inspection.output("mv", str(embedded / "home" / "notebook"), str(embedded / "home-now"))
    inspection.output("rm", "-rf", str(embedded / "home"))
    (embedded / "home-now").rename(embedded / "home")
    for path in (
        embedded,
        *(p for p in embedded.iterdir() if p.name != "venvs"),
        *embedded.glob("venvs/jupyter-*"),
        deployment.project_folder / "workspace",
    ):
        inspection.output("chown", "-hR" if path != embedded else "-h", f"{old.pw_uid}:{old.pw_gid}", str(path))
    yield deployment
    assert deployment.invoke("up").returncode == 0


@pytest.fixture(scope="module")
def deployment(deployments: Callable[[str], Clone]) -> Clone:
    return deployments("embedded")


def test_an_earlier_versions_system_is_taken_over(earlier: Clone) -> None:
    """Data go on; what it may have planted is neither run nor followed; a file with several names keeps its owner."""
    canary = planted.canary(earlier.folder.parent)
    embedded, top, ran = earlier.project_folder / "embedded", canary.folder / "roots", canary.folder / "ran"
    site = next(embedded.glob("venvs/jupyter-*/lib/python3*/site-packages"))
    (site / "zz.pth").write_text(f"import os; exec({planted.CODE.format(ran=str(ran))!r})\n")
    own = earlier.project_folder / "workspace"
    (own / "mine.txt").write_text("mine\n")
    os.link(own / "mine.txt", own / "second name")
    (own / "only.txt").write_text("only\n")
    for path in (own / "mine.txt", own / "only.txt"):
        os.chown(path, pwd.getpwnam("trackbed").pw_uid, -1)
    for path, target in (
        (embedded / "app" / "start.py", top / "key"),
        (embedded / "logs" / "jupyter.log", top / "key"),
        (embedded / "secrets" / "jupyter-token", top / "key"),
        (own / "link", top / "folder"),
        (embedded / "home" / "link", top / "key"),
        (embedded / "artifacts" / "link", top / "folder"),
        (embedded / "supervisord.conf.new", top / "key"),
        (embedded / "jupyter" / "x", top / "key"),
    ):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    inspection.output("rm", "-rf", str(embedded / "tmp"))
    (embedded / "tmp").symlink_to(top / "folder")
    inspection.refused(tried(earlier, canary, "logs", "jupyter"), 1, "earlier version", "invoke up")
    assert tried(earlier, canary, "status").returncode == 1
    done = tried(earlier, canary, "up")
    assert done.returncode == 0, done.stderr
    assert "each service has an account of its own now" in done.stderr
    assert "installing jupyter (another account could change it)" in done.stderr
    assert (own / "only.txt").owner() == f"trackbed-{earlier.project}-nb"
    assert (own / "mine.txt").owner() == "trackbed", "a file with two names may be anybody's"
    assert tried(earlier, canary, "check").returncode == 0
    again = tried(earlier, canary, "up")
    assert "account of its own" not in again.stderr
