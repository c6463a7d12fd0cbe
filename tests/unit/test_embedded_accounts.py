"""The accounts of root's embedded project: their names, becoming one, and the notebook's own environment."""

from __future__ import annotations

import json
import os
import pty
import pwd
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from helpers import clone, deadline, process_table, service_accounts
from helpers.backups import locations
from helpers.engines.embedded import accounts, launch, overlay, venvs
from helpers.engines.embedded.accounts import LONGEST, Accounts
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.embedded.layout import Layout
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.findings import Level
from helpers.service_accounts import NOTEBOOK, ROLES
from tests.unit.fakes import project

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root becomes other accounts")


class Machine:
    """The accounts of a machine, as pwd and useradd see them."""

    def __init__(self) -> None:
        self.homes: dict[str, str] = {}

    def getpwnam(self, name: str) -> Any:
        uid = 900 + list(self.homes).index(name) if name in self.homes else None
        if uid is None:
            raise KeyError(name)
        return SimpleNamespace(pw_name=name, pw_uid=uid, pw_gid=uid, pw_dir=self.homes[name])

    def changed(self, *argv: str) -> str:
        if argv[0].endswith("useradd"):
            if argv[-1] in self.homes:
                return "it is there"
            self.homes[argv[-1]] = argv[argv.index("--home-dir") + 1]
        else:
            del self.homes[argv[-1]]
        return ""


def test_no_account_gets_a_uid_that_somebody_runs_as(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user, say, who has no name here."""
    monkeypatch.setattr(process_table, "owners", lambda: {0, 899, 898, 999})
    monkeypatch.setattr(accounts, "_has_name", lambda uid: uid == 897)
    assert accounts._free_uid() == ("--uid", "896")
    monkeypatch.setattr(accounts, "_has_name", lambda uid: True)
    assert accounts._free_uid() == ()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    created = Machine()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", created.getpwnam)
    monkeypatch.setattr(accounts, "_changed", created.changed)
    monkeypatch.setattr(accounts, "_tool", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(Accounts, "_end", lambda *_: None)
    return created


def test_one_account_a_role_and_project(machine: Machine) -> None:
    one, two = (Accounts(name, Path("/var/lib/trackbed", name, "embedded")) for name in ("one", "two"))
    created = [place.make(role) for place in (one, two) for role in ROLES]
    assert [entry.pw_name for entry in created[:3]] == ["trackbed-one-db", "trackbed-one-mlflow", "trackbed-one-nb"]
    assert len({entry.pw_uid for entry in created}) == 6
    assert [one.make(role) for role in ROLES] == created[:3]
    assert one.remove() == () and len(machine.homes) == 3
    assert two.remove(keep=("notebook",)) == ("trackbed-two-nb",) and list(machine.homes) == ["trackbed-two-nb"]


@pytest.mark.parametrize("project", ["a", "x" * 40, "with-a-rather-long_name", "ends-with--------------------dash"])
def test_names_that_useradd_takes(machine: Machine, project: str) -> None:
    place = Accounts(project, Path("/state", project, "embedded"))
    names = [place.make(role).pw_name for role in ROLES]
    assert len(set(names)) == 3 and all(len(name) <= LONGEST for name in names)
    assert names == [place.name(role) for role in ROLES]


def test_two_systems_of_one_name_and_a_stranger(machine: Machine) -> None:
    """The second one's accounts carry a hash; an account that somebody else made is neither taken nor removed."""
    machine.homes["trackbed-one-nb"] = "/home/somebody"
    first, second = (Accounts("one", Path(folder, "one", "embedded")) for folder in ("/a", "/b"))
    names = {place.make(role).pw_name for place in (first, second) for role in ROLES}
    assert len(names) == 6 and "trackbed-one-nb" not in names
    assert first.remove() == second.remove() == ()
    assert machine.homes == {"trackbed-one-nb": "/home/somebody"}


def test_the_longer_name_stays_when_the_plain_one_is_free_again(machine: Machine) -> None:
    first, second = (Accounts("one", Path(folder, "one", "embedded")) for folder in ("/a", "/b"))
    first.make("server")
    name = second.make("server").pw_name
    first.remove()
    assert second.name("server") == name


def test_a_uid_that_another_project_took_meanwhile(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two projects that start at once choose the same one; useradd gives it to the first."""
    asked: list[str] = []

    def changed(*argv: str) -> str:
        asked.append(argv[argv.index("--uid") + 1])
        return f"useradd: UID {asked[-1]} is not unique" if len(asked) < 3 else machine.changed(*argv)

    monkeypatch.setattr(process_table, "owners", set)
    monkeypatch.setattr(accounts, "_has_name", lambda uid: str(uid) in asked)
    monkeypatch.setattr(accounts, "_changed", changed)
    assert Accounts("one", Path("/a")).make("server").pw_name == "trackbed-one-mlflow"
    assert asked == ["899", "898", "897"]


def test_a_locked_file_of_accounts_is_waited_for_in_every_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """useradd speaks the user's language."""
    tool, seen = tmp_path / "useradd", tmp_path / "seen"
    tool.write_text(
        f"#!/bin/sh\necho x >> {seen}\n"
        f'[ $(wc -l < {seen}) -gt 2 ] && exit 0; [ "$LC_ALL" = C ] && echo "cannot lock /etc/passwd" >&2; exit 1\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert accounts._changed(str(tool)) == ""
    assert len(seen.read_text().split()) == 3


def test_a_normal_user_is_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 65534)
    place = Accounts("one", tmp_path)
    assert {place.make(role).pw_uid for role in ROLES} == {os.getuid() or 65534}
    assert place.identity("server", ("44",)) == {} and place.remove() == ()
    assert place.home("server") == Path.home()


@as_root
def test_a_backup_of_roots_is_not_written_where_a_service_could_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_accounts, "services", lambda: {60001})
    (tmp_path / "work" / "inner").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    os.chown(tmp_path / "work", 60001, 60001)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.chown(tmp_path / "link", 60001, 60001, follow_symlinks=False)
    settings = project(tmp_path).settings
    for to in ("work/a.tar", "work/inner/", "work/inner/a.tar", "link/a.tar", "link"):
        with pytest.raises(TrackbedError, match="lead root's backup elsewhere"):
            locations.target(settings, str(tmp_path / to))
    assert locations.target(settings, str(tmp_path / "elsewhere" / "a.tar")) == tmp_path / "elsewhere" / "a.tar"


def test_the_notebook_is_its_accounts_and_not_the_workspaces_owner(machine: Machine, tmp_path: Path) -> None:
    """`doctor` says as whom it writes; before the first start nobody knows the number."""
    deployment = EmbeddedEngine(project(tmp_path)).deployment
    assert deployment.owner == -1
    account = deployment.layout.accounts.make(NOTEBOOK)
    assert deployment.owner == account.pw_uid


def test_no_useradd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_tool", lambda name: None)
    with pytest.raises(EngineUnavailable, match="no useradd"):
        Accounts("one", Path("/a")).make("server")


@as_root
@pytest.mark.parametrize("files", [False, True])
def test_a_workspace_keeps_its_account(machine: Machine, tmp_path: Path, files: bool) -> None:
    """Also an empty one: after `move` the other engine has it. Without its owner it would be the next account's."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    one = Layout("lab", tmp_path / "state", workspace)
    account = one.accounts.make(NOTEBOOK)
    os.chown(workspace, account.pw_uid, account.pw_gid)
    if files:
        (workspace / "mine.ipynb").touch()
    stayed = one.remove()
    assert workspace.is_dir() and account.pw_name in machine.homes
    assert stayed == (
        f"the account {account.pw_name} stays, {workspace} is its folder (userdel {account.pw_name} removes it)",
    )


@as_root
def test_a_program_becomes_its_account_before_it_starts(tmp_path: Path) -> None:
    """Its environment counts for it alone, its folder is entered by the account, its pipes are its own."""
    reported = {"LD_PRELOAD": "/nonexistent.so", "PYTHONPATH": str(tmp_path), "HOME": "/nonexistent"}
    script = tmp_path / "launch.py"
    script.write_bytes(Path(launch.__file__).read_bytes())
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('run as root')")
    tmp_path.chmod(0o711)
    code = (
        "import os; print(os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd(), oct(os.umask(0)), "
        "os.environ['LD_PRELOAD'], os.fstat(1).st_uid)"
    )
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        [
            "/usr/bin/python3",
            "-I",
            "-S",
            str(script),
            "nobody",
            "44,45",
            "/tmp",
            "/usr/bin/python3",
            "-S",
            "-E",
            "-c",
            code,
        ],
        env={launch.PREFIX + name: value for name, value in reported.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    uid, gid = nobody.pw_uid, nobody.pw_gid
    assert done.stdout.strip() == (
        f"({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) [44, 45] /tmp 0o77 /nonexistent.so {uid}"
    )
    assert done.stderr.count("LD_PRELOAD") == 1, "the launcher itself has loaded it, or the program has not"
    closed = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", str(script), "nobody", "", "/root", "/bin/true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert closed.returncode and ("/root" in closed.stderr or os.stat("/root").st_mode & 1)
    never = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", str(script), "root", "", "/", "/bin/true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert never.returncode and "is root" in never.stderr


@as_root
def test_each_program_is_launched_as_its_account(tmp_path: Path) -> None:
    engine = EmbeddedEngine(project(tmp_path, engine="embedded", project="named"))
    result = {program.name: program for program in engine.specs.programs()}
    for name, account in (("postgres", "db"), ("mlflow", "mlflow"), ("jupyter", "nb")):
        words = result[name].command
        assert words[1:3] == ("-I", "-S") and words[3].endswith("/app/launch.py")
        assert words[4] == f"trackbed-named-{account}"
        assert result[name].folder == "/"
        assert all(key.startswith(launch.PREFIX) for key in result[name].environment)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A venv with one package, as uv leaves it."""
    folder = tmp_path / "locked"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    site = next((folder / "lib").glob("python3*/site-packages"))
    (site / "thing.py").write_text("version = 'locked'\n")
    (site / "other.py").write_text("version = 'locked'\n")
    return folder


def own(locked: Path, target: Path) -> Path:
    subprocess.run([locked / "bin" / "python", "-I", overlay.__file__, target], check=True, timeout=60)
    return target / "bin" / "python"


def test_the_notebooks_own_packages_come_first(locked: Path, tmp_path: Path) -> None:
    python = own(locked, tmp_path / "own")
    site = next((tmp_path / "own" / "lib").glob("python3*/site-packages"))
    (site / "thing.py").write_text("version = 'own'\n")
    own(locked, tmp_path / "own")  # again: what was installed stays
    reported = subprocess.run(
        [
            python,
            "-c",
            "import json, sys, sysconfig, thing, other; print(json.dumps([thing.version, "
            "other.version, sys.prefix, sysconfig.get_path('purelib')]))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert json.loads(reported) == ["own", "locked", str(tmp_path / "own"), str(site)]


def test_it_moves_to_another_lock_with_its_packages(locked: Path, tmp_path: Path) -> None:
    python = own(locked, tmp_path / "own")
    next((tmp_path / "own" / "lib").glob("python3*/site-packages")).joinpath("mine.py").write_text("")
    renamed = locked.rename(tmp_path / "changed")
    own(renamed, tmp_path / "own")
    assert subprocess.run([python, "-c", "import mine, thing"], timeout=60, check=False).returncode == 0


def test_programs_run_with_another_python(locked: Path, tmp_path: Path) -> None:
    python = own(locked, tmp_path / "with a 'quote' and spaces")
    direct = f"#!{locked}/bin/python3\nimport sys, thing\nprint(sys.prefix, *sys.argv[1:])\n"
    long = f"#!/bin/sh\n'''exec' '{locked}/bin/python' \"$0\" \"$@\"\n' '''\n" + direct.split("\n", 1)[1]
    for number, text in enumerate((direct, long)):
        script = tmp_path / f"script{number}"
        script.write_bytes(venvs.rewritten(text.encode(), locked / "bin", python))
        script.chmod(0o755)
        done = subprocess.run([script, "a b"], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == f"{python.parent.parent} a b\n", done.stderr
    for other in (b"#!/bin/sh\nexit\n", b"\x7fELF", b"", f"#!{locked}2/bin/python\n".encode()):
        assert venvs.rewritten(other, locked / "bin", python) == b""


@as_root
def test_a_venv_of_another_account_is_not_run(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("thing==1.0\n")
    result = venvs.Venv(tmp_path / "venvs", "jupyter", lock)
    (result.folder / "bin").mkdir(parents=True)
    result.python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    result.python.chmod(0o755)
    (result.folder / ".complete").write_text("")
    os.chown(result.folder, 60001, 60001)
    assert result.problem() == "another account could change it"
    assert not (tmp_path / "ran").exists()


@as_root
def test_an_earlier_versions_files_are_not_read(tmp_path: Path) -> None:
    """One account owned everything: the supervisor's socket and the logs there may be anybody's."""
    engine = EmbeddedEngine(project(tmp_path, engine="embedded"))
    (engine.deployment.folder / "run").mkdir(parents=True)
    (engine.deployment.folder / "logs").mkdir()
    os.chown(engine.deployment.folder, 60001, 60001)
    assert engine.layout.earlier and not engine.layout.trusted()
    assert not engine.processes.supervisor.running() and engine.processes.supervisor.states() == {}
    for call in (lambda: list(engine.logs("jupyter")), lambda: engine.exec("mlflow", ("python", "-"))):
        with pytest.raises(TrackbedError, match="earlier version"):
            call()


@as_root
@pytest.mark.parametrize("kind", ["everybody", "link"])
def test_a_state_folder_that_others_can_change_is_refused(tmp_path: Path, kind: str) -> None:
    engine = EmbeddedEngine(project(tmp_path, engine="embedded"))
    tmp_path.chmod(0o755)
    engine.deployment.folder.parent.mkdir(parents=True)
    if kind == "everybody":
        engine.deployment.folder.parent.chmod(0o777)
        with pytest.raises(TrackbedError, match="can be changed by everybody"):
            engine.layout._check_parents()
        return
    engine.deployment.folder.symlink_to("/etc")
    with pytest.raises(TrackbedError, match="is a link"):
        engine.layout._take_folder()


@pytest.mark.skipif(sys.platform == "darwin", reason="another place for sockets")
def test_sockets_of_a_long_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = EmbeddedEngine(project(tmp_path / ("long" * 20), engine="embedded"))
    parent = Path("/run/trackbed") if os.geteuid() == 0 else Path("/tmp")
    assert long.layout.run_folder.parent == parent
    assert len(str(long.layout.sockets / ".s.PGSQL.5432")) < 107
    if os.geteuid() != 0:
        assert str(os.geteuid()) in long.layout.run_folder.name


def test_sockets_of_an_odd_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Path("/b/100% %41+&#?=c")  # short: else the sockets are elsewhere
    engine = EmbeddedEngine(project(odd, engine="embedded"))
    assert engine.layout.sockets.is_relative_to(odd)
    monkeypatch.setattr(engine.project.state, "active", {"database": "d", "prefix": "p"})
    monkeypatch.setattr(engine.project, "credentials_digest", str)  # nothing is made in a folder that is not ours
    reported = urlsplit(engine.specs.spec("mlflow").environment["MLFLOW_BACKEND_STORE_URI"])
    assert parse_qsl(reported.query) == [("host", str(engine.layout.sockets))] and not reported.fragment


@as_root
def test_no_command_of_an_account_has_anything_of_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes of the account may trace it: root's environment and terminal would be theirs, and by TIOCSTI, or
    what is typed, root's shell too.
    """
    engine = EmbeddedEngine(project(tmp_path))
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(Accounts, "get", lambda *_: nobody)
    monkeypatch.setattr(Accounts, "find", lambda *_: nobody)
    monkeypatch.setenv("SECRET_OF_ROOT", "hunter2")
    seen: list[dict[str, Any]] = []

    def run(argv: object, **options: Any) -> Any:
        seen.append(options)
        return SimpleNamespace(returncode=0, stdout=b"", stderr=b"")

    assert engine.accelerator  # what looks at the machine runs as root, before
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(deadline, "run", lambda argv, *_, **options: run(argv, capture_output=True, **options))
    monkeypatch.setattr(venvs.Venv, "scripts", lambda *_: None)
    engine.layout._may_enter(tmp_path)
    engine.database.version(tmp_path)
    engine.environments.make_packages()
    engine.exec("postgres", ("psql",))
    engine.exec("jupyter", ("python", "-"), b"")
    venvs.interpreter(engine.deployment.identity("mlflow"))
    assert len(seen) >= 6
    for options in seen:
        assert options["user"] == nobody.pw_uid and options["start_new_session"] is True
        assert "SECRET_OF_ROOT" not in options["env"]
        streams = ("stdin", "stdout", "stderr")
        assert options.get("capture_output") or all(isinstance(options[name], int) for name in streams)


@as_root
def test_an_account_opens_no_terminal_of_roots() -> None:
    """In a terminal's own session /dev/tty is that terminal."""
    nobody = pwd.getpwnam("nobody")
    code = (
        "import subprocess, sys; from helpers.engines.embedded.accounts import NOTHING, become; "
        "ask = lambda **o: subprocess.run(['sh', '-c', ': </dev/tty'], **{**NOTHING, **o}).returncode; "
        f"sys.exit(0 if ask() == 0 and ask(**become({nobody.pw_uid}, {nobody.pw_gid})) else 1)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)


def test_other_code_of_the_server_is_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of the clone `up` starts MLflow again, as Docker does with another image."""
    code = tmp_path / "start.py"
    monkeypatch.setattr(clone, "server_files", lambda: (code,))
    marks = set()
    for text in ("one", "two", "one"):
        code.write_text(text)
        marks.add(EmbeddedEngine(project(tmp_path)).specs.spec("mlflow").environment["TRACKBED_CODE"])
    assert len(marks) == 2


CONTAINER = 0xA80425FB  # what Docker leaves root in a container


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        (CONTAINER, []),
        (0x1FFFFFFFFFF, []),
        (CONTAINER & ~(1 << 7), ["SETUID"]),
        (0, ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]),
    ],
)
def test_a_root_that_cannot_have_services_of_other_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int, missing: list[str]
) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nCapPrm:\t0000000000000000\nCapEff:\t{rights:016x}\nCapBnd:\t0\n")
    assert accounts.missing_capabilities(status) == missing
    assert accounts.missing_capabilities(tmp_path / "nowhere") == [], "no Linux"
    engine = EmbeddedEngine(project(tmp_path, engine="embedded"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "missing_capabilities", lambda: missing)
    monkeypatch.setattr(accounts, "becoming_fails", lambda: "" if missing else "Invalid argument")
    (found,) = engine.checks.programs()
    assert found.level is Level.ERROR and found.fix.startswith("run as a normal user, or ")
    for name in missing:
        assert f"CAP_{name}" in found.detail and f"--cap-add={name}" in found.fix
    if not missing:
        assert "Invalid argument" in found.detail and "/etc/subuid" in found.fix
        monkeypatch.setattr(accounts, "becoming_fails", str)
        assert engine.checks.programs() == []


def test_becoming_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bool(accounts.becoming_fails()) == (os.geteuid() != 0)
