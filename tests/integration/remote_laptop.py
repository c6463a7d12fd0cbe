"""A laptop and the node that it reaches over ssh: an sshd, a network namespace, a file system of its own.

The laptop sees the clone, its Python, an ssh client and Docker's client programs, over a network on which only the
node's sshd answers. No socket, folder or port of the node is there. Needs root and Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.claims import first, free_ports
from tests.conftest import PATIENCE, Clone, make_clone
from tests.integration import inspection

PROGRAMS = ("ip", "unshare", "chroot", "ssh", "ssh-keygen", "mount")
# $1: the laptop's root; then pairs "read-only path" up to --, then the folder to be in and the command
ENTER = r"""
set -eu
wanted=$PATH PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1; shift
mount --make-rprivate /
while [ "$1" != -- ]; do
  source=${1%%=*} target=$root${1#*=}; shift
  mkdir -p "$(dirname "$target")"
  if [ -d "$source" ]; then mkdir -p "$target"; elif [ ! -e "$target" ]; then : >"$target"; fi
  mount --bind "$source" "$target"
done
shift
mount -t proc proc "$root/proc"
exec chroot "$root" /bin/sh -c 'PATH=$1; cd "$2"; shift 2; exec "$@"' sh "$wanted" "$@"
"""


def require() -> str:
    """Skip loudly where no such laptop can be made; gives the path of sshd."""
    result = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    missing = [name for name in PROGRAMS if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None]
    if os.geteuid() != 0 or not result or missing:
        needs = f"a node over ssh needs root, sshd (Debian: openssh-server) and {' '.join(PROGRAMS)}"
        if os.environ.get("TRACKBED_REQUIRE_DOCKER") == "1":
            pytest.fail(needs)
        pytest.skip(f"NOT TESTED: {needs}")
    return result


@dataclass
class Laptop:
    """Where the user sits. ``clone`` runs its tasks there."""

    root: Path
    network: str
    node: str  # the node's address on the laptop's network
    port: int
    clone: Clone

    @property
    def home(self) -> Path:
        return self.root / "home" / "ada"

    @property
    def docker_host(self) -> str:
        return f"ssh://root@{self.node}:{self.port}"

    def command(self, *argv: str, folder: str = "/") -> list[str]:
        """The words that run a command there."""
        return [*self._enter(), folder, *argv]

    def _enter(self) -> list[str]:
        shared = ["/usr", "/dev/null", "/dev/urandom", sys.prefix, str(self.clone.folder.parent)]
        shared += [path for path in (sys.base_prefix,) if not path.startswith("/usr")]
        shared += [
            path
            for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
            if (path := os.environ.get(name, "")) and Path(path).is_file() and not path.startswith("/usr/")
        ]
        docker = shutil.which("docker")
        assert docker
        binds = [f"{path}={path}" for path in dict.fromkeys(shared)] + [f"{Path(docker).resolve()}=/opt/bin/docker"]
        return [
            "ip",
            "netns",
            "exec",
            self.network,
            "unshare",
            "--mount",
            "sh",
            "-c",
            ENTER,
            "laptop",
            str(self.root),
            *binds,
            "--",
        ]


@contextmanager
def laptop(folder: Path) -> Iterator[Laptop]:
    """A laptop and the sshd of this machine, the node, which it reaches with a key."""
    sshd = require()
    name = f"tb{uuid.uuid4().hex[:6]}"
    taken = inspection.output("ip", "-4", "-brief", "address")
    free = (f"10.213.{number // 64}.{number % 64 * 4}" for number in range(16000))
    network = first(name for name in free if f"{name.rsplit('.', 1)[0]}." not in taken)
    base, last = network.rsplit(".", 1)
    node, own = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    root = folder / "laptop"
    for part in ("proc", "dev", "tmp", "etc", "run", "var", "opt/bin", "home/ada/.ssh"):
        (root / part).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        if Path("/", link).is_symlink():
            (root / link).symlink_to(f"usr/{link}")
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0::/home/ada:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    clone = make_clone(folder, "docker")
    port = free_ports(1)[0]
    created = Laptop(root, name, node, port, clone)
    key = created.home / ".ssh" / "id_ed25519"
    config = folder / "sshd"
    config.mkdir()
    for path in (key, config / "host"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    shutil.copy(key.with_suffix(".pub"), config / "authorized")
    (config / "config").write_text(
        f"Port {port}\nListenAddress {node}\nHostKey {config}/host\nAuthorizedKeysFile {config}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\nPermitRootLogin yes\n"
        "MaxStartups 100\n"
    )
    know(created)
    _run("ip", "netns", "add", name)
    server = None
    try:
        _run("ip", "link", "add", f"{name}h", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "address", "add", f"{node}/30", "dev", f"{name}h")
        _run("ip", "link", "set", f"{name}h", "up")
        _run("ip", "-n", name, "address", "add", f"{own}/30", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        Path("/run/sshd").mkdir(exist_ok=True)
        server = subprocess.Popen(
            [sshd, "-D", "-f", str(config / "config"), "-E", str(config / "log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        kept = {k: v for k, v in clone.environment.items() if not k.startswith(("XDG_", "DOCKER_", "SSH_"))}
        clone.environment = {
            **kept,
            "HOME": "/home/ada",
            "PATH": "/opt/bin:/usr/bin:/bin",
            "DOCKER_HOST": created.docker_host,
        }
        clone.command = tuple(created.command(sys.executable, "-m", "invoke", folder=str(clone.folder)))
        _answers(created)
        yield created
    finally:
        if server is not None:
            server.terminate()
            server.wait(10)
        _run("ip", "netns", "delete", name)


def know(made: Laptop) -> None:
    """The laptop knows the node's host key."""
    public = made.root.parent / "sshd" / "host.pub"
    (made.home / ".ssh" / "known_hosts").write_text(
        f"[{made.node}]:{made.port} {' '.join(public.read_text().split()[:2])}\n"
    )


def _answers(made: Laptop) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        words = ("ssh", "-o", "BatchMode=yes", "-p", str(made.port), f"root@{made.node}", "true")
        done = subprocess.run(
            made.command(*words), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False
        )
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
