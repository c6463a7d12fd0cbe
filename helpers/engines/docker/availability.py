"""Whether there is a Docker engine that can be used, and if not, why and what helps."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

from helpers import commands, side_by_side
from helpers.engines.docker import client_config
from helpers.engines.docker.client import DEFAULT_SOCKET, DockerApi, socket_error
from helpers.errors import EngineUnavailable
from helpers.services import Availability
from helpers.shell_words import account, as_root

MINIMUM_API = (1, 44)  # Docker 25: health checks with start_interval
MINIMUM_COMPOSE = (2, 21)  # `ps --format json` and start_interval as we use them
PUBLIC_COMPOSE = (2, 25)  # `!override` in an overlay


def _refused(reason: str, fix: str, present: bool = True) -> Availability:
    return Availability(False, present, reason, fix)


def compose_version() -> str | None:
    """Of the client's plugin; None where there is none. Raises EngineUnavailable where it gives no answer."""
    done = commands.run(["docker", "compose", "version", "--short"], None, 30)
    if done.code == commands.TIMED_OUT:
        raise EngineUnavailable(f"docker compose version: {done.stderr}", "is the machine out of memory? See `free -h`")
    return done.stdout.strip().lstrip("v") if done.code == 0 else None


def look(api: DockerApi, public: bool, compose: Callable[[], str | None] = compose_version) -> Availability:
    """The engine that the environment names, its version, and the client with its plugin, which ``compose`` asks."""
    if missing := client_config.missing_context(os.environ):
        return _refused(
            f"there is no Docker context {missing}, which is chosen in "
            f"{'DOCKER_CONTEXT' if os.environ.get('DOCKER_CONTEXT') else 'config.json'}",
            "`docker context ls` shows those that exist; `docker context use default`, or unset DOCKER_CONTEXT",
        )
    return _socket() or _engine(api, public, compose)


def _socket_path() -> tuple[str, str]:
    """The socket's path, and in words who names it ("" for the usual one)."""
    host, origin = client_config.endpoint(os.environ)  # rootless engines and Docker Desktop have no other socket
    named = host.startswith("unix://")
    return (host.removeprefix("unix://"), origin) if named else (DEFAULT_SOCKET, "")


def _socket() -> Availability | None:
    """Why nothing answers at the engine's socket; None when something does."""
    path, origin = _socket_path()
    problem = socket_error(path)
    if problem is None:
        return None
    if isinstance(problem, PermissionError):
        return _refused(
            f"permission denied at {path}",
            f"{as_root(f'usermod -aG docker {account()}')}, then log in again (or run this as root)",
        )
    if origin:
        return _refused(
            f"{origin} does not answer: {problem.strerror or problem}",
            "start that engine, or unset DOCKER_HOST"
            if origin.startswith("DOCKER_HOST")
            else "start that engine, or `docker context use default`",
        )
    fix = as_root("systemctl start docker") if installed() else "see `invoke doctor`"
    return _refused(f"no Docker engine answers at {path}", fix, present=False)


def installed() -> bool:
    """Whether this machine has an engine, which may be stopped. Normal users have no sbin on PATH."""
    return shutil.which("dockerd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])) is not None


def _engine(api: DockerApi, public: bool, asked: Callable[[], str | None]) -> Availability:
    try:
        # the client starts a plugin, and the first question imports the SDK: each takes a twentieth of a second
        version, compose = side_by_side.ask(api.version, lambda: _compose(asked))
    except EngineUnavailable as error:
        return _refused(error.message, as_root("systemctl start docker"))
    if any("podman" in str(component.get("Name", "")).lower() for component in version.get("Components") or ()):
        return _refused(
            f"the engine at {_socket_path()[0]} is Podman, which this release does not support",
            "install docker-ce (`invoke doctor` prints the lines)",
        )
    if _numbers(version["ApiVersion"]) < MINIMUM_API:
        return _refused(
            f"Docker {version['Version']} is too old: 25 or newer is needed",
            "install docker-ce from Docker's own repository (`invoke doctor` prints the lines)",
        )
    if shutil.which("docker") is None:
        return _refused("the docker command is missing", "install docker-ce-cli")
    if isinstance(compose, EngineUnavailable):
        return _refused(compose.message, compose.hint)
    if compose is None:
        return _refused(
            "the Compose plugin is missing", "install docker-compose-plugin (Debian's package: docker-compose)"
        )
    if _numbers(compose) < MINIMUM_COMPOSE:
        return _refused(
            f"Compose {compose} is too old: 2.21 or newer is needed", "install a newer docker-compose-plugin"
        )
    if public and _numbers(compose) < PUBLIC_COMPOSE:
        return _refused(
            f"Compose {compose} is too old for PUBLIC=true: 2.25 or newer is needed",
            "install a newer docker-compose-plugin",
        )
    return Availability(True, True, f"Docker {version['Version']}, Compose {compose}")


def _compose(asked: Callable[[], str | None]) -> str | EngineUnavailable | None:
    """Its version, None without a client or its plugin; or why it gives no answer, where the engine does."""
    try:
        return asked() if shutil.which("docker") else None
    except EngineUnavailable as error:
        return error


def has_buildx() -> bool:
    """Whether images can be built; older systems have the client without this plugin."""
    return commands.run(["docker", "buildx", "version"], None, 30).code == 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])
