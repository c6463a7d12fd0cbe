"""What to say about a word or flag that is not there: what was meant, or what it is called now."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from helpers.cli.help import GROUPS, Flag, TaskHelp, named, value_name
from helpers.errors import SettingError
from helpers.settings.model import BY_NAME, BY_OPTION
from helpers.settings.sources import OTHER_NAMES
from helpers.suggestions import nearest, shown

NAMED = 3  # tasks in one message, at most
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
    **dict.fromkeys(("load",), "`invoke restore FILE`"),
    **dict.fromkeys(("migrate", "migrate-filestore"), "`invoke import FOLDER`"),
    **dict.fromkeys(("pull", "update"), "`git pull`, then `invoke upgrade`"),
    **dict.fromkeys(("config", "settings", "configure"), "the file .env (.env.example has every setting)"),
    **dict.fromkeys(("list", "help", "tasks", "commands"), "`invoke --list`, or `invoke --help TASK`"),
    **dict.fromkeys(("tail", "log"), "`invoke logs`"),
    **dict.fromkeys(("user", "login", "logins", "adduser", "useradd"), "`invoke users.add NAME`"),
    **dict.fromkeys(("df", "du", "disk"), "`invoke usage`"),
}
# removed spellings, and what they are called now
RENAMED: Mapping[str, str] = {"credentials.init": "prepare"}
# verbs of habit, and what ours are called; the first that a noun has is meant
VERBS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("create", "new", "make", "invite"), ("add", "create")),
    **dict.fromkeys(("delete", "del", "rm", "revoke", "disable"), ("remove",)),
    **dict.fromkeys(("ls", "all", "get", "print"), ("list", "show")),
    **dict.fromkeys(("password", "reset", "change", "update"), ("passwd", "rotate")),
    **dict.fromkeys(("renew", "regenerate", "roll", "replace"), ("rotate",)),
    **dict.fromkeys(("check", "test", "repair"), ("verify",)),
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
}
# other names of our flags
FLAG_NAMES: Mapping[str, str] = {"--gpus": "--gpu", "--part": "--service"}
# flags of some tasks that others of the same noun take as a word
WORDS: Mapping[str, str] = {"--to": "PLACE"}


def _close(word: str, words: Iterable[str]) -> str:
    """The word that was most likely meant: the nearest, or the only one that it begins."""
    listed = list(words)
    begun = [one for one in listed if len(word) > 1 and one.startswith(word)]
    return begun[0] if len(begun) == 1 else nearest(word, listed, 0.6)


def unknown_task(word: str, typed: Sequence[str], tasks: Mapping[str, TaskHelp]) -> SettingError:
    """The error for a word that is no task, on the line ``typed``."""
    head = f"there is no task {shown(word)}."
    names = list(dict.fromkeys(name for task in tasks.values() for name in (task.name, *task.aliases, task.full)))
    folded = word.lower().replace("_", "-")
    if new := RENAMED.get(folded):
        return _now(new, typed, [new if one == word else one for one in typed])
    noun, *verbs = re.split(r"[.:/-]", folded)
    dotted = f"{_noun(noun, names)}.{'.'.join(verbs)}"
    if verbs and dotted.partition(".")[0] and folded not in names:
        if guess := _verb(dotted, names):
            return _meant(head, word, guess, typed)
        if "." in word:
            noun = dotted.partition(".")[0]
            return SettingError(head, f"{noun} has {', '.join(_verbs(noun, names))}: `invoke --list {noun}`")
    if folded in names:
        return _meant(head, word, folded, typed)
    if (noun := _noun(folded, names)) and (problem := _behind(noun, word, typed, names, head)):
        return problem
    if meant := HABITS.get(folded):
        return SettingError(head, f"you may want {meant}")
    if guess := _close(folded, names):
        return _meant(head, word, guess, typed)
    if len(whole := [name for name in names if name.endswith(f".{folded}")]) == 1:
        return _meant(head, word, whole[0], typed)
    return SettingError(head, "`invoke --list` names them all")


def _meant(head: str, word: str, guess: str, typed: Sequence[str]) -> SettingError:
    line = shlex.join(guess if one == word else one for one in typed)
    return SettingError(f"{head} Did you mean {guess}?", f"`invoke {shown(line, 200)}`")


def _behind(noun: str, word: str, typed: Sequence[str], names: Sequence[str], head: str) -> SettingError | None:
    """The error for a verb that stands behind its noun, where one of them is misspelt, as in `user add ann`."""
    place = typed.index(word) if word in typed else len(typed)
    guess = _verb(f"{noun}.{typed[place + 1].lower()}", names) if place + 1 < len(typed) else ""
    if not guess:
        return None
    line = shown(shlex.join([*typed[:place], guess, *typed[place + 2 :]]), 200)
    return SettingError(f"{head} Did you mean {guess}?", f"`invoke {line}`")


def _noun(word: str, names: Sequence[str]) -> str:
    """The noun with verbs that was meant, "" where none was."""
    return nearest(word, {name.partition(".")[0] for name in names if "." in name}, 0.8)


def _verbs(noun: str, names: Sequence[str]) -> list[str]:
    return [name.partition(".")[2] for name in names if name.startswith(f"{noun}.")]


def _verb(dotted: str, names: Sequence[str]) -> str:
    """The task of that noun whose verb was meant, "" where none was."""
    noun, _, verb = dotted.partition(".")
    verbs = _verbs(noun, names)
    meant = next((one for one in VERBS.get(verb, ()) if one in verbs), "") or _close(verb, verbs)
    return f"{noun}.{meant}" if meant else ""


def _renamed(task: TaskHelp, word: str, typed: Sequence[str], tasks: Mapping[str, TaskHelp]) -> SettingError | None:
    """The error for a verb that stood behind its noun before: `users add ann` is `users.add ann` now."""
    dotted = f"{task.name}.{word.lstrip('-')}"
    new = RENAMED.get(dotted) or (dotted if any(dotted in (one.name, one.full) for one in tasks.values()) else "")
    start = next((place for place, one in enumerate(typed) if named(tasks, one) is task), None)
    if not new or start is None or word not in typed[start:]:
        return None
    place = typed.index(word, start)
    return _now(new, typed, [*typed[:start], new, *typed[start + 1 : place], *typed[place + 1 :]])


def _now(task: str, typed: Sequence[str], line: Sequence[str]) -> SettingError:
    """The error for a line that is typed in another way now."""
    before, after = (shown(shlex.join(words), 200) for words in (typed, line))
    return SettingError(f"`invoke {before}` is now `invoke {after}`.", f"`invoke --help {task}` shows its flags")


def unknown_flag(
    option: str, task: TaskHelp | None, typed: Sequence[str], tasks: Mapping[str, TaskHelp], core: Sequence[str]
) -> SettingError:
    """The error for a flag that this task does not have (None: before any task)."""
    if task and (problem := _renamed(task, option, typed, tasks)):
        return problem
    bare = option.partition("=")[0]
    head = f"{task.name} has no flag {shown(bare)}." if task else f"there is no flag {shown(bare)} before a task."
    if task and (meant := FLAG_HABITS.get(bare)):
        return SettingError(head, meant)
    own = [f"--{flag.name}" for flag in task.flags if not flag.word] if task else list(core)
    folded = "--" + bare.lower().lstrip("-").replace("_", "-")
    if task and (ours := FLAG_NAMES.get(folded)):
        return SettingError(head, _called(ours, task, tasks))
    if task and (word := WORDS.get(folded, "")) and any(flag.word and value_name(flag) == word for flag in task.flags):
        return SettingError(head, f"it is a word here: `invoke {task.name} {word}`")
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


def _called(option: str, task: TaskHelp, tasks: Mapping[str, TaskHelp]) -> str:
    """What to type for a flag that goes by another name, on this task or on one that has it."""
    having = {one.name: flag for one in tasks.values() for flag in one.flags if f"--{flag.name}" == option}
    name = task.name if task.name in having else _everyday(having)[0]
    where = "" if name == task.name else f" and belongs to {name}"
    return f"it is called {option}{where}: `invoke {name} {option}={value_name(having[name])}`"


def _having(option: str, tasks: Mapping[str, TaskHelp]) -> list[str]:
    """The tasks that have a flag, what is typed every day first."""
    return _everyday(one.name for one in tasks.values() if one.flag(option))


def _everyday(names: Iterable[str]) -> list[str]:
    """Tasks in the order in which they are listed, what is typed every day first."""
    order = [name for listed in GROUPS.values() for name in listed]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _helps(task: TaskHelp | None) -> str:
    return f"`invoke --help {task.name}` shows its flags" if task else "`invoke --list` names the tasks"


def stray_word(word: str, task: TaskHelp, typed: Sequence[str], tasks: Mapping[str, TaskHelp]) -> SettingError:
    """The error for a word behind a task that has no place for it."""
    if problem := _renamed(task, word, typed, tasks):
        return problem
    for argument in typed:
        option, equals, value = argument.partition("=")
        if equals and value == word and (flag := task.flag(option)):
            if not flag.takes_value:
                return SettingError(f"{option} takes no value.", f"`invoke {task.name} {option}`")
            return SettingError(f"{option} is given twice.", "leave one of them out")
    name, equals, value = word.partition("=")
    if equals and (flag := task.flag(f"--{name.lower().replace('_', '-')}")) and flag.takes_value:
        return _meant(
            f"{task.name}: {shown(word)} is a flag without its dashes.", word, f"{flag.option}={value}", typed
        )
    if flag := task.flag(f"--{word.lower()}"):
        return SettingError(
            f"{task.name}: {shown(word)} is a flag.",
            f"`invoke {task.name} {flag.option}{f'={value_name(flag)}' if flag.takes_value else ''}`",
        )
    names = [name for one in tasks.values() for name in dict.fromkeys((one.name, *one.aliases, one.full))]
    head = f"{task.name} takes no further word, and {shown(word)} is no task."
    if task.name in typed and (problem := _behind(task.name, task.name, typed, names, head)):
        return problem
    if verbs := _verbs(task.name, names):
        return SettingError(head, f"{task.name} has {', '.join(verbs)}: `invoke --list {task.name}`")
    guess = _close(word.lower(), names)
    meant = f" Did you mean the task {guess}?" if guess else ""
    return SettingError(f"{head}{meant}", _helps(task))


def missing_value(flag: Flag, task: TaskHelp | None) -> SettingError:
    """The error for a flag at the end of the line that needs a value."""
    option = f"--{flag.name}"  # also of one that may stand as a word
    title = f"{option} needs a value"
    said = BY_OPTION[flag.option].allowed if flag.option in BY_OPTION else _phrase(flag.help)
    return SettingError(
        f"{title}: {said}." if said else f"{title}.",
        f"`invoke {f'{task.name} ' if task else ''}{option}={value_name(flag)}`",
    )


def _phrase(text: str) -> str:
    """A help text inside a sentence."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def followed(word: str) -> SettingError:
    """The error for a task's name behind a flag that may have a value, as in `up --public check`."""
    return SettingError(
        f"{shown(word)} could be the value of the flag before it, or a task.",
        f"write the flag's value too, as in --public=true {shown(word)}",
    )


def missing_words(names: Sequence[str], task: TaskHelp) -> SettingError:
    """The error for words that a task needs."""
    needed = [flag for name in names if (flag := task.flag(name))]
    first = needed[0]
    given = " ".join(value_name(flag) if flag.word else f"{flag.option}={value_name(flag)}" for flag in needed)
    return SettingError(
        f"{task.name} needs {value_name(first) if first.word else first.option}: {_phrase(first.help)}.",
        f"`invoke {task.name} {given}`",
    )


def no_number(flag: Flag, value: str) -> SettingError:
    """The error for a value that is no number."""
    return SettingError(f"{flag.option}={shown(value)}: must be a whole number.", f"{flag.option}=200, for example")
