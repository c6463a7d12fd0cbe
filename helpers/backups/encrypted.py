"""A repository of which nobody reads or changes anything without its passphrase: a place around another one.

What is written goes through AES-256-GCM, bound to its path: a blob that was put elsewhere is noticed, as one that was
changed or cut is. Pieces are named by a keyed hash, so that no name tells what is in it. Backups' names stay: they
tell a project and a time. docs/backup.md tells the format, docs/adr/0011-encrypted-repository.md why it is so.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator

from helpers.backups import repository, repository_key
from helpers.backups.formats import ENCRYPTED, PLAIN, WITH_WORKSPACE
from helpers.backups.needed import TRASH, original
from helpers.backups.repository_key import NONCE, TAG, VERSION, Key
from helpers.backups.storage import Blob, BlobStore, Missing, Unreadable
from helpers.errors import TrackbedError

OVERHEAD = NONCE + TAG  # bytes of each blob
_MANIFEST = re.compile(r"(backups|copies)/[^/]+\.json")


class Altered(Unreadable):
    """It was not written with the key of its place, or not at this path."""


class Encrypted:
    """Blobs encrypted within another store."""

    def __init__(self, inner: BlobStore, key: Key) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.inner, self.key = inner, key
        self._aead = AESGCM(key.content)

    def __str__(self) -> str:
        return str(self.inner)

    @property
    def move_seconds(self) -> float:
        return self.inner.move_seconds

    def digest(self, content: bytes) -> str:
        return hmac.digest(self.key.naming, hashlib.sha256(content).digest(), "sha256").hex()

    def begin(self) -> None:
        self.inner.begin()

    def read(self, path: str, most: int) -> bytes:
        if not _is_manifest(path):
            return self._opened(path, self.inner.read(path, most + OVERHEAD))
        text = self.inner.read(path, 2 * (most + OVERHEAD))
        try:
            content = json.loads(text)
            if content["format"] in (PLAIN, WITH_WORKSPACE):
                raise self._plain(path)
            sealed = base64.b64decode(content["encrypted"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._altered(path) from None
        if _envelope(sealed) != text:
            raise self._altered(path)
        return self._opened(path, sealed)

    def write(self, path: str, content: bytes | bytearray) -> None:
        sealed = self._sealed(path, content)
        if _is_manifest(path):  # as JSON: an earlier version says that it is of a newer one
            sealed = _envelope(sealed)
        self.inner.write(path, sealed)

    def _sealed(self, path: str, content: bytes | bytearray) -> bytes | bytearray:
        nonce, sealed = secrets.token_bytes(NONCE), bytearray(len(content) + OVERHEAD)
        sealed[:NONCE] = nonce
        self._aead.encrypt_into(nonce, content, self._bound(path), memoryview(sealed)[NONCE:])
        return sealed

    def _opened(self, path: str, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            view = memoryview(sealed)
            return self._aead.decrypt(view[:NONCE], view[NONCE:], self._bound(path))
        except (InvalidTag, ValueError):
            raise self._altered(path) from None

    def _bound(self, path: str) -> bytes:
        """What a blob is tied to: its path, wherever a prune has put it."""
        return f"trackbed {VERSION} {original(path) if path.startswith(TRASH) else path}".encode()

    def _altered(self, path: str) -> Altered:
        return Altered(
            f"{self.inner}/{path} was damaged, or not written with the key of this place",
            f"`invoke backup.verify {self.inner}` tells what is whole there; see who can write to it",
        )

    def _plain(self, path: str) -> Altered:
        # its file below backups/ is the backup; the copy goes with what only it needs
        return Altered(
            f"{self.inner}/{path} is not encrypted, in a place that is: a Trackbed before 1.1.0 made it, or somebody "
            "who has not the passphrase",
            f"it is never restored from; delete {self.inner}/backups/{path.rpartition('/')[2]}, then the next prunes "
            "remove what only it needs",
        )

    def holds(self, path: str, size: int) -> bool:
        return self.inner.holds(path, size + OVERHEAD)

    def names(self, below: str) -> list[str]:
        return self.inner.names(below)

    def listed(self, below: str, after: str = "") -> Iterator[Blob]:
        for path, size, modified in self.inner.listed(below, after):
            yield Blob(path, size if _is_manifest(path) else max(0, size - OVERHEAD), modified)

    def modified(self, path: str) -> float:
        return self.inner.modified(path)

    def move(self, path: str, to: str) -> None:
        self.inner.move(path, to)

    def remove(self, path: str) -> None:
        self.inner.remove(path)

    def sync(self) -> None:
        self.inner.sync()


def _envelope(sealed: bytes | bytearray) -> bytes:
    """The only way to write an encrypted manifest."""
    content = {"format": ENCRYPTED, "encrypted": base64.b64encode(sealed).decode()}
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def _is_manifest(path: str) -> bool:
    return _MANIFEST.fullmatch(original(path) if path.startswith(TRASH) else path) is not None


def opened(store: BlobStore, passphrase: str, make: bool = False) -> BlobStore:
    """The place as it is read and written: encrypted where it has a key.

    ``make``: a place without any backup gets a key, where there is a passphrase. Raises TrackbedError where the two do
    not go together: what is told to be encrypted must not be read from, or written to, a plain place that somebody has
    put there.
    """
    if repository_key.is_encrypted(store):
        if not passphrase:
            raise TrackbedError(
                f"{store} is encrypted",
                "write its passphrase as BACKUP_PASSPHRASE into .env (chmod 600 .env), then run the same command again",
            )
        key = repository_key.unlock(store, passphrase)
        if make:
            repository_key.mend(store, key, passphrase)
        return Encrypted(store, key)
    names = repository.names(store)
    if names and _is_sealed(store, names[-1]):
        raise TrackbedError(
            f"{store} is encrypted, and its key is missing ({repository_key.FOLDER}/ and {repository_key.COPIES}/)",
            "bring one of the two folders back from a copy of the place, if there is any: nothing there can be read "
            "without; name another place for new backups",
        )
    if not passphrase:
        return store
    if names:
        raise TrackbedError(
            f"{store} is not encrypted, and BACKUP_PASSPHRASE asks for places that are",
            "for encrypted backups name a new place; to use this one as it is, put TRACKBED_BACKUP_PASSPHRASE= before "
            "the command",
        )
    # a key of its own for looking: nothing opens with it that somebody puts there between this look and the next one
    return Encrypted(store, repository_key.make(store, passphrase) if make else repository_key.random())


def _is_sealed(store: BlobStore, name: str) -> bool:
    try:
        return bool(json.loads(store.read(f"backups/{name}.json", repository.MANIFEST))["format"] == ENCRYPTED)
    except (Missing, TrackbedError, ValueError, KeyError, TypeError, RecursionError):
        return False


def change_passphrase(store: BlobStore, new: str) -> None:
    """Have a place that was opened open with another passphrase alone; only the files of its key are written."""
    assert isinstance(store, Encrypted)
    repository_key.write(store.inner, store.key, new)


def damaged_keys(store: BlobStore) -> dict[str, str]:
    """What is wrong with the files of its key, by path: of two, one is enough to read everything."""
    if not isinstance(store, Encrypted):
        return {}
    lost = repository_key.lost(store.inner, store.key)
    if not lost and repository_key.differ(store.inner, store.key):
        path, other = (f"{folder}/{store.key.id}.json" for folder in (repository_key.FOLDER, repository_key.COPIES))
        why = f"and {other} differ: one is damaged, or a change of the passphrase was interrupted"
        return {path: f"{why}; `invoke backup.passphrase {store}` writes both"}
    return dict.fromkeys(lost, "is missing or damaged: the key of this place")


def lines(store: BlobStore) -> list[str]:
    """What to tell of a place that is encrypted, before the first backup there."""
    if not isinstance(store, Encrypted) or repository.names(store):
        return []
    return [
        f"{store} is encrypted, with BACKUP_PASSPHRASE",
        "without this passphrase nobody can read these backups again, neither you nor Trackbed: keep it outside this "
        "machine too, in a password manager or on paper",
    ]
