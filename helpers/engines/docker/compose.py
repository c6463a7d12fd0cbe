"""`docker compose`, which makes the services: the only module that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from helpers import clone, commands
from helpers.engines.docker import compose_model, variables
from helpers.engines.docker.deployment import DockerComponent, DockerDeployment
from helpers.errors import TrackbedError
from helpers.services import (
    BUCKET,
    GATEWAY,
    MLFLOW,
    POSTGRES,
    STORE,
    STORE_SYNC,
    ExecResult,
    Network,
    ProgressReporter,
    ServiceSpec,
    ServiceStatus,
)

MINIO_WALK = "docker/compose.minio-walk.yaml"  # for one container that sees MinIO's volume
STREAM = "docker/compose.stream.yaml"  # for one container whose output is data
FEED = "docker/compose.feed.yaml"  # for one container that reads from TRACKBED_FEED, a named pipe
FEED_PATH = "/feed"  # where that container has it
LOOK_SECONDS = 0.25  # between two looks at what starts
ORDER = (POSTGRES, STORE, STORE_SYNC, BUCKET, MLFLOW, GATEWAY)


@dataclass(frozen=True)
class Snapshot:
    """The services while `up` works. ``code``: its exit code once it has ended; ``output``: what it said until now."""

    statuses: Mapping[str, ServiceStatus]
    code: int | None
    output: list[str]


class ComposeProject(DockerComponent):
    """The services as one Compose project."""

    def __init__(self, deployment: DockerDeployment) -> None:
        super().__init__(deployment)
        self._model: dict[str, Any] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Relative to the clone."""
        return variables.files(self.deployment)

    def values(self) -> dict[str, str]:
        """COMPOSE_* and TRACKBED_* values: the process environment of our calls, and what is left in the clone."""
        return {
            "COMPOSE_FILE": ":".join(self.files),
            "COMPOSE_PROJECT_NAME": self.settings.project,
            **variables.variables(self.deployment),
        }

    def environment(self, overlay: str = "") -> dict[str, str]:
        """Of our own calls; ``overlay``: one more Compose file."""
        values = self.values()
        if overlay:
            values["COMPOSE_FILE"] += f":{overlay}"
        return {**os.environ, **values, "COMPOSE_ENV_FILES": os.devnull, "COMPOSE_IGNORE_ORPHANS": "true"}

    def model(self) -> dict[str, Any]:
        """The Compose files as Compose itself resolves them."""
        if self._model is None:
            done = self.run("config", "--format", "json", timeout=60)
            if done.code:
                raise TrackbedError(
                    f"docker compose cannot read its files: {commands.last_line(done.stderr)}",
                    "git status shows whether docker/compose*.yaml were changed",
                )
            self._model = json.loads(done.stdout)
        return self._model

    def forget(self) -> None:
        """What the model was read from has changed."""
        self._model = None

    def services(self) -> tuple[ServiceSpec, ...]:
        """In the order in which they start."""
        model = self.model()
        return tuple(
            compose_model.service_spec(name, model, self.settings.project)
            for name in ORDER
            if name in model["services"]
        )

    def networks(self) -> tuple[Network, ...]:
        return tuple(
            Network(
                n["name"],
                bool(n.get("internal")),
                int(n.get("driver_opts", {}).get("com.docker.network.driver.mtu", 0)),
            )
            for n in self.model()["networks"].values()
        )

    # running it

    def run(self, *argv: str, timeout: float) -> ExecResult:
        """A command of Compose that ends by itself."""
        words = ["docker", "compose", "--env-file", os.devnull, *argv]
        return commands.run(words, None, timeout, cwd=clone.ROOT, env=self.environment())

    @staticmethod
    def fresh(service: str, argv: tuple[str, ...]) -> list[str]:
        """The words that run a command in a fresh copy of a service."""
        return [
            "docker",
            "compose",
            "run",
            "--rm",
            "--no-deps",
            "-T",
            "--quiet-pull",
            "--entrypoint",
            argv[0],
            service,
            *argv[1:],
        ]

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float, overlay: str = ""
    ) -> ExecResult:
        return commands.run(self.fresh(service, argv), stdin, timeout, env=self.environment(overlay), cwd=clone.ROOT)

    def unlisted(self) -> tuple[str, ...]:
        """The names of what MinIO holds and does not list, from a walk through its volume."""
        if self.deployment.object_store != "minio":
            return ()  # VersityGW cannot hold such; nobody but its owner sees an external store's disk
        folder = f"/store/{self.settings.s3_bucket}/{self.project.state.active['prefix']}"
        done = self.one_shot(MLFLOW, ("trackbed-mlflow", "unlisted", folder), None, 3600, MINIO_WALK)
        if done.code:
            lines = tuple(done.stderr.strip().splitlines()[-3:])
            raise TrackbedError(
                "MinIO's volume cannot be looked into", "`invoke up`, then run the same command again", lines
            )
        return tuple(str(json.loads(line)) for line in done.stdout.splitlines())

    def up(
        self, look: Callable[[], Iterable[ServiceStatus]], progress: ProgressReporter, only: str = ""
    ) -> Generator[Snapshot]:
        """`docker compose up -d`, with the services as ``look`` sees them four times a second and once after its end.

        ``only``: nothing but that service, until it is healthy. Closing the generator ends the command.
        """
        options = ["--no-deps", "--wait", only] if only else []
        with subprocess.Popen(
            ["docker", "compose", "--env-file", os.devnull, "up", "-d", "--no-build", "--pull", "never", *options],
            cwd=clone.ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            output: list[str] = []
            reader = threading.Thread(target=_drain, args=(process, output, progress), daemon=True)
            reader.start()
            try:
                while (code := _code(process, LOOK_SECONDS)) is None:  # whoever takes them gives up in the end
                    yield Snapshot({s.name: s for s in look()}, None, output)
            except BaseException:
                _end(process)
                raise
            reader.join(timeout=5)
        yield Snapshot({s.name: s for s in look()}, code, output)

    def down(self, drain: int, kill: Callable[[], None]) -> None:
        """Stop and remove the containers; ``kill`` ends those that do not stop in all the time they were given."""
        seconds = drain * 3 + 60
        done = self.run("down", "--remove-orphans", timeout=seconds)
        if done.code == commands.TIMED_OUT:
            kill()
            done = self.run("down", "--remove-orphans", "--timeout", "5", timeout=seconds)
        if done.code:
            raise TrackbedError(
                f"docker compose down failed: {commands.last_line(done.stderr)}",
                "`invoke status` shows what is left; run `invoke down` again",
            )


def _drain(process: subprocess.Popen[str], lines: list[str], progress: ProgressReporter) -> None:
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line.strip())
            progress.output(line)
    except ValueError:  # closed under us: the command was ended
        return


def _code(process: subprocess.Popen[str], seconds: float) -> int | None:
    """Its exit code, None while it runs, after ``seconds`` of waiting for its end."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
