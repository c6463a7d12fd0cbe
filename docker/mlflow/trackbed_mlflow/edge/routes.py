"""Every address of the pinned MLflow, judged: offered, or off. What is not in here is off too.

A test walks MLflow's own routes: it fails where this table does not judge one, or judges one that is gone. Paths are
compared as MLflow's routers see them, decoded once and otherwise as they came: another spelling is another path. One
with doubled slashes is led to the one that is meant, as MLflow's own router does.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

OFFERED, OFF = True, False
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TWINS = ("/api/", "/ajax-api/")  # /*/ in the table: clients use the one, pages the other

JOBS = (
    "Judges, evaluations and automatic scoring on the server are switched off in Trackbed: MLflow's job runner "
    "takes 0.5 GB of memory and more, and the server then calls models for whoever may use it. To turn them on, "
    "type in your clone of Trackbed: invoke up --mlflow-jobs=on. Or run the same judge in a notebook: "
    "mlflow.genai.evaluate(data=mlflow.search_traces(), scorers=[judge])"
)
OTHER_JOBS = (
    "Detecting issues, optimizing prompts and jobs of any other kind are switched off in Trackbed: the "
    "server's job runner is for judges, evaluations and automatic scoring. Run it in a notebook"
)
ASSISTANT = "MLflow's assistant is switched off in Trackbed: it runs commands on the server for whoever asks"
GATEWAY = (
    "Calling models through MLflow's AI gateway is switched off in Trackbed: it sends requests to addresses "
    "that callers name. Call the model's API from your notebook"
)
WORKSPACES = "MLflow's workspaces are switched off in Trackbed: each names a storage location of its own"
CATALOGUE = "MLflow's catalogue of models is switched off in Trackbed: the server would fetch it from the internet"
WEBHOOKS = (
    "Testing a webhook is switched off in Trackbed: it shows the answer of any address that a caller names. "
    "The webhook itself is sent at its next event"
)
MISSING = "This MLflow server has no such address, or it is switched off in Trackbed"


class Group(NamedTuple):
    """Routes below one base: for each method the rests of their paths, "." for the base itself."""

    base: str
    offered: bool
    reason: str  # for what is off: what the caller is told
    GET: str | None = None
    POST: str | None = None
    PUT: str | None = None
    PATCH: str | None = None
    DELETE: str | None = None

    def routes(self) -> list[tuple[str, str]]:
        """(method, path) of each; {} stands for one segment of a path, {path} for the rest of it."""
        result = []
        for method in METHODS:
            rests = getattr(self, method)
            if rests is None:
                continue
            for rest in rests.split():
                path = self.base + ("" if rest == "." else rest)
                bases = [path.replace("/*/", twin, 1) for twin in TWINS] if path.startswith("/*/") else [path]
                result += [(method, each) for each in bases]
        return result


M2, M3, A2, A3 = "/*/2.0/mlflow/", "/*/3.0/mlflow/", "/ajax-api/2.0/mlflow/", "/ajax-api/3.0/mlflow/"
ROWS = "rows of the database"

# offered with MLFLOW_JOBS=on, and nothing else is: what the page's judges, evaluations and automatic scoring need
JOB_ROUTES = (
    Group(A3, OFF, JOBS, GET="jobs/{}", PATCH="jobs/cancel/{}", POST="scorer/invoke genai/evaluate/invoke"),
    Group("/ajax-api/3.0/jobs/", OFF, JOBS, GET="{}", PATCH="cancel/{}"),
    Group(M3, OFF, JOBS, PUT="scorers/online-config"),
)

TABLE = (
    # what runs, forwards or opens on a caller's word
    Group(
        A3 + "assistant/",
        OFF,
        ASSISTANT,
        GET="sessions/{}/stream providers providers/{}/health providers/{}/models config",
        POST="message sessions/{}/permission sessions/{}/tool-result skills/install",
        PUT="config",
        PATCH="sessions/{}",
    ),
    *JOB_ROUTES,
    Group("/ajax-api/3.0/jobs/", OFF, OTHER_JOBS, POST=". search"),
    Group(A3, OFF, OTHER_JOBS, POST="issues/invoke"),
    # accepted, it would never run
    Group(M3, OFF, OTHER_JOBS, POST="prompt-optimization/jobs prompt-optimization/jobs/{}/cancel"),
    Group(
        "/gateway/",
        OFF,
        GATEWAY,
        GET="mlflow/v1/models",
        POST="{}/mlflow/invocations mlflow/v1/chat/completions openai/v1/chat/completions openai/v1/embeddings "
        "typesafe/v1/systemone openai/v1/responses openai/v1/responses/compact anthropic/v1/messages "
        "gemini/v1beta/models/{}:generateContent gemini/v1beta/models/{}:streamGenerateContent proxy/{}/{path}",
    ),
    Group(A2, OFF, GATEWAY, POST="gateway-proxy runs/create-promptlab-run"),
    Group(A3, OFF, CATALOGUE, GET="gateway/supported-models"),
    Group(M2, OFF, WEBHOOKS, POST="webhooks/{}/test"),
    Group(
        M3,
        OFF,
        WORKSPACES,
        GET="workspaces workspaces/{}",
        POST="workspaces",
        PATCH="workspaces/{}",
        DELETE="workspaces/{}",
    ),
    # MLflow itself answers 404, or the same files are elsewhere
    Group(M2, OFF, MISSING, GET="get-online-trace-details unified-traces"),
    Group("/*/2.0mlflow/experiments/", OFF, MISSING, POST="search-datasets"),
    Group("/build/", OFF, MISSING, GET="{path}"),
    # the pages, and what says that the server is there
    Group("/", OFFERED, "one page, its files, names and versions", GET=". health version static-files/{path}"),
    Group("/*/3.0/mlflow/", OFFERED, "what this server can do", GET="server-info"),
    Group(A3, OFFERED, "answers `disabled`: telemetry is off", GET="ui-telemetry", POST="ui-telemetry"),
    # the server's environment drops what would name a target
    Group(
        A2,
        OFFERED,
        "an empty list: without a target MLflow forwards nothing. The page of every experiment asks",
        GET="gateway-proxy",
    ),
    Group("/graphql", OFFERED, "searches and reads; its mutations are searches too", GET=".", POST="."),
    # artifacts: every way to them passes artifact_locations.py
    Group(
        "/*/2.0/mlflow-artifacts/",
        OFFERED,
        "this project's own artifacts, below its own prefix",
        GET="artifacts artifacts/{path} presigned/{path}",
        PUT="artifacts/{path}",
        DELETE="artifacts/{path}",
        POST="mpu/create/{path} mpu/complete/{path} mpu/abort/{path}",
    ),
    Group("/", OFFERED, "artifacts of a run or model version", GET="get-artifact model-versions/get-artifact"),
    Group(
        M2 + "artifacts/", OFFERED, "artifacts of a run", GET="list", POST="presigned-download-url presigned-upload-url"
    ),
    Group(
        A2,
        OFFERED,
        "artifacts of a run, trace or logged model",
        GET="get-trace-artifact logged-models/{}/artifacts/files",
        POST="upload-artifact",
    ),
    Group(A3, OFFERED, "artifacts of a trace", GET="get-trace-artifact"),
    # runs and what belongs to them
    Group(
        M2 + "experiments/",
        OFFERED,
        "rows; a location is checked by artifact_locations.py",
        GET="get get-by-name search",
        POST="create delete delete-experiment-tag restore search set-experiment-tag update",
    ),
    Group(A2, OFFERED, ROWS, POST="experiments/search-datasets", GET="metrics/get-history-bulk"),
    Group(
        M2 + "runs/",
        OFFERED,
        ROWS,
        GET="get",
        POST="create delete delete-tag log-batch log-inputs log-metric "
        "log-model log-parameter outputs restore search set-tag update",
    ),
    Group(M2 + "metrics/", OFFERED, ROWS, GET="get-history get-history-bulk-interval"),
    Group(
        M2 + "logged-models",
        OFFERED,
        "rows; the location is the experiment's",
        GET="/{} /{}/artifacts/directories",
        POST=". /search /{}/params",
        PATCH="/{} /{}/tags",
        DELETE="/{} /{}/tags/{}",
    ),
    # the registry, prompts among it
    Group(
        M2 + "registered-models/",
        OFFERED,
        ROWS,
        GET="alias get get-latest-versions search",
        POST="alias create get-latest-versions rename set-tag",
        PATCH="update",
        DELETE="alias delete delete-tag",
    ),
    Group(
        M2 + "model-versions/",
        OFFERED,
        "rows; a source is checked by artifact_locations.py",
        GET="get get-download-uri search",
        POST="create set-tag transition-stage",
        PATCH="update",
        DELETE="delete delete-tag",
    ),
    # traces and their reviews
    Group("/v1/traces", OFFERED, "spans become rows; body_limits.py bounds what they unpack to", POST="."),
    Group(
        M2 + "traces",
        OFFERED,
        ROWS,
        GET=". /{}/info",
        POST=". /delete-traces /link-prompts /link-to-run",
        PATCH="/{} /{}/tags",
        DELETE="/{}/tags",
    ),
    Group(
        M3 + "traces",
        OFFERED,
        ROWS,
        GET="/{} /{}/assessments/{} /batchGet /get",
        POST=". /{}/assessments /batchGetInfos /calculate-filter-correlation /delete-traces /metrics /search",
        PATCH="/{}/assessments/{} /{}/tags",
        DELETE="/{}/assessments/{} /{}/tags",
    ),
    Group(M3 + "issues", OFFERED, ROWS, GET="/{}", POST=". /search", PATCH="/{}"),
    Group(
        M3 + "label-schemas/", OFFERED, ROWS, GET="get get-by-name list", POST="create", PATCH="update", DELETE="delete"
    ),
    Group(
        M3 + "review-queues/",
        OFFERED,
        ROWS,
        GET="get get-by-name items/list list",
        POST="create delete get-or-create-user items/add items/remove items/set-status update",
    ),
    Group(
        M3 + "datasets/",
        OFFERED,
        "rows; a source is text that the server does not open",
        GET="{} {}/experiment-ids {}/records search",
        POST="create search {}/add-experiments {}/records {}/remove-experiments",
        PATCH="{}/tags",
        DELETE="{} {}/records {}/tags/{}",
    ),
    Group(
        M3 + "scorers/",
        OFFERED,
        "rows; MLflow refuses scorers that carry code",
        GET="get list versions online-configs",
        POST="register",
        DELETE="delete",
    ),
    Group(
        M3 + "prompt-optimization/jobs",
        OFFERED,
        "rows of what another server may have left",
        GET="/{} /search",
        POST="/search",
        DELETE="/{}",
    ),
    Group(A3 + "demo/", OFFERED, "MLflow's own examples; nothing of the caller's", POST="generate delete"),
    # kept, and never used by this server: keys of models, encrypted with this project's own passphrase
    Group(
        M3 + "gateway/",
        OFFERED,
        "rows; calling the models is off",
        GET="budgets/get budgets/list budgets/windows "
        "endpoints/bindings/list endpoints/get endpoints/list guardrails/get guardrails/list "
        "guardrails/list-for-endpoint model-definitions/get model-definitions/list secrets/get secrets/list",
        POST="budgets/create budgets/update endpoints/bindings/create endpoints/create endpoints/models/attach "
        "endpoints/models/detach endpoints/set-tag endpoints/update guardrails/add-to-endpoint "
        "guardrails/create model-definitions/create model-definitions/update secrets/create secrets/update",
        PATCH="guardrails/update-config",
        DELETE="budgets/delete endpoints/bindings/delete endpoints/delete endpoints/delete-tag guardrails/delete "
        "guardrails/remove-from-endpoint model-definitions/delete secrets/delete",
    ),
    Group(
        A3 + "gateway/", OFFERED, "lists in MLflow's own code", GET="provider-config secrets/config supported-providers"
    ),
    # MLflow sends them to public https addresses only, and looks at each connection
    Group(
        M2 + "webhooks",
        OFFERED,
        "events to addresses on the internet, which MLflow checks",
        GET=". /{}",
        POST=".",
        PATCH="/{}",
        DELETE="/{}",
    ),
    Group(
        "/*/3.0/mlflow/mcp-servers",
        OFFERED,
        "rows of a registry; the server connects to none of them",
        GET=". /endpoints /{path} /{path}/versions /{path}/versions/{path} /{path}/endpoints /{path}/endpoints/{} "
        "/{path}/aliases/{path}",
        POST=". /{path}/versions /{path}/versions/{path}/tags /{path}/endpoints /{path}/tags /{path}/aliases",
        PATCH="/{path} /{path}/versions/{path} /{path}/endpoints/{}",
        DELETE="/{path} /{path}/versions/{path} /{path}/versions/{path}/tags/{path} /{path}/endpoints/{} "
        "/{path}/tags/{path} /{path}/aliases/{path}",
    ),
)


# Trackbed's own, beside MLflow's
OURS = (
    Group(
        "/api/2.0/mlflow-artifacts/",
        OFFERED,
        "addresses of many artifacts, as presigned/{path} of one",
        POST="presigned",
    ),
)


def table(jobs: bool) -> tuple[Group, ...]:
    """What is offered with MLFLOW_JOBS=on or off."""
    judged = (group._replace(offered=jobs or group.offered) if group in JOB_ROUTES else group for group in TABLE)
    return (*judged, *OURS)


DOUBLED = re.compile("/{2,}")
MOST_DOUBLED = 8  # doubled slashes of one path; the longest base has 8 segments
DEPTH = 4  # segments of a path by which patterns are found
Methods = dict[str, Group]


class Judge:
    """What the table says of a request."""

    def __init__(self, table: tuple[Group, ...] = TABLE) -> None:
        self.exact: dict[str, Methods] = {}
        self.patterns: dict[str, list[tuple[re.Pattern[str], Methods]]] = {}
        listed: dict[str, Methods] = {}
        for group in table:
            for method, path in group.routes():
                if method in listed.setdefault(path, {}):
                    raise ValueError(f"judged twice: {method} {path}")
                listed[path][method] = group
        for path, methods in listed.items():
            if "{" not in path:
                self.exact[path] = methods
                continue
            literal = path.split("{")[0].rsplit("/", 1)[0]
            key = "/".join(literal.split("/")[: DEPTH + 1])
            pattern = re.escape(path).replace(r"\{path\}", r"[\s\S]+").replace(r"\{\}", "[^/]+")
            self.patterns.setdefault(key, []).append((re.compile(pattern), methods))

    def methods(self, path: str) -> list[Methods]:
        """What is known of a path, the fixed address first."""
        result = [self.exact[path]] if path in self.exact else []
        parts = path.split("/", DEPTH + 1)
        for depth in range(min(len(parts), DEPTH + 1), 0, -1):
            for pattern, methods in self.patterns.get("/".join(parts[:depth]), ()):
                if pattern.fullmatch(path):
                    result.append(methods)
        return result

    def refusal(self, path: str, method: str) -> tuple[int, str] | None:
        """Status and reason of a request that does not reach MLflow; None for one that does."""
        method = "GET" if method == "HEAD" else method
        if (known := self.exact.get(path)) and (group := known.get(method)) and group.offered:
            return None  # nearly all requests
        known_methods = self.methods(path)
        groups = [group for methods in known_methods for name, group in methods.items() if name == method]
        for group in groups:
            if not group.offered:
                return 404, group.reason
        if groups:
            return None
        offered = any(group.offered for methods in known_methods for group in methods.values())
        if offered:
            return None if method == "OPTIONS" else (405, f"{method} is not for this address")
        reasons = {group.reason for methods in known_methods for group in methods.values()}
        return 404, min(reasons, default=MISSING)

    def meant(self, path: str, method: str) -> str | None:
        """The offered address that an unknown one with doubled slashes stands for; None where there is none.

        From the left, and no further than needed: in the name of an artifact they stay.
        """
        if "//" not in path or self.methods(path):
            return None
        for _ in range(MOST_DOUBLED):
            path, merged = DOUBLED.subn("/", path, count=1)
            if not merged:
                break
            if self.refusal(path, method) is None:
                return path
        return None


CODES = {403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND", 413: "REQUEST_LIMIT_EXCEEDED"}


def body(status: int, reason: str) -> bytes:
    """An error as MLflow's clients and pages read it."""
    return json.dumps({"error_code": CODES.get(status, "INVALID_PARAMETER_VALUE"), "message": f"{reason}."}).encode()
