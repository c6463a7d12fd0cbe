"""The database's clock jumps (libfaketime), and jumps back. Not MLflow's: below libfaketime 0.9.10 Python's
``time.sleep`` fails with EINVAL."""

from __future__ import annotations

import os
import random
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.faults.conftest import ROUNDS
from tests.faults.harness import Fault, Harness, Tally
from tests.integration import inspection

JUMPS = ("+1h", "-1h", "+400d", "-400d", "+20", "-20")
INSIDE = "/tmp/faketime"


def library() -> Path:
    result = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if result:
        return result[0]
    if os.environ.get("TRACKBED_REQUIRE_FAKETIME") == "1":
        pytest.fail("TRACKBED_REQUIRE_FAKETIME=1, but there is no libfaketime")
    pytest.skip("NOT TESTED: no libfaketime on this machine (Debian: apt install libfaketime)")


def variables(where: str, file: str) -> dict[str, str]:
    """The real clock until ``file`` is there. Waiting goes on in real time: a clock that is set moves only the date."""
    return {
        "LD_PRELOAD": where,
        "FAKETIME_TIMESTAMP_FILE": file,
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def wrapped(clone: Clone, service: str) -> Iterator[Path]:
    """The service's program is a script that preloads the library; gives the file that sets its clock."""
    folder = clone.project_folder / "embedded"
    program = inspection.programs(clone) / "postgres"
    real = program.with_name(program.name + ".real")
    clock = folder / f"clock-{service}"
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables(str(library()), str(clock)).items())
    program.rename(real)
    # under its own name, by which PostgreSQL finds its folders
    program.write_text(f'#!/bin/bash\nexport {words}\nexec -a "$0" {shlex.quote(str(real))} "$@"\n')
    program.chmod(0o755)
    try:
        yield clock
    finally:
        real.replace(program)
        clock.unlink(missing_ok=True)


@contextmanager
def derived(clone: Clone, service: str, folder: Path) -> Iterator[None]:
    """The service runs from an image that has the library."""
    variable = f"TRACKBED_{service.upper()}_IMAGE"
    base = inspection.output("docker", "inspect", "-f", "{{.Config.Image}}", inspection.container(clone, service))
    name, before = f"trackbed-faults/{clone.project}-{service}:faketime", clone.environment.get(variable)
    (folder / "libfaketime.so").write_bytes(library().read_bytes())
    lines = [
        f"FROM {base}",
        "COPY --chmod=0755 libfaketime.so /libfaketime.so",
        *(f"ENV {key}={value}" for key, value in variables("/libfaketime.so", INSIDE).items()),
    ]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    inspection.output("docker", "build", "-q", "-t", name, str(folder), timeout=300)
    clone.environment[variable] = name
    try:
        clone.up()
        yield
    finally:
        clone.environment[variable] = before or base
        clone.up()
        if before is None:
            del clone.environment[variable]
        inspection.output("docker", "image", "rm", "-f", name)


def started(clone: Clone, harness: Harness, service: str) -> None:
    before = inspection.running_process(clone, service)
    os.kill(before, signal.SIGKILL)
    inspection.until(lambda: inspection.main_process(clone, service) not in (0, before))
    harness.recover(Tally())


def jump(service: str, clock: Path | None) -> Fault:
    def set_clock(clone: Clone, text: str) -> None:
        if clock is not None:
            clock.write_text(text)
            clock.chmod(0o644)
        else:
            inspection.output(
                "docker",
                "exec",
                "-e",
                "LD_PRELOAD=",
                inspection.container(clone, service),
                "sh",
                "-c",
                f"echo {text} >{INSIDE}",
            )

    def fault(clone: Clone, rng: random.Random) -> None:
        set_clock(clone, rng.choice(JUMPS))
        time.sleep(rng.uniform(3, 6))
        reported = float(inspection.psql(clone, "SELECT extract(epoch FROM clock_timestamp())"))
        assert abs(reported - time.time()) > 10, "the clock did not jump"
        set_clock(clone, "+0")
        time.sleep(1.2)  # until it is read again

    return fault


def test_clock_jumps(harness: Harness, tmp_path: Path, tallies: dict[str, Tally]) -> None:
    library()
    clone, service = harness.clone, "postgres"
    tally = tallies.setdefault(f"{clone.engine}, clock of {service} jumps", Tally())
    if clone.engine == "docker":
        with derived(clone, service, tmp_path):
            for _ in range(ROUNDS):
                harness.round(jump(service, None), tally)
            harness.verify(tally)
        return
    with wrapped(clone, service) as clock:
        started(clone, harness, service)
        assert "libfaketime" in Path(f"/proc/{inspection.running_process(clone, service)}/maps").read_text()
        for _ in range(ROUNDS):
            harness.round(jump(service, clock), tally)
        harness.verify(tally)
    started(clone, harness, service)
