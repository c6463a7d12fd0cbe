"""Where artifacts may lie: in this project's own space, whatever experiments, models and traces say.

The server holds the keys of the store and may read files of its user, so a location that a client names would give the
client what they open. Names are checked where MLflow's stores write them, and again where something is opened: rows may
come from an older server or from somebody's archive.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from trackbed_mlflow import missing_artifacts, name_conflicts

OWN = "mlflow-artifacts:/"
RUNS = "runs:/"
REFERENCES = ("models:/", RUNS)  # to what has a location of its own, which is checked in turn
TRACE_TAGS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"
REPLACED = 227  # bytes of a name: VersityGW puts 28 more around it while it replaces the object, and a file's has 255
MOST_PARTS = 10_000  # S3's own limit; MLflow signs an address for each, however many are asked for


def plain(path: str) -> bool:
    """No way out of a folder and nothing that two readers could read differently, however often it is encoded."""
    decoded = path
    while (once := unquote(decoded)) != decoded:
        decoded = once
    if "\\" in decoded or any(ord(letter) < 32 or ord(letter) == 127 for letter in decoded):
        return False
    return not {".", ".."} & set(decoded.split("/")) and not {"?", "#"} & set(path)


def is_own(uri: str) -> bool:
    """A location in this project's space, as clients name it; never on another host's server."""
    return uri.startswith(OWN) and not uri.startswith(OWN + "/") and plain(uri[len(OWN) :])


def referring(uri: str) -> bool:
    return any(
        uri.startswith(each) and not uri.startswith(each + "/") and plain(uri[len(each) :]) for each in REFERENCES
    )


def below(uri: str, destination: str) -> bool:
    """In the folder or the prefix of the bucket that this server stores its artifacts in."""
    root = destination.rstrip("/")
    return bool(root) and (uri.rstrip("/") == root or (uri.startswith(root + "/") and plain(uri[len(root) :])))


def refusal(what: str, uri: str) -> str:
    shown = uri if len(uri) <= 200 else uri[:200] + "..."
    return (
        f"{what} {shown!r} is not in this project's own space: Trackbed keeps artifacts below {OWN} alone. Leave "
        "the location out, and copy what lies elsewhere with mlflow.log_artifacts()"
    )


def _raise(message: str) -> None:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE  # type: ignore[import-not-found]

    raise MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


def guard_opening(registry: Any, environment: Mapping[str, str] = os.environ) -> None:
    """MLflow opens artifacts of this project alone, wherever a location comes from."""
    opened = registry.get_artifact_repository
    destination = environment[DESTINATION]

    @functools.wraps(opened)
    def get_artifact_repository(self: Any, artifact_uri: str, *rest: Any, **named: Any) -> Any:
        uri = str(artifact_uri)
        if not (below(uri, destination) or is_own(uri) or referring(uri)):
            _raise(refusal("The location", uri))
        return opened(self, artifact_uri, *rest, **named)

    registry.get_artifact_repository = get_artifact_repository


def guard_paths(handlers: Any) -> None:
    """The path below the destination that a location of this project's space stands for."""
    result = handlers._get_proxied_run_artifact_destination_path

    @functools.wraps(result)
    def destination_path(proxied_artifact_root: str, relative_path: str | None = None) -> Any:
        if not plain(urlsplit(proxied_artifact_root).path):
            _raise(refusal("The location", proxied_artifact_root))
        return result(proxied_artifact_root, relative_path)

    handlers._get_proxied_run_artifact_destination_path = destination_path


def guard_runs(handlers: Any, environment: Mapping[str, str] = os.environ) -> None:
    """A model version of the source runs:/RUN/PATH is read where that run's artifacts are. MLflow would ask itself for
    them, as a client of its own database, and fail."""
    opened = handlers._get_artifact_repository_for_uri
    destination = environment[DESTINATION].rstrip("/")

    @functools.wraps(opened)
    def for_uri(artifact_uri: str) -> Any:
        if not (artifact_uri.startswith(RUNS) and referring(artifact_uri)):
            return opened(artifact_uri)
        run, _, path = artifact_uri.removeprefix(RUNS).partition("/")
        root = handlers._get_tracking_store().get_run(run).info.artifact_uri
        if not is_own(root):
            return opened(artifact_uri)
        place = "/".join(filter(None, (root.removeprefix(OWN).strip("/"), path.strip("/"))))
        return opened(f"{destination}/{quote(place) if destination.startswith('file:') else place}")

    handlers._get_artifact_repository_for_uri = for_uri


def guard_experiments(store: Any) -> None:
    """A tracking store's class: experiments and traces name this project's space alone."""
    created, started, tagged = store.create_experiment, store.start_trace, store.set_trace_tag
    started_v2, ended_v2 = store.deprecated_start_trace_v2, store.deprecated_end_trace_v2

    @functools.wraps(created)
    def create_experiment(self: Any, name: str, artifact_location: str | None = None, *rest: Any, **named: Any) -> Any:
        if artifact_location and not is_own(artifact_location):
            _raise(refusal("The artifact location", artifact_location))
        return created(self, name, artifact_location, *rest, **named)

    @functools.wraps(started)
    def start_trace(self: Any, trace_info: Any, *rest: Any, **named: Any) -> Any:
        _check_tags(trace_info.tags, trace_info.trace_metadata)
        return started(self, trace_info, *rest, **named)

    @functools.wraps(started_v2)
    def deprecated_start_trace_v2(
        self: Any, experiment_id: str, timestamp_ms: int, request_metadata: Any, tags: Any, *rest: Any, **named: Any
    ) -> Any:
        _check_tags(request_metadata, tags)
        return started_v2(self, experiment_id, timestamp_ms, request_metadata, tags, *rest, **named)

    @functools.wraps(ended_v2)
    def deprecated_end_trace_v2(
        self: Any,
        request_id: str,
        timestamp_ms: int,
        status: Any,
        request_metadata: Any,
        tags: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        _check_tags(request_metadata, tags)
        return ended_v2(self, request_id, timestamp_ms, status, request_metadata, tags, *rest, **named)

    @functools.wraps(tagged)
    def set_trace_tag(self: Any, trace_id: str, key: str, value: str) -> Any:
        if key in TRACE_TAGS:
            _check_tag(key, value)
        return tagged(self, trace_id, key, value)

    store.create_experiment, store.start_trace, store.set_trace_tag = create_experiment, start_trace, set_trace_tag
    store.deprecated_start_trace_v2 = deprecated_start_trace_v2
    store.deprecated_end_trace_v2 = deprecated_end_trace_v2


def _check_tags(*each: Mapping[str, str] | None) -> None:
    for tags in each:
        for key in TRACE_TAGS:
            _check_tag(key, (tags or {}).get(key))


def _check_tag(key: str, value: str | None) -> None:
    if value and not is_own(value):
        _raise(refusal(f"The trace's tag {key}", value))


def guard_models(store: Any, placeholders: frozenset[str]) -> None:
    """A registry store's class: versions come from this project's space, its runs and its models."""
    created = store.create_model_version

    @functools.wraps(created)
    def create_model_version(self: Any, name: str, source: str, *rest: Any, **named: Any) -> Any:
        if source not in placeholders and not is_own(source) and not referring(source):
            _raise(refusal("The model version's source", source))
        return created(self, name, source, *rest, **named)

    store.create_model_version = create_model_version


def shadows(key: str) -> bool:
    """Whether VersityGW could not list an object of this name: it keeps what belongs to a folder in `meta/etag` below
    that name, and what lies there instead ends every list of the bucket with an error."""
    words = key.split("/")
    return ("meta", "etag") in itertools.pairwise(words)


def object_exists(client: Any, bucket: str, key: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_object(Bucket=bucket, Key=key)
    except ClientError:
        return False
    return True


def guard_keys(repository: Any, environment: Mapping[str, str] = os.environ) -> None:
    """MLflow's S3 repository: no object gets a name that a store or a backup would take for another, or for none."""
    files = bool(environment.get("TRACKBED_STORE_SYNC"))
    uploaded, begun, signed = (
        getattr(repository, name) for name in ("_upload_file", "create_multipart_upload", "create_presigned_upload_url")
    )

    def check(*names: str | None) -> str:
        key = "/".join(name for name in names if name)
        if (
            "\0" in key
            or not {"", ".", ".."}.isdisjoint(key.split("/"))
            or (files and (shadows(key) or name_conflicts.unlisted_by_xml(key)))
        ):
            _raise(f"{key[:200]!r} cannot be the name of an artifact")
        return key

    def fresh(client: Any, bucket: str, key: str) -> None:
        name = key.rpartition("/")[2]
        if files and len(name.encode("utf-8", "surrogateescape")) > REPLACED and object_exists(client, bucket, key):
            _raise(
                f"{name[:60]!r}... is there already, and this store cannot replace an artifact whose name has more "
                f"than {REPLACED} bytes. Delete it first, or choose a shorter name"
            )

    def fresh_below(self: Any, key: str) -> None:
        bucket, root = self.parse_s3_compliant_uri(self.artifact_uri)
        fresh(self._get_s3_client(), bucket, f"{root}/{key}" if root else key)

    @functools.wraps(uploaded)
    def upload(self: Any, s3_client: Any, local_file: str, bucket: str, key: str) -> Any:
        check(key)
        fresh(s3_client, bucket, key)
        return uploaded(self, s3_client, local_file, bucket, key)

    @functools.wraps(begun)
    def begin(self: Any, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> Any:
        fresh_below(self, check(artifact_path, os.path.basename(local_file)))
        if not 1 <= num_parts <= MOST_PARTS:
            _raise(f"an upload has 1 to {MOST_PARTS} parts, not {num_parts}")
        return begun(self, local_file, num_parts, artifact_path)

    @functools.wraps(signed)
    def sign(self: Any, artifact_path: str, *rest: Any, **named: Any) -> Any:
        fresh_below(self, check(artifact_path))
        return signed(self, artifact_path, *rest, **named)

    repository._upload_file, repository.create_multipart_upload = upload, begin
    repository.create_presigned_upload_url = sign


def guard_server(handlers: Any) -> None:
    """All of it, before the server's first request. An MLflow that is built otherwise must not start unguarded."""
    from mlflow.store.artifact.artifact_repository_registry import (  # type: ignore[import-not-found]
        ArtifactRepositoryRegistry,
    )
    from mlflow.store.model_registry.sqlalchemy_store import (  # type: ignore[import-not-found]
        SqlAlchemyStore as ModelStore,
    )
    from mlflow.store.tracking.sqlalchemy_store import (  # type: ignore[import-not-found]
        SqlAlchemyStore as TrackingStore,
    )

    guard_opening(ArtifactRepositoryRegistry)
    guard_paths(handlers)
    guard_runs(handlers)
    guard_experiments(TrackingStore)
    guard_models(ModelStore, frozenset(handlers._PROMPT_SOURCE_PLACEHOLDERS))
    if os.environ[DESTINATION].startswith("s3://"):
        from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository  # type: ignore[import-not-found]

        guard_keys(S3ArtifactRepository)
        missing_artifacts.translate_errors(S3ArtifactRepository)
