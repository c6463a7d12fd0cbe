"""A running MLflow server's answers, which come as pages of JSON (helpers/imports/tracking_server.py), as rows.

MLflow's own classes make rows of traces, spans and assessments; the rest is written as the API names it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from trackbed_mlflow.imports.file_store import Sink, files

Json = dict[str, Any]
LARGEST = 1.7976931348623157e308
SPANS = ("mlflow.trace.spansLocation", "TRACKING_STORE")
MODEL_STATES = {"LOGGED_MODEL_PENDING": 1, "LOGGED_MODEL_READY": 2, "LOGGED_MODEL_UPLOAD_FAILED": 3}


class Rows(Sink):
    """What comes twice, because the server's lists grew while they were read, is there once."""

    def flush(self) -> None:
        for (kind, _), block in self._blocks.items():
            self._connection.execute(kind.__table__.insert().prefix_with("OR IGNORE"), block)
        self._blocks, self._count = {}, 0


class ServerPages:
    """Takes the pages in order. ``unread``: what could not be read, in lines."""

    def __init__(self, connection: Any, path: Path) -> None:
        from mlflow.store.tracking.dbmodels import models  # type: ignore[import-not-found]

        self._connection, self._path, self._models, self._sink = connection, path, models, Rows(connection)
        self._store: Any = None
        self._deleted: list[int] = []
        self.remarks: list[str] = []
        self.unread: list[str] = []

    def read(self, stream: BinaryIO) -> None:
        for name, content in files(stream):
            page = json.load(content)
            take = getattr(self, f"_take_{name.partition('/')[0]}", None)
            if take is None:
                raise ValueError(f"{name!r} does not belong to a server's pages")
            take(page)
        self._sink.flush()
        experiments = self._models.SqlExperiment.__table__
        for number in self._deleted:  # until now, because MLflow takes spans for active ones only
            statement = experiments.update().where(experiments.c.experiment_id == number)
            self._connection.execute(statement.values(lifecycle_stage="deleted"))
        self._connection.commit()

    def _take_notes(self, page: Json) -> None:
        self.remarks += page["remarks"]
        self.unread += page["unread"]

    def _take_experiments(self, page: Json) -> None:
        for one in page.get("experiments", []):
            number = int(one["experiment_id"])
            if one.get("lifecycle_stage") == "deleted":
                self._deleted.append(number)
            self._sink.add(
                self._models.SqlExperiment(
                    experiment_id=number,
                    name=one["name"],
                    artifact_location=one.get("artifact_location"),
                    lifecycle_stage="active",
                    creation_time=_whole(one.get("creation_time")),
                    last_update_time=_whole(one.get("last_update_time")),
                )
            )
            for key, value in _pairs(one.get("tags")):
                self._sink.add(self._models.SqlExperimentTag(key=key, value=value, experiment_id=number))
        self._sink.flush()

    def _take_runs(self, page: Json) -> None:
        for one in page.get("runs", []):
            info, data = one["info"], one.get("data", {})
            run, number = info["run_id"], int(info["experiment_id"])
            tags = dict(_pairs(data.get("tags")))
            self._sink.add(
                self._models.SqlRun(
                    run_uuid=run,
                    name=info.get("run_name") or tags.get("mlflow.runName"),
                    source_type="UNKNOWN",
                    source_name="",
                    entry_point_name="",
                    user_id=info.get("user_id"),
                    status=info["status"],
                    start_time=_whole(info.get("start_time")),
                    end_time=_whole(info.get("end_time")),
                    source_version="",
                    lifecycle_stage=info.get("lifecycle_stage", "active"),
                    artifact_uri=info.get("artifact_uri"),
                    experiment_id=number,
                )
            )
            for key, value in _pairs(data.get("params")):
                self._sink.add(self._models.SqlParam(key=key, value=value, run_uuid=run))
            for key, value in tags.items():
                self._sink.add(self._models.SqlTag(key=key, value=value, run_uuid=run))
            for metric in data.get("metrics", []):
                self._sink.add(self._models.SqlLatestMetric(run_uuid=run, **_value(metric)))
            self._take_inputs(run, number, one)

    def _take_inputs(self, run: str, number: int, one: Json) -> None:
        inputs, outputs = one.get("inputs", {}), one.get("outputs", {})
        for entry in inputs.get("dataset_inputs", []):
            dataset = entry["dataset"]
            identity = _made(number, dataset["name"], dataset["digest"])
            self._sink.add(
                self._models.SqlDataset(
                    dataset_uuid=identity,
                    experiment_id=number,
                    name=dataset["name"],
                    digest=dataset["digest"],
                    dataset_source_type=dataset.get("source_type", ""),
                    dataset_source=dataset.get("source", ""),
                    dataset_schema=dataset.get("schema"),
                    dataset_profile=dataset.get("profile"),
                )
            )
            use = self._use("DATASET", identity, "RUN", run)
            for tag in entry.get("tags", []):
                self._sink.add(
                    self._models.SqlInputTag(input_uuid=use, name=tag["key"], value=str(tag.get("value", "")))
                )
        for entry in inputs.get("model_inputs", []):
            self._use("RUN_INPUT", run, "MODEL_INPUT", entry["model_id"])
        for entry in outputs.get("model_outputs", []):
            self._use("RUN_OUTPUT", run, "MODEL_OUTPUT", entry["model_id"], int(entry.get("step", 0)))

    def _use(self, kind: str, one: str, other_kind: str, other: str, step: int = 0) -> str:
        identity = _made(kind, one, other_kind, other)
        self._sink.add(
            self._models.SqlInput(
                input_uuid=identity,
                source_type=kind,
                source_id=one,
                destination_type=other_kind,
                destination_id=other,
                step=step,
            )
        )
        return identity

    def _take_metrics(self, page: Json) -> None:
        for metric in page.get("metrics", []):
            self._sink.add(self._models.SqlMetric(run_uuid=page["run_id"], **_value(metric)))

    def _take_models(self, page: Json) -> None:
        for one in page.get("models", []):
            info, data = one["info"], one.get("data", {})
            model, number = info["model_id"], int(info["experiment_id"])
            own = {"model_id": model, "experiment_id": number}
            self._sink.add(
                self._models.SqlLoggedModel(
                    **own,
                    name=info.get("name", ""),
                    artifact_location=info.get("artifact_uri", ""),
                    creation_timestamp_ms=int(info.get("creation_timestamp_ms", 0)),
                    last_updated_timestamp_ms=int(info.get("last_updated_timestamp_ms", 0)),
                    status=MODEL_STATES.get(str(info.get("status")), 0),
                    lifecycle_stage="active",
                    model_type=info.get("model_type"),
                    source_run_id=info.get("source_run_id"),
                    status_message=info.get("status_message"),
                )
            )
            for key, value in _pairs(data.get("params")):
                self._sink.add(self._models.SqlLoggedModelParam(**own, param_key=key, param_value=value))
            for key, value in _pairs(info.get("tags")):
                self._sink.add(self._models.SqlLoggedModelTag(**own, tag_key=key, tag_value=value))
            for metric in data.get("metrics", []):
                self._take_model_metric(own, metric)

    def _take_model_metric(self, own: Json, metric: Json) -> None:
        name, digest = metric.get("dataset_name"), metric.get("dataset_digest")
        self._sink.add(
            self._models.SqlLoggedModelMetric(
                **own,
                metric_name=metric["key"],
                metric_timestamp_ms=int(metric.get("timestamp", 0)),
                metric_step=int(metric.get("step", 0)),
                metric_value=float(metric["value"]),
                run_id=metric.get("run_id"),
                dataset_uuid=_made(own["experiment_id"], name, digest) if name else None,
                dataset_name=name,
                dataset_digest=digest,
            )
        )

    def _take_registered(self, page: Json) -> None:
        for one in page.get("registered_models", []):
            name = one["name"]
            self._sink.add(
                _registry().SqlRegisteredModel(
                    name=name,
                    creation_time=_whole(one.get("creation_timestamp")),
                    last_updated_time=_whole(one.get("last_updated_timestamp")),
                    description=one.get("description"),
                )
            )
            for key, value in _pairs(one.get("tags")):
                self._sink.add(_registry().SqlRegisteredModelTag(name=name, key=key, value=value))
            for alias in one.get("aliases", []):
                self._sink.add(
                    _registry().SqlRegisteredModelAlias(name=name, alias=alias["alias"], version=int(alias["version"]))
                )

    def _take_versions(self, page: Json) -> None:
        for one in page.get("model_versions", []):
            name, version = one["name"], int(one["version"])
            self._sink.add(
                _registry().SqlModelVersion(
                    name=name,
                    version=version,
                    creation_time=_whole(one.get("creation_timestamp")),
                    last_updated_time=_whole(one.get("last_updated_timestamp")),
                    description=one.get("description"),
                    user_id=one.get("user_id"),
                    current_stage=one.get("current_stage") or "None",
                    source=one.get("source"),
                    run_id=one.get("run_id") or None,
                    status=one.get("status", "READY"),
                    status_message=one.get("status_message"),
                    run_link=one.get("run_link") or None,
                    storage_location=one.get("storage_location"),
                )
            )
            for key, value in _pairs(one.get("tags")):
                self._sink.add(_registry().SqlModelVersionTag(name=name, version=version, key=key, value=value))

    def _take_traces(self, page: Json) -> None:
        from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped,unused-ignore]
        from mlflow.entities import TraceInfo  # type: ignore[import-not-found]
        from mlflow.protos.service_pb2 import TraceInfoV3  # type: ignore[import-not-found]

        for one in page.get("traces", []):
            self._add_trace(TraceInfo.from_proto(ParseDict(one, TraceInfoV3(), ignore_unknown_fields=True)))

    def _take_old_traces(self, page: Json) -> None:
        """As servers before MLflow 3 tell of them."""
        from google.protobuf.json_format import ParseDict
        from mlflow.entities.trace_info_v2 import TraceInfoV2  # type: ignore[import-not-found]
        from mlflow.protos.service_pb2 import TraceInfo as Message

        for one in page.get("traces", []):
            old = TraceInfoV2.from_proto(ParseDict(one, Message(), ignore_unknown_fields=True))
            self._add_trace(old.to_v3())

    def _add_trace(self, info: Any) -> None:
        from mlflow.store.fs2db import _tracking  # type: ignore[import-not-found]

        models, trace, number = self._models, info.trace_id, int(info.experiment_id)
        tags, metadata = dict(info.tags), dict(info.trace_metadata)
        analytics = _tracking.analytics_columns_from_metadata(metadata)
        name = tags.pop(_tracking.TraceTagKey.TRACE_NAME, None)
        self._sink.add(
            models.SqlTraceInfo(
                request_id=trace,
                experiment_id=number,
                timestamp_ms=info.request_time,
                execution_time_ms=info.execution_duration,
                status=info.state.value,
                client_request_id=info.client_request_id,
                request_preview=info.request_preview,
                response_preview=info.response_preview,
                trace_name=name and name[: _tracking.MAX_CHARS_IN_TRACE_INFO_TAGS_VALUE],
                **analytics,
            )
        )
        for key in _tracking.PROMOTED_TRACE_METADATA_KEYS:
            metadata.pop(key, None)
        for key, value in tags.items():
            self._sink.add(models.SqlTraceTag(key=key, value=value, request_id=trace))
        for key, value in metadata.items():
            self._sink.add(models.SqlTraceMetadata(key=key, value=value, request_id=trace))
        for assessment in info.assessments:
            row = models.SqlAssessments.from_mlflow_entity(assessment)
            row.trace_id, row.experiment_id, row.trace_timestamp_ms = trace, number, info.request_time
            row.created_timestamp = assessment.create_time_ms or 0  # the row has the time of today in their place
            row.last_updated_timestamp = assessment.last_update_time_ms or 0
            row.valid = assessment.valid is not False
            self._sink.add(row)

    def _take_spans(self, page: Json) -> None:
        """The spans of one trace, where the server keeps them in its database."""
        from google.protobuf.json_format import ParseDict
        from mlflow.entities import Trace
        from mlflow.protos.service_pb2 import Trace as Message
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # type: ignore[import-not-found]

        trace = Trace.from_proto(ParseDict(page["trace"], Message(), ignore_unknown_fields=True))
        self._sink.flush()
        self._connection.commit()  # SQLite lets one write at a time
        if self._store is None:
            self._store = SqlAlchemyStore(f"sqlite:///{self._path}", "mlflow-artifacts:/")
        self._store.log_spans(trace.info.experiment_id, trace.data.spans)


def _registry() -> Any:
    from mlflow.store.model_registry.dbmodels import models  # type: ignore[import-not-found]

    return models


def _pairs(entries: Any) -> list[tuple[str, str]]:
    return [(one["key"], str(one.get("value", ""))) for one in entries or []]


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _value(metric: Json) -> Json:
    """A value of a metric as MLflow's server stores it."""
    number = float(metric["value"])
    nan = number != number
    number = 0.0 if nan else max(-LARGEST, min(LARGEST, number))
    step, at = int(metric.get("step", 0)), int(metric.get("timestamp", 0))
    return {"key": metric["key"], "value": number, "timestamp": at, "step": step, "is_nan": nan}


def _made(*words: Any) -> str:
    """An id for what has none in the API, the same each time."""
    return str(uuid.UUID(hashlib.sha256(repr(words).encode("utf-8", "surrogateescape")).hexdigest()[:32]))
