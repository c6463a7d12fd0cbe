"""Scripts that run in the notebook's environment, for what only that can answer."""
