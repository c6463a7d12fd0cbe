"""A Debian 12 with systemd as PID 1, in a privileged container: to a timer it is a machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.claims import free_ports
from tests.conftest import KEPT, ROOT, make_clone
from tests.integration import inspection

IMAGE = "trackbed-test/systemd:bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3,python3-venv,ca-certificates,procps,git"
SITE = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", "/opt/wheels")  # how packages are found here
SITE_VARIABLES = ("PIP_", "UV_INDEX", "UV_DEFAULT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", *KEPT)
PROJECT = "lab"


def image() -> None:
    """Made once on a machine."""
    if inspection.run("docker", "image", "inspect", IMAGE).returncode == 0:
        return
    folder = Path(tempfile.mkdtemp(prefix="tb-systemd-", dir="/var/tmp"))
    try:
        mirror = inspection.output(str(ROOT / "tests" / "environment" / "mirror.sh"))
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder), mirror]
        inspection.output(*make, timeout=900)
        shutil.rmtree(folder / "var" / "cache" / "apt" / "archives")
        inspection.output("sh", "-c", f"tar -C {folder} -c . | docker import - {IMAGE}", timeout=300)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Machine:
    """``user``: whose clone, project and timer it is, below ``home``; another one than root has linger and no session."""

    def __init__(self, user: str) -> None:
        self.user, self.home = user, "/srv" if user == "root" else f"/home/{user}"  # the services may not enter /root
        self.name = f"tb-systemd-{secrets.token_hex(4)}"
        self.clone = f"{self.home}/trackbed"
        self.state = f"{self.home}/state"

    def start(self) -> None:
        mounts = [f"--volume={path}:{path}:ro" for path in SITE if Path(path).exists()]
        systemd = ["--privileged", "--cgroupns=private", "--tmpfs=/run", "--tmpfs=/run/lock", "--env=container=docker"]
        inspection.output(
            "docker", "run", "--detach", f"--name={self.name}", *systemd, "--network=host", *mounts, IMAGE, "/sbin/init"
        )
        self.booted()
        if self.user != "root":
            self.as_root("useradd", "--create-home", "--shell=/bin/bash", self.user)
            self.as_root("loginctl", "enable-linger", self.user)
        with tempfile.TemporaryDirectory() as folder:
            copied = make_clone(Path(folder), "embedded")
            ports = zip(("MLFLOW", "JUPYTER", "S3", "S3_CONSOLE"), free_ports(4), strict=True)
            lines = [f"PROJECT={PROJECT}", f"STATE_DIR={self.state}", "ENGINE=embedded", "LOCAL_ACCESS=open"]
            lines += [f"{name}_PORT={port}" for name, port in ports]
            lines += [f"{name.removeprefix('TRACKBED_')}={os.environ[name]}" for name in KEPT if name in os.environ]
            (copied.folder / ".env").write_text("\n".join(lines) + "\n")
            (copied.folder / ".env").chmod(0o600)
            inspection.output("docker", "cp", "-q", str(copied.folder), f"{self.name}:{self.clone}")
        self.as_root("chown", "-R", f"{self.user}:", self.clone)

    def booted(self) -> None:
        def said() -> str:
            return inspection.run("docker", "exec", self.name, "systemctl", "is-system-running").stdout.strip()

        inspection.until(lambda: said() == "running", said)

    def reboot(self) -> None:
        inspection.output("docker", "stop", "--signal=SIGRTMIN+3", "--time=180", self.name, timeout=240)
        inspection.output("docker", "start", self.name)
        self.booted()

    def as_root(self, *words: str) -> str:
        return inspection.output("docker", "exec", self.name, *words)

    def typed(self, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """As the user, in the clone, in a shell that no login has made."""
        given = [f"--env={k}={v}" for k, v in os.environ.items() if k.upper().startswith(SITE_VARIABLES)]
        where = [f"--user={self.user}", f"--workdir={self.clone}", *given, self.name]
        return inspection.run("docker", "exec", *where, *words, timeout=timeout)

    def value(self, *words: str, timeout: float = 900) -> str:
        done = self.typed(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.journal()}"
        return done.stdout

    def invoke(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.typed(".venv/bin/invoke", *words)

    def journal(self) -> str:
        return inspection.run("docker", "exec", self.name, "journalctl", "--no-pager", "--lines=60").stdout


@contextmanager
def machine(user: str) -> Iterator[Machine]:
    image()
    created = Machine(user)
    try:
        created.start()
        yield created
    finally:
        inspection.run("docker", "rm", "--force", "--volumes", created.name)
