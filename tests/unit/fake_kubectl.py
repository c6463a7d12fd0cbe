"""A kubectl on PATH that gives the answers it was told, in the form of the real one's, and notes what it was asked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """\
#!{python}
import json, re, sys
folder = {folder!r}
line = " ".join(sys.argv[1:])
stdin = "" if sys.stdin.isatty() else sys.stdin.read()
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps([line, stdin]) + "\\n")
for pattern, stdout, stderr, code in json.load(open(folder + "/answers")):
    if re.search(pattern, line):
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(code)
sys.stderr.write("error: unknown command: " + line)
sys.exit(1)
"""
CONFIG = {"current-context": "lab", "contexts": [{"name": "lab"}, {"name": "other"}]}


class FakeKubectl:
    """``answer`` says what a command line that fits a pattern gets; the last one that fits counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._folder, self._answers = folder, []  # type: ignore[var-annotated]
        program = folder / "kubectl"
        program.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        self.answer(r"get \S+ \S+ -o json --ignore-not-found")
        self.answer(r"get \S+ -o json", {"items": []})
        self.answer(r"config view -o json", CONFIG)
        self.answer(r"get --raw /version", {"gitVersion": "v1.36.1"})
        self.answer(r" (apply|patch|create|delete|scale|annotate|label) ")
        self.answer(
            r"config view --minify --raw", {"server": "https://10.0.0.1:6443", "certificate-authority-data": "Q0E="}
        )
        self.answer("get namespace kube-system -o jsonpath=", "uid-of-the-lab")

    def answer(self, pattern: str, stdout: object = "", stderr: str = "", code: int = 0) -> None:
        text = stdout if isinstance(stdout, str) else json.dumps(stdout)
        self._answers.insert(0, (pattern, text, stderr, code))
        (self._folder / "answers").write_text(json.dumps(self._answers))

    def allow(self, *rights: bool) -> None:
        """The answers to all rights that are asked for together, in their order."""
        self.answer(r"status\.allowed", "".join(f"{str(right).lower()}\n" for right in rights))

    def items(self, pattern: str, items: list[dict[str, Any]]) -> None:
        self.answer(pattern, {"items": items})

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Each command line with its input."""
        path = self._folder / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
