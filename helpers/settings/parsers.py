"""Text -> value, for each kind of value: raises InvalidValue for what is not allowed."""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from helpers.gpu.node_types import CHOICES, GpuChoice
from helpers.suggestions import nearest


class InvalidValue(ValueError):
    """A parser's verdict: ``rule`` replaces "must be <allowed>", ``suggestion`` is the nearest right word."""

    def __init__(self, suggestion: str = "", rule: str = "") -> None:
        super().__init__(rule)
        self.suggestion = suggestion
        self.rule = rule


@dataclass(frozen=True)
class ParseContext:
    """What a parser may look at besides the value."""

    clone: Path
    home: str


_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def project(value: str, context: ParseContext) -> str:
    if _PROJECT.fullmatch(value):
        return value
    guess = re.sub(r"[^a-z0-9_-]+", "-", value.lower()).strip("-_")[:40]
    raise InvalidValue(guess if _PROJECT.fullmatch(guess) else "")


def bind_address(value: str, context: ParseContext) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        pass
    guess = "127.0.0.1" if value in ("localhost", "::1", "[::1]", "127.0.0", "127.1") else ""
    raise InvalidValue(guess, LOOPBACK)


LOOPBACK = (
    "must be a loopback IPv4 address (127.0.0.1), because nothing here has a login without PUBLIC=true; "
    "reach it from another machine with ssh -L 8000:localhost:8000 USER@THIS_MACHINE."
)


def public_address(value: str, context: ParseContext) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    host = value.lower().rstrip(".")
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    numbers = re.search(r"(^|\.)[0-9]+$", host)  # 300.1.2.3 is neither an address nor a name
    if len(host) <= 253 and re.fullmatch(rf"{label}(\.{label})*", host) and not numbers:
        return host
    guess = ""
    stripped = re.sub(r"^[a-z0-9+.-]+://", "", host).split("/")[0]
    stripped = re.sub(r":[0-9]+$", "", stripped.strip("[]") if stripped.endswith("]") else stripped)
    if stripped and stripped != host:
        try:
            guess = public_address(stripped, context)
        except InvalidValue:
            guess = ""
    raise InvalidValue(guess)


def bucket(value: str, context: ParseContext) -> str:
    if not 3 <= len(value) <= 63:
        raise InvalidValue(rule="must be 3 to 63 characters long.")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])", value):
        guess = re.sub(r"[^a-z0-9.-]+", "-", value.lower()).strip("-.")
        try:
            guess = bucket(guess, context)
        except InvalidValue:
            guess = ""
        raise InvalidValue(guess)
    if re.search(r"\.\.|\.-|-\.", value):
        raise InvalidValue(rule="must not hold '..', '.-' or '-.' (S3 forbids it).")
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", value):
        raise InvalidValue(rule="must not look like an IP address (S3 forbids it).")
    for start in ("xn--", "sthree-", "amzn-s3-demo-"):
        if value.startswith(start):
            raise InvalidValue(rule=f"must not begin with {start} (S3 forbids it).")
    for end in ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"):
        if value.endswith(end):
            raise InvalidValue(rule=f"must not end with {end} (S3 forbids it).")
    if value == "minio":
        raise InvalidValue(rule="must not be minio (MinIO keeps that name for itself).")
    return value


def _url(value: str) -> SplitResult:
    """Its parts, where its host and port are some."""
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        raise InvalidValue from None
    return url


def endpoint(value: str, context: ParseContext) -> str:
    url = _url(value)
    port = url.port
    if not url.scheme or (url.scheme not in ("http", "https") and "://" not in value):
        raise InvalidValue(f"https://{value}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?/?", value) else "")
    if url.username is not None or url.password is not None:
        raise InvalidValue(rule="must not hold a user or password; they are S3_ACCESS_KEY and S3_SECRET_KEY.")
    host = url.hostname or ""
    bare = host if ":" not in host else f"[{host}]"
    clean = f"{url.scheme}://{bare}" + (f":{port}" if port else "")
    named = re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host)
    if url.scheme not in ("http", "https") or not named or port == 0:
        raise InvalidValue
    if url.path not in ("", "/") or url.query or url.fragment:
        raise InvalidValue(clean)
    return clean


def tracking_uri(value: str, context: ParseContext) -> str:
    url = _url(value)
    if "://" not in value:
        raise InvalidValue(f"https://{value}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[\w./-]*)?", value) else "")
    if url.username is not None or url.password is not None:
        raise InvalidValue(rule="must not hold a user or password; they are TRACKING_USERNAME and TRACKING_PASSWORD.")
    if (
        url.scheme not in ("http", "https")
        or url.query
        or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", url.hostname or "")
        or not re.fullmatch(r"[\w.~/-]*", url.path)
    ):
        raise InvalidValue
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/")  # what a browser shows after # is not part of it


def file(value: str, context: ParseContext) -> Path:
    expanded = context.home + value[1:] if value.startswith("~/") else value
    if not expanded.startswith("/"):
        raise InvalidValue("" if expanded.startswith("~") else os.path.normpath(context.clone / expanded))
    return Path(os.path.normpath(expanded))


def gpu(value: str, context: ParseContext) -> GpuChoice:
    word = value.lower()
    if word in CHOICES:
        return CHOICES[word]
    if word in ("intel", "xpu", "max1550"):
        raise InvalidValue("none", "is not supported, AMD and NVIDIA GPUs are.")
    others = {"cuda": "nvidia", "rocm": "amd", "all": "auto", "cpu": "none", "off": "none", "a100": "nvidia"}
    raise InvalidValue(others.get(word) or nearest(word, CHOICES))


def devices(value: str, context: ParseContext) -> str:
    if value == "all":
        return value
    words = [word.strip() for word in value.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,2}", word) for word in words) or len(set(map(int, words))) != len(words):
        raise InvalidValue
    return ",".join(str(int(word)) for word in words)


def duration(value: str, context: ParseContext) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smh])", value)
    if value == "off":
        return 0
    if not match:
        raise InvalidValue(f"{value}m" if value.isdigit() else "")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def interval(value: str, context: ParseContext) -> int:
    """Seconds."""
    match = re.fullmatch(r"([1-9][0-9]{0,2})([hd])", value)
    seconds = int(match[1]) * {"h": 3600, "d": 86400}[match[2]] if match else 0
    if not 3600 <= seconds <= 31 * 86400:
        raise InvalidValue(f"{value}h" if value.isdigit() else "")
    return seconds


def backup_place(value: str, context: ParseContext) -> str:
    """As it was written: a flag may name a file, and one below the current folder."""
    if re.search(r"[\x00-\x1f]", value):
        raise InvalidValue
    return value


def lease_end(value: str, context: ParseContext) -> str:
    """auto, or a date with its zone as ISO 8601 has it."""
    if value == "auto":
        return value
    try:
        moment = datetime.fromisoformat(value)
        zoned = moment.astimezone()
    except (ValueError, OverflowError):
        raise InvalidValue from None
    if moment.tzinfo is None:
        raise InvalidValue(zoned.isoformat(timespec="minutes"), "must have its time zone.")
    return moment.isoformat(timespec="minutes")


def patterns(value: str, context: ParseContext) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",") if word.strip()]
    if len(words) > 200 or any(len(word) > 200 or not word.isprintable() or word.startswith("/") for word in words):
        raise InvalidValue
    return tuple(word.rstrip("/") for word in words)


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        raise InvalidValue(rule="has a quote that does not end.") from None


def variables(value: str, context: ParseContext) -> dict[str, str]:
    result = {}
    for word in _words(value):
        name, equals, rest = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or re.search(r"[\x00-\x1f]", rest):
            raise InvalidValue
        if name in ("HOME", "JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE", "PATH"):
            raise InvalidValue(rule=f"must not set {name}, which Trackbed sets itself.")
        result[name] = rest
    return result


def volumes(value: str, context: ParseContext) -> tuple[str, ...]:
    result = []
    for word in _words(value):
        source, _, target = word.partition(":")
        path, _, mode = target.partition(":")
        if source.startswith("~/"):
            source = context.home + source[1:]
        named = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", source)
        if not (named or source.startswith("/")) or not re.fullmatch(r"/[^:,]+", path) or mode not in ("", "ro", "rw"):
            raise InvalidValue
        for own in ("/run/secrets", "/home/jovyan/work", "/opt/trackbed"):
            if f"{path.rstrip('/')}/".startswith(f"{own}/") or path.rstrip("/") == str(Path(own).parent):
                raise InvalidValue(rule=f"must not cover {own}, which Trackbed needs.")
        result.append(f"{source}:{path}" + (":ro" if mode == "ro" else ""))
    return tuple(result)


def data_volume(value: str, context: ParseContext) -> str:
    if value.startswith(("/", "~")):
        return str(folder(value, context))
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]+)?", value):
        raise InvalidValue
    return value


def index(value: str, context: ParseContext) -> str:
    url = _url(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.password is not None or url.query:
        raise InvalidValue
    return value.rstrip("/")


_SYSTEM = frozenset(
    (
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/home",
        "/lib",
        "/lib64",
        "/opt",
        "/proc",
        "/run",
        "/sbin",
        "/sys",
        "/tmp",
        "/usr",
        "/var",
        "/var/lib",
    )
)


def folder(value: str, context: ParseContext) -> Path:
    expanded = value
    if value == "~" or value.startswith("~/"):
        expanded = context.home + value[1:]
    if not expanded.startswith("/"):
        guess = "" if expanded.startswith("~") else os.path.normpath(context.clone / expanded)
        raise InvalidValue(guess)
    if re.search(r"[\x00-\x1f\x7f'\"\\$`:,]", expanded):
        raise InvalidValue(
            rule="must not hold quotes, backslashes, control characters or any of $ ` : , "
            "(Docker and Compose cannot take them)."
        )
    path = Path(os.path.normpath(expanded))
    if str(path) in _SYSTEM or str(path).startswith(("/proc/", "/sys/", "/dev/")):
        raise InvalidValue(rule="must be a folder of its own, not one of the system.")
    try:
        if path.exists() and not path.is_dir():
            raise InvalidValue(rule="must be a folder; there is a file of that name.")
    except PermissionError:
        raise InvalidValue(
            rule="must be a folder that this account may enter; "
            "a file server with root_squash, or a FUSE mount without allow_other, keeps root out too."
        ) from None
    return path


_IMAGE_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_IMAGE_PATH}(?:/{_IMAGE_PATH})*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)


def registry(value: str, context: ParseContext) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*", value):
        raise InvalidValue()
    return value


def mirrors(value: str, context: ParseContext) -> str:
    words = [word.rpartition("=") for word in value.split()]
    named = [source for source, _, _ in words]
    if len(words) > 1 and "" in named:
        raise InvalidValue(rule="must be one HOST/PATH for all, or name the registry of each, as in ghcr.io=HOST/PATH.")
    if len(set(named)) < len(named):
        raise InvalidValue(rule="must name each registry once.")
    for source, equals, place in words:
        registry(place, context)
        if equals and not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", source):
            raise InvalidValue()
    return " ".join(value.split())


def image(value: str, context: ParseContext) -> str:
    match = _IMAGE.fullmatch(value)
    if match is None or len(value) > 255:
        raise InvalidValue(value.lower() if _IMAGE.fullmatch(value.lower()) and ":" not in value else "")
    if not match["tag"] and not match["digest"]:
        raise InvalidValue(rule="must name a tag or a digest, as in NAME:1.2 (else it changes under you).")
    return value


def size(value: str, context: ParseContext) -> str:
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)b?", value.lower())
    if not match:
        raise InvalidValue
    size = int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2]]
    if not 1 << 26 <= size <= 1 << 42:
        raise InvalidValue
    return match[1] + match[2]


def switch(value: str, context: ParseContext) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if value.lower() not in words:
        raise InvalidValue(nearest(value.lower(), ("true", "false")))
    return words[value.lower()]


def domain(value: str, context: ParseContext) -> str:
    host = public_address(value, context)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if "." in host:
            return host
        raise InvalidValue from None
    raise InvalidValue(rule="must be a name; an address is PUBLIC_ADDRESS.")


def directory(value: str, context: ParseContext) -> str:
    url = _url(value)
    if (
        url.scheme != "https"
        or not re.fullmatch(r"[A-Za-z0-9.:-]+", url.netloc)
        or not re.fullmatch(r"[A-Za-z0-9./_~-]*", url.path)
        or url.query
        or url.fragment
    ):
        raise InvalidValue
    return value


def pem(value: str, context: ParseContext) -> str:
    path = Path(value)
    if not path.is_absolute() or not path.is_file():
        raise InvalidValue
    text = path.read_text(encoding="ascii", errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text:
        raise InvalidValue(rule="must be a file with PEM certificates and no private key.")
    return value
