"""Whatever was logged, every answer of the API is the same after a restore on the other engine.

Hypothesis makes up the experiments. TRACKBED_EQUAL_EXAMPLES (8) of them go into one project, since each round is a
backup, the end of everything and a restore, twice; TRACKBED_EQUAL_SEED repeats the printed ones; TRACKBED_EQUAL_MIB
(256; 1024 before a release) is the size of the big artifact.
"""

from __future__ import annotations

import math
import os
import posixpath
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.conftest import Clone, require_docker
from tests.integration import snapshot
from tests.integration.snapshot import Server

pytestmark = pytest.mark.transfer

EXAMPLES = int(os.environ.get("TRACKBED_EQUAL_EXAMPLES", "8"))
BIG = int(os.environ.get("TRACKBED_EQUAL_MIB", "256")) * 2**20
HISTORY = 10_000  # values of one metric
NO_SURROGATES = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # UTF-8 and PostgreSQL refuse these

text = st.text(NO_SURROGATES, max_size=40)
# MLflow's rules for names that may become paths: letters of any script, digits and a few signs
keys = st.text(st.characters(categories=["L", "Nd"], include_characters="_-. :/"), min_size=1, max_size=20).filter(
    lambda key: posixpath.normpath(key) == key and not key.startswith(("/", "..")) and key != "."
)
tags = st.dictionaries(keys, text, max_size=3)
# of a file: what MLflow's server lets through; no control characters
segments = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"], exclude_characters="/\\#%:"), max_size=20)
numbers = st.floats(allow_nan=False, width=64) | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, -0.0])
values = st.tuples(numbers, st.integers(0, 2**41), st.integers(-5, 2**40))


@dataclass(frozen=True)
class Run:
    name: str
    parent: int  # which of the earlier runs, from the end; 0: none
    deleted: bool
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, list[tuple[float, int, int]]]
    files: list[tuple[list[str], int]]  # folders and name, bytes
    dataset: str | None
    logs_model: bool


@dataclass(frozen=True)
class Model:
    name: str
    about: str
    tags: dict[str, str]
    versions: list[dict[str, str]]  # their tags
    aliases: dict[str, int]


@dataclass(frozen=True)
class Trace:
    spans: list[tuple[str, int, dict[str, str]]]  # name, which earlier span is the parent, attributes
    tags: dict[str, str]
    feedback: str | None


@dataclass(frozen=True)
class Experiment:
    name: str
    deleted: bool
    tags: dict[str, str]
    runs: list[Run]
    models: list[Model]
    traces: list[Trace]


runs = st.builds(
    Run,
    name=text,
    parent=st.integers(0, 3),
    deleted=st.booleans(),
    status=st.sampled_from(["RUNNING", "FINISHED", "FAILED", "KILLED"]),
    params=st.dictionaries(keys, text, max_size=3),
    tags=tags,
    metrics=st.dictionaries(keys, st.lists(values, min_size=1, max_size=5), max_size=2),
    files=st.lists(
        st.tuples(st.lists(segments, min_size=1, max_size=3), st.sampled_from([0, 1, 511, 512, 513, 70_000])),
        max_size=3,
    ),
    dataset=st.none() | text.filter(bool),
    logs_model=st.booleans(),
)
models = st.builds(
    Model,
    name=st.text(NO_SURROGATES, max_size=20).map(lambda name: name.replace("/", "|").replace(":", "|")),
    about=text,
    tags=tags,
    versions=st.lists(tags, max_size=3),
    aliases=st.dictionaries(
        st.text(st.characters(categories=["L", "Nd"], include_characters="_-"), min_size=1, max_size=20).map(
            lambda alias: f"a{alias}"
        ),
        st.integers(0, 2),
        max_size=3,
    ),
)
traces = st.builds(
    Trace,
    spans=st.lists(
        st.tuples(text.filter(bool), st.integers(0, 3), st.dictionaries(keys, text, max_size=2)), min_size=1, max_size=5
    ),
    tags=tags,
    feedback=st.none() | text,
)
experiments = st.builds(
    Experiment,
    name=text,
    deleted=st.booleans(),
    tags=tags,
    runs=st.lists(runs, max_size=4),
    models=st.lists(models, max_size=2),
    traces=st.lists(traces, max_size=2),
)


def made_up(count: int, seed: int) -> list[Experiment]:
    """Experiments as Hypothesis makes them up, the same ones for the same seed."""
    result: list[Experiment] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(experiments)
    def collect(experiment: Experiment) -> None:
        result.append(experiment)

    collect()
    return result


def pairs(found: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in found.items()]


def content(size: int, seed: int) -> Iterator[bytes]:
    chosen = random.Random(seed)
    block = chosen.randbytes(2**20)
    for at in range(0, size, len(block)):
        yield at.to_bytes(8) + block[8:] if size - at >= len(block) else block[: size - at]


class Filler:
    """Logs made-up experiments into a server."""

    def __init__(self, url: str, seed: int) -> None:
        self.server, self.chosen, self.count = Server(url), random.Random(seed), 0

    def unique(self, name: str) -> str:
        self.count += 1
        return f"{self.count} {name}"

    def put(self, root: str, path: str, size: int) -> None:
        at = f"{root.removeprefix('mlflow-artifacts:/')}/{path}"
        body: Any = content(size, self.count) if size else b""
        self.server.call("PUT", self.server.artifact(at), data=body, timeout=600)

    def experiment(self, found: Experiment) -> str:
        identity = str(
            self.server.post("experiments/create", name=self.unique(found.name), tags=pairs(found.tags))[
                "experiment_id"
            ]
        )
        earlier: list[dict[str, Any]] = []
        for run in found.runs:
            earlier.append(self.run(identity, run, earlier))
        for model in found.models:
            self.model(model, earlier)
        for trace in found.traces:
            self.trace(identity, trace)
        for run, created in zip(found.runs, earlier, strict=True):  # a parent is deleted after its children were logged
            if run.deleted:
                self.server.post("runs/delete", run_id=created["info"]["run_id"])
        if found.deleted:
            self.server.post("experiments/delete", experiment_id=identity)
        return identity

    def run(self, experiment: str, run: Run, earlier: list[dict[str, Any]]) -> dict[str, Any]:
        post = self.server.post
        parent = earlier[-run.parent :][0]["info"]["run_id"] if run.parent and earlier else ""
        nested = {"mlflow.parentRunId": parent} if parent else {}
        created = dict(
            post(
                "runs/create", experiment_id=experiment, run_name=run.name, start_time=1, tags=pairs(run.tags | nested)
            )["run"]
        )
        identity = created["info"]["run_id"]
        post(
            "runs/log-batch",
            run_id=identity,
            params=pairs(run.params),
            metrics=[
                {
                    "key": key,
                    "value": value
                    if math.isfinite(value)
                    else str(value).replace("inf", "Infinity").replace("nan", "NaN"),
                    "timestamp": at,
                    "step": step,
                }
                for key, series in run.metrics.items()
                for value, at, step in series
            ],
        )
        for (*folders, name), size in run.files:
            path = "/".join([f"d{folder}" for folder in folders] + [self.unique(name)])
            self.put(created["info"]["artifact_uri"], path, size)
        if run.dataset is not None:
            post(
                "runs/log-inputs",
                run_id=identity,
                datasets=[
                    {
                        "tags": pairs({"mlflow.data.context": "training"}),
                        "dataset": {
                            "name": run.dataset,
                            "digest": uuid.UUID(int=self.count).hex[:8],
                            "source_type": "local",
                            "source": "{}",
                            "schema": "{}",
                            "profile": run.dataset,
                        },
                    }
                ],
            )
        if run.logs_model:
            model = post(
                "logged-models",
                experiment_id=experiment,
                name=f"m{self.count}",
                source_run_id=identity,
                params=pairs(run.params),
                tags=pairs(run.tags),
            )["model"]["info"]
            self.put(model["artifact_uri"], "MLmodel", 100)
            post(
                f"logged-models/{model['model_id']}",
                method="PATCH",
                model_id=model["model_id"],
                status="LOGGED_MODEL_READY",
            )
            post("runs/outputs", run_id=identity, models=[{"model_id": model["model_id"], "step": 3}])
        if run.status != "RUNNING":
            post("runs/update", run_id=identity, status=run.status, end_time=2)
        return created

    def model(self, model: Model, earlier: list[dict[str, Any]]) -> None:
        post, name = self.server.post, self.unique(model.name).rstrip("/")
        post("registered-models/create", name=name, description=model.about, tags=pairs(model.tags))
        versions = model.versions if earlier else []  # a version is of a run
        for of_version in versions:
            source = self.chosen.choice(earlier)["info"]
            post(
                "model-versions/create",
                name=name,
                source=source["artifact_uri"],
                run_id=source["run_id"],
                tags=pairs(of_version),
                description=model.about,
            )
        for alias, version in model.aliases.items():
            if version < len(versions):
                post("registered-models/alias", name=name, alias=alias, version=str(version + 1))

    def trace(self, experiment: str, trace: Trace) -> None:
        identity, spans = f"{self.chosen.getrandbits(128) | 1:032x}", []
        for number, (name, parent, attributes) in enumerate(trace.spans):
            spans.append(
                {
                    "traceId": identity,
                    "spanId": f"{number + 1:016x}",
                    "name": name,
                    "kind": 1,
                    "parentSpanId": f"{max(1, number - parent):016x}" if number else "",
                    "startTimeUnixNano": str(10**18 + number),
                    "endTimeUnixNano": str(10**18 + 10**9 - number),
                    "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()],
                }
            )
        self.server.call(
            "POST",
            "v1/traces",
            headers={"x-mlflow-experiment-id": experiment},
            json={"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]},
        )
        for key, value in trace.tags.items():
            self.server.post(f"traces/tr-{identity}/tags", "3.0", "PATCH", key=key, value=value)
        if trace.feedback is not None:
            self.server.post(
                f"traces/tr-{identity}/assessments",
                "3.0",
                assessment={
                    "trace_id": f"tr-{identity}",
                    "assessment_name": "helpful",
                    "feedback": {"value": trace.feedback},
                    "source": {"source_type": "HUMAN", "source_id": "someone"},
                },
            )

    def large(self) -> None:
        """What Hypothesis would not make: a long history and a big artifact."""
        post = self.server.post
        created = post("runs/create", experiment_id="0", run_name="large", start_time=1)["run"]["info"]
        for first in range(0, HISTORY, 1000):
            post(
                "runs/log-batch",
                run_id=created["run_id"],
                metrics=[
                    {"key": "long", "value": self.chosen.gauss(), "timestamp": step // 3, "step": step}
                    for step in range(first, first + 1000)
                ],
            )
        self.put(created["artifact_uri"], "big.bin", BIG)
        self.put(created["artifact_uri"], "empty.bin", 0)


def moved(clone: Clone, archive: Path, to: str) -> None:
    """Back up, destroy everything, and restore on the other engine."""
    clone.value("backup", f"--to={archive}")
    clone.value("down", "--delete-data", "--yes")
    assert not (clone.project_folder / "embedded").exists()
    clone.environment["TRACKBED_ENGINE"] = clone.engine = to
    clone.environment["TRACKBED_OBJECT_STORE"] = (
        "auto" if to == "embedded" else os.environ.get("TRACKBED_OBJECT_STORE", "auto")
    )
    done = clone.invoke("restore", str(archive), "--yes", timeout=900)
    assert done.returncode == 0, done.stderr
    archive.unlink()


@pytest.mark.timeout(3600)
def test_every_answer_is_equal_after_a_restore_on_the_other_engine(
    clone_factory: Callable[..., Clone], tmp_path: Path
) -> None:
    require_docker()
    seed = int(os.environ.get("TRACKBED_EQUAL_SEED") or random.randrange(2**32))
    sys.stderr.write(f"TRACKBED_EQUAL_SEED={seed} TRACKBED_EQUAL_EXAMPLES={EXAMPLES}\n")
    result = made_up(2 * EXAMPLES, seed)
    clone, began = clone_factory("embedded"), time.monotonic()

    def told(what: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.1f} s] {what}\n")

    clone.up()
    for number, (to, part) in enumerate((("docker", result[::2]), ("embedded", result[1::2]))):
        told("filling")
        filler = Filler(clone.url("mlflow"), seed + number)
        filler.count = number * 10**6  # names stay unique
        for experiment in part:
            filler.experiment(experiment)
        if not number:
            filler.large()  # goes there and back
        told("asking")
        before = snapshot.take(clone.url("mlflow"))
        assert len([question for question in before if question.startswith("found run ")]) > number
        told(f"to {to}")
        moved(clone, tmp_path / "a.tar", to)
        told("asking again")
        after = snapshot.take(clone.url("mlflow"))
        told(f"{len(after)} answers")
        assert not snapshot.differences(before, after)
