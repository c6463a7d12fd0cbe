"""The examples of a workspace: what its user has changed, deleted or linked elsewhere is left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import clone, examples
from helpers.engines.base import JUPYTER, ExecResult, State
from helpers.errors import TrackbedError
from tests.unit.fakes import module_at

notebook = module_at(clone.NOTEBOOK_PACKAGE / "examples.py")

FIRST = {"welcome.ipynb": b"w1", "examples/1.ipynb": b"e1"}
Offer = Callable[[dict[str, bytes]], None]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    def change(files: dict[str, bytes]) -> None:
        monkeypatch.setattr(notebook, "offered", lambda: files)

    change(FIRST)
    return change


def content(work: Path) -> dict[str, bytes]:
    """All files but the note, by path."""
    return {
        path.relative_to(work).as_posix(): path.read_bytes()
        for path in work.rglob("*")
        if path.is_file() and path.name != notebook.NOTE
    }


def outcomes(work: Path) -> dict[str, str]:
    return {name: f"{outcome} {beside}".strip() for name, outcome, beside in notebook.bring(str(work))}


def test_a_new_workspace_is_filled_once(work: Path, offer: Offer) -> None:
    (work / "lost+found").mkdir()
    (work / ".trackbed-123").touch()
    assert notebook.give(str(work)) == list(FIRST)
    (work / ".trackbed-123").unlink()
    assert content(work) == FIRST
    (work / "welcome.ipynb").unlink()
    (work / "examples" / "1.ipynb").write_bytes(b"mine")
    assert notebook.give(str(work)) == []
    assert content(work) == {"examples/1.ipynb": b"mine"}


@pytest.mark.parametrize("name", ["train.py", ".git"])
def test_a_workspace_with_files_is_left_alone(work: Path, offer: Offer, name: str) -> None:
    (work / name).touch()
    assert notebook.give(str(work)) == [] and os.listdir(work) == [name]


def test_filling_that_was_interrupted_goes_on(work: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    add = notebook.Workspace.add

    def killed(self: Any, path: str, content: bytes) -> Any:
        if path == "examples/1.ipynb":
            raise KeyboardInterrupt
        return add(self, path, content)

    monkeypatch.setattr(notebook.Workspace, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        notebook.give(str(work))
    monkeypatch.undo()
    monkeypatch.setattr(notebook, "offered", lambda: FIRST)
    (work / "welcome.ipynb").write_bytes(b"mine")
    assert notebook.give(str(work)) == ["examples/1.ipynb"]
    assert content(work) == {**FIRST, "welcome.ipynb": b"mine"}


def test_what_is_newer_goes_beside_what_was_changed(work: Path, offer: Offer) -> None:
    notebook.give(str(work))
    assert set(outcomes(work).values()) == {"current"}
    (work / "welcome.ipynb").write_bytes(b"mine")
    assert outcomes(work)["welcome.ipynb"] == "changed", "there is nothing newer"

    offer({"welcome.ipynb": b"w2", "examples/1.ipynb": b"e2", "examples/2.ipynb": b"n2"})
    assert outcomes(work) == {
        "welcome.ipynb": "beside welcome-new.ipynb",
        "examples/1.ipynb": "updated",
        "examples/2.ipynb": "added",
    }
    expected = {
        "welcome.ipynb": b"mine",
        "welcome-new.ipynb": b"w2",
        "examples/1.ipynb": b"e2",
        "examples/2.ipynb": b"n2",
    }
    assert content(work) == expected
    assert outcomes(work)["welcome.ipynb"] == "changed" and content(work) == expected, "again it does nothing"

    offer({"welcome.ipynb": b"w3"})  # nobody has touched the one beside it
    assert outcomes(work)["welcome.ipynb"] == "beside welcome-new.ipynb"
    (work / "welcome-new.ipynb").write_bytes(b"mine too")
    offer({"welcome.ipynb": b"w4"})
    assert outcomes(work)["welcome.ipynb"] == "beside welcome-new-2.ipynb"
    assert content(work) == {**expected, "welcome-new.ipynb": b"mine too", "welcome-new-2.ipynb": b"w4"}


def test_what_was_deleted_comes_back_when_asked_for(work: Path, offer: Offer) -> None:
    notebook.give(str(work))
    (work / "welcome.ipynb").unlink()
    assert outcomes(work)["welcome.ipynb"] == "added" and content(work) == FIRST


def test_an_older_workspace_gets_them_when_asked_for(work: Path, offer: Offer) -> None:
    (work / "welcome.ipynb").write_bytes(b"of the user")
    assert outcomes(work) == {"welcome.ipynb": "beside welcome-new.ipynb", "examples/1.ipynb": "added"}
    assert (work / "welcome.ipynb").read_bytes() == b"of the user"


@pytest.mark.parametrize(
    "note", [b"", b"[]", b"{", b'{"files": 3}', b"[" * 100_000, b'{"files": {"welcome.ipynb": []}}']
)
def test_a_note_that_was_damaged_changes_no_file(work: Path, offer: Offer, note: bytes) -> None:
    notebook.give(str(work))
    (work / notebook.NOTE).write_bytes(note)
    (work / "welcome.ipynb").write_bytes(b"mine")
    assert notebook.give(str(work)) == []
    assert outcomes(work)["welcome.ipynb"] == "beside welcome-new.ipynb"
    assert (work / "welcome.ipynb").read_bytes() == b"mine"


@pytest.mark.parametrize("old", ["welcome.ipynb", "examples/1.ipynb", notebook.NOTE])
def test_no_link_is_followed(work: Path, offer: Offer, tmp_path: Path, old: str) -> None:
    notebook.give(str(work))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(FIRST.get(old, (work / old).read_bytes()))  # as it was given, so that it would be replaced
    before = elsewhere.read_bytes()
    (work / old).unlink()
    (work / old).symlink_to(elsewhere)
    offer({"welcome.ipynb": b"w2", "examples/1.ipynb": b"e2"})
    notebook.give(str(work))
    notebook.bring(str(work))
    assert elsewhere.read_bytes() == before


def test_a_folder_that_leads_elsewhere_is_taken(work: Path, offer: Offer, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (work / "examples").symlink_to(tmp_path / "elsewhere")
    assert outcomes(work) == {"welcome.ipynb": "added", "examples/1.ipynb": "blocked"}
    (work / "examples").unlink()
    (work / "examples").write_bytes(b"a file")
    assert outcomes(work)["examples/1.ipynb"] == "blocked"
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not [name for name in os.listdir(work) if name.startswith(f"{notebook.NOTE}-")]


def test_a_file_with_several_names_keeps_its_content(work: Path, offer: Offer) -> None:
    notebook.give(str(work))
    os.link(work / "welcome.ipynb", work / "other.ipynb")
    offer({"welcome.ipynb": b"w2"})
    assert outcomes(work)["welcome.ipynb"] == "updated"
    assert (work / "other.ipynb").read_bytes() == b"w1"


def test_a_pipe_and_a_large_file_are_the_users(work: Path, offer: Offer) -> None:
    os.mkfifo(work / "welcome.ipynb")
    (work / "examples").mkdir()
    with (work / "examples" / "1.ipynb").open("wb") as stream:
        stream.truncate(2**40)
    assert set(outcomes(work).values()) == {"beside welcome-new.ipynb", "beside examples/1-new.ipynb"}


def test_a_file_system_without_hard_links(work: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert notebook.give(str(work)) == list(FIRST) and content(work) == FIRST
    with notebook.opened(str(work)) as workspace:
        assert not workspace.add("welcome.ipynb", b"other")
    assert content(work) == FIRST


class Server:
    """Jupyter's server, as far as its extension knows it."""

    def __init__(self, root: Path) -> None:
        self.root_dir, self.log, self.said = str(root), self, [""]

    def info(self, text: str, *words: object) -> None:
        self.said.append(text % words)

    warning = info


def test_jupyterlab_starts_whatever_the_workspace_is(work: Path, offer: Offer, tmp_path: Path) -> None:
    server = Server(work)
    notebook._load_jupyter_server_extension(server)
    assert server.said[-1] == "A new workspace: welcome.ipynb, examples/1.ipynb"
    gone = Server(tmp_path / "gone")
    notebook._load_jupyter_server_extension(gone)
    assert "could not be put into the workspace" in gone.said[-1]
    config = json.loads((clone.SHELL_FILES / "jupyter_server_config.d" / "trackbed.json").read_text())
    names = [f"trackbed_notebook.{name}" for name in ("examples", "language_servers", "programs")]
    assert config["ServerApp"]["jpserver_extensions"] == dict.fromkeys(names, True)
    assert examples.MODULE in names


class Notebook:
    """An engine whose notebook runs the module in this process."""

    def __init__(self, work: Path, result: ExecResult | None = None, state: State = State.READY) -> None:
        self.workspace_inside, self.result, self.state = str(work), result, state
        self.settings = type("Settings", (), {"jupyter_image": ""})

    def services(self) -> list[Any]:
        return [type("Status", (), {"name": JUPYTER, "state": self.state})]

    def exec(self, service: str, argv: tuple[str, ...], timeout: float = 0) -> ExecResult:
        assert service == JUPYTER and argv == ("python", "-m", examples.MODULE, self.workspace_inside)
        lines = [json.dumps(line) for line in notebook.bring(self.workspace_inside)]
        return self.result or ExecResult(0, "\n".join(lines), "")


def test_each_outcome_has_words(work: Path, offer: Offer) -> None:
    assert set(examples.OUTCOMES) == {
        value for name, value in vars(notebook).items() if name.isupper() and isinstance(value, str)
    } - {notebook.HIDDEN, notebook.NOTE, notebook.MISSING, notebook.OTHER}
    (work / "welcome.ipynb").write_bytes(b"mine")
    told = {one.name: one.words for one in examples.bring(Notebook(work))}  # type: ignore[arg-type]
    assert told == {
        "welcome.ipynb": "changed by you, left unchanged; the new version is welcome-new.ipynb",
        "examples/1.ipynb": "added",
    }


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ExecResult(1, "", "python: No module named trackbed_notebook"), "has no examples"),
        (ExecResult(1, "", "/w: Read-only file system"), "could not be written: /w: Read-only file system"),
        (ExecResult(0, "[1]", ""), "something else"),
        (ExecResult(0, '["a", "deleted", ""]', ""), "something else"),
        (ExecResult(0, "[" * 10_000, ""), "something else"),
    ],
)
def test_a_notebook_that_cannot_or_says_something_else(work: Path, result: ExecResult, message: str) -> None:
    with pytest.raises(TrackbedError, match=message):
        examples.bring(Notebook(work, result))  # type: ignore[arg-type]


def test_without_a_notebook_it_says_so(work: Path) -> None:
    with pytest.raises(TrackbedError, match="not running"):
        examples.bring(Notebook(work, state=State.MISSING))  # type: ignore[arg-type]


def real() -> dict[str, Any]:
    return {name: json.loads(content) for name, content in notebook.offered().items()}


def test_the_notebooks_are_as_a_first_reader_should_find_them() -> None:
    offered = real()
    assert list(offered) == [
        *(f"examples/{name}.ipynb" for name in ("1-scikit-learn", "2-lightning", "3-sweep", "4-registry", "5-traces")),
        "welcome.ipynb",
    ]
    for name, content in offered.items():
        cells = content["cells"]
        assert content["metadata"]["kernelspec"]["name"] == "python3" and content["nbformat"] == 4
        assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
        assert len({cell["id"] for cell in cells}) == len(cells)
        for cell in cells:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None
                compile("".join(cell["source"]), name, "exec")


def test_the_links_of_the_notebooks_lead_somewhere() -> None:
    offered = real()
    listed = "".join("".join(cell["source"]) for cell in offered["welcome.ipynb"]["cells"])
    for name in offered:
        assert name == "welcome.ipynb" or f"]({name})" in listed


def test_lightnings_lesson_ends_with_what_to_type_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell for cell in real()["examples/2-lightning.ipynb"]["cells"] if cell["cell_type"] == "code"]
    first = "".join(cells[0]["source"]).replace('"lightning")', '"no_such_package")').replace('"torch", ', "")
    with pytest.raises(Exception, match="no_such_package") as stopped:
        exec(compile(first, "cell", "exec"), {"__name__": "__main__"})
    stop: Any = stopped.value
    (shown,) = stop._render_traceback_()
    assert "%pip install torch torchvision lightning" in shown and "invoke up --torch=cpu" in shown
