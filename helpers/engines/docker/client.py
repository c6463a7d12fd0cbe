"""The Docker SDK, opened here and nowhere else: containers, volumes and images as plain data."""

from __future__ import annotations

import io
import itertools
import os
import re
import socket
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers import accelerators
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.services import Network, Port, State

LABEL = "dev.trackbed"
DEFAULT_SOCKET = "/var/run/docker.sock"
REMOVE_SECONDS = 3600  # for a volume: the engine removes each of its files before it answers
ANSWER_SECONDS = 15  # in which an engine that is well tells its version


@dataclass(frozen=True)
class Container:
    """What one listing tells of a container."""

    id: str
    name: str
    image: str
    image_id: str
    state: State
    exit_code: int | None
    labels: Mapping[str, str]
    ports: tuple[Port, ...]
    since: str
    volumes: tuple[str, ...] = ()  # names of those that are mounted


@dataclass(frozen=True)
class FileEntry:
    """A file to put into a volume; ``path`` relative to the volume's root."""

    path: str
    content: bytes
    uid: int
    gid: int
    mode: int


def _state(summary: Mapping[str, Any]) -> tuple[State, int | None]:
    words = str(summary.get("Status", ""))
    match summary.get("State"):
        case "paused":
            return State.UNHEALTHY, None
        case "running":
            if "(unhealthy)" in words:
                return State.UNHEALTHY, None
            if "health: starting" in words:
                return State.STARTING, None
            return (State.READY if "(healthy)" in words else State.RUNNING), None
        case "restarting":
            return State.RESTARTING, _exit_code(words)
        case "created":
            return State.STARTING, None
        case _:
            code = _exit_code(words)
            return State.EXITED, code


def _exit_code(words: str) -> int | None:
    found = re.search(r"\((\d+)\)", words)
    return int(found.group(1)) if found else None


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


class DockerApi:
    """A connection to the engine, made at first use. Follows DOCKER_HOST and the CLI's context."""

    def __init__(self, timeout: int = 60) -> None:
        self._timeout = timeout
        self._client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            from docker.errors import DockerException

            import docker  # late: it costs 0.13 s

            try:
                client = docker.from_env(timeout=ANSWER_SECONDS)  # its first question is the engine's version
                client.ping()
                client.api.timeout = self._timeout
                setattr(client.api, "send", _told(client.api.send))  # noqa: B010 - a session of requests
                self._client = client
            except (DockerException, OSError) as error:
                raise EngineUnavailable(f"Docker does not answer: {_words(error)}",
                                        "see `invoke doctor`") from None
        return self._client

    @property
    def base_url(self) -> str:
        return str(self.client.api.base_url)

    def version(self) -> dict[str, Any]:
        return dict(self.client.version())

    def info(self) -> dict[str, Any]:
        return dict(self.client.info())

    # containers

    def containers(self, labels: Iterable[str] = ()) -> list[Container]:
        """All containers (stopped ones too) that carry every one of the labels."""
        found = []
        for summary in self.client.api.containers(all=True, filters={"label": list(labels)}):
            state, code = _state(summary)
            ports = {
                Port("", int(p["PrivatePort"]), int(p.get("PublicPort", 0)), p.get("IP", ""))
                for p in summary.get("Ports", []) if p.get("Type") == "tcp"
            }
            found.append(Container(
                id=summary["Id"], name=summary["Names"][0].lstrip("/") if summary["Names"] else "",
                image=summary["Image"], image_id=summary.get("ImageID", ""), state=state, exit_code=code,
                labels=summary.get("Labels") or {}, since=str(summary.get("Status", "")),
                volumes=tuple(str(m["Name"]) for m in summary.get("Mounts") or () if m.get("Name")),
                ports=tuple(sorted((p for p in ports if p.published), key=lambda p: p.target))))
        return found

    def reason(self, container: str) -> str:
        """Why a container is not well, in the engine's own words."""
        from docker.errors import NotFound

        try:
            details = self.client.api.inspect_container(container)
        except NotFound:
            return ""  # replaced since it was listed
        state = details["State"]
        if state.get("Paused"):
            return "paused; `invoke up` starts it again"
        if state.get("OOMKilled"):
            return "killed: out of memory"
        if state.get("Error"):
            return str(state["Error"])
        log = (state.get("Health") or {}).get("Log") or []
        if state.get("Running") and log and log[-1]["ExitCode"] != 0:
            return " ".join(str(log[-1]["Output"]).split())[-300:] or f"health check exit code {log[-1]['ExitCode']}"
        if not state.get("Running"):
            return f"exit code {state.get('ExitCode')}"
        return ""

    def restarts(self, container: str) -> int:
        """How often the engine has started it again since it was made."""
        from docker.errors import NotFound

        try:
            return int(self.client.api.inspect_container(container).get("RestartCount", 0))
        except NotFound:
            return 0  # replaced since it was listed

    def logs(self, container: str, tail: int, follow: bool) -> Iterator[str]:
        """Lines of stdout and stderr as they were written; with ``follow`` until the container ends."""
        from docker.errors import APIError
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            found = self.client.api.logs(container, stream=follow, follow=follow, tail=tail)
            for chunk in found if follow else [found]:  # the SDK takes the time-out away from what streams
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
        except APIError as error:
            raise TrackbedError(f"Docker gives no log: {_words(error)}", "see `invoke doctor`") from None
        except (RequestException, HTTPError, OSError) as error:
            raise TrackbedError(f"the log broke off: {_words(error)}", "run the same command again") from None
        if rest:
            yield rest.decode("utf-8", "replace")

    def memory(self, container: str) -> int:
        """Resident bytes, page cache not counted; 0 when the engine cannot tell."""
        from docker.errors import APIError

        try:
            stats = self.client.api.stats(container, stream=False, one_shot=True).get("memory_stats", {})
        except APIError:
            return 0  # stopped or replaced since it was listed
        cache = stats.get("stats", {})
        used = int(stats.get("usage", 0))
        return max(0, used - int(cache.get("inactive_file", cache.get("total_inactive_file", 0))))

    def create(self, name: str, config: dict[str, Any], networks: Mapping[str, list[str]]) -> str:
        """Create a container from engine-API arguments; ``networks`` maps a network to the aliases there."""
        api = self.client.api
        networking = api.create_networking_config({
            network: api.create_endpoint_config(aliases=aliases) for network, aliases in networks.items()
        })
        start_interval = config.pop("start_interval", None)
        body = api.create_container_config(networking_config=networking, **config)
        if start_interval and body.get("Healthcheck"):
            body["Healthcheck"]["StartInterval"] = start_interval  # the SDK does not know this key yet
        from docker.errors import APIError

        try:
            return str(api.create_container_from_config(body, name)["Id"])
        except APIError as error:
            raise _refused(name, error) from None

    def host_config(self, **arguments: Any) -> Any:
        return self.client.api.create_host_config(**arguments)

    def start(self, container: str) -> None:
        from docker.errors import APIError

        try:
            self.client.api.start(container)
        except APIError as error:
            raise _refused(container, error) from None

    def stop(self, container: str, timeout: int) -> None:
        self.client.api.stop(container, timeout=timeout)

    def kill(self, container: str) -> None:
        from docker.errors import APIError

        try:
            self.client.api.kill(container)
        except APIError:
            return  # it has just ended

    def remove(self, container: str) -> None:
        from docker.errors import NotFound

        try:
            self.client.api.remove_container(container, force=True, v=True)
        except NotFound:
            return

    # images

    def image(self, name: str) -> dict[str, Any] | None:
        """Id, labels and size of a local image; None when it is not there."""
        from docker.errors import ImageNotFound

        try:
            found = self.client.api.inspect_image(name)
        except ImageNotFound:
            return None
        return {"id": found["Id"], "labels": (found.get("Config") or {}).get("Labels") or {},
                "size": int(found.get("Size", 0))}

    def pull(self, name: str, amount: Callable[[int, int], None] | None = None) -> Iterator[str]:
        """Pull an image, giving a line per layer event. Raises TrackbedError with the registry's words.

        ``amount`` is told the bytes that are here, and those of all layers that are known by then.
        """
        from docker.errors import APIError, DockerException

        named, _, digest = name.partition("@")
        repository, _, tag = named.rpartition(":")
        layers: dict[str, tuple[int, int]] = {}
        try:
            for event in self.client.api.pull(repository, tag=digest or tag, stream=True, decode=True):
                if "error" in event:
                    raise TrackbedError(str(event["error"]))
                detail = event.get("progressDetail") or {}
                if amount and event.get("status") == "Downloading" and detail.get("total"):
                    layers[str(event.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
                elif event.get("status") == "Download complete" and (layer := layers.get(str(event.get("id")))):
                    layers[str(event["id"])] = (layer[1], layer[1])
                if amount and layers:
                    amount(sum(done for done, _ in layers.values()), sum(whole for _, whole in layers.values()))
                yield " ".join(str(event.get(key, "")) for key in ("id", "status", "progress")).strip()
        except (APIError, DockerException) as error:  # the second: a credential helper that is not installed
            raise TrackbedError(_words(error)) from None

    def tag(self, name: str, other: str) -> None:
        """Give a local image another name."""
        repository, _, tag = other.rpartition(":")
        self.client.api.tag(name, repository, tag)

    def push(self, name: str, there: str) -> Iterator[str]:
        """Tag a local image and push it under that name, giving a line per layer event."""
        from docker.errors import APIError

        repository, _, tag = there.rpartition(":")
        try:
            self.client.api.tag(name, repository, tag)
            for event in self.client.api.push(repository, tag=tag, stream=True, decode=True):
                if "error" in event:
                    raise TrackbedError(str(event["error"]))
                yield " ".join(str(event.get(key, "")) for key in ("id", "status", "progress")).strip()
        except APIError as error:
            raise TrackbedError(_words(error)) from None

    # volumes and networks

    def volumes(self, names: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """The labels of those of the named volumes that exist."""
        wanted = set(names)
        listed = self.client.api.volumes().get("Volumes") or []
        return {v["Name"]: v.get("Labels") or {} for v in listed if v["Name"] in wanted}

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self.client.api.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Also one with very many files, which takes the engine minutes."""
        from docker.errors import APIError, NotFound

        try:
            with self._patient(REMOVE_SECONDS):
                self.client.api.remove_volume(name)
        except NotFound:
            return
        except APIError as error:
            raise TrackbedError(f"volume {name} cannot be removed: {_words(error)}",
                                "stop the container that uses it, then try again") from None

    @contextmanager
    def _patient(self, seconds: int) -> Iterator[None]:
        """More time for an answer than the engine usually needs."""
        api = self.client.api
        usual, api.timeout = api.timeout, seconds
        try:
            yield
        finally:
            api.timeout = usual

    @contextmanager
    def _unstarted(self, image: str, binds: Any, **options: Any) -> Iterator[str]:
        """The id of a container that is never started: the engine's way to the files of its volumes."""
        api = self.client.api
        container = api.create_container(image, ["true"], entrypoint=[], labels={f"{LABEL}.helper": "volumes"},
                                         host_config=api.create_host_config(binds=binds, network_mode="none"),
                                         **options)["Id"]
        try:
            yield container
        finally:
            api.remove_container(container, force=True)

    def fill(self, image: str, volumes: Mapping[str, tuple[int, int, int]],
             files: Mapping[str, list[FileEntry]]) -> None:
        """Set the owner and mode of each volume's root and put files into it, over the engine's API.

        Works on remote engines, with read-only roots and any numeric user, and keeps contents out of argv.
        """
        api = self.client.api
        with self._unstarted(image, {name: {"bind": f"/volumes/{name}", "mode": "rw"} for name in volumes},
                             user="0") as container:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for name, (uid, gid, mode) in volumes.items():
                    root = tarfile.TarInfo(f"volumes/{name}")
                    root.type, root.uid, root.gid, root.mode = tarfile.DIRTYPE, uid, gid, mode
                    tar.addfile(root)
                    for entry in files.get(name, []):
                        info = tarfile.TarInfo(f"volumes/{name}/{entry.path}")
                        info.uid, info.gid, info.mode = entry.uid, entry.gid, entry.mode
                        info.size = len(entry.content)
                        tar.addfile(info, io.BytesIO(entry.content))
            api.put_archive(container, "/", buffer.getvalue())

    def volume_is_empty(self, name: str, image: str) -> bool:
        """Whether a volume holds nothing; seen through a container of ``image`` that is never started."""
        with self._unstarted(image, [f"{name}:/v:ro,nocopy"]) as container:
            stream, _ = self.client.api.get_archive(container, "/v/.")
            head = b"".join(itertools.islice(stream, 1))  # the rest of a data set is not read
            stream.close()
            with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
                return tar.next() is None or not head[512:1024].strip(b"\0")

    def read_file(self, image: str, volume: str, path: str) -> bytes:
        """A small file of a volume, through a container of ``image`` never started; b"" when it is not there."""
        from docker.errors import NotFound

        with self._unstarted(image, [f"{volume}:/v:ro,nocopy"]) as container:
            try:
                stream, _ = self.client.api.get_archive(container, f"/v/{path}")
                with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                    found = tar.extractfile(path)
                    return found.read() if found else b""
            except NotFound:
                return b""

    def network_exists(self, name: str) -> bool:
        return any(n["Name"] == name for n in self.client.api.networks(names=[name]))

    def address(self, container: str) -> str:
        """An IPv4 address of a running container that this machine reaches."""
        networks = self.client.api.inspect_container(container)["NetworkSettings"]["Networks"]
        found = [str(n["IPAddress"]) for n in networks.values() if n.get("IPAddress")]
        if not found:
            raise TrackbedError(f"container {container[:12]} has no address", "`invoke up` starts it")
        return found[0]

    def remove_networks(self, project: str, names: Iterable[str]) -> None:
        """Remove those of the named networks that Compose made for a project."""
        from docker.errors import APIError

        known = set(names)
        for network in self.client.api.networks(filters={"label": f"com.docker.compose.project={project}"}):
            if network["Name"] not in known:
                continue  # of somebody else's files of the same name
            try:
                self.client.api.remove_network(network["Id"])
            except APIError:
                continue  # somebody else is attached to it

    def bridges(self, project: str) -> list[tuple[str, tuple[str, ...]]]:
        """Interface and IPv4 subnets of each network of a Compose project."""
        found = []
        for network in self.client.api.networks(filters={"label": f"com.docker.compose.project={project}"}):
            options = network.get("Options") or {}
            interface = options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
            subnets = [str(c.get("Subnet", "")) for c in (network.get("IPAM") or {}).get("Config") or []]
            found.append((interface, tuple(s for s in subnets if s and ":" not in s)))
        return found

    def create_network(self, network: Network, project: str) -> None:
        """Make a network as Compose would, which takes it for its own when services are added later."""
        if self.network_exists(network.name):
            return
        labels = {"com.docker.compose.network": network.name.removeprefix(f"{project}_"),
                  "com.docker.compose.project": project, f"{LABEL}.project": project}
        self.client.api.create_network(network.name, driver="bridge", internal=network.internal, labels=labels,
                                       options={"com.docker.network.driver.mtu": str(network.mtu)})

    def remove_network(self, name: str) -> None:
        from docker.errors import APIError, NotFound

        try:
            self.client.api.remove_network(name)
        except NotFound:
            return
        except APIError as error:
            raise TrackbedError(f"network {name} cannot be removed: {_words(error)}",
                                "remove what is attached to it (`docker network inspect` names it), then try again"
                                ) from None

    def disk_usage(self, volumes: Iterable[str]) -> dict[str, int]:
        """Bytes of each named volume (slow: the engine walks them)."""
        wanted = set(volumes)
        listed = self.client.df().get("Volumes") or []
        return {v["Name"]: int((v.get("UsageData") or {}).get("Size", -1)) for v in listed if v["Name"] in wanted}


def _told(send: Callable[..., Any]) -> Callable[..., Any]:
    """A session's ``send`` whose time-outs and broken connections are told as what they are."""

    def sent(request: Any, **options: Any) -> Any:
        from requests.exceptions import ConnectionError, Timeout

        try:
            return send(request, **options)
        except Timeout:
            raise EngineUnavailable("Docker took a request and does not answer",
                                    "sudo systemctl restart docker") from None
        except ConnectionError as error:
            raise EngineUnavailable(f"the connection to Docker broke: {_words(error)}", "see `invoke doctor`") from None

    return sent


def _refused(container: str, error: Exception) -> TrackbedError:
    """Why a container was not made or started, with advice for what is known of GPUs."""
    words = _words(error)
    if known := accelerators.advice(words):
        means, fix = known
        return TrackbedError(f"{means}. Docker says: {words}", fix)
    return TrackbedError(f"Docker could not start {container}: {words}", "see `invoke doctor`")


def _words(error: BaseException) -> str:
    """The engine's own explanation, without the wrapping of HTTP and SDK."""
    explanation = getattr(error, "explanation", None)
    text = str(explanation or error)
    return " ".join(text.split())
