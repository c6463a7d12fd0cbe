"""PostgreSQL as Trackbed runs it on every engine: roles, parameters, and how many connections MLflow's pools open."""

from __future__ import annotations

ADMIN = "postgres"  # superuser: reached through the socket beside the data alone, has no password
USER = "mlflow"  # the server's role: owns its databases and nothing else
# For a load of many small transactions and pages of search results. What decides whether an answered request survives
# (fsync, synchronous_commit, full_page_writes) stays as PostgreSQL has it.
PARAMETERS = {
    "shared_buffers": "256MB",
    "work_mem": "16MB",  # a search ordered by a metric sorts every run of the experiment: not on the disk
    "maintenance_work_mem": "128MB",  # indexes of a restored backup
    "random_page_cost": "1.1",  # SSDs
    "jit": "off",  # compiling costs more than these queries take
    "wal_compression": "on",
}
POOLS = ("tracking", "registry")  # stores of a worker that have a pool each
POOLED = 120  # connections of all workers to one kind of store, as long as each worker has 4
JOB_PROCESSES = 8  # MLFLOW_JOBS=on: the runner, the scheduler, and six jobs, as trackbed_mlflow/jobs.py bounds them
JOB_POOL = 5  # connections that each of these may open
OLD_AND_NEW = 2  # sets of pods in a cluster while an update replaces them: each may end beside the one that follows it
RESERVED = 25  # beside the pools: checks, backups, gc, the server's first look, PostgreSQL's own 3 for the superuser


def pool(workers: int) -> tuple[int, int]:
    """Connections that each store of a worker keeps, and how many more it may open: MLflow's own 5 and 10 with few
    workers. With many, fewer each: a connection is a process of PostgreSQL with memory of its own."""
    most = max(4, min(15, POOLED // workers))
    kept = min(5, most - 1)
    return kept, most - kept  # MLflow takes 0 for "not set"


def needed(workers: int, jobs: bool = False) -> int:
    """Connections that a database has to allow: those that the pools of all workers may open, and room for the toolkit
    and the superuser. ``jobs``: and those of MLflow's jobs, for which each worker has one pool more."""
    pools, beside = (len(POOLS) + 1, JOB_PROCESSES * JOB_POOL) if jobs else (len(POOLS), 0)
    return workers * pools * sum(pool(workers)) + beside + RESERVED


def max_connections(workers: int, jobs: bool = False) -> int:
    """What PostgreSQL is told on one machine: never fewer than are needed."""
    return max(100, needed(workers, jobs))


def cluster_workers(replicas: int, workers: int) -> int:
    """All that may have their pools open at one time, with so many pods of so many workers each."""
    return OLD_AND_NEW * replicas * workers


def cluster_connections(replicas: int, workers: int, jobs: bool = False) -> int:
    """What PostgreSQL is told in a cluster: enough also for the pods of an earlier setting, which had other pools."""
    return max(len(POOLS) * POOLED + RESERVED, needed(cluster_workers(replicas, workers), jobs))


def options(connections: int | str) -> tuple[str, ...]:
    """PARAMETERS and the number of connections as arguments of `postgres`."""
    every = {**PARAMETERS, "max_connections": connections}
    return tuple(word for name, value in every.items() for word in ("-c", f"{name}={value}"))
