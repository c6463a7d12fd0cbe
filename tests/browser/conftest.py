"""One browser for all tests. A test is run again where Chromium dropped requests as the machine's network changed.

MLflow and JupyterLab then show an error, and a person reloads. Nothing else is a reason to run a test again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from playwright.sync_api import Browser

from tests import chromium

ATTEMPTS = 3


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all: Playwright runs once in a process."""
    with chromium.launched() as started:
        yield started


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """pytest's own protocol, repeated with new fixtures of the test; only the last attempt is reported."""
    if item.path.parent != Path(__file__).parent:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(1, ATTEMPTS + 1):
        chromium.events.clear()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        changed = [event for event in chromium.events if chromium.NETWORK_CHANGED in event]
        if attempt == ATTEMPTS or not changed or not any(report.failed for report in reports):
            break
        item.warn(pytest.PytestWarning(f"{item.name} is run again, the network of this machine changed: {changed[0]}"))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
