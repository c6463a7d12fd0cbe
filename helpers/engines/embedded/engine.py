"""The embedded engine: no Docker. PostgreSQL from a wheel, MLflow and JupyterLab from the images' own locks, in venvs
in the state folder, supervised by supervisor. As root each service runs as an account of its own (``layout``)."""

from __future__ import annotations

import collections
import contextlib
import grp
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import quote

from helpers import (
    addresses,
    bounded,
    database_failures,
    egress,
    elsewhere,
    machine_failures,
    notebook,
    ports,
    safe_files,
    server_secrets,
    stack,
    surroundings,
)
from helpers.credentials import JUPYTER_TOKEN
from helpers.engines import base, commands, database_roles, shared, streaming
from helpers.engines.embedded import launch, postgres_wheels, script, stale_locks, venvs
from helpers.engines.embedded.accounts import NOTHING, ROLE_OF
from helpers.engines.embedded.checks import EmbeddedChecks
from helpers.engines.embedded.layout import Layout
from helpers.engines.embedded.supervisor import MARK, Program, Supervisor, orphans, terminate
from helpers.engines.host import LOCAL, Host
from helpers.errors import NotListening, PartFailed, TrackbedError
from helpers.gpu import accelerator, node_types, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.http_request import SEARCH, ask
from helpers.service_accounts import DATABASE, NOTEBOOK, SERVER
from helpers.services import (
    JUPYTER,
    MLFLOW,
    POSTGRES,
    Address,
    Availability,
    DataItem,
    ExecResult,
    HostFacts,
    PartSpec,
    PartStatus,
    Plan,
    Port,
    SecretFile,
    Sink,
    StartReport,
    State,
)
from helpers.settings import Settings
from helpers.spelling import shown
from helpers.state import sync_folder
from helpers.system import System

PARTS = (POSTGRES, MLFLOW, JUPYTER)
LOOK_SECONDS = 5.0  # in which a part that is well answers
DATABASE_MAJOR = postgres_wheels.MAJOR
SECRETS_MARK = "TRACKBED_SECRETS"
LOOKS = 3  # at the kernel's list of sockets: a row can be missed while others come and go
GPU_MARK = "TRACKBED_NOTEBOOK_GPU"  # what the running notebook was started with
# The notebook's own: the caller's PATH differs between shells, and another one would mean another notebook.
TOOLS = (
    "/usr/local/cuda/bin:/opt/rocm/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
)


class EmbeddedEngine(base.Engine):
    """Parts as supervised processes of this machine."""

    name: ClassVar[str] = "embedded"

    def __init__(self, system: System) -> None:
        self.system = system
        self.folder = system.settings.folder / "embedded"
        self.layout = Layout(system.settings.project, self.folder, system.settings.workspace)
        self.supervisor = Supervisor(self.folder, self.layout.run_folder, system.state.instance, self.layout.trusted)

    @property
    def settings(self) -> Settings:
        return self.system.settings

    @property
    def host(self) -> Host:
        return LOCAL

    @property
    def object_store(self) -> str:
        return "external" if self.settings.object_store == "external" else "folder"

    # where things are

    @property
    def database_folder(self) -> Path:
        return self.layout.database(DATABASE_MAJOR)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def _startup(self) -> Path:
        return self.folder / "app" / "startup"

    # what there is

    def availability(self) -> Availability:
        if sys.platform not in ("linux", "darwin"):
            return Availability(False, False, "the embedded engine needs Linux or macOS", "on Windows, use WSL2")
        if sys.platform == "linux" and not _glibc():
            return Availability(
                False,
                False,
                "the embedded engine needs glibc (PostgreSQL comes as a wheel for it)",
                "use Docker on this distribution",
            )
        return Availability(True, True, "no Docker needed")

    def versions(self) -> Mapping[str, str]:
        found = {"python": sys.version.split()[0]}
        for venv in self._venvs().values():
            found.update(venv.versions(("mlflow", "jupyterlab", "supervisor", *postgres_wheels.WHEELS)))
        return found

    def host_facts(self) -> HostFacts:
        facts = self.system.local_facts(self.folder)
        limit, free = machine_failures.memory_limit()  # of a batch system's session: these processes stand below it
        if 0 < limit < facts.memory:
            facts = replace(facts, memory=limit, memory_available=min(free, facts.memory_available))
        return facts

    @property
    def workspace_inside(self) -> str:
        return str(self.settings.workspace)

    def workspace_problem(self) -> tuple[str, str]:
        place, account = self.settings.workspace, self.layout.accounts.find(NOTEBOOK)
        if account is None or not place.is_dir():
            return "", ""
        if self.layout.as_root and self.layout.former_notebook not in (-1, account.pw_uid):
            return "", ""  # it is given over before the notebook starts
        groups = os.getgroups() if account.pw_uid == os.geteuid() else os.getgrouplist(account.pw_name, account.pw_gid)
        groups += map(int, self.accelerator.groups) if self.layout.as_root else ()
        return notebook.workspace_problem(place, account.pw_uid, account.pw_gid, groups)

    def workspace_fix(self) -> str:
        place = self.settings.workspace
        account = self.layout.accounts.find(NOTEBOOK)
        if account is None or safe_files.owner(place) == account.pw_uid:
            return notebook.other_folder(place)
        return notebook.give_line(place, account.pw_uid, account.pw_gid)

    def take_workspace(self, sink: Sink) -> None:
        if not self.layout.as_root:
            return
        self.layout.make(sink)
        place, own = self.settings.workspace, self.layout.accounts.get(NOTEBOOK)
        if (owner := safe_files.owner(place)) in (-1, 0, own.pw_uid):
            return
        given = notebook.give_workspace(place, owner, own.pw_uid, own.pw_gid)
        sink.step(
            f"the workspace belongs to the notebook's account {own.pw_name} now, it was uid {owner}'s "
            f"({given.changed} files and folders)"
        )

    def _venv(self, name: str) -> venvs.Venv:
        root = self.folder / "venvs"
        match name:
            case "embedded":
                return venvs.Venv(root, name, Path(__file__).with_name("embedded-requirements.txt"))
            case "mlflow":
                return venvs.Venv(root, name, stack.MLFLOW_FOLDER / "requirements.txt")
            case _:
                return venvs.Venv(
                    root,
                    name,
                    stack.JUPYTER_FOLDER / "requirements.txt",
                    upgraded=not self.layout.as_root,
                    extras=self._torch(),
                )

    @property
    def _packages(self) -> Path:
        """The notebook's own environment: what it installs goes there, and comes before the locked packages."""
        version = self._venv(JUPYTER).site.parent.name.removeprefix("python")
        return self.folder / "jupyter" / f"packages-{version}"

    def _torch(self) -> tuple[venvs.Extra, ...]:
        """PyTorch and the metrics package of the GPU's vendor, each from its own index.

        Without a GPU there is nothing, or PyTorch for the CPU where TORCH=cpu asks for it.
        """
        chosen, settings = self.accelerator, self.settings
        found = []
        if chosen.kind != node_types.NONE:
            found.append(venvs.Extra(stack.JUPYTER_FOLDER / f"metrics-{chosen.variant}-requirements.txt", hashed=True))
        if settings.torch == wheels.CPU or (settings.torch == wheels.AUTO and chosen.kind != node_types.NONE):
            lock, hashed = wheels.requirements(chosen.torch, settings.torch_index)
            found.append(venvs.Extra(lock, wheels.index(chosen.torch, settings.torch_index), hashed))
            found.append(venvs.Extra(stack.JUPYTER_FOLDER / "lightning-requirements.txt", hashed=True, alone=True))
        return tuple(found)

    def _venvs(self) -> dict[str, venvs.Venv]:
        return {
            name: self._venv(name)
            for name in ("embedded", MLFLOW, JUPYTER)
            if name != MLFLOW or not self.settings.tracking_uri
        }

    @property
    def _parts(self) -> tuple[str, ...]:
        return (JUPYTER,) if self.settings.tracking_uri else PARTS

    @cached_property
    def accelerator(self) -> Accelerator:
        return accelerator.choose(
            self.settings.gpu,
            self.settings.devices,
            self.host_facts().machine,
            embedded=True,
            torch=wheels.word(self.settings.torch, self.settings.torch_index),
        )

    def remarks(self) -> tuple[str, ...]:
        data = self._data()
        lines = shared.remarks(self.accelerator, str(data) if data and not any(data.iterdir()) else "")
        if self.settings.jupyter_volumes:
            return (
                *lines,
                "warning: JUPYTER_VOLUMES is for Docker; this notebook sees the machine's folders as they are",
            )
        return lines

    def _data(self) -> Path | None:
        """The data set's folder; the name of a Docker volume means nothing here."""
        if not self.settings.data_volume.startswith("/"):
            return None
        folder = Path(self.settings.data_volume)
        if not folder.is_dir():
            raise shared.no_data_folder(str(folder))
        return folder

    def _check_nodes(self) -> None:
        """The user of the notebook may open its GPU. Raises TrackbedError with the group that is missing."""
        if self.layout.as_root:
            return  # the notebook's account is given the groups
        for path in self.accelerator.nodes:
            if not os.access(path, os.R_OK | os.W_OK):
                group = str(os.stat(path).st_gid)
                with contextlib.suppress(KeyError):
                    group = grp.getgrgid(int(group)).gr_name
                raise TrackbedError(
                    f"this user may not open {path}, it belongs to the group {group}",
                    f"sudo usermod -aG {group} $USER, then log in again; or use --gpu=none",
                )

    def locks(self) -> tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...]:
        """Each venv's folder, the lock it is made from, what `uv pip install` is told then; files in the clone."""
        return tuple(
            (
                str(v.folder),
                str(v.lock.relative_to(stack.ROOT)),
                tuple(tuple(word.removeprefix(f"{stack.ROOT}/") for word in extra.argv()) for extra in v.extras),
            )
            for v in self._venvs().values()
        )

    def tool(self, tool: str) -> str:
        """The path of one of PostgreSQL's programs; of their folder with a slash at the end for ""."""
        return self._pg(tool) if tool else str(Path(self._pg("postgres")).parent) + "/"

    def _pg(self, tool: str) -> str:
        return str(postgres_wheels.programs(self._venv("embedded").site) / tool)

    # the plan

    def plan(self) -> Plan:
        return Plan(
            self.name,
            self.settings.project,
            tuple(self._spec(name) for name in self._parts),
            secrets=self._secret_files(),
        )

    def _ports(self, part: str) -> tuple[Port, ...]:
        number = {MLFLOW: self.settings.mlflow_port, JUPYTER: self.settings.jupyter_port}.get(part)
        return (Port("http", number, number, self.settings.bind_address),) if number else ()

    def _spec(self, part: str) -> PartSpec:
        return {POSTGRES: self._postgres, MLFLOW: self._mlflow, JUPYTER: self._jupyter}[part]()

    def _common(self, role: str) -> dict[str, str]:
        return {"HOME": str(self.layout.accounts.home(role)), "LANG": "C.UTF-8", **self._way_out()}

    def _way_out(self) -> dict[str, str]:
        """What is taken from the shell that started the system, and from the machine: proxies, certificates, TZ."""
        told = {**surroundings.kept(self.system.state), **self._egress.environment(egress.inside(self.settings))}
        return told | (egress.trust(str(self.folder / "app" / notebook.CERTIFICATES)) if self._certificates else {})

    @property
    def _egress(self) -> egress.Egress:
        return egress.find(self.settings, surroundings.kept(self.system.state), {})

    @cached_property
    def _certificates(self) -> str:
        """Their text: the services read a copy, the site's own file may be root's alone."""
        return egress.certificates(self._egress.bundles)

    def _postgres(self) -> PartSpec:
        return PartSpec(
            POSTGRES,
            stack.TITLES[POSTGRES],
            environment=self._common(DATABASE),
            stop_signal="INT",
            stop_grace=30,
            command=(
                self._pg("postgres"),
                "-D",
                str(self.database_folder),
                "-k",
                str(self.layout.sockets),
                "-c",
                "listen_addresses=",
                *(
                    word
                    for name in ("hba", "ident")
                    for word in ("-c", f"{name}_file={self.folder}/app/pg_{name}.conf")
                ),
                *stack.database_options(
                    stack.max_connections(self.settings.mlflow_workers, stack.has_jobs(self.settings))
                ),
            ),
            working_dir=str(self.folder),
        )

    def _mlflow(self) -> PartSpec:
        settings, live = self.settings, self.system.state.live
        external = settings.object_store == "external"
        destination = (
            f"s3://{settings.s3_bucket}/{live['prefix']}" if external else (self.artifacts / live["prefix"]).as_uri()
        )
        server = {
            **self._common(SERVER),
            # no password: the socket's folder is private, and PostgreSQL asks the kernel who is there (peer)
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{stack.DATABASE_USER}@/{live['database']}"
            f"?host={quote(str(self.layout.sockets))}",
            "MLFLOW_ARTIFACTS_DESTINATION": destination,
            "MLFLOW_SERVER_ALLOWED_HOSTS": stack.allowed_hosts(settings),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": stack.cors_origins(settings),
            "TRACKBED_STORE_NETWORK": stack.store_network(settings, self.system.state.instance),
            "TRACKBED_HOST": settings.bind_address,
            "TRACKBED_PORT": str(settings.mlflow_port),
            "TRACKBED_WORKERS": str(settings.mlflow_workers),
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(stack.pool(settings.mlflow_workers)[0]),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(stack.pool(settings.mlflow_workers)[1]),
            server_secrets.FOLDER_VARIABLE: str(self.folder / "secrets"),
            server_secrets.ACCESS_VARIABLE: str(self.folder / "secrets" / server_secrets.ACCESS_FILE),
            # the secrets are read at the start only: other ones are another program
            SECRETS_MARK: self.system.credentials_digest(),
            "TRACKBED_CODE": stack.digest(*stack.server_files()),  # and so is other code, after an update
            "TRACKBED_MEMORY_LIMIT": settings.memory_limit,  # no container does it here
            "TMPDIR": str(self.folder / "tmp"),  # uploads are buffered there whole
            "TRACKBED_OWN_TMP": str(self.folder / "tmp"),  # what a killed server left there goes at its next start
            # the venv may belong to root: without byte code of its own the server starts twice as slowly
            "PYTHONPYCACHEPREFIX": str(self.folder / "pycache"),
        }
        if migrate := os.environ.get("TRACKBED_MIGRATE"):
            server["TRACKBED_MIGRATE"] = migrate  # an older schema is migrated only when asked
        if stack.has_jobs(settings):
            server |= {"TRACKBED_JOBS": "on", "TRACKBED_JOBS_MODELS": settings.mlflow_jobs_models}
        if external:
            server |= {
                "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint,
                "AWS_DEFAULT_REGION": settings.s3_region,
                "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "secrets" / "aws-credentials"),
            }
        return PartSpec(
            MLFLOW,
            stack.TITLES[MLFLOW],
            environment=server,
            stop_grace=40,
            command=(str(self._venv(MLFLOW).python), str(self.folder / "app" / "start.py"), "serve"),
            ports=self._ports(MLFLOW),
            depends_on={POSTGRES: "healthy"},
            working_dir=str(self.folder),
        )

    def _jupyter(self) -> PartSpec:
        settings, chosen, venv, packages = self.settings, self.accelerator, self._venv(JUPYTER), self._packages
        jupyter, programs = self.folder / "jupyter", f"{packages / 'bin'}:{venv.folder / 'scripts'}"
        tracking = settings.tracking_uri or f"http://{settings.bind_address}:{settings.mlflow_port}"
        secrets = str(self.folder / "secrets")
        data = self._data()
        return PartSpec(
            JUPYTER,
            stack.TITLES[JUPYTER],
            stop_grace=10,
            command=(
                str(packages / "bin" / "python"),
                "-m",
                "jupyterlab",
                "--no-browser",
                f"--ServerApp.ip={settings.bind_address}",
                f"--ServerApp.port={settings.jupyter_port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={settings.workspace}",
                f"--ServerApp.cookie_secret_file={secrets}/{notebook.COOKIE_FILE}",
                *stack.notebook_options(settings),
            ),
            environment={
                **self._common(NOTEBOOK),
                **chosen.environment,
                **({"FOOD11_DATA_DIR": str(data / "Food-11")} if data else {}),
                **(elsewhere.environment(settings, secrets) if settings.tracking_uri else {}),
                **server_secrets.notebook_environment(secrets, self.system.asks),
                "SHELL": shutil.which("bash", path=TOOLS) or "/bin/sh",
                **stack.notebook_environment(
                    settings, tracking, self.system.state.instance, str(self._startup), self.system.state.person
                ),
                "TRACKBED_PROGRAMS": programs,
                "PATH": f"{programs}:{TOOLS}",
                "VIRTUAL_ENV": str(packages),
                # Jupyter looks in its Python's own environment only
                "JUPYTERLAB_DIR": str(venv.folder / "share" / "jupyter" / "lab"),
                "JUPYTER_PATH": f"{packages / 'share' / 'jupyter'}:{venv.folder / 'share' / 'jupyter'}",
                "JUPYTER_CONFIG_PATH": f"{packages / 'etc' / 'jupyter'}:{venv.folder / 'etc' / 'jupyter'}",
                "PYTHONPYCACHEPREFIX": str(jupyter / "pycache"),  # the locked packages may belong to root
                "PYTHONPATH": str(self._startup),  # MLflow finds the plugins for its links and login there
                "JUPYTER_TOKEN_FILE": f"{secrets}/jupyter-token",
                # the user's own Jupyter settings stay out: they may hold a password or another port
                "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
                "JUPYTER_DATA_DIR": str(jupyter / "data"),
                "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
                "IPYTHONDIR": str(jupyter / "ipython"),
                GPU_MARK: str(chosen),
                SECRETS_MARK: self._notebook_digest(),
            },
            ports=self._ports(JUPYTER),
            group_add=chosen.groups,
            devices=chosen.nodes,
            working_dir=str(settings.workspace),
        )

    def access_token(self) -> str:
        return self.system.access_token()

    def _secret_files(self) -> tuple[SecretFile, ...]:
        folder = str(self.folder / "secrets")
        listed = [
            SecretFile(JUPYTER, folder, "jupyter-token", "{JUPYTER_TOKEN}", ("JUPYTER_TOKEN",), 0, 0),
            SecretFile(JUPYTER, folder, notebook.COOKIE_FILE, notebook.COOKIE, ("JUPYTER_TOKEN",), 0, 0),
        ]
        if self.settings.tracking_uri:
            return (*listed, *elsewhere.secret_files(self.settings, folder, 0, 0))
        listed += server_secrets.files(folder, 0, 0, self.system.asks)
        listed += server_secrets.notebook_files(folder, 0, 0, self.system.asks)
        if self.settings.object_store == "external":
            listed.append(
                SecretFile(
                    MLFLOW, folder, "aws-credentials", shared.AWS_CREDENTIALS, ("S3_ACCESS_KEY", "S3_SECRET_KEY"), 0, 0
                )
            )
        return tuple(listed)

    def _notebook_digest(self) -> str:
        """Changes with the secrets, and with the certificate that goes beside them."""
        files = [s.template for s in self._secret_files() if s.part == JUPYTER]
        return stack.digest(self.system.credentials_digest(), *files)

    def _programs(self) -> tuple[Program, ...]:
        # a server that ends with 78 (EX_CONFIG) will not get better by being started again
        final = {MLFLOW: (78,)}
        patience = {POSTGRES: 2, MLFLOW: 10, JUPYTER: 4}
        return tuple(
            Program(
                p.name,
                *self._launched(p),
                p.stop_signal or "TERM",
                p.stop_grace,
                patience[p.name],
                final.get(p.name, ()),
                group=p.name != POSTGRES,
                listens=next(((o.address, o.published) for o in p.ports if p.name == MLFLOW), None),
            )
            for p in self.plan().parts
        )

    def _launched(self, spec: PartSpec) -> tuple[tuple[str, ...], Mapping[str, str], str]:
        """Command, environment and folder for the supervisor: as root the service's account is taken on first."""
        if not self.layout.as_root:
            return spec.command, spec.environment, spec.working_dir
        name = self.layout.accounts.name(ROLE_OF[spec.name])
        command = (
            str(self._venv("embedded").python),
            "-I",
            "-S",
            str(self.folder / "app" / "launch.py"),
            name,
            ",".join(spec.group_add),
            spec.working_dir,
            *spec.command,
        )
        return command, {launch.PREFIX + key: value for key, value in spec.environment.items()}, "/"

    # looking

    def parts(self, detail: bool = False) -> tuple[PartStatus, ...]:
        found = self.supervisor.states()
        lost = not found and bool(self._orphans())
        gone = (
            "an earlier version started it; `invoke up` takes it over"
            if self.layout.earlier
            else f"its supervisor {'does not answer' if self.supervisor.hung else 'is gone'}; `invoke up` repairs it"
        )
        listed = []
        for name in self._parts:  # not from the plan: looking and stopping go on when a GPU has gone
            process, ports = found.get(name), self._ports(name)
            if lost:  # they still hold their ports, which are ours then
                listed.append(PartStatus(name, State.UNHEALTHY, gone, ports=ports))
                continue
            if process is None:
                listed.append(PartStatus(name, State.MISSING))
                continue
            state = process.state
            if state in (State.RUNNING, State.STARTING):
                state = State.READY if self._answers(name) else State.STARTING
            memory = _memory(process.pid) if detail and process.pid else 0
            silent = "it does not answer" if detail and state is State.STARTING else ""
            listed.append(
                PartStatus(
                    name,
                    state,
                    process.reason or silent,
                    process.exit_code if not process.pid else None,
                    "",
                    ports if process.pid else self._held(ports),
                    memory,
                    process.since,
                    identity=f"{process.pid}@{process.started}",
                    # the notebook may have written it anew
                    accelerator=shown(_variable(process.pid, GPU_MARK)) if name == JUPYTER and process.pid else "",
                )
            )
        return tuple(listed)

    def _orphans(self) -> list[int]:
        return orphans(self.system.state.instance, self.layout.uids())

    def _held(self, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """Those that the workers of a killed server still hold; its next start ends them."""
        holders = ((port, addresses.holder(port.published).pid) for port in ports)
        return tuple(port for port, pid in holders if pid and _variable(pid, MARK) == self.system.state.instance)

    def _answers(self, part: str) -> bool:
        """The quick look that a health check would take."""
        if part == POSTGRES:
            return (
                self._psql(stack.DATABASE_USER, self.system.state.live["database"], "SELECT 1", LOOK_SECONDS).code == 0
            )
        path = SEARCH if part == MLFLOW else "/api"  # /health is 200 without a database
        try:
            with self.open(part, "http") as address:
                return ask(address.url + path, timeout=3, token=self.access_token() if part == MLFLOW else "").ok
        except NotListening:
            return False

    def _psql(self, role: str, database: str, statements: str, timeout: float = 20) -> ExecResult:
        return self.exec(POSTGRES, shared.psql(role, database), statements.encode(), timeout)

    def fingerprint(self) -> str:
        startup = stack.JUPYTER_FOLDER / "startup"
        return stack.digest(
            [p.__dict__ for p in self._programs()],
            self.system.credentials_digest(),
            [s.template for s in self._secret_files()],
            *stack.server_files(),
            stack.folder_digest(startup),
        )

    def unchanged(self) -> bool:
        return shared.unchanged(self, self.system.state.applied)

    def logs(self, part: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        self.layout.check()  # supervisord alone writes there
        path = self.folder / "logs" / f"{part}.log"
        try:
            with path.open(errors="replace") as stream:
                yield from (line.rstrip("\n") for line in collections.deque(stream, tail))
                while follow:
                    if line := stream.readline():
                        yield line.rstrip("\n")
                        continue
                    time.sleep(0.3)
                    if path.stat().st_ino != os.fstat(stream.fileno()).st_ino:  # rotated
                        yield from self.logs(part, 1000, follow=True)
                        return
        except FileNotFoundError:
            if part not in PARTS:
                raise TrackbedError(f"there is no part {part}", f"one of {', '.join(PARTS)}") from None
            return

    @contextmanager
    def open(self, part: str, port: str) -> Iterator[Address]:
        for candidate in self._ports(part):
            if candidate.name == port:
                self._check_listener(part, candidate)
                yield Address(candidate.address, candidate.published)
                return
        raise TrackbedError(f"{part} publishes no port {port}")

    def _check_listener(self, part: str, port: Port) -> None:
        """What listens on a part's port is the part. Any account may take one that is free, if only for a moment, and
        would be sent the tokens. Raises NotListening.
        """
        account = self._account(part)
        trusted = {account, os.geteuid()}  # the supervisor opens MLflow's socket, and holds it while MLflow is down
        for _ in range(LOOKS):
            try:
                tables = "".join(
                    Path("/proc/net", name).read_text()
                    for name in ("tcp", "tcp6")
                    if name == "tcp" or os.path.exists("/proc/net/tcp6")
                )
            except OSError:
                return  # not Linux
            if found := addresses.listeners(tables, port.address, port.published):
                break
            time.sleep(0.02)
        else:
            raise NotListening(f"nothing listens on port {port.published}")
        if strangers := found - trusted:
            uid = min(strangers)
            raise NotListening(
                f"port {port.published} is held by a program of uid {uid}, not by {part}",
                "end that program, then `invoke up` goes on",
            )

    def _account(self, part: str) -> int:
        found = self.layout.accounts.find(ROLE_OF[part])
        return found.pw_uid if found else -1

    # running commands

    def exec(
        self, part: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        words, options = self._command(part, argv)
        try:
            return commands.run(words, stdin, timeout, limited=part == JUPYTER, **options)
        except OSError as error:
            return ExecResult(127, "", str(error))

    def pipe(self, part: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        words, options = self._command(part, argv)
        return streaming.piped(argv[0], words, **options)

    def _command(self, part: str, argv: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
        """A command of a part, and what subprocess is told to run it as the part's account in its environment."""
        self.layout.check()
        spec = self._spec(part)
        environment = {**spec.environment, "PGHOST": str(self.layout.sockets)}
        environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
        words, folder = self._translate(part, argv), spec.working_dir
        if part == JUPYTER:  # its folder is the notebook's: nobody else enters it
            words, folder = ["/bin/sh", "-c", 'cd "$0" 2>/dev/null; exec "$@"', folder, *words], "/"
        return words, {
            "env": environment,
            "cwd": folder if Path(folder).is_dir() else "/",
            **self._as_service(part, spec.group_add),
        }

    def unlisted(self) -> tuple[str, ...]:
        return ()  # a folder lists all

    def halt(self, part: str, sink: Sink) -> None:
        if self.supervisor.running() and self.supervisor.stop(part):
            sink.part(part, "stopped")

    def resume(self, part: str, sink: Sink) -> None:
        if self.supervisor.running():
            self.supervisor.start(part)
            sink.part(part, "starting")

    one_shot = exec  # a part is a process here: a fresh one with its environment needs nothing that runs

    def _translate(self, part: str, argv: tuple[str, ...]) -> list[str]:
        """The names that the images put on PATH, as files of the venvs."""
        if argv[0] == "trackbed-mlflow":
            return [str(self._venv(MLFLOW).python), str(self.folder / "app" / "start.py"), *argv[1:]]
        if argv[0] == "python":
            python = self._packages / "bin" / "python" if part == JUPYTER else self._venv(MLFLOW).python
            return [str(python), *argv[1:]]
        if Path(self._pg(argv[0])).exists():
            return [self._pg(argv[0]), *argv[1:]]
        return list(argv)

    def _as_service(self, part: str, groups: tuple[str, ...] = ()) -> dict[str, Any]:
        """What subprocess is told to run something as the account of a part; {} for a normal user."""
        return self.layout.identity(part, groups)

    # starting

    def prepare(self, sink: Sink) -> tuple[str, ...]:
        if self.layout.earlier and (left := self._orphans()):
            sink.step("stopping what an earlier version started")
            self._end(left)
        self.layout.make(sink)
        interpreter = venvs.interpreter(self._as_service(MLFLOW))
        for venv in self._venvs().values():
            if venv.close_lock():
                sink.step(f"the lock file of {venv.name} was open to every account of this machine: closed")
        missing = [(venv, problem) for venv in self._venvs().values() if (problem := venv.problem())]
        for place, (venv, problem) in enumerate(missing, 1):
            sink.step(f"{place} of {len(missing)}: installing {venv.name} ({problem})")
            venv.make(interpreter, sink)
        return tuple(venv.name for venv, _ in missing)

    def _end(self, left: list[int], seconds: float = 60) -> None:
        """End processes without a supervisor of ours; what they leave behind too."""
        for _ in range(3):
            terminate(left, seconds)
            if not (left := self._orphans()):
                return
        raise TrackbedError(
            f"{len(left)} processes cannot be ended (process {', '.join(map(str, left[:5]))})",
            "they wait for a disk or a device that does not answer; when it does again, or after a "
            "reboot, `invoke down` ends the rest",
        )

    def start(self, sink: Sink) -> StartReport:
        before = {s.name: s.identity for s in self.parts() if s.up}
        self.layout.make(sink)
        self._check_nodes()
        gids = {int(group) for group in self.accelerator.groups}
        if not self.layout.as_root and not self.supervisor.has_groups(gids & set(os.getgroups())):
            sink.step("restarting the processes, which need the GPU's group")
            self.stop(sink)
        self._mend_byte_code(sink)
        own = self.layout.accounts.get(NOTEBOOK)
        notebook.make_workspace(self.settings.workspace, own.pw_uid, own.pw_gid, callers=False, private=True)
        if not self.supervisor.running():
            left = self._orphans()
            if left:
                sink.step("stopping processes that lost their supervisor")
                self._end(left, 30)
        if JUPYTER_TOKEN in self.system.replaced:  # what the notebook started aside would read the new one
            self.halt(JUPYTER, sink)
            self.layout.accounts.end(NOTEBOOK)
        self._files()
        self._make_packages()
        alone = bool(self.settings.tracking_uri)
        if not alone:
            if not self._version(self.database_folder):
                self._check_major()
                sink.step("making the database")
                self._make_database()
            elif self._venv("embedded").others():
                sink.step(f"{self._server_version()} goes on with the database as it is")
            self._identify()
            self._unlock(sink)
        sink.step("starting the processes")
        supervisord = self._venv("embedded").folder / "bin" / "supervisord"
        with shared.interruptible():
            if not alone and not os.path.lexists(self.database_folder / database_roles.READY):
                # the server must not be connected while its role is replaced
                self.supervisor.apply([p for p in self._programs() if p.name != MLFLOW], supervisord)
                self._settle_database(sink)
            self.supervisor.apply(self._programs(), supervisord)
            if not alone:
                self._settle_database(sink)
                self._ensure_bucket()
        for venv in self._venvs().values():
            venv.remove_others()
        after = self.parts()
        report = shared.report(before, after)
        for status in after:
            sink.part(status.name, "starting" if status.name in report.changed else "ready")
        return report

    def _mend_byte_code(self, sink: Sink) -> None:
        """Remove the byte code of a service that could not read it: a full disk cuts off what is written."""
        for part, folder in ((MLFLOW, self.folder / "pycache"), (JUPYTER, self.folder / "jupyter" / "pycache")):
            if not os.path.lexists(folder) or any(s.name == part and s.up for s in self.parts()):
                continue
            if any(map(machine_failures.BYTE_CODE.search, self.logs(part, 40))) and safe_files.remove(folder):
                sink.step(f"removing damaged byte code of {part}")
                if part == MLFLOW:
                    account = self.layout.accounts.get(SERVER)
                    safe_files.give_folder(folder, account.pw_uid, account.pw_gid, 0o700)

    def _files(self) -> None:
        """What the processes read: the server's files, the notebook's start-up files, the secrets."""
        # copies: the clone may lie where the services cannot look, and may go away while they run
        startup, here = stack.JUPYTER_FOLDER / "startup", Path(__file__).parent
        copies = [(path, self.folder / "app" / path.relative_to(stack.MLFLOW_FOLDER)) for path in stack.server_files()]
        copies += [(here / name, self.folder / "app" / name) for name in ("launch.py", "overlay.py")]
        copies += [
            (p, self._startup / p.relative_to(startup))
            for p in sorted(startup.rglob("*"))
            if p.is_file() and "__pycache__" not in p.parts
        ]
        for source, target in copies:
            for folder in reversed(target.relative_to(self.folder / "app").parents[:-1]):
                safe_files.own_folder(self.folder / "app" / folder, 0o755)
            self._file(target, source.read_bytes(), 0o644)
        if self._certificates:
            self._file(self.folder / "app" / notebook.CERTIFICATES, self._certificates.encode(), 0o644)
        credentials = self.system.credentials()
        for secret in self._secret_files():
            account = self.layout.accounts.get(ROLE_OF[secret.part])
            content = credentials.render(secret.template, secret.names).encode()
            self._file(Path(secret.volume) / secret.path, content, 0o400, account.pw_uid, account.pw_gid)

    @staticmethod
    def _file(path: Path, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> None:
        if not safe_files.is_file(path, content, mode, os.geteuid() if uid < 0 else uid):
            safe_files.write(path, content, mode, uid, gid)

    def _make_packages(self) -> None:
        """The notebook's own environment, by its own account: all of it is the notebook's to change."""
        venv = self._venv(JUPYTER)
        argv = [str(venv.python), "-I", str(self.folder / "app" / "overlay.py"), str(self._packages)]
        if self.layout.as_root:  # a normal user's own home is left alone
            argv.append(str(self.layout.accounts.home(NOTEBOOK)))
        try:  # bounded: the account's other processes may trace it and make it say anything
            done = bounded.run(argv, bounded.MOST, 60, cwd="/", env={}, umask=0o077, **self._as_service(JUPYTER))
        except bounded.TooMuch as error:
            done = subprocess.CompletedProcess(argv, 1, b"", str(error).encode())
        if done.returncode:
            raise TrackbedError(
                f"the notebook's own environment could not be made: {commands.last_line(done.stderr)}",
                f"remove {self._packages}, then `invoke up` again",
            )
        venv.scripts(self._packages / "bin" / "python")

    def _version(self, folder: Path) -> str:
        """The PostgreSQL major of a database's folder, "" without one; read by the database's own account."""
        done = subprocess.run(
            ["cat", str(folder / "PG_VERSION")],
            **{**NOTHING, "stdout": subprocess.PIPE},
            timeout=30,
            check=False,
            **self._as_service(POSTGRES),
        )
        return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""

    def _server_version(self) -> str:
        """As ``postgres --version`` says it: "PostgreSQL 18.6"."""
        done = subprocess.run(
            [self._pg("postgres"), "--version"],
            **{**NOTHING, "stdout": subprocess.PIPE},
            timeout=30,
            check=False,
            **self._as_service(POSTGRES),
        )
        said = re.search(r"PostgreSQL[^)]*\) (\S+)", done.stdout.decode("utf-8", "replace"))
        return f"PostgreSQL {said[1]}" if said else "PostgreSQL"

    def _check_major(self) -> None:
        """Refuse to begin an empty database beside one of another PostgreSQL major."""
        for folder in self.layout.databases():
            found = self._version(folder)
            if found not in ("", DATABASE_MAJOR):
                raise shared.other_major(
                    found,
                    f"this clone has PostgreSQL {DATABASE_MAJOR}",
                    "with the clone you had: `invoke backup`, `invoke down --delete-data`; "
                    "then here: `invoke restore FILE`",
                )

    def _make_database(self) -> None:
        """initdb into a folder beside the final one; only a complete database gets the final name."""
        fresh = self.database_folder.with_name(self.database_folder.name + ".new")
        if not safe_files.is_empty(self.database_folder):
            raise TrackbedError(
                f"{self.database_folder} holds files, but no PG_VERSION that the database's account can read",
                "if it is the database, give it back to that account (chown -R), or "
                "restore a backup; if not, move it away; then `invoke up` goes on",
            )
        account = self.layout.accounts.get(DATABASE)
        if not safe_files.remove(fresh):
            raise TrackbedError(f"{fresh} could not be removed", "remove it as its owner")
        safe_files.give_folder(fresh, account.pw_uid, account.pw_gid, 0o700)
        environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(self.layout.accounts.home(DATABASE))}
        # the same locale on every engine, so that dumps move
        done = subprocess.run(
            [
                self._pg("initdb"),
                "-D",
                str(fresh),
                "-U",
                stack.DATABASE_ADMIN,
                "-A",
                "peer",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--data-checksums",
            ],
            stdin=subprocess.DEVNULL,
            env=environment,
            capture_output=True,
            cwd=self.folder,
            timeout=120,
            check=False,
            **self._as_service(POSTGRES),
        )
        if done.returncode:
            if known := database_failures.explain(done.stderr.decode("utf-8", "replace").splitlines()):
                raise PartFailed(POSTGRES, f"the database could not be made: {known[0]}", known[1])
            raise PartFailed(
                POSTGRES, f"the database could not be made: {commands.last_line(done.stderr)}", "see `invoke doctor`"
            )
        fresh.rename(self.database_folder)  # initdb has synced what it made
        sync_folder(self.database_folder.parent)

    def _identify(self) -> None:
        """Which accounts of this machine come in as which role of PostgreSQL: it asks the kernel who connects.

        There are no passwords, and nobody comes over the network. The files are not among the database's own: whoever
        gets hold of its account must not be able to let others in.
        """
        place = self.layout.accounts
        roles: dict[str, tuple[str, ...]] = {place.name(SERVER): (stack.DATABASE_USER,)}
        roles |= dict.fromkeys((place.name(DATABASE), "root"), database_roles.ROLES)  # of a normal user, the same
        files = {
            "pg_hba.conf": "local all all peer map=trackbed\n",
            "pg_ident.conf": "".join(f'trackbed "{name}" {role}\n' for name in roles for role in roles[name]),
        }
        for name, content in files.items():
            self._file(self.folder / "app" / name, content.encode(), 0o644)

    def _unlock(self, sink: Sink) -> None:
        """Take away the lock of a PostgreSQL that is gone. One that is there is never touched: TrackbedError."""
        process = self.supervisor.states().get(POSTGRES)
        lock = self.database_folder / stale_locks.FILE
        if (process and process.pid) or not os.path.lexists(lock):
            return
        deadline = time.monotonic() + 10  # what a killed one leaves behind ends by itself
        while (left := stale_locks.workers(self.database_folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        if left:
            raise TrackbedError(
                f"another PostgreSQL (process {left[0]}) works on {self.database_folder}",
                f"stop it (kill -INT {left[0]}), then `invoke up` goes on",
            )
        if left is None:
            return  # PostgreSQL itself has to tell
        pid = stale_locks.holder(self.exec(POSTGRES, ("cat", str(lock))).stdout)
        if not pid or Path(f"/proc/{pid}").exists():
            sink.step(
                "removing the lock of a PostgreSQL that is gone"
                + (f"; process {pid} is another program now" if pid else "")
            )
        self.exec(POSTGRES, ("rm", "-f", str(lock), str(self.layout.sockets / ".s.PGSQL.5432.lock")))

    def _await_database(self) -> None:
        """PostgreSQL takes connections. Bounded; raises PartFailed when it has ended."""
        deadline = time.monotonic() + min(60, self.settings.ready_timeout)
        while (
            found := self.exec(
                POSTGRES, ("pg_isready", "-t", "3", "-U", stack.DATABASE_ADMIN, "-d", database_roles.MAINTENANCE)
            )
        ).code:
            process = self.supervisor.states().get(POSTGRES)
            if process is None or process.state in (State.EXITED,) or time.monotonic() > deadline:
                lines = tuple(self.logs(POSTGRES, 15))
                if known := database_failures.explain(lines):
                    raise PartFailed(POSTGRES, known[0], known[1], lines)
                raise PartFailed(
                    POSTGRES,
                    f"PostgreSQL does not answer: {commands.last_line(found.stdout)}",
                    "`invoke logs postgres` shows more",
                    lines,
                )
            time.sleep(0.1)

    def _settle_database(self, sink: Sink) -> None:
        """Once PostgreSQL answers: both roles and the live database are there."""
        self._await_database()

        def statements(role: str, database: str, text: str) -> ExecResult:
            return self._psql(role, database, text, timeout=600)

        if made := database_roles.settle(
            statements, self.system.state.live["database"], stop_server=lambda: self.halt(MLFLOW, sink)
        ):
            sink.step(made)
            self.resume(MLFLOW, sink)
        ready = self.database_folder / database_roles.READY
        if not os.path.lexists(ready):
            self.exec(POSTGRES, ("touch", str(ready)))

    def _ensure_bucket(self) -> None:
        """The bucket of an external store exists; the server would only find out at the first artifact."""
        if self.settings.object_store != "external":
            return
        done = self.one_shot(MLFLOW, ("trackbed-mlflow", "bucket"))
        if done.code:
            lines = [line.removeprefix("trackbed: ") for line in done.stderr.strip().splitlines()] or ["no message"]
            raise TrackbedError(
                lines[-1], "check S3_ENDPOINT, S3_BUCKET and the keys; then `invoke up` goes on", tuple(lines[:-1])
            )

    # what is looked at before a start

    def script(self, plan: Plan) -> str:
        return script.processes(plan, self)

    @property
    def check_result(self) -> tuple[str, str]:
        return (MLFLOW, str(self.artifacts / stack.CHECK_RESULT)) if self.object_store == "folder" else ("", "")

    def lowest_port(self) -> int:
        return ports.first_unprivileged()  # no service is root

    @property
    def checks(self) -> EmbeddedChecks:
        return EmbeddedChecks(self)

    # stopping

    def stop(self, sink: Sink, drain: int = 40) -> tuple[str, ...]:
        stopped = []
        if self.supervisor.running():
            with contextlib.suppress(OSError):  # it stopped answering on the way: what is left is ended below
                for name in reversed(self._parts):  # the notebook first, the database last
                    sink.part(name, "stopping")
                    if self.supervisor.stop(name):
                        stopped.append(name)
                    sink.part(name, "stopped")
                self.supervisor.shutdown()
        self.layout.accounts.end(NOTEBOOK)  # what it started aside, too
        left = self._orphans()
        if left:
            sink.step("stopping processes that lost their supervisor")
            self._end(left, drain)
            stopped = stopped or list(reversed(self._parts))
        return tuple(stopped)

    def data(self) -> tuple[DataItem, ...]:
        what = {
            "artifacts": "artifacts of all runs",
            self.database_folder.name: "database: experiments, runs, parameters, metrics, registered models",
            "venvs": "installed packages",
            "jupyter": "JupyterLab's settings, what you installed from notebooks",
        }
        return tuple(
            DataItem(str(self.folder / name), text)
            for name, text in what.items()
            if not safe_files.is_empty(self.folder / name)
        )

    def remove_data(self, sink: Sink) -> None:
        if self.supervisor.running():
            raise TrackbedError("the system is still running", "`invoke down` first")
        sink.step(f"removing {self.folder}")
        for line in self.layout.remove():
            sink.step(line)


def _variable(pid: int, name: str) -> str:
    """A variable of another process's environment; "" when it has none or may not be read."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    found = [entry for entry in entries if entry.startswith(name.encode() + b"=")]
    return found[0].partition(b"=")[2].decode("utf-8", "replace") if found else ""


def _memory(pid: int) -> int:
    """Proportional set size of a process and its children, in bytes; 0 where the system does not tell."""
    total = 0
    for child in _family(pid):
        try:
            for line in Path(f"/proc/{child}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def _family(pid: int) -> list[int]:
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        try:
            for task in Path(f"/proc/{current}/task").iterdir():
                queue += [int(word) for word in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


_: type[base.Engine] = EmbeddedEngine  # the protocol is filled completely: mypy proves it here
