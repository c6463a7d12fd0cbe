"""The search processes as a worker sees them: which are there, which has the least to do, and when to ask for one more.

They listen on sockets in a folder that only this account enters. Each process inherits the folder open: on Linux its
path may be of any length, and another folder in its place is not ours.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from trackbed_mlflow import abandoned_requests, artifact_pool
from trackbed_mlflow.edge import identity
from trackbed_mlflow.errors import say
from trackbed_mlflow.search_processes import wire

FOLDER = "tmp-search-"  # what a killed server leaves goes as all of its "tmp*"
LONGEST = 100  # bytes of the folder's path where it is not inherited: a socket's may have 103
OUTSTANDING = 256  # requests of one kind that a worker hands on; the next ones are told to come again
AT_ONCE = 2  # requests of a worker that a process answers: with more another process helps
ASK_SECONDS = 1.0  # between two questions for one more process
START_SECONDS, LOOK_SECONDS = 2.0, 0.1  # for a process to begin
PAUSE_SECONDS = 30.0  # after one that did not begin
# A process that runs says so every five seconds (server.py), however long a search takes. In one long call of C it does
# not, but uses the processor. By the end of the second time gunicorn, which hears nothing either, has ended it.
QUIET_SECONDS, AVOID_SECONDS = 30.0, 90.0
PROCESS_ENDED = "the process that searched has ended"
PROCESS_SILENT = "the process that searches does not answer"
OPEN_FILES = 16384


class PendingRequest:
    """One request until its answer begins: a client that reads it slowly keeps nobody waiting."""

    def __init__(self, processes: SearchProcesses, kind: str) -> None:
        self.processes, self.kind = processes, kind
        self.slot: int | None = None
        self.ended = False
        processes.working += 1

    def hand_on(self, slot: int) -> None:
        self.slot = slot
        self.processes.outstanding[slot] += 1
        self.processes.kinds[self.kind] += 1

    def end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.processes.working -= 1
        if self.slot is not None:
            self.processes.outstanding[self.slot] -= 1
            self.processes.kinds[self.kind] -= 1


class WorkOf:
    """Whether the process at the other end of a connection uses the processor."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.used: int | None = None

    def goes_on(self) -> bool:
        """Since the last look: False at the first one, and where nobody can tell."""
        before, self.used = self.used, processor_time(_other_end(self.writer))
        return None not in (before, self.used) and before != self.used


def _other_end(writer: asyncio.StreamWriter) -> int:
    """The process that listened there; 0 where the system does not tell."""
    try:
        facts = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(facts[:4], sys.byteorder)
    except (AttributeError, OSError):
        return 0


def processor_time(pid: int) -> int | None:
    """In ticks, of all threads; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None


class SearchProcesses:
    """Without a folder there are none, and ``answered`` is always False."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.base = ""  # the folder, as this process reaches it
        self.most = self.arbiter = 0
        self.outstanding: list[int] = []  # requests of this worker, by slot
        self.avoid_until: dict[int, float] = {}  # by slot: processes that were silent
        self.kinds: Counter[str] = Counter()  # the same by kind
        self.working = 0  # requests of this worker that search or list, here or elsewhere
        self.requested_at = self.no_wait_until = float("-inf")

    # in gunicorn's first process

    def enable(self, most: int, environment: Mapping[str, str] = os.environ) -> None:
        """From now on there may be ``most`` of them."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=environment.get("TRACKBED_OWN_TMP")))  # 0700
            base = f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}"
        except OSError as error:
            say(f"searches have no processes of their own: no folder for sockets: {error}")
            return
        self.base = base if os.path.isdir(base) else str(folder)
        if len(os.fsencode(self.base)) > LONGEST:
            shutil.rmtree(folder, ignore_errors=True)
            say(f"searches have no processes of their own: the path {folder} is too long for sockets")
            return
        self.folder, self.most, self.arbiter, self.outstanding = folder, most, os.getpid(), [0] * most
        _allow_open_files()

    def remove_folder(self) -> None:
        """Remove the folder."""
        if self.folder is not None and os.getpid() == self.arbiter:
            shutil.rmtree(self.folder, ignore_errors=True)

    # in a search process

    def listen(self, slot: int) -> socket.socket:
        """The socket of the process in ``slot``. From now on this process asks no other one."""
        path = self.path(slot)
        with suppress(FileNotFoundError):
            os.unlink(path)  # of one that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(path)
        except OSError:
            listener.close()
            raise
        listener.listen(OUTSTANDING)
        self.folder = None
        return listener

    def leave(self, slot: int) -> None:
        """Nobody connects to this process any more."""
        with suppress(OSError):
            os.unlink(self.path(slot))

    # in a worker

    def path(self, slot: int) -> str:
        return f"{self.base}/{slot}"

    @contextmanager
    def pending(self, kind: str) -> Iterator[PendingRequest]:
        """A request that searches or lists; ``kind``: of which queue."""
        request = PendingRequest(self, kind)
        try:
            yield request
        finally:
            request.end()

    async def answered(
        self,
        request: PendingRequest,
        scope: wire.Scope,
        client: abandoned_requests.Client,
        body: bytes,
        send: wire.Send,
    ) -> bool:
        """Whether another process has answered this request; otherwise this one has to."""
        if self.kinds[request.kind] >= OUTSTANDING:
            await artifact_pool.refuse(send, "too many requests wait")
            return True
        if self.folder is None or client.gone or (connection := await self._connection(client)) is None:
            return False
        slot, reader, writer = connection
        request.hand_on(slot)
        answer = asyncio.ensure_future(self._exchange(slot, reader, writer, scope, body, send))
        gone = asyncio.ensure_future(client.receive())  # its whole body is here: what comes is its end
        try:
            await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
            if not client.gone:
                await answer
        finally:
            gone.cancel()
            answer.cancel()
            writer.close()  # the other process takes this for its client's end
        return True

    async def _connection(
        self, client: abandoned_requests.Client
    ) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """None where this worker searches by itself. What would wait here for its turn waits for a process instead."""
        result, end = await self._connect(), time.monotonic() + START_SECONDS
        while result is None and self.working > AT_ONCE and time.monotonic() >= self.no_wait_until and not client.gone:
            if time.monotonic() >= end:
                self.no_wait_until = end + PAUSE_SECONDS
                break
            await asyncio.sleep(LOOK_SECONDS)
            result = await self._connect()
        return result

    async def _connect(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """To the process with the fewest requests of this worker; workers begin with different ones."""
        first, missing, result = os.getpid() % self.most, False, None
        for slot in sorted(range(self.most), key=lambda slot: (self.outstanding[slot], (slot - first) % self.most)):
            if self.avoid_until.get(slot, float("-inf")) > time.monotonic():
                continue
            try:
                result = slot, *await asyncio.open_unix_connection(self.path(slot), limit=wire.BLOCK)
                break
            except OSError:
                missing = True
        if missing and (result is None or self.outstanding[result[0]] >= AT_ONCE):
            self._request_process()
        return result

    def _request_process(self) -> None:
        """Ask gunicorn's first process for one more."""
        now = time.monotonic()
        if self.working > 1 and now - self.requested_at >= ASK_SECONDS and os.getppid() == self.arbiter:
            self.requested_at = now
            os.kill(self.arbiter, signal.SIGTTIN)

    async def _exchange(
        self,
        slot: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        scope: wire.Scope,
        body: bytes,
        send: wire.Send,
    ) -> None:
        """Ask the process in ``slot``, and send what it answers."""
        started, more, failure = False, True, ""
        try:
            works = WorkOf(writer).goes_on
            writer.writelines(wire.request(scope, body, identity.login.get()))
            await wire.watched(writer.drain(), QUIET_SECONDS, works)
            while more:
                message = await wire.read_answer(reader, QUIET_SECONDS, works)
                started, more = True, message.get("more_body", True)
                await send(message)
        except TimeoutError:
            failure = PROCESS_SILENT
            self.avoid_until[slot] = time.monotonic() + AVOID_SECONDS
            say(f"{PROCESS_SILENT}: {scope['path']}: not a word in {QUIET_SECONDS:.0f} s")
        except (OSError, EOFError, ValueError) as error:
            failure = PROCESS_ENDED
            say(f"{PROCESS_ENDED}: {scope['path']}: {error}")
        if failure and not started:  # otherwise the server ends the connection, and the client sees it
            await artifact_pool.refuse(send, failure)


def _allow_open_files() -> None:
    """A request that is handed on has two connections, and many systems begin with 1,024 files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


processes = SearchProcesses()
