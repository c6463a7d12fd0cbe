"""Signed addresses of many artifacts at once, for the notebook's plugin (trackbed_notebook/artifacts.py).

MLflow's own way is a request to this server for each file, which asks the store for the file's size and signs one
address: for small files that takes several times as long as the file. The notebook has the sizes from the list of the
folder. What is signed, and how long it is valid, is MLflow's.
"""

from __future__ import annotations

import copy
from typing import Any

PATH = "/api/2.0/mlflow-artifacts/presigned"
MOST = 500  # addresses in one answer; signing one takes 0.3 ms


class _Sizeless:
    """A client of the store that signs, and does not ask whether the object is there."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {}

    def generate_presigned_url(self, *words: Any, **named: Any) -> str:
        return str(self._client.generate_presigned_url(*words, **named))


def signing(repository: Any) -> Any:
    """A copy of MLflow's S3 repository whose addresses are signed without a look at the store."""
    created, client = copy.copy(repository), _Sizeless(repository._get_s3_client())
    created._get_s3_client = lambda: client
    return created


def wanted(data: Any) -> list[str] | None:
    """The paths that a request names, None where it is no such request."""
    paths = data.get("paths") if isinstance(data, dict) else None
    if not isinstance(paths, list) or not 0 < len(paths) <= MOST:
        return None
    return paths if all(isinstance(path, str) and path for path in paths) else None


def install(handlers: Any, flask: Any) -> None:
    """POST {"paths"} gives {"urls"}, in the same order, on MLflow's Flask application."""
    from flask import jsonify, request  # type: ignore[import-not-found,unused-ignore]
    from mlflow.environment_variables import (  # type: ignore[import-not-found]
        MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS,
    )
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.utils.uri import validate_path_is_safe  # type: ignore[import-not-found]

    @handlers.catch_mlflow_exception  # type: ignore[untyped-decorator]
    @handlers._disable_unless_serve_artifacts  # type: ignore[untyped-decorator]
    def addresses() -> Any:
        paths = wanted(request.get_json(force=True, silent=True))
        if paths is None:
            raise MlflowException.invalid_parameter_value(f"'paths' has to be a list of 1 to {MOST} artifact paths.")
        repository = handlers._get_artifact_repo_mlflow_artifacts()
        handlers._validate_support_multipart_download(repository)
        scoped = handlers._get_workspace_scoped_repo_path_if_enabled
        created, seconds = signing(repository), MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS.get()
        return jsonify(
            urls=[
                created.get_download_presigned_url(scoped(validate_path_is_safe(path)), expiration=seconds).url
                for path in paths
            ],
            seconds=seconds,
        )

    flask.add_url_rule(PATH, "trackbed_download_addresses", addresses, methods=["POST"])
