"""Objects in a bucket: stored by several threads, read on over broken connections."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO, TypeVar

from trackbed_mlflow import multipart_uploads, name_conflicts
from trackbed_mlflow.bounded_pool import BoundedPool
from trackbed_mlflow.bucket import s3_call
from trackbed_mlflow.errors import FAILED, NO_ANSWER, NotYet, Stop, wait
from trackbed_mlflow.passing_body import PassingBody
from trackbed_mlflow.small_puts import SmallPuts

AT_ONCE = 100  # objects deleted by one request; S3 takes 1,000
_NAMED_BY_XML = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd-\uffff]+")  # names that XML has unchanged
SMALL = 8 * 2**20  # bytes: held in memory up to here; a larger object is streamed, or stored in parts of this or more
ONE_REQUEST = 5 * 2**30  # bytes that S3 takes in one request
BLOCK = 2**20  # bytes of a stream on their way

T = TypeVar("T")


class S3Objects:
    """Objects in a bucket below a prefix."""

    remote = True

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        pool: BoundedPool | None = None,
        files: bool = False,
        patient: Callable[[], Any] | None = None,
        streamed: Callable[[], Any] | None = None,
        quick: Callable[[], SmallPuts | None] = lambda: None,
    ) -> None:
        """``files``: the store is VersityGW, a folder in truth. ``patient`` makes a client that waits for an answer as
        long as a store takes to copy an object; else ``client`` is asked. ``streamed`` makes a client for bodies that
        can be read only once; without it large objects are stored in parts. ``quick`` makes what stores
        small objects sooner than ``client``, which is asked for what that could not."""
        self.client, self.bucket, self.root, self.files = client, bucket, f"{prefix}/" if prefix else "", files
        self.renamed: dict[str, str] = {}  # names that `put` could not give, by those that it gave
        # called from any thread with given name, size, ETag, SHA-256 of an object whose MD5 the store answered;
        # nobody told the store that MD5, so it has computed it from what arrived
        self.on_proven: Callable[[str, int, str, str], object] = lambda given, size, tag, sha: None
        self.pool = pool or BoundedPool()  # holds THREADS times SMALL bytes at the most
        self._whole = BoundedPool(1)  # objects that are made of their parts
        self._patient = cache(patient or (lambda: client))
        self._streamed = cache(streamed) if streamed else None
        self._quick = cache(quick)
        self._takes_many = True  # whether the store removes many objects by one request
        self._names = name_conflicts.Names(self._holds, self._is_free)
        self._conflicts: deque[tuple[str, bytes | None, str]] = deque()  # name, content, why not

    def _pages(self, root: str) -> Iterator[list[dict[str, Any]]]:
        token: dict[str, str] = {}
        while True:
            page = wait(
                "the object store",
                lambda more=token: s3_call(  # type: ignore[misc]
                    lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=root, **more)
                ),
            )
            if page is None:
                raise Stop(FAILED, f"the bucket {self.bucket} does not exist")
            yield page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def names(self) -> Iterator[tuple[str, int]]:
        yield from ((name, size) for name, size, _ in self.listing())

    def listing(self) -> Iterator[tuple[str, int, float]]:
        """Name, size and time of the last change."""
        for page in self._pages(self.root):
            yield from (
                (item["Key"].removeprefix(self.root), item["Size"], item["LastModified"].timestamp())
                for item in page
                if not item["Key"].endswith("/")
            )

    def tagged(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and ETag."""
        for page in self._pages(self.root):
            yield from (
                (item["Key"].removeprefix(self.root), item["Size"], _tag(item))
                for item in page
                if not item["Key"].endswith("/")
            )

    def marked(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and what changes with the content: ETag and time. "" where the ETag is no checksum."""
        for page in self._pages(self.root):
            for item in page:
                tag = _tag(item)
                sure = re.fullmatch(r"[0-9a-f]{32}(-[0-9]+)?", tag)
                if not item["Key"].endswith("/"):
                    yield (
                        item["Key"].removeprefix(self.root),
                        item["Size"],
                        f"{tag} {item['LastModified'].isoformat()}" if sure else "",
                    )

    def open(self, name: str) -> tuple[int, BinaryIO]:
        for key in name_conflicts.true_names(self.root + name):
            with suppress(FileNotFoundError):
                return _S3Reader.make(self.client, self.bucket, key)
        if "\ufffd" in name and self._listed(name):
            raise Stop(
                FAILED,
                f"{name!r} cannot be read: its name has U+FFFE or U+FFFF where the object store "
                "lists U+FFFD. Delete that artifact in MLflow, or log it by another name",
            )
        raise FileNotFoundError(name)

    def _listed(self, name: str) -> bool:
        page = self._ask("list_objects_v2", Prefix=self.root + name.partition("\ufffd")[0])
        return any(item["Key"] == self.root + name for item in page.get("Contents", ()))

    def put(self, name: str, size: int, stream: BinaryIO) -> None:
        """Read the object and store it; it is there, or an error is raised, at the latest after ``finish``."""
        if self.files and name_conflicts.unlisted_by_xml(name):
            raise Stop(
                FAILED,
                f"{name!r} cannot be stored: its name has U+FFFE or U+FFFF, which this object store "
                "does not list. Log that artifact by another name where the backup is from",
            )
        self._solve()
        if size <= SMALL:
            self._quick()  # once, before several threads ask for it
            given, content = self._names.of(name), stream.read()
            self.pool.do(lambda: self._put_small(name, given, content))
            return
        key = self.root + self._take_name(name)
        long = self.files and len(key.rpartition("/")[2].encode("utf-8", "surrogateescape")) > name_conflicts.LONGEST
        if long:  # VersityGW replaces none of so long a name
            self._finish_small()  # what is on the way could take the name, or lose the folder that is empty then
            self._ask("delete_object", Key=key)
        if self._streamed and size <= ONE_REQUEST:
            self._put_whole(key, size, stream)
        else:
            self._put_parts(key, size, stream)
        if long:
            self._whole.finish()  # nothing holds its name until then

    def _put_whole(self, key: str, size: int, stream: BinaryIO) -> None:
        """By one request, which cannot be asked again. VersityGW writes an object in parts twice."""
        body = PassingBody(size)
        self._whole.do(lambda: self._send_whole(key, size, body))
        with body:
            while content := stream.read(BLOCK):
                if not body.feed(content):
                    self._whole.finish()  # raises why
                    return
            body.end(key.removeprefix(self.root))

    def _send_whole(self, key: str, size: int, body: PassingBody) -> None:
        assert self._streamed is not None
        put = self._streamed().put_object
        try:
            answer = s3_call(lambda: put(Bucket=self.bucket, Key=key, Body=body, ContentLength=size))
        except NotYet as reason:
            raise Stop(NO_ANSWER, f"the object store did not take {key.removeprefix(self.root)!r}: {reason}") from None
        finally:
            body.abandon()
        if answer is None:
            raise Stop(FAILED, f"the bucket {self.bucket} does not exist")
        if not body.is_read:
            raise Stop(FAILED, f"the object store answered before it had all of {key.removeprefix(self.root)!r}")
        if _tag(answer) == body.md5.hexdigest():
            self.on_proven(key.removeprefix(self.root), size, _tag(answer), body.sha256.hexdigest())

    def _put_parts(self, key: str, size: int, stream: BinaryIO) -> None:
        whole = {"Key": key, "UploadId": self._ask("create_multipart_upload", Key=key)["UploadId"]}
        step, number = max(SMALL, -(-size // 9000)), 0  # 10,000 parts at the most
        parts: list[Future[tuple[str, str]]] = []
        sha, sent = hashlib.sha256(), 0
        while body := stream.read(step):
            number += 1
            parts.append(self.pool.do(lambda n=number, b=body: self._put_part(whole, n, b)))  # type: ignore[misc]
            sha.update(body)  # beside the parts that are on the way
            sent += len(body)
        # beside the next object: VersityGW copies every byte once more
        self._whole.do(lambda: self._complete(whole, parts, sent, sha.hexdigest()))

    def _take_name(self, name: str) -> str:
        """The name that a large object gets, with nothing in it yet: it cannot be read twice."""
        if not self._put_small(name, self._names.of(name), None):
            self._finish_small()  # finds it another name, with those of others
        return self._names.of(name)

    def _complete(self, whole: dict[str, str], parts: list[Future[tuple[str, str]]], size: int, sha256: str) -> None:
        """Make one object of its parts, once they have arrived."""
        stored = [part.result() for part in parts]
        sums = hashlib.md5(b"".join(bytes.fromhex(md5) for _, md5 in stored), usedforsecurity=False)
        tag, key = f"{sums.hexdigest()}-{len(stored)}", whole["Key"]
        named = [{"PartNumber": n, "ETag": given} for n, (given, _) in enumerate(stored, 1)]
        try:
            answer = self._ask("complete_multipart_upload", self._patient(), **whole, MultipartUpload={"Parts": named})
        except Stop:
            # asked again after a broken connection, the store knows no parts any more: it had made the object
            if (answer := self._stored(key, size)) is None or _tag(answer) != tag:
                raise
        if _tag(answer) == tag and all(_tag({"ETag": given}) == md5 for given, md5 in stored):
            self.on_proven(key.removeprefix(self.root), size, tag, sha256)

    def _stored(self, key: str, size: int) -> Any:
        """What the store answers of an object of that size; None where it has no such one."""
        try:
            answer = self._ask("head_object", Key=key)
        except Stop:
            return None
        return answer if answer["ContentLength"] == size else None

    def _put_part(self, whole: dict[str, str], number: int, body: bytes) -> tuple[str, str]:
        """The ETag that the store gives the part, and the part's MD5."""
        answer = self._ask("upload_part", **whole, PartNumber=number, Body=body)
        return str(answer["ETag"]), hashlib.md5(body, usedforsecurity=False).hexdigest()

    def _put_small(self, name: str, given: str, content: bytes | None) -> bool:
        """False where the store keeps nothing by the given name; ``_solve`` gives it another then. None: content that
        follows."""
        sha256, quick = hashlib.sha256(content or b"").hexdigest(), self._quick()
        try:
            tag = (quick.put(self.root + given, content or b"", sha256) if quick else "") or _tag(
                self._ask("put_object", Key=self.root + given, Body=content or b"")
            )
        except Stop as stop:
            if stop.reason not in (name_conflicts.PARENT_IS_FILE, name_conflicts.IS_FOLDER):
                raise
            self._conflicts.append((name, content, stop.reason))
            return False
        if given != name:
            self.renamed[given] = name
        if content is not None and tag == hashlib.md5(content, usedforsecurity=False).hexdigest():
            self.on_proven(given, len(content), tag, sha256)
        return True

    def _solve(self) -> None:
        """Store what met something of its name, one after the other: nothing else is on the way then."""
        if self._conflicts:
            self._finish_small()

    def _finish_small(self) -> None:
        self.pool.finish()
        self._whole.finish()
        while self._conflicts:
            name, content, _ = self._conflicts.popleft()
            # by the same name again at first: while others are on the way, VersityGW may give the wrong reason
            self._put_solved(name, self._names.of(name), content)

    def _put_solved(self, name: str, given: str, content: bytes | None) -> str:
        """Gives the name that it got."""
        for _ in range(name.count("/") + 3):  # each time at another of the folders above it
            if self._put_small(name, given, content):
                return given
            *_, reason = self._conflicts.pop()
            other = self._names.below_file if reason == name_conflicts.PARENT_IS_FILE else self._names.is_folder
            given = other(name, given)
        raise Stop(FAILED, f"the object store takes {name!r} by no name")

    def _holds(self, name: str) -> bool:
        key = self.root + name
        page = self._ask("list_objects_v2", Prefix=key, MaxKeys=1)
        return any(item["Key"] == key for item in page.get("Contents", ()))

    def _is_free(self, name: str) -> bool:
        """Neither an object nor a folder; what is on the way arrives first."""
        self.pool.finish()
        below = self._ask("list_objects_v2", Prefix=f"{self.root}{name}/", MaxKeys=1)
        return not below.get("Contents") and not self._holds(name)

    def _ask(self, call: str, client: Any = None, **words: Any) -> Any:
        ask = getattr(client or self.client, call)
        answer = wait("the object store", lambda: s3_call(lambda: ask(Bucket=self.bucket, **words)))
        if answer is None:
            raise Stop(FAILED, f"the bucket {self.bucket} does not exist")
        return answer

    def finish(self) -> None:
        """S3 answers when an object is stored."""
        self._finish_small()

    def drop(self, folder: str = "") -> int:
        """Remove all, or what is below ``folder``."""
        root = f"{self.root}{folder}/" if folder else self.root
        count, many = 0, list[str]()
        for key in (item["Key"] for page in self._pages(root) for item in page if not item["Key"].endswith("/")):
            count += 1
            if not _NAMED_BY_XML.fullmatch(key):
                for true in name_conflicts.true_names(key):
                    self.pool.do(lambda key=true: self._ask("delete_object", Key=key))  # type: ignore[misc]
                continue
            many.append(key)
            if len(many) == AT_ONCE:
                self.pool.do(lambda keys=many: self._drop_many(keys))  # type: ignore[misc]
                many = []
        if many:
            self._drop_many(many)
        self.pool.finish()
        multipart_uploads.end_below(self.client, self.bucket, root)  # of objects that never became one
        return count

    def _drop_many(self, keys: list[str]) -> None:
        """By one request. One by one what the store refuses of it, or all where it takes no such request."""
        left = keys
        if self._takes_many:
            try:
                answer = self._ask("delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
                left = [str(error.get("Key", "")) for error in answer.get("Errors", ())]
            except Stop:
                self._takes_many = False  # it may have taken a minute to refuse: not so for each hundred
        for key in left if set(left) <= set(keys) else keys:
            self._ask("delete_object", Key=key)


class _S3Reader:
    """The content of one version of an object; a connection that breaks is taken up where it was."""

    def __init__(self, client: Any, where: dict[str, Any], first: Any) -> None:
        self.client, self.where, self.at, self.size = client, where, 0, int(first["ContentLength"])
        self.body = first["Body"]

    @classmethod
    def make(cls, client: Any, bucket: str, key: str) -> tuple[int, BinaryIO]:
        where = {"Bucket": bucket, "Key": key}
        first = wait("the object store", lambda: _present(lambda: client.get_object(**where)))
        if first is None:
            raise FileNotFoundError(key)
        # a file that somebody has put into the store's volume by hand has no ETag
        same = {"IfMatch": first["ETag"]} if first.get("ETag") else {"IfUnmodifiedSince": first["LastModified"]}
        reader = cls(client, {**where, **same}, first)
        return reader.size, reader  # type: ignore[return-value]

    def read(self, count: int = -1) -> bytes:
        expected = self.size - self.at if count < 0 else min(count, self.size - self.at)
        result = bytearray()
        while len(result) < expected:  # tarfile takes a short answer for the end
            left = expected - len(result)
            result += wait("the object store", lambda n=left: self._read(n))  # type: ignore[misc]
        return bytes(result)

    def _read(self, wanted: int) -> bytes:
        from botocore import exceptions

        try:
            if self.body is None:
                answer = s3_call(lambda: self.client.get_object(**self.where, Range=f"bytes={self.at}-"))
                self.body = answer["Body"] if answer else None
            content = bytes(self.body.read(wanted))
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            OSError,
        ) as error:
            self.body = None
            raise NotYet(" ".join(str(error).split())) from None
        if not content:
            self.body = None
            raise NotYet("the connection ended too early")
        self.at += len(content)
        return content

    def close(self) -> None:
        if self.body is not None:
            self.body.close()


def _tag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _present(call: Callable[[], T]) -> T | None:
    """The result, None when the object is not there (any more)."""
    try:
        return s3_call(call)
    except Stop as stop:
        if stop.reason in ("NoSuchKey", "404"):
            return None
        raise
