"""The second way to an image, and a project that keeps the store of its data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from helpers import references
from helpers.engines.docker import images
from tests.conftest import Clone, require_docker
from tests.integration import inspection

STORE = references.image("versitygw")
ASIDE = "trackbed-test/store-kept-aside:1"


@contextmanager
def store_image_gone() -> Iterator[None]:
    """The engine has no image by the names of VersityGW, as on a machine that has never seen one."""
    existing = inspection.run("docker", "image", "inspect", STORE.name).returncode == 0
    if existing:
        inspection.output("docker", "tag", STORE.name, ASIDE)
    inspection.run("docker", "image", "rm", STORE.name, STORE.reference, images.VERSITYGW)
    try:
        yield
    finally:
        if existing:
            inspection.output("docker", "tag", ASIDE, STORE.name)
            inspection.output("docker", "image", "rm", ASIDE)


@pytest.mark.machine
@pytest.mark.docker
def test_store_is_built_where_its_image_cannot_be_pulled(clone_factory: Callable[..., Clone]) -> None:
    require_docker()
    with store_image_gone():
        if inspection.run("docker", "pull", "-q", STORE.reference, timeout=300).returncode == 0:
            pytest.skip("NOT TESTED: this machine reaches the registry of VersityGW's image")
        clone = clone_factory("docker")
        clone.environment.pop("TRACKBED_OBJECT_STORE", None)  # the default
        done = clone.invoke("up", timeout=1500)
        assert done.returncode == 0, done.stderr
        assert f"building the same release from {references.module('versitygw')}" in done.stderr
        used = inspection.output("docker", "inspect", "--format", "{{.Image}}", inspection.container(clone, "store"))
        assert used == inspection.output("docker", "image", "inspect", "--format", "{{.Id}}", images.VERSITYGW)
        assert clone.invoke("check").returncode == 0
        state = json.loads((clone.project_folder / "state.json").read_text())
        assert state["live"]["store"] == "versitygw"
        assert clone.invoke("down", "--delete-data", "--yes").returncode == 0
