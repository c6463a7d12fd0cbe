"""Runs inside the tracking server's Python: MLflow's own way and ours over one empty database, step by step.

Arguments: the database's address, and the folder of our modules. Prints {"compared": {KIND: COUNT}, "different": []}.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import sqlalchemy  # type: ignore[import-not-found,unused-ignore]
from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped,import-not-found,unused-ignore]
from mlflow.entities import (  # type: ignore[import-not-found,unused-ignore]
    Dataset,
    DatasetInput,
    Metric,
    Param,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.protos import model_registry_pb2, service_pb2  # type: ignore[import-not-found,unused-ignore]
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # type: ignore[import-not-found,unused-ignore]
from mlflow.utils.proto_json_utils import message_to_json  # type: ignore[import-not-found,unused-ignore]

URI, MODULES = sys.argv[1:]
sys.path.insert(0, MODULES)

from trackbed_mlflow import fast_path, indexes  # noqa: E402
from trackbed_mlflow.fast_path import json_answers, pages  # noqa: E402
from trackbed_mlflow.fast_path import store as entry_point  # noqa: E402

ROWS = {
    "metrics": "key, value, timestamp, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan",
    "params": "key, value",
    "tags": "key, value",
}
VALUES = (0.5, -0.0, 1.0, 3.0, 1e300, -1e-300, math.nan, math.inf, -math.inf, 7)
compared: Counter[str] = Counter()
different: list[str] = []


def same(kind: str, own: object, ours: object) -> None:
    compared[kind] += 1
    if own != ours and len(different) < 20:
        different.append(f"{kind}: {own!r:.600} | {ours!r:.600}")


def answer(call: Any) -> object:
    """What a call gives, or how it fails."""
    try:
        return call()
    except Exception as error:
        said = str(error)
        # PostgreSQL's own words, without the statement: ours is another one
        return type(error).__name__, getattr(error, "error_code", ""), *(re.findall(r"\(psycopg2.*", said) or [said])


def rows(store: Any, run: str) -> dict[str, list[tuple[Any, ...]]]:
    with store.engine.connect() as connection:
        return {
            table: [
                tuple(row)
                for row in connection.execute(
                    sqlalchemy.text(
                        f"SELECT {columns} FROM {table} WHERE run_uuid = :run AND key <> 'mlflow.runName' ORDER BY {columns}"
                    ),
                    {"run": run},
                )
            ]
            for table, columns in ROWS.items()
        }


def metrics(dice: random.Random, count: int) -> list[Any]:
    """Few names, steps and times, so that they meet."""
    return [
        Metric(dice.choice("abc"), dice.choice(VALUES), dice.randrange(3), dice.randrange(-1, 3)) for _ in range(count)
    ]


class Pair:
    """The same experiment twice: one that MLflow's own store writes, one that ours does."""

    def __init__(self, own: Any, ours: Any) -> None:
        self.stores = (own, ours)
        self.experiments = tuple(
            store.create_experiment(name) for store, name in zip(self.stores, ("own", "ours"), strict=True)
        )
        self.runs: list[tuple[str, str]] = []

    def run(self, name: str) -> tuple[str, str]:
        created = tuple(
            store.create_run(experiment, "me", len(self.runs), [RunTag("t", str(len(self.runs) % 3))], name).info.run_id
            for store, experiment in zip(self.stores, self.experiments, strict=True)
        )
        self.runs.append((created[0], created[1]))
        return self.runs[-1]

    def both(self, kind: str, run: tuple[str, str], call: Any) -> None:
        result = [
            str(answer(lambda store=store, one=one: call(store, one))).replace(one, "RUN")
            for store, one in zip(self.stores, run, strict=True)
        ]
        same(kind, *result)
        same(f"rows after {kind}", *(rows(store, one) for store, one in zip(self.stores, run, strict=True)))

    def entities(self, found: Any) -> list[object]:
        """Runs without what must differ, their parts in order: neither way promises one."""
        notes: list[object] = []
        for run in found:
            data = run.data
            notes.append(
                (
                    run.info.run_name,
                    run.info.status,
                    run.info.start_time,
                    run.info.lifecycle_stage,
                    sorted(repr(dict(metric)) for metric in data._metric_objs),
                    sorted(data.params.items()),
                    sorted(data.tags.items()),
                    str([dict(one.dataset) for one in run.inputs.dataset_inputs]),
                )
            )
        return notes

    def pages(self, store: Any, experiment: str, words: dict[str, Any]) -> list[object]:
        notes: list[object] = []
        token = None
        while True:
            page = store.search_runs([experiment], page_token=token, **words)
            notes += [len(page), *self.entities(page)]
            token = page.token
            if not token:
                return notes

    def search(self, words: dict[str, Any]) -> None:
        words = {"filter_string": "", "run_view_type": ViewType.ALL, "max_results": 7, **words}
        result = []
        for store, experiment in zip(self.stores, self.experiments, strict=True):
            result.append(answer(lambda store=store, experiment=experiment: self.pages(store, experiment, words)))
        same("search", *result)


def logging(pair: Pair, dice: random.Random) -> None:
    for number in range(12):
        run = pair.run(f"run {number}")
        for _ in range(6):
            given = metrics(dice, dice.choice((0, 1, 2, 40)))
            if len(given) == 1 and dice.random() < 0.8:
                pair.both("log_metric", run, lambda store, one, given=given: store.log_metric(one, given[0]))
            else:
                pair.both(
                    "log_batch",
                    run,
                    lambda store, one, given=given, word=str(number): store.log_batch(
                        one, given, [Param("p", word)], [RunTag("u", str(len(given)))]
                    ),
                )
    for bad in (
        Metric("", 1.0, 1, 1),
        Metric("a" * 300, 1.0, 1, 1),
        Metric("../a", 1.0, 1, 1),
        Metric("a", "x", 1, 1),
        Metric("a", 1.0, None, 1),
        Metric("a", 1.0, 1, 2**70),
        Metric("a", 1.0, -1, 1),
        Metric("a", True, 1, 1),
    ):
        pair.both("refused", pair.runs[0], lambda store, one, bad=bad: store.log_metric(one, bad))
        pair.both(
            "refused",
            pair.runs[0],
            lambda store, one, bad=bad: store.log_batch(one, [Metric("n", 1.0, 1, 1), bad], [], []),
        )
    gone = ("0" * 32, "0" * 32)
    pair.both("no run", gone, lambda store, one: store.log_metric(one, Metric("a", 1.0, 1, 1)))
    deleted = pair.run("deleted")
    pair.both("deleted", deleted, lambda store, one: store.delete_run(one))
    pair.both("deleted", deleted, lambda store, one: store.log_metric(one, Metric("a", 1.0, 1, 1)))
    pair.both("deleted", deleted, lambda store, one: store.log_batch(one, metrics(random.Random(1), 3), [], []))


def searching(pair: Pair) -> None:
    for run in pair.runs[:3]:
        for store, one in zip(pair.stores, run, strict=True):
            store.log_inputs(one, [DatasetInput(Dataset("d", "digest", "local", "here"))])
    for filter_string in (
        "",
        "metrics.a > 0.7",
        "params.p = '3'",
        "tags.t = '1' and metrics.b < 1",
        "nonsense >",
        "dataset.name = 'd'",
        "attributes.status = 'RUNNING'",
        "tags.none = 'x'",
    ):
        for order in ([], ["metrics.a DESC"], ["params.p ASC", "start_time DESC"], ["tags.t"]):
            pair.search({"filter_string": filter_string, "order_by": order})
    for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY):
        pair.search({"run_view_type": view, "max_results": 100})
    for run in pair.runs:
        same("get_run", *(pair.entities([store.get_run(one)]) for store, one in zip(pair.stores, run, strict=True)))


def charted(own: Any, ours: Any, dice: random.Random) -> None:
    """Points of charts: more and fewer values than asked for, ties, NaN, a range of steps, a run twice, none."""
    experiment = own.create_experiment("charts")
    ids = [own.create_run(experiment, "me", number, [], f"run {number}").info.run_id for number in range(6)]
    for run, count in zip(ids, (0, 1, 7, 30, 200, 320), strict=True):
        given = [Metric("c", dice.choice(VALUES), dice.randrange(4), dice.randrange(-2, 40)) for _ in range(count)]
        own.log_batch(run, [*given, Metric("other", 1.0, 0, 0)], [], [])
    own.delete_run(ids[3])
    asked: list[tuple[Any, ...]] = [
        (ids, "c", most, None, None) for most in (-1, 0, 1, 2, 3, 6, 7, 8, 29, 30, 100, 320, 2500)
    ]
    for _ in range(40):
        first = dice.randrange(-3, 41)
        runs = [dice.choice((*ids, "0" * 32)) for _ in range(dice.randrange(4))]
        asked.append((runs, "c", dice.choice((1, 2, 5, 50)), first, first + dice.randrange(-1, 20)))
    asked += [
        (ids, "none", 10, None, None),
        ([], "c", 10, None, None),
        (ids, "c", 10, 1, None),
        (ids, "c", 10, None, 1),
    ]
    asked.append((ids, "c", 10, 0, 2**70))
    asked += [([run], "c", most, *steps) for run in ids for most in (7, 320) for steps in ((None, None), (0, 20))]
    for words in asked:
        notes = []
        for store in (own, ours):
            found = answer(lambda store=store, words=words: store.get_metric_history_bulk_interval(*words))
            points = found if isinstance(found, list) else []
            notes.append(
                [(p.run_id, p.key, repr(p.value), p.timestamp, p.step) for p in points]
                or (list(found) if isinstance(found, tuple) else [])
            )
        same("chart", *notes)
    with mock.patch.object(SqlAlchemyStore, "_supports_window_functions", return_value=False) as looked:
        words = (ids, "c", 7, None, None)
        same(
            "chart in Python",
            *([repr(p.value) for p in s.get_metric_history_bulk_interval(*words)] for s in (own, ours)),
        )
        same("whether both looked", looked.call_count, 2 * len(ids) + 1)


LONG = "x" * 5990
FILTERS = (
    "",
    "params.p = '1'",
    "params.p = '1' and params.q = 'one'",
    f"params.long = '{LONG}3'",
    "params.p = 'none'",
    "params.p = ''",
    "params.p != '1'",
    "params.p LIKE '1%'",
    "tags.t = 'a' and metrics.m > 0.2",
    "tags.`mlflow.runName` = 'run 7'",
    "attributes.run_name = 'run 7'",
    "attributes.run_name = 'twice' and params.p = '0'",
    "attributes.run_name LIKE 'run%' and params.p = '2'",
    "attributes.status = 'FAILED' and params.p = '1'",
    "params.p = '1' and metrics.m != 1",
    "params.none IS NULL and tags.t = 'b'",
    "params.p = '1' and dataset.name = 'd'",
    "params.p = 'it''s'",
    "nonsense = 3",
    "params.p > '1'",
)
ORDERS: tuple[list[str], ...] = (
    [],
    ["metrics.m"],
    ["metrics.m DESC"],
    ["metrics.`m` ASC", "start_time ASC"],
    ["metrics.m DESC", "params.p", "tags.t DESC"],
    ["metrics.m", "metrics.n DESC"],
    ["metrics.same"],
    ["metrics.same DESC", "attributes.start_time DESC"],
    ["metrics.none"],
    ["metrics.rare DESC"],
    ["params.p DESC", "metrics.m"],
    ["tags.t"],
    ["attributes.end_time"],
    ["attributes.status DESC", "attributes.run_name"],
    ["start_time DESC"],
    ["start_time ASC"],
    ["start_time", "metrics.m"],
    ["metrics.m", "metrics.m DESC"],
    ["attribute.artifact_uri"],
    ["dataset.name"],
    ["nonsense"],
)


def paged(own: Any, ours: Any, dice: random.Random) -> None:
    """Every filter in every order, page by page, over ties, NaN, what is missing, and what was deleted."""
    indexes.ensure(own.engine)
    pages.LOOK_AGAIN = 0.0  # earlier searches saw none
    experiments = [own.create_experiment(f"pages {number}") for number in range(3)]
    for number in range(90):
        at = dice.choice((dice.randrange(5), dice.randrange(1000)))
        name = dice.choice((f"run {number % 40}", "twice"))
        run = own.create_run(dice.choice(experiments), "me", at, [RunTag("t", dice.choice("ab"))], name).info
        values = {"m": dice.choice((*VALUES, 0.25, 0.25, dice.random())), "same": 1.0, "n": float(number % 3)}
        given = [Metric(key, value, 0, 0) for key, value in values.items() if key == "same" or dice.random() < 0.8]
        words = {"p": dice.choice(("0", "1", "2", "", "10")), "q": "one", "long": f"{LONG}{number % 5}"}
        said = [Param(key, word) for key, word in words.items() if dice.random() < 0.9]
        own.log_batch(run.run_id, given + [Metric("rare", 1.0, 0, 0)] * (number % 50 == 0), said, [])
        if dice.random() < 0.5:
            status = dice.choice((RunStatus.FINISHED, RunStatus.FAILED))
            own.update_run_info(run.run_id, status, dice.randrange(50), None)
        if number % 10 == 0:
            own.log_inputs(run.run_id, [DatasetInput(Dataset(name, "digest", "local", "here")) for name in ("d", "e")])
        if dice.random() < 0.15:
            own.delete_run(run.run_id)
    taken: Counter[str] = Counter()
    for kind in ("walked", "sorted"):
        method = getattr(pages.Page, kind)

        def counted(self: Any, *words: Any, kind: str = kind, method: Any = method) -> Any:
            taken[kind] += 1
            return method(self, *words)

        setattr(pages.Page, kind, counted)
    views = (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL)
    for filter_string in FILTERS:
        for order in ORDERS:
            if dice.random() < 0.6:
                continue
            pages.RARE = dice.choice((0, 8, 1000))
            pages.FIRST_WALK, pages.LONGEST_WALK = dice.choice(((500, 10_000), (1, 60), (20, 30)))
            asked: dict[str, Any] = {
                "experiment_ids": dice.choice((experiments[:1], experiments[1:], experiments, [])),
                "filter_string": filter_string,
                "order_by": order,
                "run_view_type": dice.choice(views),
                "max_results": dice.choice((2, 17, 1000)),
            }
            same("page", *(answer(lambda store=store, asked=asked: followed(store, asked)) for store in (own, ours)))
    pages.FIRST_WALK, pages.LONGEST_WALK = 1, 60
    for order in (
        ["metrics.same"],
        ["metrics.same DESC"],
        ["metrics.m"],
        ["metrics.m DESC"],
        ["metrics.n", "metrics.m"],
    ):
        for size in (1, 2, 5):  # walks that end among equal values, and count all runs that they meet
            asked = {
                "experiment_ids": experiments,
                "filter_string": "",
                "order_by": order,
                "run_view_type": ViewType.ALL,
                "max_results": size,
            }
            same("page", *(answer(lambda store=store, asked=asked: followed(store, asked)) for store in (own, ours)))
    compared.update({f"pages {kind}": count for kind, count in taken.items()})


RUNS = """
INSERT INTO runs (run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id)
SELECT md5('grown' || i), 'grown', 'me', 'FINISHED', i, 'active', 'file:///unused', :experiment FROM generate_series(1, 20000) i;
INSERT INTO params SELECT 'seed', i, md5('grown' || i) FROM generate_series(1, 20000) i;
INSERT INTO tags SELECT 'half', i % 2, md5('grown' || i) FROM generate_series(1, 20000) i;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT 'loss', abs(hashint4(i)), 0, 0, false, md5('grown' || i) FROM generate_series(1, 20000) i;
"""


def later(own: Any) -> None:
    """What the server's start leaves for tables that are large, and what is made beside the server."""
    experiment = own.create_experiment("grown")
    with own.engine.begin() as connection:
        connection.execute(sqlalchemy.text(RUNS), {"experiment": int(experiment)})
    limit, indexes.LARGE = indexes.LARGE, 2**20  # of bytes: those of 20,000 runs are larger, and experiments are not
    indexes.remove(own.engine)
    same("unwanted", (False, {}), (indexes.make(own.engine), indexes.large(own.engine)))
    with own.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        indexes._remember(connection, False)
    left = indexes.make(own.engine)
    with own.engine.connect() as connection:
        made = set(indexes.present(connection))
    same("left for later", (True, set(indexes.INDEXES) - made), (left, set(indexes.large(own.engine))))
    same("made at once", {"trackbed_experiments_created", "trackbed_experiments_updated"}, made)
    indexes.make_large({"MLFLOW_BACKEND_STORE_URI": URI})
    with own.engine.connect() as connection:
        same("made later", dict.fromkeys(indexes.INDEXES, True), indexes.present(connection))
    indexes.LARGE = limit


def followed(store: Any, words: dict[str, Any]) -> list[object]:
    notes: list[object] = []
    token = None
    while True:
        page = store.search_runs(page_token=token, **words)
        token = page.token
        notes += [(run.info.run_id, sorted(run.data.params), sorted(run.data.metrics)) for run in page] + [token]
        if not token or len(notes) > 60 * words["max_results"]:
            return notes


def crowded(ours: Any, experiment: str) -> None:
    """Many at once on the same names, in different orders: nothing is lost, the newest is the latest."""
    run = ours.create_run(experiment, "me", 0, [], "crowded").info.run_id
    names = [f"m{number}" for number in range(30)]

    def work(step: int) -> None:
        given = [Metric(name, float(step), 0, step) for name in names]
        random.Random(step).shuffle(given)
        ours.log_batch(run, given, [], [])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))
    result = rows(ours, run)
    same("crowded", 64 * len(names), len(result["metrics"]))
    same("crowded", [(name, 63.0, 0, 63, False) for name in sorted(names)], result["latest_metrics"])


def ended(own: Any, ours: Any, run: str) -> None:
    """Connections that the server has ended since their last use are noticed before they are used."""
    for _ in range(5):
        ours.get_run(run)
        with own.engine.connect() as connection:
            ended = connection.execute(
                sqlalchemy.text(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ).scalar_one()
        same("connections ended", True, ended > 0)
        same("after connections ended", run, answer(lambda: ours.get_run(run).info.run_id))


def filled(descriptor: Any, dice: random.Random, depth: int) -> Any:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if dice.random() < 0.3:
            continue
        if field.message_type is not None:
            if depth and not field.message_type.GetOptions().map_entry:
                for _ in range(dice.randrange(1, 3)):
                    child = filled(field.message_type, dice, depth - 1)
                    target = getattr(message, field.name)
                    if field.is_repeated:
                        target.append(child)
                    else:
                        target.CopyFrom(child)
            continue
        kinds = {
            field.CPPTYPE_STRING: ("x", "", 'ü\u2028"', "1"),
            field.CPPTYPE_BOOL: (True, False),
            field.CPPTYPE_INT64: (0, -1, 2**62),
            field.CPPTYPE_DOUBLE: VALUES,
            field.CPPTYPE_FLOAT: (0.1, 2.0),
            field.CPPTYPE_ENUM: tuple(field.enum_type.values_by_number) if field.enum_type else (),
        }
        choice = kinds.get(field.cpp_type, (0, 1, 2**31 - 1))
        if field.type == field.TYPE_BYTES:
            choice = (b"", b"\x00\xff")
        value = dice.choice(choice)
        if field.is_repeated:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)
    return message


def answers(dice: random.Random) -> None:
    """Every kind of message of MLflow's two main services, filled at random, word for word."""
    ours = json_answers.writer(lambda *_, **__: "own")
    whole = json_answers.writer(message_to_json)
    kinds = []
    for file in (service_pb2, model_registry_pb2):
        waiting = list(file.DESCRIPTOR.message_types_by_name.values())
        while waiting:
            kinds.append(waiting.pop())
            waiting += kinds[-1].nested_types
    for descriptor in kinds:
        for _ in range(4):
            message = filled(descriptor, dice, 3)
            own = answer(lambda message=message: message_to_json(message))
            same("answer", own, answer(lambda message=message: whole(message)))
            compared["answers by ours" if ours(message) != "own" else "answers by MLflow"] += 1
            same(
                "compact answer",
                answer(lambda message=message: message_to_json(message, pretty=False)),
                answer(lambda message=message: whole(message, pretty=False)),
            )


def main() -> None:
    own = SqlAlchemyStore(URI, "file:///unused")
    SqlAlchemyStore._engine_map.clear()  # MLflow gives stores of one address one engine
    ours = entry_point.create(URI, "file:///unused")
    assert type(ours).__name__ == "FastTrackingStore" and not fast_path.fallbacks, fast_path.fallbacks
    pair, dice = Pair(own, ours), random.Random(7)
    logging(pair, dice)
    searching(pair)
    paged(own, ours, dice)
    later(own)
    charted(own, ours, dice)
    crowded(ours, pair.experiments[1])
    ended(own, ours, pair.runs[0][1])
    answers(dice)
    print(json.dumps({"compared": compared, "different": different}))


main()
