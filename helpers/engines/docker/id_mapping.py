"""Which account of the machine a container's uid is: with user namespaces (rootless, userns-remap) another one."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import safe_files

LENGTH = 65536  # ids that an account is usually given


@dataclass(frozen=True)
class IdMapping:
    """``base``: the machine's id of the container's id ``first``. ``root_uid``: the container's root (rootless)."""

    kind: str = ""  # "", rootless or userns-remap
    base: int = 0
    first: int = 0
    root_uid: int = -1

    @property
    def rootless(self) -> bool:
        """Whether the engine runs as a normal user, who is root in its containers."""
        return self.kind == "rootless"

    def to_container(self, uid: int) -> int | None:
        """What an account of the machine is in a container; None when it has no number there."""
        if not self.kind:
            return uid
        if self.rootless and uid == self.root_uid:
            return 0
        result = uid - self.base + self.first
        return result if self.base and self.first <= result < LENGTH else None

    def to_host(self, uid: int) -> int | None:
        """What a container's id is on the machine; None when that is not known."""
        if not self.kind:
            return uid
        if self.rootless and uid == 0:
            return self.root_uid
        return self.base + uid - self.first if self.base else None


def read(info: Mapping[str, Any], subuid: str = "/etc/subuid") -> IdMapping:
    """From the engine's own words (`docker info`)."""
    options = " ".join(map(str, info.get("SecurityOptions") or ()))
    if "name=rootless" in options:
        # its data are its user's; root may ask it too
        own = safe_files.owner(Path(str(info.get("DockerRootDir") or "/nowhere"))) if os.geteuid() == 0 else -1
        own = own if own > 0 else os.geteuid()
        return IdMapping("rootless", _subordinate(own, subuid), 1, own)
    if "name=userns" in options:
        # data of a remapped engine lie in a folder that is called by its first ids
        match = re.search(r"/(\d+)\.\d+/?$", str(info.get("DockerRootDir", "")))
        return IdMapping("userns-remap", int(match[1]) if match else 0)
    return IdMapping()


def _subordinate(uid: int, path: str) -> int:
    """The first id that an account may use for its containers; 0 when that is not known."""
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
        lines = Path(path).read_text().splitlines()
    except (KeyError, OSError):
        return 0
    for line in lines:
        name, _, rest = line.partition(":")
        first = rest.partition(":")[0]
        if name in names and first.isdigit():
            return int(first)
    return 0
