"""Every setting, in one table, and ``Settings``: the one validated object that everything else reads.

A value is taken from the first place that has one: flags, TRACKBED_ variables, ``.env`` (bare names),
what an earlier ``invoke up`` was told, the default. An empty value means the default.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from helpers import accelerators, envfile, references
from helpers import state as states
from helpers.errors import SettingError
from helpers.spelling import did_you_mean, nearest, shown

PREFIX = "TRACKBED_"
LAST_UP = "the last `invoke up`"
DEFAULT = "default"

# Read by tests, the rig, the images and the services; never settings.
RESERVED = re.compile(
    r"TRACKBED_(TRACEBACK|VERBOSE|SCREENSHOTS|SRC|REQUIRE_(DOCKER|BROWSER|FAKETIME)|MIGRATE|SYSTEM_ENGINE|INSTANCE_OF_PROCESS|BROWSER_URL|SERVER_URI|TRACKING_SECRETS|SECRETS|SECRETS_FOLDER|ACCESS_TOKEN_FILE|GATEWAY_KEY_FILE|STARTUP|PROGRAMS|STORE_NETWORK|OWN_TMP|CODE|S3_CREATE|STORE_SYNC|STORE_SYNC_TOKEN_FILE|NOTEBOOK_GPU|FAULT_[A-Z]+|EQUAL_[A-Z]+|RIG_[A-Z0-9_]*)"
)
# Taken from .env as they are: they belong to Docker, Compose and the network, not to Trackbed.
FOREIGN = re.compile(
    r"(COMPOSE|DOCKER)_[A-Z0-9_]+|BUILDKIT_[A-Z0-9_]+|NO_COLOR"
    r"|(?i:(http|https|ftp|no|all)_proxy)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|(REQUESTS|CURL|AWS)_CA_BUNDLE|NODE_EXTRA_CA_CERTS|PIP_CERT|GIT_SSL_CAINFO"
)
# Flags that are called like Docker's own.
FLAGS = {"JUPYTER_ENV": "--env", "JUPYTER_VOLUMES": "--volume"}
# Names from other people's texts about the same parts.
OTHER_NAMES = {
    "AWS_ACCESS_KEY_ID": "S3_ACCESS_KEY",
    "AWS_DEFAULT_REGION": "S3_REGION",
    "AWS_ENDPOINT_URL": "S3_ENDPOINT",
    "AWS_REGION": "S3_REGION",
    "AWS_SECRET_ACCESS_KEY": "S3_SECRET_KEY",
    "MINIO_ACCESS_KEY": "S3_ACCESS_KEY",
    "MINIO_PORT": "S3_PORT",
    "MINIO_ROOT_PASSWORD": "S3_SECRET_KEY",
    "MINIO_ROOT_USER": "S3_ACCESS_KEY",
    "MINIO_SECRET_KEY": "S3_SECRET_KEY",
    "MLFLOW_S3_ENDPOINT_URL": "S3_ENDPOINT",
    "MLFLOW_TRACKING_URI": "TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME": "TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD": "TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN": "TRACKING_TOKEN",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "TRACKING_CA",
}


class Wrong(ValueError):
    """A parser's verdict: ``rule`` replaces "must be <allowed>", ``suggestion`` is the nearest right word."""

    def __init__(self, suggestion: str = "", rule: str = "") -> None:
        super().__init__(rule)
        self.suggestion = suggestion
        self.rule = rule


@dataclass(frozen=True)
class Around:
    """What a parser may look at besides the value."""

    clone: Path
    home: str


Parser = Callable[[str, Around], Any]


@dataclass(frozen=True)
class Setting:
    """One row of the table. ``allowed`` completes "must be ..."; ``flag`` says whether tasks may take it.

    ``only``: where it means something, as words of ``relevance.CONDITIONS`` that all have to hold; ``instead``: what to
    use where it does not.
    """

    name: str
    default: str
    allowed: str
    why: str
    parse: Parser
    flag: bool = True
    only: tuple[str, ...] = ()
    instead: str = ""

    @property
    def secret(self) -> bool:
        return self.name.endswith(("_PASSWORD", "_SECRET_KEY", "_TOKEN", "_PASSPHRASE", "_ENCRYPTION_KEY"))

    @property
    def field(self) -> str:
        return self.name.lower()

    @property
    def option(self) -> str:
        return FLAGS.get(self.name) or "--" + self.name.lower().replace("_", "-")


def _one_of(*words: str) -> Parser:
    def parse(value: str, around: Around) -> str:
        if value not in words:
            raise Wrong(nearest(value, words))
        return value

    return parse


def _integer(low: int, high: int) -> Parser:
    def parse(value: str, around: Around) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise Wrong
        return int(value)

    return parse


def _matching(pattern: str) -> Parser:
    compiled = re.compile(pattern)

    def parse(value: str, around: Around) -> str:
        if not compiled.fullmatch(value):
            raise Wrong
        return value

    return parse


_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _project(value: str, around: Around) -> str:
    if _PROJECT.fullmatch(value):
        return value
    guess = re.sub(r"[^a-z0-9_-]+", "-", value.lower()).strip("-_")[:40]
    raise Wrong(guess if _PROJECT.fullmatch(guess) else "")


def _bind_address(value: str, around: Around) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        pass
    guess = "127.0.0.1" if value in ("localhost", "::1", "[::1]", "127.0.0", "127.1") else ""
    raise Wrong(guess, _LOOPBACK)


_LOOPBACK = ("must be a loopback IPv4 address (127.0.0.1), because nothing here has a login without PUBLIC=true; "
             "reach it from elsewhere with ssh -L 8000:localhost:8000 USER@THIS_MACHINE.")


def _public_address(value: str, around: Around) -> str:
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
            guess = _public_address(stripped, around)
        except Wrong:
            guess = ""
    raise Wrong(guess)


def _bucket(value: str, around: Around) -> str:
    if not 3 <= len(value) <= 63:
        raise Wrong(rule="must be 3 to 63 characters long.")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])", value):
        guess = re.sub(r"[^a-z0-9.-]+", "-", value.lower()).strip("-.")
        try:
            guess = _bucket(guess, around)
        except Wrong:
            guess = ""
        raise Wrong(guess)
    if re.search(r"\.\.|\.-|-\.", value):
        raise Wrong(rule="must not hold '..', '.-' or '-.' (S3 forbids it).")
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", value):
        raise Wrong(rule="must not look like an IP address (S3 forbids it).")
    for start in ("xn--", "sthree-", "amzn-s3-demo-"):
        if value.startswith(start):
            raise Wrong(rule=f"must not begin with {start} (S3 forbids it).")
    for end in ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"):
        if value.endswith(end):
            raise Wrong(rule=f"must not end with {end} (S3 forbids it).")
    if value == "minio":
        raise Wrong(rule="must not be minio (MinIO keeps that name for itself).")
    return value


def _endpoint(value: str, around: Around) -> str:
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise Wrong from None
    if not url.scheme or (url.scheme not in ("http", "https") and "://" not in value):
        raise Wrong(f"https://{value}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?/?", value) else "")
    if url.username is not None or url.password is not None:
        raise Wrong(rule="must not hold a user or password; they are S3_ACCESS_KEY and S3_SECRET_KEY.")
    host = url.hostname or ""
    bare = host if ":" not in host else f"[{host}]"
    clean = f"{url.scheme}://{bare}" + (f":{port}" if port else "")
    named = re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host)
    if url.scheme not in ("http", "https") or not named or port == 0:
        raise Wrong
    if url.path not in ("", "/") or url.query or url.fragment:
        raise Wrong(clean)
    return clean


def _tracking_uri(value: str, around: Around) -> str:
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        raise Wrong from None
    if "://" not in value:
        raise Wrong(f"https://{value}" if re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[\w./-]*)?", value) else "")
    if url.username is not None or url.password is not None:
        raise Wrong(rule="must not hold a user or password; they are TRACKING_USERNAME and TRACKING_PASSWORD.")
    if url.scheme not in ("http", "https") or url.query \
            or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", url.hostname or "") \
            or not re.fullmatch(r"[\w.~/-]*", url.path):
        raise Wrong
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/")  # what a browser shows after # is not part of it


def _file(value: str, around: Around) -> Path:
    expanded = around.home + value[1:] if value.startswith("~/") else value
    if not expanded.startswith("/"):
        raise Wrong("" if expanded.startswith("~") else os.path.normpath(around.clone / expanded))
    return Path(os.path.normpath(expanded))


def _gpu(value: str, around: Around) -> str:
    word = value.lower()
    if word in accelerators.WORDS or word in accelerators.BY_WORD:
        return word
    if word in ("intel", "xpu", "max1550"):
        raise Wrong(rule="is not supported, AMD and NVIDIA GPUs are; use none.")
    others = {"cuda": "nvidia", "rocm": "amd", "all": "auto", "cpu": "none", "off": "none", "a100": "nvidia"}
    raise Wrong(others.get(word) or nearest(word, (*accelerators.WORDS, *accelerators.BY_WORD)))


def _devices(value: str, around: Around) -> str:
    if value == "all":
        return value
    words = [word.strip() for word in value.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,2}", word) for word in words) or len(set(map(int, words))) != len(words):
        raise Wrong
    return ",".join(str(int(word)) for word in words)


def _duration(value: str, around: Around) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smh])", value)
    if value == "off":
        return 0
    if not found:
        raise Wrong(f"{value}m" if value.isdigit() else "")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        raise Wrong(rule="has a quote that does not end.") from None


def _variables(value: str, around: Around) -> dict[str, str]:
    found = {}
    for word in _words(value):
        name, equals, rest = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or re.search(r"[\x00-\x1f]", rest):
            raise Wrong
        if name in ("HOME", "JUPYTER_TOKEN", "JUPYTER_TOKEN_FILE", "PATH"):
            raise Wrong(rule=f"must not set {name}, which Trackbed sets itself.")
        found[name] = rest
    return found


def _volumes(value: str, around: Around) -> tuple[str, ...]:
    found = []
    for word in _words(value):
        source, _, target = word.partition(":")
        path, _, mode = target.partition(":")
        if source.startswith("~/"):
            source = around.home + source[1:]
        named = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]+", source)
        if not (named or source.startswith("/")) or not re.fullmatch(r"/[^:,]+", path) or mode not in ("", "ro", "rw"):
            raise Wrong
        for own in ("/run/secrets", "/home/jovyan/work", "/opt/trackbed"):
            if f"{path.rstrip('/')}/".startswith(f"{own}/") or path.rstrip("/") == str(Path(own).parent):
                raise Wrong(rule=f"must not cover {own}, which Trackbed needs.")
        found.append(f"{source}:{path}" + (":ro" if mode == "ro" else ""))
    return tuple(found)


def _data_volume(value: str, around: Around) -> str:
    if value.startswith(("/", "~")):
        return str(_folder(value, around))
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_.-]+)?", value):
        raise Wrong
    return value


def _index(value: str, around: Around) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.password is not None or url.query:
        raise Wrong
    return value.rstrip("/")


_SYSTEM = frozenset((
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys",
    "/tmp", "/usr", "/var", "/var/lib",
))


def _folder(value: str, around: Around) -> Path:
    expanded = value
    if value == "~" or value.startswith("~/"):
        expanded = around.home + value[1:]
    if not expanded.startswith("/"):
        guess = "" if expanded.startswith("~") else os.path.normpath(around.clone / expanded)
        raise Wrong(guess)
    if re.search(r"[\x00-\x1f\x7f'\"\\$`:,]", expanded):
        raise Wrong(rule="must not hold quotes, backslashes, control characters or any of $ ` : , "
                         "(Docker and Compose cannot take them).")
    path = Path(os.path.normpath(expanded))
    if str(path) in _SYSTEM or str(path).startswith(("/proc/", "/sys/", "/dev/")):
        raise Wrong(rule="must be a folder of its own, not one of the system.")
    if path.exists() and not path.is_dir():
        raise Wrong(rule="must be a folder; there is a file of that name.")
    return path


def _optional_folder(value: str, around: Around) -> Path | None:
    return _folder(value, around) if value else None


_IMAGE_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_IMAGE_PATH}(?:/{_IMAGE_PATH})*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)


def _registry(value: str, around: Around) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*", value):
        raise Wrong()
    return value


def _image(value: str, around: Around) -> str:
    found = _IMAGE.fullmatch(value)
    if found is None or len(value) > 255:
        raise Wrong(value.lower() if _IMAGE.fullmatch(value.lower()) and ":" not in value else "")
    if not found["tag"] and not found["digest"]:
        raise Wrong(rule="must name a tag or a digest, as in NAME:1.2 (else it changes under you).")
    return value


def _size(value: str, around: Around) -> str:
    found = re.fullmatch(r"([0-9]{1,12})([kmg]?)b?", value.lower())
    if not found:
        raise Wrong
    size = int(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[found[2]]
    if not 1 << 26 <= size <= 1 << 42:
        raise Wrong
    return found[1] + found[2]


_PORT = "a port from 1 to 65535"
_FOLDER = "an absolute folder (~ is your home)"
_SIZE_RULE = "a size from 64m to 4096g, as in 512m or 16g"
_IMAGE_RULE = "an image name with a tag, as in registry/name:1.2"
_SECRET_RULE = "letters, digits and any of _ . ~ + / = -"


def _switch(value: str, around: Around) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if value.lower() not in words:
        raise Wrong(nearest(value.lower(), ("true", "false")))
    return words[value.lower()]


def _domain(value: str, around: Around) -> str:
    host = _public_address(value, around)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if "." in host:
            return host
        raise Wrong from None
    raise Wrong(rule="must be a name; an address is PUBLIC_ADDRESS.")


def _directory(value: str, around: Around) -> str:
    url = urlsplit(value)
    if url.scheme != "https" or not re.fullmatch(r"[A-Za-z0-9.:-]+", url.netloc) \
            or not re.fullmatch(r"[A-Za-z0-9./_~-]*", url.path) or url.query or url.fragment:
        raise Wrong
    return value


def _pem(value: str, around: Around) -> str:
    path = Path(value)
    if not path.is_absolute() or not path.is_file():
        raise Wrong
    text = path.read_text(encoding="ascii", errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY" in text:
        raise Wrong(rule="must be a file with PEM certificates and no private key.")
    return value


TABLE: tuple[Setting, ...] = (
    Setting("ENGINE", "auto", "one of auto, docker, embedded",
            "where the parts run: auto takes Docker if it answers, else no Docker at all",
            _one_of("auto", "docker", "embedded")),
    Setting("PROJECT", "trackbed", "1 to 40 of a-z, 0-9, _ and -, the first a letter or digit",
            "prefix of every container, volume and folder, so that two do not collide", _project),
    Setting("OBJECT_STORE", "auto", "one of auto, minio, versitygw, external, folder",
            "where artifacts go: auto is versitygw with Docker (minio where its data are) and a folder without",
            _one_of("auto", "minio", "versitygw", "external", "folder"),
            only=("server",)),
    Setting("BIND_ADDRESS", "127.0.0.1", "a loopback IPv4 address, with PUBLIC=true any of this machine",
            "the address that every port listens on; others reach it through ssh -L (PUBLIC=true: default 0.0.0.0)",
            _bind_address),
    Setting("PUBLIC", "false", "one of true, false",
            "open to other machines, through a gateway with TLS and logins (Docker)", _switch),
    Setting("LOCAL_ACCESS", "auto", "one of auto, open, token",
            "whether MLflow asks for MLFLOW_TOKEN on this machine: auto does where others have accounts on it",
            _one_of("auto", "open", "token"),
            only=("server", "private"),
            instead="the gateway and a server elsewhere have logins of their own; leave --local-access out"),
    Setting("DOMAIN", "", "a host name whose DNS entry points to this machine",
            "name of the public address; gets a certificate that browsers know, over ports 80 and 443",
            lambda v, a: _domain(v, a) if v else "",
            only=("docker", "public"),
            instead="for the name that others call this machine: --public-address=NAME"),
    Setting("CERTIFICATES", "auto", "one of auto, internal, acme",
            "whose certificates the gateway shows: auto is acme with DOMAIN, else a CA of its own",
            _one_of("auto", "internal", "acme"),
            only=("docker", "public")),
    Setting("ACME_CA", "https://acme-v02.api.letsencrypt.org/directory", "https://HOST[:PORT]/PATH",
            "where certificates are asked for, with CERTIFICATES=acme", _directory,
            only=("docker", "public")),
    Setting("ACME_ROOT", "", "an absolute path of a PEM file",
            "root certificate of that CA, where it is one of your own site", lambda v, a: _pem(v, a) if v else "",
            only=("docker", "public")),
    Setting("HTTP_PORT", "80", _PORT, "where the CA looks for the proof, and where HTTP is redirected (acme)",
            _integer(1, 65535),
            only=("docker", "public")),
    Setting("HTTPS_PORT", "443", _PORT, "where the CA looks for the proof over TLS (acme)", _integer(1, 65535),
            only=("docker", "public")),
    Setting("PUBLIC_S3", "false", "one of true, false",
            "with PUBLIC=true: the S3 API too, for those who have its keys", _switch,
            only=("docker", "public"),
            instead="artifacts pass through MLflow, which needs no port of the store"),
    Setting("PUBLIC_ADDRESS", "", "a host name or an IP address, without http:// and without a port",
            "what others call this machine; PUBLIC=true asks the cloud when empty",
            lambda v, a: _public_address(v, a) if v else ""),
    Setting("MLFLOW_PORT", "8000", _PORT, "where the MLflow page is", _integer(1, 65535),
            only=("server",),
            instead="the address of that server belongs into --tracking-uri"),
    Setting("JUPYTER_PORT", "8888", _PORT, "where JupyterLab is", _integer(1, 65535)),
    Setting("S3_PORT", "9000", _PORT, "where the object store is (Docker)", _integer(1, 65535),
            only=("server", "docker", "own-store"),
            instead="artifacts are reached through MLflow: --mlflow-port"),
    Setting("S3_CONSOLE_PORT", "9001", _PORT, "where MinIO's console is (Docker)", _integer(1, 65535),
            only=("server", "docker", "own-store"),
            instead="artifacts are shown by MLflow's page: --mlflow-port"),
    Setting("S3_BUCKET", "mlflow-artifacts",
            "a bucket name: a-z, 0-9, - and ., the first and last a letter or digit",
            "the bucket that holds the artifacts", _bucket,
            only=("server", "s3"),
            instead="a bucket needs a store: --object-store=external with S3_ENDPOINT"),
    Setting("S3_ENDPOINT", "", "http://HOST[:PORT] or https://HOST[:PORT]",
            "address of your own object store, for OBJECT_STORE=external",
            lambda v, a: _endpoint(v, a) if v else "",
            only=("server", "s3")),
    Setting("S3_REGION", "us-east-1", "1 to 64 letters, digits, _ and -",
            "region of the bucket", _matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"),
            only=("server", "s3")),
    Setting("S3_ACCESS_KEY", "", "3 to 128 letters, digits and any of _ . ~ + = -",
            "key name of your own object store; made for you otherwise",
            _matching(r"([A-Za-z0-9_.~+=-]{3,128})?"),
            only=("server", "s3")),
    Setting("S3_SECRET_KEY", "", "8 to 128 " + _SECRET_RULE,
            "secret key of your own object store; made for you otherwise",
            _matching(r"([A-Za-z0-9_.~+/=-]{8,128})?"), flag=False,
            only=("server", "s3")),
    Setting("BACKUP_S3_ENDPOINT", "", "http://HOST[:PORT] or https://HOST[:PORT]",
            "object store for backups to s3://BUCKET/PREFIX; empty: AWS", lambda v, a: _endpoint(v, a) if v else ""),
    Setting("BACKUP_S3_REGION", "us-east-1", "1 to 64 letters, digits, _ and -",
            "region of that bucket", _matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")),
    Setting("BACKUP_S3_ACCESS_KEY", "", "3 to 128 letters, digits and any of _ . ~ + = -",
            "key name at that store", _matching(r"([A-Za-z0-9_.~+=-]{3,128})?")),
    Setting("BACKUP_S3_SECRET_KEY", "", "8 to 128 " + _SECRET_RULE,
            "secret key at that store", _matching(r"([A-Za-z0-9_.~+/=-]{8,128})?"), flag=False),
    Setting("POSTGRES_PASSWORD", "", "8 to 128 " + _SECRET_RULE,
            "password of the database; made for you when empty",
            _matching(r"([A-Za-z0-9_.~+/=-]{8,128})?"), flag=False,
            only=("server", "docker")),
    Setting("JUPYTER_TOKEN", "", "16 to 128 letters, digits, _ and -",
            "what opens JupyterLab; made for you when empty",
            _matching(r"([A-Za-z0-9_-]{16,128})?"), flag=False),
    Setting("MLFLOW_TOKEN", "", "16 to 128 letters, digits, _ and -",
            "what opens MLflow, with LOCAL_ACCESS=token; made for you when empty",
            _matching(r"([A-Za-z0-9_-]{16,128})?"), flag=False),
    Setting("MLFLOW_CRYPTO_KEK_PASSPHRASE", "", "16 to 128 " + _SECRET_RULE,
            "encrypts the API keys that people store in MLflow's page; made for you when empty",
            _matching(r"([A-Za-z0-9_.~+/=-]{16,128})?"), flag=False),
    Setting("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", "", "a Fernet key: 32 bytes in URL-safe base64 (44 characters)",
            "encrypts the secrets of webhooks; made for you when empty",
            _matching(r"([A-Za-z0-9_-]{43}=)?"), flag=False),
    Setting("TRACKING_URI", "", "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]",
            "a tracking server elsewhere: only the notebook is started here, and logs to that one",
            lambda v, a: _tracking_uri(v, a) if v else ""),
    Setting("TRACKING_USERNAME", "", "1 to 128 printable characters without spaces, colons and braces",
            "user at that server, with TRACKING_PASSWORD", _matching(r"([!-9;-z|~]{1,128})?"),
            only=("remote",),
            instead="give --tracking-uri=https://HOST too"),
    Setting("TRACKING_PASSWORD", "", "1 to 1024 printable characters without spaces",
            "password at that server", _matching(r"([!-~]{1,1024})?"), flag=False,
            only=("remote",)),
    Setting("TRACKING_TOKEN", "", "1 to 4000 printable characters without spaces",
            "token at that server, instead of user and password", _matching(r"([!-~]{1,4000})?"), flag=False,
            only=("remote",)),
    Setting("TRACKING_CA", "", "an absolute path of a file (~ is your home)",
            "certificate of the authority that signed that server's, in PEM form",
            lambda v, a: _file(v, a) if v else None,
            only=("remote",),
            instead="give --tracking-uri=https://HOST too"),
    Setting("GPU", "auto", "auto, none, amd, nvidia or a node type: " + ", ".join(accelerators.WORDS[4:]),
            "GPUs for the notebook: auto looks what this machine has", _gpu),
    Setting("DEVICES", "all", "all, or indexes of GPUs with commas, as in 0,1",
            "which of the GPUs, to share a machine between people", _devices,
            only=("gpu",),
            instead="leave it out, or see `invoke doctor` why there is none"),
    Setting("TORCH", "auto", "one of auto, cpu, none",
            "PyTorch for the notebook: auto takes the build for its GPU and driver (embedded: only with one), cpu the "
            "build for no GPU, none leaves it out", _one_of("auto", "cpu", "none")),
    Setting("TORCH_INDEX", "", "http:// or https:// and the address of a wheel index",
            "where PyTorch's wheels come from, for a mirror or another CUDA or ROCm; empty: PyTorch's own",
            lambda v, a: _index(v, a) if v else ""),
    Setting("DATA_VOLUME", "food11", "a Docker volume's name or an absolute folder",
            "data set that the notebook sees read-only at /mnt; the default is left out while it does not exist",
            _data_volume,
            only=("data",),
            instead="name a folder: --data-volume=/FOLDER"),
    Setting("JUPYTER_ENV", "", "NAME=VALUE words, quoted as in a shell",
            "further environment variables of the notebook (flag: --env, once for each)", _variables),
    Setting("JUPYTER_VOLUMES", "", "SOURCE:/TARGET or SOURCE:/TARGET:ro words",
            "further folders or volumes of the notebook (Docker; flag: --volume, once for each)", _volumes,
            only=("docker",),
            instead="this notebook sees the machine's folders as they are; for a data set: --data-volume=/FOLDER"),
    Setting("CULL_IDLE", "off", "off, or a time as in 90s, 30m or 12h",
            "end kernels that are idle for so long, so that a GPU is not held overnight", _duration),
    Setting("WORKSPACE", "", _FOLDER,
            "the notebook's work folder on this machine; empty: `workspace` in the state folder",
            _optional_folder),
    Setting("STATE_DIR", "", _FOLDER,
            "where state and secrets are kept; empty: your state folder, /var/lib/trackbed as root",
            _optional_folder),
    Setting("REGISTRY_MIRROR", "", "HOST[:PORT][/PATH], without https://",
            "registry in place of the others for the default images, and for those that ours are built from (Docker)",
            lambda v, a: _registry(v, a) if v else "",
            only=("docker",)),
    Setting("POSTGRES_IMAGE", references.image("postgres").reference, _IMAGE_RULE, "the database (Docker)", _image,
            only=("server", "docker")),
    Setting("MINIO_IMAGE", references.image("minio").reference, _IMAGE_RULE,
            "the object store minio: Silo, the maintained fork of MinIO (Docker)", _image,
            only=("server", "docker")),
    Setting("VERSITYGW_IMAGE", references.image("versitygw").reference, _IMAGE_RULE,
            "the object store versitygw (Docker)", _image,
            only=("server", "docker")),
    Setting("MLFLOW_IMAGE", "trackbed/mlflow:3.17.2", _IMAGE_RULE, "the tracking server (Docker)", _image,
            only=("server", "docker")),
    Setting("JUPYTER_IMAGE", "", _IMAGE_RULE,
            "the notebook (Docker); empty: our own trackbed/jupyter-mlflow, :cpu, :cuda or :rocm",
            lambda v, a: _image(v, a) if v else "",
            only=("docker",)),
    Setting("MLFLOW_WORKERS", "2", "a number from 1 to 32", "processes that serve MLflow", _integer(1, 32),
            only=("server",)),
    Setting("JUPYTER_SHM_SIZE", "16g", "a size from 64m to 4096g, as in 512m or 16g",
            "shared memory of the notebook, for data loaders (Docker)", _size,
            only=("docker",)),
    Setting("GATEWAY_IMAGE", "trackbed/gateway:2.11.7", _IMAGE_RULE, "the gateway of PUBLIC=true (Docker)", _image,
            only=("docker", "public")),
    Setting("MEMORY_LIMIT", "4g", _SIZE_RULE,
            "most memory of each service (embedded: of MLflow's processes, 1 GiB each at least)", _size),
    Setting("JUPYTER_MEMORY", "", _SIZE_RULE,
            "most memory of the notebook (Docker); empty: all but 2 GiB of the machine's",
            lambda v, a: _size(v, a) if v else "",
            only=("docker",)),
    Setting("PIDS_LIMIT", "4096", "a number from 256 to 1000000",
            "most processes and threads of each part (Docker)", _integer(256, 1000000),
            only=("docker",)),
    Setting("READY_TIMEOUT", "180", "seconds from 5 to 3600", "how long `up` waits for a part",
            _integer(5, 3600)),
    Setting("BUILD_NETWORK", "default", "one of default, host",
            "network of image builds; host where containers have no way out", _one_of("default", "host"),
            only=("docker",)),
)
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in TABLE}
_LOCATING = ("PROJECT", "STATE_DIR")
# what `up` does not remember: keys belong together, and one of these is a secret
_FORGOTTEN = (*_LOCATING, *(name for name in BY_NAME if name.startswith("BACKUP_S3_")))
_PORTS = ("MLFLOW_PORT", "JUPYTER_PORT", "S3_PORT", "S3_CONSOLE_PORT")


def default_state_dir() -> Path:
    """Where state lives when nobody says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/trackbed")
    return Path(platformdirs.user_state_dir("trackbed", appauthor=False))


@dataclass(frozen=True)
class _Value:
    raw: str
    origin: str


@dataclass(frozen=True)
class Settings:
    """All settings, valid. Secrets are "" where ``credentials`` is to make them; they are never shown."""

    engine: str
    project: str
    object_store: str
    bind_address: str
    public: bool
    local_access: str
    domain: str
    certificates: str
    acme_ca: str
    acme_root: str
    http_port: int
    https_port: int
    public_s3: bool
    public_address: str
    mlflow_port: int
    jupyter_port: int
    s3_port: int
    s3_console_port: int
    s3_bucket: str
    s3_endpoint: str
    s3_region: str
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    backup_s3_endpoint: str
    backup_s3_region: str
    backup_s3_access_key: str
    backup_s3_secret_key: str = field(repr=False)
    postgres_password: str = field(repr=False)
    jupyter_token: str = field(repr=False)
    mlflow_token: str = field(repr=False)
    mlflow_crypto_kek_passphrase: str = field(repr=False)
    mlflow_webhook_secret_encryption_key: str = field(repr=False)
    tracking_uri: str
    tracking_username: str
    tracking_password: str = field(repr=False)
    tracking_token: str = field(repr=False)
    tracking_ca: Path | None
    gpu: str
    devices: str
    torch: str
    torch_index: str
    data_volume: str
    jupyter_env: Mapping[str, str]
    jupyter_volumes: tuple[str, ...]
    cull_idle: int
    workspace: Path
    state_dir: Path
    registry_mirror: str
    postgres_image: str
    minio_image: str
    versitygw_image: str
    mlflow_image: str
    jupyter_image: str
    mlflow_workers: int
    jupyter_shm_size: str
    gateway_image: str
    memory_limit: str
    jupyter_memory: str
    pids_limit: int
    ready_timeout: int
    build_network: str
    clone: Path
    notebook_uid: int = 0  # the owner of the workspace on another machine; 0: look at the folder
    told: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    passthrough: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """This project's folder in the state folder."""
        return self.state_dir / self.project

    @property
    def acme(self) -> bool:
        """Whether the gateway's certificates come from an ACME server."""
        return self.public and (self.certificates == "acme" or (self.certificates == "auto" and bool(self.domain)))

    @property
    def gateway_address(self) -> str:
        """What the gateway binds to: a floating IP is on no interface, so every one unless somebody chose."""
        return self.bind_address if self.origin("BIND_ADDRESS") != DEFAULT else "0.0.0.0"

    @property
    def env_file(self) -> Path:
        return self.clone / ".env"

    def origin(self, name: str) -> str:
        """Where a value came from: "--mlflow-port", "TRACKBED_MLFLOW_PORT", ".env line 4", "default"."""
        return self.origins.get(name.upper().replace("-", "_"), DEFAULT)

    def with_engine(self, engine: str, store: str) -> Settings:
        """The same settings for the engine that was chosen, ``store`` in place of OBJECT_STORE=auto."""
        chosen = replace(self, engine=engine, object_store=store if self.object_store == "auto" else self.object_store)
        _check_store(chosen)
        return chosen

    @classmethod
    def load(
        cls,
        flags: Mapping[str, str | None],
        environ: Mapping[str, str],
        env_file: Path,
        remembered: Mapping[str, str] | Callable[[Path], Mapping[str, str]] = states.remembered,
    ) -> Settings:
        """Find, check and freeze every value; raises SettingError with one line.

        ``flags`` are named like settings in any spelling (mlflow_port, mlflow-port); None is not given.
        ``remembered`` is what earlier ``up`` were told, or gives it for the project's folder.
        """
        file = envfile.read(env_file)
        clone = Path(os.path.abspath(env_file)).parent
        around = Around(clone, environ.get("HOME") or os.path.expanduser("~"))
        warnings: list[str] = []
        layers = (
            _from_flags(flags),
            _from_environ(environ, file, warnings),
            _from_file(file, warnings),
            _from_managed(file),
        )
        sourced = _sourced(environ, file)
        told: dict[str, str] = {}
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}

        def settle(setting: Setting, last: Mapping[str, str]) -> None:
            name = setting.name
            found = next((layer[name] for layer in layers if name in layer), None)
            if found is None and name in last and not setting.secret:
                found = _Value(last[name], LAST_UP)
            if found is None and name in sourced and not setting.secret:
                found = _Value(sourced[name], LAST_UP)
            if found is None or not found.raw:
                values[name] = setting.parse(setting.default, around)
            else:
                values[name] = _parse(setting, found, around)
                origins[name] = found.origin
            if name in layers[0] or name in layers[1]:
                raw = layers[0].get(name) or layers[1][name]
                if not setting.secret and name not in _FORGOTTEN:
                    told[name] = str(values[name]) if raw.raw and name == "WORKSPACE" else raw.raw

        for name in _LOCATING:
            settle(BY_NAME[name], {})
        state_dir: Path = values["STATE_DIR"] or default_state_dir()
        values["STATE_DIR"] = state_dir
        _check_state_dir(state_dir, clone, around, origins.get("STATE_DIR", DEFAULT))
        folder = state_dir / values["PROJECT"]
        last = remembered(folder) if callable(remembered) else remembered
        for setting in TABLE:
            if setting.name not in _LOCATING:
                settle(setting, last)
        if values["WORKSPACE"] is None:
            values["WORKSPACE"] = folder / "workspace"
        settings = cls(
            **{BY_NAME[name].field: value for name, value in values.items()},
            clone=clone,
            told=told,
            passthrough={e.name: e.value for e in file.entries if e.value and FOREIGN.fullmatch(e.name)
                         and not e.name.startswith("COMPOSE_")},
            warnings=(*warnings, *_tracking_warnings(values, origins)),
            origins=origins,
        )
        _check_together(settings)
        return settings


def _parse(setting: Setting, value: _Value, around: Around) -> Any:
    try:
        return setting.parse(value.raw, around)
    except Wrong as wrong:
        rule = wrong.rule or f"must be {setting.allowed}."
        raise _error(setting.name, value.raw, value.origin, rule, wrong.suggestion) from None


def _error(name: str, raw: str, origin: str, rule: str, suggestion: str = "") -> SettingError:
    """The one line: name, value (never a secret's), where from, what is allowed, nearest right word."""
    safe = re.sub(r"//[^/]*@", "//***@", raw)  # a password in a URL
    value = "" if BY_NAME[name].secret else "=" + shown(safe)
    hint = ""
    if origin == LAST_UP:
        hint = f"forget what it was told: `invoke up {BY_NAME[name].option}=`"
    guess = did_you_mean(shown(suggestion, 200))
    return SettingError(f"{name}{value} ({_from(origin)}): {rule}{guess}", hint)


def _from(origin: str) -> str:
    return "the default" if origin == DEFAULT else f"from {origin}"


def _unknown(name: str, cutoff: float = 0.75) -> str:
    """The setting that a wrong name most likely means, or ""."""
    bare = name.upper().removeprefix(PREFIX)
    return OTHER_NAMES.get(bare) or (bare if bare in BY_NAME else nearest(bare, BY_NAME, cutoff))


def _from_flags(flags: Mapping[str, str | None]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for flag, raw in flags.items():
        if raw is None:
            continue
        name = flag.strip("-").upper().replace("-", "_")
        option = "--" + name.lower().replace("_", "-")
        name = {own: setting for setting, own in FLAGS.items()}.get(option, name)
        if name not in BY_NAME:
            guess = _unknown(name)
            right = BY_NAME[guess].option if guess else ""
            raise SettingError(f"{option}: no such setting.{did_you_mean(right)}")
        option = BY_NAME[name].option
        if not BY_NAME[name].flag:
            raise SettingError(f"{name} (from {option}): a secret is not taken from the command line, where "
                               "others on the machine can read it; put it into .env (chmod 600 .env).")
        found[name] = _Value(raw.strip(), option)
    return found


def _from_environ(
    environ: Mapping[str, str], file: envfile.EnvFile, warnings: list[str]
) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for variable, raw in sorted(environ.items()):
        if not variable.upper().startswith(PREFIX) or RESERVED.fullmatch(variable):
            continue
        if file.managed.get(variable) == raw:
            continue  # a shell that sourced .env: not something the user told us
        name = variable.removeprefix(PREFIX)
        if name in BY_NAME:
            found[name] = _Value(raw.strip(), variable)
            continue
        guess = _unknown(variable)
        if guess:
            raise SettingError(
                f"{shown(variable)} (from the environment): no such setting.{did_you_mean(PREFIX + guess)}"
            )
        warnings.append(f"{shown(variable)} (from the environment) is no setting; ignored.")
    return found


def _sourced(environ: Mapping[str, str], file: envfile.EnvFile) -> dict[str, str]:
    """Variables that equal the managed block: the last word, for when the state that remembers them was lost."""
    names = ((variable.removeprefix(PREFIX), value) for variable, value in file.managed.items()
             if environ.get(variable) == value)
    # S3_ENDPOINT is written for Compose, also where the store is our own
    return {name: value for name, value in names if name in BY_NAME and name != "S3_ENDPOINT"}


def _from_file(file: envfile.EnvFile, warnings: list[str]) -> dict[str, _Value]:
    found: dict[str, _Value] = {}
    for entry in file.entries:
        origin = f"{file.path.name} line {entry.line}"
        if entry.name in BY_NAME:
            found[entry.name] = _Value(entry.value.strip(), origin)
            if entry.value and BY_NAME[entry.name].secret and file.mode is not None and file.mode & 0o077:
                raise SettingError(f"{entry.name} (from {origin}): others may read this file "
                                   f"(mode {file.mode:04o}) and it holds a secret; "
                                   f"run: chmod 600 {file.path}")
        elif entry.name in ("COMPOSE_FILE", "COMPOSE_PROJECT_NAME"):
            warnings.append(f"{entry.name} (from {origin}): `invoke up` writes its own at the end of "
                            "the file, which wins.")
        elif FOREIGN.fullmatch(entry.name):
            continue
        elif entry.name.startswith(PREFIX):
            raise _prefixed(entry, origin)
        else:
            guess = _unknown(entry.name)
            if guess:
                raise SettingError(f"{entry.name} (from {origin}): no such setting.{did_you_mean(guess)}")
            warnings.append(f"{shown(entry.name)} (from {origin}) is no setting; ignored.")
    return found


def _prefixed(entry: envfile.Entry, origin: str) -> SettingError:
    bare = entry.name.removeprefix(PREFIX)
    if RESERVED.fullmatch(entry.name):
        return SettingError(f"{entry.name} (from {origin}): is read from the environment only.")
    if bare in BY_NAME:
        return SettingError(f"{entry.name} (from {origin}): drop the prefix in this file."
                            f"{did_you_mean(bare)}")
    return SettingError(f"{entry.name} (from {origin}): no such setting.{did_you_mean(_unknown(bare))}")


def _from_managed(file: envfile.EnvFile) -> dict[str, _Value]:
    """Only what locates the state: everything else that ``up`` was told is in the state."""
    names = {"PROJECT": "COMPOSE_PROJECT_NAME", "STATE_DIR": PREFIX + "STATE_DIR"}
    return {name: _Value(file.managed[key], LAST_UP) for name, key in names.items() if file.managed.get(key)}


def _within(path: Path, parent: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(parent))


def _check_state_dir(state_dir: Path, clone: Path, around: Around, origin: str) -> None:
    _parse(BY_NAME["STATE_DIR"], _Value(str(state_dir), origin), around)  # the default can be odd, too
    if _within(state_dir, clone):
        raise _error("STATE_DIR", str(state_dir), origin,
                     f"must lie outside the clone {clone}, where `git clean` would delete the database.")


def _tracking_warnings(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """What is not wrong about a tracking server elsewhere, but may not be meant."""
    uri = values["TRACKING_URI"]
    if not uri:
        names = ("TRACKING_USERNAME", "TRACKING_PASSWORD", "TRACKING_TOKEN", "TRACKING_CA")
        return [f"{name} (from {origins[name]}) is for a server elsewhere, and TRACKING_URI is not set; ignored."
                for name in names if values[name] and not origins[name].startswith((LAST_UP, "--"))]
    if values["TRACKING_PASSWORD"] and not values["TRACKING_USERNAME"]:
        return ["TRACKING_PASSWORD without TRACKING_USERNAME is not used."]
    login = values["TRACKING_TOKEN"] or values["TRACKING_USERNAME"]
    if login and uri.startswith("http://") and urlsplit(uri).hostname not in ("localhost", "127.0.0.1", "::1"):
        return [f"the login goes to {uri} unencrypted; use https:// where the server has it."]
    return []


def _check_together(settings: Settings) -> None:
    if not settings.public and not ipaddress.IPv4Address(settings.bind_address).is_loopback:
        raise _error("BIND_ADDRESS", settings.bind_address, settings.origin("BIND_ADDRESS"), _LOOPBACK)
    if settings.public and ":" in settings.public_address:
        raise _error("PUBLIC_ADDRESS", settings.public_address, settings.origin("PUBLIC_ADDRESS"),
                     "must be an IPv4 address or a name; containers are reached over IPv4.")
    seen: dict[int, str] = {}
    for name in (*_PORTS, *(("HTTP_PORT", "HTTPS_PORT") if settings.acme else ())):
        port: int = getattr(settings, name.lower())
        if port in seen:
            one, other = name, seen[port]
            if settings.origin(one) == DEFAULT:
                one, other = other, one  # blame the one that somebody set
            raise _error(one, str(port), settings.origin(one),
                         f"must differ from {other}={port} ({_from(settings.origin(other))}); "
                         "two parts cannot share a port.")
        seen[port] = name
    if settings.tracking_uri and settings.tracking_token and settings.tracking_username:
        raise SettingError(f"TRACKING_TOKEN (from {settings.origin('TRACKING_TOKEN')}): must not be set together with "
                           f"TRACKING_USERNAME ({_from(settings.origin('TRACKING_USERNAME'))}); a server takes one.")
    work = settings.workspace
    origin = settings.origin("WORKSPACE")
    if _within(settings.state_dir, work):
        raise _error("WORKSPACE", str(work), origin, "must not hold the state folder "
                     f"{settings.state_dir}, or the notebook could read every secret.")
    if _within(work, settings.folder) and work != settings.folder / "workspace":
        raise _error("WORKSPACE", str(work), origin,
                     f"must not lie in {settings.folder}, which holds the secrets.",
                     str(settings.folder / "workspace"))
    _check_store(settings)


def _check_store(settings: Settings) -> None:
    store, engine = settings.object_store, settings.engine
    allowed = {"docker": ("minio", "versitygw", "external"), "embedded": ("folder", "external")}.get(engine)
    if allowed and store != "auto" and store not in allowed:
        needed = "runs in Docker" if engine == "embedded" else "is for embedded"
        raise _error("OBJECT_STORE", store, settings.origin("OBJECT_STORE"),
                     f"{needed}; with ENGINE={engine} ({_from(settings.origin('ENGINE'))}) "
                     f"must be one of {', '.join(('auto', *allowed))}.")
    if store == "external":
        for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
            kept = settings.folder / "secrets" / f"EXTERNAL_{name}"
            if not getattr(settings, name.lower()) and not os.path.lexists(kept):
                raise SettingError(f"{name} is missing: OBJECT_STORE=external "
                                   f"({_from(settings.origin('OBJECT_STORE'))}) needs it; "
                                   f"must be {BY_NAME[name].allowed}.")
    elif settings.s3_endpoint and settings.origin("S3_ENDPOINT") != LAST_UP:
        raise _error("S3_ENDPOINT", settings.s3_endpoint, settings.origin("S3_ENDPOINT"),
                     f"is for OBJECT_STORE=external only; OBJECT_STORE is {store} "
                     f"({_from(settings.origin('OBJECT_STORE'))}).")


def example() -> str:
    """The text of ``.env.example``."""
    lines = [
        "# Every setting with its default. Copy this file to .env, then take the # off what you change.",
        "# Flags (--mlflow-port=8001) and the environment (TRACKBED_MLFLOW_PORT=8001) win over .env.",
        "# Secrets make it a private file: chmod 600 .env",
    ]
    for setting in TABLE:
        lines += ["", f"# {setting.why}", f"# ({setting.allowed})", f"#{setting.name}={setting.default}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(example(), end="")
