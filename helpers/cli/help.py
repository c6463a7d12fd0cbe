"""The help of the command line: what a person does first, the tasks in groups, one task's flags in sections."""

# Like tasks.py it is read for every `invoke --list`: nothing heavy is imported.
from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.settings.model import BY_OPTION, THEMES


@dataclass(frozen=True)
class Flag:
    """A flag or word of a task. ``name`` as in --mlflow-port; ``short`` as in -f; ``word``: stands without a flag, and
    ``optional``: may be left out."""

    name: str
    help: str
    takes_value: bool = True
    short: str = ""
    word: bool = False
    optional: bool = False

    @property
    def option(self) -> str:
        return self.name if self.word else f"--{self.name}"


@dataclass(frozen=True)
class TaskHelp:
    """A task as its help shows it. ``full``: with its verb where it is the first of its group, as in backup.create."""

    name: str
    doc: str
    flags: tuple[Flag, ...]
    aliases: tuple[str, ...] = ()
    full: str = ""

    def flag(self, option: str) -> Flag | None:
        return next((f for f in self.flags if option in (f.option, f"-{f.short}" if f.short else "", f.name)), None)


def named(tasks: Mapping[str, TaskHelp], name: str) -> TaskHelp | None:
    """The task that may be typed so: under its name, an alias, or its group's name and its own."""
    return tasks.get(name) or next((one for one in tasks.values() if name in (*one.aliases, one.full)), None)


# what a person does first: what it is for, lines to type, what they do
FIRST: Mapping[str, Mapping[str, str]] = {
    "Start": {
        "up": "start everything, or repair what is half-started",
        "open": "open the page that leads to JupyterLab and MLflow",
        "check": "log a test run from the notebook, and look for it",
    },
    "Every day": {
        "status": "show each service with its state and URL",
        "logs mlflow -f": "follow the log of one service",
        "down": "stop everything; your data stay",
    },
    "Back up and restore": {
        "backup --to=/mnt/backups/": "back up runs, models and artifacts",
        "restore FILE": "restore a backup",
    },
    "Share it": {
        "up --public": "open MLflow and JupyterLab to other machines, with TLS",
        "users.add ann": "create a login and print its password",
    },
    "When something is wrong": {"doctor": "find the problem, and how to fix it"},
}
# tasks in the order of a day
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Every day": (
        *("up", "down", "status", "logs", "open", "jupyter-url", "mlflow-url", "examples", "check"),
        *("demo", "explain"),
    ),
    "Problems and disk space": ("doctor", "usage", "gc"),
    "Data": (
        *("backup", "backup.list", "backup.verify", "backup.prune"),
        *("backup.schedule", "backup.last", "backup.passphrase"),
        *("restore", "import", "move", "upgrade"),
    ),
    "Data sets": ("data", "data.add", "data.remove"),
    "People and passwords": (
        "users",
        "users.add",
        "users.passwd",
        "users.remove",
        "credentials",
        "credentials.rotate",
    ),
    "Other machines": ("env", "jupyter"),
    "Trackbed": ("build", "bundle", "prepare", "lock", "version", "completion"),
}
# flags of settings stand under their themes, the project's last
SECTIONS = (*THEMES[1:], THEMES[0])
# flags that are no settings and stand with the engine's
STARTING = ("on-boot", "from-bundle", "adopt", "dry-run", "name-prefix")
# of every task: lines as they are typed after `invoke`, or with it where a shell does more with them
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "up": ("up", "up --gpu=none --mlflow-port=8001", "up --public --domain=lab.example.org", "up --dry-run"),
    "down": ("down", "down --delete-data"),
    "status": ("status", "status --watch", "status --json", 'eval "$(invoke status --format=env)"'),
    "logs": ("logs", "logs mlflow -f", "logs jupyter -n 50"),
    "open": ("open",),
    "jupyter-url": ("jupyter-url",),
    "mlflow-url": ("mlflow-url",),
    "check": ("check",),
    "doctor": ("doctor", "doctor --engine=embedded"),
    "usage": ("usage", "usage --json"),
    "jupyter": ("jupyter --tracking-uri=https://mlflow.example.org",),
    "users": ("users", "users.add ann", "users.passwd ann", "users.remove ann"),
    "users.add": ("users.add ann",),
    "users.passwd": ("users.passwd ann",),
    "users.remove": ("users.remove ann",),
    "credentials": ("credentials", "credentials --json", "credentials.rotate"),
    "credentials.rotate": ("credentials.rotate",),
    "backup": ("backup", "backup --to=/mnt/backups/", "backup --to=s3://bucket/prefix"),
    "backup.list": ("backup.list", "backup.list /mnt/backups/ --json"),
    "backup.verify": ("backup.verify", "backup.verify /mnt/backups/ --repair"),
    "backup.prune": (
        "backup.prune /mnt/backups/ --keep-last=7 --keep-daily=14 --keep-weekly=8",
        "backup.prune /mnt/backups/ --keep-last=7 --dry-run",
    ),
    "backup.passphrase": ("backup.passphrase /mnt/backups/",),
    "backup.schedule": (
        "backup.schedule --every=6h --to=/mnt/backups/ --keep-last=7 --keep-daily=14",
        "backup.schedule",
        "backup.schedule --off",
    ),
    "backup.last": ("backup.last",),
    "restore": ("restore FILE", "restore FILE --into=copy"),
    "import": ("import mlruns", "import mlflow.db --dry-run", "import mlflow.db --artifacts=/old/mlruns=/mnt/mlruns"),
    "data": ("data", "data --json", "data.add food11 --from=Food-11.zip"),
    "data.add": (
        "data.add food11 --from=https://example.org/Food-11.zip",
        "data.add cifar10 --from=/mnt/cifar10 --data-volume=sets",
        "data.add food11 --from=s3://lab/food11",
    ),
    "data.remove": ("data.remove food11",),
    "explain": ("explain", "explain mlflow", "explain jupyter --json"),
    "completion": ('eval "$(invoke completion bash)"', "completion zsh", "completion fish"),
    "demo": ("demo", "demo --epochs=5"),
    "move": ("move embedded", "move docker --object-store=minio"),
    "upgrade": ("upgrade", "upgrade --back"),
    "bundle": ("bundle --to=/mnt/trackbed.bundle", "bundle --to=trackbed.bundle --engine=embedded --gpu=nvidia"),
    "build": ("build", "build jupyter --gpu=none"),
    "prepare": ("prepare",),
    "lock": ("lock", "lock --upgrade"),
    "version": ("version", "version --json"),
    "gc": ("gc", "gc --older-than=7d --yes"),
    "examples": ("examples",),
    "env": ("env ann",),
}
# of flags that are no settings
VALUE_NAMES = {
    "artifacts": "OLD=NEW",
    "epochs": "NUMBER",
    "from": "SOURCE",
    "from-bundle": "FILE",
    "sha256": "HEX",
    "into": "NAME",
    "name-prefix": "NAME",
    "keep-last": "NUMBER",
    "keep-daily": "NUMBER",
    "keep-weekly": "NUMBER",
    "keep-monthly": "NUMBER",
    "every": "TIME",
    "tail": "LINES",
    "watch": "SECONDS",
    "to": "FILE",
    "older-than": "TIME",
    "registry": "HOST/PATH",
}


def value_name(flag: Flag) -> str:
    """The name of a flag's value: PORT, or its words as in auto|docker|embedded."""
    if flag.option in BY_OPTION:
        return BY_OPTION[flag.option].kind.word
    if match := re.search(r": (\w+(?:, \w+)*) or (\w+)(?: \(default|$)", flag.help):
        return "|".join([*match[1].split(", "), match[2]])
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


def task_help(task: TaskHelp, tasks: Mapping[str, TaskHelp], width: int) -> list[str]:
    """The help of one task: what it does, how it is typed, its flags in groups, examples, the others of its noun."""
    words = [f"[{value_name(flag)}]" if flag.optional else value_name(flag) for flag in task.flags if flag.word]
    lines = [*textwrap.wrap(task.doc, width), "", " ".join(["usage: invoke", task.name, *words, "[flags]"])]
    also = [*task.aliases, *([task.full] if task.full != task.name else ())]
    if also:
        lines.append(f"also: {', '.join('invoke ' + alias for alias in also)}")
    for title, flags in sections(task).items():
        lines += ["", *([f"{title}:"] if title else [])] if flags else []
        for flag in flags:
            short = f"-{flag.short}, " if flag.short else ""
            value = f"={value_name(flag)}" if flag.takes_value and not flag.word else ""
            lines += _wrapped(f"{short}{value_name(flag) if flag.word else flag.option + value}", flag.help, width)
    lines += ["", "Examples:", *(f"  {line}" for line in examples(task))]
    noun = task.name.partition(".")[0]
    if others := [one for name, one in tasks.items() if name.partition(".")[0] == noun and name != task.name]:
        lines += ["", "See also:"]
        for one in others:
            lines += _wrapped(f"invoke {one.name}", sentence(one), width)
    return lines


def examples(task: TaskHelp) -> list[str]:
    """Lines of the task as a shell takes them."""
    return [one if "invoke" in one else f"invoke {one}" for one in EXAMPLES[task.name]]


def sections(task: TaskHelp) -> dict[str, list[Flag]]:
    """The task's flags in the sections of its help; "" is the first."""
    sections: dict[str, list[Flag]] = {"": [], **{title: [] for title in SECTIONS}}
    for flag in task.flags:
        row = None if flag.word else BY_OPTION.get(flag.option)
        sections[row.theme if row else THEMES[0] if flag.name in STARTING else ""].append(flag)
    return sections


def sentence(task: TaskHelp) -> str:
    """The first sentence of what it does."""
    return task.doc.partition(". ")[0].rstrip(".")


def grouped(tasks: Mapping[str, TaskHelp]) -> dict[str, list[TaskHelp]]:
    """The tasks in the groups of a day; those of no group at the end."""
    known = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "Further": tuple(name for name in tasks if name not in known)}
    listed = {title: [tasks[name] for name in names if name in tasks] for title, names in groups.items()}
    return {title: those for title, those in listed.items() if those}


def listing(tasks: Mapping[str, TaskHelp], width: int, group: str = "") -> list[str]:
    """Every task in groups with what it does, or (``group``) those of one noun; nothing where there is none."""
    lines = []
    for title, those in grouped(tasks).items():
        listed = [task for task in those if not group or task.name.partition(".")[0] == group]
        lines += [f"{title}:"] if listed else []
        for task in listed:
            also = f" ({', '.join(task.aliases)})" if task.aliases else ""
            lines += _wrapped(f"{task.name}{also}", sentence(task), width)
        lines += [""] if listed else []
    return [*lines, "`invoke --help TASK` shows the flags of a task and examples."] if lines else []


def overview(width: int) -> list[str]:
    """What `invoke` alone prints: what a person does first."""
    lines = textwrap.wrap("Trackbed: MLflow, its database, an object store and JupyterLab, in one command.", width)
    for title, commands in FIRST.items():
        lines += ["", f"{title}:"]
        for typed, text in commands.items():
            lines += _wrapped(f"invoke {typed}", text, width, 36)
    return [*lines, "", "`invoke --list` names every task.", "`invoke --help up` shows the flags of one."]
