"""What `invoke doctor` looks at on a Docker engine and nowhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from helpers.engines.base import Engine
from helpers.engines.checks import Checks, closed_workspace, site_in_containers
from helpers.engines.docker import availability, client_config, images, iptables
from helpers.engines.docker.network_guard import NetworkGuard
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.gpu import advice
from helpers.plurals import counted
from helpers.shell_words import account, as_root


def _rules(number: int) -> str:
    return f"{counted(number, 'drop rule')} {'is' if number == 1 else 'are'}"


class DockerChecks(Checks):
    """Its client, its GPUs, its networks, and what of this project's names is there."""

    def __init__(self, engine: Engine, guard: NetworkGuard) -> None:
        super().__init__(engine)
        self.guard = guard
        self.deployment = guard.deployment

    def presence(self, needed: bool, instead: str) -> list[Finding]:
        podman = shutil.which("podman")
        if podman and os.path.realpath(shutil.which("docker") or "") == os.path.realpath(podman):
            return [
                Finding(
                    Level.ERROR,
                    "docker",
                    "docker is Podman here, which is not supported yet",
                    f"install docker-ce; without it: {instead}" if instead else "install docker-ce",
                )
            ]
        result = self.engine.availability()
        if result.usable:
            return [Finding(Level.OK, "docker", result.reason)]
        level = Level.ERROR if result.present or needed else Level.WARNING
        try:
            release = Path("/etc/os-release").read_text()
        except OSError:
            release = ""
        fix = result.fix if result.present or availability.installed() else install_lines(release)
        return [Finding(level, "docker", result.reason, f"{fix}; without it: {instead}" if instead else fix)]

    def workspace(self, others: bool) -> list[Finding]:
        return [] if self.engine.host.remote else closed_workspace(self.deployment.workspace, others)

    def client(self) -> list[Finding]:
        """What it lacks for building and pulling images."""
        result = []
        if not availability.has_buildx():
            result.append(Finding(Level.ERROR, "buildx", *images.BUILDX))
        result += [
            Finding(Level.WARNING, "credentials", *images.credential_problem(program))
            for program in client_config.missing_helpers(os.environ)
        ]
        return result

    def gpu(self) -> list[Finding]:
        """NVIDIA's runtime or its CDI devices, without which the engine cannot hand a GPU over."""
        chosen = self.engine.accelerator
        if not chosen.request or "nvidia" in self.deployment.info.get("Runtimes", {}):
            return []
        missing = advice.advice("no known GPU vendor found")
        return [
            Finding(
                Level.WARNING,
                "gpu",
                f"{chosen} ({chosen.reason}); Docker shows neither NVIDIA's runtime nor its CDI devices",
                missing[1] if missing else "",
            )
        ]

    def uplink(self) -> Finding:
        interface, mtu = self.engine.host.uplink()
        if not interface or not mtu or mtu >= 1500:
            return super().uplink()
        return Finding(
            Level.OK,
            "network",
            f"uplink {interface} has MTU {mtu}; the networks are made with the same "
            "(larger packets would hang TLS in containers)",
        )

    def site_network(self) -> Finding:
        """Proxies and certificates of the site, and those that containers cannot reach."""
        return site_in_containers(self.deployment.site_network)

    def leftovers(self) -> list[Finding]:
        """Data that nothing remembers, and what is here of this name that is not ours."""
        result = []
        try:
            self.engine.check_foreign()
        except TrackbedError as error:
            result.append(Finding(Level.ERROR, "leftovers", error.message, error.hint))
        if not self.deployment.project.state.engine and self.engine.data():
            result.append(
                Finding(
                    Level.WARNING,
                    "leftovers",
                    "volumes of this project exist without its state",
                    "`invoke up --adopt` takes them over",
                )
            )
        return result

    def exposure(self) -> list[Finding]:
        """Whether machines on the same network can reach ports published on 127.0.0.1, and the rules against it."""
        version = self.guard.reachable_from_network
        if not version:
            return [Finding(Level.OK, "exposure", "this engine keeps ports published on 127.0.0.1 to this machine")]
        text = f"Docker {version}: before 28, machines on the same network can reach ports published on 127.0.0.1"
        rules = self.guard.rules()
        if not rules:  # the notebook alone, or an engine elsewhere
            return [Finding(Level.WARNING, "exposure", text, "upgrade to Docker 28 or newer on that machine")]
        typed = "; ".join(iptables.lines(rules))
        if not iptables.may_change():
            return [
                Finding(
                    Level.WARNING,
                    "exposure",
                    f"{text}, unless drop rules are set (only root can tell)",
                    f"upgrade to Docker 28 or newer, or type: {typed}",
                )
            ]
        if not self.deployment.project.state.engine:
            return [Finding(Level.OK, "exposure", f"{text}; `invoke up` sets drop rules against it")]
        if missing := set(rules) - set(iptables.existing(self.deployment.settings.project)):
            return [
                Finding(
                    Level.WARNING,
                    "exposure",
                    f"{text}; {_rules(len(missing))} not set",
                    f"`invoke up` sets what is missing; by hand: {typed}",
                )
            ]
        return [Finding(Level.OK, "exposure", f"{text}; {_rules(len(rules))} set against it")]

    def limits(self) -> list[Finding]:
        """That memory is neither limited nor counted, which a rootless engine says of itself."""
        if self.deployment.limits_memory:
            return []
        return [
            Finding(
                Level.WARNING,
                "limits",
                "this engine neither limits nor counts memory: MEMORY_LIMIT and JUPYTER_MEMORY have no effect",
                "rootless Docker does with cgroup v2 and systemd",
            )
        ]


def install_lines(release: str) -> str:
    """How to get a Docker engine on this distribution, or how to repair it."""
    fields = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    distribution = fields.get("ID", "").strip('"')
    like = fields.get("ID_LIKE", "").strip('"').split()
    start = "systemctl enable --now docker"
    if distribution in ("debian", "ubuntu") or "debian" in like:
        commands = ["curl -fsSL https://get.docker.com | sh"]
    elif distribution in ("fedora", "rhel", "centos", "rocky", "almalinux") or {"rhel", "fedora"} & set(like):
        repository = "https://download.docker.com/linux/fedora/docker-ce.repo"
        install = "dnf install docker-ce docker-compose-plugin"
        commands = [f"dnf config-manager addrepo --from-repofile={repository}", install, start]
    elif distribution == "arch" or "arch" in like:
        commands = ["pacman -S docker docker-compose docker-buildx", start]
    else:
        return "https://docs.docker.com/engine/install/"
    if os.geteuid() == 0:
        return " && ".join(commands)
    return f"{' && '.join(map(as_root, [*commands, f'usermod -aG docker {account()}']))}, then log in again"
