"""One HTTP request to a service of ours, whose failure is an answer too."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass

from helpers.deadline import within

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; ``status`` 0 when none came, then ``body`` says why."""

    status: int
    body: str

    @property
    def ok(self) -> bool:
        return self.status == 200


def ask(url: str, method: str = "GET", data: bytes | None = None, timeout: float = 15, token: str = "") -> Answer:
    """One HTTP request, never through a proxy; failures come back as an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Host", "localhost")  # a container's own address is no name that the server knows
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if data is not None:
        request.add_header("Content-Type", "application/octet-stream")

    def once() -> Answer:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, response.read(100_000).decode("utf-8", "replace"))

    try:
        return within(timeout + 1, once)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(2_000).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException) as error:  # something else may listen there
        return Answer(0, str(getattr(error, "reason", error)))
