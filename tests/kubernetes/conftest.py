"""The cluster: started where it is required, used where it runs, else the tests are skipped loudly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Clone, clones, require_docker
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


def _making(make: Callable[..., Clone]) -> Callable[..., Clone]:
    """Clones whose images the nodes have, as a registry would give them."""

    def created(engine: str, gpu: str = "none", **options: str) -> Clone:
        clone = make(engine, **options)
        clone.environment |= {"TRACKBED_GPU": gpu}
        cluster.bring_images(clone)
        return clone

    return created


@pytest.fixture(scope="module")
def clone_factory() -> Iterator[Callable[..., Clone]]:
    """As the other engines' tests have it."""
    with clones() as make:
        yield _making(make)


@pytest.fixture(scope="session")
def lasting_clones() -> Iterator[Callable[..., Clone]]:
    """As the other engines' tests have it."""
    with clones() as make:
        yield _making(make)
