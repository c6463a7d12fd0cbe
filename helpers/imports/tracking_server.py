"""A running MLflow server as a source: this machine asks its REST API, and only what reads.

The toolkit asks, and the MLflow service gets the answers: an address of this machine's own, its proxy and its CAs hold,
and the login never leaves this process. The login is in the variables that MLflow's own client has for it.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urljoin, urlsplit

import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from helpers.errors import SettingError, TrackbedError
from helpers.imports.databases import Block

USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN, CA = "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_SERVER_CERT_PATH"
LOGIN = f"set {USERNAME} and {PASSWORD}, or {TOKEN}, in the environment"
TIMES = (10, 120)  # seconds to connect, and between two pieces of an answer
TRIES = 5
RUNS, VALUES, EXPERIMENTS, TRACES, MODELS, VERSIONS = 200, 25_000, 1000, 100, 50, 1000  # of one page
API, API3, PROXY = "api/2.0/mlflow", "api/3.0/mlflow", "api/2.0/mlflow-artifacts/artifacts"
# everything that is ever sent: a search is a POST and changes nothing
SEARCHES = frozenset(
    {f"{API}/experiments/search", f"{API}/runs/search", f"{API}/logged-models/search", f"{API3}/traces/search"}
)
PROMPT = "tags.`mlflow.prompt.is_prompt` = 'true'"
SERVED = "mlflow-artifacts:"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Json = dict[str, Any]


class Missing(Exception):
    """The server has nothing at that address."""


class _Unready(Exception):
    """The server may answer a moment later."""


class _Session(requests.Session):
    """Stays with the server that was named: it would choose otherwise what this machine asks in its own network."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        host = urlsplit(urljoin(resp.url, target)).hostname if target else None
        if host and host != urlsplit(resp.url).hostname:
            raise requests.exceptions.InvalidURL(f"it leads to another server, {host}")
        return target


@dataclass(frozen=True)
class Login:
    """How to come in; nothing of it is ever shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Login:
        """Raises SettingError for a file that is not there."""
        login = cls(*(environment.get(name, "") for name in (USERNAME, PASSWORD, TOKEN, CA)))
        if login.ca and not Path(login.ca).is_file():
            raise SettingError(f"{CA}: there is no file {login.ca}.")
        return login


class TrackingServer:
    """The API of a server. ``url`` has no slash at its end."""

    def __init__(self, url: str, login: Login) -> None:
        self.url, self._login = url, login
        self._session = _Session()
        self._session.headers["Accept-Encoding"] = "identity"  # an artifact comes as it is
        self._session.trust_env = urlsplit(url).hostname not in LOOPBACK  # no proxy leads back to this machine
        self._session.auth = self._authorize  # also without a login: ~/.netrc is not for this
        if login.ca:
            self._session.verify = login.ca

    def __str__(self) -> str:
        return self.url

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        login = self._login
        if login.token:
            request.headers["Authorization"] = f"Bearer {login.token}"
        elif login.username or login.password:
            pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode("ascii")
            request.headers["Authorization"] = f"Basic {pair}"
        return request

    def get(self, path: str, /, **parameters: Any) -> Json:
        return self._json(self._ask("GET", path, params=parameters))

    def search(self, path: str, /, **question: Any) -> Json:
        assert path in SEARCHES
        return self._json(self._ask("POST", path, json=question))

    def pages(self, path: str, /, **question: Any) -> Iterator[Json]:
        """All pages of a search, or of a list that is asked by GET."""
        token: Json = {}
        while True:
            answer = (self.search if path in SEARCHES else self.get)(path, **question, **token)
            yield answer
            if not answer.get("next_page_token"):
                return
            token = {"page_token": answer["next_page_token"]}

    def download(self, path: str, /, **parameters: Any) -> IO[bytes]:
        answer = self._ask("GET", path, params=parameters, stream=True)
        answer.raw.decode_content = True
        return cast("IO[bytes]", answer.raw)

    def check(self) -> str:
        """The server's version. Raises TrackbedError where there is no MLflow, or no way in."""
        try:
            self.search(f"{API}/experiments/search", max_results=1)
        except Missing:
            raise TrackbedError(
                f"{self} answers, but there is no MLflow at this address", "is the path in the address right?"
            ) from None
        try:
            return self._ask("GET", "version").text.strip()[:40]
        except (Missing, TrackbedError):
            return ""

    def _json(self, answer: requests.Response) -> Json:
        try:
            data = answer.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise TrackbedError(
                f"{self} answers with a page instead of data", "a login page in between? name the MLflow server itself"
            )
        return data

    def _ask(self, method: str, path: str, **words: Any) -> requests.Response:
        tries = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(0.5, 8),
            retry=retry_if_exception_type(_Unready),
            reraise=True,
        )
        try:
            return tries(self._once, method, path, words)
        except _Unready as error:
            raise TrackbedError(f"{self} {error}", "when it answers again, run the same command again") from None

    def _once(self, method: str, path: str, words: Json) -> requests.Response:
        try:
            answer = self._session.request(method, f"{self.url}/{path}", timeout=TIMES, **words)
        except requests.exceptions.SSLError as error:
            raise TrackbedError(
                f"{self}: TLS fails: {_last(error)}", f"{CA} in the environment names the CA's certificate, a PEM file"
            ) from None
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise _Unready(f"does not answer: {_last(error)}") from None
        except (requests.exceptions.RequestException, UnicodeError) as error:
            raise TrackbedError(f"{self} cannot be asked: {_last(error)}", "is the address right?") from None
        if answer.ok:
            return answer
        with answer:
            text = " ".join(answer.text[:2000].split())[:200]
        if answer.status_code in (401, 403):
            raise TrackbedError(f"{self} refuses the request ({answer.status_code})", LOGIN)
        if answer.status_code == 404:
            raise Missing(path)
        if answer.status_code in (429, 500, 502, 503, 504):
            raise _Unready(f"answers {path} with HTTP {answer.status_code} {text}")
        raise TrackbedError(f"{self} answers {path} with HTTP {answer.status_code} {text}", "look at that server's log")


def _last(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]


def server(text: str) -> TrackingServer:
    """The server at that address. Raises SettingError, whose words have no login."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise SettingError("The server's address has another form than https://HOST:PORT/PATH.") from None
    if parts.username is not None or parts.password is not None:
        raise SettingError(
            f"A login in the address would be seen in this machine's list of processes. Name {parts.scheme}://{host} "
            f"without it; {LOGIN}."
        )
    if not host or parts.query or parts.fragment:
        raise SettingError("The server's address has another form than https://HOST:PORT/PATH.")
    shown = f"[{host}]" if ":" in host else host
    where = f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    return TrackingServer(where, Login.of(os.environ))


def files(source: TrackingServer, left: list[str]) -> Iterator[Block]:
    """All that the API tells, page by page."""
    reader = _Reader(source)
    yield from reader.read()
    left += reader.left
    yield _page("notes", 0, {"remarks": reader.remarks, "unread": []})


def _page(kind: str, number: int, content: Json) -> Block:
    data = json.dumps(content).encode()
    return Block(f"{kind}/{number}", len(data), io.BytesIO(data))


class _Reader:
    """Reads the lists in an order in which each refers to what came before."""

    def __init__(self, source: TrackingServer) -> None:
        self._source, self._number = source, 0
        self.remarks: list[str] = []
        self.left: list[str] = []

    def _made(self, kind: str, content: Json) -> Block:
        self._number += 1
        return _page(kind, self._number, content)

    def read(self) -> Iterator[Block]:
        numbers: list[str] = []
        for page in self._source.pages(f"{API}/experiments/search", view_type="ALL", max_results=EXPERIMENTS):
            numbers += [one["experiment_id"] for one in page.get("experiments", [])]
            yield self._made("experiments", page)
        for number in numbers:
            yield from self._runs(number)
        yield from self._optional("logged models", self._models(numbers))
        yield from self._optional("traces", self._traces(numbers))
        yield from self._registry()

    def _optional(self, what: str, pages: Iterator[Block]) -> Iterator[Block]:
        """What older servers do not have."""
        try:
            yield from pages
        except Missing:
            self.remarks.append(f"this server has no API for {what}: none come")

    def _runs(self, number: str) -> Iterator[Block]:
        question = {"experiment_ids": [number], "run_view_type": "ALL", "max_results": RUNS}
        # what is logged meanwhile comes at the end, and moves nothing
        for page in self._source.pages(f"{API}/runs/search", **question, order_by=["attributes.start_time ASC"]):
            yield self._made("runs", page)
            for run in page.get("runs", []):
                for metric in run.get("data", {}).get("metrics", []):
                    yield from self._values(run["info"]["run_id"], metric["key"])

    def _values(self, run: str, key: str) -> Iterator[Block]:
        path = f"{API}/metrics/get-history"
        for page in self._source.pages(path, run_id=run, metric_key=key, max_results=VALUES):
            yield self._made("metrics", {"run_id": run, **page})

    def _models(self, numbers: list[str]) -> Iterator[Block]:
        for number in numbers:
            question = {"experiment_ids": [number], "max_results": MODELS}
            for page in self._source.pages(f"{API}/logged-models/search", **question):
                yield self._made("models", page)

    def _traces(self, numbers: list[str]) -> Iterator[Block]:
        try:
            yield from self._new_traces(numbers)
        except Missing:  # before MLflow 3
            for number in numbers:
                question = {"experiment_ids": number, "max_results": TRACES, "order_by": "timestamp_ms ASC"}
                for page in self._source.pages(f"{API}/traces", **question):
                    yield self._made("old_traces", page)

    def _new_traces(self, numbers: list[str]) -> Iterator[Block]:
        for number in numbers:
            place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": number}}
            question = {"locations": [place], "max_results": TRACES, "order_by": ["timestamp_ms ASC"]}
            for page in self._source.pages(f"{API3}/traces/search", **question):
                yield self._made("traces", page)
                for trace in page.get("traces", []):
                    if trace.get("tags", {}).get("mlflow.trace.spansLocation") == "TRACKING_STORE":
                        yield from self._spans(trace["trace_id"])

    def _spans(self, trace: str) -> Iterator[Block]:
        try:
            yield self._made("spans", self._source.get(f"{API3}/traces/get", trace_id=trace))
        except Missing:
            self.left.append(f"spans of trace {trace}")

    def _registry(self) -> Iterator[Block]:
        for extra in ("", PROMPT):  # prompts come only where they are asked for
            for page in self._source.pages(f"{API}/registered-models/search", max_results=100, **_filter(extra)):
                yield self._made("registered", page)
                for model in page.get("registered_models", []):
                    yield from self._versions(model["name"], extra)

    def _versions(self, name: str, extra: str) -> Iterator[Block]:
        mark = '"' if "'" in name else "'"
        where = _filter(f"name = {mark}{name}{mark}{f' AND {extra}' if extra else ''}")
        for page in self._source.pages(f"{API}/model-versions/search", max_results=VERSIONS, **where):
            for version in page.get("model_versions", []):
                place = self._place(name, version["version"])
                if place and place != version.get("source"):
                    version["storage_location"] = place
            yield self._made("versions", page)

    def _place(self, name: str, version: str) -> str:
        try:
            found = self._source.get(f"{API}/model-versions/get-download-uri", name=name, version=version)
        except (Missing, TrackbedError):  # a prompt has none
            return ""
        return str(found.get("artifact_uri", ""))


def _filter(text: str) -> Json:
    return {"filter": text} if text else {}
