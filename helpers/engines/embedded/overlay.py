"""Makes the notebook's own environment, or puts it right: small, over the locked one, its packages come first.

Run by the locked environment's Python as the account that owns the new one, in which `pip` installs what a notebook
wants; nothing but the standard library is there.

    overlay.py TARGET [HOME]      HOME gets a .profile, so that login shells know the notebook's programs
"""

from __future__ import annotations

import os
import sys
import sysconfig

LINK = "_trackbed.pth"  # adds the locked packages behind the own ones, with their own .pth files

LOGIN_FILES = (".bash_profile", ".bash_login", ".profile")  # bash reads the first that is there
PROFILE = """# Read by login shells (bash -l, tmux). Yours to change.
if [ -n "${BASH_VERSION:-}" ] && [ -r ~/.bashrc ]; then . ~/.bashrc; fi
if [ -r "${TRACKBED_STARTUP:-}/programs.sh" ]; then . "$TRACKBED_STARTUP/programs.sh"; fi
"""


def link(path: str, target: str) -> None:
    if not os.path.islink(path) or os.readlink(path) != target:
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(target, path)


def text(path: str, content: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as stream:
        stream.write(content)
    os.replace(path + ".new", path)


def profile(home: str) -> None:
    """What login shells read there, unless the account has a file of its own for them."""
    if not any(os.path.lexists(os.path.join(home, name)) for name in LOGIN_FILES):
        text(os.path.join(home, ".profile"), PROFILE)


def main(target: str, home: str = "") -> None:
    python = os.path.realpath(sys.executable)
    locked = sysconfig.get_path("purelib")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = os.path.join(target, "lib", version, "site-packages")
    scripts = os.path.join(target, "bin")
    os.makedirs(own, exist_ok=True)
    os.makedirs(scripts, exist_ok=True)
    link(os.path.join(target, "lib64"), "lib")
    link(os.path.join(scripts, "python"), python)
    for name in ("python3", version):
        link(os.path.join(scripts, name), "python")
    text(
        os.path.join(target, "pyvenv.cfg"),
        f"home = {os.path.dirname(python)}\nversion = {sys.version.split()[0]}\ninclude-system-site-packages = false\n",
    )
    text(os.path.join(own, LINK), f"import site; site.addsitedir({locked!r})\n")
    if home:
        profile(home)


if __name__ == "__main__":
    main(*sys.argv[1:])
