"""What the README's pictures are compared by is the same on every machine."""

from __future__ import annotations

import pytest

pictures = pytest.importorskip("tests.browser.pictures", reason="NOT TESTED: no Playwright")

PLAIN = "service  what\njupyter  JupyterLab  ready\ntrackbed is ready\n"
TOLD = """service  what
GPU: AMD Instinct MI100, gfx908 (found)
warning: only 3.0 GiB are free at /; when it is full, logging fails
  docs/troubleshooting.md#disk
jupyter  JupyterLab  ready
trackbed is ready
"""


def test_a_gpu_and_a_full_disk_change_no_words() -> None:
    assert pictures.words(pictures.anywhere(TOLD)) == pictures.words(pictures.anywhere(PLAIN)) == pictures.words(PLAIN)


def test_dates_and_times_change_no_words() -> None:
    for text in ("2026-12-01 09:00 UTC (just now)", "2031-02-28 23:59 UTC (just now)"):
        assert pictures.replaced(text, pictures.PLAIN) == "2026-12-01 09:00 UTC (just now)"


@pytest.mark.parametrize("gpu", ["none", "amd", "2 of AMD Instinct MI100, gfx908"])
def test_no_gpu_is_read_on_a_picture(gpu: str) -> None:
    told = f"notebook: GPU: {gpu}, pid 17, uptime 1:02:03"
    assert pictures.replaced(told, pictures.PLAIN) == "notebook: GPU: none, pid 20748, uptime 0:00:13"
