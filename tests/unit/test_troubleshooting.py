"""docs/troubleshooting.md and the messages: each error with a hint has a heading there, each heading has errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from helpers import console, errors, topics
from helpers.cli import failures
from helpers.errors import SettingError, TrackbedError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / topics.PAGE).read_text()
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TrackbedError)}
WIDTH = 50  # columns of the narrowest terminal that is tested


def slug(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def part(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


HEADINGS = [slug(heading) for heading in re.findall(r"^### (.+)$", part("Messages"), re.MULTILINE)]


@cache
def calls() -> tuple[tuple[str, ast.Call], ...]:
    """Every call by a name in the toolkit, with its module."""
    result = []
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        result += [(module, node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return tuple(result)


def with_hint() -> Iterator[tuple[str, str]]:
    """Module and message of each error that is made with a hint; 1 stands for what is filled in."""
    for module, node in calls():
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        words = node.args[1:] if name == "ServiceFailed" else node.args
        if name in KINDS and (len(words) > 1 or any(key.arg == "hint" for key in node.keywords)) and words:
            yield module, spelled(words[0])


def spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "1" for one in node.values)
    if isinstance(node, ast.BinOp):
        return spelled(node.left) + spelled(node.right)
    return "1"


def test_errors_are_seen() -> None:
    assert len(list(with_hint())) > 200 and len(HEADINGS) > 20


def test_every_topic_has_a_heading_and_every_heading_a_topic() -> None:
    named = {
        *topics.MESSAGES.values(),
        *topics.MODULES.values(),
        topics.TYPED,
        topics.OTHERWISE,
        topics.DOCTOR,
        topics.SETUP,
    }
    assert named == set(HEADINGS)
    assert len(HEADINGS) == len(set(HEADINGS)), "an anchor leads to one heading"


def test_every_error_came_through_a_module_with_a_topic() -> None:
    """Whatever module raises it, a task's own called that one."""
    assert topics.of_module("helpers.cli.new") and not topics.of_module("helpers.safe_files")


def test_every_module_with_a_topic_exists_and_every_topic_has_errors() -> None:
    for module in topics.MODULES:
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    errors_of = {topics.of_module(module) for module, _ in with_hint()}
    assert set(topics.MODULES.values()) - errors_of == set()


@pytest.mark.parametrize("words", topics.MESSAGES)
def test_words_of_a_topic_are_those_of_a_message(words: str) -> None:
    """Each alternative: a message that was changed takes its topic's words along."""
    engines = ("docker", "kubernetes")
    printed = [text.replace("1", filled) for text in texts() for filled in ("1", *engines)]
    for one in re.split(r"\|(?![^(]*\))", words):
        assert any(re.search(one, message) for message in printed), one


def test_setup_names_the_page_too() -> None:
    assert topics.reference(topics.SETUP) in (ROOT / "setup.sh").read_text()


def test_what_a_message_prints_fits_a_narrow_terminal() -> None:
    for anchor in HEADINGS:
        assert len(f"  {topics.reference(anchor)}") <= WIDTH, anchor


def raised(problem: TrackbedError, module: str) -> TrackbedError:
    """The same error, raised in a module of that name."""
    names = {"problem": problem, "__name__": module}
    with pytest.raises(type(problem)) as caught:
        exec("raise problem", names)
    return caught.value


@pytest.mark.parametrize(
    ("problem", "module", "anchor"),
    [
        (TrackbedError("port 8000 (MLFLOW_PORT) is taken by nginx", "x"), "helpers.start", "port-taken"),
        (TrackbedError("the disk is full at /data", "x"), "helpers.backups.storage", "disk-full"),
        (TrackbedError("/data: no such file", "x"), "helpers.backups.storage", "backups"),
        (TrackbedError("no timer", "x"), "helpers.backups.schedule", "schedule"),
        (TrackbedError("nothing was deleted, nothing was stopped", "x"), "helpers.cli.running", "commands"),
        (TrackbedError("nothing was restored", "x"), "helpers.cli.data", "commands"),
        (TrackbedError("nothing was stopped: project a is another person's", "x"), "helpers.lifecycle", "not-ready"),
        (TrackbedError("a thing of the machine", "x"), "helpers.safe_files", "machine"),
        (SettingError("must be a number", "x"), "helpers.settings.sources", "settings"),
        (SettingError("must be a folder", "x"), "helpers.imports.sources", "import"),
        (TrackbedError("installing mlflow from the bundle failed: x"), "helpers.engines.embedded.venvs", "bundle"),
    ],
)
def test_the_topic_of_an_error(problem: TrackbedError, module: str, anchor: str) -> None:
    assert topics.topic(raised(problem, module)) == anchor


def test_a_module_that_others_share_has_the_topic_of_its_caller() -> None:
    shared = {"problem": TrackbedError("reading ended early", "x"), "__name__": "helpers.data.artifacts"}
    exec("def read():\n    raise problem", shared)
    caller = {"read": shared["read"], "__name__": "helpers.backups.create"}
    with pytest.raises(TrackbedError) as caught:
        exec("read()", caller)
    assert topics.topic(caught.value) == "backups"


def test_an_error_with_a_hint_names_the_page_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise TrackbedError("port 8000 (MLFLOW_PORT) is taken by nginx", "`invoke up --mlflow-port=8001`")

    assert failures.exit_code(fail) == 1
    *_, hint, last = capsys.readouterr().err.splitlines()
    assert hint.startswith("  -> ") and last == "  see docs/troubleshooting.md#port-taken"
    console.error(TrackbedError("nothing to do about it"))
    assert "see docs" not in capsys.readouterr().err
    console.error(SettingError("there is no task ups.", "`invoke up`"))
    assert "#commands" in capsys.readouterr().err


@cache
def texts() -> tuple[str, ...]:
    """Every text of the toolkit, the images' code and setup.sh, with a word where one is filled in."""
    result = [(ROOT / "setup.sh").read_text()]
    for folder in ("helpers", "docker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr | ast.BinOp) or (
                    isinstance(node, ast.Constant) and isinstance(node.value, str)
                ):
                    result.append(spelled(node))
    return tuple(result)


OTHERS = (  # the shell's, Invoke's, MLflow's and the browser's
    "invoke: command not found",
    "Can't find any collection named 'tasks'!",
    "Something went wrong",
    "Failed to fetch",
)
QUOTED = [
    message
    for title in ("Messages", "Messages in MLflow")
    for row in re.findall(r"^\| (`.+?) \|", part(title).partition("### Doctor")[0] or part(title), re.MULTILINE)
    for message in re.findall(r"`([^`]+)`", row)
    if message not in OTHERS
]


@pytest.mark.parametrize("message", QUOTED)
def test_messages_of_the_page_are_printed(message: str) -> None:
    """What stands between the dots of a row stands in the code."""
    for piece in filter(
        None, (one.strip(" :,.") for one in re.split(r"\.\.\.|\b\d+\b|[()]|ssh://|https://|^setup", message))
    ):
        assert any(piece in text for text in texts()), piece


def test_the_checks_of_doctor_that_have_a_fix_are_explained() -> None:
    checks = {
        node.args[1].value
        for _, node in calls()
        if isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
        and len(node.args) + len(node.keywords) > 3
        and isinstance(node.args[1], ast.Constant)
    }
    assert set(re.findall(r"^\| `([a-z ]+)` \|", part("Messages").partition("### Doctor")[2], re.MULTILINE)) == checks
