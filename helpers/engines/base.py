"""The engine protocol: what status, logs, check, dry-run, probes and backups stand on.

An engine runs the services of a project (``helpers.services``). Everything above this module names services and never
asks which engine it has: what differs is a member of the protocol, with what holds for most as default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Protocol

from helpers.bundles import Bundle, Packing
from helpers.engines.checks import Checks
from helpers.engines.data_volume import DataVolume
from helpers.engines.host import HostFacts
from helpers.engines.streaming import Pipe
from helpers.errors import TrackbedError
from helpers.gpu.accelerator import Accelerator
from helpers.project.backup_runs import Runs
from helpers.project.deployment import Deployment
from helpers.services import (
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
    Details,
    DeviceRequest,
    ExecResult,
    Health,
    Hide,
    Mount,
    Network,
    Plan,
    Port,
    ProgressReporter,
    SecretFile,
    ServiceSpec,
    ServiceStatus,
    StartReport,
    State,
    Volume,
)
from helpers.settings import Settings

if TYPE_CHECKING:
    from helpers.engines.host import Host

# for those who stand on the protocol: its words are the data's
__all__ = [
    "BUCKET",
    "GATEWAY",
    "JUPYTER",
    "MLFLOW",
    "POSTGRES",
    "STORE",
    "STORE_SYNC",
    "Address",
    "Availability",
    "DataItem",
    "Details",
    "DeviceRequest",
    "Engine",
    "ExecResult",
    "Health",
    "Hide",
    "HostFacts",
    "Mount",
    "Network",
    "Plan",
    "Port",
    "ProgressReporter",
    "SecretFile",
    "ServiceSpec",
    "ServiceStatus",
    "StartReport",
    "State",
    "Volume",
]


class Engine(Protocol):
    """Where the services run. Made from settings by ``select``; cheap to make, does nothing until asked."""

    name: ClassVar[str]
    disk_needed: ClassVar[int] = 3 << 30  # bytes for a first start: images or venvs, a database, a first artifact
    stores: ClassVar[tuple[str, ...]] = ("folder", "external")  # what OBJECT_STORE may name
    runs_containers: ClassVar[bool] = False  # services run from images, with volumes and limits of their own
    adopts: ClassVar[bool] = False  # whether data that lost its state folder can be taken over
    can_be_public: ClassVar[bool] = False  # the notebook is kept away from what a login protects
    in_cluster: ClassVar[bool] = False  # services run on nodes of which this machine need not be one
    is_automatic: ClassVar[bool] = True  # taken where nobody names an engine
    asked_at_once: ClassVar[bool] = False  # may be asked by several threads, and is faster then
    own_loopback: ClassVar[bool] = False  # the notebook's localhost is not the machine's
    runs_schedules: ClassVar[bool] = False  # a schedule of backups is its own, not this machine's
    by_hand: ClassVar[str] = ""  # the tool that can start what `invoke prepare` has made
    alternative: ClassVar[str] = ""  # why to take it where another one cannot be used, as in "to run without Docker"
    lacks: ClassVar[str] = ""  # what others have and it does not, told where it is taken because they are not there
    without_network: ClassVar[str] = "use --engine=docker or --engine=embedded"
    larger_disk: ClassVar[str] = "set STATE_DIR to a folder on a larger disk"
    deployment: Deployment
    """What holds for this project here: its services, the object store, the notebook's folder."""

    @property
    def settings(self) -> Settings:
        """As they hold on the machine that runs the services."""

    @property
    def host(self) -> Host:
        """The machine that runs the services, known once `availability` was asked for."""

    @property
    def object_store(self) -> str:
        """Where artifacts are: minio, versitygw, external, or a folder."""
        return self.deployment.object_store

    @property
    def accelerator(self) -> Accelerator:
        """What ``--gpu`` means here. Raises TrackbedError where the word contradicts the machine."""

    @property
    def neighbours(self) -> str:
        """Who may reach the services' ports past this machine's accounts, in words; "" for nobody."""
        return f"others may have accounts on {self.host.url}" if self.host.url else ""

    def availability(self) -> Availability:
        """Can it be used, and if not, why and how to fix it."""

    def remarks(self) -> tuple[str, ...]:
        """What the user should be told before a start: which GPUs and why, a data set that is empty."""

    def plan(self) -> Plan:
        """The services as data."""

    def plan_anew(self) -> None:
        """What the plan is read from has changed: ports were chosen, images have come, the workspace has its owner.

        What was found of the machine is kept.
        """
        return

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        """Make what services are made from (images, venvs) where missing or outdated; gives what was made."""

    def pack(self, into: Packing) -> None:
        """Put into a bundle all that `prepare` would build or fetch; it is made here where it is missing."""
        raise TrackbedError(f"a bundle has nothing for the {self.name} engine", self.without_network)

    def take_bundle(self, bundle: Bundle, progress: ProgressReporter) -> None:
        """Have `prepare` take all from a bundle, whose hashes were compared. Raises TrackbedError where it lacks
        something, or was made for another machine or from another version."""
        raise TrackbedError(f"the {self.name} engine takes nothing from a bundle", self.without_network)

    def fingerprint(self) -> str:
        """A hash of all that the services are made from; another one means that ``start`` has work to do."""

    def unchanged(self) -> tuple[ServiceStatus, ...]:
        """The services where each runs exactly as ``plan`` says, so that ``up`` has only to look; () where not."""

    def start(self, progress: ProgressReporter) -> StartReport:
        """Bring up every service that is not up as planned. Idempotent and bounded. Raises ServiceFailed."""

    def stop(self, progress: ProgressReporter, drain: int = 40) -> tuple[str, ...]:
        """Stop the services, notebook first, after ``drain`` seconds for running requests; keeps data. Gives names."""

    def data(self) -> tuple[DataItem, ...]:
        """What ``remove_data`` would delete."""

    def remove_data(self, progress: ProgressReporter, keep_workspace: bool = False) -> tuple[str, ...]:
        """Delete all data of this project, or all but the notebook's files. Only after ``stop``. Gives what stays, as
        lines to tell."""

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        """The state of every service, in the order of the plan; ``detail`` adds memory (slower)."""

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        """Log lines of a service, oldest first; with ``follow`` until interrupted."""

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        """Run a command in a running service, as its user and with its environment."""

    def begin(self, service: str, argv: tuple[str, ...], timeout: float = 120) -> Callable[[], ExecResult]:
        """``exec`` while the caller does something else: what this gives waits for the end. Here it does all of it."""
        return lambda: self.exec(service, argv, timeout=timeout)

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 600
    ) -> ExecResult:
        """Run a command in a fresh copy of a service (same image, environment, volumes); works when it is stopped."""

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        """A command in a service whose input and output stream; ``fresh``: in a copy of it, also when it is down."""

    def feed(self, service: str, argv: tuple[str, ...]) -> AbstractContextManager[Pipe]:
        """A command in a fresh copy of a service that reads much: by a shorter way, where there is one and the command
        knows it: from a named pipe, whose path is its last word then."""
        return self.pipe(service, argv, fresh=True)

    def unlisted(self) -> tuple[str, ...]:
        """The names of the active artifacts that the object store holds and does not list."""

    def halt(self, service: str, progress: ProgressReporter) -> None:
        """Stop one service, with the time to finish that it has; ``start`` brings it back. Nothing when it is down."""

    def resume(self, service: str, progress: ProgressReporter) -> None:
        """Start a service that ``halt`` stopped, exactly as it was."""

    def open(self, service: str, port: str) -> AbstractContextManager[Address]:
        """An address of that port this machine can reach while the context lasts."""

    def host_facts(self) -> HostFacts:
        """What the machine that runs the services has."""

    @property
    def workspace_inside(self) -> str:
        """The notebook's workspace as the notebook sees it."""

    def workspace_problem(self) -> tuple[str, str]:
        """Why the notebook could not write to its workspace, and what to type, as far as it shows before a start."""

    def workspace_fix(self) -> str:
        """What to type so that the notebook may write to all of its workspace."""

    def take_workspace(self, progress: ProgressReporter) -> None:
        """Make a workspace that was another engine's the own notebook's, before the first start."""

    def data_volume(self) -> DataVolume:
        """Where the notebook's data sets are. Raises TrackbedError where DATA_VOLUME names nothing that can be one."""

    def access_token(self) -> str:
        """What MLflow asks its clients for, "" where it asks for nothing."""

    def versions(self) -> Mapping[str, str]:
        """Engine, service and schema versions by name."""

    # what differs between engines, with what holds for most of them

    def script(self, plan: Plan) -> str:
        """A bash script that does by hand what ``start`` would do for that plan. No secret in it."""

    def adopt(self) -> bool:
        """Take over data whose state folder was lost, where the engine finds one owner; writes it to the state."""
        return False

    def check_foreign(self) -> None:
        """Refuse to touch what has this project's names and is another's. Raises TrackbedError."""
        return

    def close_ports(self) -> None:
        """Close what this machine has open to services that are elsewhere; they are not asked, and may be gone."""
        return

    def make_volumes(self) -> bool:
        """What holds data and secrets, for a start ``by_hand``. True when the database's was there."""
        return False

    def variables_by_hand(self) -> Mapping[str, str]:
        """What the tool ``by_hand`` has to be told, left in the clone; no secret among it."""
        return {}

    def network_guard(self) -> tuple[str, ...]:
        """Keep others on the network away, where the engine does not. Gives what to tell: what was set, or to type."""
        return ()

    def start_at_boot(self) -> tuple[str, ...]:
        """See that the services start with the machine. Gives what to tell. Raises TrackbedError where nothing can."""
        raise TrackbedError(f"the {self.name} engine starts nothing at boot", "`invoke up` starts it after a reboot")

    @classmethod
    def stay_off_at_boot(cls, settings: Settings) -> tuple[str, ...]:
        """Take away what `start_at_boot` left on this machine. Gives what to tell."""
        return ()

    @classmethod
    def left_behind(cls, settings: Settings) -> Path | None:
        """The folder of this engine's data in the project's state folder, where there is one."""
        return None

    def put_users(self) -> tuple[str, ...]:
        """Hand the users to the gateway, where there is one: also one that a start left which failed, or that other
        settings end with the next. Gives what to tell, where it does not take them at once."""
        return ()

    def put_start_page(self, content: bytes) -> None:
        """Hand the MLflow server what it shows on its start page; it runs on, and reads that at the next look."""
        return

    def notebook_outdated(self) -> bool:
        """Whether `start` would restart JupyterLab: what runs was started from something else than what is now."""
        return False

    def start_schedule(self) -> tuple[str, ...]:
        """Run the schedule of the project's state folder from now on, where ``runs_schedules``. Gives what to tell."""
        return ()

    def end_schedule(self) -> tuple[str, ...]:
        """Run it no more; nothing where it does not. Gives what to tell."""
        return ()

    def scheduled_runs(self) -> Runs | None:
        """How the backups went that it made by itself; None where the schedule is not its own."""
        return None

    @property
    def check_result(self) -> tuple[str, str]:
        """The service and the path of the artifact check after an unclean stop; "" where there is none."""
        return "", ""

    def disk_warning(self) -> str:
        """What to tell where `prepare` may fill the disk."""
        return ""

    def port_owners(self) -> Mapping[int, str]:
        """Who else has published a port, as the engine knows them."""
        return {}

    def process(self, status: ServiceStatus) -> str:
        """Another one once the service's process was started again, where its ``identity`` stays."""
        return status.identity

    def lowest_port(self) -> int:
        """Below this port no service may listen."""
        return 0

    def details(self, service: str, hide: Hide) -> Details:
        """A service as it was last started, read from what runs it and never from its own account's word; else the
        plan's. Raises KeyError where neither has it."""
        return Details(hide(self.plan().service(service)), planned=True)

    @property
    def checks(self) -> Checks:
        """What `invoke doctor` looks at on this engine and nowhere else."""
        return Checks(self)
