"""`invoke import`: another MLflow's data into this project. The MLflow service reads them, this side has the files."""
