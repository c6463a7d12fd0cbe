"""What is looked at when somebody asks for the start page: whether services answer, the disk, the GPUs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

READY, SILENT, UNKNOWN = "ready", "no answer", "not visible from here"
SECONDS = 3.0  # for each answer
FRESH_SECONDS = 3.0  # for which an answer is good enough: however often the page is asked for, services are not
DRM = Path("/sys/class/drm")  # the machine's, also in a container
NVIDIA_SMI = "/usr/bin/nvidia-smi"
QUERY = "index,name,utilization.gpu,memory.used,memory.total"
MIB = 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Disk:
    """In bytes."""

    free: int
    size: int


@dataclass(frozen=True)
class Gpu:
    """``busy`` in percent, memory in bytes."""

    name: str
    busy: int
    used: int
    memory: int


@dataclass(frozen=True)
class Look:
    """``states`` by the service's name."""

    when: float
    states: Mapping[str, str]
    disk: Disk | None
    gpus: tuple[Gpu, ...]


class Probes:
    """Looks at most once in FRESH_SECONDS."""

    def __init__(self, environment: Mapping[str, str], database: Callable[[], object]) -> None:
        """``database``: asks it something; raises when it does not answer."""
        self.environment = environment
        self.database = database
        self.asked: asyncio.Future[object] | None = None  # of the database: one that hangs is not asked again
        self.lock = asyncio.Lock()
        self.last: Look | None = None

    async def look(self, document: Mapping[str, Any]) -> Look:
        async with self.lock:
            if self.last is None or not 0 <= time.time() - self.last.when < FRESH_SECONDS:
                self.last = await self._look(document)
            return self.last

    async def _look(self, document: Mapping[str, Any]) -> Look:
        services = {service["name"]: service.get("address") for service in document.get("services", ())}
        states, gpus = await asyncio.gather(
            asyncio.gather(*(self._state(name, address) for name, address in services.items())),
            bounded(seen_gpus(str(document.get("gpu_kind"))), ()),
        )
        disk = free_disk(self.environment) if document.get("disk") else None
        return Look(time.time(), dict(zip(services, states, strict=True)), disk, tuple(gpus))

    async def _state(self, name: str, address: Any) -> str:
        if name == "mlflow":
            return READY  # it answers this
        if name == "postgres":
            return READY if await self._database() else SILENT
        if not address:
            return UNKNOWN
        return READY if await bounded(answers(str(address[0]), int(address[1]), bool(address[2])), False) else SILENT

    async def _database(self) -> bool:
        if self.asked is None or self.asked.done():
            self.asked = asyncio.ensure_future(asyncio.to_thread(self.database))
            self.asked.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([self.asked], timeout=SECONDS)
        return bool(done) and self.asked.exception() is None


async def bounded(question: Awaitable[T], otherwise: T) -> T:
    try:
        return await asyncio.wait_for(question, SECONDS)
    except (OSError, ValueError, TimeoutError):
        return otherwise


async def answers(host: str, port: int, http: bool) -> bool:
    """Whether somebody answers there; ``http``: in HTTP, whatever the answer is."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if not http:
            return True
        writer.write(f"GET / HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        return (await reader.readexactly(7)) == b"HTTP/1."
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()


def free_disk(environment: Mapping[str, str]) -> Disk | None:
    """Of the file system of the server's own folder: Docker's, or the state folder's."""
    try:
        seen = os.statvfs(environment.get("TRACKBED_OWN_TMP") or "/nonexistent")
    except OSError:
        return None
    return Disk(seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize)


async def seen_gpus(kind: str) -> tuple[Gpu, ...]:
    """Those of the machine, as far as this server sees what they do; ``kind``: amd or nvidia."""
    if kind == "amd":
        return tuple(await asyncio.to_thread(amd, DRM))
    if kind == "nvidia" and os.access(NVIDIA_SMI, os.X_OK):
        return tuple(nvidia(await output(NVIDIA_SMI, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits")))
    return ()


def amd(folder: Path) -> Iterable[Gpu]:
    result: list[Gpu] = []
    for card in sorted(folder.glob("card[0-9]*"), key=lambda path: (len(path.name), path.name)):
        try:
            busy, used, whole = (
                int((card / "device" / name).read_text())
                for name in ("gpu_busy_percent", "mem_info_vram_used", "mem_info_vram_total")
            )
        except (OSError, ValueError):
            continue  # a connector of a card, or another maker's
        result.append(Gpu(f"GPU {len(result)}", busy, used, whole))
    return result


def nvidia(printed: str) -> Iterable[Gpu]:
    """Of nvidia-smi's lines; one that has no number there ("[N/A]", as of a MIG device) is left out."""
    result: list[Gpu] = []
    for line in printed.splitlines():
        words = [word.strip() for word in line.split(",")]
        try:
            number, name, busy, used, whole = words
            result.append(Gpu(f"GPU {int(number)}: {name}", int(busy), int(used) * MIB, int(whole) * MIB))
        except ValueError:
            continue
    return result


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LC_ALL": "C"},
    )
    try:
        printed, _ = await process.communicate()
        return printed.decode("utf-8", "replace")
    finally:
        if process.returncode is None:
            process.kill()
