"""What only the embedded engine has: its supervisor, its venvs, its user."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, Clone
from tests.integration import inspection

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def deployment(deployments: Callable[[str], Clone]) -> Clone:
    return deployments("embedded")


def accounts(clone: Clone) -> list[str]:
    """The accounts of a project of root's."""
    return [f"trackbed-{clone.project}-{ending}" for ending in ("db", "mlflow", "nb")]


def venv(clone: Clone, name: str) -> Path:
    result = list((clone.project_folder / "embedded" / "venvs").glob(f"{name}-*"))
    assert len(result) == 1, result
    return result[0]


def test_only_the_supervisor_runs_as_root(deployment: Clone) -> None:
    top = inspection.supervisord(deployment)
    owners = {pid: Path(f"/proc/{pid}").stat().st_uid for pid in inspection.processes(deployment)}
    if os.geteuid() != 0:
        assert set(owners.values()) == {os.geteuid()}
        return
    assert owners.pop(top) == 0
    assert set(owners.values()) == {pwd.getpwnam(name).pw_uid for name in accounts(deployment)}
    for name, ending in (("postgres", "db"), ("mlflow", "mlflow"), ("jupyter", "nb")):
        pid = inspection.main_process(deployment, name)
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        account = pwd.getpwnam(f"trackbed-{deployment.project}-{ending}")
        assert {int(word) for word in fields["Uid"].split()} == {account.pw_uid}, name
        assert {int(word) for word in fields["Gid"].split()} == {account.pw_gid}, name
        assert fields["Groups"].split() in ([], [str(account.pw_gid)]), name
        assert not any(
            line.startswith("TRACKBED_TO_SERVICE_") for line in Path(f"/proc/{pid}/environ").read_text().split("\0")
        )


def test_the_database_has_no_port_and_a_private_socket(deployment: Clone) -> None:
    postgres = inspection.running_process(deployment, "postgres")
    folder = Path(inspection.command(postgres).split("-k ")[1].split()[0])
    assert folder.stat().st_mode & 0o077 == (0o010 if os.geteuid() == 0 else 0)  # the server's group, to pass only
    assert any(folder.glob(".s.PGSQL.*"))
    assert "listen_addresses= " in inspection.command(postgres)


def test_the_notebooks_account_does_not_reach_the_sockets_of_searches(deployment: Clone) -> None:
    server = inspection.main_process(deployment, "mlflow")
    own = Path(inspection.environment(server)["TRACKBED_OWN_TMP"]).resolve()
    places = {fd: Path(os.path.realpath(fd)) for fd in Path(f"/proc/{server}/fd").iterdir()}
    # a server that was killed has left another one
    ((held, folder),) = ((fd, at) for fd, at in places.items() if at.parent == own and at.match("tmp-search-*"))
    assert folder.stat().st_mode & 0o777 == 0o700
    for place in (folder, held):  # as a path, and as the server's processes have it open
        assert inspection.run("ls", f"{place}/").returncode == 0
        if os.geteuid() == 0:  # without root it is the server's own account
            assert "Permission denied" in inspection.run("ls", f"{place}/", user=accounts(deployment)[2]).stderr


def test_nobody_gets_mlflows_port_while_it_is_killed_and_comes_back(deployment: Clone) -> None:
    port, killed = deployment.ports["mlflow"], inspection.running_process(deployment, "mlflow")
    os.kill(killed, 9)
    deadline = time.monotonic() + PATIENCE
    while not inspection.ask(f"{deployment.url('mlflow')}/version", timeout=1)[0] == 200:
        assert time.monotonic() < deadline, deployment.value("logs", "mlflow", "--tail=40")
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket() as attempt, pytest.raises(OSError, match="in use"):
                attempt.setsockopt(socket.SOL_SOCKET, option, 1)
                attempt.bind(("127.0.0.1", port))
                attempt.listen(1)
    assert inspection.main_process(deployment, "mlflow") != killed
    deployment.up()


def in_a_container(clone: Clone) -> tuple[str, ...]:
    """The clone's command with the rights that Docker leaves root in a container: other accounts' processes are hidden
    from it.
    """
    if os.geteuid() != 0:
        return clone.command
    rights = "chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod"
    only = ",".join(["-all", *(f"+{right}" for right in rights.split())])
    return ("setpriv", f"--bounding-set={only}", "--inh-caps=-all", *clone.command)


@contextmanager
def hidden_process(clone: Clone, port: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """One of the notebook's account that does not say to which project it belongs; a normal user's is nobody's.

    It listens on the port.
    """
    uid = pwd.getpwnam(accounts(clone)[-1]).pw_uid if os.geteuid() == 0 else None
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print(flush=True); time.sleep(600)"
    words = ["/usr/bin/python3", "-I", "-S", "-c", code]
    with subprocess.Popen(words, user=uid, env={}, cwd="/", stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_supervisor_killed_then_up(deployment: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = inspection.new_run(deployment)
    before = inspection.processes(deployment)
    os.kill(inspection.supervisord(deployment), 9)
    monkeypatch.setattr(deployment, "command", in_a_container(deployment))
    status = deployment.invoke("status")
    assert status.returncode == 1 and "its supervisor is gone" in status.stdout and "Traceback" not in status.stderr
    with hidden_process(deployment) as hidden:
        deployment.up()
        assert (hidden.poll() is not None) == (os.geteuid() == 0), "the notebook's account goes on beside it"
    assert inspection.has_run(deployment, kept)
    assert not set(before) & set(inspection.processes(deployment)), "orphans were left"
    assert all(service["memory"] for service in deployment.services().values()), "it cannot be looked at"


def test_supervisor_killed_then_down(deployment: Clone) -> None:
    deployment.up()
    kept = inspection.new_run(deployment)
    os.kill(inspection.supervisord(deployment), 9)
    done = deployment.invoke("down")
    assert done.returncode == 0, done.stderr
    assert not inspection.processes(deployment)
    with hidden_process(deployment, deployment.ports["jupyter"] if os.geteuid() == 0 else 0):
        deployment.up()  # the notebook's port is held, by what the start ends
    assert inspection.has_run(deployment, kept)


def test_changed_lock_is_applied_while_the_database_stays_up(deployment: Clone) -> None:
    deployment.up()
    old, postgres = venv(deployment, "jupyter"), inspection.main_process(deployment, "postgres")
    lock = deployment.folder / "docker" / "jupyter" / "requirements.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    done = deployment.up()
    assert "installing jupyter (its lock changed)" in done.stderr
    assert venv(deployment, "jupyter") != old
    assert inspection.main_process(deployment, "postgres") == postgres
    assert (
        str(venv(deployment, "jupyter"))
        in Path(f"/proc/{inspection.main_process(deployment, 'jupyter')}/environ").read_text()
    )


def test_broken_venvs_are_repaired(deployment: Clone) -> None:
    assert deployment.invoke("down").returncode == 0
    package = next(venv(deployment, "mlflow").glob("lib/python3*/site-packages/mlflow"))
    (package / "server" / "__init__.py").unlink()
    (venv(deployment, "embedded") / ".complete").unlink()
    done = deployment.up()
    assert "installing mlflow (mlflow/server/__init__.py is missing)" in done.stderr
    assert "installing embedded (it was half-made)" in done.stderr and "installing jupyter" not in done.stderr
    check = deployment.invoke("check")
    assert check.returncode == 0, check.stdout


def test_port_taken_while_it_was_down(deployment: Clone) -> None:
    assert deployment.invoke("down").returncode == 0
    with socket.create_server(("127.0.0.1", deployment.ports["jupyter"])):
        inspection.refused(deployment.invoke("up"), 1, f"port {deployment.ports['jupyter']}", f"process {os.getpid()}")
        assert not inspection.processes(deployment)
    deployment.up()


def test_survives_the_shell_that_started_it(deployment: Clone) -> None:
    assert deployment.invoke("down").returncode == 0
    starter = deployment.start("up")
    assert starter.end() == 0, starter.output
    try:
        os.killpg(starter.process.pid, 1)  # the terminal closes
    except ProcessLookupError:
        pass
    time.sleep(1)
    assert {service["state"] for service in deployment.services().values()} == {"ready"}


def test_the_notebook_reads_a_data_set_and_does_not_write_it(deployment: Clone, tmp_path: Path) -> None:
    (tmp_path / "food11.zip").write_bytes(inspection.food11())
    added = deployment.invoke("data.add", "food11", f"--from={tmp_path / 'food11.zip'}")
    assert added.returncode == 0 and "`invoke up`" in added.stderr, added.stderr
    deployment.up()
    own = inspection.environment(inspection.main_process(deployment, "jupyter"))["FOOD11_DATA_DIR"]
    assert added.stdout == f"{own}\n"
    picture = Path(own, "training", "class_03", "3_1.jpg")
    user = accounts(deployment)[2] if os.geteuid() == 0 else None
    assert inspection.run("cat", str(picture), user=user).stdout == "a picture\n"
    if user:
        assert inspection.run("sh", "-c", f"echo x >> {picture}", user=user).returncode
        assert inspection.run("touch", str(picture.parent / "x"), user=user).returncode
    again = deployment.invoke("data.add", "food11", f"--from={tmp_path / 'food11.zip'}")
    assert again.returncode == 0 and "is there already" in again.stderr
