"""What the metadata service of a cloud tells about the end of this machine. Its answers are text of others: only what
is a date, or one of a few known words, counts.

OpenStack: a date `lease_end` in the server's own metadata, or in the vendor's. AWS: the notice that a spot instance is
taken, two minutes before. Google: the notices that a spot or preemptible instance is taken, 30 seconds before, and that
its host goes for maintenance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from helpers import cloud_metadata

KEY = "lease_end"
MOST = 256 * 1024  # bytes of OpenStack's answers, which hold keys and user's metadata
LATEST = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
GOOGLE = "/computeMetadata/v1/instance/"
PREEMPTED, MAINTENANCE = 30.0, 3600.0  # seconds that Google leaves after its notices, at most
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class CloudNotice:
    """``end`` in seconds since the epoch, 0 where the cloud names none; ``source``: who named it, in words.

    ``announced``: it is a notice that the machine is being taken; ``from_now``: the end is reckoned from now, as the
    notice has no date. ``short``: such a notice comes at most minutes before the end, so it has to be looked for often.
    ``server``: the machine's id on OpenStack. ``why``: what was asked, where ``end`` is 0.
    """

    end: float = 0.0
    source: str = ""
    announced: bool = False
    from_now: bool = False
    short: bool = False
    server: str = ""
    why: str = ""


def ask(now: float, service: tuple[str, int] | None = None) -> CloudNotice:
    """What the cloud tells now. Bounded: about 1 s where there is no service, a few requests where there is one."""
    asked = service or cloud_metadata.SERVICE
    try:
        return _openstack(asked) or _google(asked, now) or _aws(asked)
    except OSError:
        return CloudNotice(why=f"no metadata service answers at {asked[0]}")


def date(text: object) -> float:
    """Seconds since the epoch of a date with a time zone; 0 for anything else."""
    try:
        moment = datetime.fromisoformat(str(text).strip()[:64])
        seconds = moment.timestamp() if moment.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < LATEST else 0.0


def _openstack(service: tuple[str, int]) -> CloudNotice | None:
    """None where this is no OpenStack."""
    own = _json(service, "/openstack/latest/meta_data.json")
    server = str(own.get("uuid", ""))
    if not _UUID.fullmatch(server):
        return None
    meta = own.get("meta")
    if end := date(meta.get(KEY)) if isinstance(meta, dict) else 0.0:
        return CloudNotice(end, f"{KEY} in the server's metadata", server=server)
    for name in ("vendor_data2.json", "vendor_data.json"):
        vendor = _json(service, f"/openstack/latest/{name}")
        for data in (vendor, *(value for value in vendor.values() if isinstance(value, dict))):
            if end := date(data.get(KEY)):
                return CloudNotice(end, f"{KEY} in the cloud's {name}", server=server)
    return CloudNotice(server=server, why=f"OpenStack's metadata has no {KEY}")


def _json(service: tuple[str, int], path: str) -> Mapping[str, Any]:
    status, text = cloud_metadata.ask(service, "GET", path, {}, MOST)
    try:
        data = json.loads(text) if status == 200 else {}
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _google(service: tuple[str, int], now: float) -> CloudNotice | None:
    """None where this is not Google's."""

    def word(name: str) -> str:
        status, text = cloud_metadata.ask(service, "GET", f"{GOOGLE}{name}", cloud_metadata.GOOGLE_HEADERS)
        return text.strip() if status == 200 else ""

    preempted = word("preempted")
    if preempted not in ("TRUE", "FALSE"):
        return None
    short = word("scheduling/preemptible") == "TRUE"
    if preempted == "TRUE":
        return CloudNotice(now + PREEMPTED, "Google's notice that it takes the machine", True, True, True)
    if word("maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE":
        left = PREEMPTED if short else MAINTENANCE
        return CloudNotice(now + left, "Google's notice of maintenance that ends the machine", True, True, short)
    why = "Google gives 30 seconds' notice of a spot machine's end" if short else "Google ends no machine of this kind"
    return CloudNotice(short=short, why=why)


def _aws(service: tuple[str, int]) -> CloudNotice:
    headers = cloud_metadata.aws_headers(cloud_metadata.session_token(service))
    status, life = cloud_metadata.ask(service, "GET", "/latest/meta-data/instance-life-cycle", headers)
    if status != 200:
        return CloudNotice(why="the metadata service is none that tells the end of a machine")
    if life.strip() != "spot":
        return CloudNotice(why="AWS gives notice to spot instances only, and this is none")
    status, text = cloud_metadata.ask(service, "GET", "/latest/meta-data/spot/instance-action", headers)
    try:
        action = json.loads(text) if status == 200 else {}
    except (ValueError, RecursionError):
        action = {}
    if isinstance(action, dict) and (end := date(action.get("time"))):
        return CloudNotice(end, "AWS's notice that it takes the spot instance", True, short=True)
    return CloudNotice(short=True, why="AWS gives two minutes' notice of a spot instance's end")
