"""Commands of a service: as its account, in its environment and folder."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from helpers import commands
from helpers.engines import shared, streaming
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.embedded.environments import Environments
from helpers.engines.embedded.specs import Specs
from helpers.services import JUPYTER, MLFLOW, POSTGRES, ExecResult


class ServiceCommands(EmbeddedComponent):
    def __init__(self, deployment: EmbeddedDeployment, environments: Environments, specs: Specs) -> None:
        super().__init__(deployment)
        self.environments, self.specs = environments, specs

    def run(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        command, options = self.command(service, argv)
        return commands.attempt(command, timeout, stdin, limited=service == JUPYTER, **options)

    def pipe(self, service: str, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        command, options = self.command(service, argv)
        return streaming.piped(argv[0], command, **options)

    def psql(self, role: str, database: str, statements: str, timeout: float = 20) -> ExecResult:
        return self.run(POSTGRES, shared.psql(role, database), statements.encode(), timeout)

    def command(self, service: str, argv: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
        """A command of a service, and what subprocess is told to run it as its account in its environment."""
        self.layout.check()
        spec = self.specs.spec(service)
        environment = {**spec.environment, "PGHOST": str(self.layout.sockets)}
        environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
        words, folder = self._translate(service, argv), spec.working_dir
        if service == JUPYTER:  # its folder is the notebook's: nobody else enters it
            words, folder = ["/bin/sh", "-c", 'cd "$0" 2>/dev/null; exec "$@"', folder, *words], "/"
        return words, {
            "env": environment,
            "cwd": folder if Path(folder).is_dir() else "/",
            **self.deployment.identity(service, spec.group_add),
        }

    def _translate(self, service: str, argv: tuple[str, ...]) -> list[str]:
        """The names that the images put on PATH, as files of the venvs."""
        name, *arguments = argv
        server = str(self.environments.venv(MLFLOW).in_use().python)
        if name == "trackbed-mlflow":
            return [server, str(self.deployment.app / "start.py"), *arguments]
        if name == "python":
            own = str(self.environments.packages / "bin" / "python")
            return [own if service == JUPYTER else server, *arguments]
        program = self.environments.program(name)
        return [program, *arguments] if Path(program).exists() else list(argv)
