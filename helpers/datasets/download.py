"""One large file from a web server or a bucket onto this disk; what an earlier try has brought is not fetched again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential
from urllib3.exceptions import HTTPError

from helpers import site_network
from helpers.backups.bucket import Bucket, Changed
from helpers.backups.storage import Missing
from helpers.errors import TrackbedError
from helpers.imports.buckets import PART
from helpers.project.state import write_private
from helpers.services import ProgressReporter
from helpers.sizes import mib

TIMES = (15, 60)  # seconds to connect, and between two pieces
WAIT = wait_exponential(0.5, max=20)
TRIES = 6  # in a row that bring nothing
CHUNK = 2**20
KEPT_FREE = 512 * 2**20  # bytes of the disk
LATER = (408, 425, 429, 500, 502, 503, 504)
AGAIN = "run the same command again: it goes on from there"


def note(path: Path) -> Path:
    """What is known of a download. No data set's name begins with a dot, and one may be called x.json."""
    return path.with_name(f".{path.name}.json")


class _Cut(Exception):
    """The connection ended early, or the server may answer a moment later."""


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: its size (0: it does not say), and what changes with its content ("": nothing)."""

    size: int
    mark: str


class Download:
    """A file in the making at ``path``, with a note beside it of what it is."""

    def __init__(self, path: Path, source: str, shown: str, progress: ProgressReporter) -> None:
        self.path, self._note = path, note(path)
        self._source, self.shown, self._progress = hashlib.sha256(source.encode()).hexdigest(), shown, progress
        self._fruitless = self._best = 0

    def _noted(self) -> dict[str, Any]:
        """What is known of the bytes that are there; {} where they are of something else."""
        with suppress(OSError, ValueError):
            noted = json.loads(self._note.read_bytes())
            if noted["source"] == self._source:
                return dict(noted)
        return {}

    def _begin(self, remote: Remote) -> None:
        self.path.unlink(missing_ok=True)
        write_private(self._note, json.dumps({"source": self._source, **remote.__dict__}).encode())

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _room(self, size: int) -> int:
        """How long the file may become. Raises TrackbedError where it does not fit."""
        free = shutil.disk_usage(self.path.parent).free + self.have - KEPT_FREE
        if size > free:
            raise TrackbedError(
                f"{self.shown} has {size / 2**30:.2f} GiB, and {max(0, free) / 2**30:.2f} GiB are free for it in "
                f"{self.path.parent}",
                "free some disk there, or set STATE_DIR to a folder on a larger one",
            )
        return free

    @contextmanager
    def _appending(self) -> Iterator[IO[bytes]]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, 0o600), "wb") as stream:
            yield stream

    def _tell(self, whole: int) -> None:
        have = self.have
        self._progress.amount("download", have, whole, mib(have, 0) + (f" of {mib(whole, 0)}" if whole else ""))

    # from a web server

    def from_web(self, url: str) -> str:
        """Gives the mark of what was fetched."""
        with session() as web:

            def cut(state: RetryCallState) -> bool:
                return self._fruitless >= TRIES

            retrying = Retrying(retry=retry_if_exception_type(_Cut), stop=cut, wait=WAIT, reraise=True)
            try:
                return retrying(self._once, web, url)
            except _Cut as error:
                raise TrackbedError(f"{self.shown}: {error}", AGAIN) from None

    def _once(self, web: requests.Session, url: str) -> str:
        noted, before = self._noted(), self.have
        mark = str(noted.get("mark", ""))
        if not mark:
            before = 0
        self._fruitless += 1
        asked = {"Range": f"bytes={before}-", "If-Range": mark} if before else {}
        with _answer(web, "GET", url, self.shown, (200, 206, 416), asked) as answer:
            remote = described(answer)
            other = answer.status_code == 206 and not _continues(answer, mark, noted.get("size") or 0)
            if answer.status_code == 416 or other or _begins(answer) != before:
                if answer.status_code == 416 and before == noted.get("size"):
                    return mark  # all of it is there
                if before == noted.get("size") and remote == Remote(before, mark):
                    return mark
                if answer.status_code != 200:  # it has another length by now, or answers something else
                    self.remove()
                    raise _Cut("the server has another file by now")
                self._begin(remote)
            elif not before:
                self._begin(remote)
            whole = remote.size if answer.status_code == 200 else int(noted["size"])
            self._take(answer, whole)
        return remote.mark or mark

    def _take(self, answer: requests.Response, whole: int) -> None:
        most = self._room(whole)
        with self._appending() as stream:
            try:
                for data in answer.raw.stream(CHUNK, decode_content=False):
                    stream.write(data)
                    stream.flush()
                    if stream.tell() > self._best:  # a server that always cuts at the same place ends too
                        self._best, self._fruitless = stream.tell(), 0
                    self._tell(whole)
                    if stream.tell() > (whole or most):
                        raise TrackbedError(f"{self.shown} is longer than the server said", "try again later")
            except HTTPError as error:
                raise _Cut(f"the connection was cut: {reason(error)}") from None
        if whole and self.have < whole:
            raise _Cut(f"the connection was cut at {self.have} of {whole} bytes")

    # from a bucket

    def from_bucket(self, bucket: Bucket, key: str, remote: Remote) -> str:
        """``bucket`` begins where ``key`` does."""
        if self._noted() != {"source": self._source, **remote.__dict__}:
            self._begin(remote)
        self._room(remote.size)
        with self._appending() as stream:
            while (have := stream.tell()) < remote.size:
                try:
                    data, _ = bucket.part(key, have, min(PART, remote.size - have), remote.mark)
                except Missing:
                    raise Changed(f"{self.shown} was deleted while it was read", "name another") from None
                stream.write(data)
                stream.flush()
                self._tell(remote.size)
        return remote.mark

    def checked(self, expected: str) -> str:
        """Its SHA-256. Raises TrackbedError, and it is gone, where that is not the ``expected`` one ("": any)."""
        self._progress.step(f"reading {self.shown}")
        with self.path.open("rb") as stream:
            result = hashlib.file_digest(stream, "sha256").hexdigest()
        if expected and result != expected:
            self.remove()
            raise wrong_sum(self.shown, result)
        return result


def wrong_sum(shown: str, result: str) -> TrackbedError:
    return TrackbedError(
        f"{shown} has the SHA-256 {result}, not the one that --sha256 names: nothing was added",
        "compare it with what the data set's page says; the file may have been changed",
    )


def session() -> requests.Session:
    """With the site's proxies, and the certificates that the system trusts."""
    made = requests.Session()
    made.headers["Accept-Encoding"] = "identity"  # bytes are counted as they are stored
    made.verify = next((path for path in site_network.SYSTEM if Path(path).is_file()), True)
    return made


@contextmanager
def _answer(
    web: requests.Session, method: str, url: str, shown: str, good: tuple[int, ...], headers: dict[str, str]
) -> Iterator[requests.Response]:
    """Raises _Cut, or TrackbedError where another try would be the same."""
    try:
        answer = web.request(method, url, headers=headers, stream=True, timeout=TIMES, allow_redirects=True)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Cut(f"no answer: {reason(error)}") from None
    except (requests.RequestException, ValueError) as error:
        raise TrackbedError(f"{shown}: {reason(error)}", "is the address right?") from None
    with answer:
        way = [urlsplit(one.url).scheme for one in (*answer.history, answer)]
        if way[0] == "https" and set(way) != {"https"}:  # whoever is on the way may lead back to https elsewhere
            raise TrackbedError(f"{shown} leads to an address without TLS, which is refused", "name that one")
        if answer.status_code in LATER:
            raise _Cut(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code not in good:
            raise TrackbedError(
                f"{shown}: the server answers {answer.status_code} {answer.reason}",
                "does the address open in a browser?",
            )
        yield answer


def look(url: str, shown: str) -> Remote | None:
    """What the server says of the file without sending it; None where it does not say."""
    try:
        with session() as web, _answer(web, "HEAD", url, shown, (200,), {}) as answer:
            return described(answer)
    except (_Cut, TrackbedError):
        return None  # not every server answers such a question; the download tells what is wrong


def described(answer: requests.Response) -> Remote:
    """The mark is a strong ETag or a date, as If-Range takes them."""
    length, etag = answer.headers.get("Content-Length", ""), answer.headers.get("ETag", "")
    mark = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
    return Remote(int(length) if length.isdecimal() else 0, mark)


def _begins(answer: requests.Response) -> int:
    """Which byte of the file an answer begins with; -1 where it does not say."""
    if answer.status_code == 200:
        return 0
    words = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(words) if words.isdecimal() else -1


def _continues(answer: requests.Response, mark: str, size: int) -> bool:
    """Whether a part is of the file that was begun: not every server looks at If-Range. One may leave the mark out."""
    whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if size and whole.isdecimal() and int(whole) != size:
        return False
    return answer.headers.get("ETag" if mark.startswith('"') else "Last-Modified", mark) == mark


def reason(error: BaseException) -> str:
    """The innermost words of what failed. What surrounds them quotes the address, which may hold a secret."""
    while isinstance(inner := getattr(error, "reason", None) or next(iter(error.args), None), Exception):
        error = inner
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(re.sub(r"\?[^\s'\")]+", "?...", text).split())[:200]
