"""supervisor's configuration, read back by supervisor itself; processes that lost their supervisor."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervisor.options import ServerOptions

from helpers import process_table
from helpers.checks import doctor
from helpers.engines import supervisor_config
from helpers.engines.base import JUPYTER, MLFLOW, POSTGRES, State
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.supervisor import STATES, Process, Supervisor
from helpers.engines.supervisor_config import MARK, Program
from helpers.errors import ServiceFailed, TrackbedError
from helpers.services import ExecResult
from tests.conftest import PATIENCE, until
from tests.unit import disguise
from tests.unit.fakes import Silent, project

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def program(**changes: Any) -> Program:
    fields: dict[str, Any] = {
        "name": "mlflow",
        "command": ("/bin/true",),
        "environment": {},
        "folder": "/",
        "stop_signal": "TERM",
        "stop_seconds": 40,
        "start_seconds": 10,
        **changes,
    }
    return Program(**fields)


def parsed(folder: Path, *programs: Program) -> dict[str, Any]:
    """The programs as supervisord understands the file that we write for it."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(folder, folder, "0123abc")
    supervisor.configuration.write_text(supervisor_config.render(programs, supervisor.paths, supervisor.instance))
    options = ServerOptions()
    options.realize(["-c", str(supervisor.configuration)])
    return {config.name: config for group in options.process_group_configs for config in group.process_configs}


AWKWARD = (
    "plain",
    "two words",
    "100%",
    "%(here)s",
    "50% of %d",
    'in "the" middle',
    "it's",
    "back\\slash",
    "\\\\",
    "a,b",
    "a;b",
    "a ; b",
    "#hash",
    "a # hash",
    "a #%d",
    "$HOME",
    "ü",
    "a=b",
    "s3://bucket/%7Euser",
    "",
    "[section]",
)


@pytest.mark.parametrize("text", AWKWARD)
def test_words_come_back_as_they_were(tmp_path: Path, text: str) -> None:
    result = parsed(tmp_path, program(command=("/bin/echo", text, "end"), environment={"NAME": text, "LAST": "x"}))
    assert shlex.split(result["mlflow"].command) == ["/bin/echo", text, "end"]
    assert result["mlflow"].environment == {"NAME": text, "LAST": "x", MARK: "0123abc"}
    ours = Supervisor(tmp_path, tmp_path, "0123abc").applied("mlflow")
    assert ours == (("/bin/echo", text, "end"), {"NAME": text, "LAST": "x"}, "/")
    assert Supervisor(tmp_path, tmp_path, "0123abc").applied("jupyter") is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_printable_text_comes_back(tmp_path: Path, text: str) -> None:
    """As a word of a command always; as an environment's value too, or it is refused."""
    result = parsed(tmp_path, program(command=("/bin/echo", text)))
    assert shlex.split(result["mlflow"].command) == ["/bin/echo", text]
    try:
        result = parsed(tmp_path, program(environment={"NAME": text}))
    except TrackbedError:
        assert "'" in text or '"' in text
        return
    assert result["mlflow"].environment["NAME"] == text


@pytest.mark.parametrize("text", ["'both' \"kinds\" x", '"at the ends"', "at the end'", "two\nlines", "bell\a"])
def test_a_value_that_cannot_be_passed_on_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TrackbedError) as caught:
        parsed(tmp_path, program(environment={"HTTPS_PROXY": text}))
    assert caught.value.message.startswith("HTTPS_PROXY has quotes or control characters")
    assert text not in caught.value.message


@pytest.mark.parametrize("name", ["with space", "100%", "per%(cent)s", "quote's", "a #1", "a ;b"])
def test_odd_folders(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    result = parsed(folder, program(folder=str(folder)))
    assert result["mlflow"].directory == str(folder)
    assert result["mlflow"].stdout_logfile == str(folder / "logs" / "mlflow.log")


def test_how_a_program_is_kept_alive_and_stopped(tmp_path: Path) -> None:
    result = parsed(
        tmp_path,
        program(name="postgres", stop_signal="INT", stop_seconds=30, start_seconds=2, group=False),
        program(final_codes=(78,)),
    )
    database, server = result["postgres"], result["mlflow"]
    assert (database.stopsignal, database.stopwaitsecs, database.startsecs) == (signal.SIGINT, 30, 2)
    assert (database.stopasgroup, database.killasgroup) == (False, True)
    assert database.startretries == server.startretries == 1000, "what fails for a minute comes back by itself"
    assert database.autorestart is not server.autorestart
    assert (server.exitcodes, server.stopasgroup) == ([78], True)
    assert server.redirect_stderr and server.autostart
    assert (server.stdout_logfile_maxbytes, server.stdout_logfile_backups) == (10 * 2**20, 3)


def test_no_supervisor_no_states(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, tmp_path, "x")
    assert not supervisor.running()
    assert supervisor.states() == {}


def test_a_dead_socket_is_not_a_running_supervisor(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, tmp_path, "x")
    supervisor.socket.touch()
    assert not supervisor.running()
    assert supervisor.states() == {}


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Unix socket's path ends at 107 bytes."""
    folder = tmp_path_factory.mktemp("s")
    if len(str(folder)) > 80:
        pytest.skip("the temporary folder's path is too long for a socket")
    (folder / "logs").mkdir()
    return folder


def test_a_real_supervisor(short_folder: Path) -> None:
    """Started, told of a change, stopped; only what changed is started again."""
    supervisor = Supervisor(short_folder, short_folder, f"test-{os.getpid()}")
    supervisord = Path(sys.executable).with_name("supervisord")
    sleeper = (sys.executable, "-c", "import time; time.sleep(600)")

    def programs(value: str) -> tuple[Program, ...]:
        one = {"start_seconds": 0, "stop_seconds": 5, "folder": str(short_folder)}
        return (
            program(name="one", command=sleeper, **one),
            program(name="two", command=sleeper, environment={"V": value}, **one),
        )

    try:
        supervisor.apply(programs("100%"), supervisord)
        until(lambda: {p.state for p in supervisor.states().values()} == {State.RUNNING})
        before = supervisor.states()
        supervisor.apply(programs("100%"), supervisord)
        assert {n: p.pid for n, p in supervisor.states().items()} == {n: p.pid for n, p in before.items()}
        supervisor.apply(programs('a "b" c'), supervisord)
        until(lambda: supervisor.states()["two"].state is State.RUNNING)
        after = supervisor.states()
        assert after["one"].pid == before["one"].pid
        assert after["two"].pid != before["two"].pid
        if sys.platform.startswith("linux"):
            environ = Path(f"/proc/{after['two'].pid}/environ")  # empty between fork and exec
            until(lambda: b'V=a "b" c' in environ.read_bytes().split(b"\0"))
        assert supervisor.stop("one")
        assert not supervisor.stop("one")
        ended = supervisor.states()["one"]
        assert (ended.state, ended.pid, ended.reason) == (State.EXITED, 0, "stopped")
    finally:
        if supervisor.running():
            supervisor.shutdown()
    assert not supervisor.running()


@linux
def test_a_program_that_left_its_process_group_ends(short_folder: Path) -> None:
    """supervisord signals the group alone: such a program would outlive every stop, with the secrets of before."""
    supervisor = Supervisor(short_folder, short_folder, f"group-{os.getpid()}")
    supervisord = Path(sys.executable).with_name("supervisord")
    code = "import os, time; os.setpgid(0, os.getppid()); open('left', 'w').close(); time.sleep(600)"
    one = {
        "name": "one",
        "command": (sys.executable, "-c", code),
        "start_seconds": 0,
        "stop_seconds": 1,
        "folder": str(short_folder),
    }
    try:
        for value, end in (
            ("1", lambda: supervisor.apply((program(**one, environment={"V": "2"}),), supervisord)),
            ("2", lambda: supervisor.stop("one")),
        ):
            supervisor.apply((program(**one, environment={"V": value}),), supervisord)
            until((short_folder / "left").exists)
            pid = supervisor.states()["one"].pid
            (short_folder / "left").unlink()
            end()
            assert not Path(f"/proc/{pid}").exists()
    finally:
        if supervisor.running():
            supervisor.stop("one")
            supervisor.shutdown()


def test_a_supervisor_that_cannot_start_says_why(short_folder: Path) -> None:
    supervisor = Supervisor(short_folder, short_folder, "x")
    supervisord = Path(sys.executable).with_name("supervisord")
    with pytest.raises(TrackbedError, match="supervisord did not start: Error: .*NOSUCH") as caught:
        supervisor.apply((program(folder="/nowhere/at/all", stop_signal="NOSUCH"),), supervisord)
    assert "supervisord.log" in caught.value.hint


@linux
def test_orphans_are_found_and_ended() -> None:
    instance = f"orphan-{os.getpid()}"
    inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", inner], env={**os.environ, MARK: instance}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert process_table.with_variable(MARK, instance) == [process.pid]
        assert process_table.with_variable(MARK, f"another-{os.getpid()}") == []  # a suite beside this one has its own
        process_table.end([process.pid], 0.3, {})  # SIGTERM is ignored, SIGKILL is not
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert process_table.with_variable(MARK, instance) == []


# starts one like itself, down to the depth that it is given; each in a session of its own and marked
NESTED = """
import subprocess, sys, time
depth = int(sys.argv[1])
if depth:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]], start_new_session=True)
else:
    print(flush=True)
time.sleep(600)
"""


@linux
def test_orphans_below_each_other_are_ended(tmp_path: Path) -> None:
    processes = EmbeddedEngine(project(tmp_path, engine="embedded")).processes
    instance = processes.project.state.instance
    with subprocess.Popen(
        [sys.executable, "-c", NESTED, "6", NESTED], env={**os.environ, MARK: instance}, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            assert processes.orphans() == [process.pid] and len(processes.orphans(below=True)) == 7
            assert processes.end_orphans(Silent(), 5)
            assert not processes.orphans() and not processes.end_orphans(Silent(), 5)
        finally:
            while left := process_table.with_variable(MARK, instance):  # whatever the code that is tested does
                process_table.end(left, 0, {})


def test_what_the_notebook_left_is_ended_before_other_orphans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could make itself too many for those to be ended."""
    ended: list[str] = []
    startup = EmbeddedEngine(project(tmp_path, engine="embedded")).startup
    for name in ("end_notebook", "end_orphans"):
        monkeypatch.setattr(startup.processes, name, lambda *_, name=name: ended.append(name))
    for owner, name in ((startup.layout, "make"), (startup.workspace, "make"), (startup, "_mend_byte_code")):
        monkeypatch.setattr(type(owner), name, lambda *_: None)
    monkeypatch.setattr(startup.files, "put", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        startup.start(Silent())
    assert ended == ["end_notebook", "end_orphans"]


def test_a_notebook_without_its_supervisor_is_outdated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`start` ends it."""
    engine = EmbeddedEngine(project(tmp_path, engine="embedded"))
    assert engine.notebook_outdated(), "none was started"
    monkeypatch.setattr(engine.specs, "program", lambda service: program())
    for current, running, expected in ((True, True, False), (True, False, True), (False, True, True)):
        monkeypatch.setattr(Supervisor, "is_current", lambda *_, current=current: current)
        monkeypatch.setattr(Supervisor, "running", lambda _, running=running: running)
        assert engine.notebook_outdated() is expected
    monkeypatch.setattr(Supervisor, "is_current", lambda *_: True)
    assert not engine.notebook_outdated()
    monkeypatch.setattr(Supervisor, "has_groups", lambda *_: False)
    monkeypatch.setattr(engine.layout, "as_root", False)
    assert engine.notebook_outdated(), "a start restarts what is not in the GPU's group"


@linux
def test_ending_what_is_gone_already() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    process_table.end([process.pid], 1, {})


def test_every_state_of_supervisor_has_a_word() -> None:
    from supervisor.states import ProcessStates

    names = {name for name in vars(ProcessStates) if name.isupper()}
    assert names <= STATES.keys()


@linux
@pytest.mark.parametrize("ours", [True, False])
def test_a_port_that_a_killed_servers_worker_holds_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    first = project(tmp_path, engine="embedded")
    environment = {**os.environ, MARK: first.state.instance if ours else "another"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None and worker.stdin is not None
        port = worker.stdout.readline().strip()
        engine = EmbeddedEngine(project(tmp_path, engine="embedded", mlflow_port=port))
        engine.project.state.instance = first.state.instance
        died = Process(State.RESTARTING, 0, 78, "", 0, "")
        monkeypatch.setattr(Supervisor, "states", lambda _: {MLFLOW: died})
        held = {service.name: [p.published for p in service.ports] for service in engine.services()}
        worker.stdin.close()
    assert held[MLFLOW] == ([int(port)] if ours else [])


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="NOT TESTED: only root becomes other accounts")
@pytest.mark.parametrize("ours", [True, False])
def test_a_port_that_the_notebooks_account_holds_without_a_mark_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """A start without a supervisor ends all of that account, and goes on with the project's own ports."""
    uid = 60102 + os.getpid() % 2500 * 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); time.sleep(60)"
    engine = EmbeddedEngine(project(tmp_path, engine="embedded", jupyter_port=str(port)))
    monkeypatch.setattr(type(engine.deployment), "uid", lambda _, service: uid if ours else uid + 1)
    planned = [(JUPYTER, port) for port in engine.deployment.ports(JUPYTER)]
    with disguise.started(code, uid=uid):
        taken = doctor.check_ports(engine.settings, planned, engine.services())
    assert bool(taken) is not ours
    assert {service.state for service in engine.services()} == {State.MISSING}


@pytest.mark.parametrize(
    ("starts", "looks"),
    [
        ([100, 100, 100, 101, 101, 103], 6),
        ([100, 100, 0, 0, 101, 0, 103], 7),  # it runs in between, for a moment
    ],
)
def test_a_database_that_fails_three_times_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[int], looks: int
) -> None:
    """supervisord would try on for days; `up` says why after the third time. ``starts``: when it failed, 0: it runs."""
    engine = EmbeddedEngine(project(tmp_path, engine="embedded"))
    database, seen = engine.database, iter(starts)

    def states() -> dict[str, Process]:
        at = next(seen)
        return {POSTGRES: Process(State.RESTARTING if at else State.RUNNING, 0 if at else 7, 1, "", at, "")}

    asked: list[tuple[str, ...]] = []

    def run(_: str, argv: tuple[str, ...]) -> ExecResult:
        asked.append(argv)
        return ExecResult(2, "no response", "")

    monkeypatch.setattr(database.processes.supervisor, "states", states)
    monkeypatch.setattr(database.commands, "run", run)
    monkeypatch.setattr(database.processes, "logs", lambda *_: ["FATAL:  could not access status of transaction 0"])
    with pytest.raises(ServiceFailed, match="PostgreSQL does not answer: no response"):
        database.ensure_roles(Silent())
    assert len(asked) == looks
