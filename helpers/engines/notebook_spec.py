"""JupyterLab as a container: its specification."""

from __future__ import annotations

from collections.abc import Mapping

from helpers.engines import jupyterlab
from helpers.gpu.accelerator import Accelerator
from helpers.project import remote_tracking, server_secrets
from helpers.project.deployment import Deployment
from helpers.project.workspace_folder import group
from helpers.services import JUPYTER, TITLES, DeviceRequest, Health, Mount, Port, ServiceSpec

DATA = "/mnt"
HOME = "/home/jovyan"
STARTUP = "/opt/trackbed/startup"
# A bare socket, and no packages of the environment: a third of the processor time of urllib. While JupyterLab starts,
# one check waits for its port: checks that fail would take 0.2 s of a processor from it.
ALIVE = (
    "import socket, sys, time; socket.setdefaulttimeout(4); "
    "tries = (time.sleep(turn and 0.1) or socket.socket() for turn in range(41)); "
    "connected = (one for one in tries if one.connect_ex(('127.0.0.1', 8888)) == 0); "
    "server = next(connected, None) or sys.exit('nothing listens on port 8888'); "
    "server.sendall(b'GET /api HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in server.recv(64))"
)


def requests(accelerator: Accelerator) -> tuple[DeviceRequest, ...]:
    """What the engine itself is asked to inject."""
    if accelerator.cdi:
        return (DeviceRequest("cdi", accelerator.cdi),)
    return (DeviceRequest("", accelerator.request),) if accelerator.request else ()


def container_spec(
    deployment: Deployment,
    accelerator: Accelerator,
    image: str,
    data: Mount | None = None,
    site: Mapping[str, str] | None = None,
) -> ServiceSpec:
    """The notebook as a container on the frontend network, with its GPUs and, read-only, its data set.

    ``site``: variables of the site's proxies and certificates.
    """
    settings, project = deployment.settings, deployment.project
    further = tuple(_further(words) for words in settings.jupyter_volumes)
    uid = deployment.owner
    return ServiceSpec(
        name=JUPYTER,
        title=TITLES[JUPYTER],
        container=f"{settings.project}-jupyter",
        hostname=JUPYTER,
        image=image,
        command=(
            "start-notebook.py",
            f"--ServerApp.root_dir={HOME}/work",
            "--ServerApp.ip=0.0.0.0",
            "--ServerApp.port=8888",
            "--ServerApp.open_browser=False",
            f"--ServerApp.cookie_secret_file=/run/secrets/{jupyterlab.COOKIE_FILE}",
            *(() if uid else ("--ServerApp.allow_root=True",)),
            *jupyterlab.options(settings),
        ),
        environment={
            **(site or {}),
            **accelerator.environment,
            **({"FOOD11_DATA_DIR": f"{DATA}/Food-11"} if data else {}),
            **(remote_tracking.environment(settings, "/run/secrets") if deployment.notebook_only else {}),
            **server_secrets.notebook_environment("/run/secrets", project.asks),
            **jupyterlab.environment(deployment, "http://mlflow:8000", STARTUP),
            "JUPYTER_TOKEN_FILE": "/run/secrets/jupyter-token",
            "HOME": HOME,
            **({} if uid else {"NB_USER": "root", "NB_UID": "0", "NB_GID": "0"}),  # words of docker-stacks: stay root
        },
        # behind the gateway it publishes nothing, and MLflow is on a network of its own
        ports=() if deployment.is_public else (Port("http", 8888, settings.jupyter_port, settings.bind_address),),
        mounts=(
            Mount("bind", str(deployment.workspace), f"{HOME}/work"),
            Mount("volume", f"{settings.project}_secrets-jupyter", "/run/secrets", read_only=True),
            *((data,) if data else ()),
            *further,
        ),
        networks=(f"{settings.project}_frontend", *((f"{settings.project}_tracking",) if deployment.is_public else ())),
        user=f"{uid}:{group(uid)}",
        group_add=accelerator.groups,
        devices=accelerator.devices,
        device_requests=requests(accelerator),
        ulimits=accelerator.ulimits,
        working_dir=f"{HOME}/work",
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),  # its root stays writable: people install packages in it
        health=Health(("python", "-I", "-S", "-c", ALIVE), interval=45, timeout=10, retries=2, start_period=60),
        memory=settings.jupyter_memory,
        pids=settings.pids_limit * 8,  # data loaders and BLAS start threads by the core
        shm_size=settings.jupyter_shm_size,  # data loaders of several processes share batches through it
        restart="always",
        stop_grace=10,
    )


def _further(words: str) -> Mount:
    source, target, mode = (*words.split(":"), "")[:3]
    return Mount("bind" if source.startswith("/") else "volume", source, target, mode == "ro")
