"""The MLflow server's entry (docker/mlflow/start.py): what it decides before it starts anything."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fakes import module_at

SCRIPT = Path(__file__).parents[2] / "docker" / "mlflow" / "start.py"
start = module_at(SCRIPT)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], env={"PATH": os.environ["PATH"], **environment},
                          capture_output=True, text=True, timeout=30, check=False)


def test_what_every_engine_needs_is_set_and_what_was_given_wins() -> None:
    environment = {"MLFLOW_DISABLE_TELEMETRY": "false"}
    start.prepare(environment)
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "false"


@pytest.mark.parametrize("name", ["MLFLOW_HOST", "MLFLOW_PORT", "MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"])
def test_stray_variables_do_not_reach_the_server(name: str) -> None:
    environment = {name: "tcp://10.0.0.1:8000"}
    start.prepare(environment)
    assert name not in environment


def test_arguments_name_no_store() -> None:
    environment = {"TRACKBED_PORT": "8123", "TRACKBED_WORKERS": "", "TRACKBED_HOST": "127.0.0.1",
                   "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://u:secret@h/d"}
    assert start.server_arguments(environment) == ["server", "--host", "127.0.0.1", "--port", "8123", "--workers", "2"]


@pytest.mark.parametrize("value", ["0", "65536", "tcp://10.0.0.1:8000", "-1", "8e3", " "])
def test_a_wrong_port_is_refused(value: str) -> None:
    with pytest.raises(start.Stop, match="TRACKBED_PORT") as caught:
        start.server_arguments({"TRACKBED_PORT": value})
    assert caught.value.code == start.MISCONFIGURED


def revision(folder: Path, name: str, parent: str) -> None:
    (folder / f"{name}_x.py").write_text(f'"""revision = "none"."""\nrevision = "{name}"\ndown_revision = {parent}\n')


def test_the_newest_revision_is_read_from_the_files(tmp_path: Path) -> None:
    revision(tmp_path, "a1", "None")
    revision(tmp_path, "b2", '"a1"')
    revision(tmp_path, "c3", '"a1"  # a branch')
    revision(tmp_path, "d4", '("b2", "c3")')
    (tmp_path / "typed.py").write_text("revision: str = 'e5'\ndown_revision: str | None = 'd4'\n")
    (tmp_path / "__init__.py").write_text("")
    assert start.migrations(tmp_path) == ("e5", frozenset({"a1", "b2", "c3", "d4", "e5"}))


def test_two_newest_revisions_are_an_error(tmp_path: Path) -> None:
    revision(tmp_path, "a1", "None")
    revision(tmp_path, "b2", "None")
    with pytest.raises(start.Stop):
        start.migrations(tmp_path)


@pytest.mark.parametrize(("database", "populated", "state"), [
    (None, False, "empty"),
    (None, True, "older"),  # from before MLflow kept a revision
    ("new", True, "current"),
    ("old", True, "older"),
    ("old", False, "older"),
    ("from the future", True, "newer"),
    ("new,old", True, "newer"),
])
def test_state_of_the_schema(database: str | None, populated: bool, state: str) -> None:
    assert start.schema_state(database, populated, "new", frozenset({"old", "new"})) == state


@pytest.mark.parametrize(("state", "migrate", "result"), [
    ("empty", False, False), ("current", False, False), ("current", True, False), ("older", True, True),
    ("older", False, "TRACKBED_MIGRATE=1"), ("newer", False, "newer MLflow"), ("newer", True, "newer MLflow"),
])
def test_the_guard_starts_nothing_on_another_schema(state: str, migrate: bool, result: bool | str) -> None:
    found = {"database": "d", "code": "c", "state": state}
    if isinstance(result, bool):
        assert start.guard(found, migrate) is result
        return
    with pytest.raises(start.Stop, match=result) as caught:
        start.guard(found, migrate)
    assert caught.value.code == start.MISCONFIGURED
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("message", "final"), [
    ('FATAL: password authentication failed for user "mlflow"', True),
    ("fe_sendauth: no password supplied", True),
    ('FATAL: no pg_hba.conf entry for host "172.20.0.3"', True),
    ("connection refused", False),
    ("FATAL: the database system is starting up", False),
    ('FATAL: database "mlflow" does not exist', False),  # the engine may be about to create it
])
def test_only_final_answers_end_the_wait(message: str, final: bool) -> None:
    assert start.refused(message) is final


def test_a_prepared_schema_counts_for_its_own_revision_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "__file__", str(tmp_path / "start.py"))
    assert start.template("a1") is None
    (tmp_path / "schema.sql").write_text("-- revision a1\nCREATE TABLE t ();\n")
    assert start.template("a1") == "CREATE TABLE t ();\n"
    assert start.template("b2") is None


def test_the_prepared_schema_is_found_through_the_link_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "schema.sql").write_text("-- revision a1\nCREATE TABLE t ();\n")
    (tmp_path / "start.py").write_text("")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trackbed-mlflow").symlink_to(tmp_path / "start.py")
    monkeypatch.setattr(start, "__file__", str(tmp_path / "bin" / "trackbed-mlflow"))
    assert start.template("a1") == "CREATE TABLE t ();\n"


def test_what_the_server_does_not_import_is_not_in_the_image() -> None:
    """A package that is there in one engine and not in the other would make two servers of one."""
    text = SCRIPT.with_name("Dockerfile").read_text()
    removed = text.split("for name in ")[1].split("; do rm")[0].replace("\\", " ").split()
    assert set(start.CLIENT_ONLY) <= set(removed)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_ends_with_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    clock, asked = Clock(), []

    def ask() -> str:
        asked.append(clock.now)
        if len(asked) < 4:
            raise start.NotYet("starting up")
        return "here"

    assert start.wait("the database", ask, 60, clock, clock.sleep) == "here"
    assert len(asked) == 4
    assert capsys.readouterr().err == "trackbed: waiting for the database (starting up)\n"


def test_waiting_is_bounded_and_names_the_last_reason() -> None:
    clock = Clock()

    def ask() -> str:
        raise start.NotYet("connection refused")

    with pytest.raises(start.Stop, match=r"within 60 s: connection refused") as caught:
        start.wait("the database", ask, 60, clock, clock.sleep)
    assert caught.value.code == start.NO_ANSWER
    assert 50 < clock.now <= 60


@pytest.mark.parametrize(("code", "status", "verdict"), [
    ("NoSuchBucket", 404, "missing"), ("404", 404, "missing"), ("AccessDenied", 403, "refused"),
    ("InvalidAccessKeyId", 404, "refused"), ("SignatureDoesNotMatch", 403, "refused"),
    ("SlowDown", 503, "later"), ("XMinioServerNotInitialized", 503, "later"), ("InternalError", 500, "later"),
    ("InvalidBucketName", 400, "failed"), ("PermanentRedirect", 301, "failed"),
])
def test_what_an_answer_of_the_store_means(code: str, status: int, verdict: str) -> None:
    assert start.s3_verdict(code, status) == verdict


@pytest.mark.parametrize(("destination", "parts"), [
    ("s3://mlflow-artifacts", ("mlflow-artifacts", "")), ("s3://bucket/", ("bucket", "")),
    ("s3://bucket/a/b/", ("bucket", "a/b")),
])
def test_bucket_and_prefix(destination: str, parts: tuple[str, str]) -> None:
    assert start.s3_address(destination) == parts


def test_a_destination_without_a_bucket_is_refused() -> None:
    with pytest.raises(start.Stop, match="names no bucket"):
        start.s3_address("s3:///prefix")


@pytest.mark.parametrize(("text", "path"), [
    ("mlflow-artifacts:/1/run/artifacts", "1/run/artifacts"), ("1/run/", "1/run"), ("/", ""), ("a..b/c", "a..b/c"),
])
def test_artifact_paths(text: str, path: str) -> None:
    assert start.artifact_path(text) == path


@pytest.mark.parametrize("text", ["..", "../x", "1/../../x", "mlflow-artifacts:/../x"])
def test_no_way_out_of_the_artifacts(text: str) -> None:
    with pytest.raises(start.Stop):
        start.artifact_path(text)


def test_objects_of_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    (place / "1" / "run" / "artifacts").mkdir(parents=True)
    (place / "1" / "run" / "artifacts" / "model.bin").write_bytes(b"12345")
    (place / "1" / "runaway").write_bytes(b"1")
    done = run("object", "mlflow-artifacts:/1/run", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri())
    assert json.loads(done.stdout) == [{"path": "1/run/artifacts/model.bin", "size": 5}]
    assert json.loads(run("object", "1/none", MLFLOW_ARTIFACTS_DESTINATION=str(place)).stdout) == []


def test_an_artifact_folder_is_made_once(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    assert run("bucket", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri(), TRACKBED_S3_CREATE="check").returncode == 78
    assert not place.exists()
    for _ in range(2):
        assert run("bucket", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri()).returncode == 0
    assert place.is_dir()


@pytest.mark.parametrize("arguments", [(), ("sevre",), ("serve", "now"), ("object",)])
def test_wrong_use_shows_the_help(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "serve" in done.stderr


def test_a_missing_setting_is_named() -> None:
    done = run("serve")
    assert (done.returncode, done.stderr) == (78, "trackbed: MLFLOW_ARTIFACTS_DESTINATION is not set\n")


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


@pytest.mark.parametrize(("answer", "code", "said"), [
    (b"HTTP/1.1 200 OK\r\n\r\n{}", 0, ""),
    (b"HTTP/1.1 503 Service Unavailable\r\n\r\nno database", 1, "503 Service Unavailable: no database"),
    (b"HTTP/1.1 403 Forbidden\r\n\r\nInvalid Host header", 1, "Invalid Host header"),
    (b"", 1, ""),
])
def test_health_is_the_answer_of_the_api(answer: bytes, code: int, said: str) -> None:
    with server(answer) as port:
        done = run("health", TRACKBED_PORT=str(port))
    assert done.returncode == code
    assert said in done.stderr


def test_health_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert run("health", TRACKBED_PORT=str(port)).returncode == 1


def test_leftovers_of_killed_uploads_go_and_the_rest_stays(tmp_path: Path) -> None:
    now = 1_000_000.0
    for name in ("tmpold", "tmpnew", "keep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_bytes(b"x")
        age = 10.0 if name == "tmpnew" else 7200.0
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / "tmplink").symlink_to(tmp_path / "keep")
    assert start.clear_leftovers(tmp_path, now) == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"tmpnew", "keep", "tmplink"}


class Objects:
    """A store over the network; remembers the most calls at the same time."""

    remote = True

    def __init__(self, held: dict[str, bytes]) -> None:
        self.held, self.open_now, self.most, self.lock = held, 0, 0, threading.Lock()

    def names(self) -> Iterator[tuple[str, int]]:
        return ((name, len(content)) for name, content in [*self.held.items(), ("gone", b"x")])

    def open(self, name: str) -> tuple[int, Any]:
        with self.lock:
            self.open_now += 1
            self.most = max(self.most, self.open_now)
        time.sleep(random.Random(name).random() / 200)
        with self.lock:
            self.open_now -= 1
        if name not in self.held:
            raise FileNotFoundError(name)
        return len(self.held[name]), io.BytesIO(self.held[name])


def test_objects_that_are_fetched_ahead_come_out_in_order_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {f"1/{n}/ä{'x' * (n % 150)}": random.Random(n).randbytes(n * 7 % 1500) for n in range(200)}
    held |= {"1/big": bytes(start.TINY + 1), "1/empty": b""}
    place, target = Objects(held), io.BytesIO()
    monkeypatch.setattr(start, "storage", lambda environment, prefix: place)
    assert start.objects_out({}, "", target) == "202 objects"
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as tar:
        found = [(member.name, stream.read()) for member in tar if (stream := tar.extractfile(member))]
    assert found[:-1] == [(f"o/{name}", content) for name, content in held.items()]
    assert found[-1] == ("end", b'{"objects": 202, "gone": 1}')
    assert 1 < place.most <= start.THREADS


def test_an_object_that_ends_early_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Objects({"1/a": b"abc"})
    monkeypatch.setattr(place, "open", lambda name: (4, io.BytesIO(b"abc")))
    monkeypatch.setattr(start, "TINY", 1)
    monkeypatch.setattr(start, "storage", lambda environment, prefix: place)
    with pytest.raises(OSError, match="1/a ended 1 bytes early"):
        start.objects_out({}, "", io.BytesIO())


class Bucket:
    """As much of an S3 client as storing needs; parts are done in any order."""

    def __init__(self, failing: int = 0) -> None:
        self.stored: dict[str, bytes] = {}
        self.parts: dict[int, bytes] = {}
        self.failing = failing

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
        time.sleep(random.Random(Key).random() / 100)
        self.stored[Key] = Body
        return {}

    def create_multipart_upload(self, **_: str) -> dict[str, Any]:
        self.parts = {}
        return {"UploadId": "u"}

    def upload_part(self, PartNumber: int, Body: bytes, **_: str) -> dict[str, Any]:  # noqa: N803
        time.sleep(random.Random(PartNumber).random() / 100)
        if PartNumber == self.failing:
            raise start.Stop(start.REFUSED, "no")
        self.parts[PartNumber] = Body
        return {"ETag": f"tag {PartNumber}"}

    def complete_multipart_upload(self, Key: str, MultipartUpload: Any, **_: str) -> dict[str, Any]:  # noqa: N803
        told = MultipartUpload["Parts"]
        assert told == [{"PartNumber": n, "ETag": f"tag {n}"} for n in range(1, len(self.parts) + 1)]
        self.stored[Key] = b"".join(self.parts[n] for n in sorted(self.parts))
        return {}


def test_objects_are_stored_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "s3_call", lambda call: call())
    monkeypatch.setattr(start, "SMALL", 1000)
    client = Bucket()
    place, held = start.S3Objects(client, "b", "p"), {f"{n}": random.Random(n).randbytes(n * 400) for n in range(60)}
    for name, content in held.items():
        place.put(name, len(content), io.BytesIO(content))
    place.finish()
    assert client.stored == {f"p/{name}": content for name, content in held.items()}


def test_a_part_that_is_refused_ends_the_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "s3_call", lambda call: call())
    monkeypatch.setattr(start, "SMALL", 1000)
    client = Bucket(failing=3)
    place = start.S3Objects(client, "b", "")
    with pytest.raises(start.Stop, match="no"):
        place.put("x", 50_000, io.BytesIO(bytes(50_000)))
    assert not client.stored


HANGING = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import start

class Place:
    remote = True
    def names(self):
        return iter([("1/a", 1), ("1/b", 1)])
    def open(self, name):
        print("asked", file=sys.stderr, flush=True)
        time.sleep(60)

start.storage = lambda environment, prefix: Place()
sys.exit(start.main(["out"]))
"""


def test_a_stop_does_not_wait_for_a_store_that_hangs() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(SCRIPT.parent)], stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL,
                               env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"})
    try:
        assert process.stderr is not None and process.stderr.readline() == b"asked\n"
        process.terminate()
        assert process.wait(20) == start.STOPPED
    finally:
        process.kill()
        process.wait()
def listed(folder: Path) -> dict[str, tuple[int, str]]:
    done = run("list", MLFLOW_ARTIFACTS_DESTINATION=str(folder))
    assert done.returncode == 0, done.stderr
    *found, (nothing, count, _) = map(json.loads, done.stdout.splitlines())
    assert nothing is None and count == len(found)
    return {name: (size, mark) for name, size, mark in found}


def test_a_file_that_was_just_written_has_no_mark(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "ä b").write_bytes(b"hello")
    assert listed(tmp_path) == {"1/ä b": (5, "")}


def test_a_mark_changes_with_the_content_even_if_size_and_time_do_not(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "SETTLED_SECONDS", 0)
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    time.sleep(0.05)
    place = start.FolderObjects(tmp_path)
    (first,), before = place.marked(), path.stat()
    assert first[:2] == ("a", 5) and first[2] and list(place.marked()) == [first]
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(0.05)
    (second,) = place.marked()
    assert second[2] and second[2] != first[2]


@pytest.mark.parametrize(("tag", "known"), [
    ('"5d41402abc4b2a76b9719d911017c592"', True), ('"5d41402abc4b2a76b9719d911017c592-3"', True),
    ("", False), ('"5d41"', False), ('"not-a-checksum"', False)])
def test_the_mark_of_an_object_is_etag_and_time(tag: str, known: bool) -> None:
    class Client:
        def list_objects_v2(self, **_: object) -> dict[str, Any]:
            return {"Contents": [{"Key": "live/a", "Size": 3, "ETag": tag, "LastModified": datetime.now(UTC)}]}

    (found,) = start.S3Objects(Client(), "bucket", "live").marked()
    assert found[:2] == ("a", 3) and bool(found[2]) == known
    assert not known or (tag.strip('"') in found[2] and found[2] != tag.strip('"'))


def test_only_what_is_asked_for_is_sent_and_what_is_gone_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "ü"):
        (tmp_path / name).write_text(name)
    done = subprocess.run([sys.executable, str(SCRIPT), "pick"], input=b'"\\u00fc"\n"gone"\n"a"\n', capture_output=True,
                          env={"PATH": os.environ["PATH"], "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path)}, timeout=30,
                          check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["o/ü", "o/a", "end"]
        content = tar.extractfile("end")
        assert content is not None and json.loads(content.read()) == {"objects": 2, "gone": 1}
