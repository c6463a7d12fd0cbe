"""What a shell offers for the line that is typed: tasks, flags, their values; and the scripts that ask for it.

`eval "$(invoke completion bash)"` in a shell is all that is needed. Invoke's own script knows no values, and no other
`invoke` than that on PATH.
"""

# read for each Tab: nothing heavy is imported
from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import clone
from helpers.cli import help as pages
from helpers.cli.help import Flag, TaskHelp
from helpers.gpu import node_types
from helpers.services import TITLES
from helpers.settings.model import BY_OPTION

SHELLS = ("bash", "zsh", "fish")
FOLDER = Path(__file__).with_name("shells")
NAMES_A_TASK = ("help", "--help", "-h")
# what Invoke passes over, before a task
CORE = ("--help", "--list", "--version")


def script(shell: str, invoke: str) -> str:
    """What that shell reads. ``invoke``: the program to ask where the typed one is not found.

    Root asks nothing else, from this clone: Invoke runs the tasks.py of the folder that somebody stands in, and that
    may be the notebook's. A Tab shall not do what only Enter does.
    """
    as_root = shlex.join(["sh", "-c", 'cd "$0" && exec "$@"', str(clone.ROOT), invoke])
    text = (FOLDER / f"completion.{shell}").read_text()
    return text.replace("@INVOKE@", shlex.quote(invoke)).replace("@AS_ROOT@", as_root)


def candidates(tasks: Mapping[str, TaskHelp], words: Sequence[str]) -> list[str]:
    """What may stand in the place of the last of the words, which follow `invoke`. None where it may be a file."""
    *before, current = words or [""]
    task, typed = _task(tasks, before)
    return [one for one in _offered(tasks, task, typed, before, current) if one.startswith(current)]


def described(tasks: Mapping[str, TaskHelp], words: Sequence[str]) -> list[str]:
    """The same, each with what it means behind a tab, where that is known."""
    task, _ = _task(tasks, words[:-1])
    result = []
    for one in candidates(tasks, words):
        flag = task.flag(one.removesuffix("=")) if task and one.startswith("-") else None
        text = flag.help if flag else pages.sentence(tasks[one]) if one in tasks else ""
        result.append(f"{one}\t{text}" if text else one)
    return result


def _task(tasks: Mapping[str, TaskHelp], before: Sequence[str]) -> tuple[TaskHelp | None, list[str]]:
    """The task that the line ends in, and what was typed after its name."""
    task, typed = None, list[str]()
    for word in before:
        flag = task.flag(typed[-1]) if task and typed else None
        awaited = flag is not None and flag.takes_value and not flag.word
        room = len(_bare(task, typed)) < len(_words(task)) if task else False
        if not awaited and not room and not word.startswith("-") and (found := pages.named(tasks, word)):
            task, typed = found, []
        else:
            typed.append(word)
    return task, typed


def _words(task: TaskHelp) -> list[Flag]:
    return [flag for flag in task.flags if flag.word]


def _bare(task: TaskHelp, typed: Sequence[str]) -> list[str]:
    """The words among them that are no flags and no flag's value."""
    result, awaited = [], False
    for word in typed:
        flag = task.flag(word) if word.startswith("-") else None
        if not awaited and not word.startswith("-"):
            result.append(word)
        awaited = flag is not None and flag.takes_value
    return result


def _offered(
    tasks: Mapping[str, TaskHelp], task: TaskHelp | None, typed: Sequence[str], before: Sequence[str], current: str
) -> list[str]:
    if before and before[-1] in NAMES_A_TASK:
        return list(tasks)
    if task is None:
        return list(CORE) if current.startswith("-") else list(tasks)
    option, equals, _ = current.partition("=")
    if equals and (flag := task.flag(option)):
        return [f"{option}={value}" for value in _values(flag)]
    if typed and typed[-1].startswith("-") and (flag := task.flag(typed[-1])) and flag.takes_value:
        return _values(flag)
    free = _words(task)[len(_bare(task, typed)) :]
    if free and not current.startswith("-"):
        return _values(free[0])
    if current and not current.startswith("-"):
        return []
    given = {word.partition("=")[0] for word in typed}
    listed = [flag for flag in task.flags if not flag.word and (flag.option not in given or _repeated(flag))]
    return [f"{flag.option}=" if flag.takes_value else flag.option for flag in listed]


def _repeated(flag: Flag) -> bool:
    row = BY_OPTION.get(flag.option)
    return row is not None and row.repeated


def _values(flag: Flag) -> list[str]:
    """What it may be; nothing where that is not one of a few words."""
    if flag.option == "--gpu":
        return [node_types.AUTO, node_types.NONE, node_types.AMD, node_types.NVIDIA, *node_types.SUPPORTED]
    if flag.option == "service":
        return list(TITLES)
    name = pages.value_name(flag)
    return name.split("|") if "|" in name else []
