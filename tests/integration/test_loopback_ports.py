"""Ports published on 127.0.0.1, tried from another host's network namespace: no socket table shows the hole."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from helpers.engines.docker import iptables
from tests.conftest import Clone, require_docker
from tests.integration import inspection
from tests.netns import OtherHost, other_host

pytestmark = [pytest.mark.docker, pytest.mark.machine]
SERVICES = ("mlflow", "jupyter", "store")
INSIDE = {"mlflow": 8000, "jupyter": 8888, "store": 9000}


@pytest.fixture(scope="module")
def deployment(deployments: Callable[[str], Clone]) -> Clone:
    require_docker()
    created = deployments("docker")
    created.up()
    return created


@pytest.fixture(scope="module")
def host(deployment: Clone) -> Iterator[OtherHost]:
    with other_host() as created:
        created.claim_loopback()
        yield created


def networks(clone: Clone, service: str) -> list[str]:
    """The addresses of a service's container."""
    return inspection.output(
        "docker",
        "inspect",
        "-f",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
        inspection.container(clone, service),
    ).split()


def targets(clone: Clone) -> list[tuple[str, int]]:
    """Every way another host could try: the published port on 127.0.0.1, and each container's own address."""
    published = [("127.0.0.1", clone.ports[name]) for name in ("mlflow", "jupyter", "s3", "console")]
    return (
        published
        + [(address, INSIDE[service]) for service in SERVICES for address in networks(clone, service)]
        + [(address, 5432) for address in networks(clone, "postgres")]
    )


def rules() -> list[str]:
    return [
        line
        for line in inspection.output("iptables", "-t", "raw", "-S", "PREROUTING").splitlines()
        if "trackbed:" in line
    ]


def own_rules(clone: Clone) -> list[str]:
    return [line for line in rules() if f'"trackbed:{clone.project}"' in line]


def lets_in() -> bool:
    return iptables.let_in(inspection.output("docker", "version", "-f", "{{.Server.Version}}"))


def test_no_port_answers_another_host(deployment: Clone, host: OtherHost) -> None:
    assert not host.handshake(host.machine, 1)
    assert not [target for target in targets(deployment) if host.handshake(*target)]


def test_without_the_rules_this_engine_lets_another_host_in(deployment: Clone, host: OtherHost) -> None:
    """That the test above can fail: and doctor says so, and `up` repairs it although nothing else changed."""
    if not lets_in():
        pytest.skip("this engine keeps other hosts out by itself")
    kept = rules()
    for line in kept:  # another system's rule for 127.0.0.0/8 would hide the hole
        _raw("-D", line)
    try:
        open_to = [target for target in targets(deployment) if host.handshake(*target)]
        assert ("127.0.0.1", deployment.ports["mlflow"]) in open_to
        assert any(address != "127.0.0.1" and port == 8888 for address, port in open_to)
        reported = deployment.invoke("doctor")
        assert "machines on the same network can reach ports published on 127.0.0.1" in reported.stdout
        assert "iptables -t raw -I PREROUTING" in reported.stderr
        done = deployment.up()
        assert "drop rules were set" in done.stderr
        assert not [target for target in targets(deployment) if host.handshake(*target)]
        assert "drop rules are set against it" in deployment.invoke("doctor").stdout
    finally:
        for line in kept:
            if line not in rules():
                _raw("-A", line)


def _raw(action: str, line: str) -> None:
    words = line.replace('"', "").split()
    subprocess.run(["iptables", "-w", "10", "-t", "raw", action, *words[1:]], check=True, stdin=subprocess.DEVNULL)


def test_up_twice_keeps_one_set_of_rules_and_down_removes_them(deployment: Clone, host: OtherHost) -> None:
    if not lets_in():
        pytest.skip("this engine keeps other hosts out by itself")
    before = sorted(own_rules(deployment))
    assert len(before) == len(set(before)) == 3  # 127.0.0.0/8 and two networks
    deployment.up()
    assert sorted(own_rules(deployment)) == before
    assert deployment.invoke("down").returncode == 0
    assert own_rules(deployment) == []
    deployment.up()
    assert len(own_rules(deployment)) == 3
    assert not [target for target in targets(deployment) if host.handshake(*target)]


def test_this_machine_itself_still_gets_in(deployment: Clone) -> None:
    assert inspection.ask(deployment.url("mlflow") + "/health")[0] == 200
    assert inspection.ask(deployment.url("jupyter") + "/api")[0] == 200
