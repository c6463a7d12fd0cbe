"""Containers, as one listing and their details tell of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.engines.docker.client.connection import Connection, errors, words
from helpers.errors import TrackbedError
from helpers.gpu import advice
from helpers.services import Port, State

NOWHERE = "trackbed.invalid/nothing:none"  # an image that there never is (RFC 2606)


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


def _state(summary: Mapping[str, Any]) -> tuple[State, int | None]:
    status = str(summary.get("Status", ""))
    match summary.get("State"):
        case "paused":
            return State.UNHEALTHY, None
        case "running":
            if "(unhealthy)" in status:
                return State.UNHEALTHY, None
            if "health: starting" in status:
                return State.STARTING, None
            return (State.READY if "(healthy)" in status else State.RUNNING), None
        case "restarting":
            return State.RESTARTING, _exit_code(status)
        case "created":
            return State.STARTING, None
        case _:
            code = _exit_code(status)
            return State.EXITED, code


def _exit_code(status: str) -> int | None:
    match = re.search(r"\((\d+)\)", status)
    return int(match.group(1)) if match else None


class Containers(Connection):
    """Making, starting, ending and looking at them."""

    def containers(self, labels: Iterable[str] = ()) -> list[Container]:
        """All containers (stopped ones too) that carry every one of the labels."""
        result = []
        for summary in self.client.api.containers(all=True, filters={"label": list(labels)}):
            state, code = _state(summary)
            ports = {
                Port("", int(p["PrivatePort"]), int(p.get("PublicPort", 0)), p.get("IP", ""))
                for p in summary.get("Ports", [])
                if p.get("Type") == "tcp"
            }
            result.append(
                Container(
                    id=summary["Id"],
                    name=summary["Names"][0].lstrip("/") if summary["Names"] else "",
                    image=summary["Image"],
                    image_id=summary.get("ImageID", ""),
                    state=state,
                    exit_code=code,
                    labels=summary.get("Labels") or {},
                    since=str(summary.get("Status", "")),
                    volumes=tuple(str(m["Name"]) for m in summary.get("Mounts") or () if m.get("Name")),
                    ports=tuple(sorted((p for p in ports if p.published), key=lambda p: p.target)),
                )
            )
        return result

    def reason(self, container: str) -> str:
        """Why a container is not well, in the engine's own words."""
        try:
            details = self.client.api.inspect_container(container)
        except errors().NotFound:
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

    def details(self, container: str) -> dict[str, Any]:
        """All that the engine knows of it, as its API has it; {} for one that has gone."""
        try:
            return dict(self.client.api.inspect_container(container))
        except errors().NotFound:
            return {}

    def restarts(self, container: str) -> int:
        """How often the engine has started it again since it was made."""
        try:
            return int(self.client.api.inspect_container(container).get("RestartCount", 0))
        except errors().NotFound:
            return 0  # replaced since it was listed

    def started(self, container: str) -> str:
        """When the engine started it last, in its own words; "" for one that has gone."""
        try:
            return str(self.client.api.inspect_container(container)["State"]["StartedAt"])
        except errors().NotFound:
            return ""

    def logs(self, container: str, tail: int, follow: bool) -> Iterator[str]:
        """Lines of stdout and stderr as they were written; with ``follow`` until the container ends."""
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            result = self.client.api.logs(container, stream=follow, follow=follow, tail=tail)
            for chunk in result if follow else [result]:  # the SDK takes the time-out away from what streams
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
        except errors().APIError as error:
            raise TrackbedError(f"Docker gives no log: {words(error)}", "see `invoke doctor`") from None
        except (RequestException, HTTPError, OSError) as error:
            raise TrackbedError(f"the log broke off: {words(error)}", "run the same command again") from None
        if rest:
            yield rest.decode("utf-8", "replace")

    def memory(self, container: str) -> int:
        """Resident bytes, page cache not counted; 0 when the engine cannot tell."""
        try:
            stats = self.client.api.stats(container, stream=False, one_shot=True).get("memory_stats", {})
        except errors().APIError:
            return 0  # stopped or replaced since it was listed
        cache = stats.get("stats", {})
        used = int(stats.get("usage", 0))
        return max(0, used - int(cache.get("inactive_file", cache.get("total_inactive_file", 0))))

    def address(self, container: str) -> str:
        """An IPv4 address of a running container that this machine reaches."""
        networks = self.client.api.inspect_container(container)["NetworkSettings"]["Networks"]
        result = [str(n["IPAddress"]) for n in networks.values() if n.get("IPAddress")]
        if not result:
            raise TrackbedError(f"container {container[:12]} has no address", "`invoke up` starts it")
        return result[0]

    def create(self, name: str, config: dict[str, Any], networks: Mapping[str, list[str]]) -> str:
        """Create a container from engine-API arguments; ``networks`` maps a network to the aliases there."""
        api = self.client.api
        networking = api.create_networking_config(
            {network: api.create_endpoint_config(aliases=aliases) for network, aliases in networks.items()}
        )
        start_interval = config.pop("start_interval", None)
        body = api.create_container_config(networking_config=networking, **config)
        if start_interval and body.get("Healthcheck"):
            body["Healthcheck"]["StartInterval"] = start_interval  # the SDK does not know this key yet
        try:
            return str(api.create_container_from_config(body, name)["Id"])
        except errors().APIError as error:
            raise _refused(name, error) from None

    def closed(self, folder: str) -> str:
        """Why the engine itself may not look into a folder of its machine, in its own words; "" where it may.

        It looks at a container's folders before its image: one that is nowhere is asked for, so nothing is made.
        """
        mounts = [{"Type": "bind", "Source": folder, "Target": "/folder"}]
        body = {"Image": NOWHERE, "HostConfig": {"Mounts": mounts}}
        try:
            self.remove(str(self.client.api.create_container_from_config(body)["Id"]))
        except errors().APIError as error:
            said = words(error)
            return said if "permission denied" in said.lower() else ""
        return ""

    def host_config(self, **arguments: Any) -> Any:
        return self.client.api.create_host_config(**arguments)

    def start(self, container: str) -> None:
        try:
            self.client.api.start(container)
        except errors().APIError as error:
            raise _refused(container, error) from None

    def stop(self, container: str, timeout: int) -> None:
        self.client.api.stop(container, timeout=timeout)

    def kill(self, container: str) -> None:
        try:
            self.client.api.kill(container)
        except errors().APIError:
            return  # it has just ended

    def remove(self, container: str) -> None:
        try:
            self.client.api.remove_container(container, force=True, v=True)
        except errors().NotFound:
            return


def _refused(container: str, error: Exception) -> TrackbedError:
    """Why a container was not made or started, with advice for what is known of GPUs."""
    said = words(error)
    if known := advice.advice(said):
        means, fix = known
        return TrackbedError(f"{means}. Docker says: {said}", fix)
    return TrackbedError(f"Docker could not start {container}: {said}", "see `invoke doctor`")
