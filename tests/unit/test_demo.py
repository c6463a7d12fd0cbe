"""`invoke demo`: a training in the notebook, whose words are another's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import console, demo, demo_script, status
from helpers.cli import lab, options
from helpers.engines.streaming import Pipe, piped
from helpers.errors import SettingError, TrackbedError
from helpers.services import JUPYTER, State

RUN = "0123456789abcdef0123456789abcdef"
BEGUN = ["run", "7", RUN, "CPU"]
PAGE = "http://127.0.0.1:8000/?token=t#/experiments?workflowType=machine_learning"
LINK = f"http://127.0.0.1:8000/?token=t#/experiments/7/runs/{RUN}"
NASTY = "\x1b[2J\x1b]0;owned\x07\u202e"


class Notebook:
    """Its Python runs ``code`` instead of what it is fed."""

    def __init__(self, code: str, state: State = State.READY) -> None:
        self.code, self.state, self.ended = code, state, False

    def services(self) -> list[Any]:
        return [SimpleNamespace(name=JUPYTER, state=self.state)]

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        assert service == JUPYTER and argv[:-2] == demo.PYTHON and argv[-2] == str(demo.SCRIPT.stat().st_size)
        return piped("python", [sys.executable, "-I", "-S", "-c", self.code, argv[-1]])


def saying(*lines: Any, then: str = "") -> Notebook:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Notebook(f"import sys; sys.stdin.buffer.read(); sys.stdout.write({text!r}); sys.stdout.flush(); {then}")


def epochs(count: int) -> list[list[Any]]:
    return [["epoch", number, 1.0 / number, number / count] for number in range(1, count + 1)]


def train(notebook: Notebook, count: int = 2) -> tuple[demo.Demo, list[str]]:
    links: list[str] = []
    with console.Progress() as progress:
        done = demo.run(notebook, count, progress, links.append)  # type: ignore[arg-type]
    return done, links


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "overview", lambda engine: None)
    monkeypatch.setattr(status, "mlflow_url", lambda view: PAGE)


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int, encoding: str = "utf-8", no_colour: str = "") -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal(io.BytesIO(), encoding))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", no_colour)


def drawn() -> str:
    sys.stderr.seek(0)
    return sys.stderr.read()


POINTS = [("1", 0.5), ("10", 1.0)]


@pytest.mark.parametrize(("columns", "length"), [(80, 60), (50, 40), (20, 10)])
def test_a_plot_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, length: int) -> None:
    terminal(monkeypatch, columns, no_colour="1")
    console.bars("accuracy", POINTS)
    lines = [line.rstrip() for line in drawn().splitlines()]
    assert lines == ["accuracy", f" 1 {'█' * (length // 2):{length}} 0.500", f"10 {'█' * length} 1.000"]


def test_a_plot_has_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch, 80)
    console.bars("accuracy", POINTS)
    coloured = drawn()
    terminal(monkeypatch, 80, no_colour="1")
    console.bars("accuracy", POINTS)
    assert "\x1b[32" in coloured and "\x1b" not in drawn()
    assert console.COLOUR.sub("", coloured) == drawn()


def test_a_plot_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch, 50, "ascii")
    console.bars("accuracy", POINTS)
    assert drawn().splitlines() == ["accuracy", f" 1 {'#' * 20:40} 0.500", f"10 {'#' * 40} 1.000"]


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    console.bars(f"a{NASTY}", [*POINTS, (NASTY, 0.25)])
    said = capsys.readouterr()
    assert said.out == "" and "\x1b" not in said.err and "\u202e" not in said.err
    assert [line.split()[-1] for line in said.err.splitlines()[1:]] == ["0.500", "1.000", "0.250"]


def test_a_long_training_is_a_short_plot_with_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    console.bars("a", [(str(number), 0.5) for number in range(1, 1001)])
    labels = [line.split()[0] for line in capsys.readouterr().err.splitlines()[1:]]
    assert len(labels) <= 12 and labels[0] == "84" and labels[-1] == "1000"


def test_each_epoch_is_told_and_the_link_comes_first() -> None:
    done, links = train(saying(BEGUN, *epochs(2), ["end"]))
    assert links == [LINK] and done.link == LINK and done.device == "CPU"
    assert done.epochs == (demo.Epoch(1, 1.0, 0.5), demo.Epoch(2, 0.5, 1.0))


def test_what_the_task_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = saying(["run", "7", RUN, f"GPU {NASTY}"], *epochs(2), ["end"])
    monkeypatch.setattr(options, "load", lambda given: None)
    monkeypatch.setattr(status, "running", lambda project: notebook)
    lab.run_demo({}, 2)
    said = capsys.readouterr()
    assert said.out == LINK + "\n"
    assert f"the run, while it is logged:\n  {LINK}\n" in said.err
    assert said.err.endswith("1 0.500\n2 1.000\naccuracy 1.000, loss 0.500\n")
    assert "on GPU \\x1b[2J" in said.err and not {"\x1b", "\x07", "\u202e"} & set(said.err)


@pytest.mark.parametrize("count", [0, -1, demo.MOST + 1])
def test_a_number_of_epochs_that_cannot_be(count: int) -> None:
    with pytest.raises(SettingError, match=f"--epochs={count}: must be from 1 to 1000"):
        lab.run_demo({}, count)


@pytest.mark.parametrize(
    "lines",
    [
        [["end"]],
        [BEGUN, ["end"]],
        [*epochs(2), ["end"]],
        [BEGUN, BEGUN, *epochs(2), ["end"]],
        [BEGUN, *epochs(3), ["end"]],
        [BEGUN, epochs(2)[1], ["end"]],
        [BEGUN, ["epoch", True, 0.5, 0.5]],
        [BEGUN, ["epoch", 1, float("nan"), 0.5]],
        [BEGUN, ["epoch", 1, 0.5, 1e9]],
        [BEGUN, ["epoch", 1, 0.5, NASTY]],
        [["run", "7", RUN]],
        [["run", "../7", RUN, "CPU"]],
        [["run", "7", RUN + "#", "CPU"]],
        [["run", 7, RUN, "CPU"]],
        [["run", "7", RUN, ""]],
        [[{}]],
    ],
    ids=lambda lines: json.dumps(lines)[:60],
)
def test_another_answer_is_an_error(lines: list[Any]) -> None:
    with pytest.raises(TrackbedError, match="the training in the notebook failed: it answered something else") as error:
        train(saying(*lines))
    assert error.value.hint == "`invoke check` tests the notebook and MLflow"


@pytest.mark.parametrize(
    ("notebook", "why"),
    [
        (saying(BEGUN, then="sys.exit('ModuleNotFoundError: No module named sklearn')"), "No module named sklearn"),
        (saying(BEGUN, *epochs(1)), "its list ended early"),
        (Notebook("print('hello')"), "its list is wrong"),
        (Notebook("import sys; sys.stdin.close(); sys.exit('no MLflow')"), "no MLflow"),
        (saying(BEGUN, then=f"sys.exit({NASTY!r} * 200)"), r"\\x1b\[2J"),
    ],
    ids=["raises", "ends", "no protocol", "reads nothing", "control characters"],
)
def test_an_error_of_the_script_is_a_message_with_a_next_step(
    notebook: Notebook, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrackbedError, match=why) as error:
        train(notebook)
    assert error.value.message.startswith("the training in the notebook failed: ") and len(error.value.message) < 350
    console.error(error.value)
    said = capsys.readouterr().err
    assert (
        "  -> `" in said and "docs/troubleshooting.md#notebook" in said and not {"\x1b", "\x07", "\u202e"} & set(said)
    )


def test_without_a_notebook_it_says_what_to_type() -> None:
    with pytest.raises(TrackbedError, match="has no notebook") as error:
        train(Notebook("", State.MISSING))
    assert error.value.hint == "`invoke up` starts one"


def test_interrupted_it_ends_the_script(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    code = f"signal.signal(15, lambda *_: (open({str(gone)!r}, 'w').close(), sys.exit())); print({json.dumps(BEGUN)!r})"
    notebook = Notebook(f"import signal, sys; {code}; sys.stdout.flush(); signal.pause()")

    def begun(link: str) -> None:
        raise KeyboardInterrupt

    with console.Progress() as progress, pytest.raises(KeyboardInterrupt):
        demo.run(notebook, 2, progress, begun)  # type: ignore[arg-type]
    assert gone.exists()


def mlflow(logged: list[Any]) -> Any:
    class Run:
        info = SimpleNamespace(experiment_id="7", run_id=RUN)

        def __enter__(self) -> Run:
            return self

        def __exit__(self, kind: Any, *_: Any) -> None:
            logged.append("FAILED" if kind else "FINISHED")

    return SimpleNamespace(
        set_experiment=logged.append,
        start_run=lambda run_name: Run(),
        log_params=lambda params: None,
        log_metrics=lambda metrics, step: logged.append((step, metrics)),
        end_run=logged.append,
    )


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the script logs; its training is two numbers."""
    logged: list[Any] = []
    for name in ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "TRACKBED_BROWSER_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow(logged))
    monkeypatch.setattr(demo_script, "gpu", lambda: "")
    monkeypatch.setattr(demo_script, "on_cpu", lambda epochs: iter([(0.5, 0.25)] * epochs))
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    return logged


def test_the_script_tells_an_epoch_once_mlflow_has_it(script: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    demo_script.main(1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [BEGUN, ["epoch", 1, 0.5, 0.25], ["end"]]
    assert script == ["demo", (1, {"loss": 0.5, "accuracy": 0.25}), "FINISHED"]


def test_what_libraries_print_is_none_of_its_lines(tmp_path: Path) -> None:
    """As on a node without the GPU that its image is for: MLflow's watcher runs a program there that is missing."""
    loud = f"""
import os
os.system("echo no such program: rocminfo")
print("loud")
class Run:
    class info:
        experiment_id, run_id = "7", "{RUN}"
    def __enter__(self): return self
    def __exit__(self, *error): print("ended")
start_run = lambda run_name: Run()
set_experiment = log_params = print
"""
    (tmp_path / "mlflow.py").write_text(loud)
    (tmp_path / "torch.py").write_text("raise ImportError")
    (tmp_path / "numpy.py").write_text("raise ImportError('enough')")
    code = demo.SCRIPT.read_bytes()
    done = subprocess.run(
        [sys.executable, *demo.PYTHON[1:], str(len(code)), "1"],
        input=code,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [BEGUN]
    assert {b"loud", b"no such program: rocminfo", b"ImportError: enough"} <= set(done.stderr.splitlines())


@pytest.mark.parametrize("reason", [KeyboardInterrupt, BrokenPipeError])
def test_a_run_that_nobody_waits_for_is_killed(
    script: list[Any], monkeypatch: pytest.MonkeyPatch, reason: type[BaseException]
) -> None:
    def say(*line: Any) -> None:
        raise reason

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(demo_script, "say", say)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit):
        demo_script.main(1)
    assert script[:2] == ["demo", "KILLED"]
