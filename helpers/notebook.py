"""JupyterLab as a part: its container specification and its URL."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from helpers import elsewhere, safe_files, server_secrets
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.gpu.accelerator import Accelerator
from helpers.services import JUPYTER, DeviceRequest, Health, Mount, PartSpec, Port, State
from helpers.settings import Settings
from helpers.stack import TITLES, local_host, notebook_environment, notebook_options, public_url

UID = 1000  # jovyan
GID = 100  # users
REPOSITORY = "trackbed/jupyter-mlflow"
DATA = "/mnt"
HOME = "/home/jovyan"
STARTUP = "/opt/trackbed/startup"
CERTIFICATES = "site-ca.pem"  # beside the secrets: the notebook's own, and no secret
COOKIE_FILE = "jupyter-cookie"
COOKIE = "cookies of {JUPYTER_TOKEN}"  # what JupyterLab signs them with: another token ends every cookie
ALIVE = "import sys, urllib.request as u; sys.exit(u.urlopen('http://127.0.0.1:8888/api', timeout=4).status != 200)"


def workspace_owner(settings: Settings) -> int:
    """The uid the notebook runs as: the workspace's owner, who will make it, or jovyan where that would be root.

    0 on a rootless engine, where the container's root is the user whom the workspace belongs to.
    """
    if settings.notebook_uid is not None:
        return settings.notebook_uid
    try:
        owner = settings.workspace.stat().st_uid
    except OSError:
        owner = os.geteuid() or int(os.environ.get("SUDO_UID", 0))
    return owner or UID


def group(uid: int) -> int:
    """The group the notebook runs in: jovyan's, or with root's number (rootless engines) the user's own."""
    return GID if uid else 0


def workspace_problem(workspace: Path, uid: int, gid: int = GID, groups: Collection[int] = ()) -> tuple[str, str]:
    """Why an account could not write to a workspace that is there, and what to type; ("", "") where nothing shows it.

    ``groups``: further ones that the account is in. From its mode alone: what a server of files, SELinux or a
    container's engine refuses is seen by trying.
    """
    try:
        found = workspace.stat()
        if os.statvfs(workspace).f_flag & os.ST_RDONLY:
            return f"WORKSPACE {workspace} is on a file system that is mounted read-only", read_only_fix(workspace)
        if sys.platform == "linux" and any(
            name.endswith("_acl_access") or name.endswith("nfs4_acl") for name in os.listxattr(workspace)
        ):
            return "", ""  # the mode does not tell
    except OSError:
        return "", ""
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in (gid, *groups) else 0
    if (found.st_mode >> shift) & 0o3 == 0o3:
        return "", ""
    quoted = shlex.quote(str(workspace))
    if found.st_uid == uid:
        return f"WORKSPACE {workspace} cannot be written by its owner", f"chmod u+rwx {quoted}"
    who = "root" if found.st_uid == 0 else f"uid {found.st_uid}"
    return (
        f"WORKSPACE {workspace} belongs to {who}, the notebook's user could not write to it",
        give_line(workspace, uid, gid),
    )


def give_line(workspace: Path, uid: int, gid: int) -> str:
    """The line that gives a workspace and all that is in it to an account."""
    return (
        f"{'' if os.geteuid() == 0 else 'sudo '}chown -hR {uid}:{gid} {shlex.quote(str(workspace))}"
        "   (or name another folder in WORKSPACE)"
    )


def other_folder(workspace: Path) -> str:
    """What to do where neither owner nor mode is the reason: a file server, SELinux, a quota."""
    try:
        enforcing = Path("/sys/fs/selinux/enforce").read_text().strip() == "1"
    except OSError:
        enforcing = False
    if enforcing:
        return f"sudo chcon -Rt container_file_t {shlex.quote(str(workspace))}   (or name another folder in WORKSPACE)"
    return (
        "name a folder on a disk of this machine in WORKSPACE; this one may be a file server's, which does not let "
        "the notebook's account in"
    )


def read_only_fix(workspace: Path) -> str:
    """What to do about a workspace on a file system that cannot be written."""
    return (
        f"mount it writable (findmnt -T {shlex.quote(str(workspace))} shows what it is), or name another folder in "
        "WORKSPACE"
    )


def make_workspace(
    workspace: Path, uid: int = UID, gid: int = GID, callers: bool = True, private: bool = False
) -> None:
    """Make the workspace folder, owned by who will write to it. A folder that was there keeps its owner and its mode.

    ``callers``: made through sudo it belongs to who called that. ``private``: other accounts do not get in, but for the
    group of who called sudo. Raises TrackbedError for one that the notebook could
    not write, and as root for one behind a link that a notebook may have put there.
    """
    try:
        if os.geteuid() != 0:
            workspace.mkdir(parents=True, mode=0o700 if private else 0o755, exist_ok=True)
            return
        caller = int(os.environ.get("SUDO_UID", 0))
        handle, made = safe_files.make_way(workspace, {caller})
        try:
            details = os.fstat(handle)
            if made and private:
                safe_files.chmod(handle, 0o750)
                gid = int(os.environ.get("SUDO_GID", gid))
            if made and callers and caller:
                safe_files.chown(handle, caller, int(os.environ.get("SUDO_GID", gid)))
            elif made:
                safe_files.chown(handle, uid, gid)
        finally:
            os.close(handle)
        if not made and details.st_uid == 0 and not details.st_mode & 0o002:
            raise TrackbedError(
                f"WORKSPACE {workspace} belongs to root, the notebook's user could not write to it",
                give_line(workspace, uid, gid),
            )
    except (FileExistsError, NotADirectoryError):
        raise TrackbedError(f"WORKSPACE {workspace} is not a folder", "name another folder in WORKSPACE") from None
    except OSError as error:
        raise TrackbedError(
            f"WORKSPACE {workspace} cannot be made: {error.strerror}", "name a folder you may write to in WORKSPACE"
        ) from None


def give_workspace(workspace: Path, old: int, uid: int, gid: int) -> safe_files.Given:
    """Give the workspace of the account ``old`` and what that owns below it to another one; nothing where it has none.

    For root. No link is followed; files with several names keep their owner.
    """
    if safe_files.owner(workspace) != old:
        return safe_files.Given()
    handle, _ = safe_files.make_way(workspace, set())
    try:
        return safe_files.give_tree(handle, old, uid, gid)
    finally:
        os.close(handle)


def image(settings: Settings, accelerator: Accelerator) -> str:
    """The user's image, or our own for this kind of GPU."""
    return settings.jupyter_image or f"{REPOSITORY}:{accelerator.tag}"


def requests(accelerator: Accelerator) -> tuple[DeviceRequest, ...]:
    """What the engine itself is asked to inject."""
    if accelerator.cdi:
        return (DeviceRequest("cdi", accelerator.cdi),)
    return (DeviceRequest("", accelerator.request),) if accelerator.request else ()


def container_spec(
    settings: Settings,
    accelerator: Accelerator,
    data: Mount | None = None,
    asks: bool = False,
    instance: str = "",
    way_out: Mapping[str, str] | None = None,
    person: str = "",
) -> PartSpec:
    """The notebook as a container on the frontend network, with its GPUs and, read-only, its data set. ``asks``: MLflow
    asks for its token; ``instance``: the system's id; ``way_out``: variables of proxies and certificates;
    ``person``: whose runs they are."""
    further = tuple(_further(words) for words in settings.jupyter_volumes)
    uid = workspace_owner(settings)
    return PartSpec(
        name=JUPYTER,
        title=TITLES[JUPYTER],
        container=f"{settings.project}-jupyter",
        hostname=JUPYTER,
        image=image(settings, accelerator),
        command=(
            "start-notebook.py",
            f"--ServerApp.root_dir={HOME}/work",
            "--ServerApp.ip=0.0.0.0",
            "--ServerApp.port=8888",
            "--ServerApp.open_browser=False",
            f"--ServerApp.cookie_secret_file=/run/secrets/{COOKIE_FILE}",
            *(() if uid else ("--ServerApp.allow_root=True",)),
            *notebook_options(settings),
        ),
        environment={
            **(way_out or {}),
            **accelerator.environment,
            **({"FOOD11_DATA_DIR": f"{DATA}/Food-11"} if data else {}),
            **(elsewhere.environment(settings, "/run/secrets") if settings.tracking_uri else {}),
            **server_secrets.notebook_environment("/run/secrets", asks),
            **notebook_environment(settings, settings.tracking_uri or "http://mlflow:8000", instance, STARTUP, person),
            "JUPYTER_TOKEN_FILE": "/run/secrets/jupyter-token",
            "HOME": HOME,
            **({} if uid else {"NB_USER": "root", "NB_UID": "0", "NB_GID": "0"}),  # words of docker-stacks: stay root
        },
        # behind the gateway it publishes nothing, and MLflow is on a network of its own
        ports=() if settings.public else (Port("http", 8888, settings.jupyter_port, settings.bind_address),),
        mounts=(
            Mount("bind", str(settings.workspace), f"{HOME}/work"),
            Mount("volume", f"{settings.project}_secrets-jupyter", "/run/secrets", read_only=True),
            *((data,) if data else ()),
            *further,
        ),
        networks=(f"{settings.project}_frontend", *((f"{settings.project}_tracking",) if settings.public else ())),
        user=f"{uid}:{group(uid)}",
        group_add=accelerator.groups,
        devices=accelerator.devices,
        device_requests=requests(accelerator),
        ulimits=accelerator.ulimits,
        working_dir=f"{HOME}/work",
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),  # its root stays writable: people install packages in it
        health=Health(("python", "-c", ALIVE), interval=15, timeout=5, retries=4, start_period=60),
        memory=settings.jupyter_memory,
        pids=settings.pids_limit * 8,  # data loaders and BLAS start threads by the core
        shm_size=settings.jupyter_shm_size,  # data loaders of several processes share batches through it
        restart="always",
        stop_grace=10,
    )


def _further(words: str) -> Mount:
    source, target, mode = (*words.split(":"), "")[:3]
    return Mount("bind" if source.startswith("/") else "volume", source, target, mode == "ro")


def url(engine: Engine, settings: Settings, token: str) -> str:
    """The one line to paste into a browser: the published port of the running notebook. TrackbedError if it is down."""
    for status in engine.parts():
        if status.name == JUPYTER:
            if status.state in (State.MISSING, State.EXITED) or not (status.ports or settings.public):
                break
            if settings.public:
                return f"{public_url(settings, JUPYTER)}/lab?token={token}"
            return f"http://{local_host(settings)}:{status.ports[0].published}/lab?token={token}"
    raise TrackbedError("JupyterLab is not running", "`invoke up` starts it")
