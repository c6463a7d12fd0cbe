"""Whose login a request came with (trackbed_mlflow/edge/identity.py): proofs, and what a store is told."""

from __future__ import annotations

import asyncio
import hmac
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import errors
from trackbed_mlflow.edge import identity

PROOF = b"ann 6fe3691333ba74d252b75559b251f45a930d2aca471c7d3ed8faa6def37a49b4"  # as the gateway's own test has it


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """The layer with the key `secret`; gives its status, what the application saw, and whose login that was."""
    path = tmp_path / "key"
    path.write_text("secret\n")
    seen: list[tuple[str, list[bytes]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((identity.login.get(), [name for name, _ in scope["headers"]]))
        await send({"type": "http.response.start", "status": 200})

    created = identity.Identity(app, str(path))

    def ask(*values: bytes, name: bytes = identity.HEADER) -> tuple[int, str]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        seen.clear()
        scope = {"type": "http", "method": "POST", "headers": [(b"host", b"x"), *((name, v) for v in values)]}
        asyncio.run(created(scope, None, send))  # type: ignore[arg-type]
        assert not seen or identity.HEADER not in seen[0][1]
        assert identity.login.get() == ""
        return sent[0]["status"], seen[0][0] if seen else "nobody asked"

    return SimpleNamespace(ask=ask, path=path, made=created)


def test_a_proven_name_is_known_and_no_header_is_nobody(server: Any) -> None:
    assert server.ask(PROOF) == (200, "ann")
    assert server.ask(PROOF) == (200, "ann")  # remembered
    assert server.ask() == (200, "")
    assert server.ask(b"bob 00", name=b"x_trackbed_login") == (200, "")


@pytest.mark.parametrize(
    "values",
    [
        (b"ann",),
        (b"ann ",),
        (b"",),
        (b"ann 00",),
        (PROOF.replace(b"ann", b"bob"),),
        (PROOF.upper(),),
        (PROOF + b" ",),
        (PROOF, PROOF),
        (PROOF, b"bob 00"),
        (b" " + PROOF,),
        (b"\xff\xfe",),
    ],
)
def test_a_wrong_proof_is_refused(server: Any, values: tuple[bytes, ...]) -> None:
    assert server.ask(*values) == (403, "nobody asked")


def test_a_new_key_counts_at_once_and_the_old_one_no_more(server: Any) -> None:
    assert server.ask(PROOF) == (200, "ann")
    server.path.write_text("another\n")
    other = hmac.new(b"another", identity.PURPOSE + b"ann", "sha256").hexdigest().encode()
    assert server.ask(b"ann " + other) == (200, "ann")
    assert server.ask(PROOF) == (403, "nobody asked")


def test_without_its_key_a_public_server_does_not_start(tmp_path: Path) -> None:
    for text in (None, "", "\n"):
        if text is not None:
            (tmp_path / "key").write_text(text)
        with pytest.raises(errors.Stop, match="the gateway's key"):
            identity.identified(None, (), {identity.FILE: str(tmp_path / "key")})  # type: ignore[arg-type]
    assert identity.identified(str, (), {}) is str  # type: ignore[comparison-overlap, arg-type]


class Tag:
    def __init__(self, key: str, value: str) -> None:
        self.key, self.value = key, value

    def __iter__(self) -> Iterator[tuple[str, str]]:  # as MLflow's have it
        return iter((("key", self.key), ("value", self.value)))


class Store:
    """Methods with the words of MLflow's stores; each gives what it was told."""

    def create_run(self, experiment_id: str, user_id: str, start_time: int, tags: Any, run_name: str) -> Any:
        return user_id, {tag.key: tag.value for tag in tags}

    def create_experiment(self, name: str, artifact_location: Any = None, tags: Any = None) -> Any:
        return {tag.key: tag.value for tag in tags or ()}

    def create_dataset(self, name: str, tags: Any = None, experiment_ids: Any = None) -> Any:
        return tags

    def upsert_dataset_records(self, dataset_id: str, records: Any) -> Any:
        return records

    def log_batch(self, run_id: str, metrics: Any, params: Any, tags: Any) -> str:
        return "done"

    def set_tag(self, run_id: str, tag: Any) -> str:
        return "done"

    def delete_tag(self, run_id: str, key: str) -> str:
        return "done"

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> str:
        return "done"

    def set_dataset_tags(self, dataset_id: str, tags: Any) -> str:
        return "done"

    def create_issue(self, experiment_id: str, name: str, created_by: Any = None) -> Any:
        return created_by

    def set_review_queue_item_status(self, queue_id: str, *, item_id: str, completed_by: Any = None) -> Any:
        return completed_by

    def create_assessment(self, assessment: Any) -> Any:
        return assessment.source.source_id, assessment.metadata

    def start_trace(self, trace_info: Any) -> Any:
        return trace_info.trace_metadata, trace_info.tags

    def get_run(self, run_id: str) -> str:
        return run_id


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    class Denied(Exception):
        def __init__(self, text: str, error_code: int) -> None:
            super().__init__(text)

    for name, members in (
        ("mlflow", {}),
        ("mlflow.protos", {}),
        ("mlflow.exceptions", {"MlflowException": Denied}),
        ("mlflow.entities", {"RunTag": Tag, "LoggedModelTag": Tag}),
        ("mlflow.protos.databricks_pb2", {"PERMISSION_DENIED": 7}),
    ):
        module = ModuleType(name)
        for key, value in members.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    created = Store()
    assert identity.attributed(created) == 13
    token = identity.login.set("ann")
    yield created
    identity.login.reset(token)


def test_a_run_of_anns_login_does_not_say_bob(store: Any) -> None:
    tags = [Tag("mlflow.user", "bob"), Tag("a", "b")]
    reported = ("ann", {"a": "b", "mlflow.user": "ann", "trackbed.client_user": "bob"})
    assert store.create_run("0", "carol", 1, tags, "n") == reported
    assert (
        store.create_run(experiment_id="0", user_id="bob", start_time=1, tags=[Tag("a", "b")], run_name="n") == reported
    )
    assert store.create_run("0", "", 1, [], "n") == ("ann", {"mlflow.user": "ann"})
    assert store.create_run("0", "ann", 1, [Tag("mlflow.user", "ann")], "n") == ("ann", {"mlflow.user": "ann"})
    forged = [Tag("trackbed.client_user", "x"), Tag("mlflow.user", "bob"), Tag("mlflow.user", "eve")]
    assert store.create_run("0", "", 1, forged, "n")[1] == {"mlflow.user": "ann", "trackbed.client_user": "eve"}


def test_what_else_is_created_is_the_logins(store: Any) -> None:
    assert store.create_experiment("e", tags=[Tag("mlflow.user", "bob")])["mlflow.user"] == "ann"
    assert store.create_experiment("e", tags=[Tag("a", "b")]) == {"a": "b"}
    assert store.create_experiment("e") == {}
    assert store.create_dataset("d", {"mlflow.user": "bob"})["mlflow.user"] == "ann"
    assert store.upsert_dataset_records("d", [{"inputs": 1}])[0]["tags"] == {"mlflow.user": "ann"}
    assert store.create_issue("0", "n", created_by="bob") == "ann"
    assert store.set_review_queue_item_status("q", item_id="i", completed_by="bob") == "ann"
    assert store.set_review_queue_item_status("q", item_id="i") is None  # reopened
    person = SimpleNamespace(source=SimpleNamespace(source_type="HUMAN", source_id="bob"), metadata=None)
    assert store.create_assessment(person) == ("ann", {"trackbed.client_user": "bob"})
    judge = SimpleNamespace(source=SimpleNamespace(source_type="LLM_JUDGE", source_id="gpt"), metadata=None)
    assert store.create_assessment(judge) == ("gpt", None)
    info = SimpleNamespace(trace_metadata={}, tags={"mlflow.user": "bob"}, assessments=[])
    assert store.start_trace(info) == ({"mlflow.user": "ann"}, {"mlflow.user": "ann", "trackbed.client_user": "bob"})


@pytest.mark.parametrize("who", ["ann", ""])  # also without a login: the notebook's user is nobody else either
def test_who_made_something_cannot_be_changed(store: Any, who: str) -> None:
    token = identity.login.set(who)
    try:
        calls: list[Callable[[], object]] = [
            lambda: store.set_tag("r", Tag("mlflow.user", "bob")),
            lambda: store.delete_tag("r", "mlflow.user"),
            lambda: store.log_batch("r", [], [], [Tag("a", "b"), Tag("mlflow.user", "bob")]),
            lambda: store.log_batch("r", [], [], tags=[Tag("trackbed.client_user", "bob")]),
            lambda: store.set_trace_tag("t", "mlflow.user", "bob"),
            lambda: store.set_dataset_tags("d", {"mlflow.user": "bob"}),
        ]
        for call in calls:
            with pytest.raises(Exception, match="cannot be changed"):
                call()
        calls = [
            lambda: store.set_tag("r", Tag("a", "b")),
            lambda: store.delete_tag("r", "a"),
            lambda: store.log_batch("r", [], [], []),
            lambda: store.set_trace_tag("t", "a", "mlflow.user"),
        ]
        for call in calls:
            assert call() == "done"
    finally:
        identity.login.reset(token)


def test_without_a_login_the_client_says_who_it_is(store: Any) -> None:
    token = identity.login.set("")
    try:
        assert store.create_run("0", "jovyan", 1, [Tag("mlflow.user", "jovyan")], "n") == (
            "jovyan",
            {"mlflow.user": "jovyan"},
        )
        assert store.create_issue("0", "n", created_by="bob") == "bob"
    finally:
        identity.login.reset(token)


def test_a_row_that_is_written_again_names_who_made_it() -> None:
    def column(added: list[str], deleted: list[str]) -> SimpleNamespace:
        return SimpleNamespace(history=SimpleNamespace(added=added, deleted=deleted))

    row = SimpleNamespace(value="bob", other="new")
    identity.stays(row, {"value": column(["bob"], ["ann"])}, "value")
    assert row.value == "ann"
    identity.stays(row, {"value": column([], []), "other": column(["new"], [])}, "value", "other")
    assert (row.value, row.other) == ("ann", "new")


def test_a_verdict_of_an_unknown_kind_is_the_logins(store: Any) -> None:
    for kind, who in (("HUMAN", "ann"), ("SOURCE_TYPE_UNSPECIFIED", "ann"), ("LLM_JUDGE", "bob"), ("CODE", "bob")):
        source = SimpleNamespace(source_type=kind, source_id="bob")
        assert store.create_assessment(SimpleNamespace(source=source, metadata=None))[0] == who


class Reviews:
    """A store with one assessment of each kind; gives what an update was told."""

    def get_assessment(self, trace_id: str, assessment_id: str) -> Any:
        kind, _, who = assessment_id.partition(" ")
        return SimpleNamespace(source=SimpleNamespace(source_type=kind, source_id=who))

    def update_assessment(
        self, trace_id: str, assessment_id: str, name: Any = None, feedback: Any = None, metadata: Any = None
    ) -> Any:
        return feedback, metadata


@pytest.mark.parametrize(
    ("made", "who", "metadata"),
    [
        ("HUMAN ann", "ann", None),
        ("HUMAN ann", "", {"trackbed.changed_by": "a client without a login"}),
        ("LLM_JUDGE gpt", "ann", {"trackbed.changed_by": "ann"}),
        ("CODE ann", "ann", {"trackbed.changed_by": "ann"}),
    ],
)
def test_who_changed_an_assessment_is_told(store: Any, made: str, who: str, metadata: Any) -> None:
    reviews = Reviews()
    identity.attributed(reviews)
    token = identity.login.set(who)
    try:
        assert reviews.update_assessment("t", made, feedback=1) == (1, metadata)
        assert reviews.update_assessment(
            trace_id="t",
            assessment_id=made,
            metadata={"a": "b", "trackbed.changed_by": "eve", "trackbed.client_user": "eve"},
        ) == (None, {"a": "b", **(metadata or {})})
    finally:
        identity.login.reset(token)


def test_a_persons_assessment_is_changed_by_nobody_else(store: Any) -> None:
    reviews = Reviews()
    identity.attributed(reviews)
    for created in ("HUMAN bob", "SOURCE_TYPE_UNSPECIFIED bob"):
        with pytest.raises(Exception, match="is bob's, and you are ann"):
            reviews.update_assessment("t", created, feedback=1)


class Traces:
    """A store that knows the trace `old`; remembers what is executed."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def log_spans(self, location: str, spans: Any, tracking_uri: Any = None) -> Any:
        return spans

    @contextmanager
    def ManagedSessionMaker(self, read_only: bool = True) -> Iterator[Any]:
        def execute(statement: Any, rows: Any = None) -> Any:
            if rows is not None:
                assert not read_only
                self.written += rows
            return SimpleNamespace(scalars=lambda: ["old"])

        yield SimpleNamespace(execute=execute)


@pytest.mark.parametrize(("who", "written"), [("ann", ["n1", "n2"]), ("", [])])
def test_a_trace_that_opentelemetry_begins_is_the_logins(
    store: Any, monkeypatch: pytest.MonkeyPatch, who: str, written: list[str]
) -> None:
    condition = SimpleNamespace(where=lambda _: "select")
    module: Any = ModuleType("mlflow.store.tracking.dbmodels")
    module.models = SimpleNamespace(
        SqlTraceMetadata="table",
        SqlTraceInfo=SimpleNamespace(request_id=SimpleNamespace(in_=lambda traces: sorted(traces))),
    )
    sqlalchemy: Any = ModuleType("sqlalchemy")
    sqlalchemy.select = lambda _: condition
    dialect: Any = ModuleType("sqlalchemy.dialects.postgresql")
    dialect.insert = lambda _: SimpleNamespace(on_conflict_do_nothing=lambda: "insert")
    for name, created in (
        ("mlflow.store", ModuleType("mlflow.store")),
        ("mlflow.store.tracking", ModuleType("t")),
        (module.__name__, module),
        ("sqlalchemy", sqlalchemy),
        ("sqlalchemy.dialects", ModuleType("d")),
        (dialect.__name__, dialect),
    ):
        monkeypatch.setitem(sys.modules, name, created)
    traces = Traces()
    identity.attributed(traces)
    token = identity.login.set(who)
    try:
        spans = [SimpleNamespace(trace_id=name) for name in ("old", "n2", "n1", "n1")]
        assert traces.log_spans("0", spans) is spans and traces.log_spans("0", []) == []
    finally:
        identity.login.reset(token)
    assert traces.written == [{"request_id": name, "key": "mlflow.user", "value": who} for name in written]
