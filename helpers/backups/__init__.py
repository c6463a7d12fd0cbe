"""Backup, restore and what stands on them: archives, the database as a dump, the objects as a stream."""
