"""No way to the object store itself for who comes through a proxy (docker/mlflow/direct.py), however it is spelled."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import direct
import pytest

INFO = {"multipart_uploads_enabled": True, "multipart_downloads_enabled": True, "store_type": "SqlStore",
        "presigned_upload_run_id_supported": True}
FORWARDED = [(b"x-forwarded-for", b"203.0.113.9")]


async def mlflow(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps(INFO).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body[:5], "more_body": True})
    await send({"type": "http.response.body", "body": body[5:]})


def ask(path: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, Any, dict[bytes, bytes]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(direct.closed(mlflow)({"type": "http", "path": path, "headers": headers}, None, send))  # type: ignore[arg-type]
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body or b"null"), dict(sent[0]["headers"])


@pytest.mark.parametrize("prefix", ["/api", "/ajax-api", "//api", "/API"])
@pytest.mark.parametrize("path", ["2.0/mlflow-artifacts/presigned/1/a", "2.0/mlflow-artifacts/mpu/create/1",
                                  "2.0//mlflow-artifacts/mpu/complete/1", "3.0/mlflow-artifacts/mpu/abort/1",
                                  "2.0/mlflow/artifacts/presigned-upload-url",
                                  "2.0/mlflow/artifacts/presigned-download-url"])
def test_every_spelling_is_closed_behind_a_proxy_and_open_without(prefix: str, path: str) -> None:
    assert ask(f"{prefix}/{path}", FORWARDED)[0] == 404
    assert ask(f"{prefix}/{path}", [])[0] == 200


@pytest.mark.parametrize("header", sorted(direct.PROXIED))
@pytest.mark.parametrize("path", ["/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info",
                                  "/ajax-api/3.0/mlflow/server-info/"])
def test_the_server_does_not_offer_them_behind_a_proxy(path: str, header: bytes) -> None:
    status, told, headers = ask(path, [(header, b"x")])
    assert status == 200 and told == {**dict.fromkeys(INFO, False), "store_type": "SqlStore"}
    assert int(headers[b"content-length"]) == len(json.dumps(told))
    assert ask(path, [])[1] == INFO


def test_artifacts_themselves_pass() -> None:
    assert ask("/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/presigned/x", FORWARDED)[0] == 200
