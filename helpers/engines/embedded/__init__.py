"""The embedded engine: the services of a system as supervised processes of this machine."""
