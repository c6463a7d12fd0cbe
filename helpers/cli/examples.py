"""`invoke examples`: the notebook's examples."""

from __future__ import annotations

from helpers import console, examples, status
from helpers.cli import options
from helpers.settings.flags import Flags


def bring(given: Flags) -> None:
    result = examples.bring(status.running(options.load(given)))
    console.table(("file", "result"), [(one.name, one.words) for one in result])
