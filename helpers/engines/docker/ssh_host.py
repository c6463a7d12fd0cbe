"""Which machine runs the containers; a node over ssh, with its ports and folders as they are seen from here."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from helpers import addresses, commands
from helpers.engines.docker import client, client_config
from helpers.engines.docker import ssh as nodes
from helpers.engines.host import Host, HostFacts, LocalHost
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.gpu import probe
from helpers.gpu.detect import Machine
from helpers.project import workspace_folder
from helpers.project.state import State
from helpers.services import Address, Port
from helpers.settings import DEFAULT, Settings

DISK = """\
folder=$1
while ! df -Pk "$folder" >/dev/null 2>&1 && [ "$folder" != / ]; do folder=$(dirname "$folder"); done
df -Pk "$folder" | tail -n 1
cat /proc/meminfo
"""
PORTS = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; exit 0"
UPLINK = """\
interface=$(awk '$2 == "00000000" {print $1; exit}' /proc/net/route)
[ -z "$interface" ] || echo "$interface $(cat "/sys/class/net/$interface/mtu")"
"""
FOLDER = '[ ! -d "$1" ] || echo yes'
CONTENT = 'ls -A -- "$1" 2>/dev/null | head -n 1'
SEPARATOR = "-- next specification --"
SPECIFICATIONS = f"""\
for folder; do
  for file in "$folder"/*.json "$folder"/*.yaml; do
    [ ! -f "$file" ] || {{ cat "$file"; echo; echo "{SEPARATOR}"; }}
  done
done
"""
OWNER = 'stat -c %u -- "$1" 2>/dev/null; exit 0'
WORKSPACE = """\
umask 022
if [ ! -e "$1" ]; then
  mkdir -p -- "$1" && chmod 700 -- "$1" || exit 1
  [ "$(id -u)" != 0 ] || chown "$2" -- "$1"
fi
[ -d "$1" ] || { echo "it is not a folder" >&2; exit 1; }
[ "$(stat -c %u -- "$1")" != 0 ] || [ -n "$(find "$1" -maxdepth 0 -perm -002)" ] || exit 3
"""


class SSHHost(LocalHost):
    """A node over ssh. Its folders are the node's: nothing of it is looked for here."""

    remote: ClassVar[bool] = True

    def __init__(self, node: nodes.Node) -> None:
        self.node = node
        self.url = node.url
        self.name = node.target.name
        self.tunnel = node.target.typed
        self._uplink: tuple[str, int] | None = None
        self._listening: frozenset[tuple[str, int]] | None = None

    def default_workspace(self, settings: Settings) -> Path:
        """The folder in the state folder that a toolkit of that user would use there."""
        state = "/var/lib/trackbed" if self.node.uid == 0 else f"{self.node.home}/.local/state/trackbed"
        return Path(state, settings.project, "workspace")

    def workspace(self, settings: Settings) -> tuple[Path, int | None]:
        workspace = settings.workspace
        if settings.origin("WORKSPACE") == DEFAULT:
            workspace = self.default_workspace(settings)
        owner = self._ask(OWNER, str(workspace)).strip()
        uid = int(owner) if owner.isdigit() else self.node.uid
        return workspace, uid or workspace_folder.UID

    def make_workspace(self, workspace: Path) -> None:
        owner = f"{workspace_folder.UID}:{workspace_folder.GID}"
        done = self.node.run(WORKSPACE, str(workspace), owner)
        if done.code == 3:
            raise TrackbedError(
                f"WORKSPACE {workspace} on {self.name} belongs to root, so the notebook's user cannot write to it",
                f"there: chown -hR {owner} {shlex.quote(str(workspace))}   (or name another in WORKSPACE)",
            )
        if done.code:
            reason = commands.last_line(done.stderr)
            raise TrackbedError(
                f"WORKSPACE {workspace} on {self.name} cannot be made: {reason}",
                "name a folder in WORKSPACE that this user may write to there",
            )

    def reach(self, port: Port) -> Address:
        return Address("127.0.0.1", self.node.port(port.published, port.address or "127.0.0.1"))

    def is_free(self, address: str, port: int) -> bool:
        if self._listening is None:
            self._listening = addresses.listening(self._ask(PORTS))
        return not any((where, port) in self._listening for where in (address, "0.0.0.0", "::"))

    def holder(self, port: int) -> str:
        return f"a process on {self.name}"

    def uplink(self) -> tuple[str, int]:
        if self._uplink is None:
            fields = self._ask(UPLINK).split()
            self._uplink = (fields[0], int(fields[1])) if len(fields) == 2 and fields[1].isdigit() else ("", 0)
        return self._uplink

    def is_folder(self, path: str) -> bool:
        return self._ask(FOLDER, path).strip() == "yes"

    def is_empty(self, folder: str) -> bool:
        return not self._ask(CONTENT, folder).strip()

    def look(self) -> dict[str, Any] | None:
        done = self.node.python(Path(probe.__file__).read_bytes())
        try:
            return dict(json.loads(done.stdout)) if done.code == 0 else None
        except ValueError:
            return None

    def specifications(self, folders: Iterable[str]) -> tuple[str, ...]:
        return tuple(filter(None, self._ask(SPECIFICATIONS, *folders).split(SEPARATOR)))

    def facts(self, info: Mapping[str, Any], machine: Machine) -> HostFacts:
        root = str(info.get("DockerRootDir", "/"))
        lines = self._ask(DISK, root).splitlines()
        fields = lines[0].split() if lines else []
        memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:] if len(line.split()) == 3}
        return HostFacts(
            **client.machine(info, self.name),
            memory_available=memory.get("MemAvailable", 0),
            disk_free=int(fields[3]) * 1024 if len(fields) > 3 else 0,
            disk_path=f"{root} on {self.name}",
            remote=True,
            machine=machine,
        )

    def _ask(self, script: str, *args: str) -> str:
        done = self.node.run(script, *args)
        if done.code:
            last = commands.last_line(done.stderr, f"exit code {done.code}")
            raise EngineUnavailable(f"{self.name} does not answer: {last}", f"try: ssh {self.tunnel} true")
        return done.stdout


def host(state: State, environ: Mapping[str, str] = os.environ) -> Host:
    """The machine that this project's containers are on, or that its first `up` shall use; connected.

    A project stays where its data is: what the environment says must agree. Raises EngineUnavailable.
    """
    if node := nodes.reached(environ.get("DOCKER_HOST", "")):
        return SSHHost(node)
    asked, origin = client_config.endpoint(environ)
    if state.engine == "docker":
        explicit = bool(environ.get("DOCKER_HOST") or environ.get("DOCKER_CONTEXT"))
        if state.node and not explicit:
            asked, origin = state.node, f"ssh {state.node}"
        if state.node and asked != state.node:
            raise EngineUnavailable(
                f"this project runs on {state.node}, and {origin or 'DOCKER_CONTEXT'} is another engine",
                "unset DOCKER_HOST and DOCKER_CONTEXT to go on there; --project=NAME starts another project",
            )
        if not state.node and asked.startswith("ssh://"):
            raise EngineUnavailable(
                f"this project's data is on this machine's engine, and {origin} is another one",
                "unset DOCKER_HOST (or choose the Docker context `default`) to go on here; --project=NAME starts "
                "another project there",
            )
    if asked.startswith("ssh://"):
        return SSHHost(nodes.reach(asked))
    if asked and not asked.startswith(("unix://", "npipe://")):
        raise EngineUnavailable(
            f"{origin} is another machine, and not one over ssh: its ports and folders cannot be reached from here",
            "name it as ssh://USER@HOST, or run Trackbed on that machine",
        )
    return LocalHost()
