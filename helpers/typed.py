"""How a task of this clone is typed so that it works from any folder, whatever PATH says."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from helpers import stack


def program() -> str:
    """The `invoke` that runs now, as an absolute path; the one beside this Python where it was started as a module."""
    beside = Path(sys.executable).with_name("invoke")
    started = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name in ("invoke", "inv") else None
    found = started or (str(beside) if beside.is_file() else shutil.which("invoke"))
    return os.path.abspath(found) if found else ""


def as_typed(text: str) -> str:
    """A text whose every `invoke TASK` can be typed where the reader is: not everybody has it on PATH, or is in the
    clone's folder. As it stands where Invoke was started by another program than itself."""
    if "`invoke " not in text or Path(sys.argv[0]).name not in ("invoke", "inv"):
        return text
    try:
        here = Path.cwd()
    except OSError:
        here = Path("/")  # the folder is gone
    if not here.is_relative_to(stack.ROOT):
        start = anywhere("")
    elif shutil.which("invoke") is None:
        start = f"{shlex.quote(os.path.relpath(program(), here))} "
    else:
        return text
    return text.replace("`invoke ", f"`{start}")


def anywhere(words: str, project: str = "") -> str:
    """``words`` (a task and its flags) as a line for any folder. ``project``: names it, where it is no default one."""
    start = program()
    if start and Path(start).is_relative_to(stack.ROOT):
        start = str(Path(start).relative_to(stack.ROOT))
    runner = shlex.quote(start) if start else f"{shlex.quote(sys.executable)} -m invoke"
    sudo = "sudo " if os.geteuid() == 0 and os.environ.get("SUDO_USER") else ""
    chosen = f" --project={project}" if project else ""
    return f"cd {shlex.quote(str(stack.ROOT))} && {sudo}{runner} {words}{chosen}"
