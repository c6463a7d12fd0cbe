"""The embedded engine: the services of a project as supervised processes of this machine."""
