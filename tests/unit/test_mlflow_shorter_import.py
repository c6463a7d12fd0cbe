"""trackbed_mlflow/fast_path/imports.py without MLflow: what is held back comes back, and nothing stays replaced."""

from __future__ import annotations

import gc
import importlib
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import fast_path, serve
from trackbed_mlflow.fast_path import imports


def test_modules_that_are_held_back_can_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    with pytest.raises(RuntimeError), imports.without(("this", "json")):
        assert importlib.import_module("json")  # somebody has it already
        with pytest.raises(ImportError):
            importlib.import_module("this")
        raise RuntimeError
    assert "this" not in sys.modules and sys.modules["json"]


def test_entry_points_are_read_once_during_the_import_and_each_time_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[dict[str, Any]] = []
    found = SimpleNamespace(select=lambda **wanted: f"those of {wanted['group']}")

    def read(**wanted: Any) -> Any:
        reads.append(wanted)
        return found

    monkeypatch.setattr(metadata, "entry_points", read)
    with imports.entry_points_read_once():
        kept = metadata.entry_points
        assert [str(kept(group=name)) for name in "aab"] == ["those of a", "those of a", "those of b"]
        assert reads == [{}]
    assert metadata.entry_points is read
    kept(group="c")
    assert reads == [{}, {"group": "c"}]


def test_what_makes_the_address_of_a_route_is_made_at_the_first_call_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, bool]] = []

    class Rule:
        def __init__(self, name: str) -> None:
            self.name = name
            self._build = self._compile_builder(False).__get__(self, None)
            self._build_unknown = self._compile_builder(True).__get__(self, None)

        def _compile_builder(self, append_unknown: bool = True) -> Any:
            compiled.append((self.name, append_unknown))
            return lambda rule, **values: (rule.name, append_unknown, values)

    rules = ModuleType("werkzeug.routing.rules")
    rules.Rule = Rule  # type: ignore[attr-defined]
    routing = ModuleType("werkzeug.routing")
    routing.rules = rules  # type: ignore[attr-defined]
    for module in (ModuleType("werkzeug"), routing, rules):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    imports.build_addresses_later()
    one, two = Rule("one"), Rule("two")
    assert compiled == []
    assert (one._build(a=1), two._build_unknown()) == (("one", False, {"a": 1}), ("two", True, {}))
    assert one._build(a=2) == ("one", False, {"a": 2})  # an application of somebody's plugin may ask at each request
    assert compiled == [("one", False), ("two", True)]


@pytest.mark.parametrize(
    ("switch", "version", "shorter"),
    [("auto", fast_path.WRITTEN_FOR, True), ("off", fast_path.WRITTEN_FOR, False), ("auto", "9.9.9", False)],
)
def test_the_import_is_shorter_with_the_fast_path_alone(
    monkeypatch: pytest.MonkeyPatch, switch: str, version: str, shorter: bool
) -> None:
    missing: list[bool] = []
    monkeypatch.setenv(fast_path.SWITCH, switch)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(imports, "build_addresses_later", lambda: None)
    monkeypatch.setattr(serve, "CLIENT_ONLY", ())
    monkeypatch.setattr(serve, "IMPORTED", ("json",))
    monkeypatch.setattr(gc, "disable", lambda: None)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(importlib, "import_module", lambda name: missing.append("mlflow.sagemaker" in sys.modules))
    serve.import_server()
    assert missing == [shorter]


def test_a_server_without_mlflow_imports_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert not imports.shorten_enabled()


def test_another_werkzeug_or_mlflow_is_told_as_for_the_other_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another MLflow's import is not shortened, and is told with the parts; of another werkzeug it is told by itself."""
    assert imports.PART in fast_path.PARTS
    monkeypatch.setattr(fast_path, "fallbacks", {})

    def other() -> None:
        raise AttributeError("Rule has no _compile_builder")

    monkeypatch.setattr(imports, "build_addresses_later", other)
    with imports.shortened():
        assert "mlflow.sagemaker" in sys.modules  # as not there: the rest is shortened all the same
    assert "mlflow.sagemaker" not in sys.modules
    assert fast_path.fallbacks == {imports.PART: "AttributeError: Rule has no _compile_builder"}
