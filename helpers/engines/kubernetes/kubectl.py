"""kubectl: the only module that runs it. Each call names its context and its namespace, and ends in bounded time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any
from urllib.parse import urlencode

from helpers import commands
from helpers.engines.kubernetes import refusals
from helpers.engines.kubernetes.rights import Right
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.services import ExecResult

MANAGER = "trackbed"  # of the fields that are applied
SECONDS = 30.0  # for one answer of the API server
TIMED_OUT = 124

Object = dict[str, Any]  # one object of the API, as JSON


def missing() -> bool:
    """Whether there is no kubectl on this machine."""
    return shutil.which("kubectl") is None


def local(*words: str, timeout: float = SECONDS) -> ExecResult:
    """A command that asks no cluster: the kubeconfig, the client's version, kustomize."""
    return commands.attempt(["kubectl", *words], timeout)


def kustomize(folder: str) -> str:
    """The objects of a kustomization as YAML. Raises TrackbedError."""
    done = local("kustomize", folder, timeout=60)
    if done.code:
        raise TrackbedError(
            f"kubectl cannot read the kustomization in {folder}: {commands.last_line(done.stderr)}",
            "git status shows whether docker/kubernetes was changed; kubectl 1.31 or newer is needed",
        )
    return done.stdout


class Kubectl:
    """kubectl in one context and one namespace."""

    def __init__(self, context: str, namespace: str) -> None:
        self.context, self.namespace = context, namespace

    def command(self, *words: str) -> list[str]:
        """The whole command line, for a command whose input or output streams."""
        return ["kubectl", f"--context={self.context}", f"--namespace={self.namespace}", *words]

    def run(
        self,
        *words: str,
        stdin: IO[bytes] | bytes | None = None,
        timeout: float = SECONDS,
        limited: bool = False,
    ) -> ExecResult:
        """A command that ends by itself, whatever its exit code. Raises EngineUnavailable without kubectl."""
        try:
            return commands.run(self.command(*words), stdin, timeout, limited=limited)
        except FileNotFoundError:
            raise no_kubectl() from None

    def ask(self, doing: str, *words: str, stdin: bytes | None = None, timeout: float = SECONDS) -> str:
        """What it prints. Raises TrackbedError with what to do; ``doing`` completes "cannot ..."."""
        done = self.run(f"--request-timeout={timeout:.0f}s", *words, stdin=stdin, timeout=timeout + 10)
        if done.code:
            raise self.refusal(done, doing)
        return done.stdout

    def refusal(self, done: ExecResult, doing: str) -> TrackbedError:
        said = "context deadline exceeded" if done.code == TIMED_OUT else done.stderr
        return refusals.refusal(said, self.context, self.namespace, doing)

    # objects

    def listed(self, kinds: str, *words: str) -> list[Object]:
        """The objects of these kinds (as in "pods,jobs") in the namespace, or of the cluster for its own kinds."""
        said = self.ask(f"look at its {kinds}", "get", kinds, "-o", "json", *words)
        return list(json.loads(said)["items"])

    def find(self, kind: str, name: str) -> Object | None:
        """One object; None where there is none."""
        said = self.ask(f"look at its {kind} {name}", "get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(said)) if said.strip() else None

    def apply(self, objects: Iterable[Object], what: str) -> None:
        """Make objects what they should be, by the server: no copy of them, secrets among them, is kept beside them."""
        if not (items := list(objects)):
            return
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()
        words = ("apply", "--server-side", f"--field-manager={MANAGER}", "--force-conflicts", "-f", "-")
        self.ask(f"apply {what}", *words, stdin=text, timeout=60)

    def patch(self, kind: str, name: str, change: Object, what: str) -> bool:
        """Change a part of an object and leave the rest as it is; False where there is no such object."""
        # through its input: an argument would be seen by every account of this machine
        words = ("patch", kind, name, "--type=merge", f"--field-manager={MANAGER}", "--patch-file=/dev/stdin")
        done = self.run(f"--request-timeout={SECONDS:.0f}s", *words, stdin=json.dumps(change).encode())
        if done.code and "(NotFound)" not in done.stderr:
            raise self.refusal(done, f"change {what}")
        return not done.code

    def create(self, thing: Object, what: str) -> bool:
        """Make an object that is not there; False where somebody was faster."""
        words = ("create", f"--field-manager={MANAGER}", "-f", "-")
        done = self.run(f"--request-timeout={SECONDS:.0f}s", *words, stdin=json.dumps(thing).encode())
        if done.code and "(AlreadyExists)" not in done.stderr:
            raise self.refusal(done, f"create {what}")
        return not done.code

    def delete(self, kind: str, names: Sequence[str], wait: float = 0, grace: int | None = None) -> None:
        """Delete objects that may be gone; returns once they are, where ``wait`` seconds are given."""
        if not names:
            return
        words = ["delete", kind, *names, "--ignore-not-found", f"--wait={str(bool(wait)).lower()}"]
        words += [f"--timeout={wait:.0f}s"] if wait else []
        words += [f"--grace-period={grace}"] if grace is not None else []
        self.ask(f"delete {kind} {', '.join(names)}", *words, timeout=max(SECONDS, wait + 5))

    def everywhere(self, kind: str, **parameters: str) -> list[Object]:
        """All objects of a kind of the core group, in every namespace: as the server wrote them, not as kubectl would
        write each of them once more."""
        path = f"/api/v1/{kind}?{urlencode(parameters)}"
        return list(json.loads(self.ask(f"look at its {kind}", "get", "--raw", path))["items"])

    def lacking(self, rights: Sequence[Right]) -> list[Right]:
        """Those that the user of the context does not have in the namespace."""
        reviews = [right.review(self.namespace) for right in rights]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews}).encode()
        words = ("create", "-f", "-", "-o", r'jsonpath={.status.allowed}{"\n"}')
        answers = self.ask("ask for its user's rights", *words, stdin=text).split()
        return [right for right, answer in zip(rights, answers, strict=True) if answer != "true"]


def no_kubectl() -> EngineUnavailable:
    return EngineUnavailable(
        "there is no kubectl on this machine", "install it: https://kubernetes.io/docs/tasks/tools/#kubectl"
    )


def contexts() -> tuple[tuple[str, ...], str]:
    """The contexts of the kubeconfig, and the current one ("" for none)."""
    done = local("config", "view", "-o", "json")
    if done.code:
        return (), ""
    content: Mapping[str, Any] = json.loads(done.stdout)
    names = tuple(str(entry["name"]) for entry in content.get("contexts") or ())
    return names, str(content.get("current-context") or "")


def configuration() -> str:
    """Where kubectl looks for its contexts, in words."""
    return os.environ.get("KUBECONFIG") or "~/.kube/config"
