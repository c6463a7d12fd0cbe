"""SIGTERM ends a task as Ctrl-C does: what it was at is tidied up, and the exit code says so."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
import command_line
from invoke.context import Context

def body(context):
    try:
        print("at it", flush=True)
        time.sleep(600)
    finally:
        print("tidied up", flush=True)

try:
    command_line.reported(body)(Context())
except command_line.Exit as ended:
    raise SystemExit(ended.code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_task_that_is_ended_tidies_up(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at it\n"
        process.send_signal(number)
        out, said = process.communicate(timeout=PATIENCE)
    assert out == "tidied up\n"
    assert process.returncode == 130
    assert "interrupted" in said and "Traceback" not in said
