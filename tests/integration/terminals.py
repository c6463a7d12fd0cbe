"""A terminal of a running JupyterLab, opened as its page does: the REST API, then the terminal's WebSocket."""

from __future__ import annotations

import json
import re
import time
import uuid

import websocket

from tests.conftest import PATIENCE
from tests.integration.workload import Lab, WorkloadError

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])|\r")


class Terminal:
    """Ended with the ``with`` block."""

    def __init__(self, lab: Lab, timeout: float = PATIENCE) -> None:
        self.lab, self.deadline = lab, time.monotonic() + timeout

    def __enter__(self) -> Terminal:
        self.name = self.lab.request("POST", "terminals", {})["name"]
        scheme, rest = self.lab.base.split("://")
        self.socket = websocket.create_connection(
            f"{scheme.replace('http', 'ws')}://{rest}/terminals/websocket/{self.name}",
            header=[f"Authorization: token {self.lab.token}"],
            origin=self.lab.origin,
            timeout=PATIENCE,
            http_no_proxy=["*"],
        )
        self.socket.send(json.dumps(["set_size", 50, 2000, 0, 0]))  # a narrow one's echo is broken into lines
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.lab.request("DELETE", f"terminals/{self.name}")

    def type(self, line: str) -> str:
        """What a line prints, without the terminal's escapes and its echo of the line."""
        mark = uuid.uuid4().hex
        # in two halves, so that the echo of the line is no end
        self.socket.send(json.dumps(["stdin", f"{line}; echo {mark[:16]}''{mark[16:]}\r"]))
        begun = f"''{mark[16:]}"
        shown = ""
        while mark not in shown:
            self.socket.settimeout(max(0.1, self.deadline - time.monotonic()))
            try:
                message = json.loads(self.socket.recv())
            except websocket.WebSocketException as error:
                raise WorkloadError(f"{line!r} did not end ({error}):\n{shown}") from None
            if message[0] == "stdout":
                shown = ESCAPES.sub("", shown + message[1])
        return shown.partition(mark)[0].rpartition(begun)[2].strip()
