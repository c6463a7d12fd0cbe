"""JupyterLab as it is on every engine: its environment and its options."""

from __future__ import annotations

import json

from helpers.digests import digest
from helpers.project.deployment import Deployment
from helpers.settings import Settings
from helpers.urls import browser_url

STRAIGHT_FROM = 50 * 2**20  # bytes of a file that the notebook sends to the store itself
# A terminal of JupyterLab: bash with the notebook's programs on PATH, also in an image that has no file of ours. Not a
# login shell, whose /etc/profile sets a PATH of its own. Who chooses another shell by SHELL gets that.
TERMINAL = "; ".join(
    (
        'case "${SHELL##*/}" in ""|sh|dash|bash|nologin|false) ;; *) exec "$SHELL" ;; esac',
        "command -v bash >/dev/null || exec sh",
        'rc="${TRACKBED_STARTUP:-}/terminal.bashrc"',
        '[ -r "$rc" ] || rc="$HOME/.bashrc"',
        'exec bash --rcfile "$rc"',
    )
)


def store_network(deployment: Deployment) -> str:
    """What a client that reaches the object store says of itself, "" where none does: known to this project alone.

    Behind the gateway the notebook is not on the store's network; a remote tracking server has a store of its own.
    """
    if deployment.is_public or deployment.notebook_only:
        return ""
    return digest("store network", deployment.project.state.instance)


def environment(deployment: Deployment, own_server: str, startup: str) -> dict[str, str]:
    """What a notebook is told on every engine; ``own_server``: where this project's tracking server is for it, if there
    is one; ``startup``: the folder with `clone.notebook_files` there."""
    settings, person = deployment.settings, deployment.project.state.person  # whose runs they are
    tracking_uri = settings.tracking_uri if deployment.notebook_only else own_server
    return {
        # MLflow's name for the user of a run; the account is a service's
        **({"LOGNAME": person, "USER": person} if person else {}),
        "TRACKBED_STARTUP": startup,
        "MLFLOW_TRACKING_URI": tracking_uri,
        # MLflow would print links to the tracking URI, a name that no browser knows; a start-up hook prints ours
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "TRACKBED_BROWSER_URL": browser_url(deployment),
        "TRACKBED_SERVER_URI": tracking_uri,  # MLflow changes its own; links to other servers are left alone
        "MLFLOW_NOTEBOOK_TRACE_RENDERER_BASE_URL": browser_url(deployment),  # a frame of the browser shows traces
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKBED_STORE_NETWORK": store_network(deployment),
        # in parts straight to the store, where the server offers it, is twice as quick; MLflow's own limit is 500 MB
        "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(STRAIGHT_FROM),
        # ours turns them on where they can be measured: docker/jupyter/trackbed_notebook/system_metrics.py
        **({"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true"} if settings.jupyter_image else {}),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "600",  # a proxied artifact of several GB answers late
        "GIT_PYTHON_REFRESH": "quiet",
        **settings.jupyter_env,
    }


def options(settings: Settings) -> tuple[str, ...]:
    """Options of JupyterLab on every engine: its terminals, no news or updates fetched, and the culler, which also ends
    kernels of open tabs."""
    terminal = json.dumps({"shell_command": ["/bin/sh", "-c", TERMINAL]})
    options = (
        f"--ServerApp.terminado_settings={terminal}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",  # the version is Trackbed's
    )
    if not settings.cull_idle:
        return options
    return (
        *options,
        f"--MappingKernelManager.cull_idle_timeout={settings.cull_idle}",
        f"--MappingKernelManager.cull_interval={max(1, min(300, settings.cull_idle // 4))}",
        "--MappingKernelManager.cull_connected=True",
    )


CERTIFICATES = "site-ca.pem"  # beside the secrets: the notebook's own, and no secret
COOKIE_FILE = "jupyter-cookie"
COOKIE = "cookies of {JUPYTER_TOKEN}"  # what JupyterLab signs them with: another token ends every cookie
