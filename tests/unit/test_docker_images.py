"""Which image each service's container is made from, and what an `up` finds of one that was built or pulled again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import clone, commands, references
from helpers.engines.docker import images
from helpers.engines.docker.client import LABEL, Container
from helpers.engines.docker.containers import SERVICE
from helpers.engines.docker.engine import DockerEngine
from helpers.services import BUCKET, JUPYTER, STORE_SYNC, ExecResult, State
from tests.unit.fakes import Silent, project
from tests.unit.test_compose_engine import FakeApi, compose_container

STORES = ("versitygw", "minio", "external")


class Listing(FakeApi):
    """Names of images with what they mean now, and containers with what theirs meant when they were made."""

    def __init__(self) -> None:
        super().__init__([], {"trackbed_postgres": {f"{LABEL}.instance": "mine" * 8}})
        self.meaning: dict[str, str] = {}
        self.made: dict[str, tuple[str, str]] = {}
        self.asked: list[str] = []

    def containers(self, labels: Any = ()) -> list[Container]:
        ours = f"{LABEL}.project=trackbed" in labels
        return [self.listed(service) for service in self.made if (service == JUPYTER) == ours]

    def listed(self, service: str) -> Container:
        """By the image's name as long as that means the same one, then by the id, as Docker's daemon does."""
        name, image_id = self.made[service]
        one = compose_container(f"trackbed-{service}-1", "trackbed_postgres")
        shown = name if self.meaning.get(name) == image_id else image_id
        ended = service == BUCKET
        return replace(
            one,
            labels={**one.labels, SERVICE: service},
            image=shown,
            image_id=image_id,
            state=State.EXITED if ended else State.READY,
            exit_code=0 if ended else None,
        )

    def image(self, name: str) -> dict[str, Any] | None:
        self.asked.append(name)
        kept = {image_id: image_id for _, image_id in self.made.values()}
        known = kept | self.meaning
        return {"id": known[name], "labels": {}} if name in known else None

    def info(self) -> dict[str, Any]:
        self.asked.append("info")
        return {}


def running(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: str) -> tuple[DockerEngine, Listing]:
    """A project of which all is up as its last `up` left it."""
    monkeypatch.setattr(images, "outdated", lambda *_: ())
    monkeypatch.setattr(DockerEngine, "fingerprint", lambda self: "same")
    api = Listing()
    engine = DockerEngine(project(folder, **given), api)
    engine.project.state.instance = "mine" * 8
    for service, name in images.by_service(engine.deployment, engine.notebook.image).items():
        api.meaning[name] = f"sha256:{name}"
        api.made[service] = name, api.meaning[name]
    identities = {status.name: status.identity for status in engine.services()}
    engine.project.state.applied = {"hash": "same", "identities": identities}
    return engine, api


@pytest.mark.parametrize("service", ["mlflow", "store-sync", "store", "postgres", "gateway", "jupyter"])
def test_an_image_that_was_built_or_pulled_again_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    engine, api = running(tmp_path, monkeypatch, public="true", object_store="versitygw")
    assert {status.name for status in engine.unchanged()} == set(engine.deployment.services)
    api.meaning[api.made[service][0]] = "sha256:another"
    assert engine.unchanged() == ()


def test_an_image_that_is_here_under_its_name_without_the_digest_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, api = running(tmp_path, monkeypatch, object_store="versitygw")
    reference, image_id = api.made["store"]
    name = reference.partition("@")[0]
    assert name != reference
    del api.meaning[reference]
    api.meaning[name], api.made["store"] = image_id, (name, image_id)
    assert engine.unchanged()
    api.meaning[name] = "sha256:another"
    assert engine.unchanged() == ()


@pytest.mark.parametrize("store", ["versitygw", "minio"])
def test_where_nothing_changed_each_image_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """Also none of a store that the project does not have."""
    engine, api = running(tmp_path, monkeypatch, object_store=store)
    api.asked.clear()
    assert engine.unchanged()
    assert engine.deployment.limits_memory and engine.host_facts().disk_path == "/"
    assert sorted(api.asked) == sorted(["info", *images.needed(engine.deployment, engine.notebook.image)])
    api.asked.clear()
    engine.variables_by_hand()
    other = {"minio": "versitygw", "versitygw": "minio"}[store]
    assert set(api.asked).isdisjoint({images.reference(other, engine.settings)})


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("public", ["false", "true"])
def test_every_service_has_the_image_that_its_compose_file_names(tmp_path: Path, store: str, public: str) -> None:
    keys = {"s3_endpoint": "https://s3.example.org", "s3_access_key": "a" * 16, "s3_secret_key": "s" * 16}
    external = keys if store == "external" else {}
    engine = DockerEngine(project(tmp_path, public=public, object_store=store, **external), Listing())
    expected = images.by_service(engine.deployment, engine.notebook.image)
    assert expected.keys() == set(engine.deployment.services)
    named: dict[str, str] = {}
    for file in ("compose.yaml", *(f"compose.{one}.yaml" for one in ("versitygw", "minio", "public"))):
        if store in file or file == "compose.yaml" or (public == "true" and "public" in file):
            text = (clone.ROOT / "docker" / file).read_text().replace("!reset", "")
            services = yaml.safe_load(text)["services"]
            made = {service: one for service, one in services.items() if one.get("scale") != 0}
            named |= {service: one["image"] for service, one in made.items() if "image" in one}
    for service, image in named.items():
        key = image.removeprefix("${TRACKBED_").partition("}")[0].partition(":")[0]
        reference = getattr(engine.settings, key.lower())
        assert expected[service] == reference, service
    assert named.keys() == expected.keys() - {JUPYTER}
    assert (STORE_SYNC in named) == (store == "versitygw")


@pytest.mark.parametrize("digest", ["", "@sha256:" + "a" * 64])
def test_the_databases_volume_is_looked_into_by_the_image_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    words: list[list[str]] = []

    def run(argv: list[str], *_: object) -> ExecResult:
        words.append(argv)
        return ExecResult(0, "", "")

    given = {"postgres_image": f"registry.example/postgres:18{digest}"} if digest else {}
    api = Listing()
    engine = DockerEngine(project(tmp_path, registry_mirror="mirror.example/hub", **given), api)
    here = (
        "registry.example/postgres:18" if digest else f"mirror.example/hub/library/{references.image('postgres').name}"
    )
    api.meaning[here] = "sha256:1"
    monkeypatch.setattr(commands, "run", run)
    engine.database.check((), Silent())
    assert [argv[argv.index("-c") - 1] for argv in words] == [here]
