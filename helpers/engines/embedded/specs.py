"""What runs: each service's command and environment as data, and the same as programs for the supervisor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from helpers import clone, database_settings, digests, services, urls
from helpers.engines import jupyterlab
from helpers.engines.embedded import launch
from helpers.engines.embedded.accounts import ROLE_OF
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.embedded.environments import OWN, Environments
from helpers.engines.supervisor_config import Program
from helpers.project import mlflow_jobs, remote_tracking, server_secrets
from helpers.service_accounts import DATABASE, NOTEBOOK, SERVER
from helpers.services import JUPYTER, MLFLOW, POSTGRES, Plan, ServiceSpec

SECRETS_MARK = "TRACKBED_SECRETS"
GPU_MARK = "TRACKBED_NOTEBOOK_GPU"  # what the running notebook was started with
# The notebook's own: the caller's PATH differs between shells, and another one would mean another notebook.
TOOLS = (
    "/usr/local/cuda/bin:/opt/rocm/bin:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
)
FINAL_CODES = {MLFLOW: (78,)}  # EX_CONFIG: it will not get better by being started again
START_SECONDS = {POSTGRES: 2, MLFLOW: 10, JUPYTER: 4}  # an end before that counts as a failed start


class Specs(EmbeddedComponent):
    def __init__(self, deployment: EmbeddedDeployment, environments: Environments) -> None:
        super().__init__(deployment)
        self.environments = environments

    def plan(self, engine: str) -> Plan:
        here = self.deployment
        services = tuple(self.spec(name) for name in here.services)
        return Plan(engine, self.settings.project, services, secrets=here.secret_files())

    def spec(self, service: str) -> ServiceSpec:
        return {POSTGRES: self._postgres, MLFLOW: self._mlflow, JUPYTER: self._jupyter}[service]()

    def _common(self, role: str) -> dict[str, str]:
        return {
            "HOME": str(self.layout.accounts.home(role)),
            "LANG": "C.UTF-8",
            **self.deployment.inherited_environment(self.settings.jupyter_env if role == NOTEBOOK else ()),
        }

    # PostgreSQL

    def _postgres(self) -> ServiceSpec:
        jobs = mlflow_jobs.enabled(self.deployment)
        files = [f"{name}_file={self.deployment.app}/pg_{name}.conf" for name in ("hba", "ident")]
        return ServiceSpec(
            POSTGRES,
            services.TITLES[POSTGRES],
            environment=self._common(DATABASE),
            stop_signal="INT",
            stop_grace=30,
            command=(
                self.environments.program("postgres"),
                *("-D", str(self.deployment.database_folder)),
                *("-k", str(self.layout.sockets)),
                *("-c", "listen_addresses="),
                *(word for file in files for word in ("-c", file)),
                *database_settings.options(database_settings.max_connections(self.settings.mlflow_workers, jobs)),
            ),
            working_dir=str(self.folder),
        )

    # MLflow

    def _mlflow(self) -> ServiceSpec:
        return ServiceSpec(
            MLFLOW,
            services.TITLES[MLFLOW],
            environment=self._common(SERVER) | self._stores() | self._server() | self._choices(),
            stop_grace=40,
            command=(str(self.environments.venv(MLFLOW).python), str(self.deployment.app / "start.py"), "serve"),
            ports=self.deployment.ports(MLFLOW),
            depends_on={POSTGRES: "healthy"},
            working_dir=str(self.folder),
        )

    def _stores(self) -> dict[str, str]:
        """Where its database and its artifacts are."""
        settings, active = self.settings, self.project.state.active
        external = self.deployment.object_store == "external"
        bucket, folder = f"s3://{settings.s3_bucket}/{active['prefix']}", self.deployment.artifacts / active["prefix"]
        size, overflow = database_settings.pool(settings.mlflow_workers)
        variables = {
            # no password: the socket's folder is private, and PostgreSQL asks the kernel who is there (peer)
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{database_settings.USER}@/{active['database']}"
            f"?host={quote(str(self.layout.sockets))}",
            "MLFLOW_ARTIFACTS_DESTINATION": bucket if external else folder.as_uri(),
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(size),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(overflow),
        }
        if external:
            variables |= {
                "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint,
                "AWS_DEFAULT_REGION": settings.s3_region,
                "AWS_SHARED_CREDENTIALS_FILE": str(self.deployment.secrets / "aws-credentials"),
            }
        return variables

    def _server(self) -> dict[str, str]:
        """Where it listens, for whom, and what is its own."""
        settings, secrets, temporary = self.settings, self.deployment.secrets, str(self.folder / "tmp")
        return {
            "MLFLOW_SERVER_ALLOWED_HOSTS": urls.allowed_hosts(self.deployment),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": urls.cors_origins(self.deployment),
            "TRACKBED_STORE_NETWORK": jupyterlab.store_network(self.deployment),
            "TRACKBED_HOST": settings.bind_address,
            "TRACKBED_PORT": str(settings.mlflow_port),
            "TRACKBED_WORKERS": str(settings.mlflow_workers),
            "TRACKBED_FAST_PATH": settings.mlflow_fast_path,
            server_secrets.FOLDER_VARIABLE: str(secrets),
            server_secrets.ACCESS_VARIABLE: str(secrets / server_secrets.ACCESS_FILE),
            # the secrets are read at the start only: other ones are another program
            SECRETS_MARK: self.project.credentials_digest(),
            "TRACKBED_CODE": digests.digest(*clone.server_files()),  # and so is other code, after an update
            "TRACKBED_MEMORY_LIMIT": settings.memory_limit,  # no container does it here
            "TMPDIR": temporary,  # uploads are buffered there whole
            "TRACKBED_OWN_TMP": temporary,  # what a killed server left there goes at its next start
            # the venv may belong to root: without byte code of its own the server starts twice as slowly
            "PYTHONPYCACHEPREFIX": str(self.folder / "pycache"),
        }

    def _choices(self) -> dict[str, str]:
        """What only some projects have."""
        variables = {}
        if migrate := os.environ.get("TRACKBED_MIGRATE"):
            variables["TRACKBED_MIGRATE"] = migrate  # an older schema is migrated only when asked
        if mlflow_jobs.enabled(self.deployment):
            variables |= {"TRACKBED_JOBS": "on", "TRACKBED_JOBS_MODELS": self.settings.mlflow_jobs_models}
        return variables

    # JupyterLab

    def _jupyter(self) -> ServiceSpec:
        settings, chosen, packages = self.settings, self.deployment.accelerator, self.environments.packages
        return ServiceSpec(
            JUPYTER,
            services.TITLES[JUPYTER],
            stop_grace=10,
            command=(
                str(packages / "bin" / "python"),
                *("-m", "trackbed_notebook.jupyterlab", "--no-browser"),
                f"--ServerApp.ip={settings.bind_address}",
                f"--ServerApp.port={settings.jupyter_port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={self.deployment.workspace}",
                f"--ServerApp.cookie_secret_file={self.deployment.secrets}/{jupyterlab.COOKIE_FILE}",
                *jupyterlab.options(settings),
            ),
            environment={
                **self._common(NOTEBOOK),
                **chosen.environment,
                **self._connections(),
                **self._jupyter_folders(),
                GPU_MARK: str(chosen),
                SECRETS_MARK: self.deployment.notebook_digest(),
            },
            ports=self.deployment.ports(JUPYTER),
            group_add=chosen.groups,
            devices=chosen.nodes,
            working_dir=str(self.deployment.workspace),
        )

    def _connections(self) -> dict[str, str]:
        """The data set, the tracking server and how the notebook logs in there."""
        settings, secrets = self.settings, str(self.deployment.secrets)
        data = self.deployment.data_set()
        server = f"http://{settings.bind_address}:{settings.mlflow_port}"
        return {
            **({"FOOD11_DATA_DIR": str(Path(data) / "Food-11")} if data else {}),
            **(remote_tracking.environment(settings, secrets) if self.deployment.notebook_only else {}),
            **server_secrets.notebook_environment(secrets, self.project.asks),
            "SHELL": shutil.which("bash", path=TOOLS) or "/bin/sh",
            **jupyterlab.environment(self.deployment, server, str(self.deployment.startup)),
            "JUPYTER_TOKEN_FILE": f"{secrets}/jupyter-token",
        }

    def _jupyter_folders(self) -> dict[str, str]:
        """Where its programs, extensions, settings and byte code are."""
        venv, packages, own = self.environments.venv(JUPYTER), self.environments.packages, self.folder / "jupyter"
        programs = f"{packages / 'bin'}:{venv.folder / 'scripts'}"
        return {
            "TRACKBED_PROGRAMS": programs,
            "PATH": f"{programs}:{TOOLS}",
            "VIRTUAL_ENV": str(packages),
            # Jupyter looks in its Python's own environment only
            "JUPYTERLAB_DIR": str(venv.folder / "share" / "jupyter" / "lab"),
            "JUPYTER_PATH": f"{packages / 'share' / 'jupyter'}:{venv.folder / 'share' / 'jupyter'}",
            "JUPYTER_CONFIG_PATH": ":".join(
                map(str, (packages / "etc" / "jupyter", self.deployment.startup, venv.folder / "etc" / "jupyter"))
            ),
            "PYTHONPYCACHEPREFIX": str(own / "pycache"),  # the locked packages may belong to root
            "PYTHONPATH": str(self.deployment.startup),  # MLflow finds the plugins for its links and login there
            # the user's own Jupyter settings stay out: they may hold a password or another port
            "JUPYTER_CONFIG_DIR": str(own / "config"),
            "JUPYTER_DATA_DIR": str(own / "data"),
            "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
            "IPYTHONDIR": str(own / "ipython"),
        }

    # for the supervisor

    def programs(self) -> tuple[Program, ...]:
        return tuple(map(self.program, self.deployment.services))

    def program(self, name: str) -> Program:
        spec = self.spec(name)
        return Program(
            name,
            *self._launched(spec),
            stop_signal=spec.stop_signal or "TERM",
            stop_seconds=spec.stop_grace,
            start_seconds=START_SECONDS[name],
            final_codes=FINAL_CODES.get(name, ()),
            group=name != POSTGRES,
            listens=next(((port.address, port.published) for port in spec.ports if name == MLFLOW), None),
        )

    def _launched(self, spec: ServiceSpec) -> tuple[tuple[str, ...], Mapping[str, str], str]:
        """Command, environment and folder for the supervisor: as root the service's account is taken on first."""
        if not self.layout.as_root:
            return spec.command, spec.environment, spec.working_dir
        launcher = (str(self.environments.venv(OWN).python), "-I", "-S", str(self.deployment.app / "launch.py"))
        account = self.layout.accounts.name(ROLE_OF[spec.name])
        command = (*launcher, account, ",".join(spec.group_add), spec.working_dir, *spec.command)
        return command, {launch.PREFIX + key: value for key, value in spec.environment.items()}, "/"

    def digest(self) -> str:
        """Changes with anything that the services are made from."""
        return digests.digest(
            [program.__dict__ for program in self.programs()],
            self.project.credentials_digest(),
            [file.template for file in self.deployment.secret_files()],
            *clone.server_files(),
            *(part for file in clone.notebook_files().items() for part in file),
        )
