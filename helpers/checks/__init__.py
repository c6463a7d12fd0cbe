"""The checks before, during and after a start."""
