"""CPU, memory, disk, network and GPU of every run, in each Python that can measure them.

MLflow measures with psutil, and refuses to start a run where it is told to and psutil is missing, as in a virtual
environment of somebody's own. So no variable says it, which every process would inherit: importing MLflow loads this,
as a plugin of its run contexts that adds nothing to a run, and changes MLflow's default. Who says otherwise, in the
environment or by ``mlflow.disable_system_metrics_logging()``, has the last word.

MLflow's four lines at each run, that it begins and ends to measure, are left out: nobody asked for it.
"""

from __future__ import annotations

import importlib.util
import logging

from mlflow import environment_variables  # type: ignore[import-not-found]


def measure() -> None:
    """On where nobody says otherwise."""
    switch = getattr(environment_variables, "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", None)
    if switch is not None and importlib.util.find_spec("psutil") is not None and hasattr(switch, "default"):
        switch.default = True
        monitor = logging.getLogger("mlflow.system_metrics.system_metrics_monitor")
        if monitor.level == logging.NOTSET:
            monitor.setLevel(logging.WARNING)


measure()


class SystemMetrics:
    """A run context without tags."""

    def in_context(self) -> bool:
        return False

    def tags(self) -> dict[str, str]:
        return {}
