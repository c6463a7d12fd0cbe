"""The start page: what runs now, and links to it. Served beside MLflow, behind the same token or login; no JavaScript.

What only the toolkit knows (addresses, GPU, backups, lease) it leaves in a file (``document``); what changes is looked
at when somebody asks (``probes``).
"""
