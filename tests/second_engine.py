"""A Docker engine of a test's own, beside the one that the other tests use."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import PATIENCE, Clone
from tests.integration import inspection

NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@contextmanager
def network_namespace() -> Iterator[None]:
    """This thread, and what it starts meanwhile, sees a network of its own with nothing in it but loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        inspection.output("ip", "link", "set", "lo", "up")
        yield
    finally:
        assert libc.setns(before, NEW_NETWORK) == 0
        os.close(before)


class Engine:
    """A second dockerd with folders, a socket and a network namespace of its own.

    In the same namespace it would take away the first one's rules and its bridge.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder, self.flags = folder, flags
        self.host = f"unix://{folder}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [
            "dockerd",
            "--data-root",
            f"{self.folder}/data",
            "--exec-root",
            f"{self.folder}/exec",
            "--pidfile",
            f"{self.folder}/pid",
            "-H",
            self.host,
            *self.flags,
        ]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while inspection.run("docker", "-H", self.host, "info").returncode:
            assert time.monotonic() < deadline and self.process.poll() is None, self.log()
            time.sleep(0.2)

    def load_images_of(self, clone: Clone) -> None:
        """Bring the images of a project that is up on the first engine, also where their names have moved on since."""
        reported = "{{.Config.Image}} {{.Image}}"
        images = dict(
            inspection.output("docker", "inspect", "-f", reported, name).split()
            for name in inspection.containers(clone)
        )
        saved = self.folder / "images.tar"
        inspection.output("docker", "save", "-o", str(saved), *sorted(set(images.values())), timeout=300)
        inspection.output("docker", "-H", self.host, "load", "-q", "-i", str(saved), timeout=300)
        for name, image in images.items():
            inspection.output("docker", "-H", self.host, "tag", image, name)
        saved.unlink()

    def log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(120)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end()
        with suppress(OSError, ValueError):  # a containerd that a killed engine left
            os.kill(int((self.folder / "exec" / "containerd" / "containerd.pid").read_text()), signal.SIGTERM)
        inspection.run("umount", "-R", f"{self.folder}/data")
        shutil.rmtree(self.folder, ignore_errors=True)


class Rootless(Engine):
    """One that a normal user runs, as Docker's own dockerd-rootless.sh starts it."""

    def __init__(self, folder: Path, account: str) -> None:
        super().__init__(folder)
        self.account = pwd.getpwnam(account)
        os.chown(folder, self.account.pw_uid, self.account.pw_gid)

    def command(self) -> list[str]:
        daemon = [
            "sh",
            "-c",
            'rm -f /run/docker /run/containerd /run/xtables.lock; exec "$@"',
            "sh",
            *super().command(),
        ]
        return [
            "setpriv",
            f"--reuid={self.account.pw_uid}",
            f"--regid={self.account.pw_gid}",
            "--init-groups",
            "--",
            "rootlesskit",
            f"--state-dir={self.folder}/rootlesskit",
            "--net=slirp4netns",
            "--mtu=65520",
            "--disable-host-loopback",
            "--port-driver=builtin",
            "--copy-up=/etc",
            "--copy-up=/run",
            "--propagation=rslave",
            *daemon,
        ]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "USER": self.account.pw_name,
        }
