"""MLflow's plugin group `mlflow.tracking_store`: who makes the store of a postgresql:// address.

MLflow imports this while it imports itself: nothing of MLflow is imported at the top.
"""

from __future__ import annotations

from typing import Any

from trackbed_mlflow import fast_path


def create(store_uri: str, artifact_uri: str | None = None) -> Any:
    """The store with the fast path, and MLflow's own where that does not fit."""
    if fast_path.usable():
        with fast_path.part("tracking store"):
            from trackbed_mlflow.fast_path import tracking_store

            tracking_store.check(store_uri)
            return tracking_store.FastTrackingStore(store_uri, artifact_uri)
    from mlflow.server.handlers import TrackingStoreRegistryWrapper  # type: ignore[import-not-found]

    return TrackingStoreRegistryWrapper._get_sqlalchemy_store(store_uri, artifact_uri)
