"""External references: one file has them all, and what it says is used."""

from __future__ import annotations

import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

from helpers import references
from helpers.clone import ROOT
from helpers.engines.docker import images
from helpers.references import mirrored
from helpers.settings import BY_NAME

GONE = re.compile(r"quay\.io/minio/minio|(^|[^a-z])minio/(minio|mc):|whl/cu12[8]")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("key", ["postgres", "minio", "versitygw"])
def test_settings_take_their_defaults_from_the_file(key: str) -> None:
    assert BY_NAME[f"{key.upper()}_IMAGE"].default == references.image(key).reference


@pytest.mark.parametrize("folder", sorted(images.BASES))
def test_dockerfiles_build_from_the_named_images(folder: str) -> None:
    text = (ROOT / "docker" / folder / "Dockerfile").read_text()
    for argument, key in images.BASES[folder].items():
        assert f"ARG {argument}={references.image(key).reference}\n" in text
    arguments = set(re.findall(r"^ARG (\w+_IMAGE)=", text, re.MULTILINE))
    assert arguments == set(images.BASES[folder])
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    assert all(
        source.startswith("${") or source in {*stages, "scratch"}
        for source in re.findall(r"^(?:FROM |COPY --from=|# *syntax=)(\S+)", text, re.MULTILINE)
    )


def test_versitygw_is_pulled_and_built_in_one_version() -> None:
    version = references.module("versitygw").rpartition("@")[2]
    assert references.image("versitygw").name.endswith(f":{version}")
    assert f"ARG RELEASE={version}\n" in (ROOT / "docker" / "versitygw" / "Dockerfile").read_text()


def test_digests_are_whole_and_the_day_is_one() -> None:
    for image in references.images().values():
        assert not image.digest or re.fullmatch(r"sha256:[0-9a-f]{64}", image.digest)
        assert ":" in image.name
    assert date.fromisoformat(references.last_seen()) <= date.today()
    assert references.last_seen() in (ROOT / "README.md").read_text()


def test_nothing_names_what_no_longer_exists() -> None:
    result = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked()
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".in", ".txt", ".example", "")
        and "test_references" not in path.name
        for line in path.read_text(errors="replace").splitlines()
        if GONE.search(line)
    ]
    assert result == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("postgres:18.6-trixie", "m.example/hub/library/postgres:18.6-trixie"),
        ("docker.io/pgsty/silo:1@sha256:ab", "m.example/hub/pgsty/silo:1@sha256:ab"),
        ("docker.io/postgres:18", "m.example/hub/library/postgres:18"),
        ("ghcr.io/versity/versitygw:v1", "m.example/hub/versity/versitygw:v1"),
        ("versity/versitygw:v1", "m.example/hub/versity/versitygw:v1"),
        ("localhost:5000/a/b:1", "m.example/hub/a/b:1"),
    ],
)
def test_a_mirror_takes_the_place_of_the_registry(reference: str, expected: str) -> None:
    assert mirrored(reference, "m.example/hub") == expected
    assert mirrored(reference, "") == reference


def test_a_mirror_for_some_registries() -> None:
    words = "docker.io=m.example/hub ghcr.io=n.example:5000/ghcr"
    assert mirrored("postgres:18", words) == "m.example/hub/library/postgres:18"
    assert mirrored("docker.io/pgsty/silo:1@sha256:ab", words) == "m.example/hub/pgsty/silo:1@sha256:ab"
    assert mirrored("ghcr.io/versity/versitygw:v1", words) == "n.example:5000/ghcr/versity/versitygw:v1"
    assert mirrored("quay.io/a/b:1", words) == "quay.io/a/b:1", "it is named by none"
    assert mirrored("postgres:18", "ghcr.io=n.example/ghcr") == "postgres:18"


def test_every_reference_has_a_mirror() -> None:
    """No image and no base is left that a site's own registry cannot give."""
    for key, image in references.images().items():
        assert mirrored(image.reference, "m.example").startswith("m.example/"), key
    assert set(images.BASES) == {path.parent.name for path in (ROOT / "docker").glob("*/Dockerfile")}
