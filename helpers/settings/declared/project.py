"""Settings of the project itself and of the engine that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers.settings import kinds
from helpers.settings.declaration import EVERY, NOTEBOOK, UNSETTLED, setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ProjectAndEngine:
    """Project and engine"""

    project: str = setting(
        "trackbed",
        kinds.PROJECT,
        "Name of the project, the prefix of its containers, volumes and folders",
        tasks=EVERY,
        remembered=False,
    )
    state_dir: Path = setting(
        "",
        optional(kinds.FOLDER, UNSETTLED),
        "Folder for state and secrets (default: your state folder; /var/lib/trackbed as root)",
        tasks=EVERY,
        remembered=False,
    )
    engine: str = setting(
        "auto",
        one_of("auto", "docker", "embedded", "kubernetes"),
        "Engine that runs the services: auto takes the one that holds data, then Docker if it answers, then embedded",
        tasks=(*NOTEBOOK, "bundle", "doctor", "data_add", "data", "data_remove"),
    )
    ready_timeout: int = setting(
        "180",
        kinds.integer(5, 3600, "seconds", "SECONDS"),
        "Seconds to wait until everything is ready",
        tasks=NOTEBOOK,
    )
