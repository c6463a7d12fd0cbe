"""Where artifacts may lie (trackbed_mlflow/artifact_locations.py), and how much memory a worker has (trackbed_mlflow/memory_limit.py)."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from trackbed_mlflow import artifact_locations, memory_limit

FOREIGN = [
    "s3://backups/dir",
    "s3://mlflow-artifacts/other",
    "file:///etc",
    "/etc",
    "etc",
    ".",
    "",
    "gs://x/y",
    "ftp://h/x",
    "sftp://h/x",
    "hdfs://h/x",
    "dbfs:/x",
    "http://127.0.0.1:1/api/2.0/mlflow-artifacts/artifacts/x",
    "mlflow-artifacts:",
    "mlflow-artifacts:x",
    "mlflow-artifacts://host/x",
    "mlflow-artifacts://host:1/../x",
    "mlflow-artifacts:/..",
    "mlflow-artifacts:/../x",
    "mlflow-artifacts:/a/../../x",
    "mlflow-artifacts:/a/./x",
    "mlflow-artifacts:/%2e%2e/x",
    "mlflow-artifacts:/%252e%252e/x",
    "mlflow-artifacts:/a/.%2e/x",
    "mlflow-artifacts:/a%2f..%2fx",
    "mlflow-artifacts:/..\\x",
    "mlflow-artifacts:/a%5c..%5cx",
    "mlflow-artifacts:/a?x=1",
    "mlflow-artifacts:/a#x",
    "mlflow-artifacts:/a\n..",
    "mlflow-artifacts:/\t../x",
    " mlflow-artifacts:/x",
    "MLFLOW-ARTIFACTS:/x",
    "mlflow-artifacts:/a%00b",
    "models://host/x",
    "runs:/../x",
    "file:///srv/live/../backups",
    "file:///srv/live%2f..",
    "file:///srv/live-other",
    "file:///srv",
    "file:/srv/live/x",
    "/srv/live/x",
    "FILE:///srv/live/x",
]


class Refused(Exception):
    """Stands for MlflowException."""

    def __init__(self, message: str, error_code: int) -> None:
        super().__init__(message)


@pytest.fixture(autouse=True)
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions: Any = ModuleType("mlflow.exceptions")
    exceptions.MlflowException = Refused
    codes: Any = ModuleType("mlflow.protos.databricks_pb2")
    codes.INVALID_PARAMETER_VALUE = 1000
    for module in (ModuleType("mlflow"), exceptions, ModuleType("mlflow.protos"), codes):
        monkeypatch.setitem(sys.modules, module.__name__, module)


class Registry:
    """Stands for MLflow's ArtifactRepositoryRegistry."""

    def get_artifact_repository(self, artifact_uri: str, tracking_uri: str | None = None) -> str:
        return f"opened {artifact_uri}"


@pytest.fixture
def registry() -> Any:
    return type("Registry", (Registry,), {})


@pytest.mark.parametrize("uri", FOREIGN)
def test_no_foreign_location_is_opened(registry: Any, uri: str) -> None:
    artifact_locations.guard_opening(registry, {artifact_locations.DESTINATION: "file:///srv/live"})
    with pytest.raises(Refused, match="not in this project's own space"):
        registry().get_artifact_repository(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/live",
        "file:///srv/live/1/a/artifacts",
        "mlflow-artifacts:/1/a b",
        "models:/m-1",
        "models:/name/1",
        "runs:/1/model",
    ],
)
def test_own_locations_are_opened(registry: Any, uri: str) -> None:
    artifact_locations.guard_opening(registry, {artifact_locations.DESTINATION: "file:///srv/live/"})
    assert registry().get_artifact_repository(uri, tracking_uri=None) == f"opened {uri}"


def test_a_prefix_of_a_bucket_is_not_the_bucket(registry: Any) -> None:
    artifact_locations.guard_opening(registry, {artifact_locations.DESTINATION: "s3://bucket/live"})
    assert registry().get_artifact_repository("s3://bucket/live/1/x")
    for uri in (
        "s3://bucket",
        "s3://bucket/other",
        "s3://bucket/live2/x",
        "s3://bucket/live/../other",
        "s3://bucket2/live/x",
        "s3://bucket/live/%2e%2e/other",
    ):
        with pytest.raises(Refused):
            registry().get_artifact_repository(uri)


@pytest.mark.parametrize(
    ("destination", "source", "opened"),
    [
        ("file:///srv/live/", "runs:/1/m", "file:///srv/live/0/1/artifacts/m"),
        ("file:///srv/live", "runs:/1/a b", "file:///srv/live/0/1/artifacts/a%20b"),
        ("s3://bucket/live", "runs:/1/a b/", "s3://bucket/live/0/1/artifacts/a b"),
        ("s3://bucket/live", "runs:/1", "s3://bucket/live/0/1/artifacts"),
        ("s3://bucket/live", "runs:/1/../2", "runs:/1/../2"),  # refused where it is opened
        ("s3://bucket/live", "models:/m-1", "models:/m-1"),
        ("s3://bucket/live", "runs:/elsewhere/m", "runs:/elsewhere/m"),
    ],
)
def test_what_refers_to_a_run_is_read_where_its_artifacts_are(destination: str, source: str, opened: str) -> None:
    def get_run(run: str) -> Any:
        uri = "s3://other/x" if run == "elsewhere" else f"mlflow-artifacts:/0/{run}/artifacts"
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=uri))

    handlers = SimpleNamespace(
        _get_artifact_repository_for_uri=lambda artifact_uri: artifact_uri,
        _get_tracking_store=lambda: SimpleNamespace(get_run=get_run),
    )
    artifact_locations.guard_runs(handlers, {artifact_locations.DESTINATION: destination})
    assert handlers._get_artifact_repository_for_uri(source) == opened


class Store:
    """Stands for MLflow's stores."""

    def create_experiment(self, name: str, artifact_location: str | None = None, tags: object = None) -> str:
        return f"made at {artifact_location}"

    def start_trace(self, trace_info: Any) -> str:
        return "started"

    def deprecated_start_trace_v2(self, experiment_id: str, timestamp_ms: int, request_metadata: Any, tags: Any) -> str:
        return "started"

    def deprecated_end_trace_v2(
        self, request_id: str, timestamp_ms: int, status: Any, request_metadata: Any, tags: Any
    ) -> str:
        return "ended"

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> str:
        return f"{key} is {value}"

    def create_model_version(self, name: str, source: str, run_id: str | None = None, **named: Any) -> str:
        return f"made from {source} of {run_id}"


@pytest.fixture
def store() -> Any:
    guarded = type("Guarded", (Store,), {})
    artifact_locations.guard_experiments(guarded)
    artifact_locations.guard_models(guarded, frozenset({"dummy-source"}))
    return guarded()


class S3:
    """Stands for MLflow's S3ArtifactRepository."""

    artifact_uri = "s3://b/live"
    there: tuple[str, ...] = ()  # keys of the bucket

    def parse_s3_compliant_uri(self, uri: str) -> tuple[str, str]:
        return "b", "live"

    def _get_s3_client(self) -> Any:
        return self

    def head_object(self, Bucket: str, Key: str) -> None:
        if Key not in self.there:
            raise ClientError({"Error": {"Code": "404"}}, "HeadObject")

    def _upload_file(self, s3_client: Any, local_file: str, bucket: str, key: str) -> str:
        return key

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> str:
        return f"{artifact_path}/{local_file}"

    def create_presigned_upload_url(self, artifact_path: str, expiration: int = 900) -> str:
        return artifact_path


@pytest.mark.parametrize(
    "key",
    [
        "live/0//b",
        "live/0/./b",
        "live/../b",
        "live/0/",
        "live/x/meta/etag",
        "live/x/meta/etag/y",
        "live/meta/etag",
        "live/0/a\ufffe",
        "live/\uffff/b",
    ],
)
def test_names_that_would_break_lists_and_backups_are_refused(key: str) -> None:
    """One such object and no backup could be made, or none restored."""
    guarded = type("Guarded", (S3,), {})
    artifact_locations.guard_keys(guarded, {"TRACKBED_STORE_SYNC": "store-sync:9002"})
    created, (folder, _, name) = guarded(), key.rpartition("/")
    for ask in (
        lambda: created._upload_file(None, "f", "b", key),
        lambda: created.create_presigned_upload_url(key),
        *((lambda: created.create_multipart_upload(f"/tmp/{name}", 1, folder),) if name else ()),
    ):
        with pytest.raises(Refused, match="cannot be the name"):
            ask()


def test_other_names_are_kept() -> None:
    guarded, other = type("Guarded", (S3,), {}), type("Other", (S3,), {})
    artifact_locations.guard_keys(guarded, {"TRACKBED_STORE_SYNC": "store-sync:9002"})
    artifact_locations.guard_keys(other, {})
    for key in ("live/0/meta/x", "live/etag/meta", "live/0/ä b.txt", "live/..x/.y", "live/0/a\\b"):
        assert guarded()._upload_file(None, "f", "b", key) == key
    assert guarded().create_multipart_upload("m.bin", 2, "0/r") == "0/r/m.bin"
    assert other()._upload_file(None, "f", "b", "live/x/meta/etag/y") == "live/x/meta/etag/y"
    for number in (0, -1, 10_001, 1_000_000):  # an address is signed for each, for minutes
        with pytest.raises(Refused, match="1 to 10000 parts"):
            other().create_multipart_upload("m.bin", number, "0/r")


def test_a_name_too_long_to_be_replaced_is_refused_only_where_it_is_there() -> None:
    """VersityGW would answer with another reason, or with an error of its own that clients repeat for minutes."""
    short, long, new = ("x" * 227, "é" * 114, "y" * 255)
    guarded = type("Guarded", (S3,), {"there": tuple(f"live/0/{name}" for name in (short, long))})
    other = type("Other", (S3,), {"there": vars(guarded)["there"]})
    artifact_locations.guard_keys(guarded, {"TRACKBED_STORE_SYNC": "store-sync:9002"})
    artifact_locations.guard_keys(other, {})
    for created, name in ((guarded(), short), (guarded(), new), (other(), long)):
        assert created._upload_file(created, "f", "b", f"live/0/{name}") and created.create_presigned_upload_url(
            f"0/{name}"
        )
        assert created.create_multipart_upload(f"/tmp/{name}", 1, "0")
    created, words = guarded(), "more than 227 bytes. Delete it first"
    with pytest.raises(Refused, match=words):
        created._upload_file(created, "f", "b", f"live/0/{long}")
    with pytest.raises(Refused, match=words):
        created.create_multipart_upload(f"/tmp/{long}", 1, "0")
    with pytest.raises(Refused, match=words):
        created.create_presigned_upload_url(f"0/{long}")


@pytest.mark.parametrize("uri", [uri for uri in FOREIGN if uri])
def test_no_foreign_location_is_written(store: Any, uri: str) -> None:
    with pytest.raises(Refused, match="artifact location"):
        store.create_experiment("name", artifact_location=uri)
    with pytest.raises(Refused, match="source"):
        store.create_model_version(name="name", source=uri, run_id="1")
    for key in artifact_locations.TRACE_TAGS:
        with pytest.raises(Refused, match=key):
            store.set_trace_tag("tr-1", key, uri)
        for where in ("tags", "trace_metadata"):
            info = SimpleNamespace(**{"tags": {}, "trace_metadata": {}, where: {key: uri}})
            with pytest.raises(Refused, match=key):
                store.start_trace(info)
        for where in ("tags", "request_metadata"):
            reported: dict[str, Any] = {"tags": {}, "request_metadata": {}, where: {key: uri}}
            with pytest.raises(Refused, match=key):
                store.deprecated_start_trace_v2(experiment_id="1", timestamp_ms=1, **reported)
            with pytest.raises(Refused, match=key):
                store.deprecated_end_trace_v2(request_id="tr-1", timestamp_ms=1, status="OK", **reported)


def test_own_locations_are_written(store: Any) -> None:
    assert store.create_experiment("name") == "made at None" and store.create_experiment("name", "") == "made at "
    assert store.create_experiment("name", "mlflow-artifacts:/mine") == "made at mlflow-artifacts:/mine"
    for source in (
        "mlflow-artifacts:/1/2/artifacts/model",
        "runs:/1/model",
        "models:/m-1",
        "models:/a/1",
        "dummy-source",
    ):
        assert store.create_model_version("name", source, "1") == f"made from {source} of 1"
    assert store.set_trace_tag("tr-1", "mine", "s3://text") == "mine is s3://text"
    info = SimpleNamespace(tags={"mlflow.artifactLocation": "mlflow-artifacts:/1"}, trace_metadata=None)
    assert store.start_trace(info) == "started"
    assert store.deprecated_end_trace_v2("tr-1", 1, "OK", {}, {"mine": "s3://text"}) == "ended"


def test_no_reference_is_an_experiments_location(store: Any) -> None:
    for uri in ("models:/m-1", "runs:/1"):
        with pytest.raises(Refused):
            store.create_experiment("name", uri)


def test_a_stored_way_out_of_the_own_space_is_not_followed() -> None:
    def path(proxied_artifact_root: str, relative_path: str | None = None) -> str:
        return f"{proxied_artifact_root}|{relative_path}"

    handlers = SimpleNamespace(_get_proxied_run_artifact_destination_path=path)
    artifact_locations.guard_paths(handlers)
    result = handlers._get_proxied_run_artifact_destination_path
    assert result(proxied_artifact_root="mlflow-artifacts:/1", relative_path="x") == "mlflow-artifacts:/1|x"
    for uri in (
        "mlflow-artifacts:/../x",
        "mlflow-artifacts:/%2e%2e/x",
        "http://h/api/2.0/mlflow-artifacts/artifacts/../x",
    ):
        with pytest.raises(Refused):
            result(uri)


@pytest.mark.parametrize(
    ("text", "workers", "expected"),
    [
        ("", 2, 2 << 30),
        ("4g", 2, 2 << 30),
        ("512m", 2, memory_limit.LEAST),
        ("64g", 32, 2 << 30),
        ("3221225472", 1, 3 << 30),
        ("8GB", 2, 4 << 30),
        ("nonsense", 2, 2 << 30),
        ("4g", 0, 4 << 30),
    ],
)
def test_the_workers_share_the_servers_memory(text: str, workers: int, expected: int) -> None:
    assert memory_limit.share({memory_limit.LIMIT: text}, workers) == expected
