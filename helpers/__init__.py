"""Trackbed's toolkit: plain Python, no Invoke. ``tasks.py`` is the only caller."""

__version__ = "1.1.0"
