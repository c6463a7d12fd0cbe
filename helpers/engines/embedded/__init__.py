"""The embedded engine: the parts of a system as supervised processes of this machine."""
