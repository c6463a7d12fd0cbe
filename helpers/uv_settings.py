"""uv, told what pip is told on this machine: its index, its mirror, its certificates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from helpers import commands, site_network

TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS")


def uv_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's settings in uv's names: uv reads neither pip's configuration nor PIP_* variables.

    Like pip and git, uv trusts the system's certificates: a site's own are there.
    """
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    given = {}
    for line in _pip_configuration():
        key, _, value = line.partition("=")
        option = key.rsplit(".", 1)[-1].strip()
        if option in names and ("global." in key or ":env:" in key):
            given[names[option]] = value.strip().strip("'\"")
    if not any(environ.get(name) or given.get(name) for name in TRUST) and any(
        Path(path).is_file() for path in site_network.SYSTEM
    ):
        given["UV_SYSTEM_CERTS"] = "1"
    return {name: value for name, value in given.items() if not environ.get(name)}


def _pip_configuration() -> list[str]:
    done = commands.attempt([sys.executable, "-m", "pip", "config", "list"], 30)
    return done.stdout.splitlines() if done.code == 0 else []
