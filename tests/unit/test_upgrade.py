"""The way back to an earlier version: what is typed there."""

from __future__ import annotations

from pathlib import Path

from helpers.backups import upgrade
from helpers.settings import Settings, generated


def test_the_way_back_names_what_an_earlier_version_would_not_find(tmp_path: Path) -> None:
    """It reads no .trackbed.env; what stands in .env or the environment it finds itself."""
    env, place = tmp_path / "clone" / ".env", f"{tmp_path}/my state"
    env.parent.mkdir()

    def line(*flags: str, **environ: str) -> str:
        reported = {flag.partition("=")[0]: flag.partition("=")[2] for flag in flags}
        return upgrade.flags_of_up(Settings.load(reported, {"HOME": "/h", **environ}, env, {}))

    assert line() == line(TRACKBED_PROJECT="lab") == ""
    assert line("project=lab") == " --project=lab"
    generated.write(env, {"COMPOSE_PROJECT_NAME": "lab", "TRACKBED_STATE_DIR": place})
    assert line() == f" --project=lab --state-dir='{place}'"
    env.write_text("PROJECT=own\n")
    assert line() == f" --state-dir='{place}'"
