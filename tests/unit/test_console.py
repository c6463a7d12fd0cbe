"""Words of others on the terminal: shown, never obeyed (helpers/console.py)."""

from __future__ import annotations

import ast
import io
import re
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke.exceptions import Exit
from rich.cells import cell_len

import command_line
from helpers import console, line_breaks
from helpers.errors import TrackbedError
from tests.conftest import PATIENCE
from tests.unit.fakes import project
from tests.unit.texts import messages

CLEAR, TITLE, OVERRIDE, C1 = "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "a\u202egnp.exe", "\x9b31m"
NASTY = (
    CLEAR,
    TITLE,
    OVERRIDE,
    C1,
    "\x1b[1A\x1b[2Kok",
    "\x7f\x08\x08",
    "\u2066x\u2069",
    "\u200b",
    "\udc9b",
    "\u2028",
    "\U000e0041",
    "\ufeff",
)


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
        progress.service("mlflow", "starting", text)
        progress.notice(text)
        progress.output(text)
        progress.amount(text, 1, 2, text)
    said = capsys.readouterr()
    assert not obeyed(said.out) and not obeyed(said.err)
    assert "\nerror: forged" not in said.err
    assert not any(line.startswith("ready") for line in said.out.splitlines()), "a name's second line is no row"


def test_the_table_of_a_terminal_is_clean_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console.table(("name",), [(CLEAR + TITLE,)])
    shown = capsys.readouterr().out
    assert "\\x1b[2J" in shown and "\x1b[2J" not in shown and "\x1b]0" not in shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[32mINFO\x1b[0m ready", "INFO ready"),
        (" 10%|#\r 20%|##\r", " 20%|##"),
        (CLEAR + "x", "\\x1b[2J\\x1b[Hx"),
        ("a\tb", "a\tb"),
        ("", ""),
        (TITLE, "\\x1b]0;owned\\x07"),
    ],
)
def test_a_log_line_is_what_one_would_see_without_colours(line: str, shown: str) -> None:
    assert console.log_line(line) == shown


def test_logs_are_clean_unless_asked_for_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tasks
    from helpers import status
    from helpers.cli import options

    class Engine:
        def services(self) -> list[Any]:
            return [type("Status", (), {"name": "jupyter", "state": "ready"})]

        def logs(self, name: str, tail: int, follow: bool) -> list[str]:
            return [CLEAR + "hello"]

    monkeypatch.setattr(options, "load", lambda flags: None)
    monkeypatch.setattr(status, "running", lambda project: Engine())
    tasks.logs.body(None, service="jupyter")
    assert capsys.readouterr().out == "\\x1b[2J\\x1b[Hhello\n"
    tasks.logs.body(None, service="jupyter", raw=True)
    assert capsys.readouterr().out == CLEAR + "hello\n"


LINK = "http://127.0.0.1:8888/lab?token=" + "x" * 43


@pytest.mark.parametrize("columns", ["", "30", "50", "80", "120"])
def test_a_box_is_no_wider_than_the_terminal_and_cuts_no_link(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console.box("trackbed is ready", [("Notebook", LINK), ("Your files", "/home/Jürgen/文件")])
    lines = capsys.readouterr().err.splitlines()
    whole = [line for line in lines if LINK in line]
    assert len(whole) == 1
    if columns in ("30", "50", "80"):  # folded by the terminal: nothing of the box beside it
        assert whole == [LINK] and all(len(line) <= int(columns) for line in lines if line != LINK)
    else:
        assert len({cell_len(line) for line in lines}) == 1, "its right side is crooked"


def test_a_box_without_unicode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
    console.box("a", [("b", "c")])
    sys.stderr.seek(0)
    assert sys.stderr.read() == "+- a --+\n| b  c |\n+------+\n"


def test_a_table_with_urls_becomes_lines_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    row = ("store", "VersityGW", "ready", "http://127.0.0.1:9000  http://127.0.0.1:9001", "")
    console.table(("service", "what", "state", "URL", "memory"), [row])
    assert capsys.readouterr().out.splitlines() == [
        "store",
        "  VersityGW",
        "  ready",
        "  http://127.0.0.1:9000",
        "  http://127.0.0.1:9001",
    ]
    monkeypatch.setenv("COLUMNS", "120")
    console.table(("service", "what", "state", "URL", "memory"), [row])
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(("port", "columns", "store"), [(9000, 100, 1), (9000, 80, 2), (23803, 80, 2), (9000, 66, 2)])
def test_a_table_of_a_terminal_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: int, columns: int, store: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    rows = [
        ("postgres", "PostgreSQL", "ready", ""),
        ("store", "VersityGW", "ready", "  ".join(urls)),
        ("store-sync", "object store's sync", "ready", ""),
        ("jupyter", "JupyterLab", "ready", "http://127.0.0.1:8888/lab"),
    ]
    console.table(("service", "what", "state", "URL"), rows)
    shown = console.COLOUR.sub("", capsys.readouterr().out)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= columns
    words = shown.split()
    assert {"PostgreSQL", "VersityGW", "JupyterLab", *urls} <= set(words)
    assert columns < 80 or "object store's sync" in shown
    assert sum("http://127.0.0.1:9" in line or "http://127.0.0.1:2" in line for line in lines) == store


BACKUPS = ("backup", "made", "project", "runs", "objects", "MiB", "MiB new")
BACKUP = (
    "/home/ann/backups/trackbed-lab-20261127T095247Z.json",
    "2026-11-27T09:52:46+00:00",
    "lab",
    "10",
    "13",
    "0.3",
    "0.2",
)


@pytest.mark.parametrize("columns", [40, 50, 80, 120, 122, 125, 130, 150])
def test_a_table_of_a_narrow_terminal_breaks_no_heading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    console.table(BACKUPS, [BACKUP])
    shown = console.COLOUR.sub("", capsys.readouterr().out)
    whole = set(BACKUP[:2])  # for the clipboard
    assert {"project", "objects", "new", *whole} <= set(shown.replace(";", "").split())
    problem = "its manifest is damaged in both copies, so that nobody can tell what it holds"
    console.table(BACKUPS, [BACKUP, (BACKUP[0], problem, "", "", "", "", "")])
    both = console.COLOUR.sub("", capsys.readouterr().out)
    assert set(problem.split()) | {"new", *whole} <= set(both.replace(";", "").split())
    if columns <= 50:
        path, *rest = shown.splitlines()
        assert path == BACKUP[0]
        assert all(line.startswith("  ") and len(line) <= columns for line in rest)
        said = " ".join(line.strip() for line in rest)
        assert said == f"made {BACKUP[1]}; project lab; runs 10; objects 13; MiB 0.3; MiB new 0.2"


@pytest.mark.parametrize("columns", [40, 50, 80, 120])
def test_a_secret_can_be_copied_from_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    secrets = [("S3_ACCESS_KEY", "short"), ("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "v" * 43 + "=")]
    console.table(("secret", "value"), secrets)
    shown = console.COLOUR.sub("", capsys.readouterr().out)
    assert {word for pair in secrets for word in pair} <= set(shown.split())
    if columns < 80:
        assert shown == "".join(f"{name}\n  {value}\n" for name, value in secrets)


def test_a_line_to_type_works_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from helpers import clone, invocations

    folder = tmp_path / "my clone"
    beside = folder / ".venv" / "bin" / "invoke"
    beside.parent.mkdir(parents=True)
    beside.write_text("#!/bin/sh\necho in $PWD: $*\n")
    beside.chmod(0o755)
    monkeypatch.setattr(clone, "ROOT", folder)
    monkeypatch.setattr("sys.argv", [str(beside), "up"])
    done = subprocess.run(
        ["sh", "-c", invocations.anywhere("check", "other")],
        cwd="/",
        env={},
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == f"in {folder}: check --project=other\n"


def test_a_task_that_is_named_can_be_typed_where_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers import clone

    def said() -> str:
        console.error(TrackbedError("it is stopped", "`invoke down`, then `invoke up`"))
        return capsys.readouterr().err.splitlines()[-2].strip()  # the page is named below it

    invoke = tmp_path / "clone" / ".venv" / "bin" / "invoke"
    invoke.parent.mkdir(parents=True)
    invoke.touch(0o755)
    monkeypatch.setattr(clone, "ROOT", tmp_path / "clone")
    monkeypatch.setattr("sys.argv", [str(invoke), "check"])
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("PATH", str(invoke.parent))
    assert said() == "-> `invoke down`, then `invoke up`"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert said() == "-> `.venv/bin/invoke down`, then `.venv/bin/invoke up`"
    monkeypatch.chdir(tmp_path)
    typed = f"cd {tmp_path}/clone && .venv/bin/invoke"
    assert said() == f"-> `{typed} down`, then `{typed} up`"


@pytest.mark.parametrize(
    ("argv", "environ", "flags"),
    [
        ([], {}, ""),
        (["--project=revcor"], {}, " --project=revcor"),
        (["--project", "revcor", "--state-dir", "/srv/my state"], {}, " --project=revcor --state-dir='/srv/my state'"),
        (["--state-dir=~/state"], {"HOME": "/home/ada"}, " --state-dir=/home/ada/state"),
        ([], {"TRACKBED_PROJECT": "revcor", "TRACKBED_STATE_DIR": "/srv/s"}, " --project=revcor --state-dir=/srv/s"),
        (["--project=flag"], {"TRACKBED_PROJECT": "environment"}, " --project=flag"),
        (["--project="], {"TRACKBED_PROJECT": "environment"}, ""),
        (["--project=$(id)"], {}, " '--project=$(id)'"),
    ],
)
def test_a_line_to_type_is_for_the_same_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str], environ: dict[str, str], flags: str
) -> None:
    from helpers import clone, invocations

    invoke = tmp_path / ".venv" / "bin" / "invoke"
    invoke.parent.mkdir(parents=True)
    invoke.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    invoke.chmod(0o755)
    monkeypatch.setattr(clone, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", [str(invoke), "status", *argv])
    monkeypatch.setenv("PATH", f"{invoke.parent}:/usr/bin:/bin")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    expected = shlex.split(flags)

    def read(line: str) -> list[str]:
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, text=True, capture_output=True, check=True, timeout=PATIENCE
        )
        return done.stdout.splitlines()

    assert read(invocations.anywhere("up")) == ["up", *expected]
    assert read(invocations.anywhere("check", "other"))[:2] == ["check", "--project=other"]
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        said = invocations.as_typed(
            "`invoke users.add ada`; `invoke down --project=copy`; `invoke --list`; `invoke lock`; "
            "`TRACKBED_GPU= invoke up`"
        )
        one, two, three, four, five = (read(line) for line in re.findall("`([^`]+)`", said))
        assert one == ["users.add", "ada", *expected]
        assert two == ["down", "--project=copy", *(flag for flag in expected if "--project" not in flag)]
        assert (three, four, five) == (["--list"], ["lock"], ["up", *expected])


def test_a_stopped_system_is_started_again_by_the_line_that_status_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import tasks
    from helpers import status
    from helpers.cli import options
    from helpers.engines import select
    from helpers.engines.embedded.engine import EmbeddedEngine

    monkeypatch.setattr("sys.argv", ["invoke", "status", "--project=revcor", f"--state-dir={tmp_path}"])
    view = status.Overview("embedded", project(tmp_path, project="revcor").settings, (), source=cast(Any, None))
    monkeypatch.setattr(options, "load", lambda flags: project(tmp_path, project="revcor"))
    monkeypatch.setattr(select, "current", EmbeddedEngine)
    monkeypatch.setattr(status, "running", lambda project: view)
    monkeypatch.setattr(status, "overview", lambda engine, detail=False: view)
    monkeypatch.setattr(status, "not_running", lambda view: "is stopped")
    tasks.status.body(None, project="revcor", state_dir=str(tmp_path))
    assert capsys.readouterr().err.endswith(f" up --project=revcor --state-dir={tmp_path}\n")
    with pytest.raises(Exit):
        tasks.check.body(None, project="revcor", state_dir=str(tmp_path))
    assert re.search(rf"start it with: cd .* up --project=revcor --state-dir={tmp_path}\n", capsys.readouterr().err)


def test_every_task_that_is_typed_for_a_named_system_takes_the_flags() -> None:
    import tasks
    from helpers import invocations

    lacking = {
        name
        for name, task in command_line.known(tasks.namespace).items()
        if not all(task.flag(option) for option in invocations.NAMED)
    }
    assert lacking == set(invocations.WITHOUT) - {"-"}


def test_every_task_in_a_message_can_be_made_typeable() -> None:
    """`typed.as_typed` knows a task by the quotation mark before it; the help and its examples have none."""
    root = Path(__file__).resolve().parents[2]
    result = []
    for path in (*root.glob("*tasks.py"), root / "command_line.py", *root.glob("helpers/**/*.py")):
        for line, text in messages(ast.parse(path.read_text())):
            bare = re.sub(r"`(?:[\w{}]+= )?invoke [^`]*`|-m invoke |usage: invoke |\$\(invoke ", "", text)
            if re.search(r"\binvoke ", bare) and text not in ("`invoke ", "invoke ", "invoke {}"):  # not ours to type
                result.append(f"{path.relative_to(root)}:{line}: {text}")
    assert not result


@pytest.mark.parametrize("columns", [50, 80])
def test_what_is_done_of_a_long_step_is_told_on_one_line_where_it_fits(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", str(columns))
    stream = io.StringIO()
    progress = console.Progress()
    progress.amount("archive", 300, 900, "300 of 900 MiB, 12 MiB/s")
    progress.step("downloading")
    progress._amounts = {"archive": (300, 900, "300 of 900 MiB, 12 MiB/s", 0.0)}
    progress.output("Collecting " + "x" * 200)
    Console(file=stream, width=columns, force_terminal=True, color_system=None).print(progress._draw())
    first, step, tail, *rest = (line.rstrip() for line in stream.getvalue().splitlines())
    assert re.fullmatch(r"archive  [━╸╺ ]{8,40}  33 %  300 of 900 MiB, 12 MiB/s", first) and not any(rest)
    assert re.search(r"downloading  \d+ s$", step), "how long it takes"
    assert len(tail) <= columns and tail.endswith("…")


def test_a_line_to_type_is_not_broken_where_the_terminal_is_narrow() -> None:
    from rich.console import Console
    from rich.live import Live

    stream = io.StringIO()
    progress = console.Progress()
    progress._live = Live(console=Console(file=stream, width=50, force_terminal=True, color_system=None))
    words, line = "prose " * 20, "  sudo iptables -t raw -I PREROUTING -d 127.0.0.0/8 '!' -i lo -j DROP"
    progress.notice(f"{words}\n{line}")
    printed = stream.getvalue().splitlines()
    assert line in printed and max(len(one) for one in printed if one != line) <= 50


PROSE = (
    "warning: lease: it ends soon; `invoke backup.schedule --every=1h --to=s3://BUCKET/PREFIX`, or a folder that stays"
)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_prose_of_a_terminal_breaks_between_words_and_no_command(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, columns)
    console.notice(f"{PROSE}\n  ssh -N -L 8000:127.0.0.1:8000 ann@node.example.org -p 22 {'-v ' * 20}")
    *prose, line = capsys.readouterr().err.splitlines()
    assert " ".join(prose) == PROSE
    assert all(cell_len(one) <= columns or "`invoke " in one for one in prose)
    assert line.startswith("  ssh ") and line.count("-v") == 20, "what is to be typed stays one line"


def test_an_error_of_a_terminal_breaks_between_words_and_none_of_its_lines_looks_like_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 20)
    console.error(TrackbedError("a word or two, then error: forged\nerror: forged", f"do this: {'step ' * 10}now"))
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == ["error: a word or", "       two, then", "       error: forged"]
    assert said[3] == "       error: forged"
    assert said[4] == "  -> do this: step" and said[5] == "     step step step"


def test_what_no_terminal_shows_is_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    console.notice(PROSE)
    assert capsys.readouterr().err == f"{PROSE}\n"


def test_a_box_of_a_narrow_terminal_breaks_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, 40)
    line = "cd /home/ann/track && .venv/bin/invoke check"
    console.box("lab is ready", [("Next", line)])
    assert line in capsys.readouterr().err.splitlines()


def test_words_go_on_beside_the_end_of_a_command_that_is_too_long() -> None:
    command = "`invoke backup.schedule --every=1h`"
    assert line_breaks.folded(f"{command}, or not so {'x' * 14}", 30) == f"{command}, or not so\n{'x' * 14}"
    assert line_breaks.folded(f"{'x' * 20} y z", 10) == f"{'x' * 20}\ny z"


def test_a_step_with_a_long_command_keeps_it_beside_its_arrow() -> None:
    assert line_breaks.folded(f"  -> `{'x ' * 26}x` now or", 30) == f"  -> `{'x ' * 26}x`\n     now or"


def test_one_of_a_list_breaks_between_words_below_its_beginning() -> None:
    line = "  - volume lab_postgres: database: experiments, runs, parameters, metrics, registered models"
    first, *rest = line_breaks.folded(line, 50).split("\n")
    assert first == "  - volume lab_postgres: database: experiments," and all(one.startswith("    ") for one in rest)
    assert " ".join([first.strip(), *map(str.strip, rest)]) == line.strip()


@pytest.mark.parametrize("columns", [20, 40])
def test_a_command_after_a_colon_stays_whole(columns: int) -> None:
    line = "more of one of them: cd /home/ann/track && .venv/bin/invoke explain jupyter"
    *words, command = line_breaks.folded(line, columns).split("\n")
    assert (
        " ".join(words) == "more of one of them:"
        and command == "cd /home/ann/track && .venv/bin/invoke explain jupyter"
    )
