"""Brings images of the Docker engine to every node of the test cluster, which no registry serves.

python -m tests.environment.kubernetes.images NAME...
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from helpers.engines.kubernetes.images import full

HOME = Path(os.environ.get("TRACKBED_RIG_HOME", "/var/tmp/trackbed-rig")) / "kubernetes"
LABEL = "dev.trackbed.test.docker-id"  # on a node's image: which of Docker's images it is
BLOBS = Path("containerd/root/io.containerd.content.v1.content/blobs/sha256")  # of a node
CHUNK = 1 << 20


@dataclass(frozen=True)
class Node:
    """The containerd of one node."""

    folder: Path

    def argv(self, *words: str) -> list[str]:
        socket = self.folder / "containerd" / "containerd.sock"
        return [str(HOME / "root/usr/bin/ctr"), "--address", str(socket), "--namespace", "k8s.io", *words]

    def output(self, *words: str) -> str:
        return subprocess.run(
            self.argv(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    def images(self) -> dict[str, str]:
        """Docker's ids by name, of what was brought here."""
        found = (re.match(rf"(\S+) .*\b{re.escape(LABEL)}=(sha256:\w+)", line) for line in self._list())
        return {match[1]: match[2] for match in found if match}

    def _list(self) -> list[str]:
        return self.output("images", "ls").splitlines()

    def blobs(self) -> set[str]:
        """Where an archive has what is here already."""
        return {
            f"blobs/sha256/{digest.removeprefix('sha256:')}" for digest in self.output("content", "ls", "-q").split()
        }


def nodes() -> list[Node]:
    """Those of the cluster that runs."""
    return [Node(socket.parent.parent) for socket in sorted(HOME.glob("node*/containerd/containerd.sock"))]


def docker_ids(names: Sequence[str]) -> dict[str, str]:
    """Docker's ids by full name. Raises CalledProcessError where the engine lacks one."""
    ids = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", *names],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    return {full(name): identity for name, identity in zip(names, ids, strict=True)}


def import_images(names: Sequence[str]) -> list[str]:
    """Give every node these images, only the layers it lacks; gives the names that a node did not have."""
    with _alone():
        expected = docker_ids(names)
        lacking = {node: expected.items() - node.images().items() for node in nodes()}
        missing = sorted({name for pairs in lacking.values() for name, _ in pairs})
        if missing:
            chosen = [name for name in names if full(name) in missing]
            _stream(chosen, [node for node, pairs in lacking.items() if pairs])
            for node, pairs in lacking.items():
                for name, identity in pairs:
                    node.output("images", "label", name, f"{LABEL}={identity}")
            _share(list(lacking))
        return missing


@contextmanager
def _alone() -> Iterator[None]:
    with (HOME / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stream(names: Sequence[str], receivers: Sequence[Node]) -> None:
    """`docker save` once, into `ctr images import` of each node."""
    existing = [node.blobs() for node in receivers]
    importing = [
        subprocess.Popen(
            node.argv("images", "import", "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for node in receivers
    ]
    saving = subprocess.Popen(["docker", "save", *names], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert saving.stdout is not None
    try:
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for member in archive:
                wanting = [
                    process.stdin
                    for process, blobs in zip(importing, existing, strict=True)
                    if process.stdin is not None and member.name not in blobs
                ]
                _copy(archive, member, wanting)
        for process in importing:
            _, error = process.communicate(bytes(2 * tarfile.BLOCKSIZE), timeout=600)
            if process.returncode:
                raise RuntimeError(f"ctr images import: {error.decode(errors='replace').strip()}")
        if saving.wait(60):
            raise RuntimeError(f"docker save {' '.join(names)}: exit code {saving.returncode}")
    finally:
        for process in (saving, *importing):
            process.kill()


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, receivers: Sequence[IO[bytes]]) -> None:
    """One member of an archive, to all of them."""
    if not receivers:
        return
    content = archive.extractfile(member) if member.isreg() else None
    for stream in receivers:
        stream.write(member.tobuf(tarfile.PAX_FORMAT))
    while content is not None and (block := content.read(CHUNK)):
        for stream in receivers:
            stream.write(block)
    for stream in receivers:
        stream.write(bytes(-member.size % tarfile.BLOCKSIZE))


def _share(receivers: Sequence[Node]) -> None:
    """The nodes are on one disk, and a layer never changes: one file for both."""
    if len(receivers) < 2:
        return
    first, *others = (node.folder / BLOBS for node in receivers)
    for folder in others:
        for blob in folder.iterdir():
            with suppress(FileNotFoundError):  # containerd collects what no image has, at any moment
                _link(blob, first / blob.name)


def _link(blob: Path, twin: Path) -> None:
    if blob.stat().st_size > CHUNK and twin.is_file() and not blob.samefile(twin):
        link = blob.parent.parent / f"link-{blob.name}"
        link.unlink(missing_ok=True)
        os.link(twin, link)
        link.replace(blob)


if __name__ == "__main__":
    for imported in import_images(sys.argv[1:]):
        sys.stdout.write(f"{imported}\n")
