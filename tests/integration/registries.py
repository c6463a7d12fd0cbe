"""A container registry of the test's own on this machine (Debian's docker-registry)."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.integration import inspection


@dataclass(frozen=True)
class Registry:
    """``host``: as an image's name begins; ``log`` has a line for each request."""

    host: str
    log: Path

    def was_asked_for(self, name: str) -> bool:
        """Whether somebody read the manifest of an image, as in "hub/library/postgres"."""
        return f"/v2/{name}/manifests/" in self.log.read_text()


@contextmanager
def running(folder: Path) -> Iterator[Registry]:
    """An empty registry; skipped loudly where there is none."""
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("TRACKBED_REQUIRE_DOCKER") == "1":
            pytest.fail("docker-registry is missing (Debian: docker-registry)")
        pytest.skip("NOT TESTED: no docker-registry on this machine")
    with socketserver.TCPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as probe:
        port = probe.server_address[1]
    registry = Registry(f"127.0.0.1:{port}", folder / "log")
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/store}}}}\n"
        f"http: {{addr: '{registry.host}'}}\n"
    )
    with registry.log.open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        inspection.until(
            lambda: process.poll() is not None or inspection.ask(f"http://{registry.host}/v2/")[0] == 200,
            registry.log.read_text,
        )
        assert process.poll() is None, registry.log.read_text()
        yield registry
    finally:
        process.terminate()
        process.wait(30)
