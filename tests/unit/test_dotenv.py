"""The ``.env`` file: what is read, what is refused, and the block of an earlier version that is taken out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.errors import SettingError, TrackbedError
from helpers.settings.dotenv import END, drop_block, read
from helpers.shell_words import account, as_root

BEGIN = "# >>> written by Trackbed for docker compose; changes in here are lost"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def put(env: Path, content: bytes | str) -> Path:
    env.write_bytes(content.encode() if isinstance(content, str) else content)
    return env


def test_missing_is_empty(env: Path) -> None:
    result = read(env)
    assert (result.entries, result.managed, result.mode) == ((), {}, None)


READS = [
    ("A=1\nB=2\n", [("A", "1", 1), ("B", "2", 2)]),
    ("A=1\r\n\r\nB=2", [("A", "1", 1), ("B", "2", 3)]),
    ("# x\n\n  A = 1 # y\n", [("A", "1", 3)]),
    ("export A='b c'\n", [("A", "b c", 1)]),
    ("A=pa$word\nB=${A}\n", [("A", "pa$word", 1), ("B", "${A}", 2)]),
    ("A=\nB=''\nC= # why\n", [("A", "", 1), ("B", "", 2), ("C", "", 3)]),
    (b"\xef\xbb\xbfA=1\n", [("A", "1", 1)]),
    ('A=b#c\nB="d # e"\n', [("A", "b#c", 1), ("B", "d # e", 2)]),
    ("A=ä\n", [("A", "ä", 1)]),
    ("", []),
    ("\n\n", []),
]


@pytest.mark.parametrize(("content", "entries"), READS)
def test_read(env: Path, content: bytes | str, entries: list[tuple[str, str, int]]) -> None:
    assert [(e.name, e.value, e.line) for e in read(put(env, content)).entries] == entries


def test_a_value_is_not_in_the_repr(env: Path) -> None:
    assert "hunter2" not in repr(read(put(env, "POSTGRES_PASSWORD=hunter2\n")))


REFUSED = [
    ("MLFLOW_PORT\n", ".env line 1: MLFLOW_PORT has no '='; must be MLFLOW_PORT=value"),
    ("A=1\nhello world\n", ".env line 2: is not NAME=value"),
    ("A=1\n=x\n", ".env line 2: is not NAME=value"),
    ("1A=x\n", ".env line 1: is not NAME=value"),
    ("A-B=x\n", ".env line 1: is not NAME=value"),
    ("A='x\n", ".env line 1: the quote ' is not closed"),
    ('\nA="x\nB=1\n', '.env line 2: the quote " is not closed'),
    ("A='x' y\n", ".env line 1: has text after the closing '"),
    ("A='x\nB=1'\n", ".env line 1: the value of A runs over several lines; close its quote"),
    ("A=1\nB=2\nA=3\n", ".env line 3: A is already set on line 1; delete one of them"),
    (b"A=1\nB=\xff\n", ".env line 2: is not UTF-8 (byte 0xff); save the file as UTF-8"),
    ("A=1\n".encode("utf-16"), ".env: is UTF-16, must be UTF-8; convert it: iconv -f UTF-16 -t UTF-8"),
    (b"A=1\nB=\0\0\0\0", ".env line 2: holds a NUL byte; the file is damaged or half-written"),
    (b"#" * (1 << 20) + b"\n", ".env: is larger than 1 MiB; it holds settings, one NAME=value a line"),
    (
        f"A=1\n{BEGIN}\nTRACKBED_X=1\n",
        f".env line 2: begins a block of Trackbed that has no last line; add the line: {END}",
    ),
    (f"{END}\n", ".env line 1: ends a block that has no begin; delete it"),
    (
        f"{BEGIN}\nMLFLOW_PORT=1\n{END}\n",
        ".env line 2: MLFLOW_PORT stands inside the block that Trackbed rewrites; move it to the top of the file",
    ),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_refused(env: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(put(env, content))
    assert caught.value.message == message


def test_things_that_are_no_file(env: Path, tmp_path: Path) -> None:
    env.mkdir()
    with pytest.raises(SettingError, match=r"^\.env: is a folder, must be a file; move it away$"):
        read(env)
    env.rmdir()
    os.mkfifo(env)
    with pytest.raises(SettingError, match=r"^\.env: is not a regular file$"):
        read(env)
    env.unlink()
    env.symlink_to(tmp_path / "gone")
    with pytest.raises(SettingError, match=r"^\.env: is a link to nothing \(.*gone\)$"):
        read(env)
    env.unlink()
    env.symlink_to(env)
    with pytest.raises(SettingError, match=r"^\.env: cannot be read \(Too many levels of symbolic links\)$"):
        read(env)


def test_permission_denied(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(env, "A=1\n")

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read everything, so chmod would not do
    with pytest.raises(SettingError) as caught:
        read(env)
    assert caught.value.message == f".env: permission denied; make it yours: {as_root(f'chown {account()} {env}')}"


BLOCK = f"{BEGIN}\nCOMPOSE_FILE=docker/compose.yaml:docker/minio.yaml\nTRACKBED_WORKSPACE='/my runs'\n{END}\n"


def test_a_block_is_read_and_a_file_that_held_nothing_else_goes(env: Path) -> None:
    result = read(put(env, BLOCK))
    assert result.entries == ()
    assert result.managed == {"COMPOSE_FILE": "docker/compose.yaml:docker/minio.yaml", "TRACKBED_WORKSPACE": "/my runs"}
    assert drop_block(env) is True
    assert list(env.parent.iterdir()) == []
    assert drop_block(env) is False


USERS = [
    b"A=1\n",
    b"A=1\r\nB=2\r\n",
    b"\xef\xbb\xbfA=1\n",
    b"# only a comment",
    b"",
    b"\n\n",
    b"A='x'\n\x0b\n",
    b"A=1\r",
]


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("user", [user for user in USERS if user.strip()])
def test_the_users_lines_stay_byte_for_byte(env: Path, user: bytes, mode: int) -> None:
    end = b"" if user.endswith((b"\n", b"\r")) else b"\n"
    put(env, user + end + BLOCK.encode()).chmod(mode)
    assert drop_block(env) is True
    assert env.read_bytes() == user + end and stat.S_IMODE(env.stat().st_mode) == mode
    assert list(env.parent.iterdir()) == [env]


@pytest.mark.parametrize("user", USERS)
def test_without_a_block_nothing_is_touched(env: Path, user: bytes) -> None:
    before = put(env, user).stat()
    assert drop_block(env) is False
    after = env.stat()
    assert (after.st_ino, after.st_mtime_ns, env.read_bytes()) == (before.st_ino, before.st_mtime_ns, user)


def test_lines_below_the_block_stay_too(env: Path) -> None:
    put(env, f"A=1\n{BLOCK}B=2\n")
    drop_block(env)
    assert env.read_text() == "A=1\nB=2\n"


def test_a_word_about_the_block_is_none(env: Path) -> None:
    put(env, f"A=1\n#  {BEGIN}\n")
    assert drop_block(env) is False and env.read_text() == f"A=1\n#  {BEGIN}\n"


@pytest.mark.parametrize("user", ["A=1\n", ""])
def test_a_linked_env_stays_a_link(env: Path, tmp_path: Path, user: str) -> None:
    (tmp_path / "real").write_text(user + BLOCK)
    env.symlink_to("real")
    assert drop_block(env) is True
    assert env.is_symlink() and (tmp_path / "real").read_text() == user


def test_a_damaged_env_is_not_rewritten(env: Path) -> None:
    put(env, f"A=1\n{BEGIN}\nB=2\n")
    with pytest.raises(SettingError):
        drop_block(env)
    assert env.read_text() == f"A=1\n{BEGIN}\nB=2\n"


def test_a_failed_write_leaves_the_old_file(env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(env, f"A=1\n{BLOCK}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrackbedError, match="No space left on device"):
        drop_block(env)
    assert env.read_text() == f"A=1\n{BLOCK}"
    assert list(env.parent.iterdir()) == [env]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(env: Path, content: bytes) -> None:
    try:
        read(put(env, content))
    except SettingError as error:
        assert error.message.isprintable() and error.message.startswith(".env")
