"""Downloads from the store in the notebook: a store that misbehaves on demand, with stand-ins for MLflow's modules."""

from __future__ import annotations

import errno
import gzip
import http.server
import importlib.metadata
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests

from helpers import clone
from tests.unit.fakes import module_at

CONTENT = os.urandom(1_000_003)
CHUNK = 300_000


class Store(http.server.ThreadingHTTPServer):
    """One object; ``faults`` are what the next answers do instead of the right thing, in turn."""

    daemon_threads = True

    def __init__(self, content: bytes, encoding: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.encoding = content, encoding
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/object"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        with self.server.lock:
            fault = self.server.faults.pop(0) if self.server.faults else ""
            self.server.asked.append(f"{self.path} {self.headers['Range']}")
        first, last = (int(word) for word in self.headers["Range"].removeprefix("bytes=").split("-"))
        content = self.server.content
        if fault == "expired":
            self.send_error(403)
            return
        body = content if fault == "whole" else content[first : last + 1]
        self.send_response(200 if fault == "whole" else 206)
        if fault != "whole":
            self.send_header("Content-Range", f"bytes {first + (fault == 'moved')}-{last}/{len(content)}")
        if self.server.encoding:
            self.send_header("Content-Encoding", self.server.encoding)
        if fault != "fewer":  # without a length, only counting tells that bytes are missing
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:-1000] if fault in ("cut", "fewer") else body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(CONTENT) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Own:
    """MLflow's class as far as it matters."""

    fresh: Any = None

    straight = True

    def __init__(self) -> None:
        self.chunk_thread_pool = ThreadPoolExecutor(3)
        self.files: list[Any] = []
        self.own_way: list[str] = []

    def _is_multipart_download_enabled(self) -> bool:
        return self.straight

    def _construct_artifact_uri_and_path(self, base_endpoint: str, artifact_path: str) -> tuple[str, str]:
        return "http://mlflow", f"{base_endpoint}/1/run/artifacts"

    def _iter_artifacts_recursive(self, path: str) -> Iterator[Any]:
        yield from self.files

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self.own_way.append(remote_file_path)

    def _get_presigned_download_url(self, remote_file_path: str) -> Any:
        if self.fresh is None:
            raise OSError("no answer")
        return self.fresh

    def _multipart_download(
        self, presigned_response: Any, remote_file_path: str, local_path: str, file_size: int, chunk_size: int
    ) -> None: ...


Own.chunk_thread_pool = None  # type: ignore[assignment]  # a property of MLflow's class


class Bar:
    updates = 0

    @classmethod
    def chunks(cls, *_: Any) -> Bar:
        return cls()

    def update(self) -> None:
        Bar.updates += 1

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None: ...


def mlflow(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Stand-ins for what the module imports of MLflow."""

    def value(number: int) -> SimpleNamespace:
        return SimpleNamespace(get=lambda: number)

    names: dict[str, dict[str, Any]] = {
        "mlflow": {},
        "mlflow.store": {},
        "mlflow.store.artifact": {},
        "mlflow.utils": {},
        "mlflow.environment_variables": {
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": value(0),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": value(2),
            "MLFLOW_S3_IGNORE_TLS": value(0),
        },
        "mlflow.exceptions": {"MlflowException": type("MlflowException", (Exception,), {})},
        "mlflow.store.artifact.mlflow_artifacts_repo": {"MlflowArtifactsRepository": Own},
        "mlflow.utils.file_utils": {"ArtifactProgressBar": Bar},
        "mlflow.utils.credentials": {"get_default_host_creds": lambda uri: uri},
        "mlflow.utils.rest_utils": {"http_request": None},
        "mlflow.utils.request_utils": {"cloud_storage_http_request": requests.request},
    }
    for name, content in names.items():
        module = ModuleType(name)
        module.__dict__.update(content, **{key: what for key, what in more.items() if key in content})
        monkeypatch.setitem(sys.modules, name, module)
    Bar.updates = 0


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> Any:
    mlflow(monkeypatch)
    return module_at(clone.NOTEBOOK_PACKAGE / "artifacts.py")


def download(artifacts: Any, store: Store, folder: Path, fresh: bool = True) -> Path:
    target = folder / "model.bin"
    repository = artifacts.Repository()
    repository.fresh = SimpleNamespace(url=f"{store.url}?fresh", headers={}) if fresh else None
    try:
        repository._multipart_download(
            presigned_response=SimpleNamespace(url=store.url, headers={}),
            remote_file_path="model.bin",
            local_path=str(target),
            file_size=len(store.content),
            chunk_size=CHUNK,
        )
    finally:
        repository.chunk_thread_pool.shutdown()
    return target


def test_the_file_is_the_object(artifacts: Any, store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"an older one that is there already" * 100_000)
    assert download(artifacts, store, tmp_path).read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["model.bin"]
    assert len(store.asked) == Bar.updates == 4


def test_an_empty_object(artifacts: Any, store: Store, tmp_path: Path) -> None:
    store.content = b""
    assert download(artifacts, store, tmp_path).read_bytes() == b""
    assert store.asked == []


def test_what_is_packed_stays_packed(artifacts: Any, store: Store, tmp_path: Path) -> None:
    """The store sends the encoding that the name had when it was stored."""
    store.content, store.encoding = gzip.compress(CONTENT), "gzip"
    assert gzip.decompress(download(artifacts, store, tmp_path).read_bytes()) == CONTENT


@pytest.mark.parametrize("fault", ["expired", "cut", "fewer", "moved", "whole"])
@pytest.mark.parametrize("fresh", [True, False])
def test_only_what_failed_is_asked_for_again(
    artifacts: Any, store: Store, tmp_path: Path, fault: str, fresh: bool
) -> None:
    store.faults = ["", fault]
    assert download(artifacts, store, tmp_path, fresh).read_bytes() == CONTENT
    assert len(store.asked) == 5 and ("?fresh" in store.asked[4]) is fresh
    assert Bar.updates == 4


@pytest.mark.parametrize("fault", ["expired", "cut", "fewer", "moved", "whole"])
def test_a_store_that_never_gives_it(artifacts: Any, store: Store, tmp_path: Path, fault: str) -> None:
    store.faults = [fault] * 1000
    with pytest.raises(artifacts.MlflowException, match=r"4 ranges of model.bin could not be downloaded"):
        download(artifacts, store, tmp_path)
    assert len(store.asked) == 4 * 3, "once, and MLflow's two retries"
    assert os.listdir(tmp_path) == [], "no part of a file"


def test_rounds_that_bring_something_are_not_counted(artifacts: Any, store: Store, tmp_path: Path) -> None:
    """An address lives for 5 minutes, a large file takes longer."""
    store.faults = ["", "expired", "expired", "expired"] + ["", "expired", "expired"] + ["expired"] * 2 + ["", ""]
    assert download(artifacts, store, tmp_path).read_bytes() == CONTENT
    assert len(store.asked) == 4 + 3 + 2 + 2


def fill_the_disk(artifacts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts, "fetch", full)


def test_a_full_disk_is_told_at_once(
    artifacts: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(artifacts, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        download(artifacts, store, tmp_path)
    assert os.listdir(tmp_path) == []


# --- small files of a folder: many addresses at once


class Server:
    """The server's addresses of many files; ``answers`` stands for what it says."""

    def __init__(self, store: Store, status: int = 200, seconds: float = 300) -> None:
        self.store, self.status, self.seconds = store, status, seconds
        self.asked: list[list[str]] = []

    def __call__(self, host: str, endpoint: str, method: str, json: Any) -> Any:
        assert (host, endpoint, method) == ("http://mlflow", "/mlflow-artifacts/presigned", "POST")
        self.asked.append(json["paths"])
        answer = requests.Response()
        answer.status_code = self.status
        urls = [f"{self.store.url}?{path}" for path in json["paths"]]
        answer.json = lambda **_: {"urls": urls, "seconds": self.seconds}  # type: ignore[method-assign]
        return answer


def folder_of(artifacts: Any, server: Server, count: int, size: int | None = None) -> Any:
    """A repository that lists so many files, each of them the store's object."""
    artifacts.http_request = server
    repository = artifacts.Repository()
    size = len(server.store.content) if size is None else size
    repository.files = [SimpleNamespace(path=f"f{n}", is_dir=False, file_size=size) for n in range(count)]
    repository.files.append(SimpleNamespace(path="empty", is_dir=True, file_size=None))
    return repository


def all_of_it(repository: Any, target: Path) -> list[str]:
    """Fetch the listed files as MLflow does; gives the names of those that arrived."""
    listed = [info.path for info in repository._iter_artifacts_recursive("") if not info.is_dir]
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(repository._download_file, path, str(target / path)) for path in listed]:
            done.result()
    return sorted(os.listdir(target))


def test_small_files_get_their_addresses_many_at_a_time(
    artifacts: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "AT_ONCE", 4)
    server = Server(store)
    repository = folder_of(artifacts, server, 10)
    assert all_of_it(repository, tmp_path) == [f"f{n}" for n in range(10)]
    assert all((tmp_path / f"f{n}").read_bytes() == CONTENT for n in range(10))
    assert repository.own_way == [] and len(server.asked) == 3
    assert sorted(sum(server.asked, [])) == [f"1/run/artifacts/f{n}" for n in range(10)]
    repository._download_file("f0", str(tmp_path / "f0"))  # alone, and again
    assert repository.own_way == ["f0"]


@pytest.mark.parametrize("size", [0, (8 << 20) + 1])
def test_empty_and_large_files_are_mlflows(artifacts: Any, store: Store, tmp_path: Path, size: int) -> None:
    server = Server(store)
    repository = folder_of(artifacts, server, 2, size)
    assert all_of_it(repository, tmp_path) == []
    assert sorted(repository.own_way) == ["f0", "f1"] and server.asked == []


@pytest.mark.parametrize("fault", ["expired", "whole", "moved", "cut", "fewer"])
def test_a_small_file_that_does_not_arrive_is_left_to_mlflow(
    artifacts: Any, store: Store, tmp_path: Path, fault: str
) -> None:
    store.faults = [fault]
    repository = folder_of(artifacts, Server(store), 3)
    assert len(all_of_it(repository, tmp_path)) == 2  # no part of the third
    assert len(repository.own_way) == 1


def test_a_file_that_has_grown_since_the_list_is_not_cut(artifacts: Any, store: Store, tmp_path: Path) -> None:
    repository = folder_of(artifacts, Server(store), 1, len(CONTENT) - 1)
    assert all_of_it(repository, tmp_path) == [] and repository.own_way == ["f0"]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_such_addresses_is_asked_once(
    artifacts: Any, store: Store, tmp_path: Path, status: int
) -> None:
    server = Server(store, status)
    repository = folder_of(artifacts, server, 5)
    assert all_of_it(repository, tmp_path) == []
    assert len(repository.own_way) == 5 and len(server.asked) == 1


def test_an_answer_with_too_few_addresses_is_none(artifacts: Any, store: Store, tmp_path: Path) -> None:
    def short(*words: Any, **named: Any) -> Any:
        answer = Server(store)(*words, **named)
        data = answer.json()
        answer.json = lambda: {**data, "urls": data["urls"][1:]}
        return answer

    repository = folder_of(artifacts, Server(store), 3)
    artifacts.http_request = short
    assert all_of_it(repository, tmp_path) == []
    assert sorted(repository.own_way) == ["f0", "f1", "f2"]


def test_whoever_does_not_reach_the_store_asks_for_no_address(artifacts: Any, store: Store, tmp_path: Path) -> None:
    server = Server(store)
    repository = folder_of(artifacts, server, 2)
    repository.straight = False
    assert all_of_it(repository, tmp_path) == []
    assert len(repository.own_way) == 2 and server.asked == []


def test_an_address_is_not_used_when_it_may_have_ended(artifacts: Any, store: Store, tmp_path: Path) -> None:
    server = Server(store, seconds=0)
    repository = folder_of(artifacts, server, 3)
    assert len(all_of_it(repository, tmp_path)) == 3
    assert len(server.asked) == 3


def test_a_full_disk_ends_a_small_file_too(
    artifacts: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(artifacts, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        all_of_it(folder_of(artifacts, Server(store), 1), tmp_path)
    assert os.listdir(tmp_path) == []


class Renamed:
    pass


class Changed(Own):
    def _multipart_download(self, presigned_response: Any, local_path: str) -> None:  # type: ignore[override]
        ...


class Moved:
    _multipart_download = Own._multipart_download


@pytest.mark.parametrize("own", [Renamed, Changed, Moved])
def test_another_mlflow_keeps_its_own_way(own: type, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow(monkeypatch, MlflowArtifactsRepository=own)
    assert module_at(clone.NOTEBOOK_PACKAGE / "artifacts.py").Repository is own


def test_a_missing_module_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With which MLflow warns, and keeps its own class."""
    mlflow(monkeypatch)
    monkeypatch.delattr(sys.modules["mlflow.utils.request_utils"], "cloud_storage_http_request")
    with pytest.raises(ImportError):
        module_at(clone.NOTEBOOK_PACKAGE / "artifacts.py")


def test_mlflow_finds_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(clone.JUPYTER_FOLDER))
    result = importlib.metadata.entry_points(group="mlflow.artifact_repository", name="mlflow-artifacts")
    assert "trackbed_notebook.artifacts:Repository" in {entry.value for entry in result}
