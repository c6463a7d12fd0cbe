"""What a program shows on a pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import time

from tests.conftest import PATIENCE


class Screen:
    """``terminal``: the descriptor that pty.fork gave. ``shown``: all that was read so far."""

    def __init__(self, terminal: int) -> None:
        self.terminal, self.shown = terminal, ""

    def wait(self, pattern: str) -> None:
        """Read until the pattern is there."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.shown += os.read(self.terminal, 1 << 16).decode()
