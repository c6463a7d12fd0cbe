"""An external object store that answers 503 for a while, or cuts connections in the middle."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.claims import free_ports
from tests.conftest import PATIENCE, Clone, require_docker
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.harness import Fault, Harness, Tally
from tests.faults.proxy import Proxy
from tests.integration import inspection

IMAGE = "ghcr.io/versity/versitygw:v1.8.0"
KEYS = ("faults", uuid.uuid4().hex)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A VersityGW that knows nothing of Trackbed, behind a proxy that containers reach too."""
    require_docker()
    gateway = inspection.output("docker", "network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
    port = free_ports(1)[0]
    name = f"tb-faults-store-{port}"
    inspection.output(
        "docker",
        "run",
        "-d",
        "--name",
        name,
        "-p",
        f"127.0.0.1:{port}:9000",
        "--entrypoint",
        "sh",
        "-e",
        f"ROOT_ACCESS_KEY={KEYS[0]}",
        "-e",
        f"ROOT_SECRET_KEY={KEYS[1]}",
        IMAGE,
        "-c",
        "mkdir -p /tmp/objects /tmp/sidecar && exec versitygw --port :9000 posix --sidecar /tmp/sidecar /tmp/objects",
    )
    created = Proxy(gateway, ("127.0.0.1", port), random.Random(1))
    try:
        yield created
    finally:
        created.close()
        inspection.output("docker", "rm", "-f", "-v", name)


@pytest.fixture(scope="module")
def external(engine: str, proxy: Proxy, clone_factory: Callable[..., Clone], harnesses: Harnesses) -> Harness:
    clone = clone_factory(engine)
    clone.environment |= {
        "TRACKBED_OBJECT_STORE": "external",
        "TRACKBED_S3_ENDPOINT": f"http://{proxy.host}:{proxy.port}",
        "TRACKBED_S3_ACCESS_KEY": KEYS[0],
        "TRACKBED_S3_SECRET_KEY": KEYS[1],
        "TRACKBED_S3_BUCKET": f"bucket-{clone.project}",
    }  # which nobody has made
    clone.up()
    return harnesses(clone)


def fault_of(proxy: Proxy, mode: str) -> Fault:
    def fault(clone: Clone, rng: random.Random) -> None:
        before = proxy.met
        proxy.set(mode)
        deadline = time.monotonic() + rng.uniform(2, 6)
        while time.monotonic() < deadline or (proxy.met == before and time.monotonic() < deadline + PATIENCE):
            time.sleep(0.1)
        proxy.set("pass")
        assert proxy.met > before, "the fault met no connection"

    return fault


@pytest.mark.parametrize(("name", "mode"), [("store answers 503", "busy"), ("store cuts connections", "cut")])
def test_store_in_trouble(
    external: Harness, proxy: Proxy, name: str, mode: str, rng: random.Random, tallies: dict[str, Tally]
) -> None:
    external.rng = proxy.rng = rng
    tally = tallies.setdefault(f"{external.clone.engine}, {name}", Tally())
    for _ in range(ROUNDS):
        external.round(fault_of(proxy, mode), tally)
    external.verify(tally)
