"""`invoke data.add`, `data.list` and `data.remove`: what they do, on the engine's volume of data sets."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.data import folder_walk, sent_program
from helpers.data.checksum import SetSum
from helpers.data.workspace_files import PYTHON, Reader, finish
from helpers.datasets import download, layout, sources
from helpers.datasets.layout import Layout
from helpers.datasets.sources import Source
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.engines.data_volume import DataVolume
from helpers.engines.streaming import Input, Pipe, ticking
from helpers.errors import TrackbedError
from helpers.imports.sources import File
from helpers.project import state
from helpers.project.project import Project
from helpers.services import JUPYTER, Notice, ProgressReporter, State
from helpers.sizes import mib
from helpers.suggestions import shown

WALK, SCRIPT = Path(folder_walk.__file__), Path(__file__).with_name("volume_script.py")
KEPT_FREE = 512 * 2**20  # bytes of the volume's disk
BLOCK = 4096  # bytes that a file takes at least
SMALL = 8 * 2**20  # a file that is compared with what an earlier try has written, before it is sent again
CHUNK = 2**20
UNKNOWN = 2**62


@dataclass(frozen=True)
class DataSet:
    """A folder of the volume. ``note``: what was written down when it was added, {} for one that Trackbed did not."""

    folder: str
    files: int
    size: int
    note: dict[str, Any]
    path: str  # as the notebook sees it

    @property
    def name(self) -> str:
        return str(
            self.note.get("name") or next((n for n, f in layout.FOLDERS.items() if f == self.folder), self.folder)
        )

    @property
    def whole(self) -> bool:
        """Whether it has as many files and bytes as were added."""
        return not self.note or (self.files, self.size) == (self.note.get("files"), self.note.get("bytes"))


@dataclass(frozen=True)
class Listing:
    """What a volume has. ``unfinished``: folders whose filling was interrupted."""

    where: str
    sets: tuple[DataSet, ...] = ()
    unfinished: tuple[str, ...] = ()
    free: int = 0

    def find(self, folder: str) -> DataSet | None:
        return next((one for one in self.sets if one.folder == folder), None)


@dataclass(frozen=True)
class Added:
    """``new``: whether it was not there before. ``restart``: whether the notebook sees it after the next `up` only."""

    set: DataSet
    new: bool
    restart: bool = False
    layout: Layout | None = None
    sha256: str = ""


def listing(project: Project, progress: ProgressReporter) -> Listing:
    """The data sets of the project's engine. Changes nothing. Raises TrackbedError."""
    return _listed(select.choose(project).engine.data_volume(), progress)


def _listed(volume: DataVolume, progress: ProgressReporter) -> Listing:
    if not volume.exists():
        return Listing(volume.words)
    progress.step(f"looking at {volume.words}")
    volume.make(0, progress)
    found, unfinished = [], []
    with _script(volume, "list") as (_, reader):
        while (line := reader.line())[0] != "free":
            if line[0] == "left":
                unfinished.append(str(line[1]))
            else:
                folder = shown(str(line[1]), 100)
                path = f"{volume.inside}/{folder}"
                found.append(DataSet(folder, int(line[2]), int(line[3]), _note(line[4]), path))
        reader.end()
    return Listing(volume.words, tuple(found), tuple(unfinished), int(line[1]))


def _note(text: object) -> dict[str, Any]:
    try:
        result = json.loads(str(text))
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}


class Told(Reader):
    """The answers of the volume's program, without the words that only say that it is at work."""

    def line(self) -> list[Any]:
        while (line := super().line())[0] == "busy":
            pass
        return line

    def end(self) -> None:
        finish(self._pipe, fail=self._fail)


@contextmanager
def _script(volume: DataVolume, *words: str) -> Iterator[tuple[Pipe, Told]]:
    text = sent_program.joined(WALK, SCRIPT)
    with volume.pipe((*PYTHON, str(len(text)), volume.root, *words)) as pipe:
        try:
            pipe.into.write(text)
            pipe.into.flush()
        except BrokenPipeError:
            pass  # finish tells why

        def fail(why: str) -> TrackbedError:
            return TrackbedError(f"{volume.words}: {why}", "nothing was changed; run the same command again")

        yield pipe, Told(pipe, UNKNOWN, fail)


def add(project: Project, word: str, text: str, sha256: str, progress: ProgressReporter, notice: Notice) -> Added:
    """A data set from a source into the volume; nothing where it is there. Raises TrackbedError."""
    name, folder = layout.name_of(word)
    chosen = sources.source(text, project.settings)
    if sha256 and not chosen.archive:
        raise TrackbedError(f"--sha256 has no effect: {chosen.shown} is not one file", "leave --sha256 out")
    engine = select.choose(project).engine
    volume = engine.data_volume()
    with _downloads(project, folder, notice) as kept:
        there = _listed(volume, progress).find(folder)
        mark = chosen.mark()
        if there is not None:
            again = f"`invoke data.remove {name}{volume_flag(project)}` first, then the same command again"
            return Added(
                _same(there, name, chosen, mark, sha256, again), new=False, sha256=str(there.note.get("sha256", ""))
            )
        summed = chosen.ready(kept, progress, sha256)
        progress.step(f"looking at the files of {chosen.shown}")
        listed = sources.names(chosen, UNKNOWN)
        arranged = layout.arrange(name, chosen.shown, (path for path, _ in listed))
        sizes = {arranged.targets[path]: size for path, size in listed if path in arranged.targets}
        needed = sum(max(size, BLOCK) for size in sizes.values())
        new_volume = not volume.exists()
        volume.make(needed, progress)
        note = {
            "name": name,
            "from": chosen.shown,
            "mark": mark,
            "sha256": summed,
            "files": len(sizes),
            "bytes": sum(sizes.values()),
            "classes": arranged.classes,
            "splits": arranged.splits,
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _fill(volume, folder, chosen, arranged.targets, sizes, needed, note, progress)
        chosen.done()
    done = DataSet(folder, len(sizes), sum(sizes.values()), note, f"{volume.inside}/{folder}")
    return Added(done, True, new_volume and _notebook_runs(project, engine), arranged, summed)


@contextmanager
def _downloads(project: Project, folder: str, notice: Notice) -> Iterator[Path]:
    """Where the archive of a data set lies, which one task of the project works on at a time."""
    kept = project.settings.folder / "downloads"
    with state.lock(kept / f".{folder}.lock", on_wait=notice):  # the dot: a data set may be called x.lock
        yield kept / folder


def _notebook_runs(project: Project, engine: Engine) -> bool:
    return project.state.existed and any(
        one.name == JUPYTER and one.state is not State.MISSING for one in engine.services()
    )


def volume_flag(project: Project) -> str:
    """What a next command needs to name the same volume, where this one's line named it."""
    settings = project.settings
    named = settings.origin("DATA_VOLUME").startswith("--")
    return f" --data-volume={shlex.quote(settings.data_volume)}" if named else ""


def _same(there: DataSet, name: str, chosen: Source, mark: str, sha256: str, again: str) -> DataSet:
    """What is there, where it is what was asked for."""
    if not there.note:
        raise TrackbedError(
            f"{there.path} is there already, and Trackbed did not put it there: {there.files} files", again
        )
    if not there.whole:
        raise TrackbedError(
            f"{there.path} has {there.files} of the {there.note.get('files')} files that were added, or others", again
        )
    of_sum = sha256 and sha256 == there.note.get("sha256")
    of_mark = not sha256 and there.note.get("from") == chosen.shown and mark and mark == there.note.get("mark")
    if not of_sum and not of_mark:
        raise TrackbedError(
            f"{name} is there already, from {shown(str(there.note.get('from')), 200)}"
            + (", which may have changed since" if there.note.get("from") == chosen.shown else ""),
            f"{again}; or give this one another name",
        )
    return there


def _fill(
    volume: DataVolume,
    folder: str,
    chosen: Source,
    targets: dict[str, str],
    sizes: dict[str, int],
    needed: int,
    note: dict[str, Any],
    progress: ProgressReporter,
) -> None:
    progress.step(f"looking at what {volume.words} has of it")
    with _script(volume, "add", folder) as (pipe, reader):
        written: dict[str, tuple[int, str]] = {}
        while (line := reader.line())[0] == "has":
            written[str(line[1])] = (int(line[2]), str(line[3]))
        if line[0] == "taken":
            raise TrackbedError(f"{folder} was added by somebody else meanwhile", "`invoke data` shows it")
        here = sum(max(size, BLOCK) for size, _ in written.values())
        if needed - here > line[1] - KEPT_FREE:
            raise TrackbedError(
                f"the data set needs {(needed - here) / 2**30:.2f} GiB, and {max(0, line[1] - KEPT_FREE) / 2**30:.2f} "
                f"GiB are free for it in {volume.words}",
                "free some disk there, or name a volume or folder on a larger one with --data-volume",
            )
        progress.step(f"filling {volume.words}")
        try:
            total = _send(pipe, chosen, targets, sizes, written, progress)
            pipe.into.write(json.dumps(["end", json.dumps(note), total.text]).encode() + b"\n")
        except BrokenPipeError:
            pass  # finish tells why
        pipe.close()
        with ticking(lambda seconds: progress.step(f"reading {len(sizes)} files back, for {seconds:.0f} s")):
            line = reader.line()
        reader.end()
    if line != ["done", len(sizes), sum(sizes.values())]:
        raise TrackbedError(f"{volume.words} has something else than was sent", "run the same command again")


def _send(
    pipe: Pipe,
    chosen: Source,
    targets: dict[str, str],
    sizes: dict[str, int],
    written: dict[str, tuple[int, str]],
    progress: ProgressReporter,
) -> SetSum:
    """The second walk: all files, but those that an earlier try has written."""
    total, done, count, whole = SetSum(), 0, 0, sum(sizes.values())
    for file in chosen.walk(UNKNOWN):
        if (target := targets.get(file.path)) is None:
            continue
        if file.size != sizes[target]:
            raise _changed(chosen)
        had, had_sum = written.get(target, (-1, ""))
        content = file.stream.read(file.size) if had == file.size and file.size <= SMALL else None
        if content is not None and hashlib.sha256(content).hexdigest() == had_sum:
            pipe.into.write(json.dumps(["keep", target]).encode() + b"\n")
            result = had_sum
        else:
            pipe.into.write(json.dumps(["file", target, file.size]).encode() + b"\n")
            result = _copy(file, content, pipe.into, chosen)
        total.add(result, file.size, target)
        done, count = done + file.size, count + 1
        progress.amount("files", done, whole, f"{count} of {len(sizes)}, {mib(done, 0)}")
    if count != len(sizes):
        raise _changed(chosen)
    return total


def _copy(file: File, content: bytes | None, into: Input, chosen: Source) -> str:
    """Gives the SHA-256."""
    total, left = hashlib.sha256(), file.size
    while left:
        data = content if content is not None else file.stream.read(min(left, CHUNK))
        if not data or len(data) > left:
            raise _changed(chosen)
        into.write(data)
        total.update(data)
        left -= len(data)
    return total.hexdigest()


def _changed(chosen: Source) -> TrackbedError:
    return TrackbedError(f"{chosen.shown} was changed while it was read", "stop what writes there, then try again")


def find(project: Project, word: str, progress: ProgressReporter) -> tuple[str, DataSet | None]:
    """What `remove` would remove: its folder, and None where only an interrupted filling is there. Raises
    TrackbedError where there is nothing."""
    _, folder = layout.name_of(word)
    listed = listing(project, progress)
    there = listed.find(folder)
    if there is None and folder not in listed.unfinished:
        known = ", ".join(one.name for one in listed.sets) or "none"
        raise TrackbedError(
            f"{listed.where} has no data set {word}; there: {known}", f"`invoke data{volume_flag(project)}` shows them"
        )
    return folder, there


def remove(project: Project, folder: str, progress: ProgressReporter) -> int:
    """A data set, what an interrupted filling left of it, and its download. Gives how many files went."""
    volume = select.choose(project).engine.data_volume()
    with _downloads(project, folder, progress.step) as kept:
        progress.step(f"removing {folder} from {volume.words}")
        with _script(volume, "remove", folder) as (_, reader):
            line = reader.line()
            reader.end()
        for path in (kept, download.note(kept)):
            path.unlink(missing_ok=True)
    return int(line[1])
