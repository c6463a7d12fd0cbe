"""Secrets that were replaced: proof, by trying both, that the new one opens and the old one does not."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helpers import encrypted_rows
from helpers.database_settings import USER
from helpers.engines.base import JUPYTER, MLFLOW, Engine
from helpers.errors import TrackbedError
from helpers.http_request import SEARCH
from helpers.project.credentials import (
    JUPYTER_TOKEN,
    MLFLOW_TOKEN,
    POSTGRES_PASSWORD,
    S3_ACCESS_KEY,
    S3_SECRET_KEY,
    SEALING,
    Credentials,
)

ROLES = (USER, "postgres")  # who may ever have had the password
KERNELS = "/api/kernels"
UNUSED = "not used here"


@dataclass(frozen=True)
class Proof:
    """What was seen of a secret that was replaced; not ``ok``: ``detail`` says what is wrong."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Answer:
    """An HTTP status, 0 where none came, and the cookies that came with it as a request sends them."""

    status: int
    cookies: str = ""


def ask(engine: Engine, service: str, path: str, **headers: str) -> Answer:
    """A request to a service, by a host name that it knows."""
    try:
        with engine.open(service, "http") as address:
            link = http.client.HTTPConnection(address.host, address.port, timeout=15)
            try:
                link.request("GET", path, headers={"Host": f"localhost:{address.port}", **headers})
                answer = link.getresponse()
                answer.read(100_000)
                cookies = [line.partition(";")[0] for line in answer.headers.get_all("Set-Cookie") or ()]
                return Answer(answer.status, "; ".join(cookies))
            finally:
                link.close()
    except (OSError, http.client.HTTPException, TrackbedError):
        return Answer(0)


class Watch:
    """Made before the services start with new secrets, asked afterwards. ``old``: the values until now, by name."""

    def __init__(self, engine: Engine, old: Mapping[str, str]) -> None:
        self.engine = engine
        self.old = dict(old)
        self.cookie = ""
        if old.get(JUPYTER_TOKEN):  # a browser that was let in until now
            self.cookie = ask(engine, JUPYTER, KERNELS, Authorization=f"token {old[JUPYTER_TOKEN]}").cookies

    def prove(self, new: Credentials) -> tuple[Proof, ...]:
        """One proof for each secret that was replaced."""
        used = {name for file in self.engine.plan().secrets for name in file.names}
        names = [name for name in self.old if name in new and self.old[name] != new[name]]
        proofs = {name: Proof(name, True, UNUSED) for name in names if name not in used}
        asked = [name for name in names if name in used]
        if JUPYTER_TOKEN in asked:
            proofs[JUPYTER_TOKEN] = self._jupyter(new)
        if MLFLOW_TOKEN in asked:
            proofs[MLFLOW_TOKEN] = self._mlflow(new)
        proofs.update(self._tried([n for n in asked if n in (POSTGRES_PASSWORD, S3_ACCESS_KEY, S3_SECRET_KEY)], new))
        proofs.update(self._sealed([n for n in asked if n in SEALING], new))
        return tuple(proofs.get(name) or Proof(name, False, "Trackbed does not know how to try it") for name in names)

    def _jupyter(self, new: Credentials) -> Proof:
        status = {
            "the new one": ask(self.engine, JUPYTER, KERNELS, Authorization=f"token {new[JUPYTER_TOKEN]}").status,
            "the old one": ask(self.engine, JUPYTER, KERNELS, Authorization=f"token {self.old[JUPYTER_TOKEN]}").status,
            "a cookie of the old one": ask(self.engine, JUPYTER, KERNELS, Cookie=self.cookie).status
            if self.cookie
            else 403,
        }
        return _judged(
            JUPYTER_TOKEN,
            status.pop("the new one") == 200,
            [what for what, code in status.items() if code == 200],
            [what for what, code in status.items() if code not in (200, 302, 401, 403)],
            "" if self.cookie else "; no cookie of the old one was there to try",
        )

    def _mlflow(self, new: Credentials) -> Proof:
        first, second = (
            ask(self.engine, MLFLOW, SEARCH, Authorization=f"Bearer {value}").status
            for value in (new[MLFLOW_TOKEN], self.old[MLFLOW_TOKEN])
        )
        return _judged(
            MLFLOW_TOKEN,
            first == 200,
            ["the old one"] if second == 200 else [],
            [] if second in (200, 401, 403) else [f"MLflow answered {second}"],
        )

    def _tried(self, names: list[str], new: Credentials) -> dict[str, Proof]:
        """Keys of the store and the database's password, tried where the server is."""
        if not names:
            return {}

        def both(name: str) -> tuple[str, str]:
            return new[name], self.old.get(name, new[name])

        asked: dict[str, list[list[str]]] = {}
        if POSTGRES_PASSWORD in names:
            password, former = both(POSTGRES_PASSWORD)
            asked["database"] = [[USER, password], *([role, former] for role in ROLES)]
        if S3_ACCESS_KEY in names or S3_SECRET_KEY in names:
            (access, old_access), (secret, old_secret) = both(S3_ACCESS_KEY), both(S3_SECRET_KEY)
            mixed = {(old_access, old_secret), (old_access, secret), (access, old_secret)} - {(access, secret)}
            asked["store"] = [[access, secret], *map(list, sorted(mixed))]
        result = self._server("opens", asked)
        proofs = {}
        for name in names:
            first, *rest = result.get("database" if name == POSTGRES_PASSWORD else "store") or ["no answer"]
            unknown = [str(word) for word in (first, *rest) if not isinstance(word, bool)]
            proofs[name] = _judged(name, first is True, ["the old one"] if True in rest else [], unknown)
        return proofs

    def _sealed(self, names: list[str], new: Credentials) -> dict[str, Proof]:
        """What rows of the database are encrypted with."""
        if not names:
            return {}
        try:
            result = encrypted_rows.sealed(self.engine, {name: [new[name], self.old[name]] for name in names})
        except TrackbedError as error:
            return {name: Proof(name, False, error.message) for name in names}
        proofs = {}
        for name in names:
            opened, former = result["opened"][name]
            rows, lost = int(result["rows"][name]), len(result["lost"][name])
            note = f"; {lost} of {rows} rows were lost before" if lost else "" if rows else "; nothing is encrypted yet"
            proofs[name] = _judged(name, opened >= rows - lost, ["the old one"] if former else [], [], note)
        return proofs

    def _server(self, command: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        done = self.engine.exec(MLFLOW, ("trackbed-mlflow", command), stdin=json.dumps(asked).encode(), timeout=120)
        try:
            data = json.loads(done.stdout[done.stdout.index("{") :])
            return data if isinstance(data, dict) else {}
        except ValueError:
            return {}


def _judged(name: str, opens: bool, still: list[str], unknown: list[str], note: str = "") -> Proof:
    if still:
        return Proof(name, False, f"{' and '.join(still)} still opens")
    if not opens:
        return Proof(name, False, f"the new one does not open{': ' + unknown[0] if unknown else ''}")
    if unknown:
        return Proof(name, False, f"not known whether the old one still opens: {unknown[0]}")
    return Proof(name, True, f"the new one opens, the old one does not{note}")


def require(proofs: tuple[Proof, ...]) -> None:
    """Raise TrackbedError with the next step when one of them is not as it should be."""
    wrong = [f"{proof.name}: {proof.detail}" for proof in proofs if not proof.ok]
    if wrong:
        raise TrackbedError(
            "not every old secret is revoked: " + "; ".join(wrong),
            "`invoke down`, then `invoke up` starts everything with the new ones only; "
            "`invoke credentials.rotate` replaces and tries them again",
        )
