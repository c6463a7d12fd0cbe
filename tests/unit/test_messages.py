"""Every flag and every command that a message names is there, on the task that it is named for."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.exceptions import ParseError

import command_line
import tasks
from helpers.cli import help as pages
from helpers.settings import TABLE, flags
from tests.unit.texts import messages

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("helpers/**/*.py")]
# what names commands besides: servers' answers, pages, comments that lead on
WRITTEN = [
    path
    for pattern in ("*.*", "docs/**/*", "docker/**/*", ".github/**/*", "tests/**/*.ipynb", "helpers/**/*.py")
    for path in ROOT.glob(pattern)
    if path.suffix in (".py", ".md", ".yaml", ".yml", ".in", ".toml", ".sh", ".ipynb", ".example")
    or path.name == "Caddyfile"
]
KNOWN = command_line.known(tasks.namespace)
OURS = {f"--{flag.name}" for task in KNOWN.values() for flag in task.flags if not flag.word}
INVOKES = {"--list", "--help"}
# what stands behind another program's name is that program's
OTHERS = re.compile(
    r"\b(docker|nvidia-ctk|dnf|systemctl|pacman|cp|mount|uv|pip|bash|sed|openssl|ssh|git|apt-get|nox|"
    r"ufw|firewall-cmd|psql|loginctl|kubectl|unknown flag:)\b[^`]*$|-D \{\}[^`]*$"
)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
MISTAKES = "helpers/cli/mistakes.py"
ERRORS = {"TrackbedError", "SettingError", "EngineUnavailable", "NotListening", "PortTaken", "Interrupted"}
PIECES = "script.py"  # command lines of other programs, flag by flag


def said() -> Iterator[tuple[str, str]]:
    """Where and what: every text of the sources, sentences and single flags of our own words alike."""
    for path in SOURCES:
        for line, text in messages(ast.parse(path.read_text())):
            yield f"{path.relative_to(ROOT)}:{line}", text


def flags_of(place: str, text: str) -> list[str]:
    """The flags that a text shows to a user."""
    if FLAG.match(text.lstrip(" \\\n")) and place.split(":")[0].endswith(PIECES):
        return []
    if (
        re.fullmatch(FLAG.pattern + r"(=\S*)?", text)
        and place.startswith("helpers/")
        and "settings/declared" not in place
    ):
        return []  # a word of an argument list
    return [item.group() for item in FLAG.finditer(text) if not OTHERS.search(text[: item.start()])]


def test_every_flag_in_a_message_exists() -> None:
    seen = [(place, flag) for place, text in said() if not _sought(place) for flag in flags_of(place, text)]
    assert len(seen) > 100
    assert [(place, flag) for place, flag in seen if flag not in OURS | INVOKES] == []


def _sought(place: str) -> bool:
    """What is looked for in the words that somebody typed, flags of other habits among it."""
    return place.startswith(("command_line.py", "noxfile.py")) or place in HABITS


def _habits() -> set[str]:
    """The lines of FLAG_HABITS' keys."""
    tree = ast.parse((ROOT / MISTAKES).read_text())
    result = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "FLAG_HABITS"
    )
    assert isinstance(result, ast.Dict)
    return {
        f"{MISTAKES}:{word.lineno}"
        for value in result.values
        if isinstance(value, ast.Call)
        for word in ast.walk(value.args[0])
        if isinstance(word, ast.Constant)
    }


HABITS = _habits()


def commands() -> list[tuple[str, str]]:
    """Every `invoke ...` of a message, and what `typed.anywhere` is given."""
    result = [
        (place, command)
        for place, text in said()
        if not place.startswith("noxfile.py")
        for command in re.findall(r"\binvoke ((?:--help )?[a-z][^`;,()>|&]*)", text)
    ]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "anywhere":
                result += [(f"{path.relative_to(ROOT)}:{node.lineno}", text) for _, text in messages(node)]
    return result


@pytest.mark.parametrize(("place", "command"), sorted(set(commands())))
def test_every_command_in_a_message_can_be_typed(place: str, command: str) -> None:
    words = shlex.split(re.sub(r"(?<=\w)\{\}|\{\}=(\{\})?", "", command).replace("{}", "x").rstrip(". "))
    if words[0] == "--help":
        assert words[1] in {"x", "TASK"} | KNOWN.keys()
        return
    if words[0] == "x":
        return  # a task that was typed
    try:
        command_line.parse(words, tasks.namespace)
    except ParseError as error:
        if "required positional" not in str(error):  # the task alone, in a sentence
            pytest.fail(f"{place}: invoke {command}: {error}")


def quoted() -> list[tuple[str, str]]:
    """Every `invoke ...` in quotation marks, or alone on its line, of whatever is written for people."""
    command = re.compile(
        r"""(?:(?<=[`'])|^)(?:\$ |[A-Z_]+=\S* )*invoke ((?:--help )?[a-z][^`'#;&|>\n]*)""", re.MULTILINE
    )
    return [
        (path.relative_to(ROOT).as_posix(), item)
        for path in WRITTEN
        if path.suffix != ".py" or path.is_relative_to(ROOT / "docker")
        for item in command.findall(path.read_text())
    ]


def test_every_command_that_is_written_can_be_typed() -> None:
    commands = sorted(set(quoted()))
    assert {place.split("/")[0] for place, _ in commands} >= {"README.md", "docs", "docker", "setup.sh"}
    for place, command in commands:
        words = shlex.split(command.rstrip(". "))
        if words[0] in ("--help", "help"):
            assert words[1:] in ([], ["TASK"]) or pages.named(KNOWN, words[1]), f"{place}: {command}"
            continue
        try:
            command_line.parse(words, tasks.namespace)
        except ParseError as error:
            assert "required positional" in str(error), f"{place}: invoke {command}: {error}"


def test_a_noun_and_its_verb_are_one_word_everywhere() -> None:
    """A namespace's tasks that are named exist, and nothing names one as it was called before."""
    nouns = {task.full.partition(".")[0] for task in KNOWN.values() if "." in task.full}
    assert nouns == {"users", "credentials", "backup", "data"}
    before = re.compile(
        rf"(?:`|invoke )({'|'.join(t.full.replace('.', ' (?:--)?') for t in KNOWN.values() if '.' in t.full)})\b|credentials --init"
    )
    named = re.compile(rf"`(?:invoke )?((?:{'|'.join(nouns)})\.(?!py\b)[a-z]+)(?=[ `])")
    result = 0
    for path in WRITTEN:
        place, text = path.relative_to(ROOT).as_posix(), path.read_text()
        if place == MISTAKES:
            continue
        assert not before.search(text), f"{place}: {before.findall(text)}"
        for name in named.findall(text):
            result += 1
            assert pages.named(KNOWN, name), f"{place}: {name}"
    assert result > 10


def hints() -> Iterator[tuple[str, str]]:
    """How each next step of an error begins and ends, as far as it is written there."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and len(node.args) > 1:
                yield from ((f"{path.relative_to(ROOT)}:{node.lineno}", text) for _, text in messages(node.args[1]))


def test_a_hint_goes_on_the_errors_line() -> None:
    """Behind an arrow: no sentence of its own."""
    seen = list(hints())
    assert len(seen) > 100
    names = ("Docker", "MinIO", "PostgreSQL", "Python", "JupyterLab")
    assert [(place, text) for place, text in seen if re.match("[A-Z][a-z]", text) and not text.startswith(names)] == []
    assert [(place, text) for place, text in seen if re.search(r"\w\.$", text)] == []


def test_a_command_for_root_is_for_who_reads_it() -> None:
    """With sudo where that is needed and there: `shell_words.as_root`. Another machine's shell is not known here."""
    places = [place for place, text in said() if re.search(r"\bsudo [a-z]", text) and place.startswith("helpers/")]
    apart = ("helpers/shell_words.py", "helpers/gpu/advice.py", "helpers/engines/docker/ssh.py")
    assert [place for place in places if not place.startswith(apart)] == []


def test_a_flag_is_never_put_together_from_a_settings_name() -> None:
    """`Setting.given` knows whether there is one."""
    for place, text in said():
        if not place.startswith(("command_line.py", "helpers/cli/", "helpers/settings/")):
            assert not re.search(r"(?<![\w-])--\{\}", text), place


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_setting_is_a_flag_of_the_tasks_that_it_names(row: object) -> None:
    assert row in TABLE
    for name, task in KNOWN.items():
        body = name.replace("-", "_").replace(".", "_")
        takes = task.flag("--project") is not None and row in flags.taken(body).values()
        assert (task.flag(row.option) is not None) is takes or task.flag(row.option).word, name  # type: ignore[union-attr]
