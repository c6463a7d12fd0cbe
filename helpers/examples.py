"""The examples of the notebook's workspace: missing and newer ones, brought by the notebook itself, as its account.

What it says is the notebook's word: bounded and shown, never obeyed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from helpers import commands
from helpers.engines.base import JUPYTER, Engine, State
from helpers.errors import TrackbedError
from helpers.suggestions import shown

MODULE = "trackbed_notebook.examples"
MOST = 100  # files
# what docker/jupyter/trackbed_notebook/examples.py says of a file, in words
OUTCOMES = {
    "added": "added",
    "current": "up to date",
    "updated": "replaced by the new version: you had not changed it",
    "changed": "changed by you, left unchanged: there is no newer version",
    "beside": "changed by you, left unchanged",
    "blocked": "not written: the name or its folder is taken",
}


@dataclass(frozen=True)
class Example:
    """One file and what became of it; ``beside``: the name that its new version has."""

    name: str
    outcome: str
    beside: str = ""

    @property
    def words(self) -> str:
        words = OUTCOMES[self.outcome]
        return f"{words}; the new version is {self.beside}" if self.beside else words


def bring(engine: Engine) -> list[Example]:
    """Bring what is missing or newer into the workspace. Raises TrackbedError where that cannot be done."""
    if all(status.name != JUPYTER or status.state is State.MISSING for status in engine.services()):
        raise TrackbedError("JupyterLab is not running, and the examples are its own", "`invoke up` starts it")
    done = engine.exec(JUPYTER, ("python", "-m", MODULE, engine.workspace_inside), timeout=60)
    if done.code:
        last = shown(commands.last_line(done.stderr, f"exit code {done.code}"), 200)
        if "No module named" in last:
            image = engine.settings.jupyter_image
            raise TrackbedError(
                f"the notebook's image {image or 'is an earlier one and'} has no examples",
                "`invoke up` without JUPYTER_IMAGE starts the image that has them" if image else "type `invoke up`",
            )
        raise TrackbedError(f"the examples could not be written: {last}", "`invoke doctor` looks at the workspace")
    return [_example(line) for line in done.stdout.splitlines()[:MOST]]


def _example(text: str) -> Example:
    try:
        name, outcome, beside = json.loads(text)
        if outcome not in OUTCOMES:
            raise ValueError(outcome)
        return Example(shown(str(name), 100), outcome, shown(str(beside), 100))
    except (ValueError, TypeError, RecursionError):
        raise TrackbedError("the notebook said something else than expected", "`invoke up`, then again") from None
