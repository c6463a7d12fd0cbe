"""A third engine, whose services exist in this process only: nothing above the engines may need to know it."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest

from helpers import digests, services
from helpers.engines import select, shared, streaming
from helpers.engines.base import Engine
from helpers.engines.data_volume import DataVolume
from helpers.engines.embedded.data_volume import DataVolume as Folder
from helpers.engines.host import Host, HostFacts, LocalHost
from helpers.errors import TrackbedError
from helpers.gpu.accelerator import Accelerator
from helpers.project.deployment import Deployment
from helpers.project.project import Project
from helpers.services import (
    JUPYTER,
    MLFLOW,
    POSTGRES,
    Address,
    Availability,
    DataItem,
    ExecResult,
    Plan,
    Port,
    ProgressReporter,
    ServiceSpec,
    ServiceStatus,
    StartReport,
    State,
)
from helpers.settings import Settings
from tests.unit.fakes import project

RUN = "0123456789abcdef0123456789abcdef"
PATH = f"1/{RUN}/artifacts/check/trackbed-check.bin"
ROW = {"params": {"a": "1"}, "metrics": {"loss": 3}, "tags": {"trackbed.check": "n"}}
# psql that has no tables, as far as a backup asks it
PSQL = """
import sys
for line in sys.stdin:
    if line.startswith(r"\\echo"):
        print(line.split(None, 1)[1].strip(), flush=True)
    elif "pg_export_snapshot" in line:
        print("1-1", flush=True)
    elif "pg_current_snapshot" in line:
        print("1764222000.5 700:700:", flush=True)
"""


class Room(LocalHost):
    """A machine on which every port is free."""

    def is_free(self, address: str, port: int) -> bool:
        return True


class Web:
    """MLflow and JupyterLab in one. Artifacts are kept."""

    def __init__(self) -> None:
        stored: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                if self.command == "PUT":
                    stored[path] = body
                text = stored.get(path, b"[]" if path.startswith("/api/") and path.count("/") == 2 else b"{}")
                if self.command == "DELETE":
                    stored.pop(path, None)
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_DELETE = _answer

            def log_message(self, *arguments: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class MemoryEngine(Engine):
    """What runs is a dictionary. The state of one project outlives the engine's objects, as a real one's does."""

    name: ClassVar[str] = "memory"
    web: ClassVar[Web]
    running: ClassVar[dict[str, int]] = {}
    volumes: ClassVar[set[str]] = set()
    started: ClassVar[int] = 0

    def __init__(self, project: Project) -> None:
        self.project = project
        self.deployment = Deployment(project, "folder")

    @property
    def settings(self) -> Settings:
        return self.project.settings

    @property
    def host(self) -> Host:
        return Room()

    @property
    def accelerator(self) -> Accelerator:
        return Accelerator()

    def availability(self) -> Availability:
        return Availability(True, True, "in memory")

    def remarks(self) -> tuple[str, ...]:
        return shared.remarks(self.accelerator, "")

    def data_volume(self) -> DataVolume:
        return Folder(self.settings)

    def access_token(self) -> str:
        return self.project.access_token()

    def plan(self) -> Plan:
        uri = f"postgresql+psycopg2://mlflow@/{self.project.state.active['database']}"
        ports = {MLFLOW: self.settings.mlflow_port, JUPYTER: self.settings.jupyter_port}
        return Plan(
            self.name,
            self.settings.project,
            tuple(
                ServiceSpec(
                    name,
                    services.TITLES[name],
                    (name,),
                    environment={"MLFLOW_BACKEND_STORE_URI": uri},
                    ports=(Port("http", ports[name], ports[name]),) if name in ports else (),
                )
                for name in (POSTGRES, MLFLOW, JUPYTER)
            ),
        )

    def script(self, plan: Plan) -> str:
        return "".join(f"start {service.name}\n" for service in plan.services)

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        return ()

    def fingerprint(self) -> str:
        return digests.digest([service.__dict__ for service in self.plan().services], self.project.credentials_digest())

    def unchanged(self) -> tuple[ServiceStatus, ...]:
        return shared.unchanged(self, self.project.state.applied)

    def start(self, progress: ProgressReporter) -> StartReport:
        before = {s.name: s.identity for s in self.services() if s.up}
        for name in self.plan().names:
            if name not in self.running:
                MemoryEngine.started += 1
                self.running[name] = self.started
                progress.service(name, "starting")
        new = "rows" not in self.volumes
        self.volumes.add("rows")
        return replace(shared.report(before, self.services()), new_database=new)

    def stop(self, progress: ProgressReporter, drain: int = 40) -> tuple[str, ...]:
        stopped = tuple(reversed(self.running))
        self.running.clear()
        return stopped

    def halt(self, service: str, progress: ProgressReporter) -> None:
        self.running.pop(service, None)

    def resume(self, service: str, progress: ProgressReporter) -> None:
        self.start(progress)

    def data(self) -> tuple[DataItem, ...]:
        return tuple(DataItem(name, "database: everything") for name in sorted(self.volumes))

    def remove_data(self, progress: ProgressReporter, keep_workspace: bool = False) -> tuple[str, ...]:
        self.volumes.clear()
        return ()

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        return tuple(
            ServiceStatus(service.name, State.READY, ports=service.ports, identity=str(self.running[service.name]))
            if service.name in self.running
            else ServiceStatus(service.name, State.MISSING)
            for service in self.plan().services
        )

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        yield f"{service} is in memory"

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        if service not in self.running:
            raise TrackbedError(f"{service} does not run", "`invoke up`")
        return ExecResult(0, "".join(json.dumps(line) + "\n" for line in self._said(service, argv, stdin)), "")

    def _said(self, service: str, argv: tuple[str, ...], stdin: object) -> list[Any]:
        if service == JUPYTER and argv[0] == "python":
            reported = {"run_id": RUN, "experiment_id": "1", "artifact_path": PATH, "size": 4096, **ROW}
            return [{"check": f"check in {argv[-1]}", "ok": True, "detail": "", "seconds": 0.1}, reported]
        if service == MLFLOW:
            known: dict[str, list[Any]] = {
                "sealed": [{"rows": {}, "lost": {}, "opened": {}}],
                "object": [[{"path": PATH, "size": 4096}]],
                "sizes": [{"": [1, 5, ""]}],
            }
            return known.get(argv[1], [])
        if service == POSTGRES and "-c" in argv:
            return [{"run": "FINISHED", **ROW}]
        return [{"checksums": True, "failures": 0, "size": 1}] if service == POSTGRES else []

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 600
    ) -> ExecResult:
        return self.exec(service, argv, stdin, timeout)

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        def says(content: bytes) -> list[str]:
            return [sys.executable, "-c", f"import sys; sys.stdout.buffer.write({content!r})"]

        return streaming.piped(
            argv[0], {"psql": [sys.executable, "-c", PSQL], "pg_dump": says(b"a dump")}.get(argv[0]) or says(_objects())
        )

    def unlisted(self) -> tuple[str, ...]:
        return ()

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        if service not in self.running:
            raise TrackbedError(f"{service} does not run", "`invoke up`")
        yield Address("127.0.0.1", self.web.port)

    def host_facts(self) -> HostFacts:
        return HostFacts("room", "any", 1, 1 << 40, 1 << 40, 1 << 40, "/")

    @property
    def workspace_inside(self) -> str:
        return str(self.settings.workspace)

    def workspace_problem(self) -> tuple[str, str]:
        return "", ""

    def workspace_fix(self) -> str:
        return ""

    def take_workspace(self, progress: ProgressReporter) -> None: ...

    def versions(self) -> Mapping[str, str]:
        return {"mlflow": "3.17.2"}


@contextmanager
def in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: type[MemoryEngine] = MemoryEngine
) -> Iterator[Project]:
    """A project that was told to be on this engine, and has nothing yet."""
    monkeypatch.setitem(select.ENGINES, engine.name, engine)
    monkeypatch.setattr(engine, "web", Web(), raising=False)
    monkeypatch.setattr(engine, "running", {})
    monkeypatch.setattr(engine, "volumes", set())
    (folder / "clone").mkdir()
    created = project(folder)
    created.state.engine = engine.name
    created.settings.workspace.mkdir(parents=True)
    try:
        yield created
    finally:
        engine.web.close()


def _objects() -> bytes:
    """One object, as the server streams all of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("o/1/a.txt", b"hello"), ("end", b"{}")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
