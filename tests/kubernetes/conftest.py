"""The cluster: started where it is required, used where it runs, else the tests are skipped loudly."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import require_docker
from tests.kubernetes import cluster


@pytest.fixture(scope="session", autouse=True)
def real_cluster() -> Iterator[None]:
    """Two nodes that are ready. One that the tests started ends with them."""
    require_docker()
    required = os.environ.get("TRACKBED_REQUIRE_KUBERNETES") == "1"
    if not required and not cluster.answers():
        pytest.skip(
            "NOT TESTED: no cluster; TRACKBED_REQUIRE_KUBERNETES=1 starts one, as tests/environment/kubernetes/up.sh does"
        )
    if os.geteuid() != 0:
        pytest.fail("the cluster of tests/environment/kubernetes needs root")
    started = cluster.start()
    yield
    if started:
        cluster.stop()


@pytest.fixture(scope="session")
def engine() -> str:
    """The same tests as on the other engines, on this one."""
    return "kubernetes"
