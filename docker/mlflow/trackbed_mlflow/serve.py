"""`serve`: waits for the database, guards its schema and runs `mlflow server` in this process."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from trackbed_mlflow import (
    PROGRAM,
    durability,
    encryption,
    fast_path,
    indexes,
    jobs,
    leftovers,
    memory_limit,
    preparation,
    schema,
)
from trackbed_mlflow.configuration import prepare, server_arguments
from trackbed_mlflow.edge import token_file
from trackbed_mlflow.errors import required, say
from trackbed_mlflow.fast_path import imports
from trackbed_mlflow.search_processes import gunicorn_classes
from trackbed_mlflow.search_processes.pool import processes
from trackbed_mlflow.server_loop import ToldToEnd
from trackbed_mlflow.write_journal import Journal

GRACE_SECONDS = 25  # for running uploads when the server is stopped
# MLflow requires them for its client's sake; the server only looks whether they are there. The image leaves them out.
CLIENT_ONLY = ("pyarrow", "scipy", "sklearn", "skops", "joblib", "matplotlib", "PIL")

IMPORTED = (
    "mlflow.server",
    "mlflow.server.fastapi_app",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.cli",
    "gunicorn.app.base",
    "uvicorn_worker",
)


def serve() -> NoReturn:
    prepare(os.environ)
    arguments = server_arguments(os.environ)
    required(os.environ, "MLFLOW_ARTIFACTS_DESTINATION")
    fast_path.enabled(os.environ)
    token_file.read_token(os.environ)  # one that cannot be read ends the start here, with its reason
    if folder := os.environ.get("TRACKBED_OWN_TMP"):
        leftovers.clear_files(Path(folder), time.time())
    if count := leftovers.end_processes(os.environ):
        say(f"ended {count} processes of a server that was killed")
    encryption.load(os.environ)  # before MLflow is imported, which makes its columns with the key
    prepared = preparation.prepare_if_it_answers()
    import_server()  # two seconds, in which the database and the store start: whoever starts all need not wait between
    was = prepared or preparation.prepare_database(starting=True)
    gc.freeze()
    preparation.await_bucket(os.environ, first=was == "empty")
    gc.collect()  # what the store's client left: 10 MB that each worker would keep, and nothing older is looked at
    encryption.reseal(os.environ)
    serve_in_this_process(arguments)


def import_server() -> None:
    """Everything that takes long to import, and that needs no database."""
    gc.disable()  # until the workers are forked: what is imported is no garbage, looking for it takes a tenth
    for name in CLIENT_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]  # not installed, as far as this process is concerned: 45 MB
    # each search looks whether MLflow's own logins are there; without this it half-imports them each time
    sys.modules["mlflow.server.auth"] = None  # type: ignore[assignment]
    with imports.shortened() if imports.shorten_enabled() else nullcontext():
        for name in IMPORTED:
            importlib.import_module(name)


def serve_in_this_process(arguments: list[str]) -> NoReturn:
    """`mlflow server ARGUMENTS` with MLflow's own checks, its last step replaced."""
    import mlflow.server  # type: ignore[import-not-found]

    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    mlflow.server._exec_cmd = Workers(options["--host"], options["--port"], options["--workers"])
    run_mlflow(arguments)


def run_mlflow(arguments: list[str]) -> NoReturn:
    """`mlflow ARGUMENTS` in this process, so that SIGTERM ends it from the first moment even as process 1."""
    schema.find_migrations()
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def held_socket() -> int | None:
    """The listening socket that the supervisor holds for this server, which comes as standard input; None without."""
    try:
        number = os.dup(0)
        with socket.socket(fileno=number) as result:
            listens = result.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            result.detach()
    except OSError:
        return None  # no socket, or closed
    if not listens:
        return None
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return number


def heartbeat_folder(memory: str = "/dev/shm") -> str | None:
    """Where workers say that they live: in memory, as that must not wait for a disk; None, the folder for temporary
    files, where this account may not write there."""
    try:
        with tempfile.TemporaryFile(dir=memory):
            return memory
    except OSError:
        return None


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
            "control_socket_disable": True,  # its place is the home: may be closed, and all projects of a user share it
            # without a limit a running upload would hold the server until it is killed
            "graceful_timeout": GRACE_SECONDS,
            "timeout": 120,
            "errorlog": "-",
            "loglevel": "warning",
            "worker_tmp_dir": heartbeat_folder(),
        }

    def __call__(self, command: list[str], extra_env: Mapping[str, str], **_: object) -> NoReturn:
        """``command``: MLflow's own line for uvicorn, which ends with the application that it found by its name."""
        from gunicorn.app.base import BaseApplication  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from gunicorn.arbiter import Arbiter  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from mlflow.server import handlers

        os.environ.update(extra_env)
        settings: dict[str, Any] = {**self.options, "worker_class": worker_class()}
        journal = durability.make_durable(os.environ)
        if journal:
            look_back(journal)
        if (engine := getattr(handlers._tracking_store, "engine", None)) and indexes.make(engine):
            subprocess.Popen([sys.executable, PROGRAM, "indexes", "--missing"], stdin=subprocess.DEVNULL)
        arbiter = with_search_processes(Arbiter, settings, os.environ)

        def ended(_: object) -> None:
            processes.remove_folder()
            if journal:
                journal.end()

        settings["on_exit"] = ended
        memory_limit.limit(self.options["workers"])
        create = pkgutil.resolve_name(command[-1])  # module:function

        class Application(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                for name, value in settings.items():
                    self.cfg.set(name, value)

            def load(self) -> object:
                served = create()
                gc.freeze()  # what was imported stays shared memory; 1 % of it is garbage, which 0.1 s of looking finds
                gc.enable()
                return served

            def run(self) -> None:
                arbiter(self).run()

        jobs.start(os.environ)
        Application().run()
        raise SystemExit(0)


def worker_class() -> type:
    from uvicorn_worker import UvicornWorker, _workers  # type: ignore[import-not-found]

    _workers.Server = type("Server", (ToldToEnd, _workers.Server), {})  # it has no way to be given another
    options = {
        "loop": "uvloop",  # without it each request on a kept connection waits 44 ms
        "http": "httptools",
        "server_header": False,
        "timeout_graceful_shutdown": GRACE_SECONDS - 1,
    }
    return type("Worker", (UvicornWorker,), {"CONFIG_KWARGS": options})


def with_search_processes(arbiter: type, settings: dict[str, Any], environment: Mapping[str, str]) -> type:
    """gunicorn's first process and its ``settings``, with search processes where there may be any."""
    workers = settings["workers"]
    if not fast_path.enabled(environment):
        return arbiter
    if not (count := memory_limit.search_process_count(environment, workers)):
        enough = f"MEMORY_LIMIT={memory_limit.needed_for_searches(workers)}"
        fast_path.limited["search processes"] = enough
        fewer = ", or a lower MLFLOW_WORKERS," if workers > 1 else ""
        say(
            "searches have no processes of their own, and logging may wait for them: MEMORY_LIMIT has less than "
            f"1.5 GiB for each worker. Put {enough}{fewer} into .env, then type `invoke up`"
        )
        return arbiter
    with fast_path.part("search processes"):
        result = gunicorn_classes.arbiter_class(arbiter)
        settings["worker_class"] = gunicorn_classes.worker_class(settings["worker_class"], GRACE_SECONDS - 1)
        settings |= {"pre_fork": gunicorn_classes.pre_fork, "child_exit": gunicorn_classes.child_exit}
        processes.enable(count, environment)
        return result
    return arbiter


def look_back(journal: Journal) -> None:
    """After an unclean stop, beside the server that starts."""
    try:
        unclean = journal.begin()
    except OSError as error:
        say(f"no journal of what is written: {error}")
        return
    if unclean:
        subprocess.Popen([sys.executable, PROGRAM, "recheck"], stdin=subprocess.DEVNULL)
