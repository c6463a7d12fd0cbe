"""PostgreSQL after what may happen to its files: a first start that was killed, a lock of another program, damage."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import references
from tests.conftest import Clone, require_docker
from tests.integration import inspection

IN_VOLUME, IMAGE = "/v/18/docker", references.image("postgres").reference


def as_database(clone: Clone, script: str) -> str:
    """A script beside the data of a project that is down, as the account that owns them; $DATA is their folder."""
    if clone.engine == "docker":
        return inspection.output(
            "docker",
            "run",
            "--rm",
            "--user",
            "999:999",
            "--entrypoint",
            "sh",
            "-v",
            f"{clone.project}_postgres:/v",
            "-e",
            f"DATA={IN_VOLUME}",
            IMAGE,
            "-c",
            script,
        )
    data = clone.project_folder / "embedded" / "postgres-18"
    owner = data.stat()
    options = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    return inspection.output("sh", "-c", script, env={"PATH": os.defpath, "DATA": str(data)}, cwd="/", **options)


def test_a_first_start_killed_inside_initdb(clone_factory: Callable[..., Clone]) -> None:
    """The image's entry script takes what initdb had begun for a database."""
    require_docker()
    clone = clone_factory("docker")
    name, begun = f"{clone.project}_postgres", time.monotonic()
    first = clone.start("up")
    where = ""
    while time.monotonic() < begun + 300:
        where = where or inspection.run("docker", "volume", "inspect", "-f", "{{.Mountpoint}}", name).stdout.strip()
        if (
            where
            and inspection.run(
                "docker",
                "exec",
                inspection.container(clone, "postgres"),
                "test",
                "-s",
                "/var/lib/postgresql/18/docker/PG_VERSION",
            ).returncode
            == 0
        ):
            break
        time.sleep(0.02)
    inspection.run("docker", "kill", inspection.container(clone, "postgres"))
    first.end(300)
    clone.up()
    kept = inspection.new_run(clone)

    # marked as good: whatever is missing from it now, it is never made again
    assert clone.invoke("down").returncode == 0
    as_database(clone, 'mv "$DATA/base" "$DATA/lost"; mv "$DATA/pg_wal" "$DATA/lost_wal"; mkdir "$DATA/base"')
    done = clone.invoke("up", timeout=300)
    inspection.refused(done, 1, "the database's files are damaged", "invoke restore FILE --into=NAME")
    as_database(
        clone,
        'rm -r "$DATA/base"; mv "$DATA/lost" "$DATA/base"; rm -rf "$DATA/pg_wal"; mv "$DATA/lost_wal" "$DATA/pg_wal"',
    )
    clone.up()
    assert inspection.has_run(clone, kept)


@pytest.fixture(scope="module")
def embedded(clone_factory: Callable[..., Clone]) -> Clone:
    clone = clone_factory("embedded")
    clone.up()
    return clone


@pytest.mark.embedded
def test_a_lock_whose_number_is_another_programs_now(embedded: Clone) -> None:
    kept = inspection.new_run(embedded)
    assert embedded.invoke("down").returncode == 0
    other = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        as_database(embedded, f'printf "{other.pid}\\n$DATA\\n1\\n5432\\n" >"$DATA/postmaster.pid"')
        done = embedded.up()
        assert f"process {other.pid} is another program now" in done.stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert inspection.has_run(embedded, kept)


@pytest.mark.embedded
def test_a_postgresql_that_somebody_started_on_our_data_is_left_alone(embedded: Clone) -> None:
    main = inspection.main_process(embedded, "postgres")
    tool = Path(os.readlink(f"/proc/{main}/exe")).with_name("pg_ctl")
    sockets = inspection.sockets(embedded)
    assert embedded.invoke("down").returncode == 0
    as_database(
        embedded,
        f'{tool} -D "$DATA" -w -l /dev/null -o "-k {sockets} -c listen_addresses=" start >/dev/null 2>&1 </dev/null',
    )
    pid = int(as_database(embedded, 'head -n 1 "$DATA/postmaster.pid"'))
    try:
        inspection.refused(embedded.invoke("up"), 1, f"another PostgreSQL (process {pid}) works on", f"kill -INT {pid}")
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGINT)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.1)
    embedded.up()


@pytest.mark.embedded
def test_a_damaged_page_is_named(embedded: Clone) -> None:
    inspection.new_run(embedded)
    path = inspection.psql(embedded, "SELECT pg_relation_filepath('params')")
    assert embedded.invoke("down").returncode == 0
    as_database(
        embedded,
        f'cp "$DATA/{path}" "$DATA/{path}.kept"; '
        f'printf XXXX | dd of="$DATA/{path}" bs=1 seek=200 conv=notrunc 2>/dev/null',
    )
    embedded.up()
    for task in ("check", "doctor"):
        done = embedded.invoke(task)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert f"table params is damaged: block 0 of {path}" in done.stdout
        assert "invoke restore FILE --into=NAME" in done.stdout + done.stderr
    assert embedded.invoke("down").returncode == 0
    as_database(embedded, f'mv "$DATA/{path}.kept" "$DATA/{path}"')
    embedded.up()
    reported = embedded.invoke("doctor").stdout
    assert "is damaged" not in reported and "every table can be read now" in reported, "it is not forgotten either"
