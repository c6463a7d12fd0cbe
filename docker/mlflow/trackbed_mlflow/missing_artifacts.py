"""What is not in the object store is answered as from a folder: 404 at once, in MLflow's own form.

MLflow wraps the store's "no such key" into an error of the server, and its clients ask for that seven times more, four
minutes long. A multipart upload that is over, or was never begun, and parts that do not fit are the asker's as well.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from typing import Any

ABSENT = frozenset({"404", "NoSuchKey", "NotFound", "KeyTooLongError", "KeyTooLong"})  # what nothing can be named
NO_UPLOAD = frozenset({"NoSuchUpload", "404", "NoSuchKey"})
WRONG_PARTS = frozenset(
    {"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "InvalidPartNumber", "MalformedXML", "InvalidArgument"}
)


def refusal(code: str, what: str, uploading: bool) -> tuple[str, str] | None:
    """MLflow's error code and a message for an error of the store that the asker caused; None for any other."""
    if not uploading:
        return ("RESOURCE_DOES_NOT_EXIST", f"No such artifact: '{what}'") if code in ABSENT else None
    if code in NO_UPLOAD:
        return "RESOURCE_DOES_NOT_EXIST", f"No such multipart upload of '{what}': it is over, or was never begun"
    if code in WRONG_PARTS:
        return "INVALID_PARAMETER_VALUE", f"The parts of '{what}' are not those that were uploaded ({code})"
    return None


def answering(method: Callable[..., Any], uploading: bool = False) -> Callable[..., Any]:
    """A method of MLflow's S3 repository, whose first argument names the artifact."""

    @functools.wraps(method)
    def answered(self: Any, *words: Any, **named: Any) -> Any:
        from botocore.exceptions import ClientError, ParamValidationError

        name = str(words[0] if words else next(iter(named.values()), ""))
        try:
            return method(self, *words, **named)
        except ClientError as error:
            result = refusal(str(error.response.get("Error", {}).get("Code", "")), name, uploading)
            if result is None:
                raise
            raise _mlflow(*result) from None
        except ParamValidationError:
            if not uploading:
                raise
            raise _mlflow("INVALID_PARAMETER_VALUE", f"This is no multipart upload of '{name}'") from None

    return answered


def _mlflow(code: str, message: str) -> Exception:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.protos.databricks_pb2 import ErrorCode  # type: ignore[import-not-found]

    created: Exception = MlflowException(message, error_code=ErrorCode.Value(code))
    return created


def downloading(folder: Callable[..., Any]) -> Callable[..., Any]:
    """One file of the store, as the server sends them; ``folder``: MLflow's own way, for a whole tree.

    MLflow lists the folder that the file is in before it fetches it, whatever that holds. It takes a folder that a
    client asks for as a file from the store whole, and breaks the connection.
    """

    @functools.wraps(folder)
    def download_artifacts(self: Any, artifact_path: str, dst_path: str | None = None) -> Any:
        from mlflow.exceptions import MlflowException

        if not artifact_path or not dst_path:
            return folder(self, artifact_path, dst_path)
        place = self._create_download_destination(src_artifact_path=artifact_path, dst_local_dir_path=dst_path)
        # boto3 puts nine bytes behind the name while it fetches
        short = os.path.join(os.path.dirname(place), f".{secrets.token_hex(8)}")
        try:
            self._download_file(remote_file_path=artifact_path, local_path=short)
            os.replace(short, place)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and self.list_artifacts(artifact_path):
                raise _mlflow(
                    "INVALID_PARAMETER_VALUE", f"Artifact path refers to a directory, not a file: '{artifact_path}'"
                ) from None
            raise
        except Exception as error:
            raise _mlflow(
                "INTERNAL_ERROR", f"'{artifact_path}' could not be fetched from the object store: {error}"
            ) from error
        return place

    return download_artifacts


def translate_errors(repository: Any) -> None:
    """MLflow's S3 repository, a class."""
    repository.download_artifacts = downloading(repository.download_artifacts)
    repository._download_file = answering(repository._download_file)
    for name in ("complete_multipart_upload", "abort_multipart_upload"):
        setattr(repository, name, answering(getattr(repository, name), uploading=True))
