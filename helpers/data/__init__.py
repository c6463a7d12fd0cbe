"""The data of a project: its database, its artifacts, and which copy of them is active."""
