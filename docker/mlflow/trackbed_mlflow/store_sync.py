"""Syncs what VersityGW stored: a service beside the store's volume, as the store's own user.

VersityGW 1.8.0 keeps an object as a plain file of its name and its metadata as files in a folder of that name, and
calls fsync for neither. The MLflow server names an object here before it answers an upload. One JSON object per
connection, answered by one: {"bucket", "keys"} syncs objects, {"bucket", "removed"} notes a deletion, {"bucket",
"dropped"} removes a folder of objects, {"all"} syncs the whole file system (a restore), {"result"} gives what the last
check found. {"bucket", "list"} is answered by several: the names and sizes in one folder. No content is read out or
written for a caller. Each has the "token" of the secrets volume: other accounts of the machine reach this container,
too.
"""

from __future__ import annotations

import ctypes
import errno
import hmac
import itertools
import json
import os
import signal
import socketserver
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from trackbed_mlflow.artifact_lists import TURN_SECONDS
from trackbed_mlflow.durability import TOKEN_FILE, Folders, read_token, sync_files
from trackbed_mlflow.errors import FAILED, MISCONFIGURED, Stop, sync_path
from trackbed_mlflow.removed_objects import FOLDER, RemovedObjects
from trackbed_mlflow.write_journal import Journal

OBJECTS, SIDECAR, META = "objects", "sidecar", "meta"  # as compose.versitygw.yaml and VersityGW name them
ASKED = "asked-with-token"  # in the journal's folder: the server knows the token
PORT, LONGEST, AT_ONCE = 9002, 2**20, 32  # bytes of a request; requests that are served at the same time
LISTS = 4  # at the same time: they compute, and must not take the turns of what waits for the disk
IN_LINE = 1000  # names in one line of a list
UNLISTED = ".sgwtmp"  # what VersityGW keeps uploads in, and lists nowhere


def checked(name: object) -> str:
    """A bucket or key that stays below its folder. Raises ValueError."""
    if not isinstance(name, str) or "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"{name!r} is no name of an object")
    return name


class StoreSync:
    """What the service does with the volume at ``root``, for who knows ``token``."""

    def __init__(self, root: Path, token: str) -> None:
        self.root, self.token, self.journal, self.folders = root, token.encode(), Journal(root), Folders()
        self.trash = RemovedObjects(root)
        self._buckets: set[str] = set()  # whose own metadata are on the disk
        self._mark = self.journal.folder / ASKED
        # an update begins with this service: until the server is a new one, too, it goes on without the token
        self._lenient = self.journal.folder.exists() and not self._mark.exists()

    def begin(self) -> bool:
        """A start. True when the last stop was no clean one."""
        unclean = self.journal.begin()
        self.trash.empty_behind()
        if not self._lenient:
            self._strict()
        return unclean

    def _strict(self) -> None:
        self._mark.touch(mode=0o600)
        sync_path(str(self.journal.folder))
        self._lenient = False

    def knows(self, request: dict[str, Any]) -> bool:
        """Whether a request comes from the server."""
        if hmac.compare_digest(str(request.get("token") or "").encode("utf-8", "replace"), self.token):
            if self._lenient:
                self._strict()
            return True
        return self._lenient and "token" not in request

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError for a request that is none, PermissionError without the token, OSError for what the disk
        refuses.
        """
        if not self.knows(request):
            raise PermissionError("this service answers to the token of MLflow's server alone")
        if request.get("result"):
            return self.journal.result()
        if request.get("all"):
            self.sync_all()
            return {}
        if "dropped" in request:
            return {"uploads": self.drop(request)}
        bucket = checked(request.get("bucket"))
        if "removed" in request:
            self.folders.forget()
            self.journal.removed(str(self.root / OBJECTS / bucket / checked(request["removed"])))
            return {}
        keys = request.get("keys")
        if not isinstance(keys, list) or not keys:
            raise ValueError("no keys")
        for key in keys:
            self.sync(bucket, checked(key))
        return {}

    def listed(self, request: dict[str, Any]) -> Iterator[list[tuple[str, int | None]]]:
        """What is in a folder, as VersityGW lists it with the delimiter "/": names, and sizes or None for a folder.

        Raises as ``answer``. A folder that is not there is empty; what lies behind a link is for the store to say.
        """
        if "token" not in request or not self.knows(request):
            raise PermissionError("this service answers to the token of MLflow's server alone")
        bucket, key = checked(request.get("bucket")), checked(request.get("list"))
        if UNLISTED in key.split("/"):
            raise ValueError(f"{key!r} is no folder of objects")
        number = _inside(os.open(self.root / OBJECTS, FOLDER), bucket)
        try:
            number = _inside(number, key)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            with os.scandir(number) as found:
                names = filter(None, map(_entry, found))
                while line := list(itertools.islice(names, IN_LINE)):
                    yield line
        finally:
            os.close(number)

    def drop(self, request: dict[str, Any]) -> bool:
        """Remove all objects below a folder, with their metadata. Gives whether the bucket has uploads that are no
        objects yet: which of them lie below that folder, the store knows.

        Raises as ``answer``, also where an earlier version of the server asks without the token.
        """
        if "token" not in request:
            raise PermissionError("this service answers to the token of MLflow's server alone")
        bucket, key = checked(request.get("bucket")), checked(request["dropped"])
        if UNLISTED in key.split("/"):
            raise ValueError(f"{key!r} is no folder of objects")
        above, _, name = f"{bucket}/{key}".rpartition("/")
        # first, and on the disk: the check after a power cut would miss what was removed
        self.journal.note_removed(str(self.root / OBJECTS / bucket / key))
        for tree in (OBJECTS, SIDECAR):
            with suppress(FileNotFoundError):
                number = _inside(os.open(self.root / tree, FOLDER), above)
                try:
                    self.trash.take(number, name)
                finally:
                    os.close(number)
        self.trash.empty_behind()
        self.folders.forget()
        with suppress(FileNotFoundError):
            return bool(os.listdir(self.root / OBJECTS / bucket / UNLISTED / "multipart"))
        return False

    def sync(self, bucket: str, key: str) -> None:
        """An object, its metadata, and all their folders."""
        path = str(self.root / OBJECTS / bucket / key)
        metas = [self.root / SIDECAR / bucket / key / META]
        if bucket not in self._buckets:
            metas.append(self.root / SIDECAR / bucket / META)
        # a file with a passing name goes away while it is looked at
        listed = {meta: [entry.path for entry in os.scandir(meta)] for meta in metas if meta.is_dir()}
        result = sync_files((path, *(file for files in listed.values() for file in files)))
        if path not in result:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        for entry in (path, *(str(meta / "etag") for meta in listed)):
            self.folders.sync(entry)
        self._buckets.add(bucket)
        self.journal.wrote(path)

    def sync_all(self) -> None:
        """syncfs: everything that the volume's file system still holds in memory."""
        number = os.open(self.root, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(number):
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        finally:
            os.close(number)


def _inside(folder: int, path: str) -> int:
    """A folder below an open one, which is closed. Name by name: a link anywhere on the way is not followed."""
    for name in path.split("/"):
        above = folder
        try:
            folder = os.open(name, FOLDER, dir_fd=above)
        except NotADirectoryError:
            if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from None
            raise
        finally:
            os.close(above)
    return folder


def _entry(entry: os.DirEntry[str]) -> tuple[str, int | None] | None:
    if entry.name == UNLISTED:
        return None
    try:
        return entry.name, None if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None  # deleted since


class Handler(socketserver.StreamRequestHandler):
    timeout = 10
    turns, lists = threading.BoundedSemaphore(AT_ONCE), threading.BoundedSemaphore(LISTS)

    def handle(self) -> None:
        try:
            request = json.loads(self.rfile.readline(LONGEST))
            if not isinstance(request, dict):
                raise ValueError("not an object")
            if "list" in request:
                answer = self._list(request)
            else:
                with self.turns:
                    answer = self.server.store.answer(request)  # type: ignore[attr-defined]
        except (ValueError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # who asked has gone

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send the lines of a list; gives the last one."""
        if not self.lists.acquire(timeout=TURN_SECONDS):
            return {"busy": True}
        count = 0
        try:
            for line in self.server.store.listed(request):  # type: ignore[attr-defined]
                self.wfile.write(json.dumps(line).encode() + b"\n")
                count += len(line)
        finally:
            self.lists.release()
        return {"count": count}


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 128


def serve(root: Path) -> NoReturn:
    """Until SIGTERM, which is a clean stop."""
    if not (token := read_token(os.environ)):
        raise Stop(MISCONFIGURED, f"{TOKEN_FILE} names no file with a token; `invoke up` writes it")
    store = StoreSync(root, token)
    try:
        unclean = store.begin()
    except OSError as error:
        raise Stop(FAILED, f"the store's volume at {root}: {error}") from None
    with Server(("", PORT), Handler) as server:
        server.store = store  # type: ignore[attr-defined]
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        if unclean:
            threading.Thread(target=store.journal.recheck, daemon=True).start()
        server.serve_forever()
    store.journal.end()
    raise SystemExit(0)
