"""Links that MLflow prints in the notebook, made to open in the user's browser.

The notebook reaches MLflow by a name of its own network (``http://mlflow:8000``); the browser does not.
MLflow has no setting for the address it prints, so this is loaded as a plugin of its request headers:
importing MLflow finds it through the entry point beside this file, in kernels and in plain scripts alike,
and nothing is loaded where MLflow is not used. It adds no header; being asked for one is the moment at
which MLflow's own modules are complete and can be wrapped.

TRACKBED_BROWSER_URL     MLflow as the browser sees it; empty: MLflow is left as it is
TRACKBED_SERVER_URI      the address to replace (default: MLFLOW_TRACKING_URI, which set_tracking_uri()
                         overwrites); links to any other server stay as they are
MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT is true in Trackbed's notebooks: where this file is not found,
a dead link is not printed either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

TRAINING = "?workflowType=machine_learning"


def browser_address(address: str) -> str:
    """The address with the tracking server's host replaced by the one the browser can reach."""
    ours = os.environ.get("TRACKBED_SERVER_URI") or os.environ.get("MLFLOW_TRACKING_URI", "")
    ours = ours.rstrip("/")
    browser = os.environ.get("TRACKBED_BROWSER_URL", "").rstrip("/")
    if ours and browser and (address == ours or address.startswith((f"{ours}/", f"{ours}#"))):
        return browser + address[len(ours) :]
    return address


def _query(module: Any) -> str:
    """What follows the address of a page: MLflow's page for training, which lists runs and not traces, and the
    workspace where this MLflow knows workspaces and one is chosen."""
    get = getattr(module, "get_request_workspace", None)
    name = get() if get else None
    if not name or name == getattr(module, "DEFAULT_WORKSPACE_NAME", "default"):
        return TRAINING
    return f"{TRAINING}&workspace={quote(name, safe='')}"


def _wrap_log_url(module: Any) -> None:
    """The two lines at the end of a run."""
    original = module.TrackingServiceClient._log_url

    def log_url(self: Any, run_id: str) -> None:
        if not os.environ.get("TRACKBED_BROWSER_URL"):
            original(self, run_id)
            return
        try:
            if not isinstance(self.store, module.RestStore) or self.tracking_uri.startswith("databricks"):
                return
            run = self.store.get_run(run_id)
            if run.data.tags.get("mlflow.runType") == "genai_evaluate":
                return  # an evaluation shows its own link
            host = browser_address(self.store.get_host_creds().host.rstrip("/"))
            experiment = f"{host}/#/experiments/{run.info.experiment_id}"
            query = _query(module)
            sys.stdout.write(
                f"🏃 View run {run.info.run_name} at: {experiment}/runs/{run_id}{query}\n"
                f"🧪 View experiment at: {experiment}{query}\n"
            )
        except Exception:  # a link is a courtesy: it never fails a finished run
            pass

    module.TrackingServiceClient._log_url = log_url


def _wrap_evaluation(module: Any) -> None:
    """The button and the line that ``mlflow.genai.evaluate`` shows."""
    original = module._resolve_evaluation_results_url

    def resolve(*args: Any, **kwargs: Any) -> str:
        return browser_address(original(*args, **kwargs))

    module._resolve_evaluation_results_url = resolve


_WRAPS: dict[str, Callable[[Any], None]] = {
    "mlflow.tracking._tracking_service.client": _wrap_log_url,
    "mlflow.genai.utils.display_utils": _wrap_evaluation,
}


class UILinks:
    """A request header provider without headers."""

    def __init__(self) -> None:
        self._waiting = dict(_WRAPS)

    def in_context(self) -> bool:
        for name in tuple(self._waiting):
            module = sys.modules.get(name)
            if module is not None:
                try:
                    self._waiting[name](module)
                    del self._waiting[name]
                except (AttributeError, KeyError):
                    pass  # half imported, another thread was first, or another MLflow
        return False

    def request_headers(self) -> dict[str, str]:
        return {}
