"""The ports of this machine that lead to the services in a cluster: a real supervisord, and a kubectl that serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import lifecycle, process_table, waiting
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.engines.kubernetes.forwards import ATTENDED, Forwards
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.services import JUPYTER, MLFLOW
from tests.conftest import PATIENCE
from tests.unit.fake_kubectl import FakeKubectl
from tests.unit.fakes import Silent, project

# says its port as kubectl does, and answers each line with what it leads to
SERVING = """\
import os, socket, sys, time
os.path.exists({failing!r}) and sys.exit(open({failing!r}).read())
listening = socket.create_server(("127.0.0.1", 0))
target = sys.argv[-2] + sys.argv[-1]
print("Forwarding from 127.0.0.1:%d -> 0" % listening.getsockname()[1], flush=True)
while True:
    accepted = listening.accept()[0]
    accepted.sendall(("%d %s %s" % (os.getpid(), target, accepted.recv(99).decode())).encode())
    accepted.close()
"""


class Serving(FakeKubectl):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        self.failing = folder / "failing"
        (folder / "serving.py").write_text(SERVING.format(failing=str(self.failing)))
        program = folder / "kubectl"
        program.write_text(
            program.read_text().replace(
                "stdin =",
                f'if "port-forward" in sys.argv:\n    import os\n'
                f'    os.execv(sys.executable, ["kubectl", {str(folder / "serving.py")!r}, *sys.argv[1:]])\nstdin =',
            )
        )


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    return Serving(tmp_path / "bin", monkeypatch)


def free_ports(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def engine(tmp_path: Path, kubectl: Serving) -> Iterator[KubernetesEngine]:
    mlflow, jupyter, s3, console = free_ports(4)
    ports = {"mlflow_port": mlflow, "jupyter_port": jupyter, "s3_port": s3, "s3_console_port": console}
    engine = KubernetesEngine(project(tmp_path, engine="kubernetes", **ports))
    yield engine
    engine.forwards.stop()


def start(forwards: Forwards) -> None:
    forwards.start(Silent())


def ask(port: int, text: str = "hello") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(99), b"")).decode()


def test_each_port_leads_to_its_service_and_is_never_free(engine: KubernetesEngine, kubectl: Serving) -> None:
    forwards, settings = engine.forwards, engine.settings
    start(forwards)
    assert ask(settings.mlflow_port).endswith(f"service/{MLFLOW}:http hello")
    assert ask(settings.s3_console_port).endswith("service/store:console hello")
    assert forwards.running() == {MLFLOW, JUPYTER, "store"} and forwards.are_current()
    # the pod goes, and kubectl with it: nobody else gets the port meanwhile, and who asks waits for the next pod
    pid = int(ask(settings.mlflow_port).split()[0])
    os.kill(pid, signal.SIGKILL)
    assert waiting.until(lambda: not process_table.alive(pid), PATIENCE)
    with pytest.raises(OSError), socket.create_server(("127.0.0.1", settings.mlflow_port)):
        pass
    assert ask(settings.mlflow_port, "again").endswith("again")


def test_a_way_that_does_not_work_says_so(engine: KubernetesEngine, kubectl: Serving) -> None:
    forwards = engine.forwards
    start(forwards)
    kubectl.failing.write_text("error: error upgrading connection: unable to upgrade connection: no such pod")
    pid = int(ask(engine.settings.jupyter_port).split()[0])
    os.kill(pid, signal.SIGKILL)
    assert waiting.until(lambda: JUPYTER not in forwards.running(), PATIENCE, 0.2)
    assert "no such pod" in forwards.problem(JUPYTER) and not forwards.are_current()
    with pytest.raises(TrackbedError, match="cannot open a port of this machine to jupyter .* no such pod"):
        start(forwards)
    kubectl.failing.unlink()
    start(forwards)  # at once, not after the pause
    assert ask(engine.settings.jupyter_port).endswith("hello") and forwards.are_current()


def test_a_login_that_may_not_forward_is_told_so(engine: KubernetesEngine, kubectl: Serving) -> None:
    kubectl.failing.write_text(
        'Error from server (Forbidden): pods "jupyter-0" is forbidden: User "alice" cannot create resource '
        '"pods/portforward" in API group "" in the namespace "trackbed"'
    )
    with pytest.raises(TrackbedError, match="alice has no right to create pods/portforward") as caught:
        start(engine.forwards)
    assert "kubectl auth can-i create pods --subresource=portforward -n trackbed --context lab" in caught.value.hint


def test_a_port_of_another_program_is_named(engine: KubernetesEngine) -> None:
    port = engine.settings.mlflow_port
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(TrackbedError, match=rf"port {port} of this machine, mlflow's, is another program's"),
    ):
        start(engine.forwards)


def test_a_start_leads_to_the_pods_that_are_there_now(
    engine: KubernetesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubectl stays with a pod that ends, and the next request would be cut."""
    forwards, targets = engine.forwards, {JUPYTER: "first", MLFLOW: "same"}
    monkeypatch.setattr(forwards, "_targets", lambda: targets)
    ports = engine.settings.jupyter_port, engine.settings.mlflow_port
    start(forwards)
    before = [ask(port) for port in ports]
    targets[JUPYTER] = "second"
    assert forwards.are_current()  # what goes on by itself is no change
    start(forwards)
    after = [ask(port) for port in ports]
    assert before[0] != after[0] and before[1] == after[1]


def test_another_shell_is_no_reason_to_begin_anew(
    engine: KubernetesEngine, kubectl: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert {one.environment["AWS_PROFILE"] for one in engine.forwards.programs()} == {"lab"}
    start(engine.forwards)
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert engine.forwards.are_current()


def test_what_a_killed_supervisord_left_ends_with_its_kubectl(engine: KubernetesEngine, kubectl: Serving) -> None:
    start(engine.forwards)
    pid = int(ask(engine.settings.mlflow_port).split()[0])
    os.kill(int(engine.forwards.supervisor.pid_file.read_text()), signal.SIGKILL)
    engine.forwards.stop()
    assert not process_table.alive(pid)


def test_down_closes_the_ports_of_a_cluster_that_is_gone(engine: KubernetesEngine, kubectl: Serving) -> None:
    start(engine.forwards)
    state = engine.project.state
    state.engine = "kubernetes"
    state.save()
    engine.project.state.existed = True
    kubectl.answer("", "", "The connection to the server 127.0.0.1:6443 was refused - is it right?\n", 1)
    kubectl.answer("config view", {"current-context": "lab", "contexts": [{"name": "lab"}]})
    with pytest.raises(EngineUnavailable, match="does not answer"):
        lifecycle.down(engine.project, Silent(), lambda text: None)
    assert not engine.forwards.supervisor.running()
    with socket.create_server(("127.0.0.1", engine.settings.mlflow_port)):
        pass


def test_a_long_state_folder(tmp_path: Path, kubectl: Serving) -> None:
    mlflow, jupyter, s3, console = free_ports(4)
    ports = {"mlflow_port": mlflow, "jupyter_port": jupyter, "s3_port": s3, "s3_console_port": console}
    engine = KubernetesEngine(project(tmp_path / ("long" * 20), engine="kubernetes", **ports))
    try:
        start(engine.forwards)
        run = engine.forwards.supervisor.socket.parent
        assert len(os.fsencode(str(engine.forwards.supervisor.socket))) < 100 and run.stat().st_mode & 0o777 == 0o700
    finally:
        engine.forwards.stop()
    assert not run.exists()


def test_a_way_ends_with_the_command_that_opened_it(tmp_path: Path, kubectl: Serving) -> None:
    """Also when that is killed."""
    program = (
        "import subprocess, sys, time\n"
        f"process = subprocess.Popen([sys.executable, '-I', {str(ATTENDED)!r}, 'kubectl', 'port-forward', 'pod/a', ':1'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "print(process.stdout.readline().decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as caller:
        assert caller.stdout is not None
        line = caller.stdout.readline().decode()
        port = int(line.removeprefix("Forwarding from 127.0.0.1:").partition(" ")[0])
        pid = int(ask(port).split()[0])
        caller.kill()
    assert waiting.until(lambda: not process_table.alive(pid), PATIENCE)
