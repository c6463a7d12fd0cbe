"""What the server does not do for a caller, its background jobs do not do either: they are processes of their own.

Each of them loads this before MLflow's code runs (``jobs.confine``). What cannot be guarded ends the process.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from trackbed_mlflow import artifact_locations

GATEWAY = "gateway"
OFFERED = frozenset({"invoke_scorer", "run_online_trace_scorer", "run_online_session_scorer", "invoke_genai_evaluate"})
ONLY_GATEWAY = (
    "On the server a judge's model comes from MLflow's AI gateway: choose gateway:/ENDPOINT. Other models "
    "can be used in a notebook"
)


def through_gateway(model_utils: Any) -> None:
    """Models are called through the server, which checks the address and alone knows the keys.

    ``model_utils``: MLflow's module. A reference that another module took before is replaced too.
    """

    def guarded(name: str, provider_of: Callable[[Any, tuple[Any, ...]], str]) -> None:
        own = getattr(model_utils, name)

        def checked(*words: Any, **named: Any) -> Any:
            result = own(*words, **named)
            if provider_of(result, words or tuple(named.values())) != GATEWAY:
                from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]

                raise MlflowException.invalid_parameter_value(ONLY_GATEWAY)
            return result

        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is own:
                setattr(module, name, checked)

    guarded("_parse_model_uri", lambda result, words: str(result[0]))
    guarded("_get_provider_instance", lambda result, words: str(words[0]))


def offered_alone(jobs: Any) -> None:
    """A row of the database, which somebody's archive may have brought, starts no other job. ``jobs``: MLflow's."""
    jobs._ALLOWED_JOB_NAME_LIST[:] = [name for name in jobs._ALLOWED_JOB_NAME_LIST if name in OFFERED]
    jobs._SUPPORTED_JOB_FUNCTION_LIST[:] = [
        name for name in jobs._SUPPORTED_JOB_FUNCTION_LIST if name.rpartition(".")[2].removesuffix("_job") in OFFERED
    ]


def install(environment: Mapping[str, str] = os.environ) -> None:
    """All of it, in this process."""
    import mlflow.server.jobs as jobs  # type: ignore[import-not-found]
    from mlflow.metrics.genai import model_utils  # type: ignore[import-not-found]
    from mlflow.store.artifact.artifact_repository_registry import (  # type: ignore[import-not-found]
        ArtifactRepositoryRegistry,
    )

    artifact_locations.guard_opening(ArtifactRepositoryRegistry, environment)
    through_gateway(model_utils)
    offered_alone(jobs)


def install_or_end() -> None:
    """Python goes on without a sitecustomize that fails; a job may not."""
    try:
        install()
    except BaseException:
        _end()


def _end() -> NoReturn:
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
