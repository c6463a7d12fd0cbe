"""`invoke demo`: a small training in the notebook's environment, watched while it logs to MLflow.

What the program says is the notebook's word: it is bounded and checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers import status, urls
from helpers.data.workspace_files import Reader, finish, present
from helpers.engines.base import JUPYTER, Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.suggestions import shown

SCRIPT = Path(__file__).with_name("demo_script.py")
# -P: a user's file of the name of a package is not in the way
PYTHON = ("python", "-P", "-X", "utf8", "-c", "import sys; exec(sys.stdin.buffer.read(int(sys.argv[1])))")
MOST = 1000
OTHER = "it answered something else"


@dataclass(frozen=True)
class Epoch:
    number: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Demo:
    """``link``: the run's page, "" where its server has no address here."""

    link: str
    device: str
    epochs: tuple[Epoch, ...]


def run(engine: Engine, epochs: int, progress: ProgressReporter, begun: Callable[[str], None]) -> Demo:
    """Train, and tell of each epoch. ``begun`` gets the run's link at once. Raises TrackbedError."""
    if not present(engine):
        raise TrackbedError("this project has no notebook", "`invoke up` starts one")
    progress.step("starting Python in the notebook's environment")
    text, seen, link, device = SCRIPT.read_bytes(), list[Epoch](), "", ""
    with engine.pipe(JUPYTER, (*PYTHON, str(len(text)), str(epochs))) as pipe:
        try:
            pipe.into.write(text)
        except BrokenPipeError:
            pass  # finish tells why
        pipe.close()
        reader = Reader(pipe, fail=failed)
        while (line := reader.line())[0] != "end":
            if line[0] == "run" and not device:
                device, link = _begun(engine, line)
                begun(link)
                progress.step(f"training on {device}")
                continue
            one = _epoch(line)
            if one is None or not device or one.number != len(seen) + 1 or one.number > epochs:
                raise failed(OTHER)
            seen.append(one)
            progress.amount("epochs", one.number, epochs, f"{one.number} of {epochs}, accuracy {one.accuracy:.3f}")
        finish(pipe, fail=failed)
    if len(seen) != epochs:
        raise failed(OTHER)
    return Demo(link, device, tuple(seen))


def failed(why: str) -> TrackbedError:
    return TrackbedError(
        f"the training in the notebook failed: {shown(why, 300)}", "`invoke check` tests the notebook and MLflow"
    )


def _epoch(line: list[object]) -> Epoch | None:
    if len(line) != 4 or line[0] != "epoch":
        return None
    number, loss, accuracy = line[1:]
    if type(number) is not int or not isinstance(loss, float) or not isinstance(accuracy, float):
        return None
    return Epoch(number, loss, accuracy) if math.isfinite(loss) and 0 <= accuracy <= 1 else None


def _begun(engine: Engine, line: list[object]) -> tuple[str, str]:
    """The device, and the page of the run, with the token where MLflow asks for one."""
    if len(line) != 4 or not all(isinstance(word, str) and word for word in line):
        raise failed(OTHER)
    _, experiment, run_id, device = map(str, line)
    if not re.fullmatch(r"[0-9]{1,20}", experiment) or not re.fullmatch(r"[0-9a-f]{32}", run_id):
        raise failed(OTHER)
    page = status.mlflow_url(status.overview(engine))
    place = f"#/experiments/{experiment}/runs/{run_id}"
    return shown(device), page.removesuffix(urls.TRAINING_PAGE) + place if page else ""
