"""`invoke explain`: what runs, for somebody who wants to know how."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from helpers import console, explain, invocations
from helpers import status as inspection
from helpers.cli import options
from helpers.engines import select
from helpers.explain import Explanation
from helpers.settings.flags import Flags


def explained(given: Flags, service: str, format: str, json: bool) -> None:
    format = options.output_format(format, json, "table", "json")
    project = options.load(given)
    project.only_look()
    engine = select.current(project)
    view = inspection.overview(engine)
    if service:
        options.choose(service, *(row.status.name for row in view.rows), option="service ")
    listed = [explain.service(project, engine, view, service)] if service else explain.system(engine, view)
    if format == "json":
        data = [explain.as_data(one) for one in listed]
        console.as_json(data[0] if service else {"engine": view.engine, "services": data})
        return
    if not service:
        condition = inspection.condition(project, view)
        console.value(f"{view.settings.project}: {condition}, on the {view.engine} engine")
    for one in listed:
        console.value("\n".join([*([""] if not service else []), *_lines(one, alone=bool(service))]))
    if not service:
        console.notice(f"\nmore of one of them: {invocations.anywhere(f'explain {listed[-1].service}')}")


def _lines(one: Explanation, alone: bool) -> list[str]:
    """A service on a terminal of any width: text is folded, what may be copied is not."""
    width = console.width() or 100
    lines = [f"{one.service}: {one.title}, {one.state}", *_folded(one.purpose, width)]
    if one.planned and alone:
        lines += _folded("It is not running: this is what `invoke up` would start.", width)
    if one.facts:
        lines += [""] if alone else []
        for label, texts in one.facts.items():
            lines += _beside(label, texts, width)
    heading = ""
    for what, line in one.by_hand:
        lines += ["", f"  {what}:"] if what != heading else []
        heading = what
        lines += [f"    {part}" for part in line.split("\n")]
    if one.settings:
        lines += ["", "  set by:"]
        names = max(len(f"{name}={value}") for name, value, _ in one.settings)
        for name, value, origin in one.settings:
            word = f"{name}={value}"
            near = min(names, 40) + 6 + len(origin) <= width and len(word) <= 40
            lines += [f"    {word.ljust(min(names, 40))}  {origin}"] if near else [f"    {word}", f"      {origin}"]
    return lines


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")


def _beside(label: str, texts: Sequence[str], width: int) -> list[str]:
    """A label with its lines beside it, or below it where there is little room; nothing where it has none."""
    if not texts:
        return []
    if width < 70:
        return [f"  {label}", *(f"    {text}" for text in texts)]
    return [f"  {label.ljust(12) if place == 0 else ' ' * 12} {text}" for place, text in enumerate(texts)]
