"""The network of the site: its proxies and CA certificates, wherever they are configured, and what no proxy sees."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from helpers.settings import Settings

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
EXCEPT = "NO_PROXY"
# Our services and this machine: never through a proxy, which knows neither.
INSIDE = ("localhost", "127.0.0.1", "::1", "mlflow", "store", "postgres", "jupyter", "gateway")
# What programs in the notebook read: pip, requests, OpenSSL and Python, curl, boto3, git, Node.js
TRUST = (
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
ANCHORS = (
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/ca-certificates/trust-source/anchors",
)
SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
CERTIFICATE = re.compile(r"-----BEGIN (TRUSTED )?CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END (TRUSTED )?CERTIFICATE-----")
LARGEST = 8 << 20  # bytes of a bundle that are read
COMPLETE = 100_000  # bytes: a bundle of this size has the public authorities too


@dataclass(frozen=True)
class SiteNetwork:
    """What is between this machine and the internet.

    ``proxies`` by upper-case name, without NO_PROXY; ``origin`` says where they stand. ``bundles``: files.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    exceptions: tuple[str, ...] = ()
    origin: str = ""
    bundles: tuple[str, ...] = ()
    bundle_origin: str = ""

    def environment(self, inside: Iterable[str] = INSIDE, named: Iterable[str] = ()) -> dict[str, str]:
        """The proxies as programs read them, in both spellings; {} without one.

        ``named``: variables that somebody else gives, in either spelling; a proxy among them is left out.
        """
        other = {name.upper() for name in named}
        proxies = {name: value for name, value in self.proxies.items() if name not in other}
        if not proxies:
            return {}
        given = {**proxies, EXCEPT: ",".join(dict.fromkeys((*inside, *self.exceptions)))}
        return given | {name.lower(): value for name, value in given.items()}

    def reachable_from_containers(self) -> SiteNetwork:
        """Without proxies that listen on this machine's loopback alone: in a container that is another machine."""
        kept = {name: value for name, value in self.proxies.items() if not _is_loopback(value)}
        return SiteNetwork(kept, self.exceptions, self.origin, self.bundles, self.bundle_origin)

    @property
    def unreachable_proxies(self) -> tuple[str, ...]:
        """The proxies that containers cannot reach, without their passwords."""
        return tuple(dict.fromkeys(shown(value) for value in self.proxies.values() if _is_loopback(value)))

    def __str__(self) -> str:
        parts = (
            [f"proxy {', '.join(dict.fromkeys(map(shown, self.proxies.values())))} (from {self.origin})"]
            if self.proxies
            else ["no proxy"]
        )
        parts.append(
            f"certificates {', '.join(self.bundles)} (from {self.bundle_origin})"
            if self.bundles
            else "no certificates of the site"
        )
        return ", ".join(parts)


def find(
    settings: Settings, environ: Mapping[str, str], client: Mapping[str, str], system: str = "/etc/environment"
) -> SiteNetwork:
    """What is configured: the shell first, then .env, Docker's client (``client``), the system."""
    sources = (
        ("the environment", environ),
        (".env", settings.passthrough),
        ("Docker's config.json", client),
        (system, _assignments(system)),
    )
    proxies: dict[str, str] = {}
    origin = ""
    exceptions: list[str] = []
    for name, values in sources:
        result = {key: value for key in PROXIES if (value := values.get(key) or values.get(key.lower(), ""))}
        if result and not proxies:
            proxies, origin = result, name
        listed = values.get(EXCEPT) or values.get(EXCEPT.lower(), "")
        exceptions += [word.strip() for word in listed.split(",") if word.strip()]
    return SiteNetwork(proxies, tuple(dict.fromkeys(exceptions)), origin, *bundles(environ, settings.passthrough))


def inside(settings: Settings) -> tuple[str, ...]:
    """The names and addresses of a project's own services."""
    own = (settings.bind_address, settings.domain, settings.public_address)
    return (*INSIDE, *(name for name in own if name and name not in ("0.0.0.0", "::", "auto")))


def exceptions(listed: str) -> str:
    """NO_PROXY with our own services in it."""
    return ",".join(dict.fromkeys((*INSIDE, *(word.strip() for word in listed.split(",") if word.strip()))))


def files(bundles: Iterable[str]) -> tuple[str, ...]:
    """The bundles that can be read, and the public authorities where they have only the site's own; () for none."""
    texts = {bundle: text for bundle in bundles if (text := _certificates(bundle))}
    if not texts or max(map(len, texts.values())) >= COMPLETE:
        return tuple(texts)
    try:
        import certifi
    except ImportError:
        return ()  # without the public ones nothing else would be reached
    return (*texts, certifi.where())


def certificates(bundles: Iterable[str]) -> str:
    """The text of `files`; "" for none."""
    texts = [_certificates(path) for path in files(bundles)]
    return "".join(f"{text}\n" for text in texts) if all(texts) else ""


def _certificates(path: str) -> str:
    """A bundle's certificates and nothing else: a link in its place may lead to what the services must not read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as stream:
            text = stream.read(LARGEST) if stat.S_ISREG(os.fstat(number).st_mode) else b""
    except OSError:
        return ""
    return "\n".join(item[0] for item in CERTIFICATE.finditer(text.decode("ascii", "replace")))


def trust(path: str) -> dict[str, str]:
    """The variables by which programs find a bundle."""
    return dict.fromkeys(TRUST, path)


def shown(proxy: str) -> str:
    """A proxy without its login, also one without http://, as programs take it, or with a / in its password."""
    return re.sub(r"^(\w+://)?.*@", r"\1***@", proxy)


def bundles(environ: Mapping[str, str], passthrough: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Every bundle that a variable names: each stands for an authority that something needs."""
    named: dict[str, str] = {}
    for variable in TRUST:
        path = environ.get(variable) or passthrough.get(variable, "")
        if path and Path(path).is_file():
            named.setdefault(path, variable)
    if named:
        return tuple(named), ", ".join(named.values())
    for folder in ANCHORS:
        try:
            own = any(path.is_file() for path in Path(folder).rglob("*"))
        except OSError:
            continue
        if own and (result := next((path for path in SYSTEM if Path(path).is_file()), "")):
            return (result,), folder
    return (), ""


def _assignments(path: str) -> dict[str, str]:
    """The lines of /etc/environment: NAME=value, quotes and `export` allowed."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (re.fullmatch(r"\s*(?:export\s+)?(\w+)\s*=\s*(.*?)\s*", line) for line in lines)
    return {item[1]: item[2].strip("'\"") for item in pairs if item}


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        return False  # no address at all
    return host in ("localhost", "::1") or host.startswith("127.")


def of_machine(settings: Settings, client: Mapping[str, str]) -> SiteNetwork:
    """As this process finds it."""
    return find(settings, os.environ, client)
