"""The command line before Invoke reads it: short flags, help, and our words where Invoke would refuse in its own."""

# Like tasks.py it is read for every `invoke --list`: helpers are imported where they are needed.
from __future__ import annotations

import copy
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser
from invoke.program import Program
from invoke.tasks import Task

import command_words
from command_words import Flag, TaskHelp

if TYPE_CHECKING:
    from helpers.errors import SettingError

SHORT = {"follow": "f", "tail": "n", "yes": "y"}  # as docker, tail and apt have them


class OurTask(Task):  # type: ignore[type-arg]
    """A task whose flags of habit have their short form. Its arguments may be asked for several times."""

    _arguments: list[Argument] | None = None

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        if self._arguments is None:
            self._arguments = super().get_arguments(ignore_unknown_help)
            for argument in self._arguments:
                if short := SHORT.get(argument.name or ""):
                    argument.names = (*argument.names, short)
        return copy.deepcopy(self._arguments)


class OptionalWord(OurTask):
    """A task whose first word may be left out: `logs` and `logs mlflow`. Invoke itself requires what is positional."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments = super().get_arguments(ignore_unknown_help)
        for place, argument in enumerate(a for a in arguments if a.positional):
            argument.positional = self._words_following(arguments) > place
        return arguments

    def _words_following(self, arguments: list[Argument]) -> int:
        typed = [at for at, word in enumerate(sys.argv) if word.rpartition(".")[2] == self.name]
        words = sys.argv[typed[0] + 1 :] if typed else []
        takes_value = {
            ("-" if len(name) == 1 else "--") + name.replace("_", "-")
            for a in arguments
            if a.takes_value
            for name in a.names
        }
        pairs = zip(["", *words], words, strict=False)
        return sum(not word.startswith("-") and before not in takes_value for before, word in pairs)


def known(collection: Collection) -> dict[str, TaskHelp]:
    """The tasks by name; the first of a group under the group's."""
    found = {}
    for context in collection.to_contexts():
        full = context.name or ""
        name, task = full.removesuffix(".create"), collection[full]
        words = task.positional or () if isinstance(task, Task) else ()
        flags = tuple(
            Flag(
                (a.name or "").replace("_", "-"),
                (a.help or "").strip(),
                a.takes_value,
                next((n for n in a.names if len(n) == 1), ""),
                a.name in words,
            )
            for a in context.args.values()
        )
        doc = " ".join((task.__doc__ or "").split())
        found[name] = TaskHelp(name, doc, flags, tuple(n for n in context.aliases if n != name and "." not in n))
    return found


def _started() -> bool:
    """Whether this is `invoke` itself, and not a test or another program that reads the tasks."""
    start = Path(sys.argv[0])
    return start.name in ("invoke", "inv") or start.parts[-2:] == ("invoke", "__main__.py")


def read(collection: Collection) -> None:
    """Print help, or refuse what Invoke would refuse, in our words; nothing where all is well.

    Raises Exit: 0 after help, 2 for what is wrong.
    """
    if not _started() or "--complete" in sys.argv or "--print-completion-script" in sys.argv:
        return
    first = Program().initial_context
    core = Parser(initial=copy.deepcopy(first), ignore_unknown=True).parse_argv(sys.argv[1:])
    given = core[0].args
    if given["list"].value is True and given["list-format"].value == "flat" and not given["list-depth"].value:
        _print(command_words.listing(known(collection), _width()))
    words = core.unparsed
    asked = given["help"].value
    if isinstance(asked, str):
        _print_help(asked, collection)
    contexts = collection.to_contexts()
    try:
        parsed = Parser(initial=copy.deepcopy(first), contexts=contexts).parse_argv(list(words))
    except (ParseError, ValueError) as error:
        tasks = known(collection)
        problem = _refused(error, words, tasks, first)
        if problem is None:
            return  # Invoke says it
        _refuse(problem)
    if asked := parsed[0].args["help"].value:
        _print_help(str(asked), collection)
    for context in parsed[1:]:
        for argument in context.args.values():
            if _lacks_value(argument, words):
                task = known(collection)[(context.name or "").removesuffix(".create")]
                name = (argument.name or "").replace("_", "-")
                _refuse(command_words.missing_value(task.flag(f"--{name}") or Flag(name, ""), task))
    if len(parsed) == 1 and not given["list"].value:
        _print(command_words.listing(known(collection), _width()))


def _lacks_value(argument: Argument, words: Sequence[str]) -> bool:
    """Whether Invoke took the next flag for the value, as in `--gpu --torch=cpu`, or a list's flag ends the line."""
    if not argument.takes_value:
        return False
    if argument.kind is not list:
        return str(argument.value).startswith("--")
    option = f"--{argument.name}".replace("_", "-")
    return any(
        not following or following.startswith("--")
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if word == option
    )


def _refused(
    error: ParseError | ValueError, words: Sequence[str], tasks: Mapping[str, TaskHelp], first: ParserContext
) -> SettingError | None:
    """Our words for Invoke's; None for what is not known."""
    text = str(error)
    context = getattr(error, "context", None)
    task = tasks.get((context.name or "").removesuffix(".create")) if context is not None else None
    core = [option for option in first.flags if option.startswith("--")]
    if found := re.fullmatch(r"No idea what '?\"?(.*?)\"?'? is!", text):
        token = found[1]
        if token.startswith("-"):
            return command_words.unknown_flag(token, task, tasks, core)
        return command_words.stray_word(token, task, words, tasks) if task else command_words.unknown_task(token, tasks)
    if (found := re.search(r"'(.*)' is ambiguous when given after", text)) and task is None:
        return command_words.followed(found[1])
    if found := re.search(r"Flag <Argument: ([\w-]+)[^>]*> needed value", text):
        name = found[1].replace("_", "-")
        flag = (task.flag(f"--{name}") if task else None) or Flag(name, "")
        return command_words.missing_value(flag, task)
    if found := re.search(r"did not receive required positional arguments: (.*)", text):
        names = [name.replace("_", "-") for name in re.findall(r"'(\w+)'", found[1])]
        return command_words.missing_words(names, task) if task else None
    if isinstance(error, ValueError) and (found := re.search(r"invalid literal for int\(\).*: '(.*)'", text)):
        return command_words.no_number(Flag("tail", ""), found[1])
    return None


def _refuse(problem: SettingError) -> NoReturn:
    from helpers import console

    console.error(problem)
    raise Exit(code=problem.code) from None


def _print_help(name: str, collection: Collection) -> None:
    tasks = known(collection)
    task = tasks.get(name) or next((t for t in tasks.values() if name in t.aliases), None)
    if task is None:
        _refuse(command_words.unknown_task(name, tasks))
    _print(command_words.task_help(task, _width()))


def _width() -> int:
    return max(30, min(100, shutil.get_terminal_size((100, 24)).columns))


def _print(lines: Iterable[str]) -> None:
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
    raise Exit(code=0)
