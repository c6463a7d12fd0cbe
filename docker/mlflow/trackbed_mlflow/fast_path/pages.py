"""Pages of runs that are ordered, or chosen by a value: MLflow's own search in a form that an index can serve.

MLflow asks for DISTINCT rows of all columns. So PostgreSQL joins and sorts every run of the experiment for each page.
Here the page is found first, by ids alone, and its runs are read after that, in the same statement.

- Each join finds one row of a run at most (its key and the run are the primary key), so DISTINCT has nothing to do.
- For a value that few runs have, its hash is compared as well, which is in an index (trackbed_mlflow/indexes.py). It is
  left out for others: PostgreSQL would take the two comparisons for independent, and read every run with that value.
- For a page ordered by a metric PostgreSQL walks the values of that metric in their order, through all experiments.
  The walk is bounded. Where it does not fill the page, all runs are sorted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any

from mlflow.entities import LifecycleStage  # type: ignore[import-not-found]
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag  # type: ignore[import-not-found]
from mlflow.store.tracking.sqlalchemy_store import (  # type: ignore[import-not-found]
    SqlAlchemyStore,
    _get_orderby_clauses,
    _get_sqlalchemy_filter_clauses,
    _parse_experiment_ids,
)
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME  # type: ignore[import-not-found]
from mlflow.utils.search_utils import SearchUtils  # type: ignore[import-not-found]
from sqlalchemy import func, literal_column, not_, select
from sqlalchemy.sql.elements import Label

from trackbed_mlflow.indexes import LATEST_VALUES, PARAM_HASHES, TAG_HASHES, present

FIRST_WALK, LONGEST_WALK = 500, 10_000  # values; the second is as long as the first one's matches let expect
RARE = 1_000  # runs: reading and sorting so many takes about as long as finding a page among 40,000 others
DEEPEST = 2_500  # runs up to the end of a page: a walk for later pages would not be short
INFINITY = float("inf")  # MLflow stores less in its place
LOOK_AGAIN = 60.0  # seconds: which indexes are there, which `trackbed-mlflow indexes` can change


@dataclass
class Search:
    """What MLflow's store was asked for."""

    store: Any
    experiment_ids: list[str]
    filter_string: str | None
    run_view_type: Any
    max_results: int | None
    order_by: list[str] | None
    page_token: str | None


_asked: ContextVar[Search | None] = ContextVar("asked", default=None)


@contextmanager
def asked(search: Search) -> Iterator[None]:
    """In here MLflow's next statement for runs is the one of ``search``."""
    token = _asked.set(search)
    try:
        yield
    finally:
        _asked.reset(token)


def take() -> Search | None:
    """The search whose statement comes now; for one statement."""
    if search := _asked.get():
        _asked.set(None)
    return search


def check() -> None:
    """AttributeError where MLflow's search is not built as this expects."""
    words = ["self", "experiment_ids", "filter_string", "run_view_type", "max_results", "order_by", "page_token"]
    for function, expected in (
        (SqlAlchemyStore._search_runs, words),
        (SqlAlchemyStore._filter_experiment_ids, ["self", "session", "experiment_ids", "lifecycle_stage"]),
        (_get_orderby_clauses, ["order_by_list", "session"]),
        (_get_sqlalchemy_filter_clauses, ["parsed", "session", "dialect"]),
        (_parse_experiment_ids, ["experiment_ids"]),
    ):
        if list(signature(function).parameters) != expected:
            raise AttributeError(f"{function.__name__} takes other words")


class Page:
    """The statements of one search; made after MLflow has made its own, so what it refuses is refused already."""

    def __init__(self, search: Search, session: Any) -> None:
        self.search, self.session = search, session
        self.filters = SearchUtils.parse_search_filter(search.filter_string)
        self.keys = [SearchUtils.parse_order_by_for_search_runs(clause) for clause in search.order_by or []]
        self.offset = SearchUtils.parse_start_offset_from_page_token(search.page_token)
        self.rare = [one for one in self.filters if self._is_rare(one)] if self.possible else []

    @property
    def possible(self) -> bool:
        return self.search.max_results is not None and all(one["type"] != "dataset" for one in self.filters)

    @property
    def served(self) -> bool:
        """Whether this is quicker than MLflow's own statement; that one serves pages in the order of the start."""
        other_order = any((kind, key) != ("attribute", "start_time") for kind, key, _ in self.keys)
        return self.possible and (other_order or self.oldest_first or bool(self.rare))

    @property
    def oldest_first(self) -> bool:
        return [(kind, SearchUtils.translate_key_alias(key), up) for kind, key, up in self.keys] == [
            ("attribute", "start_time", True)
        ]

    @property
    def limit(self) -> int:
        """One more than the page has, as MLflow asks, to see whether another follows."""
        return int(self.search.max_results or 0) + 1

    def sorted(self) -> Any:
        """All runs of the experiments, sorted."""
        if self.oldest_first:  # the index of the newest, backwards; MLflow sorts by "has a start" first
            oldest = self._chosen(select(SqlRun.run_uuid))
            return self._runs(oldest.order_by(SqlRun.start_time.asc().nulls_last(), SqlRun.run_uuid))
        cases, clauses, joins = _get_orderby_clauses(self.search.order_by, self.session)
        statement = self._chosen(select(SqlRun.run_uuid, *(case for case in cases if isinstance(case, Label))))
        for join in joins:
            statement = statement.outerjoin(join)
        return self._runs(statement.order_by(*clauses))

    def walked(self, length: int) -> Any:
        """The page as far as it lies in the first ``length`` values of its metric. None behind the first ones that are
        equal at the end: others of them may follow."""
        _, key, ascending = self.keys[0]
        latest = SqlLatestMetric.__table__
        order = latest.c.value if ascending else latest.c.value.desc()
        values = (
            select(latest.c.run_uuid, latest.c.value)
            .where(latest.c.key == SearchUtils.translate_key_alias(key), not_(latest.c.is_nan))
            .order_by(order)
        )
        walk = values.limit(length).subquery()
        end = values.with_only_columns(latest.c.value).offset(length).limit(1).scalar_subquery()
        cases, clauses, joins = _get_orderby_clauses((self.search.order_by or [])[1:], self.session)
        statement = self._chosen(
            select(SqlRun.run_uuid, *(case for case in cases if isinstance(case, Label)))
            .join(walk, walk.c.run_uuid == SqlRun.run_uuid)
            .where(
                walk.c.value < func.coalesce(end, INFINITY)
                if ascending
                else walk.c.value > func.coalesce(end, -INFINITY)
            )
        )
        for join in joins:
            statement = statement.outerjoin(join)
        return self._runs(statement.order_by(walk.c.value if ascending else walk.c.value.desc(), *clauses))

    @property
    def may_walk(self) -> bool:
        return bool(
            self.keys
            and self.keys[0][0] == "metric"
            and not self.rare
            and self.offset + self.limit <= DEEPEST
            and LATEST_VALUES in indexes_of(self.search.store, self.session)
        )

    def _chosen(self, statement: Any) -> Any:
        """``statement`` with what the runs have to meet."""
        store = self.search.store
        for one in self.filters:
            attributes, values, _ = _get_sqlalchemy_filter_clauses([one], self.session, store._get_dialect())
            statement = statement.where(*attributes)
            for value in values:
                statement = statement.join(value, value.c.run_uuid == SqlRun.run_uuid)
                if one in self.rare:
                    statement = statement.where(_hash(value.c.value) == _hash(one["value"]))
        experiments = store._filter_experiment_ids(self.session, _parse_experiment_ids(self.search.experiment_ids))
        stages = set(LifecycleStage.view_type_to_stages(self.search.run_view_type))
        return statement.where(SqlRun.experiment_id.in_(experiments), SqlRun.lifecycle_stage.in_(stages))

    def _is_rare(self, one: dict[str, Any]) -> bool:
        """Whether a filter asks for a value of a parameter, a tag or a run's name (a tag) that few runs have."""
        named = one["type"] == "attribute" and SearchUtils.translate_key_alias(one["key"]) == "run_name"
        if one["comparator"] != "=" or not (named or one["type"] in ("parameter", "tag")):
            return False
        model, index = (SqlParam, PARAM_HASHES) if one["type"] == "parameter" else (SqlTag, TAG_HASHES)
        if index not in indexes_of(self.search.store, self.session):
            return False
        key = MLFLOW_RUN_NAME if named else SearchUtils.translate_key_alias(one["key"])
        first = (
            select(model.run_uuid).where(model.key == key, _hash(model.value) == _hash(one["value"])).limit(RARE + 1)
        )
        return bool(self.session.execute(select(func.count()).select_from(first.subquery())).scalar_one() <= RARE)

    def _runs(self, ids: Any) -> Any:
        """The runs of the page that ``ids`` selects in order, in that order."""
        page = ids.offset(self.offset).limit(self.limit).subquery()
        # numbered as they come: PostgreSQL keeps the order of what it numbers
        placed = select(page.c.run_uuid, func.row_number().over().label("place")).subquery()
        runs = select(SqlRun).join(placed, placed.c.run_uuid == SqlRun.run_uuid).order_by(placed.c.place)
        return runs.options(*self.search.store._get_eager_run_query_options())


def result(search: Search, state: Any) -> Any:
    """The frozen result of MLflow's statement in ``state``."""
    page = Page(search, state.session)
    if not page.served:
        return state.invoke_statement().freeze()
    walked = walk(page, state) if page.may_walk else None
    return walked or state.invoke_statement(page.sorted()).freeze()


def walk(page: Page, state: Any) -> Any:
    """The frozen result of a walk that fills the page, or None."""
    needed = page.offset + page.limit
    length = max(FIRST_WALK, 2 * needed)
    for _ in range(2):
        walked = state.invoke_statement(page.walked(length)).freeze()
        if (count := len(walked().all())) == page.limit:
            return walked
        if not count or (length := 2 * length * needed // (page.offset + count)) > LONGEST_WALK:
            return None
    return None


def indexes_of(store: Any, session: Any) -> set[str]:
    """Our indexes in the store's database; without them a walk would sort the values of all experiments."""
    looked, names = getattr(store, "_trackbed_indexes", (None, set()))
    if looked is None or time.monotonic() - looked > LOOK_AGAIN:
        names = {name for name, whole in present(session.connection()).items() if whole}
        store._trackbed_indexes = time.monotonic(), names
    return set(names)


def _hash(value: Any) -> Any:
    """As the index has it."""
    return func.hashtextextended(value, literal_column("0"))
