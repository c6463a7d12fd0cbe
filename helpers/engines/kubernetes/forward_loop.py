"""Serve a port by way of a command that opens one of its own and says which, as `kubectl port-forward` does.

As a program under supervisor, which holds the listening socket, the standard input, while this is down: nobody else can
take the port. The command ends with the pod that it led to, and is begun again. Arguments: the file that tells how it
goes, then the command.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from contextlib import suppress

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two tries
PATIENCE = 15.0  # seconds that a connection waits for the way
OPENED = "Forwarding from 127.0.0.1:"
PIECE = 1 << 18  # bytes
NEVER = 1000  # failures, where no try is of use
NO_SOCKET = "its port on this machine is another program's"


class Loop:
    def __init__(self, report: str, command: list[str]) -> None:
        self.report, self.command = report, command
        self.failures = 0
        self.port = 0
        self.opened = asyncio.Event()

    def tell(self, said: str = "") -> None:
        """Write down how it goes: is there a way, how many tries failed one after the other, why the last one did."""
        content = {"ready": self.opened.is_set(), "failures": self.failures, "said": said[-500:]}
        with suppress(OSError):  # a full disk takes no way from anybody
            with open(f"{self.report}.new", "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(f"{self.report}.new", self.report)

    async def run(self) -> None:
        """Keep the command running, for ever."""
        while True:
            began = time.monotonic()
            try:
                said, served = await self._once()
            except OSError as error:
                said, served = str(error), False
            self.opened.clear()
            self.failures = 0 if served and time.monotonic() - began > LONGEST_PAUSE else self.failures + 1
            self.tell(said)
            await asyncio.sleep(min(FIRST_PAUSE * 2 ** (self.failures - 1), LONGEST_PAUSE) if self.failures else 0)

    async def _once(self) -> tuple[str, bool]:
        """The last line that the command wrote, and whether it opened its port."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=PIECE,
        )
        assert process.stdout is not None
        last = ""
        async for piece in process.stdout:
            line = piece.decode("utf-8", "replace").strip()
            if line.startswith(OPENED):
                self.port = int(line.removeprefix(OPENED).partition(" ")[0])
                self.opened.set()
                self.tell()
            elif line and not line.startswith("Handling connection"):
                last = line
                sys.stdout.write(f"{line}\n")  # the log's
                sys.stdout.flush()
        await process.wait()
        return last, self.opened.is_set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with suppress(OSError, asyncio.TimeoutError):
            there, back = await asyncio.wait_for(self._connect(), PATIENCE)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
            back.close()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the command's port; where its pod has just gone, to that of the next one."""
        while True:
            await self.opened.wait()
            try:
                return await asyncio.open_connection("127.0.0.1", self.port, limit=PIECE)
            except OSError:
                await asyncio.sleep(0.1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, then its end."""
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def main(report: str, command: list[str]) -> None:
    loop = Loop(report, command)
    loop.tell()
    try:
        held = socket.socket(fileno=0)
    except OSError:  # supervisor gave nothing
        loop.failures = NEVER
        loop.tell(NO_SOCKET)
        await asyncio.sleep(FIRST_PAUSE)
        return
    held.setblocking(False)
    server = await asyncio.start_server(loop.serve, sock=held, limit=PIECE)
    async with server:
        await loop.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
