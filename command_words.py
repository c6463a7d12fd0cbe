"""The words of the command line: help in groups, and what to say about a word or flag that is not there."""

# Like tasks.py it is read for every `invoke --list`: helpers are imported where they are needed.
from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.settings.model import BY_NAME, BY_OPTION

if TYPE_CHECKING:
    from helpers.errors import SettingError


@dataclass(frozen=True)
class Flag:
    """A flag or word of a task. ``name`` as in --mlflow-port; ``short`` as in -f; ``word``: stands without a flag."""

    name: str
    help: str
    takes_value: bool = True
    short: str = ""
    word: bool = False

    @property
    def option(self) -> str:
        return self.name if self.word else f"--{self.name}"


@dataclass(frozen=True)
class TaskHelp:
    """A task as its help shows it."""

    name: str
    doc: str
    flags: tuple[Flag, ...]
    aliases: tuple[str, ...] = ()

    def flag(self, option: str) -> Flag | None:
        return next((f for f in self.flags if option in (f.option, f"-{f.short}" if f.short else "", f.name)), None)


# tasks in the order of a day
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Every day": ("up", "down", "status", "jupyter-url", "mlflow-url", "check", "logs"),
    "When something is wrong": ("doctor", "credentials", "usage", "gc"),
    "Data": ("backup", "backup.verify", "restore", "move", "upgrade"),
    "Other people and machines": ("users", "env", "jupyter"),
    "Trackbed itself": ("build", "lock", "version"),
}
# flags of a task in the order in which somebody would look for them; what is named nowhere comes first
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Notebook": ("gpu", "devices", "torch", "data-volume", "cull-idle", "env", "volume", "workspace", "jupyter-port"),
    "Tracking server": ("mlflow-port", "local-access", "object-store", "s3-port", "s3-console-port", "s3-bucket"),
    "Other machines": (
        "public",
        "domain",
        "certificates",
        "http-port",
        "https-port",
        "public-s3",
        "bind-address",
        "public-address",
        "tracking-uri",
        "tracking-username",
        "tracking-ca",
    ),
    "How it is done": ("engine", "ready-timeout", "on-boot", "adopt", "dry-run", "name-prefix"),
    "Which system": ("project", "state-dir"),
}
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "up": ("up", "up --gpu=none --mlflow-port=8001", "up --public --domain=lab.example.org", "up --dry-run"),
    "down": ("down", "down --delete-data"),
    "status": ("status", "status --json", 'eval "$(invoke status --format=env)"'),
    "logs": ("logs", "logs mlflow -f", "logs jupyter -n 50"),
    "jupyter": ("jupyter --tracking-uri=https://mlflow.example.org",),
    "users": ("users add ada", "users passwd ada", "users list"),
    "credentials": ("credentials", "credentials rotate"),
    "backup": ("backup", "backup --to=/mnt/backups/", "backup --to=s3://bucket/prefix"),
    "backup.verify": ("backup.verify", "backup.verify /mnt/backups/ --repair"),
    "restore": ("restore FILE", "restore FILE --into=copy"),
    "move": ("move --to=embedded", "move --to=docker --object-store=minio"),
    "upgrade": ("upgrade", "upgrade --back"),
    "build": ("build", "build jupyter --gpu=none"),
    "gc": ("gc", "gc --older-than=7d --yes"),
    "env": ("env ada",),
}
NAMED = 3  # tasks in one message, at most
# of flags that are no settings
VALUE_NAMES = {
    "into": "NAME",
    "name-prefix": "NAME",
    "tail": "LINES",
    "to": "PLACE",
    "older-than": "TIME",
    "registry": "HOST/PATH",
}
# what people type out of habit, where no alias stands for it
HABITS: Mapping[str, str] = {
    "restart": "`invoke down`, then `invoke up`",
    **dict.fromkeys(("destroy", "rm", "remove", "delete", "purge", "clean", "nuke"), "`invoke down --delete-data`"),
    **dict.fromkeys(("run", "launch", "init", "setup", "install", "create", "begin"), "`invoke up`"),
    **dict.fromkeys(("kill", "halt", "quit", "exit", "shutdown"), "`invoke down`"),
    **dict.fromkeys(("ls", "info", "state", "show", "health"), "`invoke status`"),
    **dict.fromkeys(
        ("notebook", "lab", "jupyterlab", "browser", "link", "exec", "shell", "bash", "ssh"),
        "`invoke jupyter-url`, the address of JupyterLab with its terminals",
    ),
    **dict.fromkeys(("ui", "mlflow", "dashboard", "tracking"), "`invoke mlflow-url`"),
    **dict.fromkeys(("token", "password", "passwords", "secrets", "secret"), "`invoke credentials`"),
    **dict.fromkeys(("test", "verify", "selftest"), "`invoke check`"),
    **dict.fromkeys(("prune", "cleanup"), "`invoke gc`"),
    **dict.fromkeys(("export", "save", "dump"), "`invoke backup`"),
    **dict.fromkeys(("import", "load"), "`invoke restore FILE`"),
    **dict.fromkeys(("pull", "update"), "`git pull`, then `invoke upgrade`"),
    **dict.fromkeys(("config", "settings", "configure"), "the file .env (.env.example has every setting)"),
    **dict.fromkeys(("list", "help", "tasks", "commands"), "`invoke --list`, or `invoke --help TASK`"),
    **dict.fromkeys(("tail", "log"), "`invoke logs`"),
    **dict.fromkeys(("user", "login", "adduser"), "`invoke users add NAME`"),
    **dict.fromkeys(("df", "du", "disk"), "`invoke usage`"),
}
FLAG_HABITS: Mapping[str, str] = {
    **dict.fromkeys(
        ("-d", "--detach", "--daemon", "--wait", "--background"),
        "leave it out: `invoke up` returns when everything is ready",
    ),
    **dict.fromkeys(
        ("-v", "--volumes", "--rmi", "--purge", "--remove-volumes"),
        "to delete the data too: `invoke down --delete-data`",
    ),
    **dict.fromkeys(("--force", "--assume-yes"), "to answer yes beforehand: --yes, where a task asks"),
    **dict.fromkeys(("-p", "--port"), "the ports are --mlflow-port and --jupyter-port"),
    **dict.fromkeys(("--build", "--rebuild"), "`invoke build` builds images; `invoke up` does it where it has to"),
    **dict.fromkeys(("--verbose", "--debug", "-vv"), "TRACKBED_VERBOSE=1 before the command shows every line"),
    **dict.fromkeys(("--quiet", "-q", "--silent"), "put 2>/dev/null after the command"),
    **dict.fromkeys(("--gpus",), "it is called --gpu"),
}


def _close(word: str, words: Iterable[str]) -> str:
    """The word that was most likely meant: the nearest, or the only one that it begins."""
    from helpers.spelling import nearest

    listed = list(words)
    begun = [one for one in listed if len(word) > 1 and one.startswith(word)]
    return begun[0] if len(begun) == 1 else nearest(word, listed, 0.6)


def unknown_task(word: str, tasks: Mapping[str, TaskHelp]) -> SettingError:
    """The error for a word that is no task."""
    from helpers.errors import SettingError
    from helpers.spelling import shown

    names = [name for task in tasks.values() for name in (task.name, *task.aliases)]
    folded = word.lower().replace("_", "-")
    if folded in names:
        return SettingError(f"there is no task {shown(word)}. Did you mean {folded}?", f"`invoke {folded}`")
    if meant := HABITS.get(folded):
        return SettingError(f"there is no task {shown(word)}.", f"you may want {meant}")
    if guess := _close(folded, names):
        return SettingError(f"there is no task {shown(word)}. Did you mean {guess}?", f"`invoke {guess}`")
    return SettingError(f"there is no task {shown(word)}.", "`invoke --list` names them all")


def unknown_flag(
    option: str, task: TaskHelp | None, tasks: Mapping[str, TaskHelp], core: Sequence[str]
) -> SettingError:
    """The error for a flag that this task does not have (None: before any task)."""
    from helpers.errors import SettingError
    from helpers.settings.sources import OTHER_NAMES
    from helpers.spelling import shown

    bare = option.partition("=")[0]
    head = f"{task.name} has no flag {shown(bare)}." if task else f"there is no flag {shown(bare)} before a task."
    if task and (meant := FLAG_HABITS.get(bare)):
        return SettingError(head, meant)
    own = [f"--{flag.name}" for flag in task.flags if not flag.word] if task else list(core)
    folded = "--" + bare.lower().lstrip("-").replace("_", "-")
    name = folded[2:].replace("-", "_").upper()
    if folded in own:
        return SettingError(f"{head} Did you mean {folded}?", _helps(task))
    if (setting := BY_NAME.get(OTHER_NAMES.get(name, name))) is not None:
        given = _having(setting.option, tasks)
        named = " or ".join(given) if len(given) <= NAMED else f"{given[0]} and {len(given) - 1} other tasks"
        where = (
            f"it belongs to {named}: `invoke {given[0]} {setting.option}=...`"
            if given
            else f"it is a setting of .env: {setting.name}=..., or TRACKBED_{setting.name}=... before the command"
        )
        return SettingError(head, where)
    if (guess := _close(folded, own)) and len(folded) > 3:
        return SettingError(f"{head} Did you mean {guess}?", _helps(task))
    if others := _having(folded, tasks):
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        return SettingError(head, f"these have it: {', '.join(others[:NAMED])}{more}. {_helps(task)}")
    return SettingError(head, _helps(task))


def _having(option: str, tasks: Mapping[str, TaskHelp]) -> list[str]:
    """The tasks that have a flag, what is typed every day first."""
    order = [name for names in GROUPS.values() for name in names]
    return sorted(
        (one.name for one in tasks.values() if one.flag(option)),
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )


def _helps(task: TaskHelp | None) -> str:
    return f"`invoke --help {task.name}` shows its flags" if task else "`invoke --list` names the tasks"


def stray_word(word: str, task: TaskHelp, typed: Sequence[str], tasks: Mapping[str, TaskHelp]) -> SettingError:
    """The error for a word behind a task that has no place for it."""
    from helpers.errors import SettingError
    from helpers.spelling import shown

    for argument in typed:
        option, equals, value = argument.partition("=")
        if equals and value == word and (flag := task.flag(option)):
            if not flag.takes_value:
                return SettingError(f"{option} takes no value.", f"`invoke {task.name} {option}`")
            return SettingError(f"{option} is given twice.", "leave one of them out")
    if flag := task.flag(f"--{word.lower()}"):
        return SettingError(
            f"{task.name}: {shown(word)} is a flag.",
            f"`invoke {task.name} {flag.option}{f'={_value(flag)}' if flag.takes_value else ''}`",
        )
    guess = _close(word.lower(), [name for one in tasks.values() for name in (one.name, *one.aliases)])
    meant = f" Did you mean the task {guess}?" if guess else ""
    return SettingError(f"{task.name} takes no further word, and {shown(word)} is no task.{meant}", _helps(task))


def missing_value(flag: Flag, task: TaskHelp | None) -> SettingError:
    """The error for a flag at the end of the line that needs a value."""
    from helpers.errors import SettingError

    title = f"{flag.option} needs a value"
    said = BY_OPTION[flag.option].allowed if flag.option in BY_OPTION else flag.help
    return SettingError(
        f"{title}: {said}." if said else f"{title}.",
        f"`invoke {f'{task.name} ' if task else ''}{flag.option}={_value(flag)}`",
    )


def followed(word: str) -> SettingError:
    """The error for a task's name behind a flag that may have a value, as in `up --public check`."""
    from helpers.errors import SettingError
    from helpers.spelling import shown

    return SettingError(
        f"{shown(word)} could be the value of the flag before it, or a task.",
        f"write the flag's value too, as in --public=true {shown(word)}",
    )


def missing_words(names: Sequence[str], task: TaskHelp) -> SettingError:
    """The error for words that a task needs."""
    from helpers.errors import SettingError

    needed = [flag for name in names if (flag := task.flag(name))]
    first = needed[0]
    given = " ".join(_value(flag) if flag.word else f"{flag.option}={_value(flag)}" for flag in needed)
    return SettingError(
        f"{task.name} needs {_value(first) if first.word else first.option}: {first.help}.",
        f"`invoke {task.name} {given}`",
    )


def no_number(flag: Flag, value: str) -> SettingError:
    """The error for a value that is no number."""
    from helpers.errors import SettingError
    from helpers.spelling import shown

    return SettingError(f"{flag.option}={shown(value)}: must be a whole number.", f"{flag.option}=200, for example")


def _value(flag: Flag) -> str:
    """The name of a flag's value: PORT, or its words as in auto|docker|embedded."""
    if flag.option in BY_OPTION:
        return BY_OPTION[flag.option].kind.word
    if flag.word and (found := re.fullmatch(r"(\w+) or (\w+)", flag.help)):
        return "|".join(found.groups())
    return VALUE_NAMES.get(flag.name) or (flag.name.upper() if flag.word else "WORD")


def _wrapped(head: str, text: str, width: int, at: int = 26) -> list[str]:
    """``head`` and what it means, beside it or, where there is little room, below."""
    beside = width >= 70 and len(head) + 4 <= at
    indent = " " * (at if width >= 70 else 6)
    body = textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]
    if beside:
        return [f"  {head}".ljust(at) + body[0][at:], *body[1:]]
    return [f"  {head}", *(line for line in body if line)]


def task_help(task: TaskHelp, width: int) -> list[str]:
    """The help of one task: what it does, how it is typed, its flags in groups, examples."""
    words = " ".join(f"[{_value(flag)}]" for flag in task.flags if flag.word)
    lines = textwrap.wrap(task.doc, width)
    lines += ["", f"usage: invoke {task.name}{' ' + words if words else ''} [flags]"]
    if task.aliases:
        lines.append(f"also: {', '.join('invoke ' + alias for alias in task.aliases)}")
    named = {name: title for title, names in SECTIONS.items() for name in names}
    sections: dict[str, list[Flag]] = {"": [], **{title: [] for title in SECTIONS}}
    for flag in task.flags:
        sections["" if flag.word else named.get(flag.name, "")].append(flag)
    for title, flags in sections.items():
        order = SECTIONS.get(title, ())
        flags.sort(key=lambda flag: order.index(flag.name) if flag.name in order else 0)
        lines += ["", *([f"{title}:"] if title else [])] if flags else []
        for flag in flags:
            short = f"-{flag.short}, " if flag.short else ""
            value = f"={_value(flag)}" if flag.takes_value and not flag.word else ""
            lines += _wrapped(f"{short}{_value(flag) if flag.word else flag.option + value}", flag.help, width)
    if examples := EXAMPLES.get(task.name):
        lines += ["", "Examples:", *(f"  {one if 'invoke' in one else f'invoke {one}'}" for one in examples)]
    return lines


def listing(tasks: Mapping[str, TaskHelp], width: int) -> list[str]:
    """Every task in groups, with the first sentence of what it does."""
    grouped = [name for names in GROUPS.values() for name in names]
    groups = {**GROUPS, "Further": tuple(name for name in tasks if name not in grouped)}
    lines = []
    for title, names in groups.items():
        known = [tasks[name] for name in names if name in tasks]
        lines += [f"{title}:"] if known else []
        for task in known:
            also = f" ({', '.join(task.aliases)})" if task.aliases else ""
            lines += _wrapped(f"{task.name}{also}", task.doc, width)
        lines += [""] if known else []
    return [*lines, "`invoke --help TASK` shows the flags of a task and examples."]
