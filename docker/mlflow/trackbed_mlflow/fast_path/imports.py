"""A shorter import of MLflow's server: what only its command line or nobody uses is left for later.

One thread imports MLflow, before anything is served and before the workers are forked. Afterwards every module can be
imported as ever, by the import system's own locks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import Any

from trackbed_mlflow import fast_path

PART = "import of the server"

# Groups of commands that MLflow's command line goes without where they cannot be imported; `mlflow server` is another.
COMMANDS = (
    "mlflow.agent.cli",
    "mlflow.assistant.cli",
    "mlflow.claude_code.cli",
    "mlflow.cli.skills",
    "mlflow.gateway.cli",
    "mlflow.mcp.cli",
    "mlflow.models.cli",
    "mlflow.sagemaker",
)


def shorten_enabled() -> bool:
    """Whether this MLflow's imports may be shortened: MLflow itself, which knows its version, is not imported yet."""
    try:
        return fast_path.enabled(os.environ) and metadata.version("mlflow") == fast_path.WRITTEN_FOR
    except metadata.PackageNotFoundError:
        return False


@contextmanager
def shortened() -> Iterator[None]:
    """MLflow's server is imported in here."""
    with fast_path.part(PART):
        build_addresses_later()
    with without(COMMANDS), entry_points_read_once():
        yield


@contextmanager
def without(names: tuple[str, ...]) -> Iterator[None]:
    """These modules are not there, as far as who imports them now is concerned."""
    held = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(held))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in held:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)


@contextmanager
def entry_points_read_once() -> Iterator[None]:
    """Each look for plugins of one kind reads what all installed packages offer: MLflow looks a dozen times."""
    read = metadata.entry_points
    everything: Callable[[], Any] = cache(read)
    reading = True

    def entry_points(**wanted: Any) -> Any:
        return everything().select(**wanted) if reading and wanted else read(**wanted)

    metadata.entry_points = entry_points
    try:
        yield
    finally:
        metadata.entry_points, reading = read, False  # some module may keep ours


def build_addresses_later() -> None:
    """werkzeug compiles two functions for each route that make its address; MLflow's server asks for no address."""
    from werkzeug.routing import rules  # type: ignore[import-not-found,unused-ignore]

    compile_builder = rules.Rule._compile_builder

    def later(rule: Any, append_unknown: bool = True) -> Callable[..., Any]:
        compiled: list[Callable[..., Any]] = []

        def build(self: Any, *values: Any, **named: Any) -> Any:
            if not compiled:  # two threads may do it twice, alike
                compiled.append(compile_builder(rule, append_unknown))
            return compiled[0](self, *values, **named)

        return build

    rules.Rule._compile_builder = later
