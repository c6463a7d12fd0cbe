"""What the unit tests share."""

from __future__ import annotations

from hypothesis import settings

# a loaded machine is no defect: the examples are bounded by their number
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
