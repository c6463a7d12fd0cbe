"""What the time of a page's load was: the browser's main thread by kind of work, waiting for MLflow's API, the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

API = ("/ajax-api/", "/api/", "/graphql")
CATEGORIES = ("devtools.timeline", "blink.user_timing", "v8", "toplevel")
# Chromium's events of the main thread by the kind of their own time; what is in none of them is "other"
KINDS = {
    "garbage collection": ("MinorGC", "MajorGC", "V8.GC", "BlinkGC"),
    "script": (
        *("EvaluateScript", "FunctionCall", "v8.", "V8.", "EventDispatch", "TimerFire", "FireAnimationFrame"),
        *("RunMicrotasks", "XHRReadyStateChange", "XHRLoad", "FireIdleCallback", "BlinkScheduler_PerformMicrotask"),
    ),
    "style and layout": ("Layout", "UpdateLayoutTree", "RecalcStyle", "ParseAuthorStyleSheet", "IntersectionObserver"),
    "paint": ("Paint", "PrePaint", "Layerize", "Commit", "UpdateLayer", "CompositeLayers"),
}
OTHER, WAITING, IDLE, PROCESSOR = "other", "idle, an API request on its way", "idle", "processor, main thread"
COLUMNS = (*KINDS, OTHER, WAITING, IDLE)


@dataclass(frozen=True)
class Load:
    """Times in ms of the document's own clock; ``requests``: url, start, first_byte, end, ms, bytes."""

    began: float
    ready: float
    requests: list[dict[str, Any]]

    @property
    def took(self) -> float:
        return self.ready - self.began

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests to MLflow's API that began before the page was loaded, and after the click."""
        return [one for one in self.requests if self._is_asked(one)]

    def _is_asked(self, one: Mapping[str, Any]) -> bool:
        return str(one["url"]).startswith(API) and self.began <= one["start"] < self.ready

    @property
    def waited(self) -> float:
        """How long at least one request to MLflow's API was on its way."""
        return covered(((one["start"], one["end"]) for one in self.asked), self.began, self.ready)

    @property
    def transferred(self) -> float:
        """Of it from an answer's first byte to its last."""
        return covered(((one["first_byte"], one["end"]) for one in self.asked), self.began, self.ready)


def covered(spans: Iterable[tuple[float, float]], first: float, last: float) -> float:
    """How much of ``first`` to ``last`` the spans cover together."""
    return sum(end - start for start, end in joined(spans, first, last))


def joined(spans: Iterable[tuple[float, float]], first: float, last: float) -> list[tuple[float, float]]:
    """The spans within ``first`` to ``last``, in order; those that overlap are one."""
    result: list[tuple[float, float]] = []
    for start, end in sorted((max(start, first), min(end, last)) for start, end in spans):
        if end <= start:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def by_script(profile: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds of a CPU profile of V8 by the script's file, most first. What is no script has its name in brackets:
    (program) is Chromium's own work, as layout and drawing."""
    places = {}
    for node in profile["nodes"]:
        frame = node["callFrame"]
        name = frame["url"].partition("?")[0].rpartition("/")[2]
        places[node["id"]] = name or (frame["functionName"] if frame["functionName"][:1] == "(" else "(native)")
    result: dict[str, float] = {}
    for sample, delta in zip(profile["samples"], profile["timeDeltas"], strict=True):
        result[places[sample]] = result.get(places[sample], 0.0) + delta / 1000
    return dict(sorted(result.items(), key=lambda item: -item[1]))


def kind(name: str) -> str:
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), OTHER)


def split(events: Iterable[Mapping[str, Any]], load: Load) -> dict[str, float]:
    """Milliseconds of a load by COLUMNS, which together are the load, from Chromium's trace of it. And PROCESSOR: what
    the main thread used of a processor, which does not depend on what else the machine does."""
    page = [e for e in events if e["ph"] in "XM" or e["name"] == "navigationStart"]
    begins = [e for e in page if e["name"] == "navigationStart" and "/#/" in e["args"]["data"]["documentLoaderURL"]]
    if not begins:
        raise SystemExit("the trace has no load of the page")
    thread, zero = (begins[-1]["pid"], begins[-1]["tid"]), begins[-1]["ts"]
    first, last = zero + load.began * 1000, zero + load.ready * 1000
    result = dict.fromkeys((*COLUMNS, PROCESSOR), 0.0)
    stack: list[tuple[float, str]] = []  # end of each event that is open, and its kind
    tasks: list[tuple[float, float]] = []
    at = first
    mine = [e for e in page if e["ph"] == "X" and (e["pid"], e["tid"]) == thread and e["ts"] + e["dur"] > first]

    def passed(until: float) -> None:
        """The time up to ``until`` is of the innermost event that is open."""
        nonlocal at
        until = min(until, last)
        if until > at:
            if stack:
                result[stack[-1][1]] += (until - at) / 1000
            at = until

    for event in sorted(mine, key=lambda e: (e["ts"], -e["dur"])):
        if event["ts"] >= last:
            break
        while stack and stack[-1][0] <= event["ts"]:
            passed(stack[-1][0])
            stack.pop()
        passed(event["ts"])
        if not stack:
            tasks.append((event["ts"], event["ts"] + event["dur"]))
            share = (min(event["ts"] + event["dur"], last) - max(event["ts"], first)) / max(event["dur"], 1)
            result[PROCESSOR] += event.get("tdur", 0) / 1000 * share
        own = kind(event["name"])
        # a task within a script's time is the script's
        stack.append((event["ts"] + event["dur"], stack[-1][1] if own == OTHER and stack else own))
    while stack:
        passed(stack[-1][0])
        stack.pop()
    busy = joined(tasks, first, last)
    asked = [(zero + one["start"] * 1000, zero + one["end"] * 1000) for one in load.asked]
    both = covered([*busy, *asked], first, last)
    result[WAITING] = (both - covered(busy, first, last)) / 1000
    result[IDLE] = (last - first - both) / 1000
    return result
