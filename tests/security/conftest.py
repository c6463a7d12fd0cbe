"""One public project, and another host in a network namespace of its own who attacks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import Clone, require_docker
from tests.netns import OtherHost, other_host
from tests.security.wire import Door, basic


@dataclass
class Target:
    """A public project as an attacker sees it, with one honest user."""

    clone: Clone
    other_host: OtherHost
    user: str
    password: str
    token: str

    def door(self, service: str) -> Door:
        return Door(
            self.other_host.machine, self.clone.ports[service], str(self.clone.project_folder / "gateway-root.crt")
        )

    @property
    def login(self) -> dict[str, str]:
        return {"Authorization": basic(self.user, self.password)}


@pytest.fixture(scope="session")
def attacker() -> Iterator[OtherHost]:
    with other_host() as created:
        yield created


@pytest.fixture(scope="session")
def target(attacker: OtherHost, lasting_clones: Callable[..., Clone]) -> Target:
    """Everything that can be opened is open: also the S3 API and the store's console."""
    require_docker()
    clone = lasting_clones("docker")
    clone.environment["TRACKBED_BIND_ADDRESS"] = attacker.machine
    done = clone.invoke("up", "--public", f"--public-address={attacker.machine}", "--public-s3=true", timeout=1500)
    assert done.returncode == 0, done.stderr
    password = clone.value("users.add", "ann")
    token = re.search(r"token=(\S+)", clone.value("jupyter-url"))
    assert re.fullmatch(r"[0-9a-f]{32}", password) and token
    created = Target(clone, attacker, "ann", password, token[1])
    with attacker.entered():
        for _ in range(50):
            if created.door("mlflow").ask(headers=created.login).status == 200:
                break
    return created


@pytest.fixture
def attack(target: Target) -> Iterator[Target]:
    """The same, from outside: every socket that the test opens is the other host's."""
    with target.other_host.entered():
        yield target
