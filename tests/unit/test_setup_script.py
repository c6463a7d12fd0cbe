"""What setup.sh chooses and leaves, with programs that only answer (whole: tests/integration/test_setup.py)."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers import site_network

ROOT = Path(__file__).resolve().parents[2]
BASE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
HIDDEN = re.compile(r"(python|pip|uv|apt|dnf|zypper|pacman)")
# as a Python that does for everything: the environment that it makes has the same program in it
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "#!$3/bin/python" >"$3/bin/pip";;
  "-m pip install "*) printf '#!/bin/sh\\necho invoked "$@"\\n' >"${0%/*}/invoke"; chmod +x "${0%/*}/invoke";;
esac
"""

PAGE = "  see docs/troubleshooting.md#setup"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "my clone"
    folder.mkdir()
    shutil.copy(ROOT / "setup.sh", folder)
    (folder / "requirements.txt").touch()
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with what the script needs, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for path in Path(place).iterdir():
            if not HIDDEN.match(path.name) and not os.path.lexists(folder / path.name):
                (folder / path.name).symlink_to(path)
    return folder


def run(
    clone: Path, *places: object, words: Sequence[str] = (), cwd: Path = Path("/"), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(clone / "setup.sh"), "up", *words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={"PATH": ":".join(map(str, places)), "HOME": str(clone.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def on_a_terminal(clone: Path, *places: object) -> tuple[int, str]:
    """Exit code and screen of ``setup.sh up``; its stdout is a pipe, as in ``| tee``, and at its end by then."""
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        ["/bin/sh", str(clone / "setup.sh"), "up"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={"PATH": ":".join(map(str, places)), "HOME": str(clone.parent)},
    ) as process:
        os.close(terminal)
        process.communicate(timeout=60)
    seen = b""
    with contextlib.suppress(OSError):  # the terminal's last program has ended
        while piece := os.read(screen, 4096):
            seen += piece
    os.close(screen)
    return process.returncode, seen.decode()


def without_pip(clone: Path) -> Path:
    """The .venv as `uv venv` makes it; gives its folder of programs."""
    subprocess.run([BASE, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True, timeout=60)
    return clone / ".venv" / "bin"


@pytest.mark.parametrize("way", ["itself", "a linked folder", "a linked program", "from its folder"])
def test_the_environment_is_not_made_with_a_python_that_goes_with_it(
    clone: Path, tools: Path, tmp_path: Path, way: str
) -> None:
    inside = without_pip(clone)
    first: object = inside
    if way == "a linked folder":
        first = tmp_path / "link"
        (tmp_path / "link").symlink_to(inside)
    elif way == "a linked program":
        first = tmp_path / "programs"
        (tmp_path / "programs").mkdir()
        (tmp_path / "programs" / "python3").symlink_to(inside / "python3")
    elif way == "from its folder":
        first = ".venv/bin"
    # ends where the environment is made, which would take seconds
    other = program(tmp_path / "other" / "python3", f'#!/bin/sh\n[ "$2" != venv ] || exit 1\nexec {BASE} "$@"\n')
    done = run(clone, first, other.parent, tools)
    assert f"setup: making .venv with {other}\n" in done.stderr


def test_where_only_the_environment_is_on_the_path_the_python_that_it_came_from_is_taken(
    clone: Path, tools: Path
) -> None:
    base = program(clone.parent / "base" / "python3", PYTHON)
    program(
        clone / ".venv" / "bin" / "python",
        f'#!/bin/sh\ncase "$*" in *"print(sys._base_executable)") echo "{base}";; *) exit 1;; esac\n',
    )
    done = run(clone, clone / ".venv" / "bin", tools)
    assert f"setup: making .venv with {base}\n" in done.stderr and done.returncode == 0, done.stderr


def test_a_step_that_takes_long_shows_its_seconds_on_a_terminal(clone: Path, tools: Path) -> None:
    slow = PYTHON.replace('"-m pip install "*) ', '"-m pip install "*) sleep 3.5; ')
    base = program(clone.parent / "base" / "python3", slow)
    code, seen = on_a_terminal(clone, base.parent, tools)
    assert code == 0 and "installing the requirements\r\n  3 s \r" in seen, seen
    assert "making .venv" in seen and "1 s" not in seen  # a short one shows none


OLD_UV = '#!/bin/sh\ncase "$*" in *--no-bin*|*--managed-python*) echo "unexpected argument" >&2; exit 2;; esac\n'


def test_a_uv_that_lacks_our_flags_is_left_alone(clone: Path, tools: Path, tmp_path: Path) -> None:
    old_uv = program(tmp_path / "old" / "uv", OLD_UV)
    python = program(tmp_path / "brought" / "python3", PYTHON)
    new_uv = f'#!/bin/sh\ncase "$*" in *--help*) ;; *" find "*) echo "{python}";; esac\n'
    # a Python too old for us, whose pip installs the locked uv
    program(
        tmp_path / "old" / "python3",
        f"""#!/bin/sh
case "$*" in
  *version_info*) exit 1;;
  *"pip install"*) mkdir -p "{clone}/.venv-tools/bin"; cp "{tmp_path}/new-uv" "{clone}/.venv-tools/bin/uv";;
esac
""",
    )
    program(tmp_path / "new-uv", new_uv)
    done = run(clone, old_uv.parent, tools)
    assert "installing uv, which brings a Python" in done.stderr
    assert done.returncode == 0 and done.stdout == "invoked up\n", done.stderr
    (tmp_path / "old" / "python3").unlink()
    shutil.rmtree(clone / ".venv")
    shutil.rmtree(clone / ".venv-tools")
    program(old_uv, new_uv)  # one that knows them is taken
    done = run(clone, old_uv.parent, tools)
    assert done.returncode == 0 and "installing uv" not in done.stderr


@pytest.mark.parametrize(("options", "told"), [("--system-certs", "1-"), ("--native-tls", "-1")])
def test_each_uv_is_told_by_its_own_name_to_trust_what_the_system_trusts(
    clone: Path, tools: Path, tmp_path: Path, options: str, told: str
) -> None:
    if not any(Path(path).is_file() for path in site_network.SYSTEM):
        pytest.skip("this system has no certificates")
    python = program(tmp_path / "brought" / "python3", PYTHON)
    program(
        tmp_path / "bin" / "uv",
        f"""#!/bin/sh
case "$*" in
  *--help*) echo "  {options}";;
  *" find "*) echo "{python}";;
  *) echo "${{UV_SYSTEM_CERTS:-}}-${{UV_NATIVE_TLS:-}}" >"{tmp_path}/noted";;
esac
""",
    )
    done = run(clone, tmp_path / "bin", tools)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "noted").read_text() == f"{told}\n"
    shutil.rmtree(clone / ".venv")
    assert run(clone, tmp_path / "bin", tools, SSL_CERT_FILE="/their.pem").returncode == 0
    assert (tmp_path / "noted").read_text() == "-\n"


def test_a_python_that_uv_brought_and_that_does_not_start_is_named_with_the_reason(
    clone: Path, tools: Path, tmp_path: Path
) -> None:
    program(
        tmp_path / "bin" / "uv",
        """#!/bin/sh
case "$*" in
  *" find --managed-python --no-project "*) echo "error: failed" >&2; echo "  libpython.so: not there" >&2; exit 2;;
esac
""",
    )
    done = run(clone, tmp_path / "bin", tools)
    assert done.returncode == 1
    assert "setup: the Python that uv brought does not start:   libpython.so: not there\n" in done.stderr, done.stderr


# without ensurepip and pip, as Debian ships it; pip works with the wheel that apt fetches
BARE = """#!/bin/sh
case "$*" in
  *"import ensurepip"*) exit 1;;
  "-m venv --without-pip "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";;
  "-m venv "*) exit 1;;
  *"-m pip --version") [ -e "${0%/*}/pip" ] || case "${PYTHONPATH:-}" in */root/*/pip-1.whl:*) ;; *) exit 1;; esac;;
  *" --no-index "*/pip-1.whl) echo "#!${0%/*}/python" >"${0%/*}/pip";;
  "-m pip install "*) printf '#!/bin/sh\\necho invoked "$@"\\n' >"${0%/*}/invoke"; chmod +x "${0%/*}/invoke";;
esac
"""
APT = """#!/bin/sh
case "$*" in
  *"download python-pip-whl") [ -e "{listed}" ] && touch python-pip-whl_1_all.deb;;
  *" update") touch "{listed}";;
  *) exit 1;;
esac
"""
UNPACK = '#!/bin/sh\nmkdir -p "$3/usr/share/python-wheels"; touch "$3/usr/share/python-wheels/pip-1.whl"\n'


@pytest.mark.parametrize("listed", [True, False])
def test_pip_comes_from_a_package_that_nobody_has_to_install(
    clone: Path, tools: Path, tmp_path: Path, listed: bool
) -> None:
    program(tmp_path / "bin" / "python3", BARE)
    program(tmp_path / "bin" / "apt-get", APT.format(listed=tmp_path / "lists"))
    (tools / "dpkg-deb").unlink(missing_ok=True)
    program(tools / "dpkg-deb", UNPACK)
    if listed:
        (tmp_path / "lists").touch()
    done = run(clone, tmp_path / "bin", tools)
    assert "fetching pip from the distribution's packages" in done.stderr
    assert done.returncode == 0 and done.stdout == "invoked up\n", done.stderr
    assert not (clone / ".venv-tools" / "apt").exists()


@pytest.mark.parametrize(("who", "sandboxed"), [("0", True), ("1000", False)])
def test_what_root_fetches_is_fetched_by_apts_own_account(
    clone: Path, tools: Path, tmp_path: Path, who: str, sandboxed: bool
) -> None:
    program(tmp_path / "bin" / "python3", BARE)
    program(tmp_path / "bin" / "id", f"#!/bin/sh\necho {who}\n")
    program(tmp_path / "bin" / "chown", f'#!/bin/sh\necho "$@" >>"{tmp_path}/given"\n')
    program(
        tmp_path / "bin" / "apt-get",
        f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n' + APT.format(listed=tmp_path / "lists").partition("\n")[2],
    )
    (tools / "dpkg-deb").unlink(missing_ok=True)
    program(tools / "dpkg-deb", UNPACK)
    done = run(clone, tmp_path / "bin", tools)
    assert done.returncode == 0, done.stderr
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if "Dir::Cache=" in line]
    assert asked and all(("APT::Sandbox::User=root" in line) is not sandboxed for line in asked)
    assert (tmp_path / "given").exists() is sandboxed
    if sandboxed:
        own = clone / ".venv-tools" / "apt"
        assert (tmp_path / "given").read_text().splitlines()[
            0
        ] == f"_apt {own}/debs {own}/lists/partial {own}/cache/archives/partial"


@pytest.mark.parametrize(
    ("who", "sudo", "line"),
    [
        ("0", True, "apt-get update && apt-get install -y python3-venv"),
        ("1000", True, "sudo sh -c 'apt-get update && apt-get install -y python3-venv'"),
        ("1000", False, "su -c 'apt-get update && apt-get install -y python3-venv'"),
    ],
)
def test_the_line_to_type_is_one_that_works_for_who_types_it(
    clone: Path, tools: Path, tmp_path: Path, who: str, sudo: bool, line: str
) -> None:
    program(tmp_path / "bin" / "python3", BARE)
    program(tmp_path / "bin" / "apt-get", "#!/bin/sh\nexit 1\n")
    program(tmp_path / "bin" / "id", f"#!/bin/sh\necho {who}\n")
    (tools / "sudo").unlink(missing_ok=True)
    if sudo:
        program(tools / "sudo", "#!/bin/sh\n")
    done = run(clone, tmp_path / "bin", tools)
    assert done.returncode == 1 and "python3-venv is missing" in done.stderr
    again = "     Then type the same line again. Behind a proxy, before that: export http_proxy=URL https_proxy=URL"
    assert done.stderr.endswith(f"\n  -> {line}\n{again}\n{PAGE}\n"), done.stderr
    assert done.stderr.count("fetching pip") == 1


def test_apt_gets_the_proxies_by_the_names_that_it_knows(clone: Path, tools: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3", BARE)
    program(tmp_path / "bin" / "apt-get", f'#!/bin/sh\necho "$http_proxy $https_proxy" >>"{tmp_path}/asked"; exit 1\n')
    done = run(clone, tmp_path / "bin", tools, HTTP_PROXY="http://a:1", HTTPS_PROXY="http://b:2")
    assert set((tmp_path / "asked").read_text().splitlines()) == {"http://a:1 http://b:2"}
    assert done.stderr.endswith(f"\n     Then type the same line again.\n{PAGE}\n")


def test_nothing_is_left_among_the_temporary_files(clone: Path, tools: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3", PYTHON)
    (tmp_path / "tmp").mkdir()
    done = run(clone, tmp_path / "bin", tools, TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0 and done.stdout == "invoked up\n", done.stderr
    assert not list((tmp_path / "tmp").iterdir())


def test_pip_keeps_nothing_where_the_home_is_not_to_be_written(clone: Path, tools: Path, tmp_path: Path) -> None:
    noted = f'  "-m pip install "*) echo "$PIP_NO_CACHE_DIR" >"{tmp_path}/noted";'
    program(tmp_path / "bin" / "python3", PYTHON.replace('  "-m pip install "*)', noted))
    assert run(clone, tmp_path / "bin", tools, HOME=str(tmp_path / "none")).returncode == 0
    assert (tmp_path / "noted").read_text() == "1\n"
    (clone / ".venv" / ".requirements").unlink()
    assert run(clone, tmp_path / "bin", tools).returncode == 0
    assert (tmp_path / "noted").read_text() == "\n"


def test_without_a_home(clone: Path, tools: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3", BARE)
    done = subprocess.run(
        ["/bin/sh", str(clone / "setup.sh"), "up"],
        cwd="/",
        stdin=subprocess.DEVNULL,
        check=False,
        env={"PATH": f"{tmp_path}/bin:{tools}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "not set" not in done.stderr and "python3-venv is missing" in done.stderr


def test_the_guide_has_the_words_of_the_script() -> None:
    script = (ROOT / "setup.sh").read_text()
    named = re.findall(r"^\| `setup: (.*?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert named
    for words in named:
        first, *rest = map(str.strip, words.split("..."))
        assert all(piece in script for piece in rest)
        assert not first or f'fail "{first}' in script, first


@pytest.mark.parametrize("words", [("--from-bundle=b",), ("--from-bundle", "b"), ("--from-bundle={}/b",)])
def test_a_bundles_path_is_meant_from_where_it_is_typed_and_nothing_else_is_asked(
    clone: Path, tools: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    inside = program(tmp_path / "base" / "python3", PYTHON.replace("case", 'echo "$@" >>"$HOME/asked"\ncase', 1))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b").touch()
    done = run(clone, inside.parent, tools, words=[*(word.format(elsewhere) for word in words), "--yes"], cwd=elsewhere)
    assert done.returncode == 0 and done.stdout == f"invoked up --from-bundle={elsewhere}/b --yes\n", done.stderr
    asked = (tmp_path / "asked").read_text()
    assert f"-I {clone}/helpers/bundle_file.py {elsewhere}/b {clone}/.venv-tools/bundle" in asked
    installed = next(line for line in asked.splitlines() if "pip install" in line)
    assert "--no-index" in installed and "--require-hashes" in installed


@pytest.mark.parametrize("word", ["--from-bundle=~/b", "--from-bundle"])
def test_a_bundle_in_the_home_folder(clone: Path, tools: Path, tmp_path: Path, word: str) -> None:
    inside = program(tmp_path / "base" / "python3", PYTHON)
    (tmp_path / "b").touch()
    done = run(clone, inside.parent, tools, words=[word] if "=" in word else [word, "~/b"])
    assert done.stdout == f"invoked up --from-bundle={tmp_path}/b\n", done.stderr


@pytest.mark.parametrize("word", ["--from-bundle=", "--from-bundle"])
def test_a_bundle_without_a_name_does_not_end_in_a_download(
    clone: Path, tools: Path, tmp_path: Path, word: str
) -> None:
    inside = program(tmp_path / "base" / "python3", PYTHON)
    done = run(clone, inside.parent, tools, words=[word])
    assert done.returncode == 1 and not (clone / ".venv").exists()
    assert "setup: --from-bundle names no file\n  -> sh setup.sh up --from-bundle=FILE\n" in done.stderr


def test_a_bundle_that_is_not_there_is_not_called_damaged(clone: Path, tools: Path, tmp_path: Path) -> None:
    base = program(tmp_path / "base" / "python3", f'#!/bin/sh\nexec {BASE} "$@"\n')
    done = run(clone, base.parent, tools, words=["--from-bundle=b"], cwd=tmp_path)
    assert done.returncode == 1 and not (clone / ".venv").exists()
    assert f"setup: there is no file {tmp_path}/b\n  -> name the bundle" in done.stderr
    assert "copy it again" not in done.stderr and "Errno" not in done.stderr


def test_a_file_that_is_no_bundle_ends_setup_with_the_reason(clone: Path, tools: Path, tmp_path: Path) -> None:
    (clone / "helpers").mkdir()
    shutil.copy(ROOT / "helpers" / "bundle_file.py", clone / "helpers")
    (tmp_path / "b").write_bytes(b"nothing" * 999)
    base = program(tmp_path / "base" / "python3", f'#!/bin/sh\nexec {BASE} "$@"\n')
    done = run(clone, base.parent, tools, words=["--from-bundle=b"], cwd=tmp_path)
    assert done.returncode == 1 and not (clone / ".venv").exists()
    assert (
        f"setup: the bundle {tmp_path}/b was not used: it is no bundle of Trackbed, or it is damaged\n" in done.stderr
    )
