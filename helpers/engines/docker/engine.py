"""The docker engine: `docker compose` for the services, the SDK for the notebook and for looking.

The only module that runs the docker command line.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar

from helpers import (
    accelerators,
    egress,
    gateway,
    images,
    neighbours,
    notebook,
    safe_files,
    stack,
    surroundings,
    users,
    wheels,
)
from helpers.accelerators import Accelerator, Machine
from helpers.engines import (
    base,
    commands,
    database_roles,
    streaming,
)
from helpers.engines.base import (
    BUCKET,
    GATEWAY,
    JUPYTER,
    MLFLOW,
    POSTGRES,
    STORE,
    STORE_SYNC,
    Address,
    Availability,
    DataItem,
    ExecResult,
    HostFacts,
    Mount,
    Network,
    PartSpec,
    PartStatus,
    Plan,
    Port,
    SecretFile,
    Sink,
    StartReport,
    State,
    Volume,
)
from helpers.engines.docker import client_config, compose_model, half_made, id_mapping, ssh, ssh_host
from helpers.engines.docker.client import (
    DEFAULT_SOCKET,
    LABEL,
    Container,
    DockerApi,
    FileEntry,
    socket_error,
)
from helpers.engines.host import Here, Host
from helpers.errors import EngineUnavailable, Interrupted, PartFailed, TrackbedError
from helpers.probes import machine as probe
from helpers.readiness import failure, stop_at_failed
from helpers.settings import DEFAULT, Settings
from helpers.spelling import shown
from helpers.system import System, notebook_memory

MINIMUM_API = (1, 44)  # Docker 25: health checks with start_interval
MINIMUM_COMPOSE = (2, 21)  # `ps --format json` and start_interval as we use them
MINIO_WALK = "docker/compose.minio-walk.yaml"  # for one container that sees MinIO's volume
STREAM = "docker/compose.stream.yaml"  # for one container whose output is data
PASSWORD_FILE = "/run/secrets/postgres-password"
LIVE = "live.json"  # the pointer of the state file, kept with the data as well
PUBLIC_COMPOSE = (2, 25)  # `!override` in an overlay
NETWORKS = ("backend", "frontend", "tracking", "console")  # of all Compose files
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")


class DockerEngine:
    """Parts as containers on a Docker engine: this machine's, or another one's over ssh."""

    name: ClassVar[str] = "docker"

    def __init__(self, system: System) -> None:
        self.system = system
        self.settings = system.settings
        self.api = DockerApi()
        self.host: Host = Here()
        self._model: dict[str, Any] | None = None

    # what there is

    def availability(self) -> Availability:
        try:
            self.host = ssh_host.host(self.system.state, os.environ)
            self.settings = self.host.place(self.settings)
        except EngineUnavailable as error:
            return Availability(False, True, error.message, error.hint)
        if not self.host.remote:
            return self._usable()
        found = self._usable()
        return replace(found, reason=f"{found.reason}, on {self.host.name}")

    def _usable(self) -> Availability:
        if missing := client_config.missing_context(os.environ):
            return Availability(False, True, f"there is no Docker context {missing}, which is chosen in "
                                f"{'DOCKER_CONTEXT' if os.environ.get('DOCKER_CONTEXT') else 'config.json'}",
                                "`docker context ls` shows those that are there; `docker context use default`, or "
                                "unset DOCKER_CONTEXT")
        host, words = ssh.endpoint(os.environ)  # rootless engines and Docker Desktop have no other socket
        named = host.startswith("unix://")
        path = host.removeprefix("unix://") if named else DEFAULT_SOCKET
        problem = socket_error(path)
        if isinstance(problem, PermissionError):
            return Availability(False, True, f"permission denied at {path}",
                                "sudo usermod -aG docker $USER, then log in again (or use sudo)")
        if problem is not None:
            if named:
                return Availability(False, True, f"{words} does not answer: {problem.strerror or problem}",
                                    "start that engine, or unset DOCKER_HOST" if words.startswith("DOCKER_HOST") else
                                    "start that engine, or `docker context use default`")
            return Availability(False, False, f"no Docker engine answers at {path}", "see `invoke doctor`")
        try:
            version = self.api.version()
        except EngineUnavailable as error:
            return Availability(False, True, error.message, "sudo systemctl start docker")
        if any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or ()):
            return Availability(False, True, f"the engine at {path} is Podman, which this release does not support",
                                "install docker-ce (`invoke doctor` prints the lines)")
        if _numbers(version["ApiVersion"]) < MINIMUM_API:
            return Availability(False, True, f"Docker {version['Version']} is too old: 25 or newer is needed",
                                "install docker-ce from Docker's own repository (`invoke doctor` prints the lines)")
        if shutil.which("docker") is None:
            return Availability(False, True, "the docker command is missing", "install docker-ce-cli")
        compose = self._compose_version()
        if compose is None:
            return Availability(False, True, "the Compose plugin is missing",
                                "install docker-compose-plugin (Debian's package: docker-compose)")
        if _numbers(compose) < MINIMUM_COMPOSE:
            return Availability(False, True, f"Compose {compose} is too old: 2.21 or newer is needed",
                                "install a newer docker-compose-plugin")
        if self.settings.public and _numbers(compose) < PUBLIC_COMPOSE:
            return Availability(False, True, f"Compose {compose} is too old for PUBLIC=true: 2.25 or newer is needed",
                                "install a newer docker-compose-plugin")
        if not self.host.remote:
            self.settings = self._with_inner_owner(self.settings)
        return Availability(True, True, f"Docker {version['Version']}, Compose {compose}")

    @cached_property
    def ids(self) -> id_mapping.IdMapping:
        """Who a container's accounts are on this machine."""
        return id_mapping.read(self.api.info())

    def _with_inner_owner(self, settings: Settings) -> Settings:
        """With user namespaces the number of the workspace's owner is another one in the container."""
        if not self.ids.kind:
            return settings
        owner = settings.workspace.stat().st_uid if settings.workspace.is_dir() else -1
        return replace(settings, notebook_uid=(self.ids.inside(owner) if owner >= 0 else 0) or notebook.UID)

    def _compose_version(self) -> str | None:
        done = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=30, check=False)
        return done.stdout.strip().lstrip("v") if done.returncode == 0 else None

    @property
    def has_buildx(self) -> bool:
        """Whether images can be built; older systems have the client without this plugin."""
        return commands.run(["docker", "buildx", "version"], None, 30).code == 0

    def versions(self) -> Mapping[str, str]:
        found = {"docker": str(self.api.version()["Version"]), "compose": self._compose_version() or ""}
        for part in self.plan().parts:
            found[f"image {part.name}"] = part.image
        return found

    def host_facts(self) -> HostFacts:
        info = self.api.info()
        root = str(info.get("DockerRootDir", "/"))
        if self.host.remote:
            return self.host.facts(info, self.machine)
        facts = self.system.local_facts(Path(root))
        return HostFacts(hostname=str(info.get("Name", facts.hostname)), system=str(info.get("OperatingSystem", "")),
                         architecture=str(info.get("Architecture", "")), cpus=int(info.get("NCPU", 0)),
                         memory=int(info.get("MemTotal", 0)), memory_available=facts.memory_available,
                         disk_free=facts.disk_free, disk_path=root, machine=self.machine)

    # the plan

    @property
    def files(self) -> tuple[str, ...]:
        """The Compose files, relative to the clone: the base and one overlay per choice."""
        settings = self.settings
        overlays = [self.object_store]
        if settings.public:
            own_store = self.object_store != "external"
            chosen = {"public": True, "public-store": own_store, "public-console": self.console_is_public,
                      "public-s3": settings.public_s3 and own_store, "public-acme": settings.acme}
            overlays += [name for name, wanted in chosen.items() if wanted]
        return ("docker/compose.yaml", *(f"docker/compose.{name}.yaml" for name in overlays))

    @property
    def console_is_public(self) -> bool:
        """VersityGW's console runs in the browser and talks to the S3 API: without that it is of no use."""
        return self.object_store == "minio" or (self.object_store == "versitygw" and self.settings.public_s3)

    @property
    def object_store(self) -> str:
        return "versitygw" if self.settings.object_store == "auto" else self.settings.object_store

    def _image(self, key: str) -> str:
        """The image of postgres, minio or versitygw, by the name under which it is here, if it is."""
        reference = images.wanted(key, self.settings)
        try:
            return images.local(self.api, reference)
        except TrackbedError:
            return reference  # no engine answers: a plan is printed all the same

    def variables(self) -> dict[str, str]:
        """What the Compose files interpolate; no secret among it. Also written to .env for use by hand."""
        settings, live = self.settings, self.system.state.live
        own_store = self.object_store != "external"
        _, mtu = self.host.uplink()
        return {
            "TRACKBED_BIND_ADDRESS": settings.bind_address,
            "TRACKBED_MLFLOW_PORT": str(settings.mlflow_port),
            "TRACKBED_S3_PORT": str(settings.s3_port),
            "TRACKBED_S3_CONSOLE_PORT": str(settings.s3_console_port),
            "TRACKBED_S3_BUCKET": settings.s3_bucket,
            "TRACKBED_S3_REGION": settings.s3_region,
            "TRACKBED_S3_ENDPOINT": "http://store:9000" if own_store else settings.s3_endpoint,
            "TRACKBED_POSTGRES_IMAGE": self._image("postgres"),
            "TRACKBED_MINIO_IMAGE": self._image("minio"),
            "TRACKBED_VERSITYGW_IMAGE": self._image("versitygw"),
            "TRACKBED_MLFLOW_IMAGE": settings.mlflow_image,
            "TRACKBED_MLFLOW_WORKERS": str(settings.mlflow_workers),
            "TRACKBED_POOL_SIZE": str(stack.pool(settings.mlflow_workers)[0]),
            "TRACKBED_POOL_OVERFLOW": str(stack.pool(settings.mlflow_workers)[1]),
            "TRACKBED_MAX_CONNECTIONS": str(stack.max_connections(settings.mlflow_workers)),
            "TRACKBED_ALLOWED_HOSTS": stack.allowed_hosts(settings),
            "TRACKBED_CORS_ORIGINS": stack.cors_origins(settings),
            "TRACKBED_STORE_NETWORK": stack.store_network(settings, self.system.state.instance),
            "TRACKBED_DATABASE": live["database"],
            "TRACKBED_ARTIFACT_PREFIX": live["prefix"],
            "TRACKBED_SECRETS": self.system.credentials_digest(),
            # Compose hands the proxies of Docker's config.json to every container: they must not stand between ours
            "TRACKBED_NO_PROXY": egress.exceptions(client_config.proxies(os.environ).get(egress.EXCEPT, "")),
            "TRACKBED_MTU": str(min(mtu or 1500, 1500)),
            "TRACKBED_MEMORY_LIMIT": settings.memory_limit,
            "TRACKBED_PIDS_LIMIT": str(settings.pids_limit),
            **(self._gateway_variables() if settings.public else {}),
        }

    def _gateway_variables(self) -> dict[str, str]:
        settings, name = self.settings, stack.public_name(self.settings)
        own_store = self.object_store != "external"
        certificates = "internal"
        if settings.acme:
            certificates = "acme_address" if re.fullmatch(r"[0-9.]+", name) else "acme"
        return {
            "TRACKBED_GATEWAY_IMAGE": settings.gateway_image,
            "TRACKBED_GATEWAY_ADDRESS": settings.gateway_address,
            "TRACKBED_GATEWAY_NAME": name,
            "TRACKBED_GATEWAY_CERTIFICATES": certificates,
            "TRACKBED_ACME_CA": settings.acme_ca,
            "TRACKBED_GATEWAY_ACME_ROOT": "trusted_roots /run/secrets/acme-root.pem" if settings.acme_root else "",
            "TRACKBED_GATEWAY_CONSOLE": "import public 9001 console" if self.console_is_public else "",
            "TRACKBED_GATEWAY_HSTS": gateway.hsts(settings),
            "TRACKBED_GATEWAY_S3": "import public 9000 s3" if settings.public_s3 and own_store else "",
            "TRACKBED_JUPYTER_PORT": str(settings.jupyter_port),
            "TRACKBED_HTTP_PORT": str(settings.http_port),
            "TRACKBED_HTTPS_PORT": str(settings.https_port),
        }

    def compose_environment(self) -> dict[str, str]:
        """COMPOSE_* and TRACKBED_* values: the process environment of our calls, and the managed part of .env."""
        return {"COMPOSE_FILE": ":".join(self.files), "COMPOSE_PROJECT_NAME": self.settings.project,
                **self.variables()}

    def model(self) -> dict[str, Any]:
        """The Compose files as Compose itself resolves them."""
        if self._model is None:
            done = self._compose("config", "--format", "json", timeout=60)
            if done.returncode:
                raise TrackbedError(f"docker compose cannot read its files: {_last_line(done.stderr)}",
                                    "git status shows whether docker/compose*.yaml were changed")
            self._model = json.loads(done.stdout)
        return self._model

    def plan(self) -> Plan:
        if self.settings.tracking_uri:  # only the notebook: no services, so no Compose
            return Plan(self.name, self.settings.project, (self.notebook_spec,), self.volumes(),
                        (self._frontend(),), self.secret_files())
        model = self.model()
        project = self.settings.project
        order = [n for n in (POSTGRES, STORE, STORE_SYNC, BUCKET, MLFLOW, GATEWAY) if n in model["services"]]
        parts = [compose_model.service_spec(name, model, project) for name in order]
        parts.append(self.notebook_spec)
        networks = tuple(Network(n["name"], bool(n.get("internal")),
                                 int(n.get("driver_opts", {}).get("com.docker.network.driver.mtu", 0)))
                         for n in model["networks"].values())
        return Plan(self.name, project, tuple(parts), self.volumes(), networks, self.secret_files())

    def _frontend(self) -> Network:
        return Network(f"{self.settings.project}_frontend", mtu=min(self.host.uplink()[1] or 1500, 1500))

    @property
    def part_names(self) -> tuple[str, ...]:
        if self.settings.tracking_uri:
            return (JUPYTER,)
        own_store = (STORE,) if self.object_store != "external" else ()
        synced = (STORE_SYNC,) if self.object_store == "versitygw" else ()
        return (POSTGRES, *own_store, *synced, BUCKET, MLFLOW, *((GATEWAY,) if self.settings.public else ()), JUPYTER)

    def volumes(self) -> tuple[Volume, ...]:
        return compose_model.volumes(self.settings, self.object_store)

    def access_token(self) -> str:
        return self.system.access_token()

    def secret_files(self) -> tuple[SecretFile, ...]:
        return compose_model.secret_files(self.settings, self.object_store, self.system.asks)

    def _certificate_files(self) -> list[FileEntry]:
        """The site's certificates for the notebook. Not among the secrets: other ones do not start it anew."""
        if not self._certificates:
            return []
        uid = notebook.workspace_owner(self.settings)
        return [FileEntry(notebook.CERTIFICATES, self._certificates.encode(), uid, notebook.GID, 0o444)]

    # the notebook's devices and data

    @cached_property
    def machine(self) -> Machine:
        """The machine that runs the containers, with the CDI devices that its engine knows."""
        if not self.host.remote:
            return accelerators.machine(probe.look(), self._cdi(any(Path("/dev").glob("nvidia*"))))
        if self.settings.gpu == accelerators.NONE:
            return Machine()
        found = self.host.look() or self._look_in_container()
        return accelerators.machine(found, self._cdi(any("nvidia" in node["path"] for node in found["nodes"])))

    def _look_in_container(self) -> dict[str, Any]:
        """For a node without a Python of its own: our image's, over the node's trees."""
        image = self.settings.mlflow_image
        if self.api.image(image) is None:
            raise TrackbedError(f"what GPUs {self.host.name} has cannot be seen: it has no python3, and the image "
                                f"{image} is not there yet",
                                "install python3 there, or first `invoke build mlflow`, or --gpu=none")
        trees = [word for tree in ("/dev", "/sys", "/proc") for word in ("-v", f"{tree}:/machine{tree}:ro")]
        done = commands.run(["docker", "run", "--rm", "-i", "--pull", "never", "--user", "0", "--network", "none",
                             *trees, "--entrypoint", "python", image, "-", "/machine"],
                            Path(probe.__file__).read_bytes(), 60)
        if done.code:
            raise TrackbedError(f"what GPUs {self.host.name} has cannot be seen: {_last_line(done.stderr)}",
                                "--gpu=none goes on without")
        return dict(json.loads(done.stdout))

    def _cdi(self, nvidia: bool) -> tuple[str, ...]:
        word = self.settings.gpu
        likely = nvidia or any(self.host.is_folder(folder) for folder in CDI_FOLDERS)
        if accelerators.kind_of(word) not in ((accelerators.NVIDIA, accelerators.AUTO) if likely
                                              else (accelerators.NVIDIA,)):
            return ()  # not worth asking the engine
        info = self.api.info()
        listed = info.get("DiscoveredDevices")  # from Docker 28.2
        if listed is not None:
            return tuple(str(d.get("ID", "")) for d in listed if d.get("Source") == "cdi")
        folders = tuple(map(str, info.get("CDISpecDirs") or ()))
        if self.host.remote:
            return compose_model.cdi_names_in(self.host.specifications(folders))
        return compose_model.cdi_names(folders)

    @cached_property
    def accelerator(self) -> Accelerator:
        return accelerators.choose(self.settings.gpu, self.settings.devices, self.machine,
                                   torch=wheels.word(self.settings.torch, self.settings.torch_index))

    @cached_property
    def image_settings(self) -> Settings:
        """The settings with the notebook's image for this machine's GPUs."""
        return replace(self.settings, jupyter_image=notebook.image(self.settings, self.accelerator))

    @cached_property
    def notebook_spec(self) -> PartSpec:
        told = self.egress.reachable_from_containers().environment(egress.inside(self.settings))
        if self._certificates:
            told |= egress.trust(f"/run/secrets/{notebook.CERTIFICATES}")
        spec = notebook.container_spec(self.settings, self.accelerator, self._data_mount(), self.system.asks,
                                       self.system.state.instance, told, self.system.state.person)
        return spec if spec.memory else replace(spec, memory=notebook_memory())

    @cached_property
    def egress(self) -> egress.Egress:
        """The proxies and certificates of this machine's site; those of a node over ssh are not known here."""
        if self.host.remote:
            return egress.Egress()
        return egress.find(self.settings, surroundings.kept(self.system.state), client_config.proxies(os.environ))

    @cached_property
    def _certificates(self) -> str:
        return egress.certificates(self.egress.bundles)

    def _plan_anew(self) -> None:
        """What the plan was read from has changed: images have come, the workspace has its owner."""
        self._model = None
        self.__dict__.pop("notebook_spec", None)

    @property
    def workspace_inside(self) -> str:
        return f"{notebook.HOME}/work"

    def workspace_problem(self) -> tuple[str, str]:
        place, uid = self.settings.workspace, notebook.workspace_owner(self.settings)
        if self.host.remote or not place.is_dir():
            return "", ""
        outside = self.ids.outside(uid)
        if outside is None:
            return "", ""
        problem, fix = notebook.workspace_problem(place, outside, self.ids.outside(notebook.GID) or 0,
                                                 () if self.ids.kind else tuple(map(int, self.accelerator.groups)))
        return problem, self.workspace_fix() if self.ids.kind == "rootless" else fix

    def workspace_fix(self) -> str:
        place = self.settings.workspace
        uid = notebook.workspace_owner(self.settings)
        if self.host.remote:
            return f"there: chown -hR {uid}:{notebook.GID} {shlex.quote(str(place))}   (or name another in WORKSPACE)"
        if self.ids.kind == "rootless":  # its containers' accounts have numbers that only its own root can give
            return (f"docker run --rm --user 0 --entrypoint chown -v {shlex.quote(f'{place}:/w')} "
                    f"{self.image_settings.jupyter_image} -hR {uid}:{notebook.GID} /w   (or name another folder in "
                    "WORKSPACE)")
        outside = [self.ids.outside(uid), self.ids.outside(notebook.GID)]
        if None in outside or safe_files.owner(place) == outside[0]:
            return notebook.other_folder(place)
        return notebook.give_line(place, *map(int, filter(None, outside)))

    def take_workspace(self, sink: Sink) -> None:
        """Nothing: the notebook runs as the workspace's owner."""

    def _data_mount(self) -> Mount | None:
        """The data set, read-only; None where the default's volume is not there. Raises for a named one that is not."""
        name = self.settings.data_volume
        named = self.settings.origin("DATA_VOLUME") != DEFAULT
        if name.startswith("/"):
            if not self.host.is_folder(name):
                where = f" on {self.host.name}" if self.host.remote else ""
                raise TrackbedError(f"DATA_VOLUME={name}: there is no such folder{where}", "make and fill it, or unset "
                                    "DATA_VOLUME")
            return Mount("bind", name, notebook.DATA, read_only=True)
        if name and self.api.volumes([name]):
            return Mount("volume", name, notebook.DATA, read_only=True, options="nocopy")
        if named and name:
            raise TrackbedError(f"DATA_VOLUME={name}: there is no volume of that name",
                                f"`docker volume create {name}` and fill it, or unset DATA_VOLUME")
        return None

    def remarks(self) -> tuple[str, ...]:
        chosen = self.accelerator
        lines = [f"GPU: {chosen} ({chosen.reason})"] if chosen.kind != accelerators.NONE else []
        if chosen.warning:
            lines.append(f"warning: the notebook gets no GPU: {chosen.warning}")
        for mount in self.notebook_spec.mounts:
            if mount.target == notebook.DATA and self._is_empty(mount):
                lines.append(f"warning: the data set {mount.source} is empty")
        return tuple(lines)

    def _is_empty(self, mount: Mount) -> bool:
        if mount.kind == "bind":
            return self.host.is_empty(mount.source)
        return self.api.volume_is_empty(mount.source, self.image_settings.jupyter_image)

    # neighbours

    @cached_property
    def lets_neighbours_in(self) -> str:
        """The engine's version where that is one that lets neighbours in, else ""."""
        version = str(self.api.version()["Version"])
        return version if neighbours.let_in(version) else ""

    def guard_rules(self) -> tuple[neighbours.Rule, ...]:
        """The drop rules that belong to this system, for the networks that are there."""
        if self.host.remote or self.settings.tracking_uri:
            return ()  # the tables of another machine are not ours to change
        project = self.settings.project
        bridges = [neighbours.Bridge(*found) for found in self.api.bridges(project)]
        metadata = neighbours.metadata_rules(project, bridges) if self.settings.public else ()
        if not self.lets_neighbours_in:
            return metadata
        return (*neighbours.loopback_rules(project), *neighbours.address_rules(project, bridges), *metadata)

    def guard(self) -> tuple[str, ...]:
        """Set the drop rules where this process may. Gives what to tell: what was set, or the lines to type."""
        rules = self.guard_rules()
        if not rules:
            return ()
        why = f"Docker {self.lets_neighbours_in} lets machines on the same network reach ports published on 127.0.0.1" \
            if self.lets_neighbours_in else "containers can ask the cloud's metadata service for its credentials"
        problem = "only root can set them"
        if neighbours.may_change():
            missing = set(rules) - set(neighbours.existing(self.settings.project))
            if not (problem := neighbours.put(self.settings.project, rules)):
                return (f"{why}: drop rules were set (a reboot removes them, `invoke up` sets them again)",) \
                    if missing else ()
        return (f"warning: {why}, and the drop rules against it were not set ({problem}). Type:",
                *(f"  {line}" for line in neighbours.lines(rules)))

    # looking

    def parts(self, detail: bool = False) -> tuple[PartStatus, ...]:
        found = {c.labels.get("com.docker.compose.service") or c.labels.get(f"{LABEL}.part", ""): c
                 for c in self._containers()}
        names = self.part_names
        if GATEWAY in found and GATEWAY not in names:
            names = (*names, GATEWAY)  # of a time when the system was public; a start removes it
        return tuple(self._status(name, found.get(name), detail) for name in names)

    def _containers(self) -> list[Container]:
        """Ours. Another Compose project may have the same name: its containers have none of our volumes."""
        project = self.settings.project
        services = self.api.containers([f"com.docker.compose.project={project}", "com.docker.compose.oneoff=False"])
        notebooks = self.api.containers([f"{LABEL}.project={project}"])
        return [c for c in services if self._has_own_volumes(c)] + notebooks

    def _has_own_volumes(self, container: Container) -> bool:
        return not self._own_volumes.isdisjoint(container.volumes)

    @cached_property
    def _own_volumes(self) -> frozenset[str]:
        """The volumes of any Trackbed system with this project's name."""
        found = self.api.volumes(self._volume_names())
        return frozenset(name for name, labels in found.items() if labels.get(f"{LABEL}.instance"))

    def _volume_names(self) -> tuple[str, ...]:
        """Every volume that a system of this name has, or had with other settings."""
        # also what is not part of the plan now: a notebook for a server elsewhere has one volume
        names = [v.name for v in compose_model.volumes(replace(self.settings, tracking_uri=""), self.object_store)]
        # stores used earlier are data of this project too
        names += [f"{self.settings.project}_{s}" for s in ("minio", "versitygw", "gateway", "secrets-gateway",
                                                          "secrets-store")]
        return tuple(dict.fromkeys(names))

    def _foreign(self) -> list[Container]:
        """Containers of somebody else's Compose project that has this name."""
        listed = self.api.containers([f"com.docker.compose.project={self.settings.project}"])
        return [c for c in listed if not self._has_own_volumes(c)]

    def _status(self, name: str, container: Container | None, detail: bool) -> PartStatus:
        if container is None:
            return PartStatus(name, State.MISSING)
        state = container.state
        if name == BUCKET and state is State.EXITED and container.exit_code == 0:
            state = State.DONE
        reason = ""
        if state in (State.EXITED, State.UNHEALTHY, State.RESTARTING):
            reason = self.api.reason(container.id)
        memory = self.api.memory(container.id) if detail and state in (State.READY, State.RUNNING) else 0
        restarts = self.api.restarts(container.id) if state in (State.STARTING, State.RESTARTING) else 0
        labels = {9000: "s3", 9001: "console", 8000: "http", 8888: "jupyter" if name == GATEWAY else "http"}
        ports = tuple(Port(labels.get(p.target, ""), p.target, p.published, p.address) for p in container.ports)
        return PartStatus(name, state, reason, container.exit_code, container.image, ports, memory,
                          container.since, restarts, container.id, container.labels.get(f"{LABEL}.gpu", ""))

    def fingerprint(self) -> str:
        """A hash of all that the containers are made from: a different one means `up` has work to do."""
        spec = self.notebook_spec
        if self.settings.tracking_uri:
            return stack.digest(spec, self._secrets_digest())
        return stack.digest(self.compose_environment(), *(stack.ROOT / f for f in self.files), spec,
                            self.system.credentials_digest())

    def _secrets_digest(self) -> str:
        """Changes with the secrets of the notebook, and with the certificate that goes beside them."""
        files = [s.template for s in self.secret_files()] if self.settings.tracking_uri else []
        return stack.digest(self.system.credentials_digest(), *files) if files else self.system.credentials_digest()

    def unchanged(self) -> bool:
        applied = self.system.state.applied
        if applied.get("hash") != self.fingerprint():
            return False
        containers = {c.labels.get("com.docker.compose.service") or c.labels.get(f"{LABEL}.part", ""): c
                      for c in self._containers()}
        statuses = [self._status(name, containers.get(name), False) for name in self.part_names]
        if not all(s.state in (State.READY, State.DONE) for s in statuses):
            return False
        if {s.name: s.identity for s in statuses} != applied.get("identities"):
            return False
        # a rebuilt or re-pulled image under the same name is a change
        current = {c.image: c.image_id for c in containers.values()}
        return all((self.api.image(name) or {}).get("id") == image_id for name, image_id in current.items()) \
            and images.stale(self.api, self.image_settings, self.object_store) == ()

    def logs(self, part: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        # not the command line: it would outlive this process when that is killed, and hold a connection open
        yield from self.api.logs(self._container(part).id, tail, follow)

    def _container(self, part: str) -> Container:
        for container in self._containers():
            if part in (container.labels.get("com.docker.compose.service"), container.labels.get(f"{LABEL}.part")):
                return container
        raise TrackbedError(f"{part} has no container", "`invoke up` makes it")

    @contextmanager
    def open(self, part: str, port: str) -> Iterator[Address]:
        for status in self.parts():
            if status.name == part:
                for candidate in status.ports:
                    if candidate.name == port:
                        yield self.host.reach(candidate)
                        return
        if self.settings.public and part in (MLFLOW, JUPYTER):
            # published by the gateway alone, behind its logins: this machine goes to the container itself
            where = self.api.address(self._container(part).id)
            yield Address(where, {MLFLOW: 8000, JUPYTER: 8888}[part])
            return
        # not up yet: where it will be
        spec = self.notebook_spec if part == JUPYTER else self.plan().part(part)
        for candidate in spec.ports:
            if candidate.name == port:
                yield self.host.reach(candidate)
                return
        raise TrackbedError(f"{part} publishes no port {port}")

    # running commands

    def exec(self, part: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None,
             timeout: float = 120) -> ExecResult:
        return commands.run(["docker", "exec", "-i", self._container(part).id, *argv], stdin, timeout,
                            limited=part == JUPYTER)

    def one_shot(self, part: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None,
                 timeout: float = 600) -> ExecResult:
        if part == JUPYTER:
            spec = self.notebook_spec
            command = ["docker", "run", "--rm", "-i", "--user", spec.user, "--entrypoint", argv[0]]
            for mount in spec.mounts:
                command += ["-v", f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}"]
            for name, value in spec.environment.items():
                command += ["-e", f"{name}={value}"]
            return commands.run([*command, spec.image, *argv[1:]], stdin, timeout, limited=True)
        return commands.run(["docker", "compose", "run", "--rm", "--no-deps", "-T", "--quiet-pull", "--entrypoint",
                             argv[0], part, *argv[1:]], stdin, timeout, env=self._environment(), cwd=stack.ROOT)

    def pipe(self, part: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        environment = self._environment()
        if fresh:
            environment["COMPOSE_FILE"] += f":{STREAM}"
            command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "--quiet-pull", "--entrypoint", argv[0],
                       part, *argv[1:]]
        else:
            command = ["docker", "exec", "-i", self._container(part).id, *argv]
        return streaming.piped(argv[0], command, environment, stack.ROOT)

    def unlisted(self) -> tuple[str, ...]:
        if self.object_store != "minio":
            return ()  # VersityGW cannot hold such; nobody but its owner sees an external store's disk
        environment = self._environment()
        environment["COMPOSE_FILE"] += f":{MINIO_WALK}"
        folder = f"/store/{self.settings.s3_bucket}/{self.system.state.live['prefix']}"
        done = commands.run(["docker", "compose", "run", "--rm", "--no-deps", "-T", "--quiet-pull", "--entrypoint",
                             "trackbed-mlflow", MLFLOW, "unlisted", folder], None, 3600, env=environment,
                            cwd=stack.ROOT)
        if done.code:
            lines = tuple(done.stderr.strip().splitlines()[-3:])
            raise TrackbedError("MinIO's volume cannot be looked into", "`invoke up`, then again", lines)
        return tuple(str(json.loads(line)) for line in done.stdout.splitlines())

    def halt(self, part: str, sink: Sink) -> None:
        for status in self.parts():
            if status.name == part and status.state not in (State.MISSING, State.EXITED):
                self.api.stop(status.identity, 40)
                sink.part(part, "stopped")

    def resume(self, part: str, sink: Sink) -> None:
        for status in self.parts():
            if status.name == part and status.state is State.EXITED:
                self.api.start(status.identity)
                sink.part(part, "starting")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.compose_environment(), "COMPOSE_ENV_FILES": os.devnull,
                "COMPOSE_IGNORE_ORPHANS": "true"}

    def _compose(self, *argv: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", "compose", "--env-file", os.devnull, *argv], cwd=stack.ROOT,
                              env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False)

    # starting

    def prepare(self, sink: Sink) -> tuple[str, ...]:
        made = images.ensure(self.api, self.image_settings, self.object_store, sink)
        self._plan_anew()
        return made

    def check_foreign(self) -> None:
        """Refuse to touch containers or volumes of this project's names that are not this system's."""
        project = self.settings.project
        if others := self._foreign():
            names = ", ".join(c.name for c in others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            where = shown(others[0].labels.get("com.docker.compose.project.working_dir", ""), 200)
            raise TrackbedError(f"another Compose project is called {project} too{f', in {where}' if where else ''}: "
                                f"its containers {names} are not Trackbed's, and nothing was done to them",
                                "choose another name with --project=NAME (and other ports)")
        wanted = {f"{project}-{name}-1" for name in self.part_names} | {f"{project}-jupyter"}
        for container in self.api.containers():
            ours = container.labels.get("com.docker.compose.project") == project \
                or container.labels.get(f"{LABEL}.project") == project
            if container.name in wanted and not ours:
                raise TrackbedError(f"a container named {container.name} is there and is not Trackbed's "
                                    f"(image {container.image})",
                                    f"`docker rm -f {container.name}` if it may go, or choose another name with "
                                    "--project=NAME")
        instance = self.system.state.instance
        for name, labels in self.api.volumes(v.name for v in self.volumes()).items():
            owner = labels.get(f"{LABEL}.instance")
            if owner == instance:
                continue
            if owner is None:
                raise TrackbedError(f"a volume named {name} is there and is not Trackbed's",
                                    f"`docker volume rm {name}` if it may go, or choose another name with "
                                    "--project=NAME")
            raise TrackbedError(
                f"volume {name} belongs to another Trackbed system (instance {owner[:8]}, this one is {instance[:8]})",
                "if it is yours and its state folder was lost: `invoke up --adopt`; "
                "otherwise choose another name with --project=NAME")

    def adopt(self) -> str | None:
        """The instance id that the existing data volumes carry, if they carry one and the same."""
        owners = {labels.get(f"{LABEL}.instance") for labels in
                  self.api.volumes(v.name for v in self.volumes()).values()}
        owners.discard(None)
        return owners.pop() if len(owners) == 1 else None

    def recall(self) -> dict[str, str]:
        """The live database, prefix and store, as the volumes remember them for a lost state folder; {} if not."""
        volume, image = f"{self.settings.project}_secrets-mlflow", self.settings.mlflow_image
        if not self.api.volumes([volume]) or self.api.image(image) is None:
            return {"store": "minio"} if self.api.volumes([f"{self.settings.project}_minio"]) else {}
        try:
            found = json.loads(self.api.read_file(image, volume, LIVE))
            live = {key: str(found[key]) for key in ("database", "prefix")}
            return live | {"store": str(found.get("store", "minio"))}  # MinIO was the default of earlier releases
        except (ValueError, KeyError, TypeError):
            return {}

    def make_volumes(self) -> bool:
        """Create missing volumes, set owners, write the secret files. True when the database's volume was there."""
        existing = self.api.volumes(v.name for v in self.volumes())
        labels = {f"{LABEL}.instance": self.system.state.instance, f"{LABEL}.project": self.settings.project}
        roots: dict[str, tuple[int, int, int]] = {}
        files: dict[str, list[FileEntry]] = {}
        for volume in self.volumes():
            if volume.name not in existing:
                self.api.create_volume(volume.name, labels)
            elif not volume.secret:
                continue
            roots[volume.name] = (volume.uid, volume.gid, volume.mode)
        credentials = self.system.credentials()
        for secret in self.secret_files():
            content = credentials.render(secret.template, secret.names).encode()
            files.setdefault(secret.volume, []).append(
                FileEntry(secret.path, content, secret.uid, secret.gid, secret.mode))
        files.setdefault(f"{self.settings.project}_secrets-jupyter", []).extend(self._certificate_files())
        if self.settings.public:
            name, own = f"{self.settings.project}_secrets-gateway", self._gateway_files()
            files[name] = [e for e in files[name] if e.path not in {one.path for one in own}] + own
        alone = bool(self.settings.tracking_uri)
        if not alone:
            live = {key: self.system.state.live[key] for key in ("database", "prefix")} | {"store": self.object_store}
            files[f"{self.settings.project}_secrets-mlflow"].append(
                FileEntry(LIVE, json.dumps(live).encode(), *compose_model.UIDS[MLFLOW], 0o400))
        self.__dict__.pop("_own_volumes", None)
        self.api.fill(self.image_settings.jupyter_image if alone else self.settings.mlflow_image, roots, files)
        return f"{self.settings.project}_postgres" in existing

    def start(self, sink: Sink) -> StartReport:
        statuses = self.parts()
        before = {s.name: s.identity for s in statuses if s.up}
        self.check_foreign()
        for status in statuses:
            if status.state in (State.RESTARTING, State.UNHEALTHY):
                sink.part(status.name, "stopping", f"it was {status.state}")
                self.api.stop(status.identity, 30)  # not to sit out the engine's pause before its next try
        self._make_workspace()  # its owner is who reads the notebook's secrets
        sink.step("volumes and secrets")
        ready = self._check_database(statuses, sink)
        kept = self.make_volumes()
        if self.settings.tracking_uri:
            sink.step("starting the notebook")
            self.api.create_network(self._frontend(), self.settings.project)
            self._start_notebook(sink)
        else:
            sink.step("starting the services")
            self.guard()  # before the first port is open; again when the networks are there
            self._free_ports()
            if kept and not ready:
                # nobody may be connected while the server's role is replaced
                self.halt(MLFLOW, sink)
                self._compose_up(sink, alone=True)
            self._compose_up(sink)
        after = {s.name: s.identity for s in self.parts()}
        return StartReport(tuple(name for name, identity in after.items() if before.get(name) != identity))

    def _make_workspace(self) -> None:
        """Make the notebook's folder, then plan with the owner that it has."""
        place = self.settings.workspace
        if not self.ids.kind or self.host.remote:
            self.settings = self.host.make_workspace(self.settings)
        elif not place.is_dir():
            uid, gid = self.ids.outside(notebook.UID), self.ids.outside(notebook.GID)
            notebook.make_workspace(place, uid or 0, gid or 0, callers=False)
            if self.ids.kind == "rootless":
                commands.run(["docker", "run", "--rm", "--pull", "never", "--network", "none", "--user", "0",
                              "--entrypoint", "chown", "-v", f"{place}:/w", self.image_settings.jupyter_image,
                              f"{notebook.UID}:{notebook.GID}", "/w"], None, 120)
        if self.ids.kind and not self.host.remote:
            self.settings = self._with_inner_owner(self.settings)
        self._plan_anew()

    def _free_ports(self) -> None:
        """Take away what holds the ports of the other way to publish them: before PUBLIC was changed."""
        project = self.settings.project
        holder = [f"{LABEL}.project={project}", f"{LABEL}.part={JUPYTER}"] if self.settings.public else \
            [f"com.docker.compose.project={project}", f"com.docker.compose.service={GATEWAY}"]
        for container in self.api.containers(holder):
            if container.ports or not self.settings.public:
                self.api.stop(container.id, 10)
                self.api.remove(container.id)

    def put_users(self) -> None:
        """Hand the users to the gateway, which looks at their file all the time. Nothing where there is no gateway."""
        name = f"{self.settings.project}_secrets-gateway"
        if self.settings.public and self.api.volumes([name]):
            self.api.fill(self.settings.mlflow_image, {name: (*compose_model.UIDS[GATEWAY], 0o700)},
                          {name: self._gateway_files()})

    def _gateway_files(self) -> list[FileEntry]:
        owner = compose_model.UIDS[GATEWAY]
        files = [FileEntry("users", users.render(users.load(self.settings)).encode(), *owner, 0o400)]
        if self.settings.acme_root:
            try:
                text = Path(self.settings.acme_root).read_bytes()
            except OSError as error:
                raise TrackbedError(f"ACME_ROOT {self.settings.acme_root}: {error.strerror}") from None
            files.append(FileEntry("acme-root.pem", text, *owner, 0o400))
        return files

    def _check_database(self, statuses: Iterable[PartStatus], sink: Sink) -> bool:
        """Whether the cluster has been good once; False also where there is none.

        Refuses one of another PostgreSQL major: the image would make an empty one beside it. A first start that was
        killed before it held anything is taken away, so that the image makes it anew.
        """
        volume = f"{self.settings.project}_postgres"
        if self.settings.tracking_uri or not self.api.volumes([volume]):
            return False
        found = self._look_into(volume)
        if found.major and found.versions and found.major not in found.versions:
            raise TrackbedError(
                f"the database was made by PostgreSQL {found.versions[0]}, POSTGRES_IMAGE="
                f"{self.settings.postgres_image} is PostgreSQL {found.major}; it is not migrated silently",
                f"set POSTGRES_IMAGE to a {found.versions[0]}.x image and `invoke backup`; then `invoke down "
                "--delete-data`, POSTGRES_IMAGE as it is now, and `invoke restore FILE`")
        now = next((s for s in statuses if s.name == POSTGRES), PartStatus(POSTGRES, State.MISSING))
        if found.unfinished and not now.up:
            if now.state is not State.MISSING:
                self.api.stop(now.identity, 30)
            if self._look_into(volume).unfinished:
                sink.step("the first start of the database was interrupted before anything was in it: making it anew")
                self._in_volume(volume, half_made.REMOVE)
        return found.ready

    def _look_into(self, volume: str) -> half_made.Folder:
        return half_made.read(self._in_volume(f"{volume}:/v:ro", half_made.LOOK))

    def _in_volume(self, volume: str, script: str) -> str:
        """What a script prints in a container of the database's image and user that sees nothing but the volume."""
        mount = volume if ":" in volume else f"{volume}:/v"
        done = commands.run(["docker", "run", "--rm", "--network", "none", "--user", "999:999", "--cap-drop", "ALL",
                             "--read-only", "--security-opt", "no-new-privileges:true", "--entrypoint", "sh", "-v",
                             mount, self.settings.postgres_image, "-c", script], None, 120)
        if done.code:
            raise TrackbedError(f"the database's volume cannot be looked into: {_last_line(done.stderr)}",
                                f"`docker volume inspect {volume.partition(':')[0]}` shows where it is; "
                                "`invoke up` goes on")
        return done.stdout

    def _compose_up(self, sink: Sink, alone: bool = False) -> None:
        """`docker compose up -d`, watched: progress per part, the notebook as soon as its network is there.

        ``alone``: only the database, whose roles are to be settled before anything else is started.
        """
        deadline = time.monotonic() + self.settings.ready_timeout
        first = self.parts()
        stale = {s.name for s in first if s.failed}  # of an earlier attempt, until they were seen alive
        before = {s.name: s.identity for s in first if s.up}
        only = ["--no-deps", "--wait", POSTGRES] if alone else []
        with subprocess.Popen(["docker", "compose", "--env-file", os.devnull, "up", "-d", "--no-build",
                               "--pull", "never", *only],
                              cwd=stack.ROOT, env=self._environment(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
                              start_new_session=True) as process:
            output: list[str] = []
            reader = threading.Thread(target=_drain, args=(process, output, sink), daemon=True)
            reader.start()
            notebook_started = alone
            settled = False
            seen: dict[str, int] = {}
            try:
                while True:
                    code = process.poll()
                    statuses = {s.name: s for s in self.parts()}
                    for status in statuses.values():
                        if status.state is not State.MISSING:
                            sink.part(status.name, str(status.state), status.reason[:80])
                    # alone: Compose waits for a container that it may just be replacing
                    if not settled and statuses[POSTGRES].state is State.READY and (code == 0 or not alone):
                        settled = self._settle_database(statuses[POSTGRES].identity, sink)
                    if not notebook_started and (code == 0 or
                                                 all(map(self.api.network_exists, self.notebook_spec.networks))):
                        self.guard()
                        self._start_notebook(sink)
                        notebook_started = True
                    if code is not None:
                        break
                    stale -= {name for name in stale if not statuses[name].failed}
                    # Compose stops what it replaces: an end that says nothing about the one that comes
                    replaced = {name for name, s in statuses.items()
                                if s.state is State.EXITED and s.identity == before.get(name)}
                    watched = ({POSTGRES} if alone else set(self.part_names)) - stale - replaced - {BUCKET}
                    stop_at_failed(self, watched, seen, statuses.values())
                    if time.monotonic() > deadline:
                        raise self._timed_out(statuses)
                    time.sleep(0.25)
            except KeyboardInterrupt:
                _end(process)
                raise Interrupted("interrupted while starting; what was started stays",
                                  "`invoke up` goes on from there, `invoke down` stops it") from None
            except BaseException:
                _end(process)
                raise
            reader.join(timeout=5)
        if code:
            self._explain(output, stale)
        if not settled:
            self._settle_database("", sink)

    def _timed_out(self, statuses: Mapping[str, PartStatus]) -> TrackbedError:
        missing = [f"{s.name} ({s.state})" for s in statuses.values() if not s.up]
        return TrackbedError(f"not up after {self.settings.ready_timeout} s: {', '.join(missing)}",
                             "`invoke logs PART` shows why; READY_TIMEOUT raises the limit")

    def _explain(self, output: list[str], stale: Collection[str]) -> None:
        """Raise the reason why `compose up` failed: the part that failed, else Compose's own last words.

        ``stale``: those that had failed before and were not begun again; they come after Compose's own words.
        """
        for status in self.parts():
            if status.failed and status.name not in stale:
                raise failure(self, status)
        text = " ".join(output[-3:])
        # a part that is restarting may look alive at the moment of asking: Compose's own word counts
        for status in self.parts():
            if re.search(rf"container {self.settings.project}-{status.name}-1 (is unhealthy|exited)", text):
                raise failure(self, status)
        for status in self.parts():
            if status.failed:
                raise failure(self, status)
        if found := re.search(r"Bind for \S*?:(\d+) failed|address already in use", text):
            raise TrackbedError(f"a port is taken: {found.group(0)}", "`invoke doctor` says by whom")
        if "incorrect label" in text:
            raise TrackbedError(f"a network of this name was made by something else: {output[-1]}",
                                "`docker network rm` it, or choose another name with --project=NAME")
        raise TrackbedError(f"docker compose up failed: {output[-1] if output else 'no output'}",
                            "see `invoke doctor`", tuple(output[-10:]))

    def _psql(self, role: str, name: str, statements: str) -> ExecResult:
        return self.exec(POSTGRES, ("psql", "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-U", role,
                                    "-d", name), statements.encode(), 600)

    def _settle_database(self, identity: str, sink: Sink) -> bool:
        """Both roles and the live database are there, and the server's role has today's password.

        False: the container ``identity`` was replaced meanwhile, the next one is still to be asked. "": there is none.
        """
        live = self.system.state.live["database"]
        try:
            if made := database_roles.settle(self._psql, live, PASSWORD_FILE):
                sink.step(made)
            self._match_password(live, sink)
        except TrackbedError as error:
            ends = re.search(r"is not running|No such container|shutting down|terminating connection|"
                             r"closed the connection|before or while processing the request|connection to server",
                             error.message)
            same = any(s.identity == identity and s.up for s in self.parts() if s.name == POSTGRES)
            if identity and (ends or not same):
                return False
            raise
        self.exec(POSTGRES, ("sh", "-c", f'cd "$PGDATA" && {{ [ -e {database_roles.READY} ] || '
                                         f'{{ : >{database_roles.READY} && sync {database_roles.READY} .; }}; }}'))
        return True

    def _match_password(self, live: str, sink: Sink) -> None:
        """POSTGRES_PASSWORD_FILE counts at the first start only: make the kept database accept today's password.

        The password stays inside the container: psql itself reads it from the secrets volume.
        """
        login = (f'PGPASSWORD="$(cat {PASSWORD_FILE})" psql -X -q -h "$(hostname -i)" -U {stack.DATABASE_USER} '
                 f'-d "$0" -c "SELECT 1" >/dev/null 2>&1')
        if self.exec(POSTGRES, ("sh", "-c", login, live)).code == 0:
            return
        done = self._psql(stack.DATABASE_ADMIN, database_roles.MAINTENANCE, database_roles.settings(PASSWORD_FILE))
        if done.code:
            raise PartFailed(POSTGRES, "the kept database does not accept the password, and it could not be changed: "
                             + _last_line(done.stderr), "put the old one into .env as POSTGRES_PASSWORD")
        sink.step("the kept database was given the current password")

    def _start_notebook(self, sink: Sink) -> None:
        spec = self.notebook_spec
        image = self.api.image(spec.image)
        wanted = stack.digest(spec, image["id"] if image else "", self._secrets_digest())
        found = self.api.containers([f"{LABEL}.project={self.settings.project}", f"{LABEL}.part={JUPYTER}"])
        for container in found:
            if container.labels.get(f"{LABEL}.config") == wanted:
                if container.state not in (State.EXITED, State.STARTING) and (container.ports or not spec.ports):
                    return
                if self._started(container.id, spec, sink):
                    return
            sink.part(JUPYTER, "recreating")
            self.api.stop(container.id, spec.stop_grace)
            self.api.remove(container.id)
        labels = {f"{LABEL}.project": self.settings.project, f"{LABEL}.part": JUPYTER,
                  f"{LABEL}.instance": self.system.state.instance, f"{LABEL}.config": wanted,
                  f"{LABEL}.gpu": str(self.accelerator)}
        networks = {network: [JUPYTER] for network in spec.networks}
        made = self.api.create(spec.container, self._sdk_config(spec, labels), networks)
        if not self._started(made, spec, sink):
            self.api.remove(made)
            lower = replace(spec, ulimits={})
            self.api.start(self.api.create(spec.container, self._sdk_config(lower, labels), networks))

    def _started(self, container: str, spec: PartSpec, sink: Sink) -> bool:
        """Start it; False when this engine may not raise the limits that it asks for (a GPU works with lower ones)."""
        try:
            self.api.start(container)
        except TrackbedError as error:
            if not spec.ulimits or "setting rlimit" not in error.message:
                raise
            # without root, or in a container itself
            sink.step(f"this engine may not raise {' and '.join(spec.ulimits)}: the notebook goes without")
            return False
        return True

    def _sdk_config(self, spec: PartSpec, labels: Mapping[str, str]) -> dict[str, Any]:
        """A part's spec as the arguments of the engine API."""
        second = 1_000_000_000
        host = self.api.host_config(
            binds=[f"{m.source}:{m.target}{':ro' if m.read_only else ''}" for m in spec.mounts if m.kind != "tmpfs"],
            port_bindings={p.target: (p.address, p.published) for p in spec.ports},
            shm_size=spec.shm_size or None, cap_drop=list(spec.cap_drop), security_opt=list(spec.security_opt),
            group_add=list(spec.group_add), devices=[f"{path}:{path}:rwm" for path in spec.devices],
            device_requests=[{"driver": r.driver, "device_ids": list(r.ids)} if r.driver else
                             {"capabilities": [["gpu"]], **({"count": -1} if r.ids == ("all",)
                                                            else {"device_ids": list(r.ids)})}
                             for r in spec.device_requests],
            ulimits=[{"name": name, "soft": limit, "hard": limit} for name, limit in spec.ulimits.items()],
            restart_policy={"Name": spec.restart}, read_only=spec.read_only,
            mem_limit=spec.memory or None, pids_limit=spec.pids or None,
            network_mode=spec.networks[0],
            log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        )
        config: dict[str, Any] = {
            "image": spec.image, "command": list(spec.command), "hostname": spec.hostname, "user": spec.user,
            "environment": dict(spec.environment), "ports": [p.target for p in spec.ports],
            "working_dir": spec.working_dir, "labels": dict(labels), "host_config": host,
        }
        if spec.health:
            h = spec.health
            config["healthcheck"] = {"test": ["CMD", *h.argv], "interval": int(h.interval * second),
                                     "timeout": int(h.timeout * second), "retries": h.retries,
                                     "start_period": int(h.start_period * second)}
            config["start_interval"] = int(h.start_interval * second)
        return config

    # stopping

    def stop(self, sink: Sink, drain: int = 40) -> tuple[str, ...]:
        project = self.settings.project
        stopped = [s.name for s in self.parts() if s.state is not State.MISSING]
        # the notebook first: Compose cannot remove a network that it is attached to
        for container in self.api.containers([f"{LABEL}.project={project}", f"{LABEL}.part={JUPYTER}"]):
            sink.part(JUPYTER, "stopping")
            self.api.stop(container.id, min(drain, 10))
            self.api.remove(container.id)
            sink.part(JUPYTER, "stopped")
        if self.settings.tracking_uri:
            self.api.remove_network(self._frontend().name)
            return tuple(stopped)
        if others := self._foreign():
            return self._stop_ours(others, stopped, drain, sink)
        sink.step("stopping the services")
        try:
            done = self._compose("down", "--remove-orphans", timeout=drain * 3 + 60)
        except subprocess.TimeoutExpired:
            self._kill_rest(sink)
            done = self._compose("down", "--remove-orphans", "--timeout", "5", timeout=drain * 3 + 60)
        if done.returncode == 0:
            neighbours.remove(project)
            self.api.remove_networks(project, self._network_names())
        if done.returncode:
            raise TrackbedError(f"docker compose down failed: {_last_line(done.stderr)}",
                                "`invoke status` shows what is left; run `invoke down` again")
        return tuple(reversed(stopped))

    def _stop_ours(self, others: list[Container], stopped: list[str], drain: int, sink: Sink) -> tuple[str, ...]:
        """Without Compose, which would take down all that has the project's name."""
        names = ", ".join(c.name for c in others)
        sink.step(f"leaving the containers of another Compose project of this name: {names}")
        order = {name: i for i, name in enumerate(self.part_names)}
        ours = sorted(self._containers(), reverse=True,
                      key=lambda c: order.get(c.labels.get("com.docker.compose.service", ""), -1))
        for container in ours:
            self.api.stop(container.id, drain)
            self.api.remove(container.id)
        neighbours.remove(self.settings.project)
        self.api.remove_networks(self.settings.project, self._network_names())
        return tuple(reversed(stopped))

    def _network_names(self) -> tuple[str, ...]:
        return tuple(f"{self.settings.project}_{name}" for name in NETWORKS)

    def _kill_rest(self, sink: Sink) -> None:
        """What did not stop in all the time it was given."""
        for container in self._containers():
            if container.state is not State.EXITED:
                sink.step(f"ending {container.name}, which does not stop")
                self.api.kill(container.id)

    def data(self) -> tuple[DataItem, ...]:
        what = {"postgres": "database: experiments, runs, parameters, metrics, registered models",
                "gateway": "certificates of the gateway, and its own CA",
                "minio": "artifacts (MinIO)", "versitygw": "artifacts (VersityGW)", "mlflow-tmp": "upload buffers"}
        found = self.api.volumes(self._volume_names())
        mine = [n for n, labels in found.items() if labels.get(f"{LABEL}.instance") == self.system.state.instance]
        prefix = len(self.settings.project) + 1
        return tuple(DataItem(f"volume {n}", what.get(n[prefix:], "generated secrets")) for n in sorted(mine))

    def remove_data(self, sink: Sink) -> None:
        for item in self.data():
            sink.step(f"removing {item.name}")
            with streaming.ticking(lambda seconds, name=item.name: sink.step(  # type: ignore[misc]
                    f"removing {name}, for {seconds:.0f} s")):
                self.api.remove_volume(item.name.removeprefix("volume "))


def _drain(process: subprocess.Popen[str], lines: list[str], sink: Sink) -> None:
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line.strip())
            sink.output(line)
    except ValueError:  # closed under us: the command was ended
        return


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


_: type[base.Engine] = DockerEngine  # the protocol is filled completely: mypy proves it here
