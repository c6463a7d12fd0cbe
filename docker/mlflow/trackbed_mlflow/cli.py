"""The commands of the MLflow server's program, on both engines.

serve        wait for the database, guard its schema, run `mlflow server`
migrate [--amounts]  bring an older schema up to this MLflow (back up first); tell how far it is
prepare      make MLflow's tables in an empty database, migrate an older one if TRACKBED_MIGRATE=1, and end
wait         wait until the database, its tables and the bucket are there; for servers beside one that makes them
bucket       make sure the bucket (or artifact folder) is there; TRACKBED_S3_CREATE=check only looks
schema       print {"database": revision or null, "code": revision, "state": empty|current|older|newer}
object PATH  print the stored objects below that artifact path as JSON: [{"path": ..., "size": ...}, ...]
known REV    print what that schema revision is to this MLflow: current, older or newer
import KIND [--show] [--beside|--merge]  read another MLflow's data from a tar stream (KIND: folder, sqlite, rows or
             pages) into the empty database, beside what it has, or merged with it; or only count them; prints JSON
             lines: {"rows"}, {"location"} and at the end {"end"}
make REV     make the empty tables of that revision, in an empty database
list         print one JSON line [name, size, mark] for each object; an equal mark: the object is unchanged
out [PREFIX] all objects as a tar stream on stdout; PREFIX: another one than the active one
pick         the same of the objects only whose names stdin has, one JSON string a line
offer        once stdin has a line, what `list` prints; then what `pick` gives of the names that follow that line
digests      print as JSON, for each name that stdin has (one JSON string a line), SHA-256 and size, or null without one
in PREFIX [PIPE]  store the objects of such a stream from stdin, or from the named pipe PIPE, below PREFIX; print as
             JSON what had to be renamed
sums PREFIX  print `SHA-256 size path` of every object below PREFIX, read back from the store
sizes        print {"TOP": [objects, bytes, bytes of the last 7 days]} of each experiment's folder
gc AGE [--show]  remove (or only tell as JSON) what was deleted longer ago than AGE (30d), with its artifacts
usage        print {"TOP": [objects, bytes, bytes of the last 7 days, bytes of what was deleted]} of each experiment
indexes [--remove|--missing]  make (or remove, for good) Trackbed's own indexes beside MLflow's, while the server works;
             --missing: those of large tables, which the server leaves to it where nobody has removed them
drop PREFIX [TOP]  delete everything below PREFIX, or below the folder TOP of it
discard PREFIX [TOP]  have the service beside the store do that at once; fails where it cannot do it alone
sealed       print as JSON what is encrypted in the database and what nobody can decrypt; stdin: keys to try
opens        print as JSON which of the keys on stdin open the object store and the database
recheck      after an unclean stop: remove half uploads, look at what was written before it (a folder store)
written      print as JSON what that look found
unlisted DIR print as JSON, one a line, the objects below that folder of MinIO's volume which it does not list
store-sync DIR  sync what VersityGW stores in that folder, as asked over the network
jobs         keep MLflow's job runner running beside the server that started this (TRACKBED_JOBS=on)
fast-path    print as JSON whether the running server uses the fast path, and why not
health       exit 0 when the server answers through to its database

Exit codes: 0 done, 1 failed, 2 wrong use, 75 something did not answer in time, 77 access refused,
78 configuration or schema wrong, 143 stopped.
"""

# What a command needs is imported where it runs: `health` also runs while the server starts.
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from trackbed_mlflow.errors import STOPPED, USAGE, Stop, required, say

BULK = ("list", "out", "pick", "offer", "digests", "in", "sums", "sizes", "drop", "discard")
Words = list[str]


def health(words: Words) -> None:
    from trackbed_mlflow import health

    health.ask(os.environ)


def serve(words: Words) -> None:
    from trackbed_mlflow import serve

    serve.serve()


def run_jobs(words: Words) -> None:
    from trackbed_mlflow import jobs

    jobs.run(os.environ)


def migrate(words: Words) -> None:
    from trackbed_mlflow import configuration, schema, serve

    if words not in ([], ["--amounts"]):
        raise WrongUse
    configuration.prepare(os.environ)
    if words:
        schema.tell_steps(os.environ)
    serve.run_mlflow(["db", "upgrade", required(os.environ, "MLFLOW_BACKEND_STORE_URI")])


def prepare(words: Words) -> None:
    from trackbed_mlflow import configuration, preparation

    configuration.prepare(os.environ)
    say(preparation.make_tables())


def await_both(words: Words) -> None:
    from trackbed_mlflow import configuration, preparation

    configuration.prepare(os.environ)
    say(preparation.await_both(os.environ))


def usage(words: Words) -> None:
    from trackbed_mlflow import configuration, garbage_collection

    configuration.prepare(os.environ)
    garbage_collection.run("usage", words)


def gc(words: Words) -> None:
    from trackbed_mlflow import configuration, garbage_collection

    if words[1:] not in ([], ["--show"]):
        raise WrongUse
    configuration.prepare(os.environ)
    if not words[1:]:
        _end_uploads()
    garbage_collection.run("gc", words)


def print_schema(words: Words) -> None:
    import json

    from trackbed_mlflow import schema

    print(json.dumps(schema.schema(os.environ)))


def make_schema(words: Words) -> None:
    from trackbed_mlflow import configuration, schema

    configuration.prepare(os.environ)
    schema.make(required(os.environ, "MLFLOW_BACKEND_STORE_URI"), words[0])


def known(words: Words) -> None:
    from trackbed_mlflow import schema

    print(schema.known(words[0]))


def opens(words: Words) -> None:
    from trackbed_mlflow import configuration, key_check

    configuration.prepare(os.environ)
    key_check.print_tried(os.environ, sys.stdin.read())


def sealed(words: Words) -> None:
    from trackbed_mlflow import encryption

    encryption.print_report(os.environ, sys.stdin.read())


def make_bucket(words: Words) -> None:
    from trackbed_mlflow import bucket, configuration

    configuration.prepare(os.environ)
    say(bucket.ensure_bucket(os.environ))
    _end_uploads()


def list_object(words: Words) -> None:
    import json

    from trackbed_mlflow import bucket, configuration

    configuration.prepare(os.environ)
    print(json.dumps(bucket.objects_below(os.environ, words[0])))


def check_written(command: str) -> Callable[[Words], None]:
    def run(words: Words) -> None:
        from trackbed_mlflow import durability

        durability.run(command, os.environ)

    return run


def unlisted(words: Words) -> None:
    from trackbed_mlflow import name_conflicts

    name_conflicts.print_unlisted(words[0])


def sync_store(words: Words) -> None:
    from pathlib import Path

    from trackbed_mlflow import store_sync

    store_sync.serve(Path(words[0]))


def transfer(command: str) -> Callable[[Words], None]:
    def run(words: Words) -> None:
        from trackbed_mlflow import configuration, transfer

        configuration.prepare(os.environ)
        transfer.run(command, *words or [""])

    return run


def change_indexes(words: Words) -> None:
    from trackbed_mlflow import indexes

    if words not in ([], ["--remove"], ["--missing"]):
        raise WrongUse
    say(indexes.make_large(os.environ) if words == ["--missing"] else indexes.change(os.environ, bool(words)))


def import_source(words: Words) -> None:
    from trackbed_mlflow import configuration
    from trackbed_mlflow.imports import run, staging

    flags = words[1:]
    if words[0] not in staging.KINDS or not {"--show", "--beside", "--merge"}.issuperset(flags):
        raise WrongUse
    configuration.prepare(os.environ)
    run.run(words[0], "--show" in flags, "--beside" in flags or "--merge" in flags, "--merge" in flags)


def print_fast_path(words: Words) -> None:
    from trackbed_mlflow import fast_path

    print(fast_path.read_state(os.environ))


def _end_uploads() -> None:
    from trackbed_mlflow import bucket, durability, multipart_uploads

    destination = required(os.environ, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        durability.staged_leftovers(
            bucket.folder_of(destination), time.time() - multipart_uploads.STALE.total_seconds()
        )
    if count := multipart_uploads.end_stale(os.environ):
        say(f"ended {count} uploads that were begun more than a day ago and never completed")


class WrongUse(Exception):
    """The command does not take these arguments."""


# what runs a command, and how many arguments it takes
COMMANDS: Mapping[str, tuple[Callable[[Words], None], tuple[int, ...]]] = {
    "serve": (serve, (0,)),
    "migrate": (migrate, (0, 1)),
    "prepare": (prepare, (0,)),
    "wait": (await_both, (0,)),
    "bucket": (make_bucket, (0,)),
    "schema": (print_schema, (0,)),
    "object": (list_object, (1,)),
    "known": (known, (1,)),
    "make": (make_schema, (1,)),
    "list": (transfer("list"), (0,)),
    "out": (transfer("out"), (0, 1)),
    "pick": (transfer("pick"), (0,)),
    "offer": (transfer("offer"), (0,)),
    "in": (transfer("in"), (1, 2)),
    "digests": (transfer("digests"), (0,)),
    "sums": (transfer("sums"), (0, 1)),
    "sizes": (transfer("sizes"), (0,)),
    "drop": (transfer("drop"), (1, 2)),
    "discard": (transfer("discard"), (1, 2)),
    "gc": (gc, (1, 2)),
    "usage": (usage, (0,)),
    "import": (import_source, (1, 2, 3)),
    "indexes": (change_indexes, (0, 1)),
    "sealed": (sealed, (0,)),
    "opens": (opens, (0,)),
    "recheck": (check_written("recheck"), (0,)),
    "written": (check_written("written"), (0,)),
    "unlisted": (unlisted, (1,)),
    "store-sync": (sync_store, (1,)),
    "jobs": (run_jobs, (0,)),
    "fast-path": (print_fast_path, (0,)),
    "health": (health, (0,)),
}


def main(arguments: Words) -> int:
    def end(code: int) -> NoReturn:
        if command in BULK:
            os._exit(code)  # threads that wait for the store would hold it up
        raise SystemExit(code)

    def stopped(number: int, frame: object) -> NoReturn:
        end(STOPPED)

    command, *words = arguments or [""]
    signal.signal(signal.SIGTERM, stopped)
    run, counts = COMMANDS.get(command, (None, ()))
    try:
        if run is None or len(words) not in counts:
            raise WrongUse
        run(words)
    except WrongUse:
        print(__doc__, file=sys.stderr)
        return USAGE
    except Stop as stop:
        for text in str(stop).splitlines():
            say(text)
        end(stop.code)
    return 0
