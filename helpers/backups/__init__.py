"""Backups: made, read back, restored; a move to the other engine and an upgrade stand on them."""
