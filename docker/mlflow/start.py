#!/usr/bin/env python3
"""The one entry of the MLflow server: the image's `trackbed-mlflow`, and what the embedded engine runs.

serve        wait for the database, guard its schema, run `mlflow server`
migrate      bring an older schema up to this MLflow (back up first)
bucket       make sure the bucket (or artifact folder) is there; TRACKBED_S3_CREATE=check only looks
schema       print {"database": revision or null, "code": revision, "state": empty|current|older|newer}
object PATH  print the stored objects below that artifact path as JSON: [{"path": ..., "size": ...}, ...]
known REV    print what that schema revision is to this MLflow: current, older or newer
list         print one JSON line [name, size, mark] for each object; an equal mark: the object is unchanged
out [PREFIX] all objects as a tar stream on stdout; PREFIX: another one than the live one
pick         the same of the objects only whose names stdin has, one JSON string a line
in PREFIX    store the objects of such a stream from stdin below PREFIX
sums PREFIX  print `SHA-256 size path` of every object below PREFIX, read back from the store
sizes        print {"TOP": [objects, bytes, bytes of the last 7 days]} of each experiment's folder
gc AGE       remove runs and experiments deleted longer ago than AGE (30d), with their artifacts
indexes [--remove]  make (or remove, for good) Trackbed's own indexes beside MLflow's, while the server works
drop PREFIX  delete everything below PREFIX
health       exit 0 when the server answers through to its database

Exit codes: 0 done, 1 failed, 2 wrong use, 75 something did not answer in time, 77 access refused,
78 configuration or schema wrong, 143 stopped.
"""

# Heavy modules are imported where they are needed: `health` runs every second while the server starts.
from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

FAILED, USAGE, NO_ANSWER, REFUSED, MISCONFIGURED, STOPPED = 1, 2, 75, 77, 78, 143
WAIT_SECONDS = 60.0
LEFTOVER_SECONDS = 3600.0
SETTLED_SECONDS = 2.0  # a file changed more recently may change again without a new time
GRACE_SECONDS = 25  # for running uploads when the server is stopped
# MLflow requires them for its client's sake; the server only looks whether they are there. The image leaves them out.
CLIENT_ONLY = ("pyarrow", "scipy", "sklearn", "skops", "joblib", "matplotlib", "PIL")
TEMPLATE = "schema.sql"  # beside this file; `python -m helpers.schema_template` makes it
SMALL, CHUNK = 8 * 2**20, 2**20  # bytes: read whole up to here; copied in steps of
# calls to the store at the same time; objects fetched before they are asked for, and up to which size in bytes
THREADS, AHEAD, TINY = 8, 16, 2 * 2**20
BULK = ("list", "out", "pick", "in", "sums", "drop")
BUFFER = 2**17  # bytes of a tar stream; tarfile copies a whole one for each header

DEFAULTS = {
    # The job runner is 9 more processes and 2 GB, for GenAI scoring jobs only.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # S3 servers other than AWS refuse the checksum trailers that newer SDKs send by default.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "PYTHONUNBUFFERED": "1",
}
# Read by MLflow itself: a Kubernetes Service named mlflow sets MLFLOW_PORT=tcp://..., a shell the others.
STRAY = ("MLFLOW_HOST", "MLFLOW_PORT", "MLFLOW_WORKERS", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI",
         "MLFLOW_REGISTRY_STORE_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT")

T = TypeVar("T")


class Stop(Exception):
    """Ends the program with a message and an exit code; ``reason`` is the other side's error code."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class NotYet(Exception):
    """Not there yet; asking again may help."""


def say(text: str) -> None:
    print(f"trackbed: {text}", file=sys.stderr, flush=True)


def wait(what: str, ask: Callable[[], T], seconds: float = WAIT_SECONDS,
         clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> T:
    """Ask until there is an answer; says once that it waits, and why it gave up."""
    end, pause, said = clock() + seconds, 0.1, False
    while True:
        try:
            return ask()
        except NotYet as reason:
            if clock() + pause > end:
                raise Stop(NO_ANSWER, f"{what} did not answer within {seconds:.0f} s: {reason}") from None
            if not said:
                say(f"waiting for {what} ({reason})")
                said = True
        sleep(pause)
        pause = min(pause * 1.5, 2.0)


def required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise Stop(MISCONFIGURED, f"{name} is not set")
    return value


def number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise Stop(MISCONFIGURED, f"{name}={text}: a number from {low} to {high} is expected")
    return int(text)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set what every engine needs and drop what must not reach the server."""
    for name in STRAY:
        environment.pop(name, None)
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)


def server_arguments(environment: Mapping[str, str]) -> list[str]:
    """The arguments of `mlflow`. Store addresses stay in the environment, not in argv."""
    return ["server", "--host", environment.get("TRACKBED_HOST") or "0.0.0.0",
            "--port", str(number(environment, "TRACKBED_PORT", 8000, 1, 65535)),
            "--workers", str(number(environment, "TRACKBED_WORKERS", 2, 1, 256))]


# --- database schema


def migrations(folder: Path) -> tuple[str, frozenset[str]]:
    """Newest revision and all known ones, read from the migration files as text.

    Alembic's own ScriptDirectory executes each file, which imports all of MLflow: 8 seconds.
    """
    import ast
    import re

    line = re.compile(r"^(revision|down_revision)\s*(?::[^=\n]+)?=\s*(.+?)\s*(?:#.*)?$", re.MULTILINE)
    known: set[str] = set()
    parents: set[str] = set()
    for path in folder.glob("*.py"):
        for name, text in line.findall(path.read_text(encoding="utf-8")):
            value = ast.literal_eval(text)
            values = (value,) if isinstance(value, str) else tuple(value or ())
            (known if name == "revision" else parents).update(values)
    heads = known - parents
    if len(heads) != 1:
        raise Stop(MISCONFIGURED, f"{len(heads)} newest revisions instead of one in MLflow's {folder}")
    return heads.pop(), frozenset(known)


def schema_state(database: str | None, populated: bool, code: str, known: frozenset[str]) -> str:
    """empty, current, older or newer.

    Tables without a revision and without runs are a first start that was killed half-way: MLflow goes on.
    """
    if database is None:
        return "older" if populated else "empty"
    if database == code:
        return "current"
    return "older" if database in known else "newer"


def refused(message: str) -> bool:
    """True for answers of PostgreSQL that waiting does not change."""
    words = ("password authentication failed", "no password supplied", "no pg_hba.conf entry",
             "is not permitted to log in")
    return any(word in message for word in words)


def read_database(uri: str) -> tuple[str | None, bool]:
    """The revision in the database, and whether it has runs."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(uri)
    options: dict[str, Any] = {"connect_timeout": 5} if url.get_backend_name() == "postgresql" else {}
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=options)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            rows: list[str] = []
            if "alembic_version" in tables:
                query = sqlalchemy.text("SELECT version_num FROM alembic_version")
                rows = sorted(connection.execute(query).scalars())
            populated = "runs" in tables and connection.execute(
                sqlalchemy.text("SELECT 1 FROM runs LIMIT 1")).first() is not None
    except sqlalchemy.exc.OperationalError as error:
        reason = " ".join(str(error.orig).split())
        if refused(reason):
            raise Stop(REFUSED, f"the database refuses: {reason}") from None
        raise NotYet(reason) from None
    return ",".join(rows) or None, populated


def mlflow_folder() -> Path:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("mlflow")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise Stop(MISCONFIGURED, "MLflow is not installed here")
    return Path(next(iter(spec.submodule_search_locations)))


def schema(environment: Mapping[str, str]) -> dict[str, str | None]:
    uri = required(environment, "MLFLOW_BACKEND_STORE_URI")
    code, known = migrations(mlflow_folder() / "store" / "db_migrations" / "versions")
    database, populated = wait("the database", lambda: read_database(uri))
    return {"database": database, "code": code, "state": schema_state(database, populated, code, known)}


def guard(found: Mapping[str, str | None], migrate: bool) -> bool:
    """True when a migration has to run first; stops when the schema is not for this MLflow."""
    have, want = found["database"] or "none", found["code"]
    if found["state"] == "older" and not migrate:
        raise Stop(MISCONFIGURED, f"the database has the schema of an older MLflow ({have}, needed: {want}); "
                   "it is not migrated silently\n`invoke upgrade` backs up, migrates a copy and switches to it; "
                   "without Trackbed: TRACKBED_MIGRATE=1")
    if found["state"] == "newer":
        raise Stop(MISCONFIGURED, f"the database has the schema of a newer MLflow ({have}, needed: {want})\n"
                   "start the newer MLflow again, or restore a backup made with this one")
    return found["state"] == "older"


def template(code: str) -> str | None:
    """The statements that make MLflow's empty schema, if what lies beside this file is of that revision."""
    from pathlib import Path

    try:
        first, _, statements = Path(os.path.realpath(__file__)).with_name(TEMPLATE).read_text("utf-8").partition("\n")
    except OSError:
        return None
    return statements if first == f"-- revision {code}" else None


def fill(uri: str, statements: str) -> bool:
    """Make the tables of an empty PostgreSQL database at once; False when it is not empty or another kind.

    MLflow's own way is its first tables and 40 migrations over them. All or nothing: after an error MLflow makes them.
    """
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "postgresql":
        return False
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        with engine.begin() as connection:
            # two servers on one empty database: the second one waits, and then finds tables
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(7236015)"))
            if sqlalchemy.inspect(connection).get_table_names():
                return False
            with connection.connection.cursor() as cursor:  # SQLAlchemy would take % for a placeholder
                cursor.execute(statements)
            return True
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error))
    except Exception as error:  # the driver's own
        if type(error).__module__.partition(".")[0] != "psycopg2":
            raise
        reason = str(error)
    say(f"the prepared schema could not be used ({' '.join(reason.split())}); MLflow makes it")
    return False


# --- artifacts


def s3_address(destination: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it) of s3://bucket/prefix."""
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    if not bucket:
        raise Stop(MISCONFIGURED, f"MLFLOW_ARTIFACTS_DESTINATION={destination} names no bucket")
    return bucket, prefix.strip("/")


def artifact_path(text: str) -> str:
    """An artifact path as MLflow names it, without scheme, slashes around it and ways out of the tree."""
    path = text.removeprefix("mlflow-artifacts:").strip("/")
    if ".." in path.split("/"):
        raise Stop(USAGE, f"{text} is not an artifact path")
    return path


def folder_of(destination: str) -> Path:
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(destination).path) if destination.startswith("file:") else destination)


def s3_client(environment: Mapping[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    style = environment.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")
    return boto3.client(
        "s3", endpoint_url=environment.get("MLFLOW_S3_ENDPOINT_URL") or None,
        verify=False if environment.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("1", "true") else None,
        config=Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1},
                      max_pool_connections=THREADS + AHEAD, s3={"addressing_style": style}))


def s3_verdict(code: str, status: int) -> str:
    """What an S3 error means here: missing, refused, later or failed."""
    if code in ("NoSuchBucket", "404"):
        return "missing"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch") or status in (401, 403):  # VersityGW: 404 for the first
        return "refused"
    return "later" if status >= 500 or code in ("SlowDown", "RequestTimeout") else "failed"


def s3_call(call: Callable[[], T]) -> T | None:
    """The result, None when the bucket is missing; NotYet or Stop for the rest."""
    from botocore import exceptions

    try:
        return call()
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        verdict = s3_verdict(code, status)
        if verdict == "missing":
            return None
        if verdict == "later":
            raise NotYet(f"{code or status}") from None
        exit_code = REFUSED if verdict == "refused" else FAILED
        raise Stop(exit_code, f"the object store refuses: {error}", code) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise Stop(MISCONFIGURED, f"no keys for the object store: {error}") from None
    except exceptions.SSLError as error:
        raise Stop(MISCONFIGURED, f"the object store's certificate is not accepted: {error}") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
        raise NotYet(" ".join(str(error).split())) from None


def make_bucket(client: Any, bucket: str, region: str) -> None:
    place: dict[str, Any] = {}
    if region not in ("", "us-east-1"):  # us-east-1 is the one region that must not be named
        place["CreateBucketConfiguration"] = {"LocationConstraint": region}
    try:
        s3_call(lambda: client.create_bucket(Bucket=bucket, **place))
    except Stop as stop:
        if stop.reason == "BucketAlreadyExists":
            raise Stop(REFUSED, f"the bucket name {bucket} belongs to someone else: choose another") from None
        if stop.reason != "BucketAlreadyOwnedByYou":
            raise


def ensure_bucket(environment: Mapping[str, str]) -> str:
    """Make or check the place of the artifacts; says what it did."""
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    may_create = environment.get("TRACKBED_S3_CREATE", "auto") != "check"
    if not destination.startswith("s3://"):
        folder = folder_of(destination)
        if may_create:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise Stop(MISCONFIGURED, f"the artifact folder {folder} is missing or not writable")
        return f"artifact folder {folder} is there"
    bucket, _ = s3_address(destination)
    client = s3_client(environment)

    def look() -> bool:
        return s3_call(lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1)) is not None

    endpoint = environment.get("MLFLOW_S3_ENDPOINT_URL") or "AWS"
    what = f"the object store at {endpoint}"
    if wait(what, look):
        return f"bucket {bucket} is there"
    if not may_create:
        raise Stop(MISCONFIGURED, f"the bucket {bucket} does not exist in {what}; create it there")
    wait(what, lambda: make_bucket(client, bucket, environment.get("AWS_DEFAULT_REGION", "")))
    if not wait(what, look):
        raise Stop(FAILED, f"the bucket {bucket} was created and is still not there")
    return f"bucket {bucket} created"


def files_below(folder: Path, path: str) -> list[dict[str, str | int]]:
    top = folder / path
    files = [top] if top.is_file() else sorted(file for file in top.rglob("*") if file.is_file())
    return [{"path": file.relative_to(folder).as_posix(), "size": file.stat().st_size} for file in files]


def objects(environment: Mapping[str, str], path: str) -> list[dict[str, str | int]]:
    """The stored objects at or below an artifact path, named relative to the artifact root."""
    path = artifact_path(path)
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        return files_below(folder_of(destination), path)
    bucket, prefix = s3_address(destination)
    root = f"{prefix}/" if prefix else ""
    client = s3_client(environment)

    def ask() -> list[dict[str, str | int]]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root + path)
        return [{"path": item["Key"].removeprefix(root), "size": item["Size"]}
                for page in pages for item in page.get("Contents", ())]

    found = wait("the object store", lambda: s3_call(ask), seconds=10)
    if found is None:
        raise Stop(FAILED, f"the bucket {bucket} does not exist")
    inside = f"{path}/" if path else ""
    return [item for item in found if item["path"] == path or str(item["path"]).startswith(inside)]


# --- all objects at once, for backups


def at_prefix(environment: Mapping[str, str], prefix: str) -> str:
    """The artifacts' destination with its last segment, the prefix that is live, replaced ("" keeps it)."""
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION").rstrip("/")
    if not prefix:
        return destination
    if "/" in prefix or prefix in (".", ".."):
        raise Stop(USAGE, f"{prefix} is not a prefix")
    return f"{destination.rpartition('/')[0]}/{prefix}"


class Lane:
    """Calls made by THREADS threads at the same time; ``limit`` of them are on the way, then ``do`` waits."""

    def __init__(self, limit: int = THREADS) -> None:
        from collections import deque
        from concurrent.futures import Future, ThreadPoolExecutor

        self.limit, self.pool = limit, ThreadPoolExecutor(THREADS)
        self.open: deque[Future[Any]] = deque()

    def do(self, call: Callable[[], Any]) -> None:
        """Begin a call; raises what an earlier one raised."""
        if len(self.open) >= self.limit:
            self.next()
        self.open.append(self.pool.submit(call))

    def next(self) -> Any:
        """The result of the earliest call that is on the way."""
        try:
            return self.open.popleft().result()
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)  # nobody asks for the others
            raise

    def finish(self) -> list[Any]:
        """Wait for all; gives their results in the order of the calls."""
        return [self.next() for _ in range(len(self.open))]


class FolderObjects:
    """Objects as files below a folder. Names are relative, with slashes; sizes in bytes."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listing(self) -> Iterator[tuple[str, int, float]]:
        """Name, size and time of the last change."""
        for top, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                path = os.path.join(top, file)
                try:
                    found = os.stat(path)
                except FileNotFoundError:
                    continue  # deleted since
                yield os.path.relpath(path, self.folder), found.st_size, found.st_mtime

    def names(self) -> Iterator[tuple[str, int]]:
        yield from ((name, size) for name, size, _ in self.listing())

    def marked(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and what changes with the content: no program can set a file's ctime. "" where that is unsure."""
        for name, _, _ in self.listing():
            now = time.time()
            try:
                found = os.stat(self.folder / name)
            except FileNotFoundError:
                continue
            sure = found.st_ctime < now - SETTLED_SECONDS
            yield name, found.st_size, f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}" if sure else ""

    def open(self, name: str) -> tuple[int, BinaryIO]:
        """Size and content. A small file that is being rewritten is read again until it stays the same."""
        import io

        for _ in range(50):
            stream = (self.folder / name).open("rb")
            before = os.fstat(stream.fileno())
            if before.st_size > SMALL:
                return before.st_size, stream
            with stream:
                content = stream.read()
                after = os.fstat(stream.fileno())
            if len(content) == before.st_size and before.st_mtime_ns == after.st_mtime_ns:
                return len(content), io.BytesIO(content)
            time.sleep(0.1)
        raise Stop(NO_ANSWER, f"{name} is being written to all the time")

    def put(self, name: str, size: int, stream: BinaryIO) -> None:
        import shutil

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as target:
            shutil.copyfileobj(stream, target, CHUNK)

    def finish(self) -> None:
        os.sync()  # the pointer is moved to these files next

    def drop(self) -> int:
        import shutil

        count = sum(1 for _ in self.names())
        if self.folder.exists():
            shutil.rmtree(self.folder)
        return count


class S3Objects:
    """Objects in a bucket below a prefix."""

    remote = True

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.root = client, bucket, f"{prefix}/" if prefix else ""
        self.lane = Lane()  # holds THREADS times SMALL bytes at the most

    def _pages(self) -> Iterator[list[dict[str, Any]]]:
        token: dict[str, str] = {}
        while True:
            page = wait("the object store", lambda more=token: s3_call(  # type: ignore[misc]
                lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.root, **more)))
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
        for page in self._pages():
            yield from ((item["Key"].removeprefix(self.root), item["Size"], item["LastModified"].timestamp())
                        for item in page
                        if not item["Key"].endswith("/"))

    def marked(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and what changes with the content: ETag and time. "" where the ETag is no checksum."""
        import re

        for page in self._pages():
            for item in page:
                tag = str(item.get("ETag", "")).strip('"')
                sure = re.fullmatch(r"[0-9a-f]{32}(-[0-9]+)?", tag)
                if not item["Key"].endswith("/"):
                    yield (item["Key"].removeprefix(self.root), item["Size"],
                           f"{tag} {item['LastModified'].isoformat()}" if sure else "")

    def open(self, name: str) -> tuple[int, BinaryIO]:
        return _S3Reader.make(self.client, self.bucket, self.root + name)

    def put(self, name: str, size: int, stream: BinaryIO) -> None:
        """Read the object and store it; it is there, or an error is raised, at the latest after ``finish``."""
        key = self.root + name
        if size <= SMALL:
            content = stream.read()
            self.lane.do(lambda: self._ask("put_object", Key=key, Body=content))
            return
        self.lane.finish()
        whole = {"Key": key, "UploadId": self._ask("create_multipart_upload", Key=key)["UploadId"]}
        step, number = max(SMALL, -(-size // 9000)), 0  # 10,000 parts at the most
        tags: list[str] = []
        while body := stream.read(step):
            number += 1
            if len(self.lane.open) == self.lane.limit:
                tags.append(self.lane.next())
            self.lane.do(lambda n=number, b=body: self._ask(  # type: ignore[misc]
                "upload_part", **whole, PartNumber=n, Body=b)["ETag"])
        tags += self.lane.finish()
        self._ask("complete_multipart_upload", **whole, MultipartUpload={
            "Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]})

    def _ask(self, call: str, **words: Any) -> Any:
        answer = wait("the object store", lambda: s3_call(lambda: getattr(self.client, call)(
            Bucket=self.bucket, **words)))
        if answer is None:
            raise Stop(FAILED, f"the bucket {self.bucket} does not exist")
        return answer

    def finish(self) -> None:
        """S3 answers when an object is stored."""
        self.lane.finish()

    def drop(self) -> int:
        count = 0
        for name, _ in self.names():
            self.lane.do(lambda key=self.root + name: self._ask("delete_object", Key=key))  # type: ignore[misc]
            count += 1
        self.lane.finish()
        return count


class _S3Reader:
    """The content of one version of an object; a connection that breaks is taken up where it was."""

    def __init__(self, client: Any, where: dict[str, str], first: Any) -> None:
        self.client, self.where, self.at, self.size = client, where, 0, int(first["ContentLength"])
        self.body = first["Body"]

    @classmethod
    def make(cls, client: Any, bucket: str, key: str) -> tuple[int, BinaryIO]:
        where = {"Bucket": bucket, "Key": key}
        first = wait("the object store", lambda: _present(lambda: client.get_object(**where)))
        if first is None:
            raise FileNotFoundError(key)
        reader = cls(client, {**where, "IfMatch": first["ETag"]}, first)
        return reader.size, reader  # type: ignore[return-value]

    def read(self, count: int = -1) -> bytes:
        wanted = self.size - self.at if count < 0 else min(count, self.size - self.at)
        found = bytearray()
        while len(found) < wanted:  # tarfile takes a short answer for the end
            left = wanted - len(found)
            found += wait("the object store", lambda n=left: self._read(n))  # type: ignore[misc]
        return bytes(found)

    def _read(self, wanted: int) -> bytes:
        from botocore import exceptions

        try:
            if self.body is None:
                answer = s3_call(lambda: self.client.get_object(**self.where, Range=f"bytes={self.at}-"))
                self.body = answer["Body"] if answer else None
            content = bytes(self.body.read(wanted))
        except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError,
                OSError) as error:
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


def _present(call: Callable[[], T]) -> T | None:
    """The result, None when the object is not there (any more)."""
    try:
        return s3_call(call)
    except Stop as stop:
        if stop.reason in ("NoSuchKey", "404"):
            return None
        raise


def storage(environment: Mapping[str, str], prefix: str) -> FolderObjects | S3Objects:
    destination = at_prefix(environment, prefix)
    if not destination.startswith("s3://"):
        return FolderObjects(folder_of(destination))
    return S3Objects(s3_client(environment), *s3_address(destination))


def fetched(place: FolderObjects | S3Objects, names: Iterator[str]) -> Iterator[tuple[str, int, BinaryIO | None]]:
    """Name, size and content of each object, in order; None for one that is not there any more.

    From a store over the network up to AHEAD objects are asked for before their turn, those of up to TINY bytes read.
    """
    import functools
    import itertools

    if not place.remote:
        yield from (_fetch(place, name) for name in names)
        return
    lane = Lane(AHEAD)
    try:
        for name in itertools.islice(names, AHEAD):
            lane.do(functools.partial(_fetch, place, name))
        while lane.open:
            found = lane.next()
            for name in itertools.islice(names, 1):
                lane.do(functools.partial(_fetch, place, name))
            yield found
    finally:
        lane.pool.shutdown(wait=False, cancel_futures=True)


def _fetch(place: FolderObjects | S3Objects, name: str) -> tuple[str, int, BinaryIO | None]:
    import io

    try:
        size, stream = place.open(name)
    except FileNotFoundError:
        return name, 0, None
    if not place.remote or size > TINY:
        return name, size, stream
    content = stream.read()
    stream.close()
    return name, size, io.BytesIO(content)


def objects_list(environment: Mapping[str, str]) -> None:
    """Print name, size and mark of every object, and at the end their count: `null`, then the number."""
    import json

    count = 0
    for entry in storage(environment, "").marked():
        print(json.dumps(entry))
        count += 1
    print(json.dumps([None, count, ""]))


def objects_picked(environment: Mapping[str, str], source: BinaryIO, target: BinaryIO) -> str:
    """`objects_out` of the names that ``source`` has. They are all read first: who sends them reads nothing yet."""
    import json
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(source, spool, CHUNK)
        spool.seek(0)
        return objects_out(environment, "", target, (str(json.loads(line)) for line in spool))


def objects_out(environment: Mapping[str, str], prefix: str, target: BinaryIO,
                wanted: Iterator[str] | None = None) -> str:
    """Write every object to a tar stream as `o/NAME`; the last member, `end`, tells that it is whole."""
    import io
    import json

    place, count, gone = storage(environment, prefix), 0, 0
    for name, size, stream in fetched(place, wanted or (name for name, _ in place.names())):
        if stream is None:
            gone += 1  # deleted while we were listing: nothing points to it any more
            continue
        _write_member(target, f"o/{name}", size, stream)
        stream.close()
        count += 1
    end = json.dumps({"objects": count, "gone": gone}).encode()
    _write_member(target, "end", len(end), io.BytesIO(end))
    target.write(bytes(1024))
    return f"{count} objects"


def _write_member(target: BinaryIO, name: str, size: int, stream: BinaryIO) -> None:
    """A tar member. tarfile's own way copies its buffer again for each 16 KiB, which is most of the time."""
    import tarfile

    member = tarfile.TarInfo(name)
    member.size = left = size
    target.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    while left:
        content = stream.read(min(left, CHUNK))
        if not content:
            raise OSError(f"{name} ended {left} bytes early")
        target.write(content)
        left -= len(content)
    target.write(bytes(-size % 512))


def objects_in(environment: Mapping[str, str], prefix: str, source: BinaryIO) -> str:
    """Store what `objects_out` wrote. Fails on a stream that ends early and on names that lead out of the prefix."""
    import tarfile
    from typing import cast

    place, count, ended = storage(environment, prefix), 0, False
    with tarfile.open(fileobj=source, mode="r|", bufsize=BUFFER) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]
            name = member.name.removeprefix("o/")
            if member.name == "end":
                ended = True
                continue
            words = name.split("/")
            if ended or not member.isreg() or name == member.name or not {"", ".", ".."}.isdisjoint(words):
                raise Stop(USAGE, f"{member.name!r} does not belong into a stream of objects")
            stream = tar.extractfile(member)
            assert stream is not None
            place.put(name, member.size, cast("BinaryIO", stream))
            count += 1
    if not ended:
        raise Stop(FAILED, "the stream of objects ended early")
    place.finish()
    return f"{count} objects stored"


def objects_sums(environment: Mapping[str, str], prefix: str) -> None:
    """Print `SHA-256 size name` for each object as the store gives it back; names as JSON strings."""
    import hashlib
    import json

    place = storage(environment, prefix)
    for name, size, stream in fetched(place, (name for name, _ in place.names())):
        if stream is None:
            raise Stop(FAILED, f"{name} was deleted meanwhile")
        sha = hashlib.sha256()
        while content := stream.read(CHUNK):
            sha.update(content)
        stream.close()
        print(sha.hexdigest(), size, json.dumps(name))


# --- the server


def health(environment: Mapping[str, str]) -> str:
    """Ask for an experiment: /health is 200 without a database. A bare socket keeps this at a few ms."""
    import socket

    port = number(environment, "TRACKBED_PORT", 8000, 1, 65535)
    host = environment.get("TRACKBED_HOST") or "127.0.0.1"
    request = (f"GET /api/2.0/mlflow/experiments/search?max_results=1 HTTP/1.1\r\nHost: localhost:{port}\r\n"
               "Connection: close\r\n\r\n")
    try:
        address = "127.0.0.1" if host == "0.0.0.0" else host
        with socket.create_connection((address, port), timeout=8) as connection:
            connection.sendall(request.encode())
            answer = b""
            while chunk := connection.recv(4096):
                answer += chunk
    except OSError as error:
        raise Stop(FAILED, f"no answer on port {port}: {error}") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise Stop(FAILED, f"{status}: {body[:300].decode('utf-8', 'replace')}")
    return status


def clear_leftovers(folder: Path, now: float) -> int:
    """Remove what a killed server left of uploads in its own temporary folder; gives the count."""
    import shutil

    count = 0
    for entry in folder.glob("tmp*"):
        try:
            if entry.lstat().st_mtime > now - LEFTOVER_SECONDS or entry.lstat().st_uid != os.getuid():
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            count += 1
        except OSError as error:
            say(f"cannot remove the leftover {entry}: {error.strerror}")
    return count


def end_leftovers(environment: Mapping[str, str], proc: str = "/proc") -> int:
    """End what a killed server left behind: its workers live on and hold its port. Gives the count.

    They are of the same system, run this Python, and the leader of their process group is gone.
    A container needs none of this: there all processes end with the first.
    """
    import signal
    from pathlib import Path

    name = "TRACKBED_INSTANCE_OF_PROCESS"
    if not environment.get(name):
        return 0
    wanted, count = f"{name}={environment[name]}".encode(), 0
    for folder in Path(proc).glob("[0-9]*"):
        try:
            group = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2])
            if (wanted in (folder / "environ").read_bytes().split(b"\0")
                    and (folder / "cmdline").read_bytes().split(b"\0")[0] == os.fsencode(sys.executable)
                    and not Path(proc, str(group)).exists()):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
        except (OSError, ValueError, IndexError):
            continue
    return count


def run_mlflow(arguments: list[str]) -> NoReturn:
    """`mlflow ARGUMENTS` in this process, so that SIGTERM ends it from the first moment even as process 1."""
    import runpy

    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def make_indexes(engine: Any) -> None:
    """Our indexes, before the first request. Without them everything works, only slower: no reason not to start."""
    import indexes
    from sqlalchemy.exc import SQLAlchemyError

    if engine.dialect.name != "postgresql":
        return
    try:
        if made := indexes.ensure(engine):
            say(f"made the indexes {', '.join(made)}")
    except SQLAlchemyError as error:
        say(f"searching stays slower, an index could not be made: {' '.join(str(error).split())[:300]}")


def change_indexes(environment: Mapping[str, str], remove: bool) -> str:
    """`indexes`: make or remove them while the server works."""
    import indexes
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(required(environment, "MLFLOW_BACKEND_STORE_URI"))
    if url.get_backend_name() != "postgresql":
        raise Stop(USAGE, "the indexes are for PostgreSQL")
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    try:
        names = indexes.remove(engine) if remove else indexes.ensure(engine, concurrently=True)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise Stop(FAILED, f"the database refuses: {' '.join(str(error).split())[:300]}") from None
    return f"indexes {'removed' if remove else 'made'}: {', '.join(names) or 'none'}"


class Workers:
    """Takes the place of the command that `mlflow server` would start: gunicorn in this same process.

    MLflow is imported once (4 s of processor time) and shared by the workers, which are forked from here.
    """

    def __init__(self, host: str, port: str, count: str) -> None:
        self.options = {
            "bind": f"{host}:{port}", "workers": int(count), "preload_app": True, "keepalive": 75,
            # without a limit a running upload would hold the server until it is killed
            "graceful_timeout": GRACE_SECONDS, "timeout": 120, "errorlog": "-", "loglevel": "warning",
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # a heartbeat must not wait for a disk
        }

    def __call__(self, command: object, extra_env: Mapping[str, str], **_: object) -> NoReturn:
        import gc

        import quick
        from gunicorn.app.base import BaseApplication  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from mlflow.server import app as flask_app  # type: ignore[import-not-found]
        from mlflow.server import handlers
        from uvicorn_worker import UvicornWorker  # type: ignore[import-not-found]

        # without uvloop each request on a kept connection waits 44 ms
        options = {"loop": "uvloop", "http": "httptools", "server_header": False,
                   "timeout_graceful_shutdown": GRACE_SECONDS - 1}
        worker = type("Worker", (UvicornWorker,), {"CONFIG_KWARGS": options})

        os.environ.update(extra_env)
        settings = {**self.options, "worker_class": worker}

        if engine := getattr(handlers._tracking_store, "engine", None):
            make_indexes(engine)

        class Application(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                for name, value in settings.items():
                    self.cfg.set(name, value)

            def load(self) -> object:
                from mlflow.server.fastapi_app import app  # type: ignore[import-not-found]

                for store in (handlers._tracking_store, handlers._model_registry_store):
                    if engine := getattr(store, "engine", None):
                        engine.dispose()  # a connection must not be shared by two processes
                        quick.batched(engine)
                served = quick.shortened(app, flask_app)
                gc.collect()
                gc.freeze()  # what was imported stays shared memory
                gc.enable()
                return served

        Application().run()
        raise SystemExit(0)


def serve_in_this_process(arguments: list[str]) -> NoReturn:
    """`mlflow server ARGUMENTS` with MLflow's own checks, its last step replaced."""
    import gc

    gc.disable()  # until the workers are forked: what is imported is no garbage, looking for it takes a tenth
    for name in CLIENT_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]  # not installed, as far as this process is concerned: 45 MB
    import mlflow.server  # type: ignore[import-not-found]

    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    mlflow.server._exec_cmd = Workers(options["--host"], options["--port"], options["--workers"])
    run_mlflow(arguments)


def serve() -> NoReturn:
    import subprocess
    from pathlib import Path

    prepare(os.environ)
    arguments = server_arguments(os.environ)
    required(os.environ, "MLFLOW_ARTIFACTS_DESTINATION")
    if folder := os.environ.get("TRACKBED_OWN_TMP"):
        clear_leftovers(Path(folder), time.time())
    if count := end_leftovers(os.environ):
        say(f"ended {count} processes of a server that was killed")
    found = schema(os.environ)
    if found["state"] == "empty" and (statements := template(str(found["code"]))):
        fill(os.environ["MLFLOW_BACKEND_STORE_URI"], statements)
    if guard(found, os.environ.get("TRACKBED_MIGRATE") == "1"):
        say(f"migrating the database from {found['database']} to {found['code']}")
        done = subprocess.run([sys.executable, __file__, "migrate"], check=False)
        if done.returncode:
            raise Stop(FAILED, f"the migration failed (exit code {done.returncode}); nothing was started")
    serve_in_this_process(arguments)


def sizes(environment: Mapping[str, str], now: float) -> dict[str, list[int]]:
    """Objects, bytes and bytes of the last 7 days per top folder, which is an experiment's id."""
    found: dict[str, list[int]] = {}
    for name, size, changed in storage(environment, "").listing():
        entry = found.setdefault(name.split("/")[0], [0, 0, 0])
        entry[0] += 1
        entry[1] += size
        entry[2] += size if changed > now - 7 * 86400 else 0
    return found


def collect(environment: MutableMapping[str, str], age: str) -> NoReturn:
    host = environment.get("TRACKBED_HOST") or "127.0.0.1"
    port = number(environment, "TRACKBED_PORT", 8000, 1, 65535)
    uri = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    environment["MLFLOW_TRACKING_URI"] = uri
    run_mlflow(["gc", "--older-than", age, "--tracking-uri", uri, "--backend-store-uri",
                required(environment, "MLFLOW_BACKEND_STORE_URI")])


def bulk(command: str, prefix: str) -> None:
    """The subcommands of backups."""
    if command == "out":
        say(objects_out(os.environ, prefix, sys.stdout.buffer))
    elif command == "list":
        objects_list(os.environ)
    elif command == "pick":
        say(objects_picked(os.environ, sys.stdin.buffer, sys.stdout.buffer))
    elif command == "in":
        say(objects_in(os.environ, prefix, sys.stdin.buffer))
    elif command == "sums":
        objects_sums(os.environ, prefix)
    else:
        say(f"{storage(os.environ, prefix).drop()} objects removed")


def main(arguments: list[str]) -> int:
    import json
    import signal
    import tarfile

    def stopped(number: int, frame: object) -> NoReturn:
        if command in BULK:
            os._exit(STOPPED)  # threads that wait for the store would hold it up
        raise SystemExit(STOPPED)

    command, *rest = arguments or ["help"]
    signal.signal(signal.SIGTERM, stopped)
    takes = {"object": (1,), "known": (1,), "in": (1,), "drop": (1,), "gc": (1,), "out": (0, 1), "sums": (0, 1),
             "indexes": (0, 1)}
    if len(rest) not in takes.get(command, (0,)):
        command = "help"
    try:
        if command == "serve":
            serve()
        elif command == "migrate":
            prepare(os.environ)
            run_mlflow(["db", "upgrade", required(os.environ, "MLFLOW_BACKEND_STORE_URI")])
        elif command == "bucket":
            prepare(os.environ)
            say(ensure_bucket(os.environ))
        elif command == "schema":
            print(json.dumps(schema(os.environ)))
        elif command == "object":
            prepare(os.environ)
            print(json.dumps(objects(os.environ, rest[0])))
        elif command == "known":
            code, known = migrations(mlflow_folder() / "store" / "db_migrations" / "versions")
            print(schema_state(rest[0], True, code, known))
        elif command == "sizes":
            prepare(os.environ)
            print(json.dumps(sizes(os.environ, time.time())))
        elif command == "gc":
            prepare(os.environ)
            collect(os.environ, rest[0])
        elif command in BULK:
            prepare(os.environ)
            try:
                bulk(command, rest[0] if rest else "")
            except (OSError, EOFError, tarfile.TarError) as error:
                raise Stop(FAILED, f"{command}: {error}") from None
        elif command == "indexes" and rest in ([], ["--remove"]):
            say(change_indexes(os.environ, bool(rest)))
        elif command == "health":
            health(os.environ)
        else:
            print(__doc__, file=sys.stderr)
            return USAGE
    except Stop as stop:
        for text in str(stop).splitlines():
            say(text)
        return stop.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
