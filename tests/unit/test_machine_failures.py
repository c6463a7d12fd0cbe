"""What the machine around us does to a command, in words: no errno of it is "unexpected"."""

from __future__ import annotations

import errno
import importlib
import marshal
import os
import shlex
import sys
from pathlib import Path

import pytest

from helpers import files, machine_failures
from helpers.errors import TrackbedError
from helpers.project import credentials, state


@pytest.mark.parametrize(
    ("number", "means", "fix"),
    [
        (errno.ENOSPC, "the disk is full: /srv/my data/x", "df -h '/srv/my data'"),
        (errno.EDQUOT, "the disk is full", "df -i"),
        (errno.EROFS, "is read-only: /srv/my data/x", "findmnt -T '/srv/my data'"),
        (errno.EACCES, "permission denied: /srv/my data/x", "namei -l '/srv/my data/x'"),
        (errno.EPERM, "permission denied", "--state-dir"),
        (errno.ENAMETOOLONG, "too long", "--state-dir"),
        (errno.EMFILE, "too many open files", "ulimit -n"),
        (errno.ENOMEM, "out of memory", "`invoke doctor`"),
        (errno.EIO, "reports an error", "`dmesg | tail`"),
        (errno.ESTALE, "reports an error", "`dmesg | tail`"),
    ],
)
def test_an_error_of_the_system(number: int, means: str, fix: str) -> None:
    result = machine_failures.known(OSError(number, os.strerror(number), "/srv/my data/x"))
    assert result and means in result.message and fix in result.hint
    assert machine_failures.known(OSError(number, os.strerror(number))), "also without a file"


def test_a_full_disk_is_named_wherever_a_file_of_the_project_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "token"
    monkeypatch.setattr(files, "replace", full)
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "replace", full)
    for write in (lambda: state.write_private(path, b"x"), lambda: credentials._make(path, "x", [])):
        with pytest.raises(TrackbedError) as caught:
            write()
        assert caught.value.message.startswith("the disk is full: ") and "df -h" in caught.value.hint
    assert machine_failures.at(path, OSError("odd")).message == f"{path}: odd"


def test_truncated_byte_code() -> None:
    with pytest.raises(EOFError) as caught:
        marshal.loads(marshal.dumps(compile("x = 1", "x", "exec"))[:-5])
    result = machine_failures.known(caught.value)
    assert result and "byte code of the toolkit is damaged" in result.message
    assert f"find {machine_failures.CLONE} -name '*.pyc' -delete" in result.hint
    assert machine_failures.explain(["Traceback", f"EOFError: {caught.value}", ""])


def test_what_is_a_programmers_stays_one() -> None:
    for error in (ValueError("nothing"), EOFError("no more"), OSError("odd"), KeyError("x"), ImportError("no module")):
        assert machine_failures.known(error) is None
    assert machine_failures.known(MemoryError())


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("OSError: [Errno 28] No space left on device: '/x/tmp/y'", "the disk is full"),
        ("MemoryError", "out of memory"),
        ("ImportError: /x/a.so: failed to map segment from shared object: Operation not permitted", "noexec"),
        ("[ERROR] connection to ('127.0.0.1', 8000) failed: [Errno 98] Address already in use", "its port"),
        ("ERROR: the Jupyter server could not be started because port 8888 is not available.", "its port"),
        ("ValueError: of its own", ""),
    ],
)
def test_a_services_last_lines(line: str, means: str) -> None:
    result = machine_failures.explain(["INFO starts", line, "INFO ends"])
    assert result is None if not means else result and means in result[0]
    assert not result or any(word in result[1] for word in ("`invoke up`", "`invoke doctor`", "--state-dir"))


def group(folder: Path, limit: str, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")


def test_the_least_limit_of_the_groups_above_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/slurm/job_7/step_0\n")
    root = tmp_path / "root"
    group(root / "slurm", "8589934592", 1 << 30)
    group(root / "slurm" / "job_7", "4294967296", 3 << 30, cache=1 << 30)
    group(root / "slurm" / "job_7" / "step_0", "max", 1 << 30)
    assert machine_failures.memory_limit(root, own) == (4 << 30, 2 << 30)
    (root / "slurm" / "job_7" / "step_0" / "memory.events").write_text("oom 2\noom_kill 1\n")
    assert machine_failures.killed_for_memory(root, own) == 1


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own, folder = tmp_path / "cgroup", tmp_path / "root" / "memory" / "job"
    own.write_text("3:cpu,cpuacct:/job\n2:memory:/job\n")
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("2147483648\n")
    (folder / "memory.usage_in_bytes").write_text("1073741824\n")
    (folder / "memory.stat").write_text("total_inactive_file 536870912\n")
    assert machine_failures.memory_limit(tmp_path / "root", own) == (2 << 30, 3 << 29)
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine_failures.memory_limit(tmp_path / "root", own) == (0, 0), "that is none"


def test_no_groups_at_all(tmp_path: Path) -> None:
    assert machine_failures.memory_limit(tmp_path, tmp_path / "none") == (0, 0)
    assert machine_failures.killed_for_memory(tmp_path, tmp_path / "none") == 0


def test_an_environment_from_before_an_update() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("package_of_a_later_version")
    result = machine_failures.known(caught.value)
    assert result and "package_of_a_later_version" in result.message
    command = shlex.split(result.hint)
    assert command[0] == sys.executable and Path(command[-1]).is_file()
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("helpers.no_such_module")
    assert machine_failures.known(caught.value) is None, "that is a mistake of ours"
