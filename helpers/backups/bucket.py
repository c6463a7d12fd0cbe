"""A backup repository in a bucket of an S3 store."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from helpers.backups.storage import Blob, ByContent, Missing, Unreadable, scratch
from helpers.errors import TrackbedError

URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,62})(?:/(?P<prefix>[^\x00-\x1f]*))?")
ATTEMPTS = 4
# seconds: urllib3 has one time for a connection and for a body, and 32 MiB are under way together
CONNECTED, SENT = 10.0, 30.0
STALLED = 300.0  # seconds after which a copy was so slow that its original is left where it is
T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """How to reach an S3 store. ``endpoint`` "": AWS. ``names``: what its settings' names begin with."""

    endpoint: str
    region: str
    key: str
    secret: str
    names: str = "BACKUP_S3"

    def __repr__(self) -> str:
        return f"Access({self.endpoint!r})"  # never the keys


class NoBucket(TrackbedError):
    """There is no such bucket."""


class Changed(TrackbedError):
    """A blob has another content than it had."""


class Bucket(ByContent):
    """Blobs as objects of an S3 bucket, below a prefix."""

    move_seconds = STALLED + ATTEMPTS * 90 + 240  # the deletion with its repetitions, and some for the store itself

    def __init__(self, url: str, access: Access) -> None:
        match = URL.fullmatch(url)
        if match is None or ".." in (match["prefix"] or "").split("/"):
            raise TrackbedError(f"{url}: is not the address of a bucket", "as in s3://BUCKET or s3://BUCKET/PREFIX")
        self.bucket, prefix = match["bucket"], (match["prefix"] or "").strip("/")
        self.root = f"{prefix}/" if prefix else ""
        self._access = access
        self._made: Any = None
        self._sends: Any = None  # the same for bodies: `move_seconds` reckons with the short time of the other
        self._making = threading.Lock()
        self._known: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.root}".rstrip("/")

    @property
    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = self._new(CONNECTED)
        return self._made

    @property
    def _sender(self) -> Any:
        with self._making:
            if self._sends is None:
                self._sends = self._new(SENT)
        return self._sends

    def _new(self, seconds: float) -> Any:
        import boto3  # half a second: only where it is needed
        from botocore.config import Config

        # other S3 servers refuse the checksums that AWS's own sends by default
        config = Config(
            connect_timeout=seconds,
            read_timeout=60,
            max_pool_connections=16,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client(
            "s3",
            endpoint_url=self._access.endpoint or None,
            region_name=self._access.region,
            aws_access_key_id=self._access.key,
            aws_secret_access_key=self._access.secret,
            config=config,
        )

    def _ask(self, call: Callable[[], T]) -> T:
        """What the store answers. Raises Missing, or TrackbedError with what to do."""
        from botocore import exceptions

        try:
            return call()
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("NoSuchKey", "404"):
                raise Missing from None
            if code == "NoSuchBucket":
                raise NoBucket(
                    f"{self}: there is no bucket {self.bucket}", "make it at that store, or name another"
                ) from None
            if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
                raise Changed(
                    f"{self}: an object was changed while it was read", "stop what writes there, then try again"
                ) from None
            hint = (
                f"{self._access.names}_ENDPOINT, _REGION, _ACCESS_KEY and _SECRET_KEY belong to that store?"
                if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403")
                else "run it again"
            )
            kind = Unreadable if code in ("AccessDenied", "403", "InvalidObjectState") else TrackbedError
            raise kind(f"{self}: the store refuses: {error}", hint) from None
        except (exceptions.BotoCoreError, OSError) as error:
            raise TrackbedError(
                f"{self}: {' '.join(str(error).split())}",
                f"does {self._access.names}_ENDPOINT answer? Then run the same command again: it goes on from there",
            ) from None

    def begin(self) -> None:
        # what is there, in a file of this process's own: asking for each blob would cost a request each
        known = scratch()
        known.execute("CREATE TABLE blob (path TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        known.executemany("INSERT INTO blob VALUES (?, ?)", (blob[:2] for blob in self.listed("pieces/")))
        self._known = known

    def listed(self, below: str, after: str = "") -> Iterator[Blob]:
        more: dict[str, str] = {"StartAfter": self.root + after} if after else {}
        for item in self.items(below, more):
            yield Blob(item["Key"].removeprefix(self.root), item["Size"], item["LastModified"].timestamp())

    def items(self, below: str, more: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Every object below a path, as the store lists it; ``more``: words of the first request."""
        while True:
            page = self._ask(
                lambda m=more: self._client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self.bucket, Prefix=self.root + below, **m
                )
            )
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, path: str, most: int) -> bytes:
        return self._get(path, most)[0]

    def part(self, path: str, start: int, count: int, mark: str) -> tuple[bytes, str]:
        """So many bytes of a blob, and its mark. Raises Changed where the blob has another than ``mark`` by now."""
        words = {"Range": f"bytes={start}-{start + count - 1}", **({"IfMatch": mark} if mark else {})}
        return self._get(path, count, **words)

    def _get(self, path: str, most: int, **words: str) -> tuple[bytes, str]:
        from botocore import exceptions

        def get() -> tuple[bytes, str]:
            for left in reversed(range(ATTEMPTS)):
                answer = self._client.get_object(Bucket=self.bucket, Key=self.root + path, **words)
                body = answer["Body"]
                try:  # only a read to the end notices one that came too early
                    content = body.read() if answer["ContentLength"] <= most else body.read(most + 1)
                    return bytes(content), str(answer.get("ETag", ""))
                except (exceptions.HTTPClientError, exceptions.IncompleteReadError):
                    if not left:  # boto3 repeats a request, but not an answer that ends in the middle
                        raise
            raise AssertionError

        return self._ask(get)

    def write(self, path: str, content: bytes | bytearray) -> None:
        self._ask(lambda: self._sender.put_object(Bucket=self.bucket, Key=self.root + path, Body=content))

    def holds(self, path: str, size: int) -> bool:
        assert self._known is not None
        row = self._known.execute("SELECT size FROM blob WHERE path = ?", (path,)).fetchone()
        return bool(row == (size,))

    def names(self, below: str) -> list[str]:
        return sorted(blob.path.removeprefix(f"{below}/") for blob in self.listed(f"{below}/"))

    def modified(self, path: str) -> float:
        answer = self._ask(lambda: self._client.head_object(Bucket=self.bucket, Key=self.root + path))
        return float(answer["LastModified"].timestamp())

    def move(self, path: str, to: str) -> None:
        source, begun = {"Bucket": self.bucket, "Key": self.root + path}, time.time()  # counts while a machine sleeps
        self._ask(lambda: self._client.copy_object(Bucket=self.bucket, Key=self.root + to, CopySource=source))
        if 0 <= time.time() - begun < STALLED:
            self.remove(path)

    def remove(self, path: str) -> None:
        with suppress(Missing):
            self._ask(lambda: self._client.delete_object(Bucket=self.bucket, Key=self.root + path))

    def sync(self) -> None:
        """S3 answers when an object is stored."""
