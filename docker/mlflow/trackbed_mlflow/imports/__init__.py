"""Another MLflow's data, read by MLflow's own code into a database of this MLflow's schema, then into PostgreSQL.

In between lies a SQLite file (the staging database): whatever the source was, what follows is the same.
"""
