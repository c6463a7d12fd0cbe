"""A source beside what the project has: the names and numbers that its data get, in the staging database.

What is here already is recognised by the ids that MLflow gives once for ever (runs, traces, logged models). An
experiment is the one that has them. What is empty, and a registered model, is recognised by its name and the
millisecond in which it was made.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from trackbed_mlflow.imports import locations

# a statement in which %s stands for the rows of a VALUES list; gives the answer's rows
Ask = Callable[..., list[tuple[Any, ...]]]
BLOCK = 2000
SUFFIX = "-imported"  # a prompt's name takes letters, digits and ._- only
LONGEST = 256  # characters of a name
OLD = "\1"  # before the names of models that have not got theirs yet
IS_PROMPT = "mlflow.prompt.is_prompt"
HOMES = (("runs", "run_uuid", "run"), ("trace_info", "request_id", "trace"), ("logged_models", "model_id", "model"))
# what acts by itself, is encrypted with the other server's keys, or is computed from the rest
LEFT = (
    "jobs job_locks scheduler_leases webhooks webhook_events online_scoring_configs endpoints endpoint_bindings "
    "endpoint_model_mappings endpoint_tags model_definitions secrets guardrails guardrail_configs budget_policies "
    "sql_assessment_daily_rollups sql_span_cost_daily_rollups sql_trace_metric_daily_rollups "
    "sql_trace_rollup_rebuild_queue"
).split()
COMPUTED = "sql_"
# names that an experiment or a dataset has once: columns, id, and what belongs to such a row by which column
ONCE = (
    ("scorers", ("experiment_id", "scorer_name"), "scorer_id", (("scorer_versions", "scorer_id"),)),
    ("label_schemas", ("experiment_id", "name"), "schema_id", (("review_queue_label_schemas", "schema_id"),)),
    (
        "review_queues",
        ("experiment_id", "name_key"),
        "queue_id",
        tuple(
            (name, "queue_id") for name in ("review_queue_items", "review_queue_label_schemas", "review_queue_users")
        ),
    ),
    ("evaluation_dataset_records", ("dataset_id", "input_hash"), "dataset_record_id", ()),
)


@dataclass
class Plan:
    """``numbers``: the id here of each experiment; ``reserved``: those among them that are new, by what they were
    reserved for; ``stale``: those that were reserved and are no experiment's; ``existing``: ids here of experiments
    that were here before; ``remarks``: what to tell."""

    numbers: dict[int, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    existing: set[int] = field(default_factory=set)
    stale: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def plan(
    staging: sqlite3.Connection, ask: Ask, reserve: Callable[[], int], reserved: dict[str, int], merge: bool
) -> Plan:
    """Give everything in the staging database its place: rows there are renamed, renumbered and have new locations.

    ``reserve`` gives a number that no experiment here has or gets; ``reserved``: what an interrupted import had.
    """
    result = Plan()
    tables = {row[0] for row in staging.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    _leave_out(staging, tables, result.remarks)
    staging.execute("CREATE TABLE trackbed_known (kind TEXT, id TEXT, PRIMARY KEY (kind, id))")
    homes = _homes(staging, ask)
    _place_experiments(staging, ask, homes, reserve, reserved, merge, result)
    _place_models(staging, ask, merge, result)
    locations.rewrite(staging, result.numbers, _held(ask))
    if result.existing:  # they are no copies of the source's
        back = {new: str(old) for old, new in result.numbers.items()}
        staging.executemany(
            "DELETE FROM experiment_tags WHERE key = ? AND experiment_id = ? AND value = ?",
            [(locations.ORIGINAL, number, back[number]) for number in sorted(result.existing)],
        )
    _same_datasets(staging, ask)
    _once(staging, ask, tables, result.remarks)
    staging.commit()
    return result


def blocks(rows: Iterable[Sequence[Any]]) -> Iterator[list[tuple[Any, ...]]]:
    block: list[tuple[Any, ...]] = []
    for row in rows:
        block.append(tuple(row))
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _held(ask: Ask) -> dict[locations.Version, locations.Held]:
    """Where versions here have files of their own."""
    below = f"{locations.OWN}{locations.REGISTRY}"
    listed = "SELECT workspace, name, version, coalesce(source, ''), coalesce(storage_location, '') FROM model_versions"
    rows = ask(f"{listed} WHERE source LIKE '{below}%' OR storage_location LIKE '{below}%'")

    def folder(uri: str) -> str:
        return "/".join(uri.removeprefix(locations.OWN).split("/")[:3]) if uri.startswith(below) else ""

    return {(row[0], row[1], row[2]): (folder(row[3]), folder(row[4])) for row in rows}


def _leave_out(staging: sqlite3.Connection, tables: set[str], remarks: list[str]) -> None:
    for table in LEFT:
        if table in tables:
            gone = staging.execute(f'DELETE FROM "{table}"').rowcount
            if gone and not table.startswith(COMPUTED):
                remarks.append(f"left out: {gone} rows of {table}, which act by themselves or hold the other's secrets")


def _homes(staging: sqlite3.Connection, ask: Ask) -> dict[int, int]:
    """The experiments here that have what an experiment of the source has; notes what is known."""
    votes: dict[int, Counter[int]] = {}
    for table, column, kind in HOMES:
        for block in blocks(staging.execute(f"SELECT {column}, experiment_id FROM {table}")):
            origin = dict(block)
            known = ask(
                f"SELECT t.{column}, t.experiment_id FROM {table} t JOIN (VALUES %s) AS v ON t.{column} = v.column1",
                [(identity,) for identity in origin],
            )
            for identity, home in known:
                votes.setdefault(origin[identity], Counter())[home] += 1
            staging.executemany("INSERT INTO trackbed_known VALUES (?, ?)", [(kind, one) for one, _ in known])
    return {number: counter.most_common(1)[0][0] for number, counter in votes.items()}


def _free(name: str, taken: set[str]) -> str:
    for number in count(1):
        suffix = SUFFIX if number == 1 else f"{SUFFIX}-{number}"
        result = name[: LONGEST - len(suffix)] + suffix
        if result not in taken:
            return result
    raise AssertionError("numbers do not end")


def _is_name_of(name: str, other: str) -> bool:
    """Whether ``other`` may be what ``name`` became in an earlier import."""
    return other == name or other.startswith(name[: LONGEST - len(SUFFIX) - 4] + SUFFIX)


def _holders(staging: sqlite3.Connection, tables: Iterable[str]) -> set[int]:
    """Experiments of the source that have anything but tags."""
    result: set[int] = set()
    for table in tables:
        if table in ("experiments", "experiment_tags") or table.startswith("trackbed_"):
            continue
        if "experiment_id" in (row[1] for row in staging.execute(f'PRAGMA table_info("{table}")')):
            found = staging.execute(f'SELECT DISTINCT experiment_id FROM "{table}"')
            result |= {row[0] for row in found if row[0] is not None}
    return result


def _place_experiments(
    staging: sqlite3.Connection,
    ask: Ask,
    homes: dict[int, int],
    reserve: Callable[[], int],
    reserved: dict[str, int],
    merge: bool,
    result: Plan,
) -> None:
    here = {
        row[0]: row[1:]
        for row in ask("SELECT experiment_id, name, workspace, creation_time, lifecycle_stage FROM experiments")
    }
    names = {(workspace, name): number for number, (name, workspace, _, _) in here.items()}
    made: dict[tuple[str, int | None], list[int]] = {}
    for number, (_, workspace, at, _) in here.items():
        made.setdefault((workspace, at), []).append(number)
    tables = [row[0] for row in staging.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    holders = _holders(staging, tables)
    taken: dict[str, set[str]] = {}
    for workspace, name in names:
        taken.setdefault(workspace, set()).add(name)
    again = 0
    listed = "SELECT experiment_id, name, workspace, creation_time, lifecycle_stage FROM experiments ORDER BY 1"
    rows = staging.execute(listed).fetchall()
    for _, name, workspace, *_ in rows:  # no other one gets a name that this source has
        taken.setdefault(workspace, set()).add(name)
    for number, name, workspace, at, stage in rows:
        home = homes.get(number)
        if home is None and (at is not None or number not in holders):  # old clients noted no time
            same = [one for one in made.get((workspace, at), ()) if _is_name_of(name, here[one][0])]
            home = same[0] if same else None
        if home is not None:
            again += 1
            if here[home][3] == "deleted" and stage != "deleted":
                result.remarks.append(f"experiment {here[home][0]!r} is deleted in this project, and stays so")
            _join(staging, number, home, result)
            continue
        other = names.get((workspace, name))
        if number == 0 and number not in holders and other is not None:
            staging.execute("DELETE FROM experiment_tags WHERE experiment_id = 0")
            staging.execute("DELETE FROM experiments WHERE experiment_id = 0")
            continue  # every MLflow makes one, and this one is empty
        if other is not None and (merge or _is_empty_default(ask, other)) and here[other][3] == stage:
            result.remarks.append(f"experiment {name!r} is merged with the one of this project")
            _join(staging, number, other, result)
            continue
        if other is not None:
            new = _free(name, taken[workspace])
            taken[workspace].add(new)
            staging.execute("UPDATE experiments SET name = ? WHERE experiment_id = ?", (new, number))
            result.remarks.append(f"experiment {name!r} becomes {new!r}, because this project has one of that name")
        key = hashlib.sha256(repr((number, name, workspace, at)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        chosen = reserved.get(key)
        result.reserved[key] = result.numbers[number] = reserve() if chosen is None or chosen in here else chosen
    result.stale = sorted(set(reserved.values()) - set(result.reserved.values()) - here.keys())
    if again:
        result.remarks.append(f"experiments that are here already: {again}; what is new in them comes")


def _is_empty_default(ask: Ask, number: int) -> bool:
    if number != 0:
        return False
    held = " UNION ALL ".join(f"SELECT 1 FROM {table} WHERE experiment_id = 0" for table, _, _ in HOMES)
    return not ask(f"SELECT 1 FROM ({held}) held LIMIT 1")


def _join(staging: sqlite3.Connection, number: int, home: int, result: Plan) -> None:
    """What the experiment has comes into one that is here, which stays as it is."""
    for other in [old for old, new in result.numbers.items() if new == home]:  # of two, each key comes once
        staging.execute("DELETE FROM experiment_tags WHERE experiment_id = ?", (number,))
        same = (
            "SELECT a.dataset_uuid, b.dataset_uuid FROM datasets a JOIN datasets b USING (name, digest) "
            "WHERE a.experiment_id = ? AND b.experiment_id = ?"
        )
        for kept, gone in staging.execute(same, (other, number)).fetchall():
            staging.execute(
                "UPDATE inputs SET source_id = ? WHERE source_type = 'DATASET' AND source_id = ?", (kept, gone)
            )
            staging.execute("UPDATE logged_model_metrics SET dataset_uuid = ? WHERE dataset_uuid = ?", (kept, gone))
            staging.execute("DELETE FROM datasets WHERE experiment_id = ? AND dataset_uuid = ?", (number, gone))
    result.numbers[number] = home
    result.existing.add(home)
    staging.execute("DELETE FROM experiments WHERE experiment_id = ?", (number,))


def _place_models(staging: sqlite3.Connection, ask: Ask, merge: bool, result: Plan) -> None:
    here = {(row[0], row[1]): row[2] for row in ask("SELECT workspace, name, creation_time FROM registered_models")}
    made: dict[tuple[str, int], list[str]] = {}
    taken: dict[str, set[str]] = {}
    for (workspace, name), at in here.items():
        taken.setdefault(workspace, set()).add(name)
        if at is not None:
            made.setdefault((workspace, at), []).append(name)
    listed = f"SELECT workspace, name FROM registered_model_tags WHERE key = '{IS_PROMPT}'"
    prompts, theirs = set(ask(listed)), set(staging.execute(listed))
    again, used = 0, set[tuple[str, str]]()
    rows = staging.execute("SELECT workspace, name, creation_time FROM registered_models ORDER BY 1, 2").fetchall()
    for workspace, name, _ in rows:
        taken.setdefault(workspace, set()).add(name)
    for workspace, name, _ in rows:  # a name may be an old and a new one
        _rename_model(staging, workspace, name, OLD + name)
    for workspace, name, at in rows:
        word = "prompt" if (workspace, name) in theirs else "registered model"
        same = [one for one in made.get((workspace, at), ()) if _is_name_of(name, one)] if at is not None else []
        found = same or _model_homes(staging, ask, workspace, name)
        homes = [one for one in found if (workspace, one) not in used]  # two that share versions are two here as well
        if homes:
            again += 1
            used.add((workspace, homes[0]))
            _join_model(staging, ask, workspace, OLD + name, homes[0], bool(same))
        elif (workspace, name) not in here:
            _rename_model(staging, workspace, OLD + name, name)
        elif (
            merge and (workspace, name) not in used and ((workspace, name) in prompts) == ((workspace, name) in theirs)
        ):
            used.add((workspace, name))
            moved = _join_model(staging, ask, workspace, OLD + name, name, False)
            result.remarks.append(f"{word} {name!r} is merged with the one of this project; {moved}")
        else:
            new = _free(name, taken[workspace])
            taken[workspace].add(new)
            _rename_model(staging, workspace, OLD + name, new)
            result.remarks.append(f"{word} {name!r} becomes {new!r}, because this project has one of that name")
    if again:
        result.remarks.append(f"registered models and prompts that are here already: {again}")


def _model_homes(staging: sqlite3.Connection, ask: Ask, workspace: str, name: str) -> list[str]:
    """The models here that got versions of this one in an earlier import, the most likely first."""
    votes: Counter[str] = Counter()
    listed = "SELECT creation_time, coalesce(run_id, '') FROM model_versions WHERE workspace = ? AND name = ?"
    found = staging.execute(f"{listed} AND creation_time IS NOT NULL", (workspace, OLD + name)).fetchall()
    for block in blocks(found):
        known = ask(
            "SELECT m.workspace, m.name FROM model_versions m JOIN (VALUES %s) AS v ON "
            "m.creation_time = v.column1 AND coalesce(m.run_id, '') = v.column2",
            block,
        )
        votes.update(other for place, other in known if place == workspace and _is_name_of(name, other))
    return [other for other, _ in votes.most_common()]


def _rename_model(staging: sqlite3.Connection, workspace: str, name: str, new: str) -> None:
    for table in (
        "registered_models",
        "registered_model_tags",
        "registered_model_aliases",
        "model_versions",
        "model_version_tags",
    ):
        staging.execute(f"UPDATE {table} SET name = ? WHERE workspace = ? AND name = ?", (new, workspace, name))


def _join_model(staging: sqlite3.Connection, ask: Ask, workspace: str, name: str, home: str, same: bool) -> str:
    """Versions of a model of the source become those of one that is here. Gives their new numbers in words."""
    rows = ask(
        "SELECT m.version, m.creation_time, m.run_id FROM model_versions m JOIN (VALUES %s) AS v "
        "ON m.workspace = v.column1 AND m.name = v.column2",
        [(workspace, home)],
    )
    numbers = {row[0] for row in rows}
    known: dict[tuple[int, str], list[int]] = {}
    for version, at, run in sorted(rows):
        if at is not None:
            known.setdefault((at, run or ""), []).append(version)
    moves: dict[int, int] = {}
    listed = "SELECT version, creation_time, run_id FROM model_versions WHERE workspace = ? AND name = ? ORDER BY 1"
    for version, at, run in staging.execute(listed, (workspace, name)).fetchall():
        if found := known.get((at, run or "")):  # of several that were made at once each is one
            moves[version] = version if version in found else found[0]
            found.remove(moves[version])
            staging.execute("INSERT OR IGNORE INTO trackbed_known VALUES ('version', ?)", (f"{home} {moves[version]}",))
            continue
        moves[version] = version if same and version not in numbers else max(numbers, default=0) + 1
        numbers.add(moves[version])
    staging.execute("DELETE FROM registered_models WHERE workspace = ? AND name = ?", (workspace, name))
    for table in ("model_versions", "model_version_tags", "registered_model_aliases"):
        where = f"UPDATE {table} SET version = ? WHERE workspace = ? AND name = ? AND version = ?"
        # in two steps, because a number may be an old and a new one
        staging.executemany(where, [(-new, workspace, name, old) for old, new in moves.items()])
        staging.executemany(where, [(new, workspace, name, -new) for new in moves.values()])
    _rename_model(staging, workspace, name, home)
    return ", ".join(f"version {old} is {new}" for old, new in moves.items()) or "it has no versions"


def _same_datasets(staging: sqlite3.Connection, ask: Ask) -> None:
    """A dataset of an experiment is one by its name and digest; a reader of file stores gives it a new id each time."""
    listed = "SELECT experiment_id, name, digest, dataset_uuid FROM datasets"
    moved: list[tuple[str, str]] = []
    for block in blocks(staging.execute(listed)):
        own = {row[:3]: row[3] for row in block}
        known = ask(
            "SELECT d.experiment_id, d.name, d.digest, d.dataset_uuid FROM datasets d JOIN (VALUES %s) AS v ON "
            "d.experiment_id = v.column1 AND d.name = v.column2 AND d.digest = v.column3",
            list(own),
        )
        moved += [(new, own[tuple(key)]) for *key, new in known if own[tuple(key)] != new]
    staging.executemany("UPDATE datasets SET dataset_uuid = ? WHERE dataset_uuid = ?", moved)
    staging.executemany("UPDATE inputs SET source_id = ? WHERE source_type = 'DATASET' AND source_id = ?", moved)
    staging.executemany("UPDATE logged_model_metrics SET dataset_uuid = ? WHERE dataset_uuid = ?", moved)
    key, moved = "source_type, source_id, destination_type, destination_id", []
    for block in blocks(staging.execute(f"SELECT {key}, input_uuid FROM inputs")):
        own = {row[:4]: row[4] for row in block}
        matches = " AND ".join(f"i.{column} = v.column{at}" for at, column in enumerate(key.split(", "), 1))
        known = ask(f"SELECT {key}, i.input_uuid FROM inputs i JOIN (VALUES %s) AS v ON {matches}", list(own))
        moved += [(new, own[tuple(place)]) for *place, new in known if own[tuple(place)] != new]
    for table in ("inputs", "input_tags"):
        staging.executemany(f"UPDATE {table} SET input_uuid = ? WHERE input_uuid = ?", moved)


def _once(staging: sqlite3.Connection, ask: Ask, tables: set[str], remarks: list[str]) -> None:
    """What an experiment or a dataset has once by its name, and the project has already with another id."""
    for table, columns, identity, below in ONCE:
        if table not in tables:
            continue
        matches = " AND ".join(f"t.{column} = v.column{at}" for at, column in enumerate(columns, 1))
        gone: list[tuple[Any, ...]] = []
        for block in blocks(staging.execute(f"SELECT {', '.join(columns)}, {identity} FROM {table}")):
            own = {row[:-1]: row[-1] for row in block if None not in row}
            if not own:
                continue
            known = ask(
                f"SELECT {', '.join(f't.{column}' for column in columns)}, t.{identity} FROM {table} t "
                f"JOIN (VALUES %s) AS v ON {matches}",
                list(own),
            )
            gone += [(own[tuple(key)],) for *key, other in known if own[tuple(key)] != other]
        for name, column in ((table, identity), *below):
            staging.executemany(f"DELETE FROM {name} WHERE {column} = ?", gone)
        if gone:
            remarks.append(f"left out: {len(gone)} rows of {table}, because this project has others of these names")
