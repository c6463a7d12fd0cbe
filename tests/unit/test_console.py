"""Words of others on the terminal: shown, never obeyed (helpers/console.py)."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import console
from helpers.errors import TrackbedError

CLEAR, TITLE, OVERRIDE, C1 = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "a\u202egnp.exe", "\x9b31m"
NASTY = (CLEAR, TITLE, OVERRIDE, C1, "\x1b[1A\x1b[2Kok", "\x7f\x08\x08", "\u2066x\u2069", "\u200b", "\udc9b", "\u2028",
         "\U000e0041", "\ufeff")


def obeyed(text: str, keep: str = "\n\t") -> list[str]:
    return [c for c in text if unicodedata.category(c) in console.COMMANDS and c not in keep]


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = console.visible(text)
    assert not obeyed(shown, "")
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize("text", ["plain", "Größe 5 µm", "日本語", "a\u00a0b", "emoji 🙂", "\\x1b"])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert console.visible(text) == text


def test_escapes_can_be_read() -> None:
    assert console.visible("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"


@pytest.mark.parametrize("text", NASTY)
def test_every_way_to_print_is_clean(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.value(text)
    console.notice(text)
    console.table(("name",), [(f"x{text}\nready",)])
    console.error(TrackbedError(f"m {text}\nerror: forged", f"h {text}", (f"d {text}",)))
    console.as_json({"name": text})
    with console.Progress() as progress:
        progress.step(text)
        progress.part("mlflow", "starting", text)
        progress.notice(text)
        progress.output(text)
        progress.amount(text, 1, 2, text)
    said = capsys.readouterr()
    assert not obeyed(said.out) and not obeyed(said.err)
    assert "\nerror: forged" not in said.err
    assert not any(line.startswith("ready") for line in said.out.splitlines()), "a name's second line is no row"


def test_the_table_of_a_terminal_is_clean_too(monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console.table(("name",), [(CLEAR + TITLE,)])
    shown = capsys.readouterr().out
    assert "\\x1b[2J" in shown and "\x1b[2J" not in shown and "\x1b]0" not in shown


@pytest.mark.parametrize(("line", "shown"), [
    ("\x1b[32mINFO\x1b[0m ready", "INFO ready"), (" 10%|#\r 20%|##\r", " 20%|##"), (CLEAR + "x", "\\x1b[2J\\x1b[Hx"),
    ("a\tb", "a\tb"), ("", ""), (TITLE, "\\x1b]0;owned\\x07"),
])
def test_a_log_line_is_what_one_would_see_without_colours(line: str, shown: str) -> None:
    assert console.log_line(line) == shown


def test_logs_are_clean_unless_asked_for_as_they_are(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    import tasks
    from helpers import lifecycle

    class Engine:
        def parts(self) -> list[Any]:
            return [type("Status", (), {"name": "jupyter", "state": "ready"})]

        def logs(self, name: str, tail: int, follow: bool) -> list[str]:
            return [CLEAR + "hello"]

    monkeypatch.setattr(tasks, "_load", lambda flags: None)
    monkeypatch.setattr(lifecycle, "running", lambda system: Engine())
    tasks.logs.body(None, "jupyter")
    assert capsys.readouterr().out == "\\x1b[2J\\x1b[Hhello\n"
    tasks.logs.body(None, "jupyter", raw=True)
    assert capsys.readouterr().out == CLEAR + "hello\n"
