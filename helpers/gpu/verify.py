"""The GPUs seen from inside the running notebook: the quick look of ``up`` and the checks of ``invoke check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any, Protocol

from helpers import commands
from helpers.errors import TrackbedError
from helpers.gpu import advice
from helpers.gpu.accelerator import Accelerator
from helpers.services import JUPYTER, ExecResult, ProgressReporter

SCRIPT = Path(__file__).with_name("check_script.py")


class TorchSetting(Protocol):
    """Of the settings."""

    @property
    def torch(self) -> str: ...


class Engine(Protocol):
    """What is asked of the engine that runs the notebook; engines stand above this package."""

    @property
    def settings(self) -> TorchSetting: ...

    @property
    def accelerator(self) -> Accelerator: ...

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult: ...


def inside(
    engine: Engine, quick: bool, timeout: float = 300, experiment: str = ""
) -> tuple[list[dict[str, Any]], ExecResult]:
    """The lines of the probe, as objects with ``check``, ``ok`` (None: could not be done), ``detail``, ``seconds``.

    ``experiment``: where the full check logs its run.
    """
    chosen = engine.accelerator
    given = {
        "kind": chosen.kind,
        "nodes": list(chosen.opened),
        "quick": quick,
        "torch": engine.settings.torch == "auto",
        "experiment": experiment,
    }
    done = engine.exec(JUPYTER, ("python", "-", json.dumps(given)), stdin=SCRIPT.read_bytes(), timeout=timeout)
    lines = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict) and "check" in data:
                lines.append(data)
    return lines, done


def verify(engine: Engine, progress: ProgressReporter) -> None:
    """Raise TrackbedError when the notebook cannot open the GPU it was started with: no silent fall back to the CPU."""
    progress.step("opening the GPU inside the notebook")
    lines, done = inside(engine, quick=True, timeout=60)
    if lines and lines[0]["ok"]:
        return
    detail = str(lines[0]["detail"]) if lines else commands.last_line(done.stderr, "no answer")
    means, fix = advice.advice(detail) or (
        "",
        "`invoke doctor` shows what the machine has; --gpu=none goes on without a GPU",
    )
    raise TrackbedError(
        f"the notebook cannot use its GPU ({engine.accelerator}): "
        + (f"{means}. It says: {detail}" if means else detail),
        fix,
    )
