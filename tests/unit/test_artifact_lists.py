"""Lists of artifacts by the service beside the store (trackbed_mlflow/artifact_lists.py, store_sync.py)."""

from __future__ import annotations

import contextlib
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from trackbed_mlflow import artifact_lists, durability, store_sync

from tests.conftest import PATIENCE

TOKEN = "the-token"


@pytest.fixture
def service(tmp_path: Path) -> store_sync.StoreSync:
    (tmp_path / "objects/bucket/main").mkdir(parents=True)
    return store_sync.StoreSync(tmp_path, TOKEN)


def serving(handler: type[socketserver.BaseRequestHandler], store: Any = None) -> Iterator[str]:
    with store_sync.Server(("127.0.0.1", 0), handler) as server:
        server.store = store  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def address(service: store_sync.StoreSync) -> Iterator[str]:
    yield from serving(store_sync.Handler, service)


def put(service: store_sync.StoreSync, *names: str) -> None:
    for name in names:
        path = service.root / "objects/bucket/main" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"seven b")


def listed(address: str, key: str = "main", token: str = TOKEN, bucket: str = "bucket") -> dict[str, int | None]:
    result = list(artifact_lists.entries(address, token, bucket, key))
    assert len(dict(result)) == len(result)
    return dict(result)


def test_names_and_sizes_of_one_folder(service: store_sync.StoreSync, address: str) -> None:
    put(service, "a.bin", "größe", "名/below", "new\nline", "a/b/c", ".sgwtmp/x", "a/.sgwtmp/x")
    assert listed(address) == {"a.bin": 7, "größe": 7, "名": None, "new\nline": 7, "a": None}
    assert listed(address, "main/a") == {"b": None} and listed(address, "main/a/b") == {"c": 7}
    (service.root / "objects/bucket/main/a.bin").unlink()
    put(service, "late")
    assert "late" in listed(address) and "a.bin" not in listed(address)  # nothing is remembered


def test_more_names_than_go_into_one_line(
    service: store_sync.StoreSync, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sync, "IN_LINE", 5)
    names = [f"{number}" for number in range(2 * store_sync.IN_LINE)]
    put(service, *names)
    assert set(listed(address)) == set(names)
    put(service, "one more")
    assert len(listed(address)) == len(names) + 1


def test_what_is_not_there_is_empty(service: store_sync.StoreSync, address: str) -> None:
    put(service, "file")
    for key in ("main/missing", "main/file", "main/file/below", "main/missing/below"):
        assert listed(address, key) == {}


def test_a_link_leads_nowhere(service: store_sync.StoreSync, address: str, tmp_path: Path) -> None:
    put(service, "a")
    (tmp_path / "outside/below").mkdir(parents=True)
    (tmp_path / "outside/below/secret").touch()
    (service.root / "objects/bucket/main/link").symlink_to(tmp_path / "outside")
    (service.root / "objects/linked").symlink_to(tmp_path / "outside")
    assert listed(address)["link"] == len(str(tmp_path / "outside"))  # as VersityGW lists it, no folder
    for bucket, key in (("bucket", "main/link"), ("bucket", "main/link/below"), ("linked", "below")):
        with pytest.raises(artifact_lists.NoList):  # the store itself has to say what is there
            listed(address, key, bucket=bucket)


def test_no_folder_stays_open(service: store_sync.StoreSync, monkeypatch: pytest.MonkeyPatch) -> None:
    put(service, "a/b/c")
    (service.root / "objects/bucket/main/link").symlink_to("/")
    open_, close, held = os.open, os.close, list[int]()

    def opened(*words: Any, **named: Any) -> int:
        held.append(open_(*words, **named))
        return held[-1]

    def closed(number: int) -> None:
        held.remove(number)
        close(number)

    monkeypatch.setattr(store_sync, "os", SimpleNamespace(**vars(os) | {"open": opened, "close": closed}))
    for key in ("main/a/b", "main/a/b/c", "main/missing/b", "main/link/etc"):
        with contextlib.suppress(OSError):
            list(service.listed({"token": TOKEN, "bucket": "bucket", "list": key}))
        assert not held


def test_bytes_that_are_no_text_are_named_as_the_store_does(service: store_sync.StoreSync, address: str) -> None:
    os.close(os.open(os.fsencode(service.root / "objects/bucket/main") + b"/x\xff\xfe", os.O_CREAT | os.O_WRONLY))
    assert listed(address) == {"x\ufffd\ufffd": 0}


@pytest.mark.parametrize("key", ["..", "main/../..", "main//a", "/etc", "", "a\0b", ".sgwtmp", "main/.sgwtmp/x"])
def test_only_folders_of_objects_are_listed(address: str, key: str) -> None:
    with pytest.raises(artifact_lists.NoList):
        listed(address, key)


def test_who_does_not_know_the_token_gets_no_names(service: store_sync.StoreSync, address: str) -> None:
    put(service, "a")
    with pytest.raises(artifact_lists.NoList, match="token"):
        listed(address, token="wrong")
    service._lenient = True  # an update that is under way
    with pytest.raises(PermissionError):
        next(service.listed({"bucket": "bucket", "list": "main"}))


def test_a_bucket_that_is_not_there_is_for_the_store_to_say(address: str) -> None:
    with pytest.raises(artifact_lists.NoList, match="No such file"):
        listed(address, bucket="other")


def test_lists_take_no_turn_of_those_who_sync(
    service: store_sync.StoreSync, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(service, "a")
    begun, end = threading.Semaphore(0), threading.Event()

    def slow(self: Any, request: Any) -> Iterator[list[tuple[str, int | None]]]:
        begun.release()
        end.wait(PATIENCE)
        yield [("x", 1)]

    monkeypatch.setattr(store_sync.StoreSync, "listed", slow)
    monkeypatch.setattr(store_sync, "TURN_SECONDS", 0.01)
    asking = [threading.Thread(target=listed, args=(address,)) for _ in range(store_sync.LISTS)]
    for thread in asking:
        thread.start()
    for _ in asking:
        assert begun.acquire(timeout=PATIENCE)
    assert durability.ask(address, token=TOKEN, bucket="bucket", keys=["main/a"]) == {}
    with pytest.raises(artifact_lists.Busy, match="too many"):
        listed(address)
    end.set()
    for thread in asking:
        thread.join(PATIENCE)
    assert listed(address) == {"x": 1}  # each turn was given back


def answering(*lines: bytes) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"".join(lines))

    return Handler


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([b'{"error": "ValueError: no keys"}\n'], artifact_lists.NoList),  # an earlier version
        ([b'[["a", 1]]\n', b'{"error": "OSError: the disk"}\n'], artifact_lists.NoList),
        ([], artifact_lists.Busy),
        ([b'[["a", 1]]\n'], artifact_lists.Busy),
        ([b'[["a", 1]]\n', b'[["b", '], artifact_lists.Busy),
        ([b'[["a", 1]]\n', b'{"count": 2}\n'], artifact_lists.Busy),
        ([b'{"busy": true}\n'], artifact_lists.Busy),
    ],
)
def test_a_list_that_is_not_whole_is_none(lines: list[bytes], error: type[Exception]) -> None:
    for address in serving(answering(*lines)):
        with pytest.raises(error):
            listed(address)


def test_a_service_that_is_not_there_leaves_lists_to_the_store() -> None:
    (address,) = serving(answering())
    with pytest.raises(artifact_lists.NoList, match="does not answer"):
        listed(address)


def test_a_disk_that_does_not_answer_is_waited_for_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    class Hung(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            end.wait(PATIENCE)

    monkeypatch.setattr(artifact_lists, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(artifact_lists, "SILENT_SECONDS", 0.05)
    for address in serving(Hung):
        with pytest.raises(artifact_lists.Busy, match="does not answer"):
            listed(address)
        end.set()


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (None, "main"),
        ("", "main"),
        ("a/b", "main/a/b"),
        ("a/b/", "main/a/b"),
        ("a//b", None),
        ("./a", None),
        ("../other", None),
        ("/etc", None),
        ("a\0", None),
    ],
)
def test_a_folders_key(path: str | None, key: str | None) -> None:
    assert artifact_lists.folder_key("main", path) == key
    assert artifact_lists.folder_key("", path) is None


# --- in MLflow's repository


class Info(NamedTuple):
    path: str
    is_dir: bool
    file_size: int | None


class Refused(Exception):
    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


@pytest.fixture
def repository(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, more in (
        ("mlflow", {}),
        ("mlflow.entities", {"FileInfo": Info}),
        ("mlflow.exceptions", {"MlflowException": Refused}),
        ("mlflow.protos", {}),
        ("mlflow.protos.databricks_pb2", {"TEMPORARILY_UNAVAILABLE": "TEMPORARILY_UNAVAILABLE"}),
    ):
        module = ModuleType(name)
        vars(module).update(more)
        monkeypatch.setitem(sys.modules, name, module)

    class S3:
        artifact_uri = "s3://bucket/main"

        def parse_s3_compliant_uri(self, uri: str) -> tuple[str, str]:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            return bucket, key

        def list_artifacts(self, path: str | None = None) -> str:
            return f"the store's list of {path}"

    artifact_lists.install(S3, address, TOKEN)
    return S3()


def test_mlflow_gets_sorted_paths_below_its_root(service: store_sync.StoreSync, repository: Any) -> None:
    put(service, "run/b", "run/a/x", "run/a.txt", "top")
    assert repository.list_artifacts() == [("run", True, None), ("top", False, 7)]
    expected = [("run/a", True, None), ("run/a.txt", False, 7), ("run/b", False, 7)]
    assert repository.list_artifacts("run") == repository.list_artifacts("run/") == expected


def test_the_store_lists_what_the_service_cannot_and_it_is_said_once(
    repository: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repository.list_artifacts("a//b") == "the store's list of a//b"
    repository.artifact_uri = "s3://other/main"
    for _ in range(2):
        assert repository.list_artifacts("run") == "the store's list of run"
    assert capsys.readouterr().err.count("slower") == 1


def test_too_many_lists_are_told_to_come_again(repository: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_sync.Handler, "lists", SimpleNamespace(acquire=lambda timeout: False))
    with pytest.raises(Refused, match="try again") as error:
        repository.list_artifacts("run")
    assert error.value.error_code == "TEMPORARILY_UNAVAILABLE"
    monkeypatch.setattr(artifact_lists, "TURN_SECONDS", 0.01)
    for _ in range(artifact_lists.AT_ONCE):  # no turn of the worker is lost on the way
        with pytest.raises(Refused):
            repository.list_artifacts("run")
