"""A file store (`mlruns`) that comes as a tar stream, read by MLflow's own migration into the staging database.

Nothing of it is on the disk for longer than MLflow needs it: 10^5 runs are millions of small files.
"""

from __future__ import annotations

import logging
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from trackbed_mlflow.errors import FAILED, Stop

BLOCK = 5000  # rows that are written at once
MODELS, TRASH = "models", ".trash"
# MLflow's own parts of a run that nothing reads again once the run was migrated
DONE = ("metrics", "params", "tags")


class Sink:
    """What MLflow's migration takes for its session: it adds entities, and they go into the database in blocks."""

    def __init__(self, connection: Any) -> None:
        from mlflow.store.tracking.dbmodels import models  # type: ignore[import-not-found]

        self._connection, self._models = connection, models
        self._blocks: dict[tuple[Any, tuple[str, ...]], list[dict[str, Any]]] = {}
        self._columns: dict[Any, dict[str, str]] = {}
        self._count = 0
        self._names: set[str] = set()
        self.renamed: list[str] = []
        self.in_trash = False

    def add(self, entity: Any) -> None:
        if isinstance(entity, self._models.SqlExperiment):
            self._name_once(entity)
            if self.in_trash:  # old clients moved a deleted experiment there, and wrote it nowhere
                entity.lifecycle_stage = "deleted"
        columns = self._columns_of(type(entity))
        row = {columns[name]: value for name, value in entity.__dict__.items() if name in columns}
        self._blocks.setdefault((type(entity), tuple(sorted(row))), []).append(row)
        self._count += 1
        if self._count >= BLOCK:
            self.flush()

    def _name_once(self, experiment: Any) -> None:
        """Old file stores may hold two experiments of one name, a database may not."""
        name = experiment.name
        if name in self._names:
            experiment.name = f"{name} ({experiment.experiment_id})"
            self.renamed.append(f"experiment {name!r} is there twice: the second one is {experiment.name!r} now")
        self._names.add(experiment.name)

    def _columns_of(self, kind: Any) -> dict[str, str]:
        """The names of an entity's columns, by its attributes."""
        import sqlalchemy

        if kind not in self._columns:
            attributes = sqlalchemy.inspect(kind).column_attrs
            self._columns[kind] = {one.key: one.columns[0].name for one in attributes}
        return self._columns[kind]

    def flush(self) -> None:
        for (kind, _), rows in self._blocks.items():
            statement = kind.__table__.insert()
            if kind is self._models.SqlMetric:
                # a file store holds a value as often as it was logged; a database once, as MLflow's server has it
                statement = statement.prefix_with("OR IGNORE")
            self._connection.execute(statement, rows)
        self._blocks, self._count = {}, 0

    def expunge_all(self) -> None:
        """Nothing is kept."""

    def forget_run(self, identity: str) -> None:
        """Take back what is there of a run that could not be read to its end."""
        self.flush()
        for kind in (self._models.SqlMetric, self._models.SqlLatestMetric, self._models.SqlParam, self._models.SqlTag):
            self._connection.execute(kind.__table__.delete().where(kind.__table__.c.run_uuid == identity))
        runs = self._models.SqlRun.__table__
        self._connection.execute(runs.delete().where(runs.c.run_uuid == identity))


class Warnings(logging.Handler):
    """What MLflow's migration leaves out and only logs."""

    def __init__(self, root: Path) -> None:
        super().__init__(logging.WARNING)
        self._root, self.lines = f"{root}/", list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().replace(self._root, ""))


class FileStore:
    """Takes the files of a store in order: all of an experiment together, and in it all of a run together."""

    def __init__(self, connection: Any, root: Path) -> None:
        from mlflow.store.fs2db import _tracking, _utils  # type: ignore[import-not-found]

        self._read, self._stats = _tracking, _utils.MigrationStats()
        self._sink, self._root = Sink(connection), root
        self._experiment, self._run = "", ""
        self._warnings = Warnings(root)
        self._problems: list[str] = []

    def read(self, stream: BinaryIO) -> None:
        """All of a tar stream."""
        logger = logging.getLogger("mlflow.store.fs2db")
        logger.addHandler(self._warnings)
        try:
            for name, content in files(stream):
                self._begin(*self._place(name))
                path = self._root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    shutil.copyfileobj(content, target, 2**20)
            self._begin("", "")
            self._registry()
            self._sink.flush()
        finally:
            logger.removeHandler(self._warnings)

    @property
    def remarks(self) -> list[str]:
        """What is not as it was, in lines."""
        return self._sink.renamed

    @property
    def unread(self) -> list[str]:
        """What could not be read, in lines."""
        return [*self._warnings.lines, *self._problems]

    @property
    def read_metrics(self) -> int:
        """How many values of metrics were read, with those that were logged twice."""
        return int(self._stats.metrics)

    def _place(self, name: str) -> tuple[str, str]:
        """The experiment's folder that a file belongs to, and the run's in it ("" none)."""
        words = name.split("/")
        top = 2 if words[0] == TRASH else 1
        if words[0] == MODELS:
            return MODELS, ""
        run = words[top] if len(words) > top + 1 and words[top] not in self._read.RESERVED_FOLDERS else ""
        return "/".join(words[:top]), run

    def _begin(self, experiment: str, run: str) -> None:
        """What comes belongs there: what was before is whole."""
        if (experiment, run) == (self._experiment, self._run):
            return
        if self._run:
            self._end_run()
        if experiment != self._experiment and self._experiment not in ("", MODELS):
            self._end_experiment()
        self._experiment, self._run = experiment, run

    def _end_run(self) -> None:
        folder = self._root / self._experiment / self._run
        if not (folder / "meta.yaml").is_file():
            return
        try:
            self._read._migrate_one_run(self._sink, folder, int(folder.parent.name), self._stats)
        except (ValueError, OSError, KeyError, TypeError) as error:
            self._sink.forget_run(self._run)
            self._problems.append(f"run {self._run}: {' '.join(str(error).split())}")
        for part in DONE:
            shutil.rmtree(folder / part, ignore_errors=True)

    def _end_experiment(self) -> None:
        folder = self._root / self._experiment
        number, read, sink, stats = int(folder.name), self._read, self._sink, self._stats
        sink.in_trash = folder.parent.name == TRASH
        read._migrate_one_experiment(sink, folder, folder.name, stats)
        read._migrate_datasets_for_experiment(sink, folder, number, stats)
        read._migrate_outputs_for_experiment(sink, folder, stats)
        read._migrate_traces_for_experiment(sink, folder, number, stats)
        read._migrate_assessments_for_experiment(sink, folder, number, stats)
        read._migrate_logged_models_for_experiment(sink, folder, number, stats)
        sink.flush()
        shutil.rmtree(folder)

    def _registry(self) -> None:
        from mlflow.store.fs2db import _registry

        for folder in _registry.list_registered_models(self._root):
            _registry._migrate_one_registered_model(self._sink, folder, self._stats)


def files(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of each file of the stream. Raises Stop for a stream that ends early or holds anything else."""
    ended = False
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=2**17, encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                if member.name == "end":
                    ended = True
                    continue
                name = member.name.removeprefix("o/")
                words = name.split("/")
                if ended or not member.isreg() or name == member.name or not {"", ".", ".."}.isdisjoint(words):
                    raise Stop(FAILED, f"{member.name!r} does not belong into a stream of files")
                content = tar.extractfile(member)
                assert content is not None
                yield name, cast("BinaryIO", content)
    except (tarfile.TarError, EOFError) as error:
        raise Stop(FAILED, f"the source's stream is damaged: {error}") from None
    if not ended:
        raise Stop(FAILED, "the source's stream ended early")
