"""Where a machine over ssh is, and what the ssh client's words mean when it cannot be reached."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import urlsplit

from helpers import commands
from helpers.errors import EngineUnavailable


@dataclass(frozen=True)
class Target:
    """Where ``ssh://[USER@]HOST[:PORT][/SOCKET]`` leads; the host may be an alias of the user's ssh configuration."""

    host: str
    user: str = ""
    port: int = 0
    socket: str = ""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises EngineUnavailable for what is no such address."""
        try:
            parts = urlsplit(url)
            result = cls(parts.hostname or "", parts.username or "", parts.port or 0, parts.path.rstrip("/"))
        except ValueError:
            result = cls("")
        # the host's case matters to aliases, which urlsplit lowers
        written = re.search(re.escape(result.host), url, re.IGNORECASE)
        result = cls(written[0] if written else "", result.user, result.port, result.socket)
        if (
            parts.scheme != "ssh"
            or parts.password
            or parts.query
            or not re.fullmatch(r"[\w.:%][\w.:%-]*", result.host)
            or not re.fullmatch(r"[\w.@\\+-]*", result.user)
            or result.user.startswith("-")
        ):
            raise EngineUnavailable(
                f"DOCKER_HOST={url} is not the address of a machine over ssh",
                "write it as ssh://USER@HOST or ssh://USER@HOST:PORT",
            )
        return result

    @property
    def name(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def words(self) -> tuple[str, ...]:
        """What `ssh` takes to get there."""
        return (*(("-p", str(self.port)) if self.port else ()), self.name)

    @property
    def typed(self) -> str:
        """The same, for a line that a person copies."""
        return shlex.join(self.words)


def explain(target: Target, text: str) -> EngineUnavailable:
    """What the ssh client's own words mean, and what to do."""
    name, typed = target.name, target.typed
    if "IDENTIFICATION HAS CHANGED" in text:
        known = target.host if target.port in (0, 22) else f"[{target.host}]:{target.port}"
        return EngineUnavailable(
            f"the host key of {name} is not the one that this computer remembers",
            f"if it was reinstalled: ssh-keygen -R {shlex.quote(known)}, then ssh {typed} "
            "true and compare the key; otherwise someone may sit between",
        )
    if "Host key verification failed" in text:
        return EngineUnavailable(
            f"the host key of {name} is not known here yet",
            f"once: ssh {typed} true, compare the key it shows and answer yes",
        )
    if "Permission denied" in text or "Too many authentication failures" in text:
        return EngineUnavailable(
            f"{name} does not let this user in with a key (Trackbed never asks for a password)",
            f"ssh-copy-id {typed}, or ssh-add the key that it knows",
        )
    if match := re.search(r"Could not resolve hostname (\S+?):", text):
        return EngineUnavailable(f"there is no machine named {match[1]}", "look at DOCKER_HOST, or at ~/.ssh/config")
    if match := re.search(
        r"Connection refused|(?:Connection|Operation) timed out|No route to host"
        r"|Network is unreachable|Connection closed|Connection reset|timed out during banner",
        text,
    ):
        return EngineUnavailable(
            f"{name} does not answer: {match[0]}", f"is it on, and does its firewall let ssh in? Try: ssh {typed} true"
        )
    return EngineUnavailable(f"ssh to {name} failed: {commands.last_line(text)}", f"try: ssh {typed} true")
