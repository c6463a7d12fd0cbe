"""What ``up`` leaves in the clone: files of its own, and nothing in the user's."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.errors import SettingError, TrackbedError
from helpers.settings import Settings, dotenv, generated

ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "COMPOSE_FILE": "docker/compose.yaml:docker/compose.minio.yaml",
    "COMPOSE_PROJECT_NAME": "lab",
    "TRACKBED_STATE_DIR": "/srv/my state",
}
BLOCK = "# >>> written by Trackbed for docker compose\nCOMPOSE_PROJECT_NAME=old\n# <<< written by Trackbed\n"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def left(env: Path) -> dict[str, str]:
    return dict(generated.read(dotenv.read(env)))


def test_files_of_their_own_are_written_once_and_taken_away(env: Path) -> None:
    assert generated.write(env, VALUES) == () and left(env) == VALUES
    files = {path.name: path for path in env.parent.iterdir()}
    assert files.keys() == {".trackbed.env", "compose.yaml"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
    assert yaml.safe_load(files["compose.yaml"].read_text()) == {
        "name": "lab",
        "include": [{"path": ["docker/compose.yaml", "docker/compose.minio.yaml"], "env_file": ".trackbed.env"}],
    }
    before = {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in files.items()}
    generated.write(env, VALUES)
    assert before == {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in files.items()}
    generated.write(env, {"TRACKBED_STATE_DIR": "/s"})  # the embedded engine has nothing for Compose
    assert [path.name for path in env.parent.iterdir()] == [".trackbed.env"]
    generated.write(env, {})
    assert list(env.parent.iterdir()) == [] and left(env) == {}


def test_they_are_no_part_of_the_repository() -> None:
    done = subprocess.run(
        ["git", "check-ignore", generated.VALUES, generated.COMPOSE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [generated.VALUES, generated.COMPOSE] or done.returncode == 128


def test_the_block_of_an_earlier_version_is_heeded_then_moved(env: Path) -> None:
    env.write_text(f"GPU=none\n{BLOCK}")
    env.chmod(0o640)
    assert left(env) == {"COMPOSE_PROJECT_NAME": "old"}
    reported = generated.write(env, VALUES)
    assert reported == (
        "the lines that Trackbed kept at the end of .env are in .trackbed.env now; .env is yours alone",
    )
    assert env.read_text() == "GPU=none\n" and stat.S_IMODE(env.stat().st_mode) == 0o640
    assert left(env) == VALUES
    env.write_text(f"GPU=none\n{BLOCK}")  # an earlier version's `up`, after `invoke upgrade --back`: the later word
    assert left(env) == {"COMPOSE_PROJECT_NAME": "old"}


def test_an_env_of_the_user_alone_is_never_touched(env: Path) -> None:
    env.write_text("MLFLOW_PORT=8001\n")
    before = env.stat()
    generated.write(env, VALUES)
    generated.write(env, {})
    after = env.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("theirs", ["services: {}\n", None])
def test_a_compose_file_of_the_users_own_stays(env: Path, tmp_path: Path, theirs: str | None) -> None:
    compose = tmp_path / "compose.yaml"
    if theirs is None:
        compose.symlink_to("/etc/hostname")
    else:
        compose.write_text(theirs)
    (line,) = generated.write(env, VALUES)
    assert line == (
        "compose.yaml in this clone is yours and stays; for the project's services: "
        "`docker compose --env-file .trackbed.env ps`"
    )
    assert compose.is_symlink() if theirs is None else compose.read_text() == theirs
    assert generated.write(env, VALUES) == (), "said once"
    assert generated.write(env, {}) == () and os.path.lexists(compose)


def test_a_link_in_their_place_is_replaced_not_followed(env: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".trackbed.env").symlink_to("victim")
    generated.write(env, VALUES)
    assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / ".trackbed.env").is_symlink()


def test_a_pipe_in_their_place_is_replaced_and_makes_nobody_wait(env: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".trackbed.env")
    generated.write(env, VALUES)
    assert left(env) == VALUES


def test_what_is_not_there_is_not_removed(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only mount answers EROFS to that."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refused)
    assert generated.write(env, {}) == ()


def test_a_damaged_file_says_what_to_do(env: Path, tmp_path: Path) -> None:
    (tmp_path / ".trackbed.env").write_text("TRACKBED_STATE_DIR='/s\n")
    with pytest.raises(SettingError) as caught:
        left(env)
    assert caught.value.message == ".trackbed.env line 1: the quote ' is not closed"
    assert caught.value.hint.startswith(f"delete {tmp_path}/.trackbed.env; `invoke up` writes it again")


def test_a_folder_in_their_place_is_named(env: Path, tmp_path: Path) -> None:
    (tmp_path / ".trackbed.env").mkdir()
    with pytest.raises(TrackbedError, match="is a folder, must be a file"):
        generated.write(env, VALUES)


def test_the_project_and_its_state_are_found_again(env: Path, tmp_path: Path) -> None:
    generated.write(env, {"COMPOSE_PROJECT_NAME": "lab", "TRACKBED_STATE_DIR": str(tmp_path.parent / "elsewhere")})
    result = Settings.load({}, {"HOME": "/h"}, env, {})
    assert (result.project, result.state_dir) == ("lab", tmp_path.parent / "elsewhere")
    assert result.origin("PROJECT") == "the last `invoke up`" and result.warnings == ()


@pytest.mark.parametrize("value", ["it's", "back\\slash", "two\nlines", "bell\a"])
def test_values_that_no_grammar_shares_are_refused(env: Path, value: str) -> None:
    with pytest.raises(TrackbedError, match="has a quote, backslash or control character: cannot go into"):
        generated.write(env, {"TRACKBED_X": value})
    assert list(env.parent.iterdir()) == []


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="'\\", exclude_categories=("C", "Z")), max_size=40))
def test_written_values_read_back(env: Path, value: str) -> None:
    generated.write(env, {"TRACKBED_X": value})
    assert left(env) == {"TRACKBED_X": value}
    assert dotenv_values(env.with_name(".trackbed.env"), interpolate=False) == {"TRACKBED_X": value}
