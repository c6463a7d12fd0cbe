"""Behind the gateway: what an account of the machine gets at the containers' own addresses; how the token is kept."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.integration import inspection
from tests.security.conftest import Target
from tests.security.wire import basic

pytestmark = pytest.mark.docker
PORTS = {"mlflow": 8000, "jupyter": 8888, "store": 9000, "store-sync": 9002, "postgres": 5432}
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"


def addresses(target: Target, service: str) -> Iterator[tuple[str, int]]:
    """Of a service's container, in each of its networks."""
    result = json.loads(inspection.output("docker", "inspect", inspection.container(target.clone, service)))[0]
    for network in result["NetworkSettings"]["Networks"].values():
        yield network["IPAddress"], PORTS[service]


def status(address: tuple[str, int], path: str, **headers: str) -> int:
    link = http.client.HTTPConnection(*address, timeout=10)
    try:
        link.request("GET", path, headers={"Host": "localhost", **headers})
        return link.getresponse().status
    finally:
        link.close()


def mlflow_token(target: Target) -> str:
    return (target.clone.project_folder / "secrets" / "MLFLOW_TOKEN").read_text().strip()


@pytest.mark.parametrize(
    ("service", "path", "refused"),
    [
        ("mlflow", EXPERIMENTS, 401),
        ("mlflow", "/", 401),
        ("mlflow", "/health", 401),
        ("jupyter", "/api/contents", 403),
        ("store", "/", 403),
    ],
)
def test_nothing_without_a_secret_at_the_containers_own_addresses(
    target: Target, service: str, path: str, refused: int
) -> None:
    for address in addresses(target, service):
        assert status(address, path) == refused
        assert status(address, path, Authorization=target.login["Authorization"]) in (refused, 400)
        assert status(address, path, **{"X-Trackbed-Login": "ann 00"}) == refused


def test_the_service_that_syncs_the_store_asks_for_its_token(target: Target) -> None:
    for address in addresses(target, "store-sync"):
        for request in ({"result": True}, {"all": True, "token": mlflow_token(target)}):
            with socket.create_connection(address, 10) as link:
                link.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(link.makefile("rb").readline())
            assert set(answer) == {"error"} and "token" in answer["error"]


def test_the_database_asks_for_a_password(target: Target) -> None:
    for host, port in addresses(target, "postgres"):
        with socket.create_connection((host, port), 10) as link:
            words = b"user\0mlflow\0database\0mlflow\0\0"
            link.sendall((len(words) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + words)
            answer = link.recv(9)
        assert answer[:1] == b"R" and int.from_bytes(answer[5:9], "big") == 10  # SCRAM


def test_mlflows_token_is_no_login_at_the_gateway(attack: Target) -> None:
    token = mlflow_token(attack)
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Authorization": basic("", token)},
        {"Authorization": basic("ann", token)},
    ):
        assert attack.door("mlflow").ask(EXPERIMENTS, headers=headers).status in (401, 429)
    assert attack.door("mlflow").ask(f"/?token={token}").status == 401


def test_the_gateway_adds_the_token_and_no_answer_shows_it(attack: Target) -> None:
    token = mlflow_token(attack)
    for path in (EXPERIMENTS, "/", "/version", "/api/2.0/mlflow/runs/get?run_id=x", "/nothing"):
        answer = attack.door("mlflow").ask(path, headers=attack.login)
        assert answer.status in (200, 404)
        assert token.encode() not in answer.body and token not in str(answer.headers)


def test_with_another_token_than_mlflow_clients_are_told_to_try_again(target: Target) -> None:
    """As for seconds while it is replaced: nobody's browser asks for a password, no client takes it for its own."""
    volume = f"{target.clone.project}_secrets-gateway"
    image = inspection.output(
        "docker", "inspect", "-f", "{{.Image}}", inspection.container(target.clone, "mlflow")
    ).strip()

    def put(token: str) -> None:
        inspection.output(
            "docker",
            "run",
            "--rm",
            "-i",
            "--user",
            "0",
            "--network",
            "none",
            "--entrypoint",
            "sh",
            "-v",
            f"{volume}:/v",
            image,
            "-c",
            "cat >/v/access-token",
            stdin=token,
        )

    def answers(expected: int) -> None:
        def tried() -> None:
            with target.other_host.entered():
                answer = target.door("mlflow").ask(EXPERIMENTS, headers=target.login)
            assert answer.status == expected, answer.status
            assert "www-authenticate" not in answer.headers
            assert expected == 200 or re.fullmatch(r"\d+", answer.headers["retry-after"])

        inspection.answering(tried, AssertionError, 15)

    token = mlflow_token(target)
    put("another-token")
    try:
        answers(503)
        asked = inspection.run(
            "docker", "exec", inspection.container(target.clone, "gateway"), "/usr/bin/gateway", "health"
        )
        assert asked.returncode and "does not know the gateway's token" in asked.stderr
    finally:
        put(token)
    answers(200)
