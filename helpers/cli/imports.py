"""`invoke import`: another MLflow's data."""

from __future__ import annotations

from dataclasses import replace

from helpers import console
from helpers.cli import options
from helpers.errors import TrackbedError
from helpers.imports import databases, importing, sources
from helpers.imports.databases import Server
from helpers.imports.importing import NAMED, WHERE, Imported
from helpers.plurals import counted
from helpers.settings.flags import Flags
from helpers.sizes import mib

# what people call the rows of MLflow's tables, in the order in which they are shown
NAMES = {
    "experiments": "experiments",
    "runs": "runs",
    "params": "parameters",
    "metrics": "values of metrics",
    "tags": "tags of runs",
    "datasets": "datasets",
    "inputs": "inputs and outputs",
    "logged_models": "logged models",
    "registered_models": "registered models and prompts",
    "model_versions": "their versions",
    "registered_model_aliases": "their aliases",
    "trace_info": "traces",
    "spans": "spans in the database",
    "assessments": "assessments",
    "evaluation_datasets": "evaluation datasets",
}


def import_source(
    given: Flags, text: str, artifacts: list[str], dry_run: bool, skip_missing: bool, merge: bool
) -> None:
    options.refuse(dry_run and skip_missing, "--skip-missing", "with --dry-run, which imports nothing")
    source = sources.source(text)
    if source.tracking:
        console.notice(f"{source} is MLflow {source.tracking.check()}".rstrip())
    project = options.load(given)
    if source.server:
        source = replace(source, server=_answering(source.server))
    with console.Progress() as progress:
        if dry_run:
            result = importing.look(project, source, artifacts, merge, progress, progress.notice)
        else:
            result = importing.run(project, source, artifacts, skip_missing, merge, progress, progress.notice)
    _show(result)
    if dry_run:
        console.notice(f"nothing was changed; the import takes about {_duration(result.seconds)}")
        if result.missing:
            raise TrackbedError(
                f"{counted(len(result.missing), 'part')} of the source cannot be read",
                WHERE,
            )
    else:
        new = any(result.counts.values())
        console.notice(
            "imported; every row was read back, and every artifact"
            if new
            else "this project has all of the source already; every artifact was read back"
        )


def _answering(server: Server) -> Server:
    """The source, which answers and lets Trackbed in: looked at before anything is started."""
    if server.password:
        console.notice(
            f"the password in the address shows in this machine's list of processes; {databases.HIDDEN[server.scheme]} "
            "keeps it out of there"
        )
    return databases.checked(server, console.ask_secret if console.can_ask() else None)


def _show(result: Imported) -> None:
    rows = [(name, str(count)) for table, name in NAMES.items() if (count := result.counts.get(table, 0))]
    console.table(("what", "count"), [*rows, ("artifacts", f"{result.objects} ({mib(result.size)})")])
    for line in result.remarks[:NAMED]:
        console.notice(line)
    if len(result.remarks) > NAMED:
        console.notice(f"and {len(result.remarks) - NAMED} more of this kind")
    for line in result.missing[:NAMED]:
        console.notice(f"missing: {line}")
    if len(result.missing) > NAMED:
        console.notice(f"and {len(result.missing) - NAMED} more")
    if result.file:
        console.notice(f"all that is missing is listed in {result.file}")


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} minutes"
