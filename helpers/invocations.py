"""How a task of this clone is typed so that it works from any folder, whatever PATH says, and for the same project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from helpers import clone

NAMED = {"--project": "TRACKBED_PROJECT", "--state-dir": "TRACKBED_STATE_DIR"}  # what names a project
COMMAND = re.compile(r"`([A-Z_0-9]+=\S* )?" + "invoke " + "([^`]*)")  # with a variable before it
WITHOUT = ("-", "lock", "version", "completion")  # what does not take these flags
_beside = ""


def work_on(project: str) -> None:
    """From now on this task's lines are for a project beside the one that it was called for (`restore --into`)."""
    global _beside
    _beside = project


def program() -> str:
    """The `invoke` that runs now, as an absolute path; the one beside this Python where it was started as a module."""
    beside = Path(sys.executable).with_name("invoke")
    started = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name in ("invoke", "inv") else None
    result = started or (str(beside) if beside.is_file() else shutil.which("invoke"))
    return os.path.abspath(result) if result else ""


def as_typed(text: str) -> str:
    """A text whose every `invoke TASK` can be typed where the reader is: not everybody has it on PATH, or is in the
    clone's folder, and the project may be named. As it stands where another program than Invoke runs it."""
    if "invoke " not in text or Path(sys.argv[0]).name not in ("invoke", "inv"):
        return text
    try:
        here = Path.cwd()
    except OSError:
        here = Path("/")  # the folder is gone
    folder, start = "", "invoke "
    if not here.is_relative_to(clone.ROOT):
        folder, start = _folder(), _runner()
    elif shutil.which("invoke") is None:
        start = f"{shlex.quote(os.path.relpath(program(), here))} "

    def typed(result: re.Match[str]) -> str:
        variables = result[1] or ""
        runner = start.replace("sudo ", f"sudo {variables}", 1) if start.startswith("sudo ") else variables + start
        return f"`{folder}{runner}{result[2]}{_named(result[2])}"

    return COMMAND.sub(typed, text)


def anywhere(words: str, project: str = "") -> str:
    """``words`` (a task and its flags) as a line for any folder. ``project``: names it, where it is not the one that
    this task was called for."""
    return f"{_folder()}{_runner()}{words}{_named(words, project)}"


def _folder() -> str:
    return f"cd {shlex.quote(str(clone.ROOT))} && "


def _runner() -> str:
    start = program()
    if start and Path(start).is_relative_to(clone.ROOT):
        start = str(Path(start).relative_to(clone.ROOT))
    runner = shlex.quote(start) if start else f"{shlex.quote(sys.executable)} -m invoke"
    sudo = "sudo " if os.geteuid() == 0 and os.environ.get("SUDO_USER") else ""
    return f"{sudo}{runner} "


def _named(words: str, project: str = "") -> str:
    """Flags that name this task's project, where flags or the environment do: another shell has neither.
    Without those that ``words`` have."""
    if words.startswith(WITHOUT):
        return ""
    given = {option: _flag(option, os.environ.get(variable, "")).strip() for option, variable in NAMED.items()}
    given["--project"] = project or _beside or given["--project"]
    given["--state-dir"] = os.path.expanduser(given["--state-dir"])
    return "".join(
        f" {option}={shlex.quote(value)}"
        for option, value in given.items()
        if value and option not in re.split("[ =]", words)
    )


def _flag(option: str, otherwise: str) -> str:
    """The value of a flag of the command line, as in --project=NAME or --project NAME."""
    for word, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else following
    return otherwise
