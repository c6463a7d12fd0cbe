"""The connection to a Docker engine: the only module that opens the SDK."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from helpers.errors import EngineUnavailable
from helpers.shell_words import as_root

LABEL = "dev.trackbed"
DEFAULT_SOCKET = "/var/run/docker.sock"
ANSWER_SECONDS = 15  # in which an engine that is well tells its version


def errors() -> Any:
    """The SDK's module of exceptions."""
    from docker import errors as found  # late: it costs 0.13 s

    return found


def socket_error(path: str = DEFAULT_SOCKET) -> OSError | None:
    """Why the engine's Unix socket does not take a connection; None when it does."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return ConnectionRefusedError(f"{path} is not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(path)
    except OSError as error:
        return error
    return None


class Connection:
    """A connection to the engine, made at first use. Follows DOCKER_HOST and the CLI's context."""

    def __init__(self, timeout: int = 60) -> None:
        self._timeout = timeout
        self._client: Any = None
        self._version: dict[str, Any] = {}

    @property
    def client(self) -> Any:
        if self._client is None:
            import docker  # late: it costs 0.13 s

            try:
                version = _version(docker)
                client = docker.from_env(version=version["ApiVersion"], timeout=self._timeout)
                if client.api.base_url.startswith("http+docker:"):  # a socket: no proxy is looked for at each question
                    client.api.trust_env = False
                setattr(client.api, "send", with_clear_errors(client.api.send))  # noqa: B010 - a session of requests
                self._client, self._version = client, version
            except (errors().DockerException, OSError, ValueError) as error:
                raise EngineUnavailable(f"Docker does not answer: {words(error)}", "see `invoke doctor`") from None
        return self._client

    @property
    def base_url(self) -> str:
        return str(self.client.api.base_url)

    def version(self) -> dict[str, Any]:
        """As the engine told it when it was asked first."""
        return dict(self._version) if self.client else {}

    def info(self) -> dict[str, Any]:
        return dict(self.client.info())


def _version(docker: Any) -> dict[str, Any]:
    """What the engine tells of its version; it takes a while over that, and the SDK keeps no more than a number."""
    client = docker.from_env(version=docker.constants.MINIMUM_DOCKER_API_VERSION, timeout=ANSWER_SECONDS)
    try:
        told = client.api.version(api_version=False)  # at an address without a version, so that any engine answers
    finally:
        client.close()
    if not isinstance(told, dict) or not isinstance(told.get("ApiVersion"), str):
        raise ValueError("its answer names no version of its API")
    return told


def with_clear_errors(send: Callable[..., Any]) -> Callable[..., Any]:
    """A session's ``send`` whose time-outs and broken connections are told as what they are."""

    def sent(request: Any, **options: Any) -> Any:
        from requests.exceptions import ConnectionError, Timeout

        try:
            return send(request, **options)
        except Timeout:
            raise EngineUnavailable(
                "Docker took a request and does not answer", as_root("systemctl restart docker")
            ) from None
        except ConnectionError as error:
            raise EngineUnavailable(
                f"the connection to Docker broke: {_cause(error)}",
                f"{as_root('systemctl start docker')} where it has stopped, then the same command again",
            ) from None

    return sent


def _cause(error: BaseException) -> str:
    """What the operating system said, below the wrappings of requests and urllib3."""
    inner: object = error
    while isinstance(inner, BaseException) and inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    return (inner.strerror if isinstance(inner, OSError) else "") or words(error)


def words(error: BaseException) -> str:
    """The engine's own explanation, without the wrapping of HTTP and SDK."""
    explanation = getattr(error, "explanation", None)
    text = str(explanation or error)
    return " ".join(text.split())
