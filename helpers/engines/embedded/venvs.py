"""The embedded engine's virtual environments: made by uv from hash-locked requirements, named by their content."""

from __future__ import annotations

import csv
import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import commands, digests, files, safe_files, url_logins
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.gpu import wheels as gpu_wheels
from helpers.services import ProgressReporter
from helpers.uv_settings import uv_settings
from helpers.wheel_download import SEEDS, uv_program

MINIMUM = (3, 11)
CHECK = Path(__file__).with_name("venv_check.py")
CHECK_SECONDS = 600  # for all files of a venv on a slow disk
CACHE_LEAST = 2 << 30  # bytes: what all packages need there
CLEAN_SECONDS = 120  # for uv to empty its cache, which waits for those who use it
DAMAGE = {errno.ENOENT, errno.EIO, errno.ENOTDIR, errno.EISDIR}  # others: a missing right, a full disk, a limit
SYMLINK = "symlink"  # one of uv's link modes
DEFAULT_INDEX = "UV_DEFAULT_INDEX"  # uv's variable; its UV_INDEX names further ones
UV_SOURCES = ("UV_INDEX", DEFAULT_INDEX, "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_TORCH_BACKEND")
BUNDLE_ADVICE = "is there room on the disk? Otherwise make the bundle again, with this version of Trackbed"


@dataclass(frozen=True)
class Extra:
    """Requirements installed after the lock, from ``index`` ("": the usual one), with hashes where they are known.

    ``alone``: without their dependencies, which earlier ones brought.
    """

    requirements: Path
    index: str = ""
    hashed: bool = False
    alone: bool = False

    @property
    def secret(self) -> bool:
        """Whether its index asks for a login, which a command's words would show: uv's environment has it then."""
        return bool(gpu_wheels.secret(self.index))

    def argv(self, wheels: Path | None = None) -> list[str]:
        """What ``uv pip install`` is told. ``wheels``: a folder that all comes from, and no index is asked."""
        return [
            *(["--require-hashes"] if self.hashed else []),
            *(["--no-deps"] if self.alone else []),
            *(["--index-url", self.index] if self.index and not wheels and not self.secret else []),
            "--requirement",
            str(self.requirements),
        ]


@dataclass(frozen=True)
class Venv:
    """A venv whose folder's name carries the hash of its lock: a changed lock is another folder.

    ``upgraded``: earlier versions let a notebook install into it, another version of a package is no damage.
    """

    root: Path
    name: str
    lock: Path
    upgraded: bool = False
    extras: tuple[Extra, ...] = ()
    made: str = ""  # its folder's name where it is not named by this lock

    @property
    def folder(self) -> Path:
        if self.made:
            return self.root / self.made
        # another login of the same index leads to the same packages
        further = [item for extra in self.extras for item in (extra.requirements, url_logins.removed(extra.index))]
        return self.root / f"{self.name}-{digests.digest(self.lock, *further)}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        """site-packages; a guess by this interpreter's version until the venv is made."""
        result = sorted((self.folder / "lib").glob("python3*/site-packages"))
        return result[0] if result else self.folder / "lib" / "python3" / "site-packages"

    @property
    def _cache(self) -> Path:
        """uv's, where its usual one cannot be linked to: what several venvs have in common is on the disk once."""
        return self.root / ".cache"

    @property
    def _marker(self) -> Path:
        return self.folder / ".complete"

    @property
    def present(self) -> bool:
        """Whether nobody removed it: a look that costs nothing, and no `problem`."""
        return all(os.path.exists(path) for path in (self._marker, self.python, self.site))

    def problem(self) -> str:
        """Why it has to be made: "" when every file that its packages list is there."""
        if not self.folder.exists():
            return "the first time" if not self.outdated() else "its lock changed"
        if not safe_files.is_folder(self.folder, os.geteuid()):
            return "another account could change it"  # nothing in it is run before it is made again
        if not self._marker.exists() or not self._marker.stat().st_size:
            return "it was half-made"
        argv = [
            str(self.python),
            *("-I", "-S"),  # what a site's own start-up files print is no missing file
            str(CHECK),
            str(self.site),
            str(self._marker),
            *(["upgraded"] if self.upgraded else []),
        ]
        done = commands.attempt(argv, CHECK_SECONDS)
        if done.code == commands.TIMED_OUT:
            return ""  # a slow disk: nothing is known to be missing
        if done.code:
            return "its Python is gone" if done.code == commands.NOT_BEGUN else "its Python does not start"
        return f"{done.stdout} is missing" if done.stdout else ""

    def commands(self, uv: str, interpreter: str = "", wheels: Path | None = None) -> list[list[str]]:
        """What makes it: the venv, its lock, and what comes after the lock. ``interpreter``: "" for uv's choice.

        ``wheels``: a folder that all comes from, and no index is asked.
        """
        python = ["--python", str(self.python)]
        chosen = ["--python", interpreter] if interpreter else []
        given = ["--offline", "--no-index", "--find-links", str(wheels)] if wheels else []
        return [
            [uv, "venv", "--quiet", "--clear", "--seed", *given, *chosen, str(self.folder)],
            [uv, "pip", "sync", "--require-hashes", "--no-progress", *given, *python, str(self.lock)],
            *([uv, "pip", "install", "--no-progress", *given, *python, *extra.argv(wheels)] for extra in self.extras),
        ]

    def make(self, interpreter: str, progress: ProgressReporter, wheels: Path | None = None) -> None:
        """Make it again, from a folder of ``wheels`` where one is given. Raises TrackbedError with uv's last words.

        What a power cut left of a package in uv's cache is thrown away, and the packages are fetched once more.
        """
        uv = uv_program()
        environment = {**os.environ, **uv_settings(os.environ), "VIRTUAL_ENV": str(self.folder)}
        if wheels:
            environment = {name: value for name, value in environment.items() if name not in UV_SOURCES}
        linkable = _linkable_cache(uv, environment, self.root)
        if not linkable:
            self._use_own_cache(environment)
        argv, lines = self._install(uv, interpreter, environment, progress, wheels)
        if damaged := _damaged_wheel(lines) if argv else _cut_short(self.site):
            progress.step(f"uv's cache is damaged ({damaged}): fetching the packages of {self.name} again")
            if not linkable or not self._clean(uv, environment, progress):
                safe_files.remove(self._cache)  # what other venvs link to stays theirs
                self._use_own_cache(environment)
            argv, lines = self._install(uv, interpreter, environment, progress, wheels)
            if not argv and (damaged := _cut_short(self.site)):
                progress.step(f"{damaged} is not what its package lists, also after it was fetched again")
        if argv:
            raise self._failure(argv, [line.strip() for line in lines], wheels)
        self._finish()

    def _use_own_cache(self, environment: dict[str, str]) -> None:
        safe_files.own_folder(self._cache, 0o700)
        environment["UV_CACHE_DIR"] = str(self._cache)
        environment.pop("UV_NO_CACHE", None)
        if environment.get("UV_LINK_MODE") == SYMLINK:
            del environment["UV_LINK_MODE"]

    def _clean(self, uv: str, environment: Mapping[str, str], progress: ProgressReporter) -> bool:
        """Remove the packages from uv's usual cache; whether it could be done. uv waits for others that use it."""
        done = commands.attempt([uv, "cache", "clean", *self._packages()], CLEAN_SECONDS, env=environment, cwd="/")
        if done.code:
            progress.step(f"uv's cache stays as it is ({commands.last_line(done.stderr)}): using {self._cache}")
        return not done.code

    def _install(
        self, uv: str, interpreter: str, environment: dict[str, str], progress: ProgressReporter, wheels: Path | None
    ) -> tuple[list[str], list[str]]:
        """Run what makes it; gives the command that failed, which is empty when all went well, and its last lines."""
        safe_files.remove(self.folder)
        for argv in self.commands(uv, interpreter, wheels):
            given = environment
            if not wheels and (extra := self.installed_by(argv)) and extra.secret:
                given = {**environment, DEFAULT_INDEX: extra.index}
                given.pop("UV_INDEX_URL", None)
            code, lines = commands.follow(argv, progress.output, env=given, cwd=self.root, umask=0o022)
            if code:
                return argv, lines
        return [], []

    def _failure(self, argv: list[str], lines: list[str], wheels: Path | None) -> TrackbedError:
        reason, said = _reason(lines), tuple(line for line in lines if line)[-8:]
        if wheels:
            return TrackbedError(f"installing {self.name} from the bundle failed: {reason}", BUNDLE_ADVICE, said)
        if Path(argv[-1]).name.startswith("torch-"):
            extra = self.installed_by(argv)
            index = extra.index if extra and extra.index else "the package index"
            return TrackbedError(
                f"PyTorch could not be installed from {url_logins.masked(index)}: {reason}",
                "TORCH_INDEX names a mirror; TORCH=none goes on without PyTorch",
                said,
            )
        return TrackbedError(f"installing {self.name} failed: {reason}", _advice(reason), said)

    def installed_by(self, argv: list[str]) -> Extra | None:
        """Which of the extras a command installs."""
        return next((extra for extra in self.extras if str(extra.requirements) == argv[-1]), None)

    def _packages(self) -> list[str]:
        """The names of what is installed."""
        locks = [self.lock, *(extra.requirements for extra in self.extras)]
        return [
            *SEEDS,
            *(name for file in locks for name in re.findall(r"^[A-Za-z0-9][\w.-]*", file.read_text(), re.M)),
        ]

    def _finish(self) -> None:
        packages = sorted(p.parent.name for p in self.site.glob("*.dist-info/RECORD"))
        self.folder.chmod(0o755)
        self.close_lock()
        files.sync_file_system(self.folder)  # uv syncs nothing, and a power cut would leave emptied files
        files.replace(self._marker, ("\n".join(packages) + "\n").encode(), 0o644)  # last: without it, it is half-made

    def close_lock(self) -> bool:
        """uv's lock file is everybody's, and who holds it keeps uv waiting. Tells whether it was open until now."""
        path = self.folder / ".lock"
        try:
            if not safe_files.is_folder(self.folder, os.geteuid()) or not path.lstat().st_mode & 0o022:
                return False
            path.chmod(0o644)  # nobody else can put a link into that folder
        except OSError:
            return False
        return True

    def outdated(self) -> list[Path]:
        """Those of other locks, which are there until `remove_outdated`."""
        return [p for p in self.root.glob(f"{self.name}-*") if p != self.folder]

    def in_use(self) -> Venv:
        """The one that is there: after an update of the clone that of the earlier lock, until the next start."""
        earlier = [] if self.folder.exists() else self.outdated()
        return replace(self, made=earlier[0].name) if len(earlier) == 1 else self

    def remove_outdated(self) -> None:
        """Remove the venvs of earlier locks; only after what ran from them was replaced."""
        for path in (*(outdated := self.outdated()), *([self._cache] if outdated else [])):
            safe_files.remove(path)  # of the cache too: what the present venvs link to stays theirs

    def scripts(self, python: Path) -> Path:
        """A folder with the packages' programs, made to run with another ``python`` that sees these packages too."""
        folder = self.folder / "scripts"
        created = folder / ".python"
        if not safe_files.is_file(created, os.fsencode(python), 0o644, os.geteuid()) or not all(
            path.stat().st_size for path in folder.iterdir()
        ):  # emptied by a power cut
            safe_files.own_folder(folder, 0o755)
            for path in sorted((self.folder / "bin").iterdir()):
                if path.is_file() and (content := rewritten(path.read_bytes(), self.folder / "bin", python)):
                    safe_files.write(folder / path.name, content, 0o755)
            safe_files.write(created, os.fsencode(python), 0o644)  # last: half of them are made again
        return folder

    def versions(self, names: tuple[str, ...]) -> dict[str, str]:
        result = {}
        for name in names:
            for path in self.site.glob(f"{name.replace('-', '_')}-*.dist-info"):
                result[name] = path.name.removesuffix(".dist-info").rpartition("-")[2]
        return result


def rewritten(content: bytes, folder: Path, python: Path) -> bytes:
    """A script of a venv's ``folder`` of programs that runs with another ``python``; b"" for what is no such script."""
    if not content.startswith(b"#!"):
        return b""
    lines = content.split(b"\n")
    inside = re.compile(re.escape(os.fsencode(folder)) + rb"/python[0-9.]*\b")
    used = 1 if inside.search(lines[0]) else 3  # a shell's lines, where the path is too long for the kernel's own
    if not inside.search(b"\n".join(lines[:used])):
        return b""
    quoted = os.fsencode(shlex.quote(str(python)))
    return b"\n".join([b"#!/bin/sh", b"'''exec' " + quoted + b' "$0" "$@"', b"' '''", *lines[used:]])


def _reason(lines: list[str]) -> str:
    """uv's innermost cause: what follows it are hints about uv's own flags."""
    said = [line for line in lines if line and not re.match(r"(\x1b\[[0-9;]*m)*\s*hint:", line)]
    return re.sub(r"^(caused by|cause): ", "", said[-1], flags=re.IGNORECASE) if said else "no message"


def _damaged_wheel(lines: list[str]) -> str:
    """The package that uv could not link from its cache; "" where the network, a right or a full disk is to blame."""
    said = "\n".join(lines)
    match = re.search(r"Failed to install: (\S+\.whl)", said)
    return match[1] if match and set(map(int, re.findall(r"os error (\d+)", said))) <= DAMAGE else ""


def _cut_short(site: Path) -> str:
    """A file of a package that is shorter than its RECORD says, as a power cut leaves what uv unpacked; "" for none."""
    least: dict[str, int] = {}  # a file that two packages bring is one of them
    for record in site.glob("*.dist-info/RECORD"):
        try:
            with record.open(newline="") as stream:
                rows = {row[0]: row[-1] for row in csv.reader(stream) if row}
        except (OSError, ValueError, csv.Error):
            rows = {}  # no text any more
        if f"{record.parent.name}/{record.name}" not in rows:
            return f"{record.parent.name}/{record.name}"
        for path, size in rows.items():
            expected = int(size) if size.isdecimal() else 0
            least[path] = min(expected, least.get(path, expected))
    for path, expected in least.items():
        try:
            if (site / path).stat().st_size < expected:
                return path
        except (OSError, ValueError):
            return path
    return ""


def _advice(reason: str) -> str:
    if "certificate" in reason:
        return (
            "a proxy on the way has certificates of its own: `export PIP_CERT=FILE` names the file with your "
            "site's authorities (PEM), then the same command again"
        )
    if reason.startswith("The wheel is invalid"):
        return (
            "it was fetched twice: look for errors of the disk with `dmesg`, or name another index or mirror in pip's "
            "settings (PIP_INDEX_URL, pip config)"
        )
    return (
        "is this machine online? Behind a proxy or a mirror, pip's settings (PIP_INDEX_URL, PIP_CERT, "
        "pip config) are honoured; for a machine without a network, `invoke bundle` on one that has one"
    )


def _cache(uv: str, environment: Mapping[str, str]) -> Path | None:
    """uv's cache, or the folder above it that is there."""
    done = commands.attempt([uv, "cache", "dir"], 30, env=environment, cwd="/")
    if done.code or not done.stdout.strip():
        return None
    folder = Path(done.stdout.strip())
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _linkable_cache(uv: str, environment: Mapping[str, str], root: Path) -> bool:
    """Whether uv can keep in its usual cache what it downloads, and link the venvs below ``root`` to it: some room, the
    right to write, the same file system, and, for root, a way to it that is root's alone. One that was asked for may be
    on another. Not by symbolic links: cleaning the cache would empty the venvs.
    """
    folder = _cache(uv, environment)
    try:
        return (
            folder is not None
            and environment.get("UV_LINK_MODE") != SYMLINK
            and os.access(folder, os.W_OK | os.X_OK)
            and shutil.disk_usage(folder).free > CACHE_LEAST
            and (bool(environment.get("UV_CACHE_DIR")) or _device(folder) == _device(root))
            # root runs what it finds there, and a link to another account's file is that account's to change
            and (os.geteuid() != 0 or safe_files.is_roots_alone(folder))
        )
    except OSError:
        return False


def _device(folder: Path) -> int:
    return folder.stat().st_dev


def interpreter(identity: Mapping[str, Any], minor: str = "") -> str:
    """A Python 3.11+ that the services' user can run: the toolkit's own, else one of the system.

    ``minor``: the only version that will do, as in "3.13". A Python below /root is not reachable for any other user.
    Raises EngineUnavailable when there is none.
    """
    own = os.path.realpath(sys.executable)
    candidates = [
        own,
        *(f"/usr/bin/python3{minor}" for minor in (".13", ".12", ".11", ".14", "")),
        "/usr/local/bin/python3",
    ]
    fits = f"sys.version_info[:2] == {tuple(map(int, minor.split('.')))}" if minor else f"sys.version_info >= {MINIMUM}"
    test = f"import sys, ctypes; sys.exit(not {fits})"
    for candidate in candidates:
        if commands.attempt([candidate, "-I", "-c", test], 30, cwd="/", env={}, **identity).code == 0:
            return candidate
    if minor:
        raise EngineUnavailable(
            f"the bundle has wheels for Python {minor}, and this machine has none that the services can run",
            f"install python{minor} from the distribution; or make the bundle on a machine with this one's Python",
        )
    raise EngineUnavailable(
        f"{own} cannot be run by the user that the services run as, and the system has no Python 3.11 or newer",
        "install python3 from the distribution, or run as a normal user",
    )
