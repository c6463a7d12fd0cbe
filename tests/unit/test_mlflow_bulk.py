"""All objects at once (trackbed_mlflow/transfer.py) and the two stores: streams that are whole, threads that end, marks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from trackbed_mlflow import (
    bounded_pool,
    bucket,
    errors,
    folder_objects,
    name_conflicts,
    object_store,
    s3_objects,
    transfer,
)

from helpers.data import artifacts
from helpers.data.checksum import SetSum
from tests.conftest import PATIENCE
from tests.unit.fakes import ENTRY, trackbed_mlflow


class Objects:
    """A store over the network; remembers the most calls at the same time."""

    remote = True

    def __init__(self, held: dict[str, bytes]) -> None:
        self.held, self.open_now, self.most, self.lock = held, 0, 0, threading.Lock()

    def names(self) -> Iterator[tuple[str, int]]:
        return ((name, len(content)) for name, content in [*self.held.items(), ("gone", b"x")])

    def open(self, name: str) -> tuple[int, Any]:
        with self.lock:
            self.open_now += 1
            self.most = max(self.most, self.open_now)
        time.sleep(random.Random(name).random() / 200)
        with self.lock:
            self.open_now -= 1
        if name not in self.held:
            raise FileNotFoundError(name)
        return len(self.held[name]), io.BytesIO(self.held[name])


def test_objects_that_are_fetched_ahead_come_out_in_order_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {f"1/{n}/ä{'x' * (n % 150)}": random.Random(n).randbytes(n * 7 % 1500) for n in range(200)}
    held |= {"1/big": bytes(object_store.TINY + 1), "1/empty": b""}
    place, target = Objects(held), io.BytesIO()
    monkeypatch.setattr(transfer, "storage", lambda environment, prefix: place)
    assert transfer.objects_out({}, "", target) == "202 objects"
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as tar:
        result = [(member.name, stream.read()) for member in tar if (stream := tar.extractfile(member))]
    assert result[:-1] == [(f"o/{name}", content) for name, content in held.items()]
    assert result[-1] == ("end", b'{"objects": 202, "gone": 1}')
    assert 1 < place.most <= bounded_pool.THREADS


def test_an_object_that_ends_early_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Objects({"1/a": b"abc"})
    monkeypatch.setattr(place, "open", lambda name: (4, io.BytesIO(b"abc")))
    monkeypatch.setattr(object_store, "TINY", 1)
    monkeypatch.setattr(transfer, "storage", lambda environment, prefix: place)
    with pytest.raises(OSError, match="1/a ended 1 bytes early"):
        transfer.objects_out({}, "", io.BytesIO())


class Bucket:
    """As much of an S3 client as storing needs; parts are done in any order."""

    def __init__(self, failing: int = 0) -> None:
        self.stored: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.failing = failing

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
        time.sleep(random.Random(Key).random() / 100)
        self.stored[Key] = Body
        return {}

    def create_multipart_upload(self, **_: str) -> dict[str, Any]:
        self.parts[upload := f"u{len(self.parts)}"] = {}
        return {"UploadId": upload}

    def upload_part(self, UploadId: str, PartNumber: int, Body: bytes, **_: str) -> dict[str, Any]:  # noqa: N803
        time.sleep(random.Random(PartNumber).random() / 100)
        if PartNumber == self.failing:
            raise errors.Stop(errors.REFUSED, "no")
        self.parts[UploadId][PartNumber] = Body
        return {"ETag": f"tag {PartNumber}"}

    def complete_multipart_upload(
        self,
        Key: str,  # noqa: N803
        UploadId: str,  # noqa: N803
        MultipartUpload: Any,  # noqa: N803
        **_: str,
    ) -> dict[str, Any]:
        parts = self.parts[UploadId]
        answer = self.completed(parts, MultipartUpload["Parts"])
        self.stored[Key] = b"".join(parts[n] for n in sorted(parts))
        return answer

    def completed(self, parts: dict[int, bytes], named: list[dict[str, Any]]) -> dict[str, Any]:
        """What the store answers for an object of these parts, which were named so."""
        assert named == [{"PartNumber": n, "ETag": f"tag {n}"} for n in range(1, len(parts) + 1)]
        return {}

    def head_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
        raise errors.Stop(errors.FAILED, "404")


def test_objects_are_stored_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Bucket()
    place, held = (
        s3_objects.S3Objects(client, "b", "p"),
        {f"{n}": random.Random(n).randbytes(n * 400) for n in range(60)},
    )
    for name, content in held.items():
        place.put(name, len(content), io.BytesIO(content))
    place.finish()
    assert client.stored == {f"p/{name}": content for name, content in held.items()}


def test_the_next_object_does_not_wait_until_one_is_made_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client, ended = Bucket(), threading.Event()
    whole = client.complete_multipart_upload

    def complete(**words: Any) -> dict[str, Any]:
        assert ended.wait(PATIENCE)
        return whole(**words)

    monkeypatch.setattr(client, "complete_multipart_upload", complete)
    place, held = s3_objects.S3Objects(client, "b", "p"), {"big": b"x" * 5000, "small": b"y"}
    for name, content in held.items():
        place.put(name, len(content), io.BytesIO(content))
    ended.set()
    place.finish()
    assert client.stored == {f"p/{name}": content for name, content in held.items()}


def test_an_object_that_cannot_be_made_of_its_parts_ends_the_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise errors.Stop(errors.REFUSED, "no")

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Bucket()
    monkeypatch.setattr(client, "complete_multipart_upload", refused)
    place = s3_objects.S3Objects(client, "b", "p")
    place.put("x", 5000, io.BytesIO(bytes(5000)))
    with pytest.raises(errors.Stop, match="no"):
        place.finish()


def asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of the objects take no time."""
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)

    def wait(what: str, ask: Callable[[], Any]) -> Any:
        return errors.wait(what, ask, sleep=lambda _: None)

    monkeypatch.setattr(s3_objects, "wait", wait)


@pytest.mark.parametrize("found", ["whole", "another", "nothing"])
def test_an_object_that_was_made_before_the_connection_broke_is_stored(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    client = Tagging()
    whole, nothing = client.complete_multipart_upload, client.head_object

    def complete(**words: Any) -> None:
        """Makes the object, and is asked for it again."""
        if not client.parts[words["UploadId"]]:
            raise errors.Stop(errors.FAILED, "no such upload", "NoSuchUpload")
        whole(**words)
        client.parts[words["UploadId"]] = {}
        raise errors.NotYet("the answer did not come")

    def head(**words: Any) -> dict[str, Any]:
        if found == "nothing":
            return nothing(**words)
        tag = client.whole if found == "whole" else '"another"'
        return {"ContentLength": len(client.stored[words["Key"]]), "ETag": tag}

    asked_again(monkeypatch)
    monkeypatch.setattr(client, "complete_multipart_upload", complete)
    monkeypatch.setattr(client, "head_object", head)
    place, proven = s3_objects.S3Objects(client, "b", "p"), list[str]()
    monkeypatch.setattr(place, "on_proven", lambda name, *_: proven.append(name))
    place.put("x", 5000, io.BytesIO(b"x" * 5000))
    if found == "whole":
        place.finish()
        assert proven == ["x"]
    else:
        with pytest.raises(errors.Stop, match="no such upload"):
            place.finish()


def test_a_store_has_time_to_make_an_object_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """VersityGW copies each byte: 20 seconds are two gigabytes."""
    asked_again(monkeypatch)
    client, patient, made = Bucket(), Bucket(), list[float]()
    patient.parts = client.parts
    monkeypatch.setattr(client, "complete_multipart_upload", None)

    def s3_client(environment: object, connections: int = 10, seconds: float = 20, **_: object) -> Bucket:
        made.append(seconds)
        return patient if seconds > 20 else client

    monkeypatch.setattr(object_store, "s3_client", s3_client)
    place = object_store.storage({"MLFLOW_ARTIFACTS_DESTINATION": "s3://b/p"}, "")
    assert isinstance(place, s3_objects.S3Objects)
    for name in "ab":
        place.put(name, 5000, io.BytesIO(b"x" * 5000))
    place.finish()
    assert made == [20.0, object_store.COPIED] and patient.stored == {f"p/{name}": b"x" * 5000 for name in "ab"}


def test_a_part_that_is_refused_ends_the_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Bucket(failing=3)
    place = s3_objects.S3Objects(client, "b", "")
    with pytest.raises(errors.Stop, match="no"):
        place.put("x", 50_000, io.BytesIO(bytes(50_000)))
    assert client.stored == {"x": b""}  # below a prefix that is dropped then


class Tagging(Bucket):
    """Answers with the checksum of what arrived, as VersityGW does, and lists it."""

    lost: str = ""  # the key whose content is another one when it arrives
    forgotten: str = ""  # the key that is answered and not there afterwards

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
        super().put_object(Bucket, Key, b"other" if Key == self.lost else Body)
        return {"ETag": self.tag(Key)}

    def tag(self, key: str) -> str:
        return f'"{hashlib.md5(self.stored[key], usedforsecurity=False).hexdigest()}"'

    def upload_part(self, UploadId: str, PartNumber: int, Body: bytes, **_: str) -> dict[str, Any]:  # noqa: N803
        super().upload_part(UploadId, PartNumber, Body)
        return {"ETag": hashlib.md5(Body, usedforsecurity=False).hexdigest()}

    def completed(self, parts: dict[int, bytes], named: list[dict[str, Any]]) -> dict[str, Any]:
        digests = b"".join(bytes.fromhex(part["ETag"]) for part in named)
        self.whole = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'
        return {"ETag": self.whole}

    def list_objects_v2(self, **_: Any) -> dict[str, Any]:
        return {
            "Contents": [
                {"Key": key, "Size": len(content), "ETag": self.whole if len(content) > 1000 else self.tag(key)}
                for key, content in self.stored.items()
                if key != self.forgotten
            ]
        }


class Streaming(Tagging):
    """Takes a body as it comes, as VersityGW does, in pieces as boto3 reads it: up to its end, whatever its length."""

    taken = 2**40  # bytes, after which the connection breaks
    seen: bytes = b""

    def put_object(self, Bucket: str, Key: str, Body: Any, ContentLength: int = 0) -> dict[str, Any]:  # noqa: N803
        if not hasattr(Body, "read"):
            return super().put_object(Bucket, Key, Body)
        self.seen = b""
        while piece := Body.read(700):
            self.seen += piece
            if len(self.seen) > self.taken:
                raise errors.NotYet("the connection broke")
        assert len(self.seen) == ContentLength
        return super().put_object(Bucket, Key, self.seen)


def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a real client."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def streaming(monkeypatch: pytest.MonkeyPatch, client: Streaming) -> tuple[s3_objects.S3Objects, dict[str, Any]]:
    """A VersityGW of such a client, and what it has proven by name."""
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    monkeypatch.setattr(s3_objects, "BLOCK", 300)
    place, proven = s3_objects.S3Objects(client, "b", "p", files=True, streamed=lambda: client), dict[str, Any]()
    place.on_proven = lambda name, *facts: proven.setdefault(name, facts)
    return place, proven


def test_a_large_object_is_stored_by_one_request_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Streaming()
    place, proven = streaming(monkeypatch, client)
    held = {name: random.Random(name).randbytes(size) for name, size in (("1/a", 50_000), ("1/b", 1001), ("1/c", 9))}
    for name, content in held.items():
        place.put(name, len(content), io.BytesIO(content))
    place.finish()
    assert client.stored == {f"p/{name}": content for name, content in held.items()} and not client.parts
    assert proven == {
        name: (len(content), client.tag(f"p/{name}").strip('"'), hashlib.sha256(content).hexdigest())
        for name, content in held.items()
    }


def test_a_streamed_object_that_arrives_as_another_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Streaming()
    client.lost = "p/x"
    place, proven = streaming(monkeypatch, client)
    place.put("x", 5000, io.BytesIO(bytes(5000)))
    place.finish()
    assert not proven


@pytest.mark.parametrize("size", [2000, 500_000])
def test_a_connection_that_breaks_on_the_way_ends_the_storing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Also where most of the object is still to be read: nobody waits for room."""
    client = Streaming()
    client.taken = 1500
    place, _ = streaming(monkeypatch, client)
    with pytest.raises(errors.Stop, match="did not take 'x': the connection broke") as caught:
        place.put("x", size, io.BytesIO(bytes(size)))
        place.finish()
    assert caught.value.code == errors.NO_ANSWER


def test_a_store_that_takes_nothing_more_is_not_awaited_as_one_that_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is frozen: the long time is for its answer alone."""
    ended = threading.Event()

    def begin(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            ended.wait(PATIENCE)

    keys(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        threading.Thread(target=begin, args=(frozen,), daemon=True).start()
        where = {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{frozen.getsockname()[1]}"}
        client = bucket.s3_client(where, seconds=object_store.COPIED, streamed=True, taken=0.2)
        place = s3_objects.S3Objects(Tagging(), "b", "p", files=True, streamed=lambda: client)
        content = bytes(64 * 2**20)  # more than two sockets hold
        with pytest.raises(errors.Stop, match="did not take 'x'") as caught:
            place.put("x", len(content), io.BytesIO(content))
            place.finish()
        ended.set()
    assert caught.value.code == errors.NO_ANSWER


def test_a_store_on_a_slow_line_has_time_to_take_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3 sends bytes within the time for the connection: 8 MiB in 5 s by 8 threads are 107 Mbit/s."""
    keys(monkeypatch)
    where = {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9", "MLFLOW_ARTIFACTS_DESTINATION": "s3://b/p"}
    place = object_store.storage({**where, "TRACKBED_STORE_SYNC": "store-sync:1"}, "")
    assert isinstance(place, s3_objects.S3Objects) and place._streamed
    made = [client.meta.config for client in (place.client, place._patient(), place._streamed())]
    times = [(config.connect_timeout, config.read_timeout) for config in made]
    copied = object_store.COPIED
    assert times == [(object_store.TAKEN, 20), (bucket.CONNECTED, copied), (object_store.TAKEN_STREAMED, copied)]


def test_an_object_that_ends_early_is_never_sent_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2000:
                raise EOFError("cut")
            return super().read(size)

    client = Streaming()
    place, proven = streaming(monkeypatch, client)
    with pytest.raises(EOFError):
        place.put("x", 5000, Cut(bytes(5000)))
    with pytest.raises(OSError, match="ended early"):
        place.finish()
    assert client.stored == {"p/x": b""} and not proven


def test_nobody_waits_for_the_rest_of_an_object_that_is_shorter_than_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Streaming()
    place, proven = streaming(monkeypatch, client)
    with pytest.raises(OSError, match="x ended 1000 bytes early"):
        place.put("x", 5000, io.BytesIO(bytes(4000)))
    with pytest.raises(OSError, match="ended early"):
        place.finish()
    assert client.stored == {"p/x": b""} and not proven


def test_a_store_that_answers_before_it_has_all_has_not_stored_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Streaming):
        def put_object(self, Bucket: str, Key: str, Body: Any, ContentLength: int = 0) -> dict[str, Any]:  # noqa: N803
            taken = Body.read(700) if hasattr(Body, "read") else Body
            return Tagging.put_object(self, Bucket, Key, bytes(taken))

    for size in (1500, 500_000):
        place, proven = streaming(monkeypatch, Hasty())
        with pytest.raises(errors.Stop, match="answered before it had all of 'x'"):
            place.put("x", size, io.BytesIO(bytes(size)))
            place.finish()
        assert not proven


def test_only_versitygw_gets_large_objects_by_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks on the way to a store elsewhere is sent again, part by part."""
    made = list[bool]()
    monkeypatch.setattr(object_store, "s3_client", lambda *_, streamed=False, **__: made.append(streamed))
    where = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://b/p"}
    for environment in (where, {**where, "TRACKBED_STORE_SYNC": "store-sync:1"}):
        place = object_store.storage(environment, "")
        assert isinstance(place, s3_objects.S3Objects)
        if place._streamed:
            place._streamed()
    assert made == [False, False, True]


SOME = {"1/a": b"one", "1/ü": b"three", "1/empty": b"", "1/big": random.Random(5).randbytes(5000)}


def stored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str = "", forgotten: str = ""
) -> artifacts.Written:
    """What the toolkit learns of storing SOME."""
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Tagging()
    client.lost, client.forgotten = lost, forgotten
    monkeypatch.setattr(transfer, "storage", lambda environment, prefix: s3_objects.S3Objects(client, "b", prefix))
    source = io.BytesIO()
    for name, content in SOME.items():
        transfer._write_member(source, f"o/{name}", len(content), io.BytesIO(content))
    transfer._write_member(source, "end", 2, io.BytesIO(b"{}"))
    source.write(bytes(1024))
    source.seek(0)
    assert transfer.objects_in({}, "new", source) == "4 objects stored"
    return artifacts._written(io.BytesIO(capsys.readouterr().out.encode()))


def test_what_the_store_confirms_is_proven_by_its_checksums(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = SetSum()
    for name, content in SOME.items():
        expected.add(hashlib.sha256(content).hexdigest(), len(content), name)
    confirmed = stored(monkeypatch, capsys).confirmed
    assert confirmed is not None and (confirmed.text, confirmed.count) == (expected.text, 4)


@pytest.mark.parametrize(("lost", "forgotten"), [("new/1/a", ""), ("", "new/1/empty")])
def test_what_the_store_does_not_confirm_is_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: str, forgotten: str
) -> None:
    assert stored(monkeypatch, capsys, lost, forgotten).confirmed is None


def test_a_store_whose_tags_are_no_checksums_is_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tagging, "tag", lambda self, key: '"opaque"')
    assert stored(monkeypatch, capsys).confirmed is None


@pytest.mark.parametrize("place", ["/dev/full", "/nonexistent/file"])
def test_without_room_for_what_is_confirmed_all_is_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open(place, "w+b"))
    assert stored(monkeypatch, capsys).confirmed is None


def test_beside_others_the_list_ends_with_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def tagged(self: s3_objects.S3Objects) -> Iterator[tuple[str, int, str]]:
        for number in range(1000):
            asked.append(number)
            yield f"1/{number}", 1, "tag"

    monkeypatch.setattr(s3_objects.S3Objects, "tagged", tagged)
    assert stored(monkeypatch, capsys).confirmed is None and len(asked) == len(SOME) + 1


def test_nobody_tells_the_store_the_md5_that_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told it could repeat, and prove nothing."""
    keys(monkeypatch)
    client, sent = bucket.s3_client({"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}), list[str]()

    def answer(request: Any, **_: Any) -> AWSResponse:
        sent.append(str(request.headers).lower())
        return AWSResponse(request.url, 200, {"ETag": '"tag"'}, SimpleNamespace(stream=lambda: ()))

    client.meta.events.register("before-send.s3", answer)
    client.put_object(Bucket="b", Key="p/small", Body=b"content")
    client.upload_part(Bucket="b", Key="p/large", UploadId="u", PartNumber=1, Body=b"content")
    plain = hashlib.md5(b"content", usedforsecurity=False)
    told = ("md5", plain.hexdigest(), base64.b64encode(plain.digest()).decode().lower())
    assert len(sent) == 2 and not [word for word in told for headers in sent if word in headers]


def test_a_folder_confirms_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = io.BytesIO()
    transfer._write_member(source, "o/1/a", 3, io.BytesIO(b"one"))
    transfer._write_member(source, "end", 2, io.BytesIO(b"{}"))
    source.seek(0)
    transfer.objects_in({"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "live")}, "new", source)
    assert artifacts._written(io.BytesIO(capsys.readouterr().out.encode())) == artifacts.Written({})


class Posix(Bucket):
    """Refuses as VersityGW does what a file system cannot hold; beside other calls for the wrong reason."""

    lock = threading.Lock()

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
        time.sleep(random.Random(Key).random() / 200)
        with self.lock:
            if any(f"{Key}/" == other[: len(Key) + 1] for other in self.stored):
                raise errors.Stop(errors.FAILED, "no", "ExistingObjectIsDirectory")
            if any(Key.startswith(f"{other}/") for other in self.stored):
                alone = threading.current_thread() is threading.main_thread()
                raise errors.Stop(errors.FAILED, "no", "ObjectParentIsFile" if alone else "ExistingObjectIsDirectory")
            self.stored[Key] = Body
        return {}

    def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
        del self.stored[Key]
        return {}

    def list_objects_v2(self, Prefix: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        return {"Contents": [{"Key": key} for key in sorted(self.stored) if key.startswith(Prefix)][:1]}


class Replacing(Posix):
    """As VersityGW, replaces no object of a long name."""

    def complete_multipart_upload(
        self,
        Key: str,  # noqa: N803
        UploadId: str,  # noqa: N803
        MultipartUpload: Any,  # noqa: N803
        **words: str,
    ) -> dict[str, Any]:
        if Key in self.stored and len(Key.rpartition("/")[2].encode()) > 227:
            raise errors.NotYet("InternalError")
        return super().complete_multipart_upload(Key, UploadId, MultipartUpload, **words)


def test_a_large_object_of_a_long_name_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "wait", lambda what, call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Replacing()
    place = s3_objects.S3Objects(client, "b", "p", files=True)
    held = {f"1/{'ü' * n}": b"x" * 5000 for n in (100, 101, 113, 114, 127)}
    for name, content in held.items():
        place.put(name, len(content), io.BytesIO(content))
    place.finish()
    assert client.stored == {f"p/{name}": content for name, content in held.items()}


def test_nothing_is_on_the_way_while_an_object_of_a_long_name_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could take the name, or lose the folder, which VersityGW removes with the last object in it."""
    asked_again(monkeypatch)
    awaited, seen = threading.Event(), list[set[str]]()

    class Slow(Bucket):
        def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, Any]:  # noqa: N803
            if Body:
                assert awaited.wait(PATIENCE)
            return super().put_object(Bucket, Key, Body)

        def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
            seen.append(set(self.stored))
            awaited.set()
            return {}

    place = s3_objects.S3Objects(Slow(), "b", "p", files=True)
    plain = place._finish_small

    def finish() -> None:
        awaited.set()
        plain()

    monkeypatch.setattr(place, "_finish_small", finish)
    place.put("small", 5, io.BytesIO(b"small"))
    place.put("x" * 250, 5000, io.BytesIO(b"x" * 5000))
    place.finish()
    assert seen == [{"p/small", f"p/{'x' * 250}"}]


def test_other_stores_replace_an_object_of_a_long_name_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With versions kept, each delete would leave one more mark."""
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Bucket()  # knows no delete_object
    place = s3_objects.S3Objects(client, "b", "p")
    place.put("x" * 250, 5000, io.BytesIO(b"x" * 5000))
    place.finish()
    assert client.stored == {f"p/{'x' * 250}": b"x" * 5000}


@pytest.mark.parametrize("size", [5, 5000])
def test_what_a_store_would_list_by_another_name_is_named(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """It would be in no backup, and nobody would know."""
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Posix()
    with pytest.raises(errors.Stop, match=r"1/a\\uffff' cannot be stored"):
        s3_objects.S3Objects(client, "b", "p", files=True).put("1/a\uffff", size, io.BytesIO(bytes(size)))
    place = s3_objects.S3Objects(client, "b", "p")
    place.put("1/a\uffff", size, io.BytesIO(bytes(size)))
    place.finish()
    assert list(client.stored) == ["p/1/a\uffff"], "other stores list it"

    def missing(client: Any, bucket: str, key: str) -> Any:
        raise FileNotFoundError(key)

    monkeypatch.setattr(s3_objects._S3Reader, "make", missing)
    monkeypatch.setattr(client, "list_objects_v2", lambda **_: {"Contents": [{"Key": "p/1/a\ufffd"}]})
    with pytest.raises(errors.Stop, match="where the object store lists"):
        place.open("1/a\ufffd")
    for gone in ("1/a\ufffdb", "1/b"):
        with pytest.raises(FileNotFoundError):
            place.open(gone)


def test_what_is_listed_by_another_name_is_read_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, removed = {"p/1/\ufffda\ufffd": 1, "p/1/b\ufffe": 2, "p/1/\uffffc\uffff": 3}, set[str]()

    def make(client: Any, bucket: str, key: str) -> Any:
        if key not in stored:
            raise FileNotFoundError(key)
        return stored[key]

    class Client:
        def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
            removed.add(Key)
            return {}

    listed = ["1/\ufffda\ufffd", "1/b\ufffd", "1/\ufffdc\ufffd"]
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects._S3Reader, "make", make)
    monkeypatch.setattr("trackbed_mlflow.multipart_uploads.end_below", lambda client, bucket, prefix: 0)
    place = s3_objects.S3Objects(Client(), "b", "p")
    monkeypatch.setattr(place, "_pages", lambda root: [[{"Key": f"p/{name}"} for name in listed]])
    result: list[Any] = [place.open(name) for name in listed]
    assert result == [1, 2, 3]
    assert place.drop() == 3 and stored.keys() <= removed


@pytest.mark.parametrize("refused", ["nothing", "one", "another's", "all"])
def test_objects_are_removed_many_at_once(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    names = [f"1/{n}" for n in range(s3_objects.AT_ONCE * 2 + 7)]
    held, alone = {f"p/{name}" for name in (*names, "1/line\nbreak")}, set[str]()

    class Client:
        def delete_objects(self, Delete: Any, **_: str) -> dict[str, Any]:  # noqa: N803
            keys = {entry["Key"] for entry in Delete["Objects"]}
            assert Delete["Quiet"] and len(keys) <= s3_objects.AT_ONCE
            if refused == "all":
                raise errors.Stop(errors.FAILED, "no such request", "NotImplemented")
            if refused == "another's":
                return {"Errors": [{"Key": "q/1"}]}
            kept = {"p/1/3"} if refused == "one" else set()
            held.difference_update(keys - kept)
            return {"Errors": [{"Key": key} for key in kept & keys]}

        def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
            alone.add(Key)
            held.discard(Key)
            return {}

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr("trackbed_mlflow.multipart_uploads.end_below", lambda client, bucket, prefix: 0)
    place = s3_objects.S3Objects(Client(), "b", "p")
    listed = [{"Key": f"p/{name}"} for name in (*names, "1/line\nbreak")]
    monkeypatch.setattr(place, "_pages", lambda root: [listed])
    assert place.drop() == len(names) + 1 and not held
    assert "q/1" not in alone
    if refused in ("nothing", "one"):
        assert alone == {"p/1/line\nbreak", *(["p/1/3"] if refused == "one" else [])}


@pytest.mark.parametrize("removes", [True, False])
def test_all_below_a_prefix_goes_where_the_store_keeps_it(monkeypatch: pytest.MonkeyPatch, removes: bool) -> None:
    """Without a client of the store; by that where the service beside it cannot."""
    asked: list[tuple[str, ...]] = []

    def drop(environment: Any, bucket: str, key: str) -> bool:
        asked.append((bucket, key))
        return removes

    def stored(environment: Any, prefix: str, top: str) -> Any:
        assert not removes, "no client"
        asked.append((prefix, top))
        return SimpleNamespace(drop=lambda: 5)

    monkeypatch.setattr("trackbed_mlflow.durability.drop", drop)
    monkeypatch.setattr(transfer, "storage", stored)
    environment = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://b/active"}
    assert transfer.objects_dropped(environment, "old", "7") == ("removed" if removes else "5 objects removed")
    assert asked == [("b", "old/7"), *([] if removes else [("old", "7")])]


@pytest.mark.parametrize("destination", ["s3://b/active", "/folder/active"])
def test_a_running_server_removes_nothing_itself(monkeypatch: pytest.MonkeyPatch, destination: str) -> None:
    """Its memory is for its workers; a copy of it does what the service beside the store leaves."""

    def stored(*_: object) -> Any:
        raise AssertionError("no client")

    asked: list[bool] = [False, True]
    monkeypatch.setattr("trackbed_mlflow.durability.drop", lambda *_: asked.pop(0))
    monkeypatch.setattr(transfer, "storage", stored)
    environment = {"MLFLOW_ARTIFACTS_DESTINATION": destination}
    with pytest.raises(errors.Stop, match="cannot"):
        transfer.objects_discarded(environment, "old", "7")
    if destination.startswith("s3:"):
        assert transfer.objects_discarded(environment, "old", "7") == "removed"


@pytest.mark.parametrize("content", [None, b"", b"x" * 300_000])
def test_a_named_pipe_without_a_writer_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """Whoever wanted to write was killed: a container would wait for it forever."""
    os.mkfifo(tmp_path / "feed")
    with transfer._fed("") as plain:
        assert plain is sys.stdin.buffer
    ends, ended = os.pipe()

    def write() -> None:
        if content is not None:
            with open(tmp_path / "feed", "wb") as stream:  # once it is read
                os.close(ended)
                stream.write(content)

    writing = threading.Thread(target=write)
    writing.start()
    if content is None:
        os.close(ended)
    with os.fdopen(ends, "rb") as stdin:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stdin))
        with transfer._fed(str(tmp_path / "feed")) as stream:
            assert stream.read() == (content or b"")
    writing.join()


class Quick:
    """Stores small objects, except for those of some names."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.stored = refused, dict[str, bytes]()

    def put(self, key: str, content: bytes, sha256: str) -> str:
        assert hashlib.sha256(content).hexdigest() == sha256
        if key in self.refused:
            return ""
        self.stored[key] = content
        return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_boto3_stores_only_what_the_shorter_way_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    client, quick, proven, made = Bucket(), Quick("p/7", "p/empty"), list[str](), list[int]()

    def make() -> Any:
        made.append(1)
        return quick

    place = s3_objects.S3Objects(client, "b", "p", quick=make)
    place.on_proven = lambda name, *_: proven.append(name)
    for number in range(20):
        place.put(f"{number}", 3, io.BytesIO(b"abc"))
    place.put("empty", 0, io.BytesIO())
    place.finish()
    assert made == [1], "one connection pool for all"
    assert client.stored == {"p/7": b"abc", "p/empty": b""}
    assert {f"{number}" for number in range(20) if number != 7} <= set(proven)
    assert len(client.stored | quick.stored) == 21


def test_a_store_that_removes_one_at_a_time_is_asked_once_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    asked: list[Any] = []

    class Client:
        def delete_objects(self, Delete: Any, **_: str) -> None:  # noqa: N803
            asked.append(Delete)
            raise errors.Stop(errors.NO_ANSWER, "InternalError")

        def delete_object(self, Key: str, **_: str) -> dict[str, Any]:  # noqa: N803
            removed.append(Key)
            return {}

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    place = s3_objects.S3Objects(Client(), "b", "p")
    place._drop_many(["p/a", "p/b"])
    place._drop_many(["p/c"])
    assert len(asked) == 1 and removed == ["p/a", "p/b", "p/c"]


BOTH = {"1/r/artifacts/a": b"file", "1/r/artifacts/a/b/c": b"x" * 5000, "1/r/artifacts/a/d": b"below"}


@pytest.mark.parametrize("order", [list(BOTH), list(reversed(BOTH)), ["1/r/artifacts/a/d", *list(BOTH)[:2]]])
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_file_and_a_folder_of_one_name_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str], kind: str
) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client = Posix()
    place = folder_objects.FolderObjects(tmp_path) if kind == "folder" else s3_objects.S3Objects(client, "b", "p")
    for name in order:
        place.put(name, len(BOTH[name]), io.BytesIO(BOTH[name]))
        if kind == "bucket":
            place.finish()
    held = {key.removeprefix("p/"): content for key, content in client.stored.items()}
    held |= {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {place.renamed.get(name, name): content for name, content in held.items()} == BOTH
    expected = (
        {"1/r/artifacts/a (folder)/b/c", "1/r/artifacts/a (folder)/d"}
        if order[0] == "1/r/artifacts/a"
        else {"1/r/artifacts/a (file)"}
    )
    assert set(place.renamed) == expected


TAKEN = [
    {"1/a", "1/a/b", "1/a (folder)/b"},
    {"1/a", "1/a/b", "1/a (folder)", "1/a (folder 2)/b"},
    {"1/a", "1/a/b", "1/a (file)", "1/a (file 2)/c"},
    {"1/a", "1/a/b", "1/a/b/c", "1/a/b (folder)/c", "1/a (folder)/b (folder)/c"},
    {"1/a", "1/a (folder)/b", "1/a (folder)/b/c", "1/a/b"},
    {f"1/{'ü' * 127}", f"1/{'ü' * 127}/b", f"1/{'ü' * 127}/c"},
]


@pytest.mark.parametrize(("names", "seed"), [(names, seed) for names in TAKEN for seed in range(12)])
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_an_object_that_is_renamed_never_meets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: set[str], seed: int, kind: str
) -> None:
    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "SMALL", 1000)
    client, order = Posix(), sorted(names)
    if seed:
        random.Random(seed).shuffle(order)
    place = folder_objects.FolderObjects(tmp_path) if kind == "folder" else s3_objects.S3Objects(client, "b", "p")
    stored = {name: random.Random(name).randbytes(5 if seed % 2 else 5000) for name in order}
    for name in order:
        place.put(name, len(stored[name]), io.BytesIO(stored[name]))
    if kind == "bucket":
        place.finish()
    held = {key.removeprefix("p/"): content for key, content in client.stored.items()}
    held |= {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {place.renamed.get(name, name): content for name, content in held.items()} == stored
    assert all(len(word.encode()) <= 255 for name in held for word in name.split("/"))


def test_a_store_that_takes_no_name_ends_the_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise errors.Stop(errors.FAILED, "no", name_conflicts.PARENT_IS_FILE)

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    client = Posix()
    monkeypatch.setattr(client, "put_object", refuse)
    place = s3_objects.S3Objects(client, "b", "p")
    place.put("1/a", 1, io.BytesIO(b"x"))
    with pytest.raises(errors.Stop, match="by no name"):
        place.finish()


def test_what_minio_does_not_list_is_found_in_its_volume(tmp_path: Path) -> None:
    for name in (
        "1/r/artifacts/a",
        "1/r/artifacts/a/b.txt",
        "1/r/artifacts/a/c/d",
        "1/r/artifacts/a/c/d/e",
        "1/r/artifacts/ab/c",
        "1/r/artifacts/z",
        "1/r/artifacts/z-1",
    ):
        (tmp_path / name / "0b6c").mkdir(parents=True)  # the parts of its content
        (tmp_path / name / "xl.meta").touch()
    assert sorted(name_conflicts.unlisted(str(tmp_path))) == [
        "1/r/artifacts/a/b.txt",
        "1/r/artifacts/a/c/d",
        "1/r/artifacts/a/c/d/e",
    ]
    done = trackbed_mlflow("unlisted", str(tmp_path))
    assert sorted(map(json.loads, done.stdout.splitlines()))[0] == "1/r/artifacts/a/b.txt" and done.returncode == 0


HANGING = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from trackbed_mlflow import cli, errors, transfer

asked = threading.Event()

class BlobStore:
    remote = True
    def names(self):
        return iter([("1/a", 1), ("1/b", 1)])
    def open(self, name):
        if name == sys.argv[2]:
            asked.wait(1000)
            raise errors.Stop(errors.REFUSED, "no")
        print("asked", file=sys.stderr, flush=True)
        asked.set()
        time.sleep(1000)

transfer.storage = lambda environment, prefix: BlobStore()
sys.exit(cli.main(["out"]))
"""


def test_a_stop_does_not_wait_for_a_store_that_hangs() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(ENTRY.parent), ""],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        assert process.stderr is not None and process.stderr.readline() == b"asked\n"
        process.terminate()
        assert process.wait(PATIENCE) == errors.STOPPED
    finally:
        process.kill()
        process.wait()


def test_a_failure_does_not_wait_for_a_store_that_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(ENTRY.parent), "1/a"],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == errors.REFUSED and done.stderr.endswith(b"trackbed: no\n")


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    done = trackbed_mlflow("list", MLFLOW_ARTIFACTS_DESTINATION=str(folder))
    assert done.returncode == 0, done.stderr
    *result, (nothing, count, _) = map(json.loads, done.stdout.splitlines())
    assert nothing is None and count == len(result)
    return {name: (size, mark) for name, size, mark in result}


def test_a_file_that_was_just_written_has_no_mark(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "ä b").write_bytes(b"hello")
    assert listed(tmp_path) == {"1/ä b": (5, "")}


def test_a_stream_that_breaks_off_leaves_no_part_of_an_object(tmp_path: Path) -> None:
    """An import that is taken up would keep it for what the project has."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, size in (("o/1/first", 10), ("o/1/second", 300_000)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    environment = {"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path)}
    with pytest.raises(tarfile.ReadError):
        transfer.objects_in(environment, "", io.BytesIO(whole.getvalue()[:200_000]))
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["first"]


def test_a_mark_changes_with_the_content_even_if_size_and_time_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_objects, "SETTLED_SECONDS", 0)
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    time.sleep(0.05)
    place = folder_objects.FolderObjects(tmp_path)
    (first,), before = place.marked(), path.stat()
    assert first[:2] == ("a", 5) and first[2] and list(place.marked()) == [first]
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(0.05)
    (second,) = place.marked()
    assert second[2] and second[2] != first[2]


@pytest.mark.parametrize(
    ("tag", "known"),
    [
        ('"5d41402abc4b2a76b9719d911017c592"', True),
        ('"5d41402abc4b2a76b9719d911017c592-3"', True),
        ("", False),
        ('"5d41"', False),
        ('"not-a-checksum"', False),
    ],
)
def test_the_mark_of_an_object_is_etag_and_time(tag: str, known: bool) -> None:
    class Client:
        def list_objects_v2(self, **_: object) -> dict[str, Any]:
            return {"Contents": [{"Key": "live/a", "Size": 3, "ETag": tag, "LastModified": datetime.now(UTC)}]}

    (result,) = s3_objects.S3Objects(Client(), "bucket", "live").marked()
    assert result[:2] == ("a", 3) and bool(result[2]) == known
    assert not known or (tag.strip('"') in result[2] and result[2] != tag.strip('"'))


@pytest.mark.parametrize("tag", ['"5d41402abc4b2a76b9719d911017c592"', ""])
def test_an_object_is_read_on_where_it_broke_also_without_an_etag(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    asked: list[dict[str, Any]] = []

    class Client:
        def get_object(self, **words: Any) -> dict[str, Any]:
            asked.append(words)
            start = int(words.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            content = b"abcdef"[start:4] if len(asked) == 1 else b"abcdef"[start:]
            return {"Body": io.BytesIO(content), "ContentLength": 6, "LastModified": when} | (
                {"ETag": tag} if tag else {}
            )

    def again(what: str, call: Callable[[], Any]) -> Any:
        with contextlib.suppress(errors.NotYet):
            return call()
        return again(what, call)

    monkeypatch.setattr(s3_objects, "s3_call", lambda call: call())
    monkeypatch.setattr(s3_objects, "wait", again)
    size, stream = s3_objects._S3Reader.make(Client(), "b", "k")
    assert (size, stream.read()) == (6, b"abcdef")
    same = {"IfMatch": tag} if tag else {"IfUnmodifiedSince": when}
    assert asked == [{"Bucket": "b", "Key": "k"}, {"Bucket": "b", "Key": "k", **same, "Range": "bytes=4-"}]


def test_only_what_is_asked_for_is_sent_and_what_is_gone_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "ü"):
        (tmp_path / name).write_text(name)
    done = subprocess.run(
        [sys.executable, str(ENTRY), "pick"],
        input=b'"\\u00fc"\n"gone"\n"a"\n',
        capture_output=True,
        env={"PATH": os.environ["PATH"], "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path)},
        timeout=PATIENCE,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["o/ü", "o/a", "end"]
        content = tar.extractfile("end")
        assert content is not None and json.loads(content.read()) == {"objects": 2, "gone": 1}


def offered(folder: Path, said: bytes) -> tuple[list[Any], bytes]:
    """The list and the rest that `offer` prints."""
    done = subprocess.run(
        [sys.executable, str(ENTRY), "offer"],
        input=said,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "MLFLOW_ARTIFACTS_DESTINATION": str(folder)},
        timeout=PATIENCE,
        check=True,
    )
    lines, rest = list[Any](), done.stdout
    while rest and (not lines or lines[-1][0] is not None):
        line, _, rest = rest.partition(b"\n")
        lines.append(json.loads(line))
    return lines, rest


def test_what_was_listed_is_sent_by_the_same_command(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    lines, rest = offered(tmp_path, b'\n"b"\n')
    assert [name for name, *_ in lines] == ["a", "b", None]
    with tarfile.open(fileobj=io.BytesIO(rest)) as tar:
        assert tar.getnames() == ["o/b", "end"]
    assert offered(tmp_path, b"") == ([], b"")  # who asks for nothing gets no list


def test_objects_are_listed_once_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    order, target = list[str](), io.BytesIO()

    class Listed(Objects):
        def marked(self) -> Iterator[tuple[str, int, str]]:
            order.append("listed")
            yield "1/a", 1, "mark"

    class Asking(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            order.append("asked")
            return super().readline(size)

    stores: list[Objects] = []

    def storage(environment: object, prefix: str) -> Objects:
        order.append("ready")
        stores.append(Listed({"1/a": b"a"}))
        return stores[-1]

    monkeypatch.setattr(transfer, "storage", storage)
    assert transfer.objects_offered({}, Asking(b'\n"1/a"\n'), target) == "1 objects"
    assert order[:3] == ["ready", "asked", "listed"] and len(stores) == 1
