"""The end of a lease: dates, what each cloud tells, Blazar, and what is told of it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import timers
from helpers.errors import SettingError
from helpers.findings import Level
from helpers.leases import blazar, last_backup, lease, notices
from helpers.leases.notices import CloudNotice
from helpers.project.backup_runs import LEAST
from tests.unit.fakes import project
from tests.unit.metadata_service import Serve, aws, google, pages

SERVER = "0123abcd-0123-0123-0123-0123456789ab"
END = "2026-11-28T18:00:00Z"
SECONDS = datetime(2026, 11, 28, 18, tzinfo=UTC).timestamp()
Pages = dict[str, str]


OPENSTACK = "/openstack/latest/"
GOOGLE = notices.GOOGLE
AWS = "/latest/meta-data/"


@pytest.mark.parametrize(
    ("texts", "end", "announced", "short"),
    [
        (
            {f"{OPENSTACK}meta_data.json": json.dumps({"uuid": SERVER, "meta": {"lease_end": END}})},
            SECONDS,
            False,
            False,
        ),
        (
            {
                f"{OPENSTACK}meta_data.json": json.dumps({"uuid": SERVER}),
                f"{OPENSTACK}vendor_data2.json": json.dumps({"site": {"lease_end": END}}),
            },
            SECONDS,
            False,
            False,
        ),
        ({f"{OPENSTACK}meta_data.json": json.dumps({"uuid": SERVER, "meta": {"lease_end": "soon"}})}, 0, False, False),
        ({f"{GOOGLE}preempted": "FALSE", f"{GOOGLE}scheduling/preemptible": "TRUE"}, 0, False, True),
        ({f"{GOOGLE}preempted": "TRUE"}, 1030.0, True, True),
        (
            {f"{GOOGLE}preempted": "FALSE", f"{GOOGLE}maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"},
            4600.0,
            True,
            False,
        ),
        ({f"{AWS}instance-life-cycle": "on-demand"}, 0, False, False),
        ({f"{AWS}instance-life-cycle": "spot"}, 0, False, True),
        (
            {
                f"{AWS}instance-life-cycle": "spot",
                f"{AWS}spot/instance-action": json.dumps({"action": "terminate", "time": END}),
            },
            SECONDS,
            True,
            True,
        ),
        ({f"{AWS}instance-life-cycle": "spot", f"{AWS}spot/instance-action": "<html>"}, 0, False, True),
    ],
)
def test_clouds(serve: Serve, texts: Pages, end: float, announced: bool, short: bool) -> None:
    cloud = google if f"{GOOGLE}preempted" in texts else aws if f"{AWS}instance-life-cycle" in texts else pages
    told = notices.ask(1000.0, serve(cloud(texts)))
    assert (told.end, told.announced, told.short) == (end, announced, short)
    assert bool(told.source) == bool(end) and bool(told.why) != bool(end)


def test_nobody_there() -> None:
    assert "no metadata service" in notices.ask(0.0, ("127.0.0.1", 1)).why


def blazar_pages(leases: list[dict[str, object]], hint: str = "") -> Pages:
    catalog = [
        {"type": kind, "endpoints": [{"interface": "public", "region": "one", "url": f"http://127.0.0.1:PORT/{kind}"}]}
        for kind in ("reservation", "compute")
    ]
    return {
        "/v3/auth/tokens": json.dumps({"token": {"catalog": catalog}}),
        "/reservation/v1/leases": json.dumps({"leases": leases}),
        f"/compute/servers/{SERVER}": json.dumps({"server": {"scheduler_hints": {"reservation": [hint]}}}),
    }


def leased(name: str, end: str) -> dict[str, object]:
    held = [{"id": f"r-{name}"}]
    dates = {"start_date": "2026-11-20T00:00:00.000000", "end_date": end}
    return {"name": name, "status": "ACTIVE", "reservations": held, **dates}


def credentials(serve: Serve, texts: Pages) -> dict[str, str]:
    host, port = serve(pages(texts))
    texts["/v3/auth/tokens"] = texts["/v3/auth/tokens"].replace("PORT", str(port))
    words = {"OS_APPLICATION_CREDENTIAL_ID": "1", "OS_APPLICATION_CREDENTIAL_SECRET": "word"}
    return {"OS_AUTH_URL": f"http://{host}:{port}/v3", "no_proxy": "*", **words}


def test_blazar(serve: Serve) -> None:
    two = [leased("a", "2026-11-29T10:00:00.000000"), leased("b", "2026-11-28T18:00:00.000000")]
    now = SECONDS - 3600
    environ = credentials(serve, blazar_pages(two, "r-b"))
    assert blazar.configured(environ) and not blazar.configured({})
    assert blazar.ask(now, SERVER, environ) == (SECONDS, "the lease b in Blazar")
    with pytest.raises(blazar.Refused, match="does not say which"):
        blazar.ask(now, "", environ)
    assert blazar.ask(now, "", credentials(serve, blazar_pages(two[1:])))[0] == SECONDS
    with pytest.raises(blazar.Refused, match="no lease"):
        blazar.ask(SECONDS + 1, SERVER, credentials(serve, blazar_pages(two[1:])))


def test_a_date_needs_its_zone(tmp_path: Path) -> None:
    assert project(tmp_path, lease_end="2026-11-28T18:00Z").settings.lease_end == "2026-11-28T18:00+00:00"
    for wrong, words in (("2026-11-28T18:00", "time zone"), ("tomorrow", "auto, or a date")):
        with pytest.raises(SettingError, match=words):
            project(tmp_path, lease_end=wrong)


@pytest.mark.parametrize(
    ("left", "level", "words"),
    [(3 * lease.DAY, Level.WARNING, "3 days"), (7200, Level.ERROR, "2 hours"), (-60, Level.ERROR, "that is over")],
)
def test_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, level: Level, words: str) -> None:
    lab = project(tmp_path, lease_end=END)
    monkeypatch.setattr(time, "time", lambda: SECONDS - left)
    finding, data = lease.look(lab.settings) or pytest.fail()
    assert finding.level is level and words in finding.detail and "invoke" in finding.fix
    assert data["seconds_left"] == left and data["end"] == "2026-11-28T18:00:00+00:00"
    assert left < 0 or "nothing is backed up by itself" in finding.detail
    monkeypatch.setattr(lease, "place", lambda settings: "s3://bucket/lab")
    finding, _ = lease.look(lab.settings) or pytest.fail()
    assert finding.level is level and (left < 0 or "no last backup is set up" in finding.detail)
    lab.settings.folder.mkdir(parents=True)
    last_backup.save(lab.settings.folder, last_backup.Setup("s3://bucket/lab", "cron"))
    monkeypatch.setattr(timers, "installed", lambda name, runner: True)
    expected = {3 * lease.DAY: Level.OK, 7200: Level.WARNING, -60: Level.ERROR}
    finding, data = lease.look(lab.settings) or pytest.fail()
    assert finding.level is expected[left] and (
        left < 0 or "its last backup to s3://bucket/lab begins" in finding.detail
    )
    assert data["last_backup"]["begins"] == SECONDS - LEAST  # type: ignore[index]
    assert lease.goes_too(lab.settings, f"{tmp_path}/backups/")


def test_what_the_cloud_told_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = project(tmp_path, lease_end="auto")
    lab.settings.folder.mkdir(parents=True)
    asked: list[float] = []

    def ask(now: float) -> CloudNotice:
        asked.append(now)
        return CloudNotice(now + 30, "a notice", True, True, True)

    monkeypatch.setattr(notices, "ask", ask)
    now = time.time()
    first = lease.current(lab.settings)
    assert first and first.end and lease.current(lab.settings) == first and len(asked) == 1
    monkeypatch.setattr(time, "time", lambda: now + 20)
    again = lease.current(lab.settings, fresh=True)
    assert again and again.end == first.end and again.announced == first.announced and len(asked) == 2
    assert lease.current(project(tmp_path / "other").settings) is None
