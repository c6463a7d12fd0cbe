"""README's line: setup.sh on a machine with a fitting Python, and on one whose Python is too old (Ubuntu 22.04)."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HIDDEN = re.compile(r"(python|pip|uv|apt|dnf|zypper|pacman)")
VERSION = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))
ARCHIVE = f"cpython-{VERSION}%2B20260101-{platform.machine()}-unknown-linux-gnu-install_only_stripped.tar.gz"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The script and the one requirement that it starts, in a folder with a blank in its name."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    shutil.copy(ROOT / "setup.sh", folder)
    lock = (ROOT / "requirements.txt").read_text()
    blocks = re.findall(r"^(?:invoke|uv)==.*?[^\\]$", lock, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    (folder / "requirements.txt").write_text("\n".join(blocks) + "\n")
    return folder


def run(clone: Path, *words: str, cwd: Path | str = "/", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(clone / "setup.sh"), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_line_works_from_any_folder_and_a_second_time(clone: Path, tmp_path: Path) -> None:
    first = run(clone, "--version", UV=f"{tmp_path}/none")
    assert first.returncode == 0 and first.stdout.startswith("Invoke "), first.stderr
    assert "making .venv" in first.stderr
    second = run(clone, "--version", cwd=clone)
    assert second.returncode == 0 and second.stderr == ""

    (clone / ".venv" / ".requirements").unlink()  # interrupted, or made by hand: gone on with, not made again
    (clone / ".venv" / "kept").touch()
    again = run(clone, "--version")
    assert again.returncode == 0 and "making" not in again.stderr and (clone / ".venv" / "kept").exists()

    moved = clone.rename(tmp_path / "elsewhere")  # its programs name the old place
    done = run(moved, "--version")
    assert done.returncode == 0 and "making .venv" in done.stderr


def old_machine(folder: Path, *more: tuple[str, str]) -> str:
    """A PATH where python3 is a Python 3.10 and nothing else brings a newer one."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for path in Path(place).iterdir():
            if not HIDDEN.match(path.name) and not os.path.lexists(folder / path.name):
                (folder / path.name).symlink_to(path)
    old = folder / "python3"
    # it answers as 3.10 where it is asked for its version, and has no pip
    old.write_text(
        "#!/bin/sh\ncase \"$*\" in *version_info*|*pip*|*venv*) exit 1;; --version) echo 'Python 3.10.12';; esac\n"
    )
    old.chmod(0o755)
    return str(folder)


def test_without_a_python_and_without_pip_one_sentence_says_what_to_install(clone: Path, tmp_path: Path) -> None:
    done = run(clone, "up", PATH=old_machine(tmp_path / "bin"), HOME=str(tmp_path))
    assert done.returncode == 1
    assert "no Python 3.11 to 3.14 on PATH (python3 is Python 3.10.12)" in done.stderr
    assert "\n     Then type the same line again." in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the archive is named for Linux")
def test_uv_brings_a_python_from_a_mirror(clone: Path, tmp_path: Path) -> None:
    """The release page of uv's Pythons is not reached here: an archive as its, packed from this machine's Python."""
    stored = tmp_path / "mirror" / "20260101"
    stored.mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        skipped = re.search(
            r"/(test|site-packages|dist-packages|__pycache__|config-[^/]*|idlelib|lib2to3)(/|$)", entry.name
        )
        return None if skipped else entry

    with tarfile.open(stored / ARCHIVE.replace("%2B", "+"), "w:gz", compresslevel=1, dereference=True) as archive:
        archive.add(os.path.realpath(sys.executable), f"python/bin/python{MINOR}")
        archive.add(library, f"python/lib/python{MINOR}", filter=chosen)
        for path in Path(sysconfig.get_config_var("LIBDIR") or "/none").glob(f"libpython{MINOR}.so*"):
            archive.add(path, f"python/lib/{path.name}")
    key = f"cpython-{VERSION}-linux-{platform.machine()}-gnu"
    major, minor, patch = sys.version_info[:3]
    page = "https://github.com/astral-sh/python-build-standalone/releases/download"
    (tmp_path / "downloads.json").write_text(
        json.dumps(
            {
                key: {
                    "name": "cpython",
                    "arch": {"family": platform.machine(), "variant": None},
                    "os": "linux",
                    "libc": "gnu",
                    "major": major,
                    "minor": minor,
                    "patch": patch,
                    "prerelease": "",
                    "sha256": None,
                    "variant": None,
                    "url": f"{page}/20260101/{ARCHIVE}",
                    "build": "20260101",
                }
            }
        )
    )
    environment = {
        "PATH": old_machine(tmp_path / "bin"),
        "HOME": str(tmp_path),
        "UV": str(Path(sys.executable).with_name("uv")),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_PYTHON_INSTALL_DIR": str(tmp_path / "pythons"),
        "UV_PYTHON_INSTALL_MIRROR": (tmp_path / "mirror").as_uri(),
        "UV_PYTHON_DOWNLOADS_JSON_URL": str(tmp_path / "downloads.json"),
        "VIRTUAL_ENV": sys.prefix,
        "UV_PYTHON": sys.executable,
    }  # somebody's active environment
    done = run(clone, "--version", **environment)
    assert done.returncode == 0 and done.stdout.startswith("Invoke "), done.stderr
    assert os.path.realpath(clone / ".venv" / "bin" / "python").startswith(str(tmp_path / "pythons"))

    (tmp_path / "bin" / "sh").unlink(missing_ok=True)
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    shutil.rmtree(clone / ".venv")
    shutil.rmtree(tmp_path / "pythons")
    shutil.rmtree(tmp_path / "mirror")
    refused = run(clone, "--version", **environment)
    assert refused.returncode == 1 and "`export UV_PYTHON_INSTALL_MIRROR=URL` a mirror" in refused.stderr


def test_a_python_without_ensurepip_gets_pip_from_the_distributions_wheels(clone: Path, tmp_path: Path) -> None:
    """As Debian and Ubuntu ship it, without python3-venv; nobody has to be root."""
    if not list(Path("/usr/share/python-wheels").glob("pip-*.whl")):
        pytest.skip("NOT TESTED: the distribution's wheel of pip is not here (Debian: apt install python3-venv)")
    path = old_machine(tmp_path / "bin")
    python = tmp_path / "bin" / "python3"
    python.unlink()
    python.write_text('#!/bin/sh\ncase "$*" in *"import ensurepip"*) exit 1;; esac\nexec /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    done = run(clone, "--version", PATH=path, HOME=str(tmp_path))
    assert done.returncode == 0 and done.stdout.startswith("Invoke "), done.stderr
    assert run(clone, "--version", PATH=path, HOME=str(tmp_path)).stderr == "", "it is whole"
