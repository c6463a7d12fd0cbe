"""Files of ``NAME=value`` lines: the user's ``.env``, and the block that earlier versions kept at its end."""

from __future__ import annotations

import io
import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from helpers import files
from helpers.errors import SettingError, TrackbedError
from helpers.shell_words import account, as_root

END = "# <<< written by Trackbed"
BEGIN_SIGN = "# >>> written by Trackbed"
_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@,+=-]*")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")


@dataclass(frozen=True)
class Entry:
    """One ``NAME=value`` line."""

    name: str
    value: str = field(repr=False)
    line: int


@dataclass(frozen=True)
class EnvFile:
    """What a ``.env`` says. ``entries`` are the user's, ``managed`` is the block of an earlier version's ``up``."""

    path: Path
    entries: tuple[Entry, ...] = ()
    managed: Mapping[str, str] = field(default_factory=dict)
    mode: int | None = None  # None: there is no such file


def _unreadable(path: Path, error: OSError) -> SettingError:
    if isinstance(error, PermissionError):
        return SettingError(f"{path.name}: permission denied; make it yours: {_chown(path)}")
    return SettingError(f"{path.name}: cannot be read ({error.strerror or error})")


def _bytes(path: Path) -> tuple[bytes, os.stat_result] | None:
    """The content and stat of a regular file, None if there is none."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise SettingError(f"{path.name}: is a folder, must be a file; move it away")
        if not stat.S_ISREG(info.st_mode):
            raise SettingError(f"{path.name}: is not a regular file")  # reading a pipe would hang
        if info.st_size > _MAX_BYTES:
            raise SettingError(f"{path.name}: is larger than 1 MiB; it holds settings, one NAME=value a line")
        return path.read_bytes(), info
    except FileNotFoundError:
        if path.is_symlink():
            raise SettingError(f"{path.name}: is a link to nothing ({os.readlink(path)})") from None
        return None
    except NotADirectoryError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def _text(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SettingError(f"{path.name}: is UTF-16, must be UTF-8; convert it: iconv -f UTF-16 -t UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingError(
            f"{path.name} line {line}: is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise SettingError(
            f"{path.name} line {text[: text.index(chr(0))].count(chr(10)) + 1}: "
            "holds a NUL byte; the file is damaged or half-written"
        )
    return text


def _blocks(path: Path, lines: list[str]) -> list[range]:
    """The line numbers (from 1) of each managed block, markers included."""
    result: list[range] = []
    start = 0
    for number, line in enumerate(lines, 1):
        if line.startswith(BEGIN_SIGN):
            if start:
                break
            start = number
        elif line.startswith(END):
            if not start:
                raise SettingError(f"{path.name} line {number}: ends a block that has no begin; delete it")
            result.append(range(start, number + 1))
            start = 0
    if start:
        raise SettingError(
            f"{path.name} line {start}: begins a block of Trackbed that has no last line; add the line: {END}"
        )
    return result


def _line_of(binding: Binding) -> int:
    """The parser counts from the blank lines above; count from the name."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))


def _problem(text: str) -> str:
    value = text.strip().partition("=")[2].strip()
    if value[:1] in ("'", '"'):
        quote = value[0]
        if quote in value[1:]:
            return f"has text after the closing {quote}"
        return f"the quote {quote} is not closed"
    return "is not NAME=value"


def read(path: Path) -> EnvFile:
    """Read ``path`` with python-dotenv's grammar, without interpolation. A missing file is an empty one."""
    raw = _bytes(path)
    if raw is None:
        return EnvFile(path)
    text = _text(path, raw[0])
    blocks = _blocks(path, _LINE.findall(text))
    entries: list[Entry] = []
    managed: dict[str, str] = {}
    seen: dict[str, int] = {}
    for binding in parse_stream(io.StringIO(text, newline="")):
        original = binding.original.string
        line = _line_of(binding)
        where = f"{path.name} line {line}"
        if binding.error:
            raise SettingError(f"{where}: {_problem(original)}")
        if binding.key is None:
            continue
        name, value = binding.key, binding.value
        if not _NAME.fullmatch(name):
            raise SettingError(f"{where}: is not NAME=value")
        if value is None:
            raise SettingError(f"{where}: {name} has no '='; must be {name}=value")
        if re.search(r"[\r\n]", original.strip()):
            raise SettingError(f"{where}: the value of {name} runs over several lines; close its quote")
        if value.startswith("#") and re.search(r"=[ \t]+#", original):
            value = ""  # `NAME= # why`: python-dotenv takes the comment for the value
        if any(line in block for block in blocks):
            if not name.startswith(("TRACKBED_", "COMPOSE_")):
                raise SettingError(
                    f"{where}: {name} stands inside the block that Trackbed rewrites; move it to the top of the file"
                )
            managed[name] = value
            continue
        if name in seen:
            raise SettingError(f"{where}: {name} is already set on line {seen[name]}; delete one of them")
        seen[name] = line
        entries.append(Entry(name, value, line))
    return EnvFile(path, tuple(entries), managed, stat.S_IMODE(raw[1].st_mode))


def quoted(name: str, value: str) -> str:
    """A value that python-dotenv, Compose and a shell all read the same."""
    if _PLAIN.fullmatch(value):
        return value
    if "'" in value or "\\" in value or not value.isprintable():
        raise TrackbedError(f"{name} has a quote, backslash or control character: cannot go into .trackbed.env")
    return f"'{value}'"


def drop_block(path: Path) -> bool:
    """Take the block of an earlier version out of ``path``; False where there is none.

    The user's lines stay byte for byte, and so do mode and owner. A file that held nothing else goes.
    """
    raw = _bytes(path)
    if raw is None or BEGIN_SIGN.encode() not in raw[0]:
        return False
    _text(path, raw[0])
    lines = [line.encode() for line in _LINE.findall(raw[0].decode("utf-8"))]
    inside = {number for block in _blocks(path, [line.decode().lstrip("\ufeff") for line in lines]) for number in block}
    if not inside:
        return False
    kept = b"".join(line for number, line in enumerate(lines, 1) if number not in inside)
    if kept.strip() or path.is_symlink():
        _put(path.resolve(), kept, raw[1], stat.S_IMODE(raw[1].st_mode))  # a .env that is a link stays one
    else:
        _removed(path)
    return True


def replace(path: Path, text: str | None) -> bool:
    """Make ``path`` hold ``text``, 0600, in one step; None removes it. What it links to stays as it is.

    False, and nothing is written, where it is so already.
    """
    if text is None:
        return _removed(path)
    try:
        if path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode():
            return False
    except OSError:
        pass  # it is made again
    if path.is_dir() and not path.is_symlink():
        raise TrackbedError(f"{path} is a folder, must be a file", "move it away")
    _put(path, text.encode(), path.parent.stat(), 0o600)
    return True


def _removed(path: Path) -> bool:
    if not os.path.lexists(path):
        return False  # on a read-only mount unlink fails on that too
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    return True


def _put(target: Path, content: bytes, owner: os.stat_result, mode: int) -> None:
    """The new file appears whole or not at all."""
    # with sudo in a user's clone the file stays the user's
    kept = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
    try:
        files.replace(target, content, mode, kept)
    except OSError as error:
        raise _unwritable(target, error) from None


def _unwritable(path: Path, error: OSError) -> TrackbedError:
    return TrackbedError(
        f"{path} cannot be written ({error.strerror or error})",
        f"make the folder yours: {_chown(path.parent, path)}",
    )


def _chown(*paths: Path) -> str:
    return as_root(shlex.join(["chown", account(), *map(str, paths)]))
