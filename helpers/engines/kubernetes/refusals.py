"""What kubectl says when it cannot do something, in words a user can act on. Pure functions."""

from __future__ import annotations

import re

from helpers import commands
from helpers.engines.kubernetes.rights import Right
from helpers.errors import EngineUnavailable, TrackbedError

FORBIDDEN = re.compile(
    r"User \"(?P<user>[^\"]*)\" cannot (?P<verb>[a-z]+) resource \"(?P<resource>[^\"]+)\" in API group "
    r"\"(?P<group>[^\"]*)\"(?P<everywhere> at the cluster scope)?"
)
UNREACHABLE = re.compile(
    r"connection refused|connection to the server .* was refused|no such host|no route to host|i/o timeout|"
    r"TLS handshake timeout|network is unreachable|Unable to connect to the server|context deadline exceeded|"
    r"Client\.Timeout|EOF$"
)
NO_LOGIN = re.compile(r"You must be logged in|Unauthorized|provide credentials|getting credentials")
POD_SECURITY = re.compile(r"violates PodSecurity \"(?P<level>[^\"]+)\": (?P<why>[^\n]+)")
QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>\S+), used: (?P<used>\S+), limited: (?P<most>\S+)"
)
NODE_PORT = re.compile(
    r"Invalid value: (?P<port>\d+): provided port is (?P<why>already allocated|not in the valid range)"
)
ENDED = re.compile(r"^command terminated with (?:non-zero )?exit code:? ?.*\d+\s*$", re.MULTILINE)  # of `kubectl exec`


def refusal(said: str, context: str, namespace: str, doing: str) -> TrackbedError:
    """The error for what kubectl wrote to stderr; ``doing`` completes "cannot ..."."""
    where = f"in the cluster of context {context}"
    last = commands.last_line(said)
    if match := FORBIDDEN.search(said):
        resource, _, subresource = match["resource"].partition("/")
        right = Right(match["verb"], resource, match["group"], subresource)
        scope = "" if match["everywhere"] else namespace
        return TrackbedError(
            f"cannot {doing} {where}: {match['user']} has no right to {right}",
            f"{right.shown(scope, context)}; who runs the cluster can give it",
        )
    if match := POD_SECURITY.search(said):
        return TrackbedError(
            f"cannot {doing} {where}: its pod security {match['level']} refuses: {match['why']}",
            f"`kubectl get namespace {namespace} --show-labels --context {context}` shows what the namespace enforces",
        )
    if match := QUOTA.search(said):
        return TrackbedError(
            f"cannot {doing} {where}: the quota {match['name']} of namespace {namespace} allows {match['most']}, "
            f"{match['used']} is used, {match['asked']} more was asked for",
            f"`kubectl describe quota -n {namespace} --context {context}` shows it; ask for less, or for a larger one",
        )
    if match := NODE_PORT.search(said):
        why = "another Service's" if match["why"] == "already allocated" else "none of its node ports"
        return TrackbedError(
            f"port {match['port']} is {why} {where}",
            f"`kubectl get services --all-namespaces --context {context}` shows those that are taken; choose another "
            "with --mlflow-port and --jupyter-port",
        )
    if "the object has been modified" in said:
        return TrackbedError(
            f"cannot {doing} {where}: somebody else changed it at the same time", "type the same command again"
        )
    if NO_LOGIN.search(said):
        return EngineUnavailable(
            f"the cluster of context {context} does not accept the login in the kubeconfig: {last}",
            "log in again the way that its provider says, then type the same command again",
        )
    if "does not exist" in said and "context" in said:
        return EngineUnavailable(
            f"there is no context {context} in the kubeconfig", "`kubectl config get-contexts` shows those that exist"
        )
    if UNREACHABLE.search(said.strip()):
        return EngineUnavailable(
            f"the cluster of context {context} does not answer: {last}",
            f"`kubectl cluster-info --context {context}` shows its address; start it, or choose another with "
            "KUBE_CONTEXT",
        )
    return TrackbedError(
        f"cannot {doing} {where}: {last.removeprefix('Error from server: ').removeprefix('error: ')}",
        "`invoke doctor` shows more",
    )


def without_end(stderr: str) -> str:
    """What a command in a pod wrote, without kubectl's own line about its exit code."""
    return ENDED.sub("", stderr).rstrip("\n") + (
        "\n" if stderr.endswith("\n") and ENDED.sub("", stderr).strip() else ""
    )
