"""What a check found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters: ``error`` stops ``up``."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found and, unless all is well, what to type."""

    level: Level
    check: str
    detail: str
    fix: str = ""
