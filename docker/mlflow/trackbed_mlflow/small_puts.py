"""Small objects stored by botocore's signature alone: all else that boto3 does around a request costs twice as much."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

CONNECT, ANSWER = 5.0, 20.0  # seconds


class SmallPuts:
    """Puts objects into one bucket of a store that is on this machine. Safe to use from several threads."""

    def __init__(self, endpoint: str, bucket: str, region: str, credentials: Any, connections: int) -> None:
        import urllib3
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        class Signer(S3SigV4Auth):  # type: ignore[misc, unused-ignore]
            def payload(self, request: Any) -> str:
                """Computed before, and given with the request."""
                return str(request.context["sha256"])

        self._base = f"/{bucket}/"
        self._endpoint, self._request = endpoint.rstrip("/"), AWSRequest
        self._signer = Signer(credentials, "s3", region)
        self._pool = urllib3.HTTPConnectionPool(
            str(urlsplit(endpoint).hostname),
            urlsplit(endpoint).port,
            maxsize=connections,
            timeout=urllib3.Timeout(connect=CONNECT, read=ANSWER),
            retries=False,
        )

    @classmethod
    def of(cls, client: Any, bucket: str, connections: int) -> SmallPuts | None:
        """As a boto3 client does it; None where that is not a plain store with keys and no TLS."""
        import boto3

        endpoint, credentials = client.meta.endpoint_url, boto3.Session().get_credentials()
        if credentials is None or urlsplit(endpoint).scheme != "http" or urlsplit(endpoint).path.strip("/"):
            return None
        return cls(endpoint, bucket, client.meta.region_name, credentials.get_frozen_credentials(), connections)

    def put(self, key: str, content: bytes, sha256: str) -> str:
        """The ETag that the store answers; "" where it did not store it: boto3 knows why, or does it the second time.

        The store compares the content with the SHA-256, which is signed.
        """
        import urllib3

        with suppress(urllib3.exceptions.HTTPError, UnicodeError):
            path = self._base + quote(key, safe="/~")
            request = self._request("PUT", self._endpoint + path, headers={"Content-Length": str(len(content))})
            request.context["sha256"] = sha256
            self._signer.add_auth(request)
            answer = self._pool.urlopen("PUT", path, body=content, headers=dict(request.headers.items()))
            if answer.status == 200:
                return str(answer.headers.get("ETag", "")).strip('"')
        return ""
