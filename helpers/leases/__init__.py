"""The end of a lease: who tells it, and what is left of it."""
