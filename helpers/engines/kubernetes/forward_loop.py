"""Run a command again and again: a port-forward ends with the pod that it led to. As a program, under supervisor."""

from __future__ import annotations

import subprocess
import sys
import time

PAUSE = 1.0  # seconds between two tries

if __name__ == "__main__":
    while True:
        subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, check=False)
        time.sleep(PAUSE)
