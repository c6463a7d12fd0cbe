"""The kustomization of a project: what its settings make of docker/kubernetes. Plain data, no secret in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from helpers import database_settings, digests, urls
from helpers.engines import gateway_spec, jupyterlab
from helpers.engines.kubernetes import backup_plan, exposure, objects, pushed, secrets
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.gpus import Gpus
from helpers.engines.kubernetes.images import Images
from helpers.engines.notebook_spec import DATA
from helpers.errors import SettingError
from helpers.project import mlflow_jobs
from helpers.services import BUCKET, GATEWAY, JUPYTER, MLFLOW, POSTGRES, SCHEMA, STORE, STORE_SYNC, ServiceSpec

Data = dict[str, Any]
BASE = "base"  # in docker/kubernetes
CODE = "helpers.zip"  # beside it: the modules that a scheduled backup runs
GATEWAY_VOLUME = "1g"  # certificates, and a log that is bounded
MOST_REQUESTED = 2**30  # bytes of memory: no service of the base requests more
# the image of each service, by the short name that the base has for it
SHORT = {
    MLFLOW: "trackbed/mlflow",
    JUPYTER: "trackbed/jupyter-mlflow",
    GATEWAY: "trackbed/gateway",
    POSTGRES: "postgres",
    "versitygw": "versitygw",
    "minio": "minio",
}
# what runs an image of ours, and whose
RUN_OURS = {**dict.fromkeys((STORE_SYNC, SCHEMA, BUCKET, MLFLOW), MLFLOW), JUPYTER: JUPYTER, GATEWAY: GATEWAY}


def kustomization(
    deployment: KubernetesDeployment, images: Images, notebook: ServiceSpec, gpus: Gpus, data_claim: str
) -> Data:
    """``notebook``: JupyterLab as a container; ``data_claim``: the claim with the data set, "" for none."""
    namespace = deployment.target.namespace
    pairs = {
        objects.PROJECT: objects.label(deployment.settings.project),
        objects.INSTANCE: deployment.project.state.instance,
    }
    patches = [_notebook_patch(deployment, notebook, gpus, data_claim), *_loaded_patches(deployment, images)]
    private = deployment.private_environment
    own = {key: value for key, value in notebook.environment.items() if key not in private}
    maps: dict[str, Mapping[str, str]] = {JUPYTER: own}
    if not deployment.notebook_only:
        patches += _server_patches(deployment)
        maps |= environments(deployment)
    if deployment.is_public:
        patches.append(_gateway_patch(deployment))
    if deployment.scheduled:
        patches.append(_patch("CronJob", "backup", {"schedule": backup_plan.looks(deployment)}, "batch/v1"))
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [BASE],
        "components": [f"components/{name}" for name in components(deployment)],
        "labels": [{"pairs": pairs, "includeTemplates": True}],
        "images": [_image(SHORT[key], reference) for key, reference in images.references().items()],
        # emptied, then filled by a patch, which takes any value as it is
        "configMapGenerator": [
            {"name": JUPYTER, "behavior": "replace", "literals": ["HOME=/home/jovyan"]},
            *([{"name": "backup-code", "files": [CODE]}] if deployment.scheduled else []),
        ],
        "patches": [
            *(
                {"target": {"kind": "ConfigMap", "name": name}, "patch": _text(_map(name, values))}
                for name, values in maps.items()
            ),
            *({"patch": _text(patch)} for patch in patches),
            *(
                {"target": {"kind": kind, "name": name}, "patch": _text(patch)}
                for (kind, name), patch in exposure.patches(deployment).items()
            ),
        ],
    }


def components(deployment: KubernetesDeployment) -> list[str]:
    """The components of docker/kubernetes over its base, by name."""
    if deployment.notebook_only:
        return ["notebook-only"]
    result = {"minio": ["minio"], "external": ["external-store"]}.get(deployment.object_store, [])
    result += ["database-client"] if deployment.external_database else []
    result += ["scheduled-backups"] if deployment.scheduled else []
    if not deployment.is_public:
        return result
    # strangers may name addresses to the server: it is sent nowhere where what it needs is in its namespace
    outside = deployment.external_database or deployment.object_store == "external"
    return [*result, "gateway", *([] if outside else ["isolated"])]


def _text(data: Data | list[Data]) -> str:
    return json.dumps(data)


def _map(name: str, values: Mapping[str, str]) -> Data:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(values)}


def _image(short: str, reference: str) -> Data:
    """The entry that puts a reference (NAME[:TAG][@DIGEST]) in the place of a short name."""
    name, _, digest = reference.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    return {"name": short, "newName": head, **({"digest": digest} if digest else {"newTag": tag or "latest"})}


def _loaded_patches(deployment: KubernetesDeployment, images: Images) -> list[Data]:
    """What runs an image that was loaded names its id: another one under the same name starts it again."""
    given, patches = images.references(), []
    for service in deployment.services:
        loaded = pushed.loaded(deployment.settings, given[RUN_OURS[service]]) if service in RUN_OURS else ""
        if loaded:
            workload = objects.WORKLOADS[service]
            version = "batch/v1" if workload.kind == "Job" else "apps/v1"
            template = {"metadata": {"annotations": {objects.IMAGE: loaded}}}
            patches.append(_patch(workload.kind, workload.name, {"template": template}, version))
    return patches


def environments(deployment: KubernetesDeployment) -> dict[str, Mapping[str, str]]:
    """The variables of the services that depend on settings, by the name of their ConfigMap."""
    settings, active = deployment.settings, deployment.project.state.active
    own_store = deployment.object_store != "external"
    replicas, workers, jobs = settings.mlflow_replicas, settings.mlflow_workers, mlflow_jobs.enabled(deployment)
    kept, more = database_settings.pool(deployment.workers)
    connections = database_settings.cluster_connections(replicas, workers, jobs)
    browser = urls.s3_browser_url(deployment)
    result: dict[str, Mapping[str, str]] = {
        "postgres": _database(deployment) or {"TRACKBED_MAX_CONNECTIONS": str(connections)},
        "mlflow": {
            "MLFLOW_BACKEND_STORE_URI": _database_uri(deployment),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings.s3_bucket}/{active['prefix']}",
            "MLFLOW_S3_ENDPOINT_URL": "http://store:9000" if own_store else settings.s3_endpoint,
            "AWS_DEFAULT_REGION": settings.s3_region,
        },
        "mlflow-server": {
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{urls.allowed_hosts(deployment)},{_names_in_cluster(deployment)}",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": urls.cors_origins(deployment),
            "TRACKBED_WORKERS": str(settings.mlflow_workers),
            "TRACKBED_FAST_PATH": settings.mlflow_fast_path,
            "TRACKBED_JOBS": "on" if jobs else "off",
            "TRACKBED_JOBS_MODELS": settings.mlflow_jobs_models,
            "TRACKBED_STORE_NETWORK": jupyterlab.store_network(deployment),
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(kept),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(more),
            "TRACKBED_MIGRATE": os.environ.get("TRACKBED_MIGRATE", ""),  # an older schema, once, when it is asked for
        },
    }
    if deployment.is_public:
        result[GATEWAY] = {
            **gateway_spec.environment(deployment),
            "GATEWAY_ACME": settings.acme_ca,
            "GATEWAY_MLFLOW_PORT": str(settings.mlflow_port),
            "GATEWAY_JUPYTER_PORT": str(settings.jupyter_port),
        }
    if deployment.object_store == "versitygw":
        result["store"] = {
            "TRACKBED_REGION": settings.s3_region,
            "VGW_WEBUI_GATEWAYS": browser,
            "VGW_WEBUI_ADMIN_GATEWAYS": browser,
        }
    return result


def _database(deployment: KubernetesDeployment) -> dict[str, str]:
    """Where a PostgreSQL of the user's is, for PostgreSQL's programs; {} where it is ours."""
    host, _, port = deployment.external_database.partition(":")
    return {"PGHOST": host, "PGPORT": port, "PGSSLMODE": _tls(deployment)} if host else {}


def _tls(deployment: KubernetesDeployment) -> str:
    return "require" if deployment.settings.database_tls == "require" else "disable"


def _database_uri(deployment: KubernetesDeployment) -> str:
    name, external = deployment.project.state.active["database"], deployment.external_database
    options = f"?sslmode={_tls(deployment)}" if external else ""
    return f"postgresql+psycopg2://{database_settings.USER}@{external or 'postgres:5432'}/{name}{options}"


def _names_in_cluster(deployment: KubernetesDeployment) -> str:
    """How pods of other namespaces call the server."""
    names = [f"mlflow.{deployment.target.namespace}{rest}" for rest in ("", ".svc", ".svc.cluster.local")]
    return ",".join(f"{name},{name}:*" for name in names)


def _patch(kind: str, name: str, spec: Data, version: str = "apps/v1") -> Data:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _template(deployment: KubernetesDeployment, pod: Data, **annotations: str) -> Data:
    digest = {objects.SECRETS: deployment.secrets_digest()}
    return {"metadata": {"annotations": {**digest, **annotations}}, "spec": pod}


def claim(deployment: KubernetesDeployment, name: str, size: str) -> Data:
    chosen = deployment.settings.storage_class
    return {
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": objects.quantity(size)}},
            **({"storageClassName": chosen} if chosen else {}),
        },
    }


def _memory(limit: str) -> Data:
    """The limit, and a request that is not above it."""
    size = objects.quantity(limit)
    low = objects.number(size) < MOST_REQUESTED
    return {"limits": {"memory": size}, **({"requests": {"memory": size}} if low else {})}


def _limited(name: str, memory: str) -> Data:
    return {"name": name, "resources": _memory(memory)}


def _server_patches(deployment: KubernetesDeployment) -> list[Data]:
    settings = deployment.settings
    if settings.mlflow_replicas > 1 and mlflow_jobs.enabled(deployment):
        raise SettingError(
            f"MLFLOW_REPLICAS={settings.mlflow_replicas} and MLFLOW_JOBS=on: each server would run every job.",
            "MLFLOW_REPLICAS=1, or MLFLOW_JOBS=off",
        )
    memory = settings.memory_limit
    patches = [
        _patch(
            "StatefulSet",
            POSTGRES,
            {
                "template": _template(deployment, {"containers": [_limited(POSTGRES, memory)]}),
                **(
                    {}
                    if deployment.external_database
                    else {"volumeClaimTemplates": [claim(deployment, "data", settings.database_volume_size)]}
                ),
            },
        ),
        _patch(
            "Deployment",
            MLFLOW,
            {
                "replicas": settings.mlflow_replicas,
                # a server that starts takes the jobs that run for those of one that ended, and runs them again
                **(
                    {"strategy": {"type": "Recreate", "rollingUpdate": None}} if mlflow_jobs.enabled(deployment) else {}
                ),
                "template": _template(deployment, {"containers": [_limited(MLFLOW, memory)]}),
            },
        ),
        *(_patch("Job", name, {"template": _template(deployment, {})}, "batch/v1") for name in (SCHEMA, BUCKET)),
    ]
    if deployment.object_store != "external":
        template = _template(deployment, {"containers": [_limited(STORE, memory)]})
        claims = [claim(deployment, "data", settings.store_volume_size)]
        patches.append(_patch("StatefulSet", STORE, {"template": template, "volumeClaimTemplates": claims}))
    return patches


def _gateway_patch(deployment: KubernetesDeployment) -> Data:
    read = deployment.secrets_digest()
    if read and deployment.settings.acme_root:
        read = digests.digest(read, gateway_spec.files(deployment.settings)[gateway_spec.ROOT_FILE])
    template = _template(deployment, {}, **{objects.SECRETS: read})
    claims = [claim(deployment, GATEWAY, GATEWAY_VOLUME)]
    return _patch("StatefulSet", GATEWAY, {"template": template, "volumeClaimTemplates": claims})


def _notebook_patch(deployment: KubernetesDeployment, notebook: ServiceSpec, gpus: Gpus, data_claim: str) -> Data:
    settings, read = deployment.settings, deployment.secrets_digest()
    if read and deployment.private_environment:
        read = digests.digest(read, deployment.private_environment)
    resources = _memory(settings.jupyter_memory) if settings.jupyter_memory else {}
    container: Data = {
        "name": JUPYTER,
        "args": list(notebook.command),
        "envFrom": [
            {"configMapRef": {"name": JUPYTER}},
            {"secretRef": {"name": secrets.ENVIRONMENT, "optional": True}},
        ],
        "resources": {**resources, "limits": {**resources.get("limits", {}), **gpus.limits}},
    }
    pod: Data = {
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": objects.quantity(settings.jupyter_shm_size)}}],
        **gpus.placement,
    }
    if data_claim:
        container["volumeMounts"] = [{"name": "data-set", "mountPath": DATA, "readOnly": True}]
        pod["volumes"].append(
            {"name": "data-set", "persistentVolumeClaim": {"claimName": data_claim, "readOnly": True}}
        )
    return _patch(
        "StatefulSet",
        JUPYTER,
        {
            "template": _template(deployment, pod, **{objects.GPU: str(gpus), objects.SECRETS: read}),
            "volumeClaimTemplates": [claim(deployment, "work", settings.workspace_volume_size)],
        },
    )
