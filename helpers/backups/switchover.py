"""Making a proven copy the active one, and the way back where it does not come up."""

from __future__ import annotations

from helpers import start
from helpers.backups import unpack
from helpers.data import journal
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.services import Notice


def switch_to(project: Project, new: dict[str, str], progress: ProgressReporter, notice: Notice) -> None:
    """Make ``new`` active in one step and start with it; back to the old one when that does not come up."""
    old = dict(project.state.active)
    project.state.active = {**old, **new}
    project.state.save()
    try:
        _, engine = start.bring_up(project, progress, notice)
    except TrackbedError as error:
        project.state.active = old
        project.state.save()
        raise TrackbedError(
            f"the new data do not start: {error.message}", "the old one is active again", error.details
        ) from None
    journal.recover(project.state, engine, progress)


def roll_back(project: Project, engine: Engine, progress: ProgressReporter, notice: Notice) -> None:
    """After a failure: what is active runs again, and the copy goes."""
    try:
        start.bring_up(project, progress, notice)
        unpack.abandon(project, engine, progress)
    except TrackbedError as error:
        notice(f"warning: {error.message}; `invoke up` repairs it")
