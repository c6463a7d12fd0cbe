"""Trackbed's toolkit: plain Python, no Invoke. ``tasks.py`` is the only caller."""
