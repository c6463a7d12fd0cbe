"""What only the embedded engine has: its supervisor, its venvs, its user."""

from __future__ import annotations

import os
import pwd
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.integration import inspection

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def system(systems: Callable[[str], Clone]) -> Clone:
    return systems("embedded")


def accounts(clone: Clone) -> list[str]:
    """The accounts of a system of root's."""
    return [f"trackbed-{clone.project}-{ending}" for ending in ("db", "mlflow", "nb")]


def venv(clone: Clone, name: str) -> Path:
    found = list((clone.project_folder / "embedded" / "venvs").glob(f"{name}-*"))
    assert len(found) == 1, found
    return found[0]


def test_only_the_supervisor_runs_as_root(system: Clone) -> None:
    top = inspection.supervisord(system)
    owners = {pid: Path(f"/proc/{pid}").stat().st_uid for pid in inspection.processes(system)}
    if os.geteuid() != 0:
        assert set(owners.values()) == {os.geteuid()}
        return
    assert owners.pop(top) == 0
    assert set(owners.values()) == {pwd.getpwnam(name).pw_uid for name in accounts(system)}
    for name, ending in (("postgres", "db"), ("mlflow", "mlflow"), ("jupyter", "nb")):
        pid = inspection.main_process(system, name)
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        account = pwd.getpwnam(f"trackbed-{system.project}-{ending}")
        assert {int(word) for word in fields["Uid"].split()} == {account.pw_uid}, name
        assert {int(word) for word in fields["Gid"].split()} == {account.pw_gid}, name
        assert fields["Groups"].split() in ([], [str(account.pw_gid)]), name
        assert not any(
            line.startswith("TRACKBED_TO_SERVICE_") for line in Path(f"/proc/{pid}/environ").read_text().split("\0")
        )


def test_the_database_has_no_port_and_a_private_socket(system: Clone) -> None:
    postgres = inspection.main_process(system, "postgres")
    folder = Path(inspection.command(postgres).split("-k ")[1].split()[0])
    assert folder.stat().st_mode & 0o077 == (0o010 if os.geteuid() == 0 else 0)  # the server's group, to pass only
    assert any(folder.glob(".s.PGSQL.*"))
    assert "listen_addresses= " in inspection.command(postgres)


def test_nobody_gets_mlflows_port_while_it_is_killed_and_comes_back(system: Clone) -> None:
    port, killed = system.ports["mlflow"], inspection.main_process(system, "mlflow")
    os.kill(killed, 9)
    deadline = time.monotonic() + 60
    while not inspection.ask(f"{system.url('mlflow')}/version", timeout=1)[0] == 200:
        assert time.monotonic() < deadline
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket() as attempt, pytest.raises(OSError, match="in use"):
                attempt.setsockopt(socket.SOL_SOCKET, option, 1)
                attempt.bind(("127.0.0.1", port))
                attempt.listen(1)
    assert inspection.main_process(system, "mlflow") != killed
    system.up()


def test_supervisor_killed_then_up(system: Clone) -> None:
    kept = inspection.new_run(system)
    before = inspection.processes(system)
    os.kill(inspection.supervisord(system), 9)
    status = system.invoke("status")
    assert status.returncode == 1 and "Traceback" not in status.stderr
    system.up()
    assert inspection.has_run(system, kept)
    assert not set(before) & set(inspection.processes(system)), "orphans were left"


def test_supervisor_killed_then_down(system: Clone) -> None:
    system.up()
    kept = inspection.new_run(system)
    os.kill(inspection.supervisord(system), 9)
    done = system.invoke("down")
    assert done.returncode == 0, done.stderr
    assert not inspection.processes(system)
    system.up()
    assert inspection.has_run(system, kept)


def test_changed_lock_is_applied_while_the_database_stays_up(system: Clone) -> None:
    system.up()
    old, postgres = venv(system, "jupyter"), inspection.main_process(system, "postgres")
    lock = system.folder / "docker" / "jupyter" / "requirements.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    done = system.up()
    assert "installing jupyter (its lock changed)" in done.stderr
    assert venv(system, "jupyter") != old
    assert inspection.main_process(system, "postgres") == postgres
    assert (
        str(venv(system, "jupyter")) in Path(f"/proc/{inspection.main_process(system, 'jupyter')}/environ").read_text()
    )


def test_broken_venvs_are_repaired(system: Clone) -> None:
    assert system.invoke("down").returncode == 0
    package = next(venv(system, "mlflow").glob("lib/python3*/site-packages/mlflow"))
    (package / "server" / "__init__.py").unlink()
    (venv(system, "embedded") / ".complete").unlink()
    done = system.up()
    assert "installing mlflow (mlflow/server/__init__.py is missing)" in done.stderr
    assert "installing embedded (it was half-made)" in done.stderr and "installing jupyter" not in done.stderr
    check = system.invoke("check")
    assert check.returncode == 0, check.stdout


def test_port_taken_while_it_was_down(system: Clone) -> None:
    assert system.invoke("down").returncode == 0
    with socket.create_server(("127.0.0.1", system.ports["jupyter"])):
        inspection.refused(system.invoke("up"), 1, f"port {system.ports['jupyter']}", f"process {os.getpid()}")
        assert not inspection.processes(system)
    system.up()


def test_survives_the_shell_that_started_it(system: Clone) -> None:
    assert system.invoke("down").returncode == 0
    starter = system.start("up")
    assert starter.end() == 0, starter.output
    try:
        os.killpg(starter.process.pid, 1)  # the terminal closes
    except ProcessLookupError:
        pass
    time.sleep(1)
    assert {service["state"] for service in system.services().values()} == {"ready"}
