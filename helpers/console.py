"""The only printing: values on stdout, everything else (progress, notices, errors) on stderr.

What is printed may hold names and words of others: nothing of it reaches the terminal as a command to it (`visible`).
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from helpers import line_breaks, topics
from helpers.errors import TrackbedError

EVERY = 3.0  # seconds between two words about one copy
LONG = 16  # letters of a word that a table folds: a path, an id
WHOLE = frozenset({"backup", "made", "path in the notebook", "secret", "value"})  # columns to copy from: never folded
# Unicode's categories: control characters (C0, DEL, C1), invisible formatting (right-to-left overrides, zero-width
# characters, tags), halves of pairs, line and paragraph separators
COMMANDS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")


def visible(text: str, keep: str = "") -> str:
    """The text with every character that a terminal would obey, or hide, as an escape; those of ``keep`` stay."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) not in COMMANDS
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )


def _lines(text: str) -> str:
    """Our own text, which may have lines, with words of others in it. Tasks that it names can be typed as it says."""
    if "`invoke " in text:
        from helpers import invocations  # what it needs is no light import

        text = invocations.as_typed(text)
    return visible(text, "\n\t")


def log_line(line: str) -> str:
    """A line of a log as a terminal would show it, without its colours, and without what else it could do there."""
    shown = [piece for piece in COLOUR.sub("", line).split("\r") if piece.strip()]
    return visible(shown[-1] if shown else "", "\t")


def value(text: str, raw: bool = False) -> None:
    """A value that may be piped: to stdout, alone on its line. ``raw``: as it is."""
    sys.stdout.write((text if raw else _lines(text)) + "\n")
    sys.stdout.flush()


def notice(text: str = "") -> None:
    """Something to know: to stderr. On a terminal its lines break between words."""
    sys.stderr.write(_readable(_lines(text), _columns()) + "\n")
    sys.stderr.flush()


def _readable(text: str, limit: int) -> str:
    return "\n".join(line_breaks.folded(line, limit) for line in text.split("\n"))


def _columns() -> int:
    return shutil.get_terminal_size().columns if sys.stderr.isatty() else 0


def as_json(data: object) -> None:
    value(json.dumps(data, indent=2))


def as_env(data: Iterable[tuple[str, object]]) -> None:
    """Lines that a shell can read with ``eval``."""
    import shlex

    for name, item in data:
        value(f"export {name}={shlex.quote(str(item))}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout; plain aligned columns where stdout is no terminal. URLs are never cut: where a row does not
    fit, they lie below each other, and where that does not fit, each row is a few lines below its first cell. So it is
    where a terminal has no room for a word of each column. Long words are folded, but not what one copies."""
    listed = [tuple(visible(cell) for cell in row) for row in rows]
    drawn = listed
    if "URL" in columns and (limit := width()) and _needed(columns, listed) > limit:
        place = columns.index("URL")
        drawn = [(*row[:place], row[place].replace("  ", "\n"), *row[place + 1 :]) for row in listed]
        if not sys.stdout.isatty() or _needed(columns, drawn, folded=True) > limit:
            _print_rows(listed)
            return
    elif sys.stdout.isatty() and (limit := width()) and _needed(columns, listed, folded=True) > limit:
        _print_labelled(columns, listed, limit)
        return
    if sys.stdout.isatty():
        _draw_table(columns, drawn, title)
        return
    widths = [max(len(str(row[i])) for row in [tuple(columns), *listed]) for i in range(len(columns))]
    if title:
        value(title)
    for row in [tuple(columns), *listed]:
        value("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rows(rows: Iterable[Sequence[str]]) -> None:
    for first, *rest in rows:
        value(first)
        for cell in filter(None, rest):
            for line in cell.split("  "):
                value(f"  {line}")


def _print_labelled(columns: Sequence[str], rows: Iterable[Sequence[str]], limit: int) -> None:
    for first, *rest in rows:
        value(first)
        named = [(name, cell) for name, cell in zip(columns[1:], rest, strict=True) if cell]
        if len(columns) == 2:  # its name says nothing new
            named = [("", cell) for _, cell in named]
        said = "; ".join(f"{name} {cell}".strip() for name, cell in named)
        for line in line_breaks.folded(said, limit - 2).split("\n"):
            value(f"  {line}")


def _draw_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        whole = column in WHOLE and all(len(row[place].split()) < 2 for row in rows)
        drawn.add_column(column, overflow="fold", no_wrap=whole or column in ("URL", "service"))
    for row in rows:
        drawn.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console(file=sys.stdout, highlight=False, soft_wrap=False).print(drawn)


def _needed(columns: Sequence[str], rows: Sequence[Sequence[str]], folded: bool = False) -> int:
    """Columns that the table needs; ``folded``: with one word on a line, but for its URLs and the cells before them.
    Without URLs a word needs no more than LONG, but for one of a column to copy from."""
    urls = "URL" in columns
    kept = range(len(columns)) if not folded else {0, columns.index("URL")} if urls else ()
    longest = [
        max(
            len(piece)
            for row in (columns, *rows)
            for piece in (row[i].split("\n") if i in kept else row[i].split()) or ("",)
        )
        for i in range(len(columns))
    ]
    if not urls:
        listed = tuple(zip(columns, longest, strict=True))
        longest = [length if name in WHOLE else min(length, LONG) for name, length in listed]
    if not WHOLE.isdisjoint(columns):  # the widest gives way first, before a heading of two words
        longest = [max(length, len(name)) for name, length in zip(columns, longest, strict=True)]
    return sum(longest) + 3 * len(columns) - 1  # a gap of 3 columns, and one at each side


def width() -> int:
    """Columns that a line may take; 0 for as many as it needs, where nobody reads it on a terminal of known width."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stderr.isatty():
        return shutil.get_terminal_size().columns
    return 0


def box(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A box of labels and values on stderr. Where a line is too long for the terminal, its sides stay open and each
    value begins a line of its own: the terminal folds it, so that a link can be opened and copied whole."""
    from rich.cells import cell_len

    listed = [(visible(label), visible(text)) for label, text in rows]
    labels = max(cell_len(label) for label, _ in listed)
    lines = [label + " " * (labels - cell_len(label)) + "  " + text for label, text in listed]
    inner = max(cell_len(line) for line in (*lines, f"{title}  "))
    try:
        "─│╭╮╰╯".encode(sys.stderr.encoding or "ascii")
        flat, side, corners = "─", "│", "╭╮╰╯"
    except UnicodeError:
        flat, side, corners = "-", "|", "++++"
    if (limit := width()) and inner + 4 > limit:
        head = f"{flat * 2} {title} "
        body = [line for label, text in listed for line in (([label] if label else []) + [text])]
        drawn = [head + flat * (limit - cell_len(head)), *body, flat * limit]
    else:
        head = f"{corners[0]}{flat} {title} "
        drawn = [
            head + flat * (inner + 3 - cell_len(head)) + corners[1],
            *(f"{side} {line}{' ' * (inner - cell_len(line))} {side}" for line in lines),
            corners[2] + flat * (inner + 2) + corners[3],
        ]
    sys.stderr.write("\n".join(drawn) + "\n")
    sys.stderr.flush()


def _style(cell: str) -> str:
    word = cell.split(" ")[0]
    if word in ("ready", "running", "done", "ok", "passed"):
        return "green"
    if word in ("exited", "unhealthy", "restarting", "failed", "error"):
        return "bold red"
    return "yellow" if word in ("starting", "missing", "warning", "skipped") else ""


def bars(title: str, points: Sequence[tuple[str, float]], most: int = 12) -> None:
    """Values from 0 to 1 as bars on stderr, at most so many; plain lines where nobody looks at a terminal."""
    step = -(-len(points) // most) or 1
    shown = [(visible(label), point) for label, point in (*points[:-1][step - 1 :: step], *points[-1:])]
    labels = max((len(label) for label, _ in shown), default=0)
    notice(title)
    length = max(10, min(60, width() - labels - 8)) if sys.stderr.isatty() else 0
    try:
        "█▏".encode(sys.stderr.encoding or "ascii")
        plain = not length
    except UnicodeError:
        plain = True
    if plain:
        for label, point in shown:
            bar = f"{'#' * round(point * length):{length}} " if length else ""
            notice(f"{label.rjust(labels)} {bar}{point:.3f}")
        return
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 1))
    for label, point in shown:
        rows.add_row(Text(label.rjust(labels)), Bar(1.0, 0.0, point, width=length, color="green"), f"{point:.3f}")
    Console(file=sys.stderr, highlight=False).print(rows)


def error(problem: TrackbedError) -> None:
    """A message, the last lines of the service concerned, and what to type now."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    mark = "\x1b[1;31merror:\x1b[0m" if colour else "error:"
    for line in problem.details:
        notice(f"  | {log_line(line)}")
    first, *further = f"error: {_lines(problem.message)}".split("\n")
    indent = " " * 7  # an error's further lines are indented: none of them looks like another error
    shown = [
        line_breaks.folded(first, _columns(), indent).replace("error:", mark, 1),
        *(indent + line for line in further),
    ]
    sys.stderr.write("\n".join(shown) + "\n")
    for line in topics.next_steps(problem):
        notice(line)


def confirm(question: str) -> bool:
    """Ask on the terminal; False where there is none."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{visible(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def ask_secret(question: str) -> str:
    """What the user types on the terminal, which does not show it."""
    return getpass.getpass(visible(question), sys.stderr)


def new_secret(question: str) -> str:
    """A new secret: typed twice on the terminal; without one it is the first line of stdin. Raises TrackbedError."""
    if not can_ask():
        return sys.stdin.readline().strip()
    result = ask_secret(question).strip()
    if ask_secret("The same again: ").strip() != result:
        raise TrackbedError("the two differ; nothing was changed", "run the same command again")
    return result


def _bar(name: str, done: int, whole: int, note: str) -> Any:
    """One line: name, bar, share, note. Without a whole the bar only moves."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 2))
    done = min(done, whole) if whole else 0  # more may have come since it was counted
    length = max(8, min(40, (width() or 80) - len(name) - len(note) - 14))  # the words come first
    bar = ProgressBar(total=whole or None, completed=done, width=length, pulse=not whole)
    line.add_row(name, bar, f"{100 * done // whole} %" if whole else "", note)
    return line


class Progress:
    """A ``ProgressReporter``: a live line per service on a terminal, else a line per change. A context manager."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._begun = time.monotonic()
        self._services: dict[str, tuple[str, str, float]] = dict.fromkeys(names, ("waiting", "", 0.0))
        self._amounts: dict[str, tuple[int, int, str, float]] = {}
        self._step = ""
        self._tail = ""
        self._live: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._draw, console=Console(file=sys.stderr), refresh_per_second=8, transient=True
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        elapsed = time.monotonic() - self._begun
        rows = Table.grid(padding=(0, 2))
        with self._lock:
            for name, (state, note, at) in self._services.items():
                rows.add_row(
                    name,
                    Text(state, style=_style(state)),
                    Text(note, style="dim"),
                    Text(f"{at:.0f} s" if at else "", style="dim"),
                )
            lines: list[Any] = [rows] if self._services else []
            lines += [_bar(name, done, whole, note) for name, (done, whole, note, _) in self._amounts.items()]
            lines.append(Spinner("dots", text=Text(f"{self._step or 'working'}  {elapsed:.0f} s")))
            if self._tail:
                lines.append(Text("  " + self._tail, style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def confirm(self, question: str) -> bool:
        """Ask on the terminal, while nothing is drawn there."""
        if self._live is None:
            return confirm(question)
        self._live.stop()
        try:
            return confirm(question)
        finally:
            self._live.start()

    def notice(self, text: str) -> None:
        """A line to keep: above the live part on a terminal."""
        if self._live is not None:
            shown = _readable(_lines(text), self._live.console.width)
            self._live.console.print(shown, highlight=False, markup=False, soft_wrap=True)
        else:
            notice(text)

    def step(self, text: str) -> None:
        text = visible(text)
        with self._lock:
            self._step, self._tail = text, ""
            self._amounts = {}  # what was copied in the step before is done
        if self._live is None:
            notice(f"[{time.monotonic() - self._begun:5.1f} s] {text}")

    def service(self, name: str, state: str, note: str = "") -> None:
        note = visible(note)
        with self._lock:
            before = self._services.get(name)
            if before is not None and before[:2] == (state, note):
                return
            self._services[name] = (state, note, time.monotonic() - self._begun)
        if self._live is None:
            notice(f"[{time.monotonic() - self._begun:5.1f} s] {name}: {state}{' (' + note + ')' if note else ''}")

    def amount(self, name: str, done: int, whole: int, note: str) -> None:
        """A bar on a terminal; otherwise a line now and then."""
        now, name, note = time.monotonic(), visible(name), visible(note)
        with self._lock:
            *_, said = self._amounts.get(name, (0, 0, "", now))
            due = self._live is None and now - said >= EVERY
            self._amounts[name] = (done, whole, note, now if due else said)
        if due:
            share = f"{100 * min(done, whole) // whole} %, " if whole else ""
            notice(f"[{now - self._begun:5.1f} s] {name}: {share}{note}")

    def output(self, line: str) -> None:
        text = log_line(line.strip())
        if not text:
            return
        with self._lock:
            self._tail = text
        if self._live is None and os.environ.get("TRACKBED_VERBOSE"):
            notice("  | " + text)
