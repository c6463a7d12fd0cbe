"""A bundle of all that a start needs, for a machine without a network: writing one, opening and checking one."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers import __version__, bundle_file, clone, process_table, safe_files, service_accounts, version
from helpers.bundle_file import Bundle, BundleError, Writer
from helpers.errors import TrackbedError
from helpers.machine import existing, free_space
from helpers.services import Notice, ProgressReporter, megabytes
from helpers.suggestions import shown

CHUNK = 1 << 20
SCRATCH = ".bundle-"  # then the process, and what makes it its own
AGAIN = "copy it again, and compare its SHA-256 with what `invoke bundle` printed"


def machine() -> str:
    """The kind of machine that a bundle is for, as in "linux x86_64"."""
    return f"{sys.platform} {platform.machine()}"


def lock_name(path: Path) -> str:
    """How a manifest names a file of requirements of this clone."""
    return path.resolve().relative_to(clone.ROOT.resolve()).as_posix()


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pieces(path: Path) -> Iterator[bytes]:
    """A file's content."""
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            yield data


class Packing:
    """A bundle that is being written into ``folder``. ``scratch``: for what goes into it, nobody else's to change.

    ``engines`` is what each engine says of its share, by its name.
    """

    def __init__(self, writer: Writer, folder: Path, scratch: Path, progress: ProgressReporter) -> None:
        self.writer, self.folder, self.scratch, self.progress = writer, folder, scratch, progress
        self.engines: dict[str, Mapping[str, Any]] = {}
        self.python = ""  # the minor version that the wheels are for, as in "3.13"

    def add(self, name: str, path: Path, runs: bool = False) -> None:
        """Put a file into it."""
        self.writer.add(name, path.stat().st_size, pieces(path), runs)

    def finish(self, gpu: str) -> None:
        """Write what the bundle says of itself, its end."""
        self.writer.finish(
            {
                "trackbed": __version__,
                "commit": version.commit(),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "gpu": gpu,
                "python": self.python,
                "engines": self.engines,
            }
        )


def _check_target(target: Path) -> None:
    if theirs := safe_files.of_account(target, service_accounts.services()):
        raise TrackbedError(
            f"{theirs} is a service's own: it could lead root's bundle elsewhere", "name a folder outside the workspace"
        )
    if target.is_dir():
        raise TrackbedError(f"--to={target} is a folder", f"name a file: --to={target / 'trackbed.bundle'}")
    if not target.parent.is_dir():
        raise TrackbedError(f"--to={target}: there is no folder {target.parent}", f"mkdir -p {target.parent}")
    if not os.path.lexists(target):
        return
    try:
        with opened(target):
            return
    except TrackbedError:
        raise TrackbedError(
            f"--to={target}: it exists already, and only a bundle would be replaced", "name another file"
        ) from None


@contextmanager
def packing(target: Path, work: Path, progress: ProgressReporter) -> Iterator[Packing]:
    """Write a bundle, which has its name only when it is whole and on the disk. Raises TrackbedError.

    ``work``: a folder that nobody else can change. Programs run in it: ``target`` may lie in anybody's.
    """
    _check_target(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with scratch_folder(work) as scratch:
            with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), "wb") as stream:
                yield Packing(Writer(stream), target.parent, scratch, progress)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
    except (OSError, BundleError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error)
        raise TrackbedError(
            f"{target} was not written: {reason}", "name a file on a disk with more room, that you may write to"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def scratch_folder(work: Path) -> Iterator[Path]:
    """A folder below ``work`` for as long as it is needed. What killed processes left there is removed."""
    for left in work.glob(f"{SCRATCH}*"):
        pid = left.name.removeprefix(SCRATCH).partition("-")[0]
        if not (pid.isdecimal() and process_table.alive(int(pid))):
            safe_files.remove(left)
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_room_to_pack(packing: Packing, size: int, what: str) -> None:
    """Raises TrackbedError where files of that size cannot be fetched, and then written: on two disks, or on one."""
    places = (existing(packing.scratch), existing(packing.folder))
    together = places[0].stat().st_dev == places[1].stat().st_dev
    for place in places[: 1 if together else 2]:
        require_room(place, 2 * size if together else size, what)


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raises TrackbedError where so many bytes do not fit on the disk of ``folder``."""
    free = free_space(existing(folder))
    if free < needed:
        raise TrackbedError(
            f"{what} needs {needed / 2**30:.1f} GiB at {folder}, {free / 2**30:.1f} GiB are free",
            "free some disk, or use a folder on a larger one",
        )


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle; what is raised about it while it is open becomes a message. Raises TrackbedError."""
    try:
        stream = bundle_file.opened(path)  # whose file it is does not matter, what its hash says does
    except OSError as error:
        raise TrackbedError(
            f"the bundle {path} cannot be opened: {error.strerror}", "name the file that `invoke bundle` wrote"
        ) from None
    try:
        with stream:
            yield Bundle(stream)
    except BundleError as error:
        raise TrackbedError(f"the bundle {path} was not used: {error}", AGAIN) from None


def verify(bundle: Bundle, name: str, progress: ProgressReporter) -> str:
    """Compare every hash; gives what to tell of the bundle. Raises BundleError."""
    progress.step(f"comparing the hashes of {len(bundle.entries)} files, {bundle.size / 2**20:.0f} MiB")
    bundle.verify(megabytes(progress, name))
    return f"bundle {name}: {words(bundle.manifest)}; SHA-256 {bundle.sha256}"


@contextmanager
def given(path: Path | None) -> Iterator[Bundle | None]:
    """The bundle that a start is given, open and not yet verified; None without one. Raises TrackbedError."""
    if path is None:
        yield None
        return
    with opened(path) as bundle:
        yield bundle


def admit(bundle: Bundle, name: str, progress: ProgressReporter, notice: Notice) -> None:
    """Compare the hashes of a bundle before it is used, and say what is to know of it. Raises BundleError."""
    notice(verify(bundle, name, progress))
    if other := other_version(bundle.manifest):
        notice(f"warning: {other}")


def require_machine(share: Mapping[str, Any], here: str) -> None:
    """Raises TrackbedError where an engine's share is for another kind of machine than ``here``."""
    if share.get("machine") != here:
        raise TrackbedError(
            f"the bundle is for {said(share.get('machine'))}, and this machine is {here}",
            "make one on a machine of this kind: `invoke bundle --to=FILE`",
        )


def said(value: object) -> str:
    """What a manifest says, short enough for a message: it may say anything."""
    return shown(str(value), 60)


def words(about: Mapping[str, Any]) -> str:
    """What a manifest says: versions, engines, GPU, date."""
    commit = f" ({said(about['commit'])})" if about.get("commit") else ""
    engines = about.get("engines")
    held = " and ".join(map(said, sorted(engines))) if isinstance(engines, dict) and engines else "no engine"
    return (
        f"Trackbed {said(about.get('trackbed'))}{commit}, for {held}, Python {said(about.get('python'))}, "
        f"GPU {said(about.get('gpu'))}, made {said(about.get('made'))}"
    )


def other_version(about: Mapping[str, Any]) -> str:
    """How the Trackbed that made a bundle differs from this one; "" where it does not."""
    here = version.commit()
    if (about.get("trackbed"), about.get("commit")) == (__version__, here):
        return ""
    return (
        f"it was made by Trackbed {said(about.get('trackbed'))} ({said(about.get('commit') or 'no commit')}), "
        f"and this is {__version__} ({here or 'no commit'})"
    )


def share(bundle: Bundle, engine: str) -> dict[str, Any]:
    """What an engine said of its share. Raises TrackbedError where the bundle has none for it."""
    engines = bundle.manifest.get("engines")
    if not isinstance(engines, dict) or not isinstance(engines.get(engine), dict):
        held = ", ".join(map(said, sorted(engines))) if isinstance(engines, dict) and engines else "none"
        raise TrackbedError(
            f"the bundle has nothing for the {engine} engine, only for: {held}",
            f"make one with it: `invoke bundle --to=FILE --engine={engine}`",
        )
    return dict(engines[engine])


__all__ = ["Bundle", "BundleError", "Packing", "bundle_file"]
