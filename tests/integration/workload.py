"""Drives a running JupyterLab as a browser would: its REST API, and the kernel's WebSocket, with the token.

python -m tests.integration.workload http://localhost:8888/lab?token=... tests/integration/digits.ipynb
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import websocket

from tests.conftest import PATIENCE

DIRECT = build_opener(ProxyHandler({}))  # the notebook is never behind the machine's proxy


class WorkloadError(Exception):
    """A cell failed, or JupyterLab did not do what was asked in time."""


@dataclass
class CellOutput:
    """What one cell printed, displayed (by MIME type, last one wins) and returned."""

    source: str
    stdout: str = ""
    stderr: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Execution:
    """A notebook's run: its cells' outputs in order."""

    cells: tuple[CellOutput, ...]
    seconds: float

    @property
    def stdout(self) -> str:
        return "".join(cell.stdout for cell in self.cells)

    @property
    def result(self) -> dict[str, Any]:
        """The last printed line that is a JSON object."""
        for line in reversed(self.stdout.splitlines()):
            if line.startswith("{"):
                value = json.loads(line)
                if isinstance(value, dict):
                    return value
        raise WorkloadError(f"no JSON line in the output:\n{self.stdout[-2000:]}")


class Lab:
    """A JupyterLab at an address with a token; ``url`` is what ``invoke jupyter-url`` prints."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url.strip())
        self.token = parse_qs(parts.query).get("token", [""])[0]
        path = parts.path.removesuffix("/").removesuffix("/lab")
        self.base = f"{parts.scheme}://{parts.netloc}{path}"
        self.origin = f"{parts.scheme}://{parts.netloc}"

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = PATIENCE) -> Any:
        """One call of the REST API; the decoded answer, or None when there is no body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json", "Origin": self.origin}
        request = Request(f"{self.base}/api/{path}", data=data, method=method, headers=headers)
        try:
            with DIRECT.open(request, timeout=timeout) as answer:
                text = answer.read()
        except HTTPError as error:
            raise WorkloadError(f"{method} /api/{path}: {error.code} {error.read()[:300]!r}") from None
        except (URLError, OSError) as error:
            raise WorkloadError(f"{method} /api/{path}: {error}") from None
        return json.loads(text) if text else None

    def upload(self, path: str, notebook: Mapping[str, Any]) -> None:
        """Save a notebook into the workspace."""
        self.request(
            "PUT", f"contents/{quote(path)}", {"type": "notebook", "format": "json", "content": dict(notebook)}
        )

    def download(self, path: str) -> Any:
        """The content of a file of the workspace (of a notebook: its JSON)."""
        return self.request("GET", f"contents/{quote(path)}?content=1")["content"]

    def delete(self, path: str) -> None:
        """Remove a file of the workspace."""
        self.request("DELETE", f"contents/{quote(path)}")

    def run_notebook(self, notebook: Path | Mapping[str, Any], path: str = "", timeout: float = PATIENCE) -> Execution:
        """Upload a notebook, run its code cells in order in a kernel of its own, shut that down again."""
        content = json.loads(notebook.read_text("utf-8")) if isinstance(notebook, Path) else dict(notebook)
        cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
        path = path or f"trackbed-{uuid.uuid4().hex[:8]}.ipynb"
        self.upload(path, content)
        try:
            return self.run_cells(cells, path, timeout)
        finally:
            self.delete(path)

    def run_cells(self, cells: Sequence[str], path: str = "", timeout: float = PATIENCE) -> Execution:
        """Run code in a kernel session of its own; ``path``: of the notebook that it belongs to."""
        path = path or f"console-{uuid.uuid4().hex[:8]}"  # of one path there is one session: two would share its kernel
        began = time.monotonic()
        session = self.request(
            "POST", "sessions", {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        )
        try:
            with Kernel(self, session["kernel"]["id"], began + timeout) as kernel:
                outputs = tuple(kernel.execute(source) for source in cells)
        finally:
            self._end(session["id"])
        return Execution(outputs, time.monotonic() - began)

    def _end(self, session: str) -> None:
        """Shut the session's kernel down; one that just died takes a moment to be known as dead."""
        for pause in (1, 2, 0):
            try:
                self.request("DELETE", f"sessions/{session}")
                return
            except WorkloadError:
                time.sleep(pause)


class Kernel:
    """The WebSocket channel of a kernel, until ``deadline`` (monotonic)."""

    def __init__(self, lab: Lab, kernel: str, deadline: float) -> None:
        self.session = uuid.uuid4().hex
        self.deadline = deadline
        scheme = "wss" if lab.base.startswith("https") else "ws"
        self.socket = websocket.create_connection(
            f"{scheme}{lab.base[lab.base.index('://') :]}/api/kernels/{kernel}/channels?session_id={self.session}",
            header=[f"Authorization: token {lab.token}"],
            origin=lab.origin,
            timeout=PATIENCE,
            http_no_proxy=["*"],
        )

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _receive(self, what: str) -> dict[str, Any]:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise WorkloadError(f"not done in time: {what}")
        self.socket.settimeout(left)
        try:
            message = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            raise WorkloadError(f"not done in time: {what}") from None
        except websocket.WebSocketConnectionClosedException:
            raise WorkloadError(f"the kernel's channel was closed: {what}") from None
        if not message:
            raise WorkloadError(f"the kernel's channel was closed: {what}")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def execute(self, source: str) -> CellOutput:
        """Run one cell; returns when the kernel replied and is idle again, raises on an error output."""
        began = time.monotonic()
        request = uuid.uuid4().hex
        header = {
            "msg_id": request,
            "msg_type": "execute_request",
            "username": "",
            "session": self.session,
            "date": "",
            "version": "5.3",
        }
        self.socket.send(
            json.dumps(
                {
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "channel": "shell",
                    "buffers": [],
                    "content": {
                        "code": source,
                        "silent": False,
                        "store_history": True,
                        "user_expressions": {},
                        "allow_stdin": False,
                        "stop_on_error": True,
                    },
                }
            )
        )
        cell, replied, idle = CellOutput(source), False, False
        error = ""
        title = source.strip().splitlines()[0] if source.strip() else "(empty cell)"
        while not (replied and idle):
            message = self._receive(title)
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] in ("restarting", "dead"):
                raise WorkloadError(f"the kernel died: {title}")
            if message.get("parent_header", {}).get("msg_id") != request:
                continue
            if kind == "stream":
                setattr(cell, content["name"], getattr(cell, content["name"]) + content["text"])
            elif kind in ("display_data", "execute_result"):
                cell.data.update(content["data"])
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "execute_reply":
                replied = True
                if content["status"] != "ok" and not error:
                    error = f"{content.get('ename', 'aborted')}: {content.get('evalue', '')}"
            elif kind == "status" and content["execution_state"] == "idle":
                idle = True
        cell.seconds = time.monotonic() - began
        if error:
            raise WorkloadError(f"{error}\nin the cell starting with: {title}\n{cell.stderr[-1500:]}".rstrip())
        return cell


def main() -> int:
    url, notebook = sys.argv[1:3]
    done = Lab(url).run_notebook(Path(notebook))
    for cell in done.cells:
        sys.stdout.write(f"[{cell.seconds:5.1f} s] {cell.stdout}\n")
    sys.stdout.write(f"{done.seconds:.1f} s\n{json.dumps(done.result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
