"""Bytes in words. What takes little is not said to take nothing."""

from __future__ import annotations

KIB, MIB = 2**10, 2**20


def mib(size: float, digits: int = 1) -> str:
    """As in "3.2 MiB"; what would be rounded to none of it is told in KiB or bytes."""
    if size >= MIB * 10**-digits / 2 or not size:
        return f"{size / MIB:.{digits}f} MiB"
    return f"{size / KIB:.1f} KiB" if size >= KIB else f"{size:.0f} {'byte' if size == 1 else 'bytes'}"


def cell(size: float) -> str:
    """The same for a column of MiB."""
    return "<0.1" if 0 < size < MIB / 20 else f"{size / MIB:.1f}"
