"""A file system of a test's own in a file: it can be filled, and its power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.integration import inspection

SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN: what is not on the device now never gets there


def require_loop_devices(what: str) -> None:
    if os.geteuid() or not os.path.exists("/dev/loop-control") or shutil.which("mkfs.ext4") is None:
        pytest.skip(f"NOT TESTED: {what} needs root, a loop device and mkfs.ext4")


class Disk:
    """A small ext4 in a file, mounted on ``folder``."""

    def __init__(self, folder: Path, size: str, image: Path) -> None:
        self.folder, self.image = folder, image
        self.bound: list[tuple[Path, Path]] = []
        inspection.output("truncate", "-s", size, str(image))
        inspection.output("mkfs.ext4", "-q", "-m", "0", str(image))
        self._mount()

    def _mount(self) -> None:
        inspection.output("mount", "-o", "loop", str(self.image), str(self.folder))
        for inside, target in self.bound:
            inspection.output("mount", "--bind", str(inside), str(target))

    def bind(self, target: Path) -> None:
        """Move a folder onto this disk; it is seen where it was."""
        inside = self.folder / f"{len(self.bound)}"
        inspection.output("cp", "-a", str(target), str(inside))
        inspection.output(
            "sync", "-f", str(inside)
        )  # what was there before the test is on the device, as on a real one
        inspection.output("mount", "--bind", str(inside), str(target))
        self.bound.append((inside, target))

    def fill(self) -> None:
        """Take every block that is free."""
        with (self.folder / "filler").open("wb") as stream:
            taken = 0
            for block in (2**26, 2**20, 4096):
                try:
                    while True:
                        os.posix_fallocate(stream.fileno(), taken, block)
                        taken += block
                except OSError:
                    continue

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def cut(self) -> float:
        """The power fails: what the kernel still holds is lost, every later access is an error. Gives the time."""
        number = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(number, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            return time.time()
        finally:
            os.close(number)

    def back(self) -> None:
        """The machine starts again: the journal is replayed. Nothing may be using the disk."""
        for _, target in reversed(self.bound):
            self._unmount(target)
        self._unmount(self.folder)
        self._released()
        done = inspection.run("e2fsck", "-fy", str(self.image))
        assert done.returncode in (0, 1), done.stdout
        self._mount()

    def _unmount(self, folder: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while (done := inspection.run("umount", str(folder))).returncode:
            assert time.monotonic() < deadline, done.stderr + inspection.run("fuser", "-vm", str(folder)).stderr
            time.sleep(0.2)

    def _released(self) -> None:
        """Nobody has it mounted any more, in no other mount namespace either: the next mount is a new one."""
        deadline = time.monotonic() + PATIENCE
        while devices := inspection.output("losetup", "--associated", str(self.image)):
            assert time.monotonic() < deadline, f"still mounted in another namespace: {devices}"
            time.sleep(0.2)

    def close(self) -> None:
        for folder in (*(target for _, target in reversed(self.bound)), self.folder):
            inspection.run("umount", "-l", str(folder))
        self.image.unlink()
