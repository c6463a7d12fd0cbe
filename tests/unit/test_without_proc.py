"""macOS has no /proc and no /sys: what looks there has another answer, and nothing fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import addresses, machine_failures
from helpers.engines.embedded import stale_locks
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.supervisor import Supervisor
from helpers.gpu import probe
from helpers.services import MLFLOW, POSTGRES
from tests.unit.fakes import project


@pytest.fixture(autouse=True)
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """For our own code: psutil knows each system's ways."""

    def hidden(call: Callable[..., Any]) -> Callable[..., Any]:
        def ask(path: Path, *words: Any, **named: Any) -> Any:
            missing = Path("/nowhere", *path.parts[1:]) if path.parts[1:2] in (("proc",), ("sys",)) else path
            return call(missing, *words, **named)

        return ask

    for name in ("read_text", "read_bytes", "exists", "is_dir", "glob", "iterdir", "stat"):
        monkeypatch.setattr(Path, name, hidden(getattr(Path, name)))


def test_looking_at_the_embedded_engine(tmp_path: Path) -> None:
    engine = EmbeddedEngine(project(tmp_path, engine="embedded", gpu="none"))
    facts = engine.host_facts()
    assert facts.memory > facts.memory_available > 0 and facts.cpus
    assert engine.services() and engine.plan().names and not engine.workspace_problem()[0]
    with engine.open(MLFLOW, "http") as address:  # whose socket it is does not show
        assert address.port == engine.settings.mlflow_port
    assert not engine.processes.pid(POSTGRES) and engine.lowest_port() == 1024


def test_what_only_linux_tells(tmp_path: Path) -> None:
    (tmp_path / "supervisord.pid").write_text(str(os.getpid()))
    assert Supervisor(tmp_path, tmp_path, "x").has_groups({60001})
    assert stale_locks.workers(tmp_path) is None, "PostgreSQL itself has to tell"
    assert addresses.uplink() == ("", 0) and addresses.first_unprivileged() == 1024
    assert machine_failures.memory_limit() == (0, 0) and not machine_failures.killed_for_memory()
    assert not probe.look()["nodes"] and not probe.look()["kfd"]
