"""An address of JupyterLab that runs a Python program which is sent to it, in the workspace, as the notebook's account.

A backup that a pod of the cluster makes reads the workspace through it, as `invoke backup` does through `kubectl exec`.
Only JupyterLab's token opens it, no cookie, and whoever has that token runs programs here anyway. Other engines have no
such pods: it is there where TRACKBED_BACKUP_PODS says so.

    GET   trackbed/python    whether it is there, and opens
    POST  trackbed/python    a line of JSON, the words behind `python -I -S -X utf8 -c CODE`; then the program's input

The answer to the second is the program's output in blocks, each behind its length in four bytes. A length of 0 ends it;
behind that is [EXIT CODE, LAST WORDS OF STDERR] as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
import tempfile
from contextlib import suppress
from typing import Any

PATH = "trackbed/python"
SWITCH = "TRACKBED_BACKUP_PODS"
CODE = "import sys; exec(sys.stdin.buffer.read(int(sys.argv[1])))"
BLOCK = 1 << 18
LONGEST = 1 << 16  # bytes of the first line
LARGEST = 1 << 40  # of a body, which is never held
PATIENCE = 1800.0  # seconds in which the program, or who asked for it, has to do something
WORDS = 4000  # bytes


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter's server calls as it starts."""
    if os.environ.get(SWITCH) == "true":
        server.web_app.add_handlers(".*$", [(f"{server.base_url.rstrip('/')}/{PATH}", _handler(server.root_dir))])


class Program:
    """A program that runs."""

    def __init__(self, process: Any, errors: Any) -> None:
        self._process, self._errors = process, errors
        self._input = asyncio.ensure_future(self._input_ended())

    async def _input_ended(self) -> None:
        """Older Pythons log what nobody has asked about: that the program left some of its input."""
        with suppress(OSError):
            await self._process.stdin.wait_closed()

    @classmethod
    async def start(cls, folder: str, words: list[str]) -> Program | NotStarted:
        try:
            errors = tempfile.TemporaryFile()  # `end` closes it
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-X", "utf8", "-c", CODE, *words),
                cwd=folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=BLOCK,
                start_new_session=True,
            )
        except OSError as error:
            return NotStarted(f"it cannot be started: {error.strerror}")
        return cls(process, errors)

    async def give(self, data: bytes) -> None:
        """Some of its input; nothing where it has ended, which its words tell."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(data)
            await asyncio.wait_for(self._process.stdin.drain(), PATIENCE)

    def close(self) -> None:
        self._process.stdin.close()

    async def output(self) -> bytes:
        """Some of its output; b"" at the end."""
        return bytes(await asyncio.wait_for(self._process.stdout.read(BLOCK), PATIENCE))

    async def ended(self) -> tuple[int, str]:
        """Its exit code and its last words."""
        code = await asyncio.wait_for(self._process.wait(), PATIENCE)
        if self._errors.closed:  # nobody is there any more who asked for it
            return code, ""
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - WORDS))
        return code, self._errors.read(WORDS).decode("utf-8", "replace")

    def end(self) -> None:
        """Whatever it does; nothing where it has ended."""
        self._errors.close()
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class NotStarted:
    """In the place of a program that the disk or the number of processes keeps from running: it tells why."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def give(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    async def output(self) -> bytes:
        return b""

    async def ended(self) -> tuple[int, str]:
        return 1, self._why

    def end(self) -> None:
        pass


def _handler(folder: str) -> type[Any]:
    from jupyter_server.base.handlers import APIHandler  # type: ignore[import-not-found]
    from tornado import web  # type: ignore[import-not-found]
    from tornado.iostream import StreamClosedError  # type: ignore[import-not-found]

    @web.stream_request_body
    class Python(APIHandler):  # type: ignore[misc]
        """Holds a block of the program's input and one of its output, however much there is."""

        program: Program | NotStarted | None = None
        head = b""

        async def prepare(self) -> None:
            await super().prepare()
            if not self.token_authenticated:  # before the body: nothing of a stranger's is read
                raise web.HTTPError(403)
            self.request.connection.set_max_body_size(LARGEST)

        @web.authenticated  # type: ignore[untyped-decorator]
        async def get(self) -> None:
            self.finish("{}")

        async def data_received(self, data: bytes) -> None:
            if self.program is None:
                self.head += data
                line, found, data = self.head.partition(b"\n")
                if len(line) > LONGEST:
                    raise web.HTTPError(400, "the first line is too long")
                if not found:
                    return
                self.head = b""
                try:
                    words = [str(word) for word in json.loads(line)]
                    self.program = await Program.start(folder, words)
                except (ValueError, TypeError, RecursionError):
                    raise web.HTTPError(400, "the first line is no list of words") from None
            if data:
                await self.program.give(data)

        @web.authenticated  # type: ignore[untyped-decorator]
        async def post(self) -> None:
            if self.program is None:
                raise web.HTTPError(400, "there is no program")
            self.program.close()
            self.set_header("Content-Type", "application/octet-stream")
            try:
                while data := await self.program.output():
                    self.write(struct.pack(">I", len(data)) + data)
                    await asyncio.wait_for(self.flush(), PATIENCE)
                self.write(struct.pack(">I", 0) + json.dumps(await self.program.ended()).encode())
            except (StreamClosedError, TimeoutError):
                self.on_finish()
                self.request.connection.stream.close()  # what came is not whole, and must not seem so
                return
            self.finish()

        def on_connection_close(self) -> None:
            super().on_connection_close()
            self.on_finish()

        def on_finish(self) -> None:
            if self.program is not None:
                self.program.end()

    return Python
