"""The key of an encrypted repository, and the files that hold it, encrypted with what a passphrase gives.

    keys/ID.json          the key: AES-256-GCM, by a key that Argon2id makes of the passphrase and the salt
    copies/keys/ID.json   the same once more: without it nothing there can be read

The key itself is random and stays, so a new passphrase rewrites these two files alone. ID is made of the key: no file
can be made that opens with two passphrases and is right for both.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from helpers.backups import running
from helpers.backups.storage import BlobStore, Missing, Unreadable
from helpers.errors import TrackbedError

FOLDER, COPIES = "keys", "copies/keys"
VERSION = 1  # of all that is encrypted
NONCE, TAG = 12, 16  # bytes, as AES-GCM has them
KEY = 32
ITERATIONS, LANES, MEMORY = 3, 4, 64 * 1024  # KiB; the second choice of RFC 9106
LARGEST = {"iterations": 6, "lanes": 16, "memory": 128 * 1024}  # of a file that somebody else may have written
LONGEST = 4096  # bytes of a key file
MOST = 8  # key files that are tried: each costs a third of a second
_ONE_AT_A_TIME = threading.Lock()  # OpenSSL's threads belong to the process: a second Argon2id with lanes gets none
OLD = 24 * 3600.0  # seconds after which a key file that does not open is damaged
SETTLE = 2.5  # seconds after which another first backup is seen: stores tell times in whole seconds


@dataclass(frozen=True)
class Key:
    """``id``: the name of its files. ``content`` encrypts; ``naming`` makes names of pieces."""

    secret: bytes
    id: str
    content: bytes
    naming: bytes

    def __repr__(self) -> str:
        return f"Key({self.id!r})"  # never the key


class WrongPassphrase(TrackbedError):
    """No key of the place opens with it."""


def _key(secret: bytes) -> Key:
    """The key with what is derived from it: one use, one key."""
    return Key(secret, _derive(secret, b"id", 16).hex(), _derive(secret, b"content"), _derive(secret, b"naming"))


def random() -> Key:
    """A key that no place has yet."""
    return _key(secrets.token_bytes(KEY))


def _derive(secret: bytes, use: bytes, length: int = KEY) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=b"trackbed backup " + use).derive(secret)


@lru_cache(maxsize=MOST)
def _of_passphrase(passphrase: str, salt: bytes, iterations: int, lanes: int, memory: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    text = unicodedata.normalize("NFC", passphrase).encode()  # keyboards differ in how they write an umlaut
    with _ONE_AT_A_TIME:
        return Argon2id(salt=salt, length=KEY, iterations=iterations, lanes=lanes, memory_cost=memory).derive(text)


def _facts(id: str, salt: bytes, iterations: int, lanes: int, memory: int) -> dict[str, Any]:
    return {
        "encryption": VERSION,
        "id": id,
        "kdf": "argon2id",
        "salt": base64.b64encode(salt).decode(),
        "iterations": iterations,
        "lanes": lanes,
        "memory": memory,
    }


def _bound(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode()


def wrapped(key: Key, passphrase: str) -> bytes:
    """A key file that opens with this passphrase."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(NONCE)
    facts = _facts(key.id, salt, ITERATIONS, LANES, MEMORY)
    aead = AESGCM(_of_passphrase(passphrase, salt, ITERATIONS, LANES, MEMORY))
    sealed = nonce + aead.encrypt(nonce, key.secret, _bound(facts))
    return json.dumps({**facts, "key": base64.b64encode(sealed).decode()}, sort_keys=True, indent=1).encode() + b"\n"


def unwrapped(content: bytes, passphrase: str) -> Key | None:
    """The key in a file; None where another passphrase opens it. Raises ValueError for what is no key file."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    facts, salt, sealed = _parsed(content)
    aead = AESGCM(_of_passphrase(passphrase, salt, facts["iterations"], facts["lanes"], facts["memory"]))
    try:
        secret = aead.decrypt(sealed[:NONCE], sealed[NONCE:], _bound(facts))
    except InvalidTag:
        return None
    key = _key(secret)
    return key if hmac.compare_digest(key.id, str(facts["id"])) else None


def _parsed(content: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    try:
        facts = json.loads(content)
        if type(facts["encryption"]) is int and facts["encryption"] > VERSION:
            raise TrackbedError(
                f"it was encrypted by a newer Trackbed (encryption {facts['encryption']}, known: {VERSION})",
                "update this clone: git pull",
            )
        salt, sealed = (base64.b64decode(facts[name], validate=True) for name in ("salt", "key"))
        known = _facts(str(facts["id"]), salt, facts["iterations"], facts["lanes"], facts["memory"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError from error
    numbers = {name: facts[name] for name in LARGEST}
    if not all(type(number) is int and 0 < number <= LARGEST[name] for name, number in numbers.items()):
        raise ValueError("numbers")
    if known | {"key": facts["key"]} != facts or len(salt) != 16 or len(sealed) != NONCE + KEY + TAG:
        raise ValueError("content")
    if facts["memory"] < 8 * facts["lanes"]:
        raise ValueError("memory")
    return known, salt, sealed


def is_encrypted(store: BlobStore) -> bool:
    """Whether the place has a key, readable or not."""
    return bool(store.names(FOLDER) or store.names(COPIES))


def _files(store: BlobStore) -> Iterator[tuple[float, str, bytes]]:
    """The key files that can be read: when each was written, its name, its content."""
    for folder in (FOLDER, COPIES):
        for name in store.names(folder)[:MOST]:
            with suppress(Missing, Unreadable):
                yield store.modified(f"{folder}/{name}"), name, store.read(f"{folder}/{name}", LONGEST)


def unlock(store: BlobStore, passphrase: str) -> Key:
    """The key of the place. Raises WrongPassphrase, or TrackbedError where no key file is whole."""
    damaged, tried = True, set[bytes]()
    for _, _, content in sorted(_files(store)):
        if content in tried:
            continue
        tried.add(content)
        try:
            key = unwrapped(content, passphrase)
        except ValueError:
            continue
        except TrackbedError as error:
            raise TrackbedError(f"{store}: {error.message}", error.hint) from None
        if key:
            return key
        damaged = False
    if damaged:
        raise TrackbedError(
            f"{store} is encrypted, and both files of its key ({FOLDER}/ and {COPIES}/) are damaged",
            "bring one of them back from a copy of the place, if there is any: nothing there can be read without",
        )
    raise WrongPassphrase(
        f"{store} is encrypted with another passphrase than BACKUP_PASSPHRASE",
        "write the right one into .env (chmod 600 .env), then run the same command again; without it nobody can read "
        "what is there",
    )


def make(store: BlobStore, passphrase: str) -> Key:
    """A key for a new place; the other one where two first backups begin at the same moment."""
    key = random()
    write(store, key, passphrase)
    time.sleep(SETTLE)
    first = min(((modified, name) for modified, name, _ in _files(store)), default=(0.0, ""))[1]
    if not first:
        raise TrackbedError(
            f"{store}: the files of its key were removed the moment they were written",
            "see who does that, then run the same command again",
        )
    if first == f"{key.id}.json":
        return key
    for folder in (FOLDER, COPIES):
        store.remove(f"{folder}/{key.id}.json")
    return unlock(store, passphrase)


def write(store: BlobStore, key: Key, passphrase: str) -> None:
    """Have the key open with this passphrase alone. Killed half-way, it opens with this or with the earlier one."""
    content = wrapped(key, passphrase)
    for folder in (COPIES, FOLDER):
        store.write(f"{folder}/{key.id}.json", content)
        store.sync()


def mend(store: BlobStore, key: Key, passphrase: str) -> list[str]:
    """Rewrite a key file of which only the other one is whole, or opens; gives the paths that were rewritten."""
    found = {path: content for path in _paths(key) if (content := _whole(store, path))}
    good = next((content for content in found.values() if unwrapped(content, passphrase) == key), None)
    if good is None:
        return []
    wrong = [path for path in _paths(key) if found.get(path) != good and (path not in found or _is_old(store, path))]
    for path in wrong:
        store.write(path, good)
    if wrong:
        store.sync()
    return wrong


def _is_old(store: BlobStore, path: str) -> bool:
    """Whether no change of the passphrase can have written it just now, on whatever machine."""
    return store.modified(path) < running.time_of(store) - OLD


def lost(store: BlobStore, key: Key) -> list[str]:
    """Those of its two files that are missing or damaged."""
    return [path for path in _paths(key) if not _whole(store, path)]


def differ(store: BlobStore, key: Key) -> bool:
    """Whether its two files are not the same: one was damaged, or a change of the passphrase was interrupted."""
    return len({_whole(store, path) for path in _paths(key)}) > 1


def _paths(key: Key) -> list[str]:
    return [f"{folder}/{key.id}.json" for folder in (FOLDER, COPIES)]


def _whole(store: BlobStore, path: str) -> bytes:
    with suppress(Missing, Unreadable, ValueError, TrackbedError):
        content = store.read(path, LONGEST)
        _parsed(content)
        return content
    return b""
