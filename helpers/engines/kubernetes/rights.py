"""What the user of a context may do in a namespace, as the API is asked for it and as people are told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Right:
    """To do something to a kind of object, to a part of it, or to the one of that name."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    name: str = ""

    def review(self, namespace: str) -> dict[str, Any]:
        """The question as an object of the API, which answers in its status."""
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**asdict(self), "namespace": namespace}},
        }

    def shown(self, namespace: str, context: str) -> str:
        """What to type to see it; ``namespace``: "" for an object of the whole cluster."""
        words = [self.verb, f"{self._kind}/{self.name}" if self.name else self._kind]
        words += (
            [f"--subresource={self.subresource}"] if self.subresource else []
        )  # pods/exec would be a pod named exec
        words += ["-n", namespace] if namespace else []
        return f"`kubectl auth can-i {' '.join(words)} --context {context}` shows it"

    @property
    def _kind(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def __str__(self) -> str:
        return f"{self.verb} {'/'.join(filter(None, (self._kind, self.name or self.subresource)))}"
