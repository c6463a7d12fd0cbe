"""One project: its settings, what it remembers, its secrets, who may use it, and what of that a run resolves."""
