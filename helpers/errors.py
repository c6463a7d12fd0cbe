"""What went wrong, in words a user can act on."""

from __future__ import annotations

import os
from collections.abc import Callable

FAILED = 1
BAD_SETTING = 2
INTERRUPTED = 130


class TrackbedError(Exception):
    """Something failed. ``message`` says what and why, ``hint`` what to type now.

    ``details`` are lines to show below (the last log lines of the service concerned).
    ``code`` is the process exit code: 1 failed, 2 a setting is wrong, 130 interrupted.
    """

    code = FAILED

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class SettingError(TrackbedError):
    """A setting, flag or ``.env`` line is wrong; nothing was started."""

    code = BAD_SETTING


class WrongProject(TrackbedError):
    """What was asked for belongs to another project: nothing of this one is wrong, and none of it was looked at."""


class EngineUnavailable(TrackbedError):
    """The chosen engine cannot be used on this machine as it is."""


class ServiceFailed(TrackbedError):
    """A service exited or is unhealthy for good; ``service`` names it."""

    def __init__(self, service: str, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint, details)
        self.service = service


class NotListening(TrackbedError):
    """Nothing of ours listens on a service's port: no secret may be sent there."""


class PortTaken(NotListening):
    """Another program listens there."""


class NotReady(TrackbedError):
    """The time to wait ran out; the message names what was still missing."""


class Interrupted(TrackbedError):
    """Ctrl-C or SIGTERM; what was started stays and the next ``up`` goes on from there."""

    code = INTERRUPTED


# asked where something failed for a reason behind it, as a connection that was lost; by whoever may know one
REASONS: list[Callable[[], TrackbedError | None]] = []


def reason() -> TrackbedError | None:
    """The error behind one that is to be told; None where that is all there is to tell."""
    return next(filter(None, (ask() for ask in REASONS)), None)


def traceback_wanted() -> bool:
    """TRACKBED_TRACEBACK=1 asks for Python's own report instead of a message."""
    return os.environ.get("TRACKBED_TRACEBACK", "") not in ("", "0")
