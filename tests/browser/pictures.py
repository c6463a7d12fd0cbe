"""The README's pictures: each run of the tests compares the words of the pages with those that the pictures were taken
of; with ``--pictures`` it takes them again."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from playwright.sync_api import Browser, Locator, Page
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from tests.conftest import PATIENCE, ROOT, Clone

FOLDER = ROOT / "docs" / "images"
WORDS = FOLDER / "pictures.json"  # what is read on each picture, without its numbers
COLUMNS, ROWS = 240, 50  # of the terminal: wide enough for paths of tests
SIZE, BEFORE = (1200, 620), (1400, 900)  # of the window, for a picture and otherwise
Pairs = Sequence[tuple[str, str]]  # patterns, and what is shown in their place
# what no two runs have alike, so that a picture changes with its page alone
PLAIN: Pairs = (
    (r"\b\d{4}/\d\d/\d\d\b", "2026/12/01"),
    (r"\b\d\d:\d\d:\d\d\b", "09:00:00"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "2026-12-01 09:00 UTC"),
    (r"\b\d+[smh] ago", "1m ago"),
    (r"[\d.]+ GiB free of [\d.]+ GiB", "412.0 GiB free of 880.0 GiB"),
    (r"/experiments/\d+", "/experiments/1"),
    (r"/runs/[0-9a-f]{32}", "/runs/4f1d0b6e9a7c4c55b6f0d2a8e3917c64"),
    (r"token=[\w-]{9,}", f"token={'•' * 43}"),
    (r"\S+@\S+ &", "ada@192.0.2.7 &"),
    (r" --project=\S+ --state-dir=\S+", ""),
    (r"\S*/bin/invoke", ".venv/bin/invoke"),
    (r"GPU: .+?, pid \d+, uptime [\d:]+", "GPU: none, pid 20748, uptime 0:00:13"),
)
STYLE = """body { margin: 0; background: #1d1f23 } pre { display: inline-block; padding: 14px 20px; margin: 0;
background: #1d1f23; color: #e6e9ec; font: 14px/1.27 "DejaVu Sans Mono", monospace !important }
code { font-family: inherit !important }"""
REPLACE = """pairs => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode()); )
        for (const [pattern, text] of pairs) {
            const changed = node.nodeValue.replace(new RegExp(pattern, "g"), text);
            if (changed !== node.nodeValue) node.nodeValue = changed;
        }
}"""


def own(clone: Clone) -> Pairs:
    """What is a test's own, as a user would have it. Longer ones first: one is in the other."""
    ports = {"mlflow": 8000, "jupyter": 8888, "s3": 9000, "console": 9001}
    return (
        (re.escape(str(clone.state)), "/home/ada/.local/state/trackbed"),
        (re.escape(str(clone.folder)), "/home/ada/trackbed"),
        (re.escape(clone.project), "trackbed"),
        *((rf"\b{clone.ports[name]}\b", str(port)) for name, port in ports.items()),
        *PLAIN,
    )


def anywhere(told: str) -> str:
    """What a task prints, without what it says of this machine: its GPU, or a disk that fills."""
    return re.sub(r"^(?:GPU|warning): .*\n?(?:  .*\n?)*", "", told, flags=re.MULTILINE)


def words(text: str) -> list[str]:
    """The lines of a text that are the same each time."""
    lines = (re.sub(r"\d[\d.,:]*", "#", line).strip(" \t│╭╮╰╯─") for line in text.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if re.search(r"\w", line)]


@dataclass
class Pictures:
    """``write``: take them; else only their words are compared. ``pairs``: what is the tests' own there."""

    browser: Browser
    write: bool
    pairs: Pairs

    def page(
        self,
        page: Page,
        name: str,
        places: Iterable[Locator],
        shows: Locator | None = None,
        full: bool = False,
    ) -> None:
        """A picture of a page, and the words of some places of it. ``shows``: what has to be in the window; ``full``:
        all of the page, however long."""
        if self.write:
            page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
            if shows is not None:
                shows.scroll_into_view_if_needed()
            page.wait_for_timeout(1500)  # charts and editors draw themselves again
            page.evaluate(REPLACE, [list(pair) for pair in self.pairs])
            page.screenshot(path=FOLDER / f"{name}.png", full_page=full, animations="disabled", caret="hide")
            page.set_viewport_size({"width": BEFORE[0], "height": BEFORE[1]})
        self._compare(name, [line for place in places for line in words(replaced(place.inner_text(), self.pairs))])

    def terminal(self, clone: Clone, name: str, typed: str) -> None:
        """A picture of what a task printed on a terminal, with its colours."""
        told = Text.from_ansi(shown(on_a_terminal(clone, *typed.split())))
        lines = Text("\n").join(_narrow([_changed(line, self.pairs) for line in told.split("\n")]))
        if self.write:
            prompt = Text.assemble(("ada@node", "green"), ":", ("~/trackbed", "blue"), f"$ {typed}\n")
            console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
            console.print(prompt + lines, soft_wrap=True)
            page = self.browser.new_page(viewport={"width": 900, "height": 100})
            page.set_content(console.export_html(theme=DIMMED_MONOKAI, inline_styles=True))
            page.add_style_tag(content=STYLE)
            page.locator("pre").screenshot(path=FOLDER / f"{name}.png")
            page.close()
        self._compare(name, words(anywhere(lines.plain)))

    def _compare(self, name: str, seen: list[str]) -> None:
        known = json.loads(WORDS.read_text()) if WORDS.exists() else {}
        if self.write:
            WORDS.write_text(json.dumps({**known, name: seen}, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            return
        assert seen == known.get(name), (
            f"docs/images/{name}.png no longer shows what is there: look at the page, then `nox -s pictures`"
        )


def replaced(text: str, pairs: Pairs) -> str:
    for pattern, instead in pairs:
        text = re.sub(pattern, instead, text)
    return text


def _changed(line: Text, pairs: Pairs) -> Text:
    """A line with its replacements and its colours."""
    for pattern, instead in pairs:
        for found in reversed(list(re.finditer(pattern, line.plain))):
            line = line[: found.start()] + Text(instead) + line[found.end() :]
    return line


def _narrow(lines: list[Text]) -> list[Text]:
    """A box as wide as what is in it now, as Trackbed draws it."""
    inside = [line for line in lines if line.plain.startswith("│")]
    width = max((len(line.plain[:-1].rstrip()) for line in inside), default=0) + 1
    result = []
    for line in lines:
        if line.plain.startswith("│"):
            line = line[: min(width, len(line) - 1)] + Text(" " * (width - len(line) + 1)) + line[-1:]
        elif line.plain.startswith(("╭", "╰")):
            line = line[:width] + Text("─" * (width - len(line) + 1)) + line[-1:]
        result.append(line)
    return result


def on_a_terminal(clone: Clone, *argv: str) -> str:
    """What a command of the clone prints where it has a terminal of that size."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**clone.environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(
        [*clone.command, *argv[1:]],
        cwd=clone.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    told = b""
    try:
        while more := os.read(master, 65536):
            told += more
    except OSError:  # as Linux says that nobody writes any more
        pass
    finally:
        os.close(master)
    assert process.wait(PATIENCE) == 0, told.decode(errors="replace")
    return told.decode(errors="replace")


def shown(told: str) -> str:
    """What of it stays on the screen: lines that were drawn over are gone."""
    lines: list[str] = [""]
    row = 0
    for part in re.split(r"(\r\n|\n|\r|\x1b\[\d*A|\x1b\[\d*K|\x1b\[\?25[lh])", told):
        if part in ("\r\n", "\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif up := re.fullmatch(r"\x1b\[(\d*)A", part):
            row = max(0, row - int(up[1] or 1))
        elif part == "\r" or part.endswith("K"):
            lines[row] = "" if part != "\r" else lines[row]
        elif not part.startswith("\x1b[?"):
            lines[row] += part
    return "\n".join(lines)
