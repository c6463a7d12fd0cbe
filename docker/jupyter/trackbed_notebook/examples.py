"""The welcome notebook and the examples: into a new workspace as JupyterLab starts, and beside it what is newer.

It runs as the notebook's account, on every engine, as an extension of Jupyter's server or as a command. Each file is
opened from the folder above it and no link is followed, so that only what it has made itself is ever replaced. What it
gave is in a note in the workspace: a file that its user has deleted does not come back by itself.

    python -m trackbed_notebook.examples WORKSPACE      brings what is missing or newer; a JSON line for each file:
                                                        [NAME, OUTCOME, NAME OF THE NEW FILE BESIDE IT]
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OFFERED = Path(__file__).parent / "workspace"
HIDDEN = ".trackbed-"  # backups leave it out
NOTE = HIDDEN + "examples"
NO_FILES = (".ipynb_checkpoints", "lost+found")  # a workspace with no more than these is new
LARGEST = 2**22  # bytes; a larger file is a user's
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# what became of a file; helpers/examples.py tells the user
ADDED, CURRENT, UPDATED, BESIDE, CHANGED, BLOCKED = "added", "current", "updated", "beside", "changed", "blocked"
MISSING, OTHER = "", "other"  # in the place of a sum: no entry of that name, or no file that could be one of ours


def offered() -> dict[str, bytes]:
    """What there is to give, by its path in a workspace."""
    return {path.relative_to(OFFERED).as_posix(): path.read_bytes() for path in sorted(OFFERED.rglob("*.ipynb"))}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_new(root: int) -> bool:
    """Whether nobody has put anything into a workspace yet."""
    return all(name.startswith(HIDDEN) or name in NO_FILES for name in os.listdir(root))


@dataclass
class Note:
    """The sums of what a workspace was given, by path; ``whole``: all of it, without an interruption."""

    files: dict[str, str] = field(default_factory=dict)
    whole: bool = True


class Workspace:
    """A workspace's folder, by descriptors."""

    def __init__(self, root: int) -> None:
        self.root = root

    def note(self) -> Note | None:
        """What the workspace says of itself, None where it says nothing. Its user may have changed it."""
        try:
            content = self._content(self.root, NOTE)
        except FileNotFoundError:
            return None
        except OSError:
            return Note()
        with suppress(ValueError, RecursionError, AttributeError):
            said = json.loads(content)
            files = {str(path): str(mark) for path, mark in said.get("files", {}).items()}
            return Note(files, said.get("whole") is not False)
        return Note()

    def keep(self, note: Note) -> None:
        with self._written(json.dumps(note.__dict__, indent=1).encode()) as temporary:
            os.rename(temporary, NOTE, src_dir_fd=self.root, dst_dir_fd=self.root)

    def sum(self, path: str) -> str:
        """The sum of a file's content, or MISSING, or OTHER."""
        try:
            with self._above(path) as (folder, name):
                return digest(self._content(folder, name))
        except FileNotFoundError:
            return MISSING
        except OSError:
            return OTHER

    def add(self, path: str, content: bytes) -> bool:
        """Write a file whose name is free; False where it is not, or where its folder is none."""
        try:
            with self._above(path, make=True) as (folder, name), self._written(content) as temporary:
                try:
                    os.link(temporary, name, src_dir_fd=self.root, dst_dir_fd=folder, follow_symlinks=False)
                except FileExistsError:
                    return False
                except OSError:  # a file system without hard links
                    with os.fdopen(os.open(name, CREATE, 0o666, dir_fd=folder), "wb") as stream:
                        stream.write(content)
            return True
        except (FileExistsError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno == errno.ELOOP:
                return False
            raise

    def replace(self, path: str, content: bytes) -> None:
        """Another content under a name that has what `add` wrote."""
        with self._above(path) as (folder, name), self._written(content) as temporary:
            os.rename(temporary, name, src_dir_fd=self.root, dst_dir_fd=folder)

    @contextmanager
    def _above(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that a file is in, and its name there."""
        *folders, name = path.split("/")
        handle = os.dup(self.root)
        try:
            for part in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                inner = os.open(part, FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle, name
        finally:
            os.close(handle)

    @staticmethod
    def _content(folder: int, name: str) -> bytes:
        """Raises OSError for what is no file, or too large for one of ours."""
        with os.fdopen(os.open(name, LOOK, dir_fd=folder), "rb") as stream:
            content = stream.read(LARGEST + 1) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else None
        if content is None or len(content) > LARGEST:
            raise OSError(f"{name} is none of ours")
        return content

    @contextmanager
    def _written(self, content: bytes) -> Iterator[str]:
        """A new file with a hidden name, which is gone at the end: a name has the whole content or none."""
        temporary = f"{NOTE}-{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(temporary, CREATE, 0o666, dir_fd=self.root), "wb") as stream:
                stream.write(content)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self.root)


@contextmanager
def opened(folder: str) -> Iterator[Workspace]:
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # who names a link as workspace means it
    try:
        yield Workspace(root)
    finally:
        os.close(root)


def give(folder: str) -> list[str]:
    """Fill a new workspace, or go on with one whose filling was interrupted. Gives the names of what was written."""
    with opened(folder) as workspace:
        note = workspace.note()
        if note is None and is_new(workspace.root):
            note = Note(whole=False)
            workspace.keep(note)  # first: with it the workspace is not new, and not whole
        if note is None or note.whole:
            return []
        given = []
        for path, content in offered().items():
            if path not in note.files and workspace.add(path, content):
                note.files[path] = digest(content)
                given.append(path)
        note.whole = True
        workspace.keep(note)
        return given


def bring(folder: str) -> list[tuple[str, str, str]]:
    """Bring what is missing or newer; gives each file's name, what became of it, and that of a new one beside it."""
    with opened(folder) as workspace:
        note = workspace.note() or Note()
        result = []
        for path, content in offered().items():
            outcome, beside = _bring(workspace, note, path, content)
            result.append((path, outcome, beside))
        note.whole = True
        workspace.keep(note)
        return result


def _bring(workspace: Workspace, note: Note, path: str, content: bytes) -> tuple[str, str]:
    newest, given, there = digest(content), note.files.get(path), workspace.sum(path)
    outcome, beside = CURRENT, ""
    if there == MISSING:
        outcome = ADDED if workspace.add(path, content) else BLOCKED
    elif there == newest:
        pass
    elif there == given:
        workspace.replace(path, content)
        outcome = UPDATED
    elif given == newest:
        return CHANGED, ""  # it was given what there is, and has no newer one to see
    else:
        beside = _beside(workspace, note, path, content)
        outcome = BESIDE if beside else BLOCKED
    if outcome != BLOCKED:
        note.files[path] = newest
    return outcome, beside


def _beside(workspace: Workspace, note: Note, path: str, content: bytes) -> str:
    """Write the new version of a file that its user has changed under another name; "" where that cannot be."""
    stem, dot, suffix = path.rpartition(".")
    for number in range(1, 100):
        name = f"{stem}-new{f'-{number}' if number > 1 else ''}{dot}{suffix}"
        there = workspace.sum(name)
        if there == note.files.get(name) and there not in (MISSING, OTHER):
            workspace.replace(name, content)  # an earlier one that nobody has touched
        elif there != digest(content) and not (there == MISSING and workspace.add(name, content)):
            continue
        note.files[name] = digest(content)
        return name
    return ""


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter's server calls as it starts. JupyterLab is there also where nothing can be given."""
    try:
        if given := give(server.root_dir):
            server.log.info("A new workspace: %s", ", ".join(given))
    except OSError as error:
        server.log.warning("The examples could not be put into the workspace: %s", error)


def main(folder: str) -> None:
    try:
        for line in bring(folder):
            sys.stdout.write(json.dumps(line) + "\n")
    except OSError as error:
        raise SystemExit(f"{error.filename or folder}: {error.strerror}") from None


if __name__ == "__main__":
    main(*sys.argv[1:])
