"""What does not answer is named, and nobody waits for it without a limit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import PATIENCE, Clone
from tests.integration import inspection


@contextmanager
def frozen(clone: Clone, service: str) -> Iterator[None]:
    """The service's processes stand still."""
    if clone.engine == "docker":
        inspection.output("docker", "pause", inspection.container(clone, service))
        try:
            yield
        finally:
            inspection.run("docker", "unpause", inspection.container(clone, service))
        return
    pid = inspection.supervisord(clone) if service == "supervisord" else inspection.running_process(clone, service)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_until_ready(clone: Clone) -> None:
    """Wait until every service is well again, for the tests that come next."""
    inspection.until(
        lambda: all(p["state"] in ("ready", "done") for p in clone.services().values()),
        lambda: clone.invoke("status").stdout,
    )


@pytest.mark.parametrize("service", ["postgres", "jupyter"])  # MLflow is several processes
def test_looking_ends_and_names_the_service_that_stands_still(deployment: Clone, service: str) -> None:
    with frozen(deployment, service):
        done = deployment.invoke("status", "--format=json", timeout=PATIENCE)
        shown = {row["service"]: row for row in json.loads(done.stdout)["services"]}
        assert done.returncode == 1 and shown[service]["state"] in ("starting", "unhealthy")
        assert shown[service]["reason"], "no word about why"
        assert deployment.invoke("logs", service, "--tail=5", timeout=PATIENCE).returncode == 0
    wait_until_ready(deployment)


@pytest.mark.embedded
def test_a_frozen_supervisor_is_named_and_down_ends_it(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("embedded")
    clone.up()
    os.kill(inspection.supervisord(clone), signal.SIGSTOP)
    done = clone.invoke("status", timeout=PATIENCE)
    assert done.returncode == 1 and "does not answer" in done.stdout
    os.kill(inspection.main_process(clone, "postgres") or inspection.supervisord(clone), signal.SIGSTOP)
    down = clone.invoke("down", timeout=PATIENCE)
    assert down.returncode == 0, down.stderr
    assert not inspection.processes(clone)
