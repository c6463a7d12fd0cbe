"""Kinds of values: what is allowed in words, the parser, and the value's name in help."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from helpers.gpu import node_types
from helpers.settings import parsers
from helpers.settings.parsers import InvalidValue, ParseContext
from helpers.suggestions import nearest

T = TypeVar("T", covariant=True)
Value = TypeVar("Value")
Empty = TypeVar("Empty")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """``allowed`` completes "must be ..."; ``word`` is what help shows behind the flag, as in PORT or auto|token."""

    allowed: str
    parse: Callable[[str, ParseContext], T]
    word: str = "WORD"


def optional(kind: Kind[Value], empty: Empty) -> Kind[Value | Empty]:
    """The same, with ``empty`` where nothing is given."""
    return Kind(kind.allowed, lambda text, context: kind.parse(text, context) if text else empty, kind.word)


def one_of(*words: str) -> Kind[str]:
    """One of a few words."""

    def parse(text: str, context: ParseContext) -> str:
        if text not in words:
            raise InvalidValue(nearest(text, words))
        return text

    return Kind(f"one of {', '.join(words)}", parse, "|".join(words))


def integer(low: int, high: int, what: str = "a number", word: str = "NUMBER") -> Kind[int]:
    """A whole number from ``low`` to ``high``."""

    def parse(text: str, context: ParseContext) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise InvalidValue
        return int(text)

    return Kind(f"{what} from {low} to {high}", parse, word)


def matching(pattern: str, allowed: str, word: str = "WORD") -> Kind[str]:
    """Text that a pattern fits as a whole."""
    compiled = re.compile(pattern)

    def parse(text: str, context: ParseContext) -> str:
        if not compiled.fullmatch(text):
            raise InvalidValue
        return text

    return Kind(allowed, parse, word)


def key(least: int) -> Kind[str]:
    """A password or key of at least that many characters; "" where it is made."""
    return optional(
        matching(rf"[A-Za-z0-9_.~+/=-]{{{least},128}}", f"{least} to 128 letters, digits and any of _ . ~ + / = -"), ""
    )


def printable(most: int) -> Kind[str]:
    """Characters that can be seen, without spaces; "" where there is none."""
    return optional(matching(rf"[!-~]{{1,{most}}}", f"1 to {most} printable characters without spaces"), "")


PROJECT = Kind("1 to 40 of a-z, 0-9, _ and -, the first a letter or digit", parsers.project, "NAME")
SWITCH = Kind("one of true, false", parsers.switch, "true|false")
PORT = integer(1, 65535, "a port", "PORT")
BIND_ADDRESS = Kind("a loopback IPv4 address, with PUBLIC=true any of this machine", parsers.bind_address, "ADDRESS")
HOST = Kind("a host name or an IP address, without http:// and without a port", parsers.public_address, "HOST")
DOMAIN = Kind("a host name whose DNS entry points to this machine", parsers.domain, "HOST")
DIRECTORY = Kind("https://HOST[:PORT]/PATH", parsers.directory, "URL")
PEM = Kind("an absolute path of a PEM file", parsers.pem, "FILE")
FILE = Kind("an absolute path of a file (~ is your home)", parsers.file, "FILE")
FOLDER = Kind("an absolute folder (~ is your home)", parsers.folder, "FOLDER")
BUCKET = Kind("a bucket name: a-z, 0-9, - and ., the first and last a letter or digit", parsers.bucket, "BUCKET")
ENDPOINT = Kind("http://HOST[:PORT] or https://HOST[:PORT]", parsers.endpoint, "URL")
TRACKING_URI = Kind("http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]", parsers.tracking_uri, "URL")
INDEX = Kind("http:// or https:// and the address of a wheel index", parsers.index, "URL")
REGION = matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "1 to 64 letters, digits, _ and -")
ACCESS_KEY = optional(matching(r"[A-Za-z0-9_.~+=-]{3,128}", "3 to 128 letters, digits and any of _ . ~ + = -"), "")
TOKEN = optional(matching(r"[A-Za-z0-9_-]{16,128}", "16 to 128 letters, digits, _ and -"), "")
PASSPHRASE = matching(r"(?=.{12,512}\Z)[^\x00-\x1f\x7f]+", "12 to 512 characters in one line")
USERNAME = optional(
    matching(r"[!-9;-z|~]{1,128}", "1 to 128 printable characters without spaces, colons and braces", "USER"), ""
)
FERNET = optional(matching(r"[A-Za-z0-9_-]{43}=", "a Fernet key: 32 bytes in URL-safe base64 (44 characters)"), "")
GPU = Kind("auto, none, amd, nvidia or a node type: " + ", ".join(node_types.SUPPORTED), parsers.gpu)
DEVICES = Kind("all, or indexes of GPUs with commas, as in 0,1", parsers.devices, "INDEXES")
DATA = Kind("a Docker volume's name or an absolute folder", parsers.data_volume, "VOLUME")
VARIABLES = Kind("NAME=VALUE words, quoted as in a shell", parsers.variables, "NAME=VALUE")
VOLUMES = Kind("SOURCE:/TARGET or SOURCE:/TARGET:ro words", parsers.volumes, "SOURCE:/TARGET")
DURATION = Kind("off, or a time as in 90s, 30m or 12h", parsers.duration, "TIME")
INTERVAL = Kind("a time from 1h to 31d, as in 6h or 1d", parsers.interval, "TIME")
COUNT = integer(0, 9999)
PATTERNS = Kind("patterns of names with commas, as in *.ckpt,runs/old", parsers.patterns, "PATTERNS")
BACKUP_PLACE = Kind("an absolute folder (~ is your home) or s3://BUCKET/PREFIX", parsers.backup_place, "PLACE")
LEASE_END = Kind("auto, or a date with time zone, as in 2026-11-28T18:00Z", parsers.lease_end, "DATE")
MIRROR = Kind(
    "HOST[:PORT][/PATH], without https://, or REGISTRY=HOST[:PORT][/PATH] for each of some registries",
    parsers.mirrors,
    "HOST/PATH",
)
REGISTRY = Kind("HOST[:PORT][/PATH], without https://", parsers.registry, "HOST/PATH")
CONTEXT = matching(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,252}", "the name of a context in the kubeconfig", "CONTEXT")
SERVER = matching(
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[1-9][0-9]{0,4})?",
    "HOST or HOST:PORT, without a scheme",
    "HOST:PORT",
)
_NAMESPACE = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
NAMESPACES = matching(rf"{_NAMESPACE}(,{_NAMESPACE})*", "names of namespaces with commas, as in alice,bob", "NAMES")
NAMESPACE = matching(
    _NAMESPACE,
    "1 to 63 of a-z, 0-9 and -, the first and last a letter or digit",
    "NAMESPACE",
)
STORAGE_CLASS = matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "the name of a storage class", "CLASS")
IMAGE = Kind("an image name with a tag, as in registry/name:1.2", parsers.image, "IMAGE")
SIZE = Kind("a size from 64m to 4096g, as in 512m or 16g", parsers.size, "SIZE")
