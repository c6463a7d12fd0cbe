"""The virtual environments of a project, and what lies in them: PostgreSQL's programs, the notebook's own packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers import bundle_file, bundles, clone, commands, database_settings, side_by_side
from helpers.bundle_file import Bundle
from helpers.engines.embedded import postgres_wheels, venvs
from helpers.engines.embedded.deployment import EmbeddedComponent
from helpers.errors import TrackbedError
from helpers.gpu import node_types, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.service_accounts import NOTEBOOK
from helpers.services import JUPYTER, MLFLOW, ProgressReporter

OWN = "embedded"  # the venv of supervisor and PostgreSQL
TORCH_FILE = re.compile(r"torch-(.+?)(?:-requirements\.txt|\.in)$")
SHOWN = ("mlflow", "jupyterlab", "supervisor", *postgres_wheels.WHEELS)  # by `versions`


class Environments(EmbeddedComponent):
    """One venv for supervisor and PostgreSQL, one for MLflow, one for JupyterLab; over that the notebook's own."""

    bundle: Bundle | None = None  # what they are made from, where no index may be asked; it is verified and open
    named: Accelerator | None = None  # the GPUs of another machine, for which a bundle is made

    def venv(self, name: str) -> venvs.Venv:
        root = self.folder / "venvs"
        match name:
            case "embedded":
                return venvs.Venv(root, name, Path(__file__).with_name("embedded-requirements.txt"))
            case "mlflow":
                return venvs.Venv(root, name, clone.MLFLOW_FOLDER / "requirements.txt")
            case _:
                lock = clone.JUPYTER_FOLDER / "requirements.txt"
                return venvs.Venv(root, name, lock, upgraded=not self.layout.as_root, extras=self.torch())

    def required(self) -> tuple[venvs.Venv, ...]:
        """Those that this project needs."""
        return tuple(
            self.venv(name) for name in (OWN, MLFLOW, JUPYTER) if name != MLFLOW or MLFLOW in self.deployment.services
        )

    def torch(self) -> tuple[venvs.Extra, ...]:
        """PyTorch and the metrics package of the GPU's vendor, each from its own index.

        Without a GPU there is nothing, or PyTorch for the CPU where TORCH=cpu asks for it.
        """
        chosen, settings = self.named or self.deployment.accelerator, self.settings
        extras = []
        if chosen.kind != node_types.NONE:
            extras.append(venvs.Extra(clone.JUPYTER_FOLDER / f"metrics-{chosen.variant}-requirements.txt", hashed=True))
        if settings.torch == wheels.CPU or (settings.torch == wheels.AUTO and chosen.kind != node_types.NONE):
            lock, hashed = wheels.requirements(chosen.torch, settings.torch_index)
            extras.append(venvs.Extra(lock, wheels.index(chosen.torch, settings.torch_index), hashed))
            extras.append(venvs.Extra(clone.JUPYTER_FOLDER / "lightning-requirements.txt", hashed=True, alone=True))
        return tuple(extras)

    @property
    def packages(self) -> Path:
        """The notebook's own environment: what it installs goes there, and comes before the locked packages."""
        version = self.venv(JUPYTER).in_use().site.parent.name.removeprefix("python")
        return self.folder / "jupyter" / f"packages-{version}"

    @property
    def torch_build(self) -> str:
        """The build of PyTorch among them, as in "cpu" or "rocm7.2"; "" for none."""
        names = [extra.requirements.name for extra in self.torch()]
        return next((match[1] for name in names if (match := TORCH_FILE.match(name))), "")

    @property
    def programs(self) -> Path:
        """The folder of PostgreSQL's programs."""
        return postgres_wheels.programs(self.venv(OWN).in_use().site)

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(self.programs / name)

    @property
    def supervisord(self) -> Path:
        return self.venv(OWN).folder / "bin" / "supervisord"

    def versions(self) -> dict[str, str]:
        versions: dict[str, str] = {}
        for venv in self.required():
            versions.update(venv.versions(SHOWN))
        return versions

    def initdb(self, folder: Path) -> list[str]:
        """What makes an empty database in a folder; the same locale on every engine, so that dumps move."""
        return [
            self.program("initdb"),
            *("-D", str(folder), "-U", database_settings.ADMIN, "-A", "peer"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"),
        ]

    def make(self, progress: ProgressReporter) -> tuple[str, ...]:
        """Make those that are missing or from another lock; gives their names."""
        minor = self.bundle.minor() if self.bundle else ""
        required = self.required()
        for venv in required:
            if venv.close_lock():
                progress.step(f"the lock file of {venv.name} was open to every account of this machine: closed")
        identity = self.deployment.identity(MLFLOW)
        interpreter, *problems = side_by_side.each(
            [lambda: venvs.interpreter(identity, minor), *(venv.problem for venv in required)]
        )
        missing = [(venv, problem) for venv, problem in zip(required, problems, strict=True) if problem]
        with self._wheels(bool(missing), progress) as wheels:
            for number, (venv, problem) in enumerate(missing, 1):
                progress.step(f"{number} of {len(missing)}: installing {venv.name} ({problem})")
                venv.make(interpreter, progress, wheels)
        return tuple(venv.name for venv, _ in missing)

    @contextmanager
    def _wheels(self, needed: bool, progress: ProgressReporter) -> Iterator[Path | None]:
        """A folder with the bundle's wheels for as long as they are installed; None without a bundle."""
        if not self.bundle or not needed:
            yield None
            return
        size = sum(self.bundle.entries[name].size for name in self.bundle.names(bundle_file.WHEELS))
        bundles.require_room(self.folder, 4 * size, "installing the bundle's wheels")  # packed, unpacked, and some room
        with bundles.scratch_folder(self.folder) as folder:
            progress.step("unpacking the wheels of the bundle")
            self.bundle.unpack(bundle_file.WHEELS, str(folder))
            yield folder

    def make_packages(self) -> None:
        """The notebook's own environment, by its own account: all of it is the notebook's to change."""
        venv = self.venv(JUPYTER)
        argv = [str(venv.python), "-I", str(self.deployment.app / "overlay.py"), str(self.packages)]
        if self.layout.as_root:  # a normal user's own home is left alone
            argv.append(str(self.layout.accounts.home(NOTEBOOK)))
        who = self.deployment.identity(JUPYTER)
        # limited: the account's other processes may trace it and make it say anything
        done = commands.run(argv, None, 60, limited=True, cwd="/", env={}, umask=0o077, **who)
        if done.code:
            raise TrackbedError(
                f"the notebook's own environment could not be created: {commands.last_line(done.stderr)}",
                f"remove {self.packages}, then type `invoke up` again",
            )
        venv.scripts(self.packages / "bin" / "python")

    def remove_outdated(self) -> None:
        """Remove the venvs of earlier locks; only after what ran from them was replaced."""
        for venv in self.required():
            venv.remove_outdated()
