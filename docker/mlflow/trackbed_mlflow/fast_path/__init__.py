"""A shorter way through MLflow for the requests that training makes: the same rows and the same answers.

MLflow finds it through its plugin groups: `mlflow.tracking_store` (store.py) and `mlflow.app` (app.py beside this
package). TRACKBED_FAST_PATH=off leaves MLflow as it is. With auto each part is used where MLflow is built as it was
written for; why one is not, the server's log says, and ``read_state``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trackbed_mlflow.errors import FAILED, MISCONFIGURED, Stop, say

SWITCH = "TRACKBED_FAST_PATH"  # auto or off
WRITTEN_FOR = "3.17.2"  # the MLflow that the differential test has compared it with
STATE = "fast-path.json"  # in the server's own temporary folder
PARTS = ("tracking store", "JSON requests", "JSON answers", "table of runs", "import of the server")
fallbacks: dict[str, str] = {}  # why a part is not used
limited: dict[str, str] = {}  # a part that a setting keeps from being used: the setting with which it would be


def enabled(environment: Mapping[str, str]) -> bool:
    value = environment.get(SWITCH) or "auto"
    if value not in ("auto", "off"):
        raise Stop(MISCONFIGURED, f"{SWITCH}={value}: auto or off is expected")
    return value == "auto"


def usable() -> bool:
    """Whether it may be used at all; the reason why not is one for each part."""
    if not enabled(os.environ):
        return False
    from mlflow.version import VERSION  # type: ignore[import-not-found]

    if VERSION != WRITTEN_FOR:
        fallbacks.update(dict.fromkeys(PARTS, f"it is MLflow {VERSION}, and this is written for {WRITTEN_FOR}"))
    return bool(VERSION == WRITTEN_FOR)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What is in here replaces a part of MLflow; where MLflow is built otherwise, its own way stays."""
    try:
        yield
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        fallbacks[name] = f"{type(error).__name__}: {error}"
        say(f"MLflow's own way is used for the {name}: {fallbacks[name]}")


def state_file(environment: Mapping[str, str]) -> Path | None:
    """None without a temporary folder of the server's own: in a shared one anybody may have made the file."""
    folder = environment.get("TRACKBED_OWN_TMP")
    return Path(folder, STATE) if folder else None


def write_state(environment: Mapping[str, str]) -> None:
    """Leave for ``read_state`` which parts this server uses; nothing where the server has no folder of its own."""
    result = {"enabled": enabled(environment), "fallbacks": fallbacks, "limited": limited}
    if (path := state_file(environment)) is None:
        return
    try:
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(result), "utf-8")
        new.replace(path)
    except OSError as error:
        say(f"cannot write whether the fast path is used: {error}")


def read_state(environment: Mapping[str, str]) -> str:
    """`fast-path`, as the running server left it.

    {"enabled": bool, "fallbacks": {PART: why}, "limited": {PART: the setting with which it would be used}}
    """
    missing = "the server has not written whether the fast path is used"
    if (path := state_file(environment)) is None:
        raise Stop(FAILED, f"{missing}: TRACKBED_OWN_TMP names no folder")
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise Stop(FAILED, f"{missing}: {error.strerror}") from None
