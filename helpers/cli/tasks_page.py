"""docs/tasks.md: every task with its flags, their defaults and examples, from what `invoke --help TASK` shows.

`python -m helpers.cli.tasks_page` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from helpers.cli import help as pages
from helpers.cli.help import Flag, TaskHelp
from helpers.clone import ROOT
from helpers.settings.declaration import EVERY
from helpers.settings.model import BY_OPTION

FILE = ROOT / "docs" / "tasks.md"
HEAD = """# Tasks

Type the `invoke` commands of this page in the clone, after `sh setup.sh` (once) and `. .venv/bin/activate`.

What `invoke --help TASK` prints, for every task. `python -m helpers.cli.tasks_page` makes this page. Most flags are
settings, which may stand in `.env` or in the environment too: see [settings](settings.md).
"""


def page(tasks: Mapping[str, TaskHelp]) -> str:
    """The whole page."""
    lines = [HEAD, "## Flags of every task", "", *_table(_common(tasks))]
    for group, listed in pages.grouped(tasks).items():
        lines += ["", f"## {group}"]
        for task in listed:
            lines += ["", f"### {task.name}", "", *_task(task)]
    return "\n".join(lines) + "\n"


def _is_common(flag: Flag) -> bool:
    row = None if flag.word else BY_OPTION.get(flag.option)
    return row is not None and row.tasks == EVERY


def _common(tasks: Mapping[str, TaskHelp]) -> list[Flag]:
    return [flag for flag in tasks["up"].flags if _is_common(flag)]


def _task(task: TaskHelp) -> list[str]:
    also = [*task.aliases, *([task.full] if task.full != task.name else ())]
    lines = [task.doc, "", "```", *pages.examples(task), "```"]
    if also:
        lines += ["", f"Also: {', '.join(f'`invoke {alias}`' for alias in also)}."]
    for title, flags in pages.sections(task).items():
        own = [flag for flag in flags if not _is_common(flag)]
        if own:
            lines += ["", *([f"**{title}**", ""] if title else []), *_table(own)]
    return lines


def _table(flags: Iterable[Flag]) -> list[str]:
    lines = ["| flag | meaning |", "|---|---|"]
    for flag in flags:
        value = pages.value_name(flag)
        typed = value if flag.word else f"{flag.option}={value}" if flag.takes_value else flag.option
        short = f"`-{flag.short}`, " if flag.short else ""
        lines.append(f"| {short}`{_cell(typed)}` | {_cell(_text(flag.help))} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(text: str) -> str:
    """A help text where Markdown would take some of its characters for its own."""
    return text if "`" in text else text.replace("*", "\\*").replace("<", "\\<")


def main() -> None:
    import command_line  # the tasks are above this package
    import tasks

    FILE.write_text(page(command_line.known(tasks.namespace)), encoding="utf-8")


if __name__ == "__main__":
    main()
