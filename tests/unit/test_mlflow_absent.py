"""What the object store does not have is the asker's error, not the server's (trackbed_mlflow/missing_artifacts.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError
from trackbed_mlflow import missing_artifacts


class Refused(Exception):
    def __init__(self, message: str, error_code: str) -> None:
        super().__init__(message)
        self.error_code = error_code


class S3:
    """Stands for MLflow's S3ArtifactRepository, with a store that answers one error."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def _answer(self, what: str) -> str:
        if self.error:
            raise self.error
        return what

    def _download_file(self, remote_file_path: str, local_path: str) -> str:
        return self._answer(f"{remote_file_path} in {local_path}")

    def _create_download_destination(self, src_artifact_path: str, dst_local_dir_path: str) -> str:
        return f"{dst_local_dir_path}/{src_artifact_path}"

    def download_artifacts(self, artifact_path: str, dst_path: str | None = None) -> str:
        return f"all of {artifact_path}"

    def list_artifacts(self, path: str) -> list[str]:
        return ["b"] if path == "folder" else []

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Any = None, artifact_path: str | None = None
    ) -> str:
        return self._answer(f"{local_file} of {artifact_path}")

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> str:
        return self._answer(f"{local_file} of {artifact_path}")


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, more in (
        ("mlflow", {}),
        ("mlflow.exceptions", {"MlflowException": Refused}),
        ("mlflow.protos", {}),
        ("mlflow.protos.databricks_pb2", {"ErrorCode": SimpleNamespace(Value=lambda name: name)}),
    ):
        module = ModuleType(name)
        module.__dict__.update(more)
        monkeypatch.setitem(sys.modules, name, module)
    created = type("Told", (S3,), {})
    missing_artifacts.translate_errors(created)
    return created


def s3(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "op")


@pytest.mark.parametrize("code", ["404", "NoSuchKey", "NotFound", "KeyTooLongError"])
def test_a_missing_artifact_is_not_found(repository: Any, code: str) -> None:
    asks: list[Callable[[], object]] = [
        lambda: repository(s3(code))._download_file("1/a.txt", "/tmp/a"),
        lambda: repository(s3(code))._download_file(remote_file_path="1/a.txt", local_path="/tmp/a"),
    ]
    for ask in asks:
        with pytest.raises(Refused, match=r"No such artifact: '1/a\.txt'") as caught:
            ask()
        assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (s3("NoSuchUpload"), "RESOURCE_DOES_NOT_EXIST"),
        (s3("InvalidPart"), "INVALID_PARAMETER_VALUE"),
        (s3("InvalidPartOrder"), "INVALID_PARAMETER_VALUE"),
        (s3("EntityTooSmall"), "INVALID_PARAMETER_VALUE"),
        (ParamValidationError(report="UploadId"), "INVALID_PARAMETER_VALUE"),
    ],
)
def test_a_wrong_upload_is_the_askers(repository: Any, error: Exception, code: str) -> None:
    asks: list[Callable[[], object]] = [
        lambda: repository(error).complete_multipart_upload("a", "1", [], "x"),
        lambda: repository(error).abort_multipart_upload("a", "1", "x"),
    ]
    for ask in asks:
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.error_code == code


@pytest.mark.parametrize("error", [s3("503"), s3("SlowDown"), s3("403"), s3("InternalError"), OSError("no route")])
def test_what_the_store_itself_fails_at_stays_an_error_of_the_server(repository: Any, error: Exception) -> None:
    asks: list[Callable[[], object]] = [
        lambda: repository(error)._download_file("a", "b"),
        lambda: repository(error).complete_multipart_upload("a", "1"),
    ]
    for ask in asks:
        with pytest.raises(type(error)):
            ask()


def test_what_is_there_comes_as_it_is(repository: Any) -> None:
    assert repository(None)._download_file(remote_file_path="a", local_path="b") == "a in b"
    assert repository(None).complete_multipart_upload("a", "1", [], artifact_path="x") == "a of x"


def test_a_file_is_fetched_without_a_list_of_what_lies_beside_it(
    repository: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = repository(None)
    created.list_artifacts = None
    # as boto3 does; a name of 255 bytes is a file's longest
    monkeypatch.setattr(
        created,
        "_download_file",
        lambda remote_file_path, local_path: (
            Path(f"{local_path}.6eF75c91").rename(local_path)
            if Path(f"{local_path}.6eF75c91").write_text("x")
            else None
        ),
    )
    (tmp_path / "1").mkdir()
    for name in ("1/a.txt", f"1/{'é' * 127}"):
        assert created.download_artifacts(name, str(tmp_path)) == f"{tmp_path}/{name}"
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["a.txt", "é" * 127]
    assert created.download_artifacts("", "/tmp/x") == "all of ", "a whole tree goes MLflow's own way"


@pytest.mark.parametrize(
    ("path", "error", "code", "words"),
    [
        ("none", s3("404"), "RESOURCE_DOES_NOT_EXIST", "No such artifact: 'none'"),
        ("folder", s3("404"), "INVALID_PARAMETER_VALUE", "refers to a directory, not a file: 'folder'"),
        ("a", s3("SlowDown"), "INTERNAL_ERROR", "could not be fetched from the object store"),
        ("a", OSError("no space left"), "INTERNAL_ERROR", "no space left"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_mlflows_form(
    repository: Any, path: str, error: Exception, code: str, words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        repository(error).download_artifacts(path, "/tmp/x")
    assert caught.value.error_code == code
