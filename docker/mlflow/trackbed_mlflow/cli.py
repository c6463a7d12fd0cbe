#!/usr/bin/env python3
"""The one entry of the MLflow server: the image's `trackbed-mlflow`, and what the embedded engine runs.

serve        wait for the database, guard its schema, run `mlflow server`
migrate      bring an older schema up to this MLflow (back up first)
bucket       make sure the bucket (or artifact folder) is there; TRACKBED_S3_CREATE=check only looks
schema       print {"database": revision or null, "code": revision, "state": empty|current|older|newer}
object PATH  print the stored objects below that artifact path as JSON: [{"path": ..., "size": ...}, ...]
known REV    print what that schema revision is to this MLflow: current, older or newer
make REV     make the empty tables of that revision, in an empty database
list         print one JSON line [name, size, mark] for each object; an equal mark: the object is unchanged
out [PREFIX] all objects as a tar stream on stdout; PREFIX: another one than the live one
pick         the same of the objects only whose names stdin has, one JSON string a line
in PREFIX    store the objects of such a stream from stdin below PREFIX; print as JSON what had to be renamed
sums PREFIX  print `SHA-256 size path` of every object below PREFIX, read back from the store
sizes        print {"TOP": [objects, bytes, bytes of the last 7 days]} of each experiment's folder
gc AGE [--show]  remove (or only tell as JSON) what was deleted longer ago than AGE (30d), with its artifacts
usage        print {"TOP": [objects, bytes, bytes of the last 7 days, bytes of what was deleted]} of each experiment
indexes [--remove]  make (or remove, for good) Trackbed's own indexes beside MLflow's, while the server works
drop PREFIX  delete everything below PREFIX
sealed       print as JSON what is encrypted in the database and what nobody can decrypt; stdin: keys to try
opens        print as JSON which of the keys on stdin open the object store and the database
recheck      after an unclean stop: remove half uploads, look at what was written before it (a folder store)
written      print as JSON what that look found
unlisted DIR print as JSON, one a line, the objects below that folder of MinIO's volume which it does not list
store-sync DIR  sync what VersityGW stores in that folder, as asked over the network
jobs         keep MLflow's job runner running beside the server that started this (TRACKBED_JOBS=on)
health       exit 0 when the server answers through to its database

Exit codes: 0 done, 1 failed, 2 wrong use, 75 something did not answer in time, 77 access refused,
78 configuration or schema wrong, 143 stopped.
"""

# What not all commands need is imported where it is needed, the modules beside this file too: `health` runs every
# half second while the server starts.
from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from trackbed_mlflow import PROGRAM
from trackbed_mlflow.errors import FAILED, MISCONFIGURED, STOPPED, USAGE, Stop, required, say

if TYPE_CHECKING:
    from pathlib import Path

    from trackbed_mlflow.write_journal import Journal

LEFTOVER_SECONDS = 3600.0
GRACE_SECONDS = 25  # for running uploads when the server is stopped
# MLflow requires them for its client's sake; the server only looks whether they are there. The image leaves them out.
CLIENT_ONLY = ("pyarrow", "scipy", "sklearn", "skops", "joblib", "matplotlib", "PIL")
BULK = ("list", "out", "pick", "in", "sums", "sizes", "drop")

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # S3 servers other than AWS refuse the checksum trailers that newer SDKs send by default.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    # 60 s without a byte end an attempt; botocore makes five of them, while a thread and a client wait
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "2",
    "PYTHONUNBUFFERED": "1",
}
# Read by MLflow itself: a Kubernetes Service named mlflow sets MLFLOW_PORT=tcp://..., a shell the others.
STRAY = (
    "MLFLOW_HOST",
    "MLFLOW_PORT",
    "MLFLOW_WORKERS",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    # another prefix would be other addresses than edge/routes.py judges; MLflow would forward to the last
    "MLFLOW_STATIC_PREFIX",
    "_MLFLOW_STATIC_PREFIX",
    "MLFLOW_DEPLOYMENTS_TARGET",
)


def number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise Stop(MISCONFIGURED, f"{name}={text}: a number from {low} to {high} is expected")
    return int(text)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set what every engine needs and drop what must not reach the server."""
    from trackbed_mlflow import jobs

    for name in STRAY:
        environment.pop(name, None)
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    jobs.prepare(environment)


def server_arguments(environment: Mapping[str, str]) -> list[str]:
    """The arguments of `mlflow`. Store addresses stay in the environment, not in argv."""
    return [
        "server",
        "--host",
        environment.get("TRACKBED_HOST") or "0.0.0.0",
        "--port",
        str(number(environment, "TRACKBED_PORT", 8000, 1, 65535)),
        "--workers",
        str(number(environment, "TRACKBED_WORKERS", 2, 1, 256)),
    ]


def health(environment: Mapping[str, str]) -> str:
    """Ask for an experiment: /health is 200 without a database. A bare socket keeps this at a few ms."""
    import socket

    from trackbed_mlflow.edge import access_token

    port = number(environment, "TRACKBED_PORT", 8000, 1, 65535)
    host = environment.get("TRACKBED_HOST") or "127.0.0.1"
    token = access_token.read_token(environment)
    login = f"Authorization: Bearer {token}\r\n" if token else ""
    request = (
        f"GET /api/2.0/mlflow/experiments/search?max_results=1 HTTP/1.1\r\nHost: localhost:{port}\r\n{login}"
        "Connection: close\r\n\r\n"
    )
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
            if (
                wanted in (folder / "environ").read_bytes().split(b"\0")
                and (folder / "cmdline").read_bytes().split(b"\0")[0] == os.fsencode(sys.executable)
                and not Path(proc, str(group)).exists()
            ):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
        except (OSError, ValueError, IndexError):
            continue
    return count


def run_mlflow(arguments: list[str]) -> NoReturn:
    """`mlflow ARGUMENTS` in this process, so that SIGTERM ends it from the first moment even as process 1."""
    import runpy

    from trackbed_mlflow import schema

    schema.find_migrations()
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def held_socket() -> int | None:
    """The listening socket that the supervisor holds for this server, which comes as standard input; None without."""
    import socket

    try:
        number = os.dup(0)
        with socket.socket(fileno=number) as found:
            listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            found.detach()
    except OSError:
        return None  # no socket, or closed
    if not listens:
        return None
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return number


class Workers:
    """Takes the place of the command that `mlflow server` would start: gunicorn in this same process.

    MLflow is imported once (4 s of processor time) and shared by the workers, which are forked from here.
    """

    def __init__(self, host: str, port: str, count: str) -> None:
        held = held_socket()
        self.options: dict[str, Any] = {
            "bind": f"{host}:{port}" if held is None else f"fd://{held}",
            "workers": int(count),
            "preload_app": True,
            "keepalive": 75,
            "control_socket_disable": True,  # its place is the home: may be closed, and all systems of a user share it
            # without a limit a running upload would hold the server until it is killed
            "graceful_timeout": GRACE_SECONDS,
            "timeout": 120,
            "errorlog": "-",
            "loglevel": "warning",
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # a heartbeat must not wait for a disk
        }

    def __call__(self, command: object, extra_env: Mapping[str, str], **_: object) -> NoReturn:
        import gc

        from gunicorn.app.base import BaseApplication  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from mlflow.server import app as flask_app  # type: ignore[import-not-found]
        from mlflow.server import handlers
        from uvicorn_worker import UvicornWorker  # type: ignore[import-not-found]

        from trackbed_mlflow import (
            abandoned_requests,
            artifact_locations,
            durability,
            encryption,
            indexes,
            jobs,
            memory_limit,
            model_metrics,
            ui_defaults,
        )
        from trackbed_mlflow.edge import bad_requests, graphql_limits, identity, middleware
        from trackbed_mlflow.fast_path import json_answers, routing, tracking_store

        # without uvloop each request on a kept connection waits 44 ms
        options = {
            "loop": "uvloop",
            "http": "httptools",
            "server_header": False,
            "timeout_graceful_shutdown": GRACE_SECONDS - 1,
        }
        worker = type("Worker", (UvicornWorker,), {"CONFIG_KWARGS": options})

        os.environ.update(extra_env)
        settings = {**self.options, "worker_class": worker}
        if journal := durability.make_durable(os.environ):
            settings["on_exit"] = lambda _: journal.end()
            look_back(journal)

        if engine := getattr(handlers._tracking_store, "engine", None):
            indexes.make(engine)
        artifact_locations.guard_server(handlers)
        model_metrics.keep_nan(type(handlers._tracking_store))
        memory_limit.limit(self.options["workers"])

        bucket = os.environ[artifact_locations.DESTINATION].startswith("s3://")

        class Application(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                for name, value in settings.items():
                    self.cfg.set(name, value)

            def load(self) -> object:
                from mlflow.server.fastapi_app import app  # type: ignore[import-not-found]

                stores = (handlers._tracking_store, handlers._model_registry_store)
                for store in stores:
                    if engine := getattr(store, "engine", None):
                        engine.dispose()  # a connection must not be shared by two processes
                encryption.tolerate()
                tracking_store.shorten(*stores)
                abandoned_requests.in_database(store.engine for store in stores if hasattr(store, "engine"))
                json_answers.shorten(handlers)
                routing.larger_blocks()
                bad_requests.guard(handlers, flask_app, app, bucket)
                graphql_limits.guard(handlers, flask_app, bad_requests.invalid)
                ui_defaults.install(flask_app)
                if jobs.enabled(os.environ):
                    from mlflow.server import gateway_api

                    jobs.guard_models(gateway_api)
                served = routing.shortened(app, flask_app)
                served = middleware.guarded(identity.identified(served, stores, os.environ))
                gc.collect()
                gc.freeze()  # what was imported stays shared memory
                gc.enable()
                return served

        jobs.start(os.environ)
        Application().run()
        raise SystemExit(0)


def look_back(journal: Journal) -> None:
    """After an unclean stop, beside the server that starts."""
    import subprocess

    try:
        unclean = journal.begin()
    except OSError as error:
        say(f"no journal of what is written: {error}")
        return
    if unclean:
        subprocess.Popen([sys.executable, PROGRAM, "recheck"], stdin=subprocess.DEVNULL)


def serve_in_this_process(arguments: list[str]) -> NoReturn:
    """`mlflow server ARGUMENTS` with MLflow's own checks, its last step replaced."""
    import gc

    gc.disable()  # until the workers are forked: what is imported is no garbage, looking for it takes a tenth
    for name in CLIENT_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]  # not installed, as far as this process is concerned: 45 MB
    # each search looks whether MLflow's own logins are there; without this it half-imports them each time
    sys.modules["mlflow.server.auth"] = None  # type: ignore[assignment]
    import mlflow.server  # type: ignore[import-not-found]

    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    mlflow.server._exec_cmd = Workers(options["--host"], options["--port"], options["--workers"])
    run_mlflow(arguments)


def serve() -> NoReturn:
    import subprocess
    from pathlib import Path

    from trackbed_mlflow import encryption, schema
    from trackbed_mlflow.edge import access_token

    prepare(os.environ)
    arguments = server_arguments(os.environ)
    required(os.environ, "MLFLOW_ARTIFACTS_DESTINATION")
    access_token.read_token(os.environ)  # one that cannot be read ends the start here, with its reason
    if folder := os.environ.get("TRACKBED_OWN_TMP"):
        clear_leftovers(Path(folder), time.time())
    if count := end_leftovers(os.environ):
        say(f"ended {count} processes of a server that was killed")
    found = schema.schema(os.environ)
    if found["state"] == "empty" and (statements := schema.template(str(found["code"]))):
        schema.fill(os.environ["MLFLOW_BACKEND_STORE_URI"], statements)
    if schema.guard(found, os.environ.get("TRACKBED_MIGRATE") == "1"):
        say(f"migrating the database from {found['database']} to {found['code']}")
        done = subprocess.run([sys.executable, PROGRAM, "migrate"], check=False)
        if done.returncode:
            raise Stop(FAILED, f"the migration failed (exit code {done.returncode}); nothing was started")
    encryption.load(os.environ)
    encryption.reseal(os.environ)
    serve_in_this_process(arguments)


def _end_uploads() -> None:
    from trackbed_mlflow import bucket, durability, multipart_uploads

    destination = required(os.environ, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        durability.staged_leftovers(
            bucket.folder_of(destination), time.time() - multipart_uploads.STALE.total_seconds()
        )
    if count := multipart_uploads.end_stale(os.environ):
        say(f"ended {count} uploads that were begun more than a day ago and never completed")


def main(arguments: list[str]) -> int:
    import signal

    def stopped(number: int, frame: object) -> NoReturn:
        if command in BULK:
            os._exit(STOPPED)  # threads that wait for the store would hold it up
        raise SystemExit(STOPPED)

    command, *rest = arguments or ["help"]
    signal.signal(signal.SIGTERM, stopped)
    takes = {
        "object": (1,),
        "known": (1,),
        "make": (1,),
        "in": (1,),
        "drop": (1,),
        "gc": (1, 2),
        "out": (0, 1),
        "sums": (0, 1),
        "indexes": (0, 1),
        "store-sync": (1,),
        "unlisted": (1,),
    }
    if len(rest) not in takes.get(command, (0,)):
        command = "help"
    try:
        if command == "health":
            health(os.environ)
        elif command == "serve":
            serve()
        elif command == "jobs":
            from trackbed_mlflow import jobs

            jobs.run(os.environ)
        elif command == "migrate":
            prepare(os.environ)
            run_mlflow(["db", "upgrade", required(os.environ, "MLFLOW_BACKEND_STORE_URI")])
        elif command == "usage" or (command == "gc" and rest[1:] in ([], ["--show"])):
            from trackbed_mlflow import garbage_collection

            prepare(os.environ)
            if command == "gc" and rest[1:] == []:
                _end_uploads()
            garbage_collection.run(command, rest)
        elif command == "schema":
            import json

            from trackbed_mlflow import schema

            print(json.dumps(schema.schema(os.environ)))
        elif command == "make":
            from trackbed_mlflow import schema

            prepare(os.environ)
            schema.make(required(os.environ, "MLFLOW_BACKEND_STORE_URI"), rest[0])
        elif command == "known":
            from trackbed_mlflow import schema

            print(schema.known(rest[0]))
        elif command == "opens":
            from trackbed_mlflow import key_check

            prepare(os.environ)
            key_check.print_tried(os.environ, sys.stdin.read())
        elif command == "sealed":
            from trackbed_mlflow import encryption

            encryption.print_report(os.environ, sys.stdin.read())
        elif command == "bucket":
            from trackbed_mlflow import bucket

            prepare(os.environ)
            say(bucket.ensure_bucket(os.environ))
            _end_uploads()
        elif command == "object":
            import json

            from trackbed_mlflow import bucket

            prepare(os.environ)
            print(json.dumps(bucket.objects_below(os.environ, rest[0])))
        elif command in ("recheck", "written"):
            from trackbed_mlflow import durability

            durability.run(command, os.environ)
        elif command == "unlisted":
            from trackbed_mlflow import name_conflicts

            name_conflicts.print_unlisted(rest[0])
        elif command == "store-sync":
            from pathlib import Path

            from trackbed_mlflow import store_sync

            store_sync.serve(Path(rest[0]))
        elif command in BULK:
            from trackbed_mlflow import transfer

            prepare(os.environ)
            transfer.run(command, rest[0] if rest else "")
        elif command == "indexes" and rest in ([], ["--remove"]):
            from trackbed_mlflow import indexes

            say(indexes.change(os.environ, bool(rest)))
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
