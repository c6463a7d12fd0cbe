"""What Trackbed remembers about a project between commands, and the lock for changing it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers import files, machine_failures, waiting
from helpers.errors import TrackbedError

FORMAT = 1
FILE = "state.json"
LOCK = "lock"


def _denied(path: Path, error: OSError) -> TrackbedError:
    if isinstance(error, PermissionError):
        return TrackbedError(
            f"{path}: permission denied",
            "run as the user who made it (with sudo, perhaps), or choose a folder of your own with --state-dir",
        )
    return machine_failures.at(path, error)


class AtWork(TrackbedError):
    """Another command holds the lock."""


def make_folder(path: Path, private: bool = False) -> Path:
    """Make ``path`` and what is missing above it: 0700, or 0755 as root unless ``private``.

    As root the folder has to be passable: services run as other users below it.
    """
    mode = 0o755 if os.geteuid() == 0 and not private else 0o700
    try:
        if not path.parent.exists():
            make_folder(path.parent)
        try:
            path.mkdir(mode=mode)
            path.chmod(mode)  # the umask may have taken bits away
        except FileExistsError:
            if not path.is_dir():
                raise TrackbedError(
                    f"{path} is a file, must be a folder", f"move it away: mv {path} {path}.old"
                ) from None
    except OSError as error:
        raise _denied(path, error) from None
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step with a 0600 file; after a crash it is the old or the new."""
    try:
        files.replace(path, data)
        sync_folder(path.parent)
    except OSError as error:
        raise _denied(path, error) from None


def sync_folder(folder: Path) -> None:
    """What was renamed in it outlasts a power cut. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems know no fsync of a folder
            raise
    finally:
        os.close(handle)


@dataclass
class State:
    """One project's state. Change the fields, then ``save``; hold ``lock`` for it."""

    folder: Path
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    engine: str = ""
    node: str = ""  # ssh://... of the machine that runs it; "": this one
    clone: str = ""
    remembered: dict[str, str] = field(default_factory=dict)
    active: dict[str, str] = field(default_factory=lambda: {"database": "mlflow", "prefix": "live"})
    person: str = ""  # whose runs the notebook's are: who began the project
    access: dict[str, str] = field(default_factory=dict)  # what LOCAL_ACCESS=auto was decided to be, and for whom
    surroundings: dict[str, str] | None = None  # of the shell that started what runs (shell_environment.py)
    applied: dict[str, Any] = field(default_factory=lambda: {"hash": "", "identities": {}})
    existed: bool = field(default=False, compare=False)

    @classmethod
    def load(cls, folder: Path) -> State:
        """The state in ``folder``; a new one (not yet written) when there is none."""
        path = folder / FILE
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return cls(folder)
        except OSError as error:
            raise _denied(path, error) from None
        return cls(folder, existed=True, **_checked(path, data))

    def save(self) -> None:
        """Write it, whole or not at all."""
        make_folder(self.folder)
        content = {
            "format": FORMAT,
            "instance": self.instance,
            "engine": self.engine,
            "node": self.node,
            "clone": self.clone,
            "remembered": self.remembered,
            "live": self.active,  # its key since the first version
            "person": self.person,
            "access": self.access,
            **({} if self.surroundings is None else {"surroundings": self.surroundings}),
            "applied": self.applied,
        }
        write_private(self.folder / FILE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
        self.existed = True

    def remember(self, given: Mapping[str, str]) -> None:
        """Keep what this ``up`` was told; an empty value forgets an earlier one."""
        for name, value in given.items():
            if value:
                self.remembered[name] = value
            else:
                self.remembered.pop(name, None)


def _checked(path: Path, data: bytes) -> dict[str, Any]:
    """The known fields of a state file, or an error that says what to do."""

    def bad(why: str) -> TrackbedError:
        return TrackbedError(
            f"{path} {why}",
            f"move it away and run the same command again: mv {path} {path}.broken "
            "(databases and artifacts stay where they are)",
        )

    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise bad("is damaged or half-written") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise bad("is not a state file of Trackbed")
    if content["format"] > FORMAT:
        raise TrackbedError(f"{path} was written by a newer Trackbed", "update this clone: git pull")

    def texts(value: object) -> bool:
        return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())

    def applied(value: object) -> bool:
        return isinstance(value, dict) and isinstance(value.get("hash"), str) and texts(value.get("identities"))

    def text(value: object) -> bool:
        return isinstance(value, str)

    def active(value: object) -> bool:
        return isinstance(value, dict) and texts(value) and {"database", "prefix"} <= value.keys()

    known: dict[str, Any] = {}
    kinds: dict[str, Callable[[object], bool]] = {
        "instance": lambda value: isinstance(value, str) and bool(value),
        "engine": text,
        "clone": text,
        "remembered": texts,
        "live": active,
        "applied": applied,
    }
    for name, fits in kinds.items():
        if name not in content or not fits(content[name]):
            raise bad(f"is not a state file of Trackbed ({name} is missing or wrong)")
        known["active" if name == "live" else name] = content[name]
    # what earlier versions did not write
    later: dict[str, tuple[object, Callable[[object], bool]]] = {
        "node": ("", text),
        "person": ("", text),
        "access": ({}, texts),
        "surroundings": (None, lambda value: value is None or texts(value)),
    }
    for name, (default, fits) in later.items():
        known[name] = content.get(name, default)
        if not fits(known[name]):
            raise bad(f"is not a state file of Trackbed ({name} is wrong)")
    return known


def remembered(folder: Path) -> Mapping[str, str]:
    """What earlier ``up`` of the project in ``folder`` were told."""
    return State.load(folder).remembered


def of_clone(state_dir: Path, clone: Path) -> tuple[str, ...]:
    """The names of the projects in a state folder that run from a clone; `down` takes one from its clone."""
    result = []
    for path in sorted(state_dir.glob(f"*/{FILE}")):
        with suppress(TrackbedError):  # a damaged one is told by its own commands
            if State.load(path.parent).clone == str(clone):
                result.append(path.parent.name)
    return tuple(result)


def _holder(path: Path) -> str:
    try:
        content = json.loads(path.read_bytes())
        pid, command, since = int(content["pid"]), str(content["command"]), str(content["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another command"  # it is just writing its name
    return f"`{command}` (process {pid}, since {since})"


@contextmanager
def lock(
    path: Path,
    wait_seconds: float = 600,
    on_wait: Callable[[str], None] | None = None,
    command: str = "",
) -> Iterator[None]:
    """Hold the lock file ``path``; the kernel frees it however the holder ends.

    While another holds it, ``on_wait`` gets one line naming who; after ``wait_seconds`` AtWork does. Raises another
    TrackbedError where nobody can hold it.
    """
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _denied(path, error) from None
    try:
        _acquire(handle, path, wait_seconds, on_wait)
        words = command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        with suppress(OSError):  # a full disk: the lock holds without a name in it
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "command": words, "since": now}).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """The same without a wait; gives whether it is held now, False where another command holds it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path, wait_seconds=0))
        except AtWork:
            yield False
            return
        yield True


def _acquire(handle: int, path: Path, wait_seconds: float, on_wait: Callable[[str], None] | None) -> None:
    said = ""

    def acquired() -> bool:
        nonlocal said
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _denied(path, error) from None
            if on_wait is not None and (holder := _holder(path)) != said:
                on_wait(f"waiting for {holder}")
                said = holder
            return False
        return True

    if not acquired() and not waiting.until(acquired, wait_seconds, 0.2):
        raise AtWork(
            f"{_holder(path)} is still at work on this project (waited {wait_seconds:.0f} s)",
            "wait for it, or stop it with Ctrl-C where it runs",
        )
