"""A scheduled backup in a pod of the cluster, as a process of its own: where the last backup of a lease has to begin it
is ended, as on a machine, and the pod goes on with that one. Whatever it waits for then, it is gone in a minute."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from helpers.backups import lead
from helpers.engines import streaming
from helpers.errors import TrackbedError
from helpers.project.backup_runs import HOUR, LAST_LOOKS, Result

WORD = "scheduled"  # asks helpers/backups/in_cluster.py for the backup alone
ARGV = (sys.executable, "-m", "helpers.backups.in_cluster", WORD)
LIMIT = 24 * HOUR
LOOK = 30.0  # seconds between two looks at what the lease is now
STOPPING = 7.0  # seconds for it to go where its pod is ended, which has 10


class GaveWay(Exception):
    """It was ended: the last backup of the lease goes first."""


class Lease:
    """The lease while a scheduled backup is at work: somebody may name it, or another end, and the data grow.

    ``end``: gives when it ends, in seconds since the epoch, 0 for never; ``measure``: what is told of its last backup,
    from that and the time now; ``last``: what is told of it by now, {} where it does not end within a day.
    """

    def __init__(
        self, end: Callable[[], float], measure: Callable[[float, float], dict[str, Any]], last: dict[str, Any]
    ) -> None:
        self._end, self._measure, self.last = end, measure, last
        self._named, self._tried = last.get("end", 0.0), 0.0

    def until(self) -> float:
        """When the scheduled backup has to be gone."""
        now, end = time.time(), self._end()
        if end != self._named:
            self._named, self._tried, self.last = end, 0.0, {}
        if now < self._known(end, now) and now >= self.last.get("measured", 0.0) + HOUR:
            self._measured(end, now)
        return self._known(end, now)

    def _known(self, end: float, now: float) -> float:
        return lead.waits_until(end, self.last.get("needs", 0.0)) if now < end else math.inf

    def _measured(self, end: float, now: float) -> None:
        """What cannot be measured is what it was, or takes as little as one may."""
        if now < self._tried + LAST_LOOKS:
            return
        try:
            self.last = self._measure(end, now)
        except TrackbedError:
            self._tried = now


def run(plan: Mapping[str, Any], until: Callable[[], float], log: Callable[[str], None]) -> Result:
    """Back up as a pod is told, in a process of its own. Raises GaveWay where it was not done ``until`` then, which is
    asked again and again."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=told)
        assert process.stdin is not None
        begun = time.time()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(plan).encode())  # keys are in it: no argument, no file
                process.stdin.close()
            while (now := time.time()) < begun + LIMIT:
                if now >= (end := until()):
                    log(lead.GOES_FIRST)
                    streaming.end(process, lead.ENDING)
                    raise GaveWay
                if _ended(process, min(LOOK, end - now)):
                    told.seek(0)
                    return _result(told.read(), begun, process.returncode)
        except BaseException:
            streaming.end(process, STOPPING)
            raise
        streaming.end(process, lead.ENDING)
    return Result("failed", begun, f"it was not done after {LIMIT / HOUR:.0f} hours, and was ended")


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _result(told: bytes, begun: float, code: int) -> Result:
    with suppress(KeyError, TypeError, ValueError):
        return Result.parse(json.loads(told))
    return Result("failed", begun, f"its program ended with exit code {code}; the log of its pod shows why")
