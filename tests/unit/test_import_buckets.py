"""Artifacts of a source in a bucket: what is found there, what is not, and reading it in parts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers.backups.bucket import Access, Bucket, Changed
from helpers.errors import SettingError, TrackbedError
from helpers.imports import buckets, places, sources
from helpers.imports.places import Location, Mapping, Places
from tests.unit import fakes


class Client:
    """A store with these objects, which lists two keys a page."""

    def __init__(self, objects: dict[str, bytes], refuses: str = "") -> None:
        self.objects, self.refuses, self.calls = objects, refuses, list[str]()
        self.archived: set[str] = set()

    def list_objects_v2(self, Prefix: str, ContinuationToken: str = "", **_: Any) -> dict[str, Any]:
        self.calls.append("list")
        if self.refuses:
            raise refused(self.refuses)
        names = [name for name in sorted(self.objects) if name.startswith(Prefix) and name > ContinuationToken]
        items: list[dict[str, Any]] = [{"Key": name, "Size": len(self.objects[name])} for name in names[:2]]
        for item in items:
            item |= {"StorageClass": "GLACIER"} if item["Key"] in self.archived else {}
        return {
            "Contents": items,
            "IsTruncated": len(names) > 2,
            "NextContinuationToken": names[1] if names[1:] else "",
        }

    def get_object(self, Key: str, Range: str, IfMatch: str = "", **_: Any) -> dict[str, Any]:
        self.calls.append(Range)
        content = self.objects[Key]
        mark = content.hex()
        if IfMatch and IfMatch != mark:
            raise refused("PreconditionFailed")
        begin, end = (int(word) for word in Range.removeprefix("bytes=").split("-"))
        part = content[begin : end + 1]
        return {"Body": io.BytesIO(part), "ContentLength": len(part), "ETag": mark}


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "x")


def place(client: Client, url: str = "s3://old/mlflow") -> Bucket:
    result = Bucket(url, Access("", "", "key", "secret", buckets.NAMES))
    result._made = client
    return result


def run(place: str, needed: bool = False) -> Location:
    return Location("run", "r", "name", "experiment", place, place, "1/r/artifacts", "", needed)


SOURCE = sources.source("postgresql://u@h/db")
OBJECTS = {
    "mlflow/1/a/artifacts/model/data.bin": b"data",
    "mlflow/1/a/artifacts/model/": b"",
    "mlflow/1/a/artifacts/x": b"",
    "mlflow/1/ab/artifacts/y": b"no",
    "mlflow/1/b/artifacts/../up": b"up",
    "mlflow/1/b/artifacts/cold": b"cold",
    "other/z": b"z",
}


def test_what_lies_in_a_bucket_is_found_with_few_requests() -> None:
    client = Client(OBJECTS)
    client.archived = {"mlflow/1/b/artifacts/cold"}
    survey = Places(SOURCE, ["s3://old/mlflow"], lambda url: place(client, url)).survey(
        [
            run("s3://old/mlflow/1/a/artifacts"),
            run("s3://old/mlflow/1/b/artifacts"),
            run("s3://old/mlflow/1/c/artifacts"),
            run("s3://old/mlflow/1/d/artifacts", needed=True),
            run("s3://old/mlflow/1/../../other"),
            run("s3://old/other"),
        ]
    )
    assert client.calls == ["list"] * 3
    assert (survey.objects, survey.size, survey.largest) == (2, 4, 4)
    assert [line.partition(": ")[2] for line in survey.missing] == [
        "../up is no plain file, or cannot be opened",
        "cold (GLACIER) is no plain file, or cannot be opened",
        "s3://old/mlflow/1/d/artifacts: there is no object",
        "s3://old/mlflow/1/../../other is outside of what was named",
        "s3://old/other is outside of what was named",
    ]
    read = {name: file.stream.read() for name, file in places.read(survey.folders)}
    assert read == {"1/r/artifacts/model/data.bin": b"data", "1/r/artifacts/x": b""}


@pytest.mark.parametrize("code", ["NoSuchBucket", "AccessDenied"])
def test_a_store_that_shows_nothing_is_told_run_by_run(code: str) -> None:
    client = Client({}, code)
    found = Places(SOURCE, ["s3://old/mlflow"], lambda url: place(client))
    survey = found.survey([run("s3://old/mlflow/1/a/artifacts"), run("s3://old/mlflow/1/b/artifacts")])
    assert len(survey.missing) == 2 and all("run r name of experiment" in line for line in survey.missing)
    assert client.calls == ["list"]


def test_wrong_keys_end_it_and_name_their_settings() -> None:
    found = Places(SOURCE, ["s3://old/mlflow"], lambda url: place(Client({}, "SignatureDoesNotMatch")))
    with pytest.raises(TrackbedError) as caught:
        found.survey([run("s3://old/mlflow/1/a/artifacts")])
    assert "IMPORT_S3_ENDPOINT" in caught.value.hint


def test_an_object_is_read_in_parts_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PART", 4)
    client = Client({"mlflow/x": b"0123456789"})
    stream = buckets.Object(place(client), "x", 10)
    assert client.calls == []
    assert [stream.read(3), stream.read(5), stream.read(100), stream.read(1)] == [b"012", b"34567", b"89", b""]
    assert client.calls == ["bytes=0-3", "bytes=4-7", "bytes=8-9"]
    assert stream.seekable()  # an import beside other data reads what is there already twice
    stream.seek(0)
    assert stream.read() == b"0123456789"


@pytest.mark.parametrize("later", [b"9876543210", b"01234"])
def test_an_object_that_changes_while_it_is_read(monkeypatch: pytest.MonkeyPatch, later: bytes) -> None:
    monkeypatch.setattr(buckets, "PART", 4)
    client = Client({"mlflow/x": b"0123456789"})
    stream = buckets.Object(place(client), "x", 10)
    stream.read(4)
    client.objects["mlflow/x"] = later
    with pytest.raises(Changed, match="changed while it was read"):
        stream.read(4)


@pytest.mark.parametrize(
    "text, old, url",
    [
        ("s3://bucket/p", "s3://bucket/p", "s3://bucket/p"),
        ("s3://bucket/day=1/", "s3://bucket/day=1", "s3://bucket/day=1"),
        ("mlflow-artifacts:=s3://bucket/day=1", "mlflow-artifacts:", "s3://bucket/day=1"),
        ("file:///a%20b=s3://bucket", "/a b", "s3://bucket"),
    ],
)
def test_what_may_be_typed(text: str, old: str, url: str) -> None:
    mapping = Mapping.parse(text, lambda url: place(Client({}), url))
    assert (mapping.old, str(mapping.new)) == (old, url)


def test_keys_that_are_missing_are_named(tmp_path: Path) -> None:
    project = fakes.project(tmp_path)
    with pytest.raises(SettingError, match="IMPORT_S3_ACCESS_KEY is missing"):
        Places(SOURCE, ["s3://bucket/p"], buckets.of(project.settings))
    with pytest.raises(SettingError, match="OLD=NEW is expected"):
        Mapping.parse("=s3://bucket", buckets.of(project.settings))
