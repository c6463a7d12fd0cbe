"""A machine over ssh: addresses, what the client's words mean, which machine is meant; no connection is made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from helpers import addresses
from helpers.engines.base import ExecResult, Port
from helpers.engines.docker import client_config
from helpers.engines.docker import ssh as node
from helpers.engines.docker import ssh_host as remote
from helpers.engines.docker.ssh_target import Target, explain
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.gpu.detect import Machine
from helpers.project.state import State
from helpers.settings import Settings


@pytest.mark.parametrize(
    ("url", "words", "socket"),
    [
        ("ssh://ada@node7", ("ada@node7",), ""),
        ("ssh://Node7", ("Node7",), ""),
        ("ssh://cc@192.0.2.7:2222", ("-p", "2222", "cc@192.0.2.7"), ""),
        ("ssh://cc@node7/run/user/1000/docker.sock", ("cc@node7",), "/run/user/1000/docker.sock"),
        ("ssh://cc@[2001:db8::7]:22", ("-p", "22", "cc@2001:db8::7"), ""),
    ],
)
def test_addresses_of_nodes(url: str, words: tuple[str, ...], socket: str) -> None:
    result = Target.parse(url)
    assert result.words == words and result.socket == socket


@pytest.mark.parametrize(
    "url",
    [
        "ssh://",
        "ssh://-oProxyCommand=id",
        "ssh://ada@",
        "ssh://a b@node",
        "ssh://-l@node",
        "ssh://ada:secret@node",
        "ssh://ada@node:notaport",
        "ssh://node;id",
        "tcp://node",
    ],
)
def test_no_addresses_of_nodes(url: str) -> None:
    with pytest.raises(EngineUnavailable, match="not the address of a machine"):
        Target.parse(url)


WORDS = [
    (
        "No ED25519 host key is known for node7 and you have requested strict checking.\nHost key verification failed.",
        "is not known here yet",
        "ssh ada@node7 true",
    ),
    (
        "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
        "not the one",
        "ssh-keygen -R node7",
    ),
    ("ada@node7: Permission denied (publickey).", "with a key", "ssh-copy-id ada@node7"),
    ("ssh: Could not resolve hostname node7: Name or service not known", "no machine named node7", "~/.ssh/config"),
    ("ssh: connect to host node7 port 22: Connection refused", "does not answer: Connection refused", "is it on"),
    ("ssh: connect to host node7 port 22: Connection timed out", "does not answer: Connection timed out", "is it on"),
    ("ssh: connect to host node7 port 22: No route to host", "does not answer: No route to host", "is it on"),
    ("something new", "failed: something new", "ssh ada@node7 true"),
    ("", "failed: no message", "ssh ada@node7 true"),
]


@pytest.mark.parametrize(("text", "message", "fix"), WORDS)
def test_words_of_the_client_become_advice(text: str, message: str, fix: str) -> None:
    result = explain(Target("node7", "ada"), text)
    assert message in result.message and fix in result.hint
    assert "node7" in result.message + result.hint


def test_a_changed_key_on_another_port_is_named_as_ssh_keeps_it() -> None:
    result = explain(Target("node7", "ada", 2222), "REMOTE HOST IDENTIFICATION HAS CHANGED")
    assert "ssh-keygen -R '[node7]:2222'" in result.hint


def context(home: Path, name: str, host: str, current: bool) -> None:
    folder = home / ".docker"
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    (folder / "config.json").write_text(json.dumps({"currentContext": name} if current else {}))


def test_endpoint_of_the_command_line(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert client_config.endpoint(home) == ("", "")
    context(tmp_path, "gpu", "ssh://cc@node7", current=False)
    assert client_config.endpoint(home) == ("", "")
    assert client_config.endpoint({**home, "DOCKER_CONTEXT": "gpu"})[0] == "ssh://cc@node7"
    assert client_config.endpoint({**home, "DOCKER_CONTEXT": "gone"}) == ("", "")
    assert client_config.endpoint({**home, "DOCKER_CONTEXT": "gpu", "DOCKER_HOST": "unix:///x"})[0] == "unix:///x"
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "gpu"}')
    host, words = client_config.endpoint(home)
    assert host == "ssh://cc@node7" and "context gpu" in words
    assert client_config.endpoint({**home, "DOCKER_CONTEXT": "default"}) == ("", "")
    (tmp_path / ".docker" / "config.json").write_text("[]")
    assert client_config.endpoint(home) == ("", "")


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    class Connected(node.Node):
        def connect(self) -> None:
            asked.append(self.url)

    monkeypatch.setattr(node, "Node", Connected)
    monkeypatch.setattr(node, "_open", {})
    monkeypatch.setenv("DOCKER_HOST", "")
    return asked


def test_a_kept_system_stays_on_its_machine(tmp_path: Path, reached: list[str]) -> None:
    home = {"HOME": str(tmp_path)}
    there = State(tmp_path, engine="docker", node="ssh://cc@node7")
    assert remote.host(there, home).url == "ssh://cc@node7"
    assert remote.host(there, {**home, "DOCKER_HOST": "ssh://cc@node7"}).remote
    for other in ("ssh://cc@node8", "unix:///var/run/docker.sock"):
        with pytest.raises(EngineUnavailable, match="runs on ssh://cc@node7"):
            remote.host(there, {**home, "DOCKER_HOST": other})
    here = State(tmp_path, engine="docker")
    assert not remote.host(here, home).remote
    with pytest.raises(EngineUnavailable, match="on this machine's engine"):
        remote.host(here, {**home, "DOCKER_HOST": "ssh://cc@node7"})
    fresh = State(tmp_path)
    assert remote.host(fresh, {**home, "DOCKER_HOST": "ssh://cc@node9"}).url == "ssh://cc@node9"
    assert reached == ["ssh://cc@node7", "ssh://cc@node9"], "one connection a machine"


class Answering(node.Node):
    """A node whose scripts are answered from a table."""

    answers: dict[str, ExecResult]

    def run(self, script: str, *words: str, timeout: float = 30) -> ExecResult:
        return self.answers[script]

    def port(self, published: int, address: str = "127.0.0.1") -> int:
        return published + 10000


def there(uid: int = 1001, **answers: ExecResult) -> remote.SSHHost:
    created = Answering("ssh://cc@node7:2222")
    created.uid, created.home = uid, "/home/cc"
    created.answers = {getattr(remote, name): value for name, value in answers.items()}
    return remote.SSHHost(created)


def out(text: str) -> ExecResult:
    return ExecResult(0, text, "")


def test_workspace_of_a_node(tmp_path: Path) -> None:
    settings = Settings.load({}, {}, tmp_path / ".env", {})
    own = Path("/home/cc/.local/state/trackbed/trackbed/workspace")
    assert there(OWNER=out("")).workspace(settings) == (own, 1001), "the folder will be made by that user"
    assert there(OWNER=out("1234\n")).workspace(settings) == (own, 1234)
    roots = Path("/var/lib/trackbed/trackbed/workspace")
    assert there(uid=0, OWNER=out("0\n")).workspace(settings) == (roots, 1000)
    named = Settings.load({"workspace": "/data/work"}, {}, tmp_path / ".env", {})
    assert there(OWNER=out("")).workspace(named)[0] == Path("/data/work")
    assert not Path("/data/work").exists(), "never made here"


def test_workspace_that_cannot_be_made_there(tmp_path: Path) -> None:
    settings = Settings.load({"workspace": "/data/work"}, {}, tmp_path / ".env", {})
    denied = there(WORKSPACE=ExecResult(1, "", "mkdir: cannot create directory '/data': Permission denied\n"))
    with pytest.raises(TrackbedError, match="/data/work on cc@node7 cannot be made: .*Permission denied"):
        denied.make_workspace(settings.workspace)
    with pytest.raises(TrackbedError, match="belongs to root") as caught:
        there(WORKSPACE=ExecResult(3, "", "")).make_workspace(settings.workspace)
    assert "chown -hR 1000:100 /data/work" in caught.value.hint


TABLES = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F41 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1 1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:22B8 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000100007F:22B9 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_listening_ports_of_a_node() -> None:
    assert addresses.listening(TABLES) == {("127.0.0.1", 8000), ("0.0.0.0", 22), ("::", 8888), ("127.0.0.1", 8889)}
    machine = there(PORTS=out(TABLES))
    taken = [port for port in (22, 8000, 8001, 8888, 8889) if not machine.is_free("127.0.0.1", port)]
    assert taken == [22, 8000, 8888, 8889]
    assert machine.is_free("127.0.0.2", 8000)
    assert addresses.next_free("127.0.0.1", 8888, (), machine.is_free) == 8890


def test_facts_and_ways_of_a_node() -> None:
    disk = "/dev/vda1 1000 400 600 40% /var\nMemTotal:  2048 kB\nMemAvailable:  1024 kB\nHugePages_Total:  0\n"
    machine = there(DISK=out(disk), UPLINK=out("eth0 1400\n"))
    facts = machine.facts({"DockerRootDir": "/var/lib/docker", "NCPU": 8, "MemTotal": 2048 * 1024}, Machine())
    assert facts.remote and facts.disk_free == 600 * 1024 and facts.memory_available == 1024 * 1024
    assert facts.disk_path == "/var/lib/docker on cc@node7"
    assert machine.uplink() == ("eth0", 1400)
    assert machine.reach(Port("http", 8888, 8888)).url == "http://127.0.0.1:18888"
    line = addresses.ssh_line((8888, 8000), target=machine.tunnel)
    assert line == "ssh -N -L 8888:127.0.0.1:8888 -L 8000:127.0.0.1:8000 -p 2222 cc@node7"


def test_a_node_that_goes_away_is_an_error() -> None:
    gone = there(PORTS=ExecResult(255, "", "mux_client_request_session: read from master failed\n"))
    with pytest.raises(EngineUnavailable, match="cc@node7 does not answer"):
        gone.is_free("127.0.0.1", 8000)
