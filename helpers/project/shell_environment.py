"""What processes take from the shell of the first `up`: proxies, CA bundles, the time zone.

Another shell has others. They would be another program and restart everything, so a project that runs keeps what it
was started with until `down`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from helpers.project.state import State

NAMES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "TZ",
)
# what else a command that a timer runs needs: where Docker and the cluster are, room for scratch
_WHERE = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    *("KUBECONFIG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
)


def current(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of this shell."""
    return {name: environ[name] for name in NAMES if environ.get(name)}


def unattended(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a task that a timer runs takes from this shell."""
    return {**current(environ), **{name: environ[name] for name in _WHERE if environ.get(name)}}


def applied(state: State) -> dict[str, str]:
    """Those that the running project was started with, this shell's where nothing runs."""
    return current() if state.surroundings is None else state.surroundings


def differ(state: State) -> str:
    """A line about what this shell has otherwise; "" where nothing is."""
    if state.surroundings is None:
        return ""
    here = current()
    names = sorted(name for name in NAMES if here.get(name) != state.surroundings.get(name))
    if not names:
        return ""
    return (
        f"{', '.join(names)}: another value in this shell; what runs keeps its own. To take this shell's: "
        "`invoke down`, then `invoke up`"
    )
