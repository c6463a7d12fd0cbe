"""What somebody with a shell as a service's account does to what root will touch: links and planted programs."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Clone
from tests.integration import inspection

SECRET = "only root may read this line"
# appends nothing but its own uid, wherever it is run
CODE = """import os
try:
    open({ran!r} + '/' + str(os.getuid()), 'a').close()
except OSError:
    pass
"""
SCRIPT = '#!/bin/sh\n: >>{ran}/$(id -u)\nexec /bin/"$(basename "$0")" "$@"\n'
PROGRAMS = (
    "cat",
    "sh",
    "rm",
    "mv",
    "test",
    "id",
    "env",
    "psql",
    "pg_dump",
    "pg_restore",
    "initdb",
    "postgres",
    "uv",
    "kill",
    "useradd",
    "userdel",
    "mount",
    "supervisord",
)
# in each folder that the account may write to, whatever would be run from there
PLANT = """
import os, sys
top, code, script, programs = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split()
count = 0
for folder, names, files in os.walk(top):
    if not os.access(folder, os.W_OK | os.X_OK):
        continue
    wanted = {"sitecustomize.py": code, "usercustomize.py": code, "conftest.py": code, ".env": "", "pip.conf": "",
              ".bashrc": script, ".profile": script, ".psqlrc": chr(92) + "! id", ".pgpass": ""}
    if os.path.basename(folder) == "site-packages":
        line = "import os; exec(" + repr(code) + ")"
        wanted |= {"zz.pth": line, "aa.pth": line}
    if os.path.basename(folder) in ("bin", "scripts", "workspace"):
        wanted |= {name: script for name in programs}
    if os.path.basename(folder) == "config":
        wanted |= {"jupyter_server_config.py": code, "jupyter_lab_config.py": code}
    for name, text in wanted.items():
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            with open(path, "w") as stream:
                stream.write(text)
            os.chmod(path, 0o755)
            count += 1
print(count)
"""
# every entry of a folder that the account may write to becomes a link; what it owned is beside it
LINK = """
import os, sys
top, file, folder = sys.argv[1:]
count, queue = 0, [top]
while queue:
    here = queue.pop()
    try:
        entries = list(os.scandir(here))
    except OSError:
        continue
    for entry in entries:
        real = entry.is_dir(follow_symlinks=False)
        if not os.access(here, os.W_OK | os.X_OK):
            queue += [entry.path] if real else []
            continue
        target = folder if real else file
        try:
            os.rename(entry.path, entry.path + ".was")
            os.symlink(target, entry.path)
            count += 1
        except OSError:
            pass
    if os.access(here, os.W_OK | os.X_OK):  # and what root might make later
        for name in ("key", "supervisord.conf", "PG_VERSION", "pg_ident.conf", "pg_ident.conf.new", "PG_VERSION.new",
                     "state.json", "jupyter.log", "bin", "lib"):
            try:
                os.symlink(file, os.path.join(here, name))
            except OSError:
                pass
print(count)
"""


@dataclass
class Canary:
    """A tree that only root may read, its state when it was made, and a folder where planted code leaves its uid."""

    folder: Path
    before: dict[str, tuple[int, ...]]

    @property
    def ran(self) -> set[int]:
        return {int(path.name) for path in (self.folder / "ran").iterdir()}

    @property
    def now(self) -> dict[str, tuple[int, ...]]:
        return look(self.folder / "roots")


def look(top: Path) -> dict[str, tuple[int, ...]]:
    """Owner, mode, size and number of names of everything below."""
    result: dict[str, tuple[int, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        details = path.lstat()
        result[str(path)] = (
            details.st_uid,
            details.st_gid,
            stat.S_IMODE(details.st_mode),
            details.st_nlink,
            details.st_size * (not path.is_dir()),
        )
    return result


def canary(place: Path) -> Canary:
    folder = place / "canary"
    top = folder / "roots"
    (top / "folder" / "inner").mkdir(parents=True)
    for path in (top / "key", top / "folder" / "key", top / "folder" / "inner" / "PG_VERSION"):
        path.write_text(SECRET + "\n")
        path.chmod(0o600)
    for path in (top / "folder" / "inner", top / "folder", top):
        path.chmod(0o700)
    folder.chmod(0o755)
    top.chmod(0o711)
    (folder / "ran").mkdir()
    (folder / "ran").chmod(0o1777)
    return Canary(folder, look(top))


def become(account: str) -> dict[str, object]:
    entry = pwd.getpwnam(account)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": [],
        "cwd": "/",
        "env": {"PATH": os.defpath, "HOME": entry.pw_dir},
    }


def run_as(clone: Clone, account: str, program: str, *arguments: str) -> str:
    """The output of a Python program run as an account."""
    return inspection.output(inspection.mlflow_python(clone)[0], "-I", "-c", program, *arguments, **become(account))


def plant(clone: Clone, account: str, found: Canary) -> int:
    ran = str(found.folder / "ran")
    return int(
        run_as(
            clone,
            account,
            PLANT,
            str(clone.project_folder),
            CODE.format(ran=ran),
            SCRIPT.format(ran=ran),
            " ".join(PROGRAMS),
        )
    )


def link(clone: Clone, account: str, found: Canary) -> int:
    top = found.folder / "roots"
    return int(run_as(clone, account, LINK, str(clone.project_folder), str(top / "key"), str(top / "folder")))
