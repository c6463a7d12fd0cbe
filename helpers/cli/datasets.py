"""Data sets: `invoke data.add`, `data.list`, `data.remove`."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict

from helpers import console
from helpers.cli import options
from helpers.datasets import adding, layout, sources
from helpers.datasets.adding import Added, DataSet
from helpers.errors import INTERRUPTED, SettingError, TrackbedError
from helpers.plurals import counted
from helpers.settings.flags import Flags
from helpers.sizes import cell, mib
from helpers.suggestions import shown

MIB = 2**20


def add(given: Flags, name: str, source: str, sha256: str) -> None:
    if not source:
        raise SettingError(
            f"data.add needs --from: name {sources.KINDS}.", f"`invoke data.add {shlex.quote(name)} --from=SOURCE`"
        )
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise SettingError("--sha256 has to be 64 hexadecimal digits, as `sha256sum FILE` prints them.")
    project = options.load(given)
    try:
        with console.Progress() as progress:
            done = adding.add(project, name, source, sha256.lower(), progress, progress.notice)
    except KeyboardInterrupt:
        stopped = TrackbedError(
            "interrupted; what has come so far is kept", "the same command goes on from there; `invoke data.remove "
            f"{shlex.quote(name)}` removes it"
        )  # fmt: skip
        stopped.code = INTERRUPTED
        raise stopped from None
    _tell(done, adding.volume_flag(project))


def _tell(done: Added, flag: str) -> None:
    one = done.set
    console.value(one.path)
    if not done.new:
        console.notice(f"{one.name} is there already, from {shown(str(one.note.get('from')), 200)}: nothing to do")
        return
    notes = [counted(one.files, "file"), mib(one.size), counted(int(one.note["classes"]), "class folder")]
    console.notice(f"added {one.name}: {', '.join(notes)}; all were read back from the disk")
    if done.layout and done.layout.sorted:
        console.notice("the pictures had their class's number in their name: they are in class_00, class_01, ... now")
    if done.layout and done.layout.left:
        console.notice(
            f"left out: {counted(done.layout.left, 'file')} that a file manager or Trackbed puts beside others"
        )
    if done.sha256:
        console.notice(f"SHA-256 of the archive: {done.sha256}")
    if one.name == layout.FOOD11:
        console.notice("in the notebook FOOD11_DATA_DIR names it")
    if done.restart:
        console.notice(f"the running notebook does not see it yet: `invoke up{flag}` restarts JupyterLab with it")


def list_sets(given: Flags, format: str, json: bool) -> None:
    format = options.output_format(format, json, "table", "json")
    project = options.load(given)
    with console.Progress() as progress:
        listed = adding.listing(project, progress)
    if format == "json":
        sets = [{"name": one.name, **asdict(one), "state": _state(one)} for one in listed.sets]
        console.as_json({"where": listed.where, "free": listed.free, "sets": sets, "unfinished": listed.unfinished})
        return
    rows = [
        (
            one.name,
            one.path,
            str(one.files),
            cell(one.size),
            _state(one),
            shown(str(one.note.get("from", "")), 80),
        )
        for one in listed.sets
    ]
    rows += [(name, "", "", "", "unfinished", "") for name in listed.unfinished]
    if not rows:
        console.notice(f"{listed.where} has no data set; `invoke data.add food11 --from=SOURCE` adds one")
        return
    console.table(("name", "path in the notebook", "files", "MiB", "state", "from"), rows)
    console.notice(f"{listed.free / 2**30:.1f} GiB free in {listed.where}")
    if listed.unfinished:
        console.notice("the same `invoke data.add` as before goes on with what is unfinished")


def _state(one: DataSet) -> str:
    return "by hand" if not one.note else "whole" if one.whole else "damaged"


def remove(given: Flags, name: str, yes: bool) -> None:
    project = options.load(given)
    with console.Progress() as progress:
        folder, there = adding.find(project, name, progress)
    what = (
        f"{there.path}: {counted(there.files, 'file')}, {mib(there.size)}"
        if there
        else f"what has come of {folder} so far"
    )
    if not yes and not console.confirm(f"Remove {what}?"):
        raise TrackbedError("nothing was removed", "answer y, or pass --yes where there is no terminal")
    with console.Progress() as progress:
        count = adding.remove(project, folder, progress)
    console.notice(f"removed {name}: {counted(count, 'file')}")
