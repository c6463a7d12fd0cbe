"""What the artifact store promises about a power cut, and what a look at it found after an unclean stop."""

from __future__ import annotations

import json
from dataclasses import dataclass

from helpers.engines.base import Engine
from helpers.errors import TrackbedError

PROMISES = {
    # of its source: data and xl.meta are fdatasync'ed, the folder after the rename is not (MINIO_FS_OSYNC is off)
    "minio": "MinIO has an artifact's content on the disk before it answers, but not its name: a power cut may lose "
    "what was stored in the last seconds",
    "external": "whether acknowledged artifacts outlast a power cut is up to the external object store",
}


@dataclass(frozen=True)
class LookBack:
    """What was found of the artifacts that were written before an unclean stop."""

    checked: int
    by_size: int
    missing: int
    damaged: int
    names: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        if self.ok and not self.checked:
            return "after an unclean stop there was no artifact to check"
        text = f"after an unclean stop {self.checked} artifacts were checked"
        if self.by_size:
            text += f" ({self.by_size} of them by size only)"
        return f"{text}: " + ("all are whole" if self.ok else f"{self.missing} missing, {self.damaged} damaged")


def promise(engine: Engine) -> str:
    """What the store does not promise; "" where an acknowledged artifact is on the disk."""
    return "" if engine.deployment.notebook_only else PROMISES.get(engine.object_store, "")


def look_back(engine: Engine) -> LookBack | None:
    """The result of the last check; None when the last stop was clean, or when it is not known."""
    if engine.deployment.notebook_only:
        return None
    service, path = engine.check_result
    if not service:
        return None
    try:
        done = engine.exec(service, ("cat", path), timeout=10)
        return parse(done.stdout) if done.code == 0 else None
    except TrackbedError:
        return None  # it is down


def parse(text: str) -> LookBack | None:
    """A result as the server wrote it; None for anything else."""
    try:
        data = json.loads(text)
        checked, by_size, missing, damaged = (int(data[key]) for key in ("checked", "by_size", "missing", "damaged"))
        names = tuple(ascii(str(name))[1:-1] for name in data["names"])  # no control characters on a terminal
    except (ValueError, KeyError, TypeError):
        return None
    return LookBack(checked, by_size, missing, damaged, names)


def lines(engine: Engine) -> list[str]:
    """For `invoke status`."""
    result, text = look_back(engine), promise(engine)
    return [
        *(
            [f"{'' if result.ok else 'warning: '}{result}" + ("" if result.ok else "; `invoke doctor` names them")]
            if result
            else []
        ),
        *([text] if text else []),
    ]
