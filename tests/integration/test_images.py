"""The second way to an image, a project that keeps the store of its data, and a mirror of the registries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import references
from helpers.engines.docker import images
from tests.conftest import Clone, require_docker
from tests.integration import inspection, registries

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


@pytest.mark.machine  # for a moment our images are built from the mirror's bases
@pytest.mark.docker
def test_a_site_builds_and_pulls_from_its_own_registry(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    require_docker()
    clone = clone_factory("docker")
    with registries.running(tmp_path) as registry:
        words = f"docker.io={registry.host}/hub ghcr.io={registry.host}/ghcr"
        names = {key: references.mirrored(references.image(key).name, words) for key in ("python", "postgres")}
        # the store's stand-in has another digest than the registry's image, so it cannot be pulled by it
        kept = references.mirrored(STORE.name, words)
        try:
            inspection.output("docker", "tag", STORE.name, kept)
            for key, name in names.items():
                inspection.output("docker", "tag", references.image(key).name, name)
                inspection.output("docker", "push", "-q", name)
                inspection.output("docker", "image", "rm", name)
            done = clone.invoke("prepare", timeout=900, TRACKBED_REGISTRY_MIRROR=words)
            assert done.returncode == 0, done.stderr
            assert registry.was_asked_for("hub/library/postgres") and registry.was_asked_for("hub/library/python")
            environment = (clone.folder / ".trackbed.env").read_text()
            assert f"TRACKBED_POSTGRES_IMAGE={names['postgres']}" in environment.replace("'", "")
        finally:
            inspection.run("docker", "image", "rm", kept, *names.values())
    assert clone.invoke("build", timeout=900, TRACKBED_REGISTRY_MIRROR="").returncode == 0
    clone.invoke("down", "--delete-data", "--yes")
