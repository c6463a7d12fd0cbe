"""A run that is still open when its kernel or script ends: KILLED or FAILED where that was cut off, not FINISHED.

MLflow ends an open run as FINISHED when Python exits. Jupyter interrupts the running cell before it ends a kernel, so
a training that was cut off would be said to be complete. A plugin of MLflow's request headers, which adds none: being
asked for one is the moment at which MLflow is complete.
"""

from __future__ import annotations

import atexit
import sys
from types import TracebackType
from typing import Any


def _status(error: BaseException) -> str:
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


class RunStatus:
    """Looks at how each cell, or the script, ends, from MLflow's first request on."""

    def __init__(self) -> None:
        self.status = ""
        self._watching = False

    def in_context(self) -> bool:
        if not self._watching:
            self._watching = True
            try:
                shell = sys.modules["IPython"].get_ipython()
                shell.events.register("post_run_cell", self.cell_ended)
            except (KeyError, AttributeError):  # a script; or Python's prompt, which goes on after an error
                if not hasattr(sys, "ps1") and not sys.flags.interactive:
                    self._shown, sys.excepthook = sys.excepthook, self.script_ended
            atexit.register(self.end)  # behind MLflow's own, so before it
        return False

    def request_headers(self) -> dict[str, str]:
        return {}

    def cell_ended(self, result: Any) -> None:
        """A cell that ends well clears what the one before it left: somebody goes on with the run."""
        error = getattr(result, "error_in_exec", None)
        self.status = "" if error is None else _status(error)

    def script_ended(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """What Python does with an error that nothing caught: show it, then end."""
        self.status = _status(error)
        self._shown(kind, error, trace)

    def end(self) -> None:
        fluent = sys.modules.get("mlflow.tracking.fluent")
        if self.status and fluent is not None:
            try:
                while fluent.active_run() is not None:
                    fluent.end_run(self.status)
            except Exception:  # no server any more: MLflow's own way fails alike
                pass
