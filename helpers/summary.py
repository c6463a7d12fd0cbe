"""What `up` ends with: the notebook's link, MLflow's, where the files are, what to type next."""

from __future__ import annotations

import os

from helpers import addresses, lifecycle, notebook, typed
from helpers.errors import TrackbedError
from helpers.project.project import Project


def rows(system: Project, view: lifecycle.Overview) -> list[tuple[str, str]]:
    """Labels and values of the box. The notebook's link carries its token, except into systemd's journal."""
    engine = lifecycle.running(system)
    token = system.credentials()["JUPYTER_TOKEN"]
    found: list[tuple[str, str]] = []
    kept_out = bool(os.environ.get("JOURNAL_STREAM"))  # at boot: others may read the journal
    try:
        link = notebook.url(engine, view.settings, token)
        found.append(("Notebook", link.partition("?")[0] if kept_out else link))
    except TrackbedError:
        pass  # the table above says why it is not up
    page = lifecycle.mlflow_url(view) or view.settings.tracking_uri
    if page:
        found.append(("MLflow", page.partition("?")[0] if kept_out else page))
    found.append(("Your files", lifecycle.workspace(system)))
    bound = view.settings.bind_address
    if view.node and view.ports:
        found.append(("Keep open", addresses.ssh_line(view.ports, target=view.node, bound=bound)))
    elif addresses.is_remote_session() and view.ports and not view.settings.public:
        found.append(("On your computer", addresses.ssh_line(view.ports, view.settings.public_address, bound=bound)))
    project = view.settings.project if system.aside else ""
    found += [("Next", typed.anywhere("check", project)), ("To stop", typed.anywhere("down", project))]
    return found
