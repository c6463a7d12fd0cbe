"""Where docs/troubleshooting.md says more about an error: the heading that its message prints, as in `#port-taken`.

By the words of the message where they stand for one cause, otherwise by the module that it came from. A module that
others share has no topic of its own: the one that called it has.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping

from helpers.errors import SettingError, TrackbedError

PAGE = "docs/troubleshooting.md"
DISK, GPU = "disk-full", "gpu"
DOCTOR = "doctor"  # the heading of what `invoke doctor` prints
SETUP = "setup"  # of what setup.sh prints
# the first that matches
MESSAGES: Mapping[str, str] = {
    r"^unexpected: ": "bug",
    r"^port \d+ .*is (taken|held) |^a port is taken|^port \d+ of this machine": "port-taken",
    r"^the connection to .* was lost": "node-over-ssh",
    r"^the docker engine cannot be used|^permission denied at |the Docker engine may not enter": "docker",
    r"^the kubernetes engine cannot be used": "kubernetes",
    r"disk is full| GiB have to stay free|a first start needs |may be filled$": "disk-full",
    r"^installing .* from the bundle failed": "bundle",
    r"^(pulling|building|pushing|installing) .* failed|^PyTorch could not be installed": "images",
    r"another (Trackbed|Compose) project|runs from another clone|is not Trackbed's": "other-projects",
    r"permission denied|the file system is read-only|belongs to (root|another user|someone else)|is closed to the user"
    r"|this user may not open|cannot save files": "permission-denied",
    r"^not (ready|up) after|^interrupted": "not-ready",
    r"^nothing was (restored|removed|stopped|deleted, nothing was stopped)$": "commands",  # said no
}
# the longest that fits
MODULES: Mapping[str, str] = {
    "helpers.backups": "backups",
    "helpers.backups.schedule": "schedule",
    "helpers.bundles": "bundle",
    "helpers.bundling": "bundle",
    "helpers.checks.readiness": "not-ready",
    "helpers.cli": "machine",  # a task whose own module has no line here
    "helpers.cli.data": "backups",
    "helpers.cli.examples": "notebook",
    "helpers.datasets": "notebook",
    "helpers.demo": "notebook",
    "helpers.cli.datasets": "notebook",
    "helpers.cli.imports": "import",
    "helpers.cli.lab": "notebook",
    "helpers.cli.mistakes": "commands",
    "helpers.cli.options": "commands",
    "helpers.cli.people": "public-mode",
    "helpers.cli.running": "not-ready",
    "helpers.cli.status": "not-ready",
    "helpers.cli.toolkit": "images",
    "helpers.crontab": "schedule",
    "helpers.database_failures": "database",
    "helpers.database_pages": "database",
    "helpers.encrypted_rows": "database",
    "helpers.engines.base": "not-ready",
    "helpers.engines.database_roles": "database",
    "helpers.engines.docker": "docker",
    "helpers.engines.docker.building": "images",
    "helpers.engines.docker.bundled": "bundle",
    "helpers.engines.docker.devices": "gpu",
    "helpers.engines.docker.images": "images",
    "helpers.engines.docker.mapped_workspace": "notebook",
    "helpers.engines.docker.notebook_container": "notebook",
    "helpers.engines.docker.ownership": "other-projects",
    "helpers.engines.docker.postgres": "database",
    "helpers.engines.docker.ssh": "node-over-ssh",
    "helpers.engines.docker.ssh_host": "node-over-ssh",
    "helpers.engines.docker.ssh_target": "node-over-ssh",
    "helpers.engines.embedded": "without-docker",
    "helpers.engines.embedded.bundled": "bundle",
    "helpers.engines.embedded.postgres": "database",
    "helpers.engines.failures": "not-ready",
    "helpers.engines.gateway_spec": "public-mode",
    "helpers.engines.kubernetes": "kubernetes",
    "helpers.engines.select": "engine",
    "helpers.engines.supervisor": "without-docker",
    "helpers.gateway": "public-mode",
    "helpers.gpu": "gpu",
    "helpers.imports": "import",
    "helpers.kernels": "notebook",
    "helpers.lifecycle": "not-ready",
    "helpers.notebook": "notebook",
    "helpers.project": "state-folder",
    "helpers.project.backup_schedule": "schedule",
    "helpers.project.remote_tracking": "remote-server",
    "helpers.project.users": "public-mode",
    "helpers.project.workspace_folder": "notebook",
    "helpers.remote_server": "remote-server",
    "helpers.requirements_lock": "images",
    "helpers.rotation": "state-folder",
    "helpers.second_project": "backups",
    "helpers.settings": "settings",
    "helpers.start": "engine",
    "helpers.usage": "database",
    "helpers.wheel_download": "bundle",
    "helpers.workspace": "notebook",
}
TYPED = "commands"  # a wrong line, which is refused before any task runs
OTHERWISE = "machine"  # memory, files, programs: no module of ours is the cause


def of_module(name: str) -> str:
    """The topic of a module or of a package that it is in; "" for one that others share."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return MODULES.get(name, "")


def topic(problem: TrackbedError) -> str:
    """The heading's anchor for an error that was raised."""
    for words, anchor in MESSAGES.items():
        if re.search(words, problem.message):
            return anchor
    # the module that raised it first, then those that called it
    called = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(problem.__traceback__)]
    otherwise = TYPED if isinstance(problem, SettingError) else OTHERWISE
    return next(filter(None, map(of_module, reversed(called))), otherwise)


def next_steps(problem: TrackbedError, *further: str) -> tuple[str, ...]:
    """What a message prints below the words of an error: what to type, and where more is said."""
    steps = [step for step in (problem.hint, *further) if step]
    return (*(f"  -> {step}" for step in steps), *([f"  {reference(topic(problem))}"] if steps else []))


def reference(anchor: str) -> str:
    """What a message prints: a place in the clone, so that no website is needed."""
    return f"see {PAGE}#{anchor}"
