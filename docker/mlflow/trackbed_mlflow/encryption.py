"""What MLflow encrypts in its database, and the keys for it: read from files, rows brought to today's key.

Two keys, named as MLflow's variables are: the passphrase that wraps the keys of API keys (table ``secrets``), and the
Fernet key of webhooks' secrets. Without them MLflow takes a passphrase that is public, and a key that ends with the
process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackbed_mlflow.errors import required, say

PASSPHRASE, WEBHOOK_KEY = "MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
FILES = {PASSPHRASE: "kek-passphrase", WEBHOOK_KEY: "webhook-key"}
FOLDER = "TRACKBED_SECRETS_FOLDER"
VERSION = 1  # of the passphrase, as MLflow counts without MLFLOW_CRYPTO_KEK_VERSION
LOCK = 7236016


def words(environment: Mapping[str, str], name: str) -> list[str]:
    """The secrets in a file, one a line; none where there is no file."""
    if not (folder := environment.get(FOLDER)):
        return []
    try:
        return Path(folder, name).read_text("ascii", "replace").split()
    except OSError:
        return []


def load(environment: MutableMapping[str, str]) -> None:
    """Today's keys into the environment, where MLflow reads them. Not a process's first one, which /proc shows."""
    for name, file in FILES.items():
        if result := words(environment, file):
            environment[name] = result[0]
    environment.pop("MLFLOW_CRYPTO_KEK_VERSION", None)


@dataclass
class Row:
    """One encrypted value. ``key`` finds its row; a deleted webhook is not worth a word."""

    key: str
    name: str
    value: bytes
    version: int = VERSION
    reported: bool = True


@dataclass
class Kind:
    """Rows of one key: how a value is opened with a secret (None: it is not), closed with one, and stored."""

    select: str
    update: str
    opened: Callable[[Row, str], bytes | None]
    closed: Callable[[bytes, str], bytes]
    former: list[str] = field(default_factory=list)


class Passphrases:
    """MLflow's own wrapping; deriving a key takes a third of a second, so each is derived once."""

    def __init__(self) -> None:
        self._derived: dict[tuple[str, int], bytes] = {}

    def _key(self, secret: str, version: int) -> bytes:
        from mlflow.utils.crypto import KEKManager  # type: ignore[import-not-found]

        if (secret, version) not in self._derived:
            self._derived[secret, version] = KEKManager(secret, version).get_kek()
        return self._derived[secret, version]

    def opened(self, row: Row, secret: str) -> bytes | None:
        from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
        from mlflow.utils.crypto import unwrap_dek

        try:
            return bytes(unwrap_dek(row.value, self._key(secret, row.version)))
        except (MlflowException, ValueError):
            return None

    def closed(self, content: bytes, secret: str) -> bytes:
        from mlflow.utils.crypto import wrap_dek

        return bytes(wrap_dek(content, self._key(secret, VERSION)))


def _webhook_opened(row: Row, secret: str) -> bytes | None:
    from cryptography.fernet import Fernet, InvalidToken  # type: ignore[import-not-found, unused-ignore]

    try:
        return bytes(Fernet(secret).decrypt(row.value))
    except (InvalidToken, ValueError):
        return None


def _webhook_closed(content: bytes, secret: str) -> bytes:
    from cryptography.fernet import Fernet

    return bytes(Fernet(secret).encrypt(content))


def kinds(environment: Mapping[str, str]) -> dict[str, Kind]:
    passphrases = Passphrases()
    result = {
        PASSPHRASE: Kind(
            "SELECT secret_id, secret_name, wrapped_dek, kek_version, true FROM secrets",
            f"UPDATE secrets SET wrapped_dek = :value, kek_version = {VERSION} WHERE secret_id = :key",
            passphrases.opened,
            passphrases.closed,
        ),
        WEBHOOK_KEY: Kind(
            f"SELECT webhook_id, name, secret, {VERSION}, deleted_timestamp IS NULL FROM webhooks "
            "WHERE secret IS NOT NULL",
            "UPDATE webhooks SET secret = :value WHERE webhook_id = :key",
            _webhook_opened,
            _webhook_closed,
        ),
    }
    for name, kind in result.items():
        kind.former = words(environment, f"former-{FILES[name]}s")
    return result


@contextmanager
def connected(environment: Mapping[str, str]) -> Iterator[Any]:
    """A transaction in the server's database."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    url = sqlalchemy.make_url(required(environment, "MLFLOW_BACKEND_STORE_URI"))
    options: dict[str, Any] = {"connect_timeout": 5} if url.get_backend_name() == "postgresql" else {}
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args=options)
    with engine.begin() as connection:
        if options:  # two servers at once: the second one finds it done
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        yield connection


def rows(connection: Any, kind: Kind) -> list[Row]:
    result = connection.execute(_text(kind.select)).all()
    return [
        Row(
            str(key),
            str(name),
            value.encode() if isinstance(value, str) else bytes(value),
            int(version),
            bool(reported),
        )
        for key, name, value, version, reported in result
    ]


def reseal(environment: Mapping[str, str]) -> dict[str, int]:
    """Bring every row that an earlier key opens, or MLflow's public passphrase, to today's; gives the counts."""
    done = {}
    with connected(environment) as connection:
        for name, kind in kinds(environment).items():
            secret, done[name] = environment.get(name, ""), 0
            for row in rows(connection, kind) if secret else ():
                if row.version == VERSION and kind.opened(row, secret) is not None:
                    continue
                content = next(
                    (
                        result
                        for one in (secret, *kind.former, *_public(name))
                        if (result := kind.opened(row, one)) is not None
                    ),
                    None,
                )
                if content is None:
                    if row.reported:
                        say(f"cannot be decrypted: {name} was another one when {row.name!r} was stored")
                    continue
                value = kind.closed(content, secret)  # the one column is binary, the other text
                connection.execute(
                    _text(kind.update), {"value": value.decode() if name == WEBHOOK_KEY else value, "key": row.key}
                )
                done[name] += 1
    for name, count in done.items():
        if count:
            say(f"encrypted again with the current {name}: {count}")
    return done


def _text(statement: str) -> Any:
    import sqlalchemy

    return sqlalchemy.text(statement)


def _public(name: str) -> tuple[str, ...]:
    """What MLflow encrypts with when it is told nothing."""
    if name != PASSPHRASE:
        return ()
    from mlflow.utils.crypto import DEFAULT_KEK_PASSPHRASE

    return (str(DEFAULT_KEK_PASSPHRASE),)


def holds_none(environment: Mapping[str, str]) -> bool:
    """Whether a look at PostgreSQL showed that nothing is encrypted. Each start asks, and most projects have nothing:
    SQLAlchemy alone takes a quarter of a second."""
    scheme, _, rest = environment.get("MLFLOW_BACKEND_STORE_URI", "").partition("://")
    if scheme != "postgresql+psycopg2":
        return False
    import psycopg2  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        with closing(psycopg2.connect(f"postgresql://{rest}", connect_timeout=5)) as connection:
            cursor = connection.cursor()
            cursor.execute(" UNION ALL ".join(f"SELECT EXISTS ({kind.select})" for kind in kinds(environment).values()))
            return not any(there for (there,) in cursor.fetchall())
    except psycopg2.Error:
        return False  # whoever looks at the rows says why


def report(environment: Mapping[str, str], tried: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """How many rows there are by key, which of them today's does not open, how many each of ``tried`` opens."""
    result: dict[str, dict[str, Any]] = {"rows": {}, "lost": {}, "opened": {}}
    if holds_none(environment):
        for name in kinds(environment):
            result["rows"][name], result["lost"][name] = 0, []
            result["opened"][name] = [0] * len(tried.get(name, ()))
        return result
    with connected(environment) as connection:
        for name, kind in kinds(environment).items():
            listed = rows(connection, kind)
            secret = (words(environment, FILES[name]) or [""])[0]
            closed = [row for row in listed if kind.opened(row, secret) is None]
            result["lost"][name] = [row.name for row in closed if row.reported]
            # a deleted webhook that nobody can decrypt is nothing that anybody misses
            result["rows"][name] = len(listed) - len(closed) + len(result["lost"][name])
            result["opened"][name] = [
                sum(kind.opened(row, one) is not None for row in listed) for one in tried.get(name, ())
            ]
    return result


def print_report(environment: Mapping[str, str], stdin: str) -> None:
    print(json.dumps(report(environment, json.loads(stdin or "{}"))))


def tolerate() -> None:
    """A webhook whose secret nobody can decrypt is one without a secret, not the end of every list of webhooks."""
    from cryptography.fernet import InvalidToken
    from mlflow.store.model_registry.dbmodels.models import (  # type: ignore[import-not-found]
        EncryptedString,
    )

    original = EncryptedString.process_result_value

    def process(self: Any, value: Any, dialect: Any) -> Any:
        try:
            return original(self, value, dialect)
        except InvalidToken:
            return None

    EncryptedString.process_result_value = process
    os.environ.pop(WEBHOOK_KEY, None)  # MLflow has read it: children need not
