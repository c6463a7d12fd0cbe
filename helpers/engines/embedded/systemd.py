"""`invoke up --on-boot`: a systemd unit that brings the services back after a reboot.

As root it is a unit of the system, else one of the user.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from helpers import machine_failures, systemd
from helpers.errors import TrackbedError
from helpers.settings import Settings

START_LIMIT = 900  # seconds: venvs may have to be made again


def name(settings: Settings) -> str:
    return systemd.on_boot(settings.project)


def path(settings: Settings) -> Path:
    """Where the unit is written to."""
    return systemd.folder() / name(settings)


def unit(settings: Settings, python: str, search_path: str, as_root: bool) -> str:
    """The unit's text: `up` at boot, `down` at shutdown, from this clone with this Python."""
    where = [f"--project={settings.project}", f"--state-dir={settings.state_dir}"]

    def command(task: str) -> str:
        return " ".join(systemd.word(word) for word in (python, "-m", "invoke", task, *where))

    return (
        "[Unit]\n"
        f"Description=Trackbed {settings.project}: MLflow, PostgreSQL and JupyterLab\n"
        "After=network-online.target\n"
        "Wants=network-online.target\n\n"
        "[Service]\n"
        "Type=oneshot\n"
        "RemainAfterExit=yes\n"
        f"WorkingDirectory={systemd.escaped(str(settings.clone))}\n"
        f"Environment={systemd.word(f'PATH={search_path}')}\n"
        f"ExecStart={command('up')}\n"
        f"ExecStop={command('down')}\n"
        f"TimeoutStartSec={START_LIMIT}\n"
        "TimeoutStopSec=120\n\n"
        "[Install]\n"
        f"WantedBy={'multi-user.target' if as_root else 'default.target'}\n"
    )


def install(settings: Settings) -> tuple[str, ...]:
    """Write and enable the unit; gives what to tell. Raises TrackbedError where there is no systemd."""
    if not systemd.usable():
        raise TrackbedError(
            "systemd did not start this machine, so it would never run a unit",
            f"let what starts programs here run: cd {shlex.quote(str(settings.clone))} && "
            f"{shlex.quote(sys.executable)} -m invoke up "
            f"--project={settings.project} --state-dir={shlex.quote(str(settings.state_dir))}",
        )
    target = path(settings)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(unit(settings, sys.executable, os.environ.get("PATH", os.defpath), os.geteuid() == 0))
    except OSError as error:
        raise machine_failures.at(target, error) from None
    systemd.ask("daemon-reload")
    systemd.ask("enable", target.name)
    lines = (f"{target} starts everything at boot; `invoke up --on-boot=false` removes it",)
    return lines if systemd.lingers() else (*lines, "to come up before you log in: loginctl enable-linger")


def remove(settings: Settings) -> tuple[str, ...]:
    """Disable and delete the unit; nothing where there is none. Gives what to tell."""
    target = path(settings)
    if not target.exists():
        return ()
    if systemd.usable():
        systemd.ask("disable", target.name)
    target.unlink(missing_ok=True)
    return (f"{target} was removed: nothing starts at boot",)
