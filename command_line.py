"""Trackbed's tasks on Invoke's command line: how one is declared, and the line that is typed before Invoke reads it."""

# Like tasks.py it is read for every `invoke --list`: helpers are imported where they are needed.
from __future__ import annotations

import copy
import functools
import inspect
import re
import shutil
import signal
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invoke import tasks
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.parser.parser import Parser, ParseResult
from invoke.program import Program

from helpers.cli import help as pages
from helpers.cli.help import Flag, TaskHelp
from helpers.settings import flags

if TYPE_CHECKING:
    from helpers.errors import SettingError

# the help of flags that tasks have in common
JSON = {"json": "Short for --format=json"}
TABLE_OR_JSON = {"format": "Format of the output: table or json", **JSON}
SHORT = {"follow": "f", "tail": "n", "yes": "y"}  # as docker, tail and apt have them


class Task(tasks.Task):  # type: ignore[type-arg]
    """A task whose flags of habit have their short form.

    ``word``: the argument that may be typed without its flag, as in `logs mlflow`. Invoke requires all that it knows as
    positional, so it is one only while ``word_typed``. Reading a line copies the arguments of all tasks several times:
    only one that ``is_typed`` has them.
    """

    word = ""
    word_typed = False
    is_typed = True
    _arguments: list[Argument] | None = None

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        if not self.is_typed:
            return []
        if self._arguments is None:
            self._arguments = super().get_arguments(ignore_unknown_help)
            for argument in self._arguments:
                if short := SHORT.get(argument.name or ""):
                    argument.names = (*argument.names, short)
        arguments = list(map(copy.copy, self._arguments))
        for argument in arguments if self.word_typed else ():
            if argument.name == self.word:
                argument.positional, argument.default = True, None
        return arguments


def task(
    help: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    word: str = "",
    repeated: Sequence[str] = (),
    **options: Any,
) -> Callable[[Callable[..., int | None]], Any]:
    """Invoke's `@task` without automatic short flags. Errors are reported, a default stands in the help of its flag.

    A body with a parameter ``given`` has the flags of the settings that name it as their task, and gets their values.
    It returns its exit code. ``repeated``: flags of its own that may be given several times.
    """

    def decorate(body: Callable[..., int | None]) -> Any:
        signature = inspect.signature(body)
        context, *own = signature.parameters.values()
        settings = flags.taken(body.__name__) if "given" in signature.parameters else {}

        @functools.wraps(body)
        def run(context: Context, *args: Any, **values: Any) -> int | None:
            if settings:
                values["given"] = flags.given({flag: values.pop(flag, None) for flag in settings})
            return body(context, *args, **values)

        own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name != "given"]
        parameters = [context, *map(flags.parameter, settings), *own]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        texts = {flag: flags.text(row) for flag, row in settings.items()}
        texts |= {one.name: _with_default((help or {}).get(one.name, ""), one.default) for one in own}
        created = tasks.task(
            klass=Task,
            auto_shortflags=False,
            help=texts,
            iterable=[*(flag for flag, row in settings.items() if row.repeated), *repeated],
            optional=[*(flag for flag, row in settings.items() if row.switch), *optional],
            **options,
        )(reported(run))
        created.word = word
        return created

    return decorate


def _with_default(text: str, default: object) -> str:
    plain = default in (None, "", inspect.Parameter.empty) or isinstance(default, bool)
    return text if plain else f"{text} (default: {default})"


def reported(body: Callable[..., int | None]) -> Callable[..., None]:
    """Errors become a message and a next step, with the right exit code; never a traceback unless asked for."""

    @functools.wraps(body)
    def run(context: Context, *args: Any, **values: Any) -> None:
        from helpers.cli import failures

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` is Ctrl-C: half-written files go
        if code := failures.exit_code(lambda: body(context, *args, **values)):
            raise Exit(code=code)

    return run


def known(collection: Collection) -> dict[str, TaskHelp]:
    """The tasks by name; the first of a group under the group's."""
    _give_arguments(collection)
    result = {}
    for context in collection.to_contexts():
        full = context.name or ""
        group, task = full.rpartition(".")[0], collection[full]
        name = group if group in context.aliases else full
        words = (*(task.positional or ()), task.word) if isinstance(task, Task) else ()
        arguments = tuple(
            Flag(
                (a.name or "").strip("_").replace("_", "-"),
                (a.help or "").strip(),
                a.takes_value,
                next((n for n in a.names if len(n) == 1), ""),
                a.name in words,
                isinstance(task, Task) and a.name == task.word,
            )
            for a in context.args.values()
        )
        doc = " ".join((task.__doc__ or "").split())
        aliases = tuple(n for n in context.aliases if n != name and "." not in n)
        result[name] = TaskHelp(name, doc, arguments, aliases, full)
    return result


def _started() -> bool:
    """Whether this is `invoke` itself, and not a test or another program that reads the tasks."""
    start = Path(sys.argv[0])
    return start.name in ("invoke", "inv") or start.parts[-2:] == ("invoke", "__main__.py")


def read(collection: Collection) -> None:
    """Print help, or refuse what Invoke would refuse, in our words; nothing where all is well.

    Raises Exit: 0 after help, 2 for what is wrong.
    """
    if not _started() or "--print-completion-script" in sys.argv:
        return
    if sys.argv[1:2] == ["--complete"] and sys.argv[2:3] in (["--"], ["--described"]):
        from helpers.cli import completion

        offer = completion.described if sys.argv[2] == "--described" else completion.candidates
        if offered := offer(known(collection), sys.argv[4:]):
            _print(offered)
        raise Exit(code=0)  # an empty line would be a candidate
    if "--complete" in sys.argv:
        return
    first = Program().initial_context
    core = Parser(initial=copy.deepcopy(first), ignore_unknown=True).parse_argv(sys.argv[1:])
    given = core[0].args
    listed = given["list"].value
    if listed and given["list-format"].value == "flat" and not given["list-depth"].value:
        _print_list("" if listed is True else str(listed), collection)
    words = core.unparsed
    asked = given["help"].value
    if isinstance(asked, str):
        _print_help(asked, collection)
    # as git and docker have it: a bare --help is answered by Invoke itself, before it reads the tasks
    if words[:1] == ["help"] and len(words) <= 2:
        _print_help(words[1], collection) if words[1:] else _print(pages.overview(_width()))
    try:
        parsed = parse(words, collection, first)
    except (ParseError, ValueError) as error:
        problem = _refused(error, words, known(collection), first)
        if problem is None:
            return  # Invoke says it
        _refuse(problem)
    if asked := parsed[0].args["help"].value:
        _print_help(str(asked), collection)
    for context in parsed[1:]:
        for argument in context.args.values():
            if argument.positional and argument.value in ("--help", "-h"):  # Invoke took it for the word
                _print_help(context.name or "", collection)
        if _taken_for_a_word(context, words) and (
            problem := _refused(ParseError("", context), words, known(collection), first)
        ):
            _refuse(problem)
        for argument in context.args.values():
            if _lacks_value(argument, words):
                from helpers.cli import mistakes

                task = pages.named(known(collection), context.name or "")
                name = (argument.name or "").strip("_").replace("_", "-")
                _refuse(mistakes.missing_value((task and task.flag(name)) or Flag(name, ""), task))
    if len(parsed) == 1 and not listed:
        _print(pages.overview(_width()))


def _give_arguments(collection: Collection, words: Container[str] | None = None) -> None:
    """To the tasks that are among the words of a line; to all where none is given."""
    for name, aliases in collection.task_names.items():
        if isinstance(one := collection[name], Task):
            one.is_typed = words is None or any(each in words for each in (name, *aliases))


def parse(words: Sequence[str], collection: Collection, first: ParserContext | None = None) -> ParseResult:
    """The line as Invoke will read it; raises its errors. Tasks learn whether they, and their word, were typed."""
    _give_arguments(collection, words)
    optional = {name: one for name in collection.task_names if isinstance(one := collection[name], Task) and one.word}
    bare = sum(not word.startswith("-") for word in words)
    for one in optional.values():
        one.word_typed = bare > 1  # the first is a task
    while True:  # once, but for `logs -n 50`, where a bare word was a flag's value, and for several tasks
        failure: ParseError | None = None
        contexts: Sequence[ParserContext]
        try:
            contexts = parsed = Parser(initial=copy.deepcopy(first), contexts=collection.to_contexts()).parse_argv(
                list(words)
            )
        except ParseError as error:
            contexts, failure = [error.context] if error.context else [], error
        left_out = [optional[c.name] for c in contexts if c.name in optional and _left_out(c, optional[c.name])]
        for one in left_out:
            one.word_typed = False
        if not left_out and failure:
            raise failure
        if not left_out:
            return parsed


def _left_out(context: ParserContext, task: Task) -> bool:
    """Whether the task's word was not typed after all: there is none, or Invoke took a flag for it."""
    return task.word_typed and str(context.args[task.word].value or "-").startswith("-")


def _taken_for_a_word(context: ParserContext | None, words: Sequence[str]) -> str:
    """A flag that the task does not have and that Invoke took for its word, as in `restore --dri FILE`; else ""."""
    for argument in context.args.values() if context else ():
        value, option = str(argument.value or ""), f"--{(argument.name or '').strip('_').replace('_', '-')}"
        if argument.positional and value.startswith("--") and option not in {word.partition("=")[0] for word in words}:
            return value
    return ""


def _lacks_value(argument: Argument, words: Sequence[str]) -> bool:
    """Whether Invoke took the next flag for the value, as in `--gpu --torch=cpu`, or a list's flag ends the line."""
    if not argument.takes_value:
        return False
    if argument.kind is not list:
        return str(argument.value).startswith("--")
    option = f"--{(argument.name or '').strip('_').replace('_', '-')}"
    return any(
        not following or following.startswith("--")
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if word == option
    )


def _refused(
    error: ParseError | ValueError, words: Sequence[str], tasks: Mapping[str, TaskHelp], first: ParserContext
) -> SettingError | None:
    """Our words for Invoke's; None for what is not known."""
    from helpers.cli import mistakes

    text = str(error)
    context = getattr(error, "context", None)
    task = pages.named(tasks, context.name or "") if context is not None else None
    core = [option for option in first.flags if option.startswith("--")]
    if task and (typed := _taken_for_a_word(context, words)):
        return mistakes.unknown_flag(typed, task, words, tasks, core)
    if match := re.fullmatch(r"No idea what '?\"?(.*?)\"?'? is!", text):
        token = match[1]
        if token.startswith("-"):
            return mistakes.unknown_flag(token, task, words, tasks, core)
        return mistakes.stray_word(token, task, words, tasks) if task else mistakes.unknown_task(token, words, tasks)
    if (match := re.search(r"'(.*)' is ambiguous when given after", text)) and task is None:
        return mistakes.followed(match[1])
    if match := re.search(r"Flag <Argument: ([\w-]+)[^>]*> needed value", text):
        name = match[1].strip("_").replace("_", "-")
        flag = (task.flag(name) if task else None) or Flag(name, "")
        return mistakes.missing_value(flag, task)
    if match := re.search(r"did not receive required positional arguments: (.*)", text):
        names = [name.replace("_", "-") for name in re.findall(r"'(\w+)'", match[1])]
        return mistakes.missing_words(names, task) if task else None
    if isinstance(error, ValueError) and (match := re.search(r"invalid literal for int\(\).*: '(.*)'", text)):
        return mistakes.no_number(Flag("tail", ""), match[1])
    return None


def _refuse(problem: SettingError) -> NoReturn:
    from helpers import console

    console.error(problem)
    raise Exit(code=problem.code) from None


def _print_help(name: str, collection: Collection) -> NoReturn:
    tasks = known(collection)
    if task := pages.named(tasks, name):
        _print(pages.task_help(task, tasks, _width()))
    from helpers.cli import mistakes

    _refuse(mistakes.unknown_task(name, [name], tasks))


def _print_list(group: str, collection: Collection) -> NoReturn:
    tasks = known(collection)
    if lines := pages.listing(tasks, _width(), group):
        _print(lines)
    from helpers.cli import mistakes

    _refuse(mistakes.unknown_task(group, [group], tasks))


def _width() -> int:
    return max(30, min(100, shutil.get_terminal_size((100, 24)).columns))


def _print(lines: Iterable[str]) -> NoReturn:
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
    raise Exit(code=0)
