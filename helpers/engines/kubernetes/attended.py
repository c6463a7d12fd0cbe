"""Run a command as long as whoever began this lives: its standard input ends with them, also when they are killed.

As a program. The command's first line is passed on; what it writes later must not fill a pipe that nobody reads.
"""

from __future__ import annotations

import subprocess
import sys
import threading

if __name__ == "__main__":
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def watch() -> None:
        sys.stdin.buffer.read()
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
    assert process.stdout is not None
    sys.stdout.buffer.write(process.stdout.readline())
    sys.stdout.buffer.flush()
    for _ in process.stdout:
        pass
    sys.exit(process.wait())
