"""`health`: whether the server answers through to its database.

While the server starts, nothing listens on its port yet. A check then waits for it: each check that fails is a process
of the engine and one of ours, 60 ms of a processor that the start needs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

from trackbed_mlflow.configuration import number
from trackbed_mlflow.edge import token_file
from trackbed_mlflow.errors import FAILED, Stop

SECONDS = 8.0  # for all of it: Docker and Kubernetes end a check after 10
LISTENS = 6.0  # of these, for the port


def connect(
    address: tuple[str, int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> socket.socket:
    """A connection whose reads take what is left of the time. Raises OSError."""
    began = clock()
    while True:
        try:
            connection = socket.create_connection(address, timeout=SECONDS)
        except ConnectionRefusedError:
            if clock() - began >= LISTENS:
                raise
        else:
            connection.settimeout(max(1.0, SECONDS - (clock() - began)))
            return connection
        sleep(0.05)  # bounded above; the image has no library for it


def ask(environment: Mapping[str, str]) -> str:
    """Ask for an experiment: /health is 200 without a database. A bare socket keeps this at a few ms."""
    port = number(environment, "TRACKBED_PORT", 8000, 1, 65535)
    host = environment.get("TRACKBED_HOST") or "127.0.0.1"
    token = token_file.read_token(environment)
    login = f"Authorization: Bearer {token}\r\n" if token else ""
    request = (
        f"GET /api/2.0/mlflow/experiments/search?max_results=1 HTTP/1.1\r\nHost: localhost:{port}\r\n{login}"
        "Connection: close\r\n\r\n"
    )
    try:
        address = "127.0.0.1" if host == "0.0.0.0" else host
        with connect((address, port)) as connection:
            connection.sendall(request.encode())
            answer = b""
            while chunk := connection.recv(4096):
                answer += chunk
    except OSError as error:
        raise Stop(FAILED, f"no answer on port {port}: {error}") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise Stop(FAILED, f"{status}: {body[:300].decode('utf-8', 'replace')}")
    return status
