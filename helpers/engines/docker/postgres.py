"""The database in its container: is its cluster this image's, are its roles and its password today's."""

from __future__ import annotations

import re
from collections.abc import Iterable

from helpers import commands
from helpers.engines import database_roles, shared
from helpers.engines.base import Engine
from helpers.engines.docker import images, unfinished_cluster
from helpers.engines.docker.deployment import DockerComponent, DockerDeployment
from helpers.errors import TrackbedError
from helpers.services import POSTGRES, ExecResult, ProgressReporter, ServiceStatus, State

PASSWORD_FILE = "/run/secrets/postgres-password"


class Database(DockerComponent):
    """PostgreSQL in its container."""

    def __init__(self, deployment: DockerDeployment, engine: Engine) -> None:
        super().__init__(deployment)
        self.engine = engine

    def check(self, statuses: Iterable[ServiceStatus], progress: ProgressReporter) -> bool:
        """Whether the cluster has been good once; False also where there is none.

        Refuses one of another PostgreSQL major: the image would make an empty one beside it. A first start that was
        killed before it held anything is taken away, so that the image makes it again.
        """
        volume = f"{self.settings.project}_postgres"
        if self.deployment.notebook_only or not self.api.volumes([volume]):
            return False
        result = self._look_into(volume)
        if result.major and result.versions and result.major not in result.versions:
            raise shared.other_major(
                result.versions[0],
                f"POSTGRES_IMAGE={self.settings.postgres_image} is PostgreSQL {result.major}",
                f"set POSTGRES_IMAGE to a {result.versions[0]}.x image and `invoke backup`; then `invoke down "
                "--delete-data`, POSTGRES_IMAGE as it is now, and `invoke restore FILE`",
            )
        now = next((s for s in statuses if s.name == POSTGRES), ServiceStatus(POSTGRES, State.MISSING))
        if result.unfinished and not now.up:
            if now.state is not State.MISSING:
                self.api.stop(now.identity, 30)
            if self._look_into(volume).unfinished:
                progress.step(
                    "the first start of the database was interrupted before anything was in it: creating it again"
                )
                self._in_volume(volume, unfinished_cluster.REMOVE)
        return result.ready

    def _look_into(self, volume: str) -> unfinished_cluster.Folder:
        return unfinished_cluster.read(self._in_volume(f"{volume}:/v:ro", unfinished_cluster.LOOK))

    def _in_volume(self, volume: str, script: str) -> str:
        """What a script prints in a container of the database's image and user that sees nothing but the volume."""
        mount = volume if ":" in volume else f"{volume}:/v"
        # by the name under which it is here: another one would be asked for at a registry
        image = images.local(self.api, images.reference("postgres", self.settings))
        done = commands.run(
            [
                "docker",
                "run",
                "--rm",
                "--network",
                "none",
                "--user",
                "999:999",
                "--cap-drop",
                "ALL",
                "--read-only",
                "--security-opt",
                "no-new-privileges:true",
                "--entrypoint",
                "sh",
                "-v",
                mount,
                image,
                "-c",
                script,
            ],
            None,
            120,
        )
        if done.code:
            raise TrackbedError(
                f"the database's volume cannot be looked into: {commands.last_line(done.stderr)}",
                f"`docker volume inspect {volume.partition(':')[0]}` shows where it is; `invoke up` goes on",
            )
        return done.stdout

    def _run(self, argv: tuple[str, ...]) -> ExecResult:
        return self.engine.exec(POSTGRES, argv)

    def _psql(self, role: str, name: str, statements: str) -> ExecResult:
        return self.engine.exec(POSTGRES, shared.psql(role, name), statements.encode(), 600)

    def ensure_roles(self, identity: str, progress: ProgressReporter) -> bool:
        """Both roles and the active database are there, and the server's role has today's password.

        False: the container ``identity`` was replaced meanwhile, the next one is still to be asked. "": there is none.
        """
        active = self.project.state.active["database"]
        try:
            if created := database_roles.ensure(self._psql, active, PASSWORD_FILE):
                progress.step(created)
            if database_roles.match_password(self._run, self._psql, active, PASSWORD_FILE):
                progress.step("the existing database has the current password now")
        except TrackbedError as error:
            ends = re.search(
                r"is not running|No such container|shutting down|terminating connection|"
                r"closed the connection|before or while processing the request|connection to server",
                error.message,
            )
            same = any(s.identity == identity and s.up for s in self.engine.services() if s.name == POSTGRES)
            if identity and (ends or not same):
                return False
            raise
        ready = database_roles.READY
        self.engine.exec(
            POSTGRES, ("sh", "-c", f'cd "$PGDATA" && {{ [ -e {ready} ] || {{ : >{ready} && sync {ready} .; }}; }}')
        )
        return True
