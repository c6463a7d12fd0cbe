"""The shell blocks of the pages: each names the test that types its commands, or says why there is none."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.settings.model import BY_OPTION

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "tasks.md"),  # made from the tasks' help
    ROOT / "tests" / "environment" / "README.md",
]
PROGRAMS = "invoke|sh|nox|git|docker|kubectl|ssh|scp|sudo|openssl|chmod|curl|eval|pip|python|python3|docker-compose"
TYPED = re.compile(rf"^(?:[A-Z_]+=\S* )*(?:\S*/bin/)?(?:{PROGRAMS})(?= |$)|^\. ", re.MULTILINE)
MARK = re.compile(r"<!-- (?:tested by (?P<tests>[^>]+?)|not tested: (?P<why>[^>]{10,}?)) -->\n$")


class Block(NamedTuple):
    """A block of a page that a reader types. ``tests``: file::function below tests/."""

    place: str
    text: str
    tests: tuple[str, ...]
    why: str


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    result = []
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        if match[2] in ("", "sh", "bash", "console") and TYPED.search(match[3]):
            mark = MARK.search(text[: match.start()])
            tests = tuple(re.split(r",\s*", mark["tests"])) if mark and mark["tests"] else ()
            line = text.count("\n", 0, match.start()) + 1
            place = f"{path.relative_to(ROOT).as_posix()}:{line}"
            result.append(Block(place, match[3], tests, (mark and mark["why"]) or ""))
    return result


BLOCKS = [block for page in PAGES for block in blocks(page)]
by_place = pytest.mark.parametrize("block", BLOCKS, ids=[block.place for block in BLOCKS])


def test_blocks_are_found() -> None:
    assert len(BLOCKS) > 30
    assert sum(bool(block.tests) for block in BLOCKS) > 20


@by_place
def test_every_block_names_its_test_or_a_reason(block: Block) -> None:
    said = "<!-- tested by FOLDER/test_FILE.py::test_NAME --> or <!-- not tested: REASON -->"
    assert bool(block.tests) != bool(block.why), f"{block.place}: write {said} in the line above it"


@by_place
def test_every_block_is_a_shells(block: Block) -> None:
    ended = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


@by_place
def test_the_named_tests_exist_and_type_its_commands(block: Block) -> None:
    """Each task and each flag of the block, or its setting, stands in one of the files that it names."""
    sources = []
    for name in block.tests:
        file, _, function = name.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert f"def {function}(" in text or (not function and file.endswith("conftest.py")), name
        sources.append(text)
    for words in typed(block.text) if block.tests else ():
        for word in words:
            assert any(_says(text, word) for text in sources), f"{block.place}: no test of it types {word}"


def typed(text: str) -> list[list[str]]:
    """The task and the flags of each `invoke` of a block, and the task after setup.sh."""
    result = []
    for line in text.splitlines():
        words = shlex.split(line.replace("$(", "").replace(')"', '"'), comments=True)
        flat = [part for word in words for part in word.split() if part]
        for place, word in enumerate(flat):
            if word.endswith(("invoke", "setup.sh")):
                rest = flat[place + 1 :]
                rest = rest[: rest.index("&&")] if "&&" in rest else rest
                result.append([one.partition("=")[0] for one in rest[:1] + [r for r in rest[1:] if r[:2] == "--"]])
    return result


def _says(source: str, word: str) -> bool:
    """Whether a test types a task or flag: as a word of its own, or by the method that has its name."""
    if word.startswith("--"):
        setting = BY_OPTION.get(word)  # a test may give it in the environment
        named = setting is not None and re.search(rf"\b(TRACKBED_)?{setting.name}\b", source) is not None
        return named or f"{word}=" in source or f'"{word}"' in source
    dotted = "." in word and re.search(rf"\b{re.escape(word)}\b", source) is not None
    return dotted or f'"{word}"' in source or f".{word}(" in source


def test_what_a_block_types_is_seen() -> None:
    assert typed('eval "$(invoke status --format=env)"') == [["status", "--format"]]
    assert typed("DOCKER_HOST=ssh://a@b invoke up --gpu=mi100  # a word") == [["up", "--gpu"]]
    assert typed("sh setup.sh up && .venv/bin/nox") == [["up"]]
    assert not _says('invoke("down")', "up") and not _says('"--public-address"', "--public")
