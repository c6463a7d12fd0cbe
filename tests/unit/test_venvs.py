"""The embedded engine's venvs: when they are made again, and pip's settings in uv's names."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import safe_files, site_network
from helpers import uv_settings as uv
from helpers.engines import shared
from helpers.engines.embedded import venvs
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.embedded.venvs import Venv
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.services import ExecResult, ServiceStatus, State
from tests.unit import fakes
from tests.unit.fakes import Silent


@pytest.fixture
def venv(tmp_path: Path) -> Venv:
    """A venv with one package, as `make` leaves it."""
    lock = tmp_path / "requirements.txt"
    lock.write_text("thing==1.0\n")
    created = Venv(tmp_path / "venvs", "mlflow", lock)
    site = created.folder / "lib" / "python3.11" / "site-packages"
    (site / "thing").mkdir(parents=True)
    (site / "thing" / "__init__.py").write_text("")
    (site / "thing-1.0.dist-info").mkdir()
    (site / "thing-1.0.dist-info" / "RECORD").write_text("thing/__init__.py,,\nthing-1.0.dist-info/RECORD,,\n")
    (created.folder / "bin").mkdir()
    created.python.symlink_to(sys.executable)
    created._finish()
    return created


def test_whole(venv: Venv) -> None:
    assert venv.problem() == ""
    assert venv.versions(("thing", "other")) == {"thing": "1.0"}


@pytest.mark.parametrize("removed", [".", ".complete", "bin/python", "lib", "lib/python3.11/site-packages"])
def test_a_start_has_something_to_do_where_somebody_removed_a_venv(
    tmp_path: Path, venv: Venv, removed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The services go on with files that have no name any more, and nothing would start again."""
    engine = EmbeddedEngine(fakes.project(tmp_path / "project", engine="embedded"))
    statuses = (ServiceStatus("mlflow", State.READY),)
    monkeypatch.setattr(type(engine.environments), "required", lambda _: (venv,))
    monkeypatch.setattr(shared, "unchanged", lambda *_: statuses)
    assert engine.unchanged() == statuses
    path = venv.folder / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert engine.unchanged() == ()


def test_a_file_is_gone(venv: Venv) -> None:
    (venv.site / "thing" / "__init__.py").unlink()
    assert venv.problem() == "thing/__init__.py is missing"


def test_a_package_is_gone(venv: Venv) -> None:
    (venv.site / "thing-1.0.dist-info" / "RECORD").unlink()
    assert venv.problem() == "thing-1.0.dist-info is missing"


def test_half_made(venv: Venv) -> None:
    (venv.folder / ".complete").unlink()
    assert venv.problem() == "it was half-made"


@pytest.mark.parametrize(
    ("target", "problem"), [("/nonexistent/python", "its Python is gone"), ("/bin/false", "its Python does not start")]
)
def test_python_is_broken(venv: Venv, target: str, problem: str) -> None:
    venv.python.unlink()
    venv.python.symlink_to(target)
    assert venv.problem() == problem


def test_another_login_of_the_same_index_is_no_reason_to_make_it_again(venv: Venv) -> None:
    indexes = ("https://one@wheels.example/whl", "https://u:two@wheels.example/whl", "https://wheels.example/whl")
    made = {replace(venv, extras=(venvs.Extra(venv.lock, index),)).folder for index in indexes}
    other = replace(venv, extras=(venvs.Extra(venv.lock, "https://wheels.example/other"),)).folder
    assert len(made) == 1 and other not in made


def test_another_lock_is_another_folder(venv: Venv) -> None:
    before = venv.folder
    venv.lock.write_text("thing==1.1\n")
    assert venv.folder != before
    assert venv.problem() == "its lock changed"
    venv.remove_outdated()
    assert not before.exists()


def test_a_package_that_the_user_upgraded_is_no_damage(venv: Venv) -> None:
    earlier = Venv(venv.root, venv.name, venv.lock, upgraded=True)
    os.rename(venv.site / "thing-1.0.dist-info", venv.site / "thing-2.0.dist-info")
    assert earlier.problem() == ""
    assert venv.problem() == "thing-1.0.dist-info is missing"


@pytest.mark.parametrize(
    ("configuration", "environment", "told"),
    [
        (
            ["global.index-url='https://mirror.example/simple'"],
            {},
            {"UV_DEFAULT_INDEX": "https://mirror.example/simple"},
        ),
        ([":env:.cert='/etc/ca.pem'"], {}, {"SSL_CERT_FILE": "/etc/ca.pem"}),
        (["global.extra-index-url='https://a.example'"], {}, {"UV_INDEX": "https://a.example"}),
        (["global.find-links='/wheels'"], {}, {"UV_FIND_LINKS": "/wheels"}),
        (["global.index-url='https://a.example'"], {"UV_DEFAULT_INDEX": "https://b.example"}, {}),
        (["freeze.index-url='https://a.example'", "global.timeout='60'"], {}, {}),
    ],
)
def test_pip_settings(
    monkeypatch: pytest.MonkeyPatch, configuration: list[str], environment: dict[str, str], told: dict[str, str]
) -> None:
    monkeypatch.setattr(uv, "_pip_configuration", lambda: configuration)
    monkeypatch.setattr(site_network, "SYSTEM", ())
    assert uv.uv_settings(environment) == told


def test_uv_trusts_what_the_system_trusts_unless_it_is_told_whom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(uv, "_pip_configuration", list)
    monkeypatch.setattr(site_network, "SYSTEM", (str(tmp_path / "none"), str(tmp_path / "all.pem")))
    assert uv.uv_settings({}) == {}
    (tmp_path / "all.pem").touch()
    assert uv.uv_settings({}) == {"UV_SYSTEM_CERTS": "1"}
    for name in ("SSL_CERT_FILE", "UV_SYSTEM_CERTS"):
        assert uv.uv_settings({name: "theirs"}) == {}
    monkeypatch.setattr(uv, "_pip_configuration", lambda: ["global.cert='/their.pem'"])
    assert uv.uv_settings({}) == {"SSL_CERT_FILE": "/their.pem"}


@pytest.mark.parametrize(
    ("lines", "reason", "advice"),
    [
        (
            [
                "error: Failed to fetch",
                "cause: invalid peer certificate: UnknownIssuer",
                "",
                "\x1b[2mhint: --system-certs",
            ],
            "invalid peer certificate: UnknownIssuer",
            "`export PIP_CERT=FILE`",
        ),
        (["cause: dns error"], "dns error", "is this machine online?"),
        (["Caused by: dns error"], "dns error", "`invoke bundle`"),  # as other versions of uv write it
        (["hint: one"], "no message", "is this machine online?"),
    ],
)
def test_what_uv_failed_for(lines: list[str], reason: str, advice: str) -> None:
    assert venvs._reason(lines) == reason
    assert advice in venvs._advice(reason)


def test_after_an_update_of_the_clone_the_earlier_one_is_in_use_until_the_next_start(venv: Venv) -> None:
    assert venv.in_use() == venv
    before = venv.python
    venv.lock.write_text("thing==2.0\n")
    assert not venv.folder.exists() and venv.in_use().python == before
    assert venv.in_use().site == before.parents[1] / "lib" / "python3.11" / "site-packages"
    (venv.root / "mlflow-half").mkdir()  # two of them: nobody knows which
    assert venv.in_use() == venv


def uv_with_cache(tmp_path: Path) -> str:
    """A uv that says where its cache is, which is not made yet."""
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho {tmp_path}/cache/uv\n")
    uv.chmod(0o755)
    return str(uv)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a normal user has one account")
def test_a_cache_of_another_account_is_not_linked_to(tmp_path: Path) -> None:
    uv = uv_with_cache(tmp_path)
    assert venvs._linkable_cache(uv, {}, tmp_path)
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 60001, 60001)
    assert not venvs._linkable_cache(uv, {}, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a normal user has one account")
def test_a_cache_that_another_account_could_put_its_own_in_the_place_of_is_not_linked_to(tmp_path: Path) -> None:
    """sudo may leave HOME as it was: root's own folder lies in the user's then."""
    uv, above = uv_with_cache(tmp_path), tmp_path / "cache"
    (above / "uv").mkdir(parents=True)
    assert venvs._linkable_cache(uv, {}, tmp_path)
    os.chown(above, 60001, 60001)
    assert safe_files.owner(above / "uv") == 0 and not venvs._linkable_cache(uv, {}, tmp_path)
    os.chown(above, 0, 0)
    above.chmod(0o1777)  # as /tmp: what is there stays, and what is not there yet may be anybody's
    assert venvs._linkable_cache(uv, {}, tmp_path)
    (above / "uv").rmdir()
    assert not venvs._linkable_cache(uv, {}, tmp_path)
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 60001, 60001)
    (above / "uv").symlink_to(tmp_path / "theirs")
    assert not venvs._linkable_cache(uv, {}, tmp_path)


def test_a_cache_on_another_file_system_is_taken_only_if_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv, root = uv_with_cache(tmp_path), tmp_path / "venvs"
    root.mkdir()
    monkeypatch.setattr(venvs, "_device", lambda folder: 2 if folder == root else 1)
    assert not venvs._linkable_cache(uv, {}, root)
    assert venvs._linkable_cache(uv, {"UV_CACHE_DIR": str(tmp_path / "cache")}, root)


def test_a_cache_without_room_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "CACHE_LEAST", 1 << 60)
    assert not venvs._linkable_cache(uv_with_cache(tmp_path), {}, tmp_path)


def test_what_several_venvs_have_in_common_is_on_the_disk_once_beside_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def follow(argv: list[str], *_: object, env: dict[str, str], **more: object) -> tuple[int, list[str]]:
        seen.append(env["UV_CACHE_DIR"])
        (tmp_path / "thing-0").mkdir(exist_ok=True)
        return 1, ["cause: stopped here"]

    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: False)
    monkeypatch.setattr("helpers.commands.follow", follow)
    (tmp_path / "lock.txt").write_text("")
    venv = Venv(tmp_path, "thing", tmp_path / "lock.txt")
    with pytest.raises(TrackbedError, match="stopped here"):
        venv.make("", Silent())
    assert seen == [str(tmp_path / ".cache")] and (tmp_path / ".cache").stat().st_mode & 0o777 == 0o700
    assert venv.outdated() == [tmp_path / "thing-0"]
    venv.remove_outdated()
    assert not (tmp_path / ".cache").exists() and not (tmp_path / "thing-0").exists()


def test_an_interpreter_is_found() -> None:
    assert Path(venvs.interpreter({})).exists()


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venvs, "MINIMUM", (99, 0))
    with pytest.raises(EngineUnavailable, match="no Python 3"):
        venvs.interpreter({})


@pytest.mark.parametrize("emptied", ["thing/__init__.py", "thing-1.0.dist-info/RECORD"])
def test_what_a_power_cut_emptied_is_noticed(venv: Venv, emptied: str) -> None:
    (venv.site / "thing" / "__init__.py").write_text("x = 1\n")
    (venv.site / "thing-1.0.dist-info" / "RECORD").write_text("thing/__init__.py,sha256=x,6\nthing/empty.py,,0\n")
    (venv.site / "thing" / "empty.py").touch()
    assert not venv.problem()
    (venv.site / emptied).write_text("")
    assert venv.problem()


def test_a_marker_that_a_power_cut_emptied_is_none(venv: Venv) -> None:
    (venv.folder / ".complete").write_text("")
    assert venv.problem() == "it was half-made"


def test_a_lock_file_that_everybody_could_hold_is_closed(venv: Venv) -> None:
    lock = venv.folder / ".lock"
    assert not venv.close_lock()
    lock.touch()
    lock.chmod(0o666)
    assert venv.close_lock() and lock.stat().st_mode & 0o777 == 0o644
    assert not venv.close_lock()


def not_made(folder: Path, monkeypatch: pytest.MonkeyPatch, lock: str = "thing==1.0\n") -> Venv:
    """A venv for `Uv` to make."""
    (folder / "lock.txt").write_text(lock)
    venv = Venv(folder, "mlflow", folder / "lock.txt")
    monkeypatch.setattr(Venv, "site", venv.folder / "lib" / "python3.11" / "site-packages")
    return venv


class Uv:
    """Takes the place of uv: what it answers, one installation after the other, and what it leaves."""

    def __init__(self, venv: Venv, *answers: str) -> None:
        self.venv, self.answers, self.cleaned = venv, list(answers), list[str]()
        self.cleans, self.caches = True, list[str]()

    def follow(self, argv: list[str], *_: object, **more: object) -> tuple[int, list[str]]:
        if argv[1] == "venv":
            safe_files.remove(self.venv.site)
            return 0, []
        self.caches.append(dict(more["env"]).get("UV_CACHE_DIR", ""))  # type: ignore[call-overload]
        answer = self.answers.pop(0)
        (info := self.venv.site / "thing-1.0.dist-info").mkdir(parents=True)
        (self.venv.site / "thing.json").write_text("{}" if answer != "cut short" else "")
        (info / "RECORD").write_text("thing.json,sha256=x,2\nthing-1.0.dist-info/RECORD,,\n")
        return (0, []) if answer in ("well", "cut short") else (1, answer.splitlines())

    def attempt(self, argv: list[str], *_: object, **more: object) -> ExecResult:
        if argv[1] == "cache":
            self.cleaned = argv[1:]
        return ExecResult(0 if self.cleans else 124, "", "no end after 120 s")


INVALID = """error: Failed to install: thing-1.0-py3-none-any.whl (thing==1.0)
  cause: The wheel is invalid: Invalid Wheel-Version in `WHEEL` file: None"""


@pytest.mark.parametrize("damage", ["cut short", INVALID])
@pytest.mark.parametrize("linkable", [True, False])
def test_what_a_power_cut_left_in_uvs_cache_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, linkable: bool
) -> None:
    venv = not_made(tmp_path, monkeypatch, "thing==1.0 \\\n    --hash=sha256:0\n# via\nother-thing==2 ; x\n")
    uv = Uv(venv, damage, "well")
    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: linkable)
    monkeypatch.setattr("helpers.commands.follow", uv.follow)
    monkeypatch.setattr("helpers.commands.attempt", uv.attempt)
    if not linkable:
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "damaged").touch()
    venv.make("", Silent())
    assert not uv.answers and venv._marker.read_text() == "thing-1.0.dist-info\n"
    assert uv.cleaned == (["cache", "clean", "pip", "setuptools", "wheel", "thing", "other-thing"] if linkable else [])
    assert not (tmp_path / ".cache" / "damaged").exists()


@pytest.mark.parametrize(
    "answer",
    [
        "error: Failed to fetch\n  cause: dns error",
        "error: Failed to install: thing-1.0.whl\n  cause: No space left on device (os error 28)",
        "error: Failed to install: thing-1.0.whl\n  cause: Permission denied (os error 13)",
        "error: Failed to install: thing-1.0.whl\n  cause: Too many open files (os error 24)",
    ],
)
def test_a_cache_is_kept_where_the_network_a_right_or_a_limit_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    venv = not_made(tmp_path, monkeypatch)
    uv = Uv(venv, answer)
    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: True)
    monkeypatch.setattr("helpers.commands.follow", uv.follow)
    monkeypatch.setattr("helpers.commands.attempt", uv.attempt)
    with pytest.raises(TrackbedError, match="installing mlflow failed"):
        venv.make("", Silent())
    assert not uv.cleaned


def test_a_package_that_is_damaged_however_often_it_is_fetched_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = not_made(tmp_path, monkeypatch)
    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: False)
    monkeypatch.setattr("helpers.commands.follow", Uv(venv, INVALID, INVALID).follow)
    with pytest.raises(TrackbedError, match="The wheel is invalid") as raised:
        venv.make("", Silent())
    assert "it was fetched twice" in raised.value.hint


@pytest.mark.parametrize("damage", ["cut short", INVALID])
def test_a_cache_that_cannot_be_cleaned_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Another uv may hold it: what is damaged there would be installed once more, and count as installed."""
    venv = not_made(tmp_path, monkeypatch)
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    uv, told = Uv(venv, damage, "well"), list[str]()
    uv.cleans = False
    monkeypatch.setattr(Silent, "step", lambda _, line: told.append(line))
    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: True)
    monkeypatch.setattr("helpers.commands.follow", uv.follow)
    monkeypatch.setattr("helpers.commands.attempt", uv.attempt)
    venv.make("", Silent())
    assert uv.caches == ["", str(tmp_path / ".cache")]
    assert told[-1] == f"uv's cache stays as it is (no end after 120 s): using {tmp_path}/.cache"


def test_a_file_that_stays_shorter_than_its_package_lists_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = not_made(tmp_path, monkeypatch)
    told: list[str] = []
    monkeypatch.setattr(Silent, "step", lambda _, line: told.append(line))
    monkeypatch.setattr(venvs, "_linkable_cache", lambda *_: False)
    monkeypatch.setattr("helpers.commands.follow", Uv(venv, "cut short", "cut short").follow)
    venv.make("", Silent())
    assert told[-1] == "thing.json is not what its package lists, also after it was fetched again"


def test_a_cache_that_is_linked_to_by_symbolic_links_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cleans it would empty every venv that has such links, also those of others."""
    uv = uv_with_cache(tmp_path)
    assert venvs._linkable_cache(uv, {"UV_LINK_MODE": "copy"}, tmp_path)
    assert not venvs._linkable_cache(uv, {"UV_LINK_MODE": "symlink"}, tmp_path)
    for mode, left in (("symlink", {}), ("copy", {"UV_LINK_MODE": "copy"})):
        environment = {"UV_LINK_MODE": mode, "UV_NO_CACHE": "1"}
        Venv(tmp_path, "mlflow", tmp_path / "lock.txt")._use_own_cache(environment)
        assert environment == {"UV_CACHE_DIR": str(tmp_path / ".cache"), **left}


@pytest.mark.parametrize("content", [b"\0" * 200_000, b"thing/__init__.py\0.py,sha256=x,2\n", b"\xff\xfe,,\n"])
def test_a_damaged_list_of_a_package_ends_in_no_traceback(venv: Venv, content: bytes) -> None:
    record = venv.site / "thing-1.0.dist-info" / "RECORD"
    record.write_bytes(content)
    assert venv.problem().endswith(" is missing")
    assert venvs._cut_short(venv.site) == "thing-1.0.dist-info/RECORD"


def test_the_token_of_a_mirror_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = not_made(tmp_path, monkeypatch)
    (tmp_path / "torch-cpu.in").write_text("torch\n")
    extra = venvs.Extra(tmp_path / "torch-cpu.in", "https://sesame@wheels.example/whl")
    venv = replace(venv, extras=(extra,))
    said = venv._failure(extra.argv(), ["cause: dns error"], None).message
    assert said == "PyTorch could not be installed from https://***@wheels.example/whl: dns error"


def test_a_venv_is_on_the_disk_before_it_counts_as_made(venv: Venv, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[bool] = []
    venv._marker.unlink()
    monkeypatch.setattr("helpers.files.sync_file_system", lambda folder: marked.append(venv._marker.exists()))
    venv._finish()
    assert marked == [False] and not venv.problem()


def test_a_file_that_two_packages_bring_may_be_either_ones(venv: Venv) -> None:
    (venv.site / "thing" / "__init__.py").write_text("x")
    for name, size in (("thing", 1), ("other", 9)):
        (venv.site / f"{name}-1.0.dist-info").mkdir(exist_ok=True)
        rows = f"thing/__init__.py,sha256=x,{size}\n{name}-1.0.dist-info/RECORD,,\n"
        (venv.site / f"{name}-1.0.dist-info" / "RECORD").write_text(rows)
    assert venvs._cut_short(venv.site) == ""
    (venv.site / "other-1.0.dist-info" / "RECORD").write_text("other-1.0.dist-info/INSTALLER,,2\n")
    assert venvs._cut_short(venv.site) == "other-1.0.dist-info/RECORD"
