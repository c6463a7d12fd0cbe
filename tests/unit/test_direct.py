"""No way to the object store itself but for who is on its network (trackbed_mlflow/edge/presigned_urls.py), however it is spelled."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from trackbed_mlflow.edge import presigned_urls

INFO = {
    "multipart_uploads_enabled": True,
    "multipart_downloads_enabled": True,
    "store_type": "SqlStore",
    "presigned_upload_run_id_supported": True,
}
INSIDE = [(b"host", b"mlflow:8000"), (b"x-trackbed-network", b"00aa11")]
FORWARDED = [*INSIDE, (b"x-forwarded-for", b"203.0.113.9")]
OUTSIDE = [
    [],
    [(b"host", b"mlflow:8000")],
    [(b"x-trackbed-network", b"")],
    [(b"x-trackbed-network", b"00aa12")],
    [(b"x-trackbed-network", b"00aa11, 00aa11")],
    FORWARDED,
]


async def mlflow(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps(INFO).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body[:5], "more_body": True})
    await send({"type": "http.response.body", "body": body[5:]})


def ask(path: str, headers: list[tuple[bytes, bytes]], network: str = "00aa11") -> tuple[int, Any, dict[bytes, bytes]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    served = presigned_urls.closed(mlflow, {presigned_urls.NETWORK: network} if network else {})
    asyncio.run(served({"type": "http", "path": path, "headers": headers}, None, send))  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body or b"null"), dict(sent[0]["headers"])


SPELLINGS = ("/api", "/ajax-api", "//api", "/API")
WAYS = {
    "2.0/mlflow-artifacts/presigned/1/a": "Multipart download",
    "2.0/mlflow-artifacts/mpu/create/1": "Multipart upload",
    "2.0//mlflow-artifacts/mpu/complete/1": "Multipart upload",
    "3.0/mlflow-artifacts/mpu/abort/1": "Multipart upload",
    "2.0/mlflow-artifacts/MPU/create/1": "Multipart upload",
    "2.0/mlflow/artifacts/presigned-upload-url": "Presigned upload",
    "2.0/mlflow/artifacts/presigned-download-url": "Presigned download",
}


@pytest.mark.parametrize("prefix", SPELLINGS)
@pytest.mark.parametrize("path", WAYS)
def test_every_spelling_is_open_on_the_stores_network_alone(prefix: str, path: str) -> None:
    """Elsewhere it is answered as by a server with a folder: MLflow's clients then send the file through it."""
    assert ask(f"{prefix}/{path}", INSIDE)[0] == 200
    for headers in OUTSIDE:
        status, reported, _ = ask(f"{prefix}/{path}", headers)
        assert status == 501 and reported["error_code"] == "NOT_IMPLEMENTED"
        assert reported["message"] == f"{WAYS[path]} is not supported for the current artifact repository"
    for headers in (INSIDE, [(b"x-trackbed-network", b"")], []):
        assert ask(f"{prefix}/{path}", headers, network="")[0] == 501, "nobody reaches this store"


@pytest.mark.parametrize("header", sorted(presigned_urls.PROXIED))
def test_who_comes_through_a_proxy_is_elsewhere_whatever_it_says(header: bytes) -> None:
    assert ask("/api/2.0/mlflow-artifacts/presigned/1/a", [*INSIDE, (header, b"x")])[0] == 501
    assert ask("/api/3.0/mlflow/server-info", [(header, b"x"), *INSIDE])[1] == {
        **dict.fromkeys(INFO, False),
        "store_type": "SqlStore",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/api/3.0/mlflow/server-info",
        "/ajax-api/3.0/mlflow/server-info",
        "/ajax-api/3.0/mlflow/server-info/",
        "//API/3.0/mlflow/server-info",
    ],
)
def test_the_server_offers_them_on_the_stores_network_alone(path: str) -> None:
    assert ask(path, INSIDE)[1] == INFO
    for headers in OUTSIDE:
        status, reported, sent = ask(path, headers)
        assert status == 200 and reported == {**dict.fromkeys(INFO, False), "store_type": "SqlStore"}
        assert int(sent[b"content-length"]) == len(json.dumps(reported, separators=(",", ":")))  # as MLflow writes it


def test_artifacts_themselves_pass() -> None:
    for headers in OUTSIDE:
        assert ask("/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/presigned/x", headers)[0] == 200
