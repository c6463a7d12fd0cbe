"""What Docker's own client is told on this machine (config.json): its context, its credential helpers, its proxies."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROXIES = {"httpProxy": "HTTP_PROXY", "httpsProxy": "HTTPS_PROXY", "noProxy": "NO_PROXY"}


def folder(environ: Mapping[str, str]) -> Path:
    """Where the client keeps it."""
    return Path(environ.get("DOCKER_CONFIG", "") or Path(environ.get("HOME", "") or "~").expanduser() / ".docker")


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """The client's configuration; {} where there is none, or one that cannot be read."""
    try:
        data = json.loads((folder(environ) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def context(environ: Mapping[str, str]) -> str:
    """The name of the chosen context, "" for the default one. DOCKER_HOST goes before any."""
    if environ.get("DOCKER_HOST"):
        return ""
    name = str(environ.get("DOCKER_CONTEXT", "") or read(environ).get("currentContext", "") or "")
    return "" if name == "default" else name


def context_file(environ: Mapping[str, str], name: str) -> Path:
    """What tells where a context leads."""
    return folder(environ) / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest() / "meta.json"


def endpoint(environ: Mapping[str, str]) -> tuple[str, str]:
    """The engine that the Docker command line would use, and who says so: ("", "") for this machine's default."""
    if host := environ.get("DOCKER_HOST", ""):
        return host, f"DOCKER_HOST={host}"
    if not (name := context(environ)):
        return "", ""
    try:
        meta = json.loads(context_file(environ, name).read_text())
        host = str(meta["Endpoints"]["docker"].get("Host", ""))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "", ""
    return (host, f"the Docker context {name} ({host})") if host else ("", "")


def missing_context(environ: Mapping[str, str]) -> str:
    """The chosen context where there is none of that name; "" when all is well."""
    name = context(environ)
    return name if name and not context_file(environ, name).is_file() else ""


def missing_helpers(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The programs for registries' passwords that the configuration names and that are not installed."""
    result = read(environ)
    named = result.get("credHelpers")
    helpers = [result.get("credsStore"), *(named.values() if isinstance(named, dict) else ())]
    programs = dict.fromkeys(f"docker-credential-{name}" for name in helpers if name and isinstance(name, str))
    return tuple(name for name in programs if shutil.which(name, path=environ.get("PATH")) is None)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxies that the client hands to containers, as variables; those of the default entry."""
    entry = read(environ).get("proxies") or {}
    default = entry.get("default") if isinstance(entry, dict) else None
    if not isinstance(default, dict):
        return {}
    return {variable: str(default[key]) for key, variable in PROXIES.items() if default.get(key)}
