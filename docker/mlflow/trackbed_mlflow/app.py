"""The application that `mlflow server --app-name trackbed` serves: MLflow's own, and what Trackbed puts before it.

MLflow finds ``create`` through its plugin group `mlflow.app` (trackbed_mlflow-1.0.dist-info beside this package), and
imports this module to look at it: nothing of MLflow is imported at the top.
"""

from __future__ import annotations

import os
from typing import Any


def create() -> Any:
    """The ASGI application. Called once, before the workers are forked."""
    from mlflow.server import app as flask_app  # type: ignore[import-not-found]
    from mlflow.server import handlers
    from mlflow.server.fastapi_app import app  # type: ignore[import-not-found]

    from trackbed_mlflow import abandoned_requests, artifact_pool, fast_path, request_queues, router, ui_defaults
    from trackbed_mlflow.edge import identity, middleware
    from trackbed_mlflow.fast_path import chart_answers, json_answers, json_requests
    from trackbed_mlflow.search_processes import gunicorn_classes
    from trackbed_mlflow.search_processes.pool import processes
    from trackbed_mlflow.start_page import application

    stores = (handlers._tracking_store, handlers._model_registry_store)
    engines = [store.engine for store in stores if hasattr(store, "engine")]
    for engine in engines:
        engine.dispose()  # a connection must not be shared by two processes
    usable = fast_path.usable()
    change_mlflow(handlers, flask_app, app)
    ui_defaults.install(flask_app, smaller_table=usable)
    abandoned_requests.in_database(engines)
    flask_app.wsgi_app = abandoned_requests.wanted_only(flask_app.wsgi_app)
    queues = request_queues.Queues()
    request_queues.share_the_lock()
    fast, paths = None, frozenset[str]()
    if usable:
        with fast_path.part("JSON answers"):
            json_answers.replace(handlers)
            chart_answers.replace(handlers)
        fast, paths = json_requests.application(app, flask_app, queues)
    fast_path.write_state(os.environ)
    served = router.Router(app, artifact_pool.ArtifactPool(app), queues, fast, paths, processes)
    gunicorn_classes.served.app, gunicorn_classes.served.engines = served, engines
    page = application.served(served, engines, os.environ)
    return middleware.guarded(identity.identified(page, stores, os.environ))


def change_mlflow(handlers: Any, flask_app: Any, app: Any) -> None:
    """What MLflow's own handlers do otherwise here."""
    from trackbed_mlflow import (
        artifact_locations,
        artifact_pool,
        download_addresses,
        encryption,
        jobs,
        model_metrics,
    )
    from trackbed_mlflow.edge import bad_requests, graphql_limits

    artifact_locations.guard_server(handlers)
    model_metrics.keep_nan(type(handlers._tracking_store))
    encryption.tolerate()
    bucket = os.environ[artifact_locations.DESTINATION].startswith("s3://")
    bad_requests.guard(handlers, flask_app, app, bucket)
    graphql_limits.guard(handlers, flask_app, bad_requests.invalid)
    download_addresses.install(handlers, flask_app)
    artifact_pool.larger_blocks()
    if jobs.enabled(os.environ):
        from mlflow.server import gateway_api

        jobs.guard_models(gateway_api)
