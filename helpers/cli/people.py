"""Who gets in, and with what: users, credentials, lines for another machine's shell."""

from __future__ import annotations

from collections.abc import Callable

from helpers import console, gateway, lifecycle, status
from helpers.cli import options
from helpers.cli.status import show_services
from helpers.project import users
from helpers.settings.flags import Flags
from helpers.settings.resolved import Settings


def list_users(given: Flags) -> None:
    names = sorted(users.load(options.load(given).settings))
    for name in names:
        console.value(name)
    if not names:
        console.notice("no logins yet; `invoke users.add NAME` creates one")


def add_user(given: Flags, name: str) -> None:
    _change_user(given, name, users.add)


def new_password(given: Flags, name: str) -> None:
    _change_user(given, name, users.passwd)


def remove_user(given: Flags, name: str) -> None:
    _change_user(given, name, users.remove)


def _change_user(given: Flags, name: str, change: Callable[[Settings, str], str]) -> None:
    project = options.load(given)
    password = lifecycle.change_users(project, console.notice, lambda: change(project.settings, name))
    if password:
        console.notice(f"the password of {name}, shown this once:")
        console.value(password)
    else:
        console.notice(f"{name} can no longer log in")
    if not project.is_public:
        console.notice("logins count with PUBLIC=true only: `invoke up --public`")


def env(given: Flags, name: str) -> None:
    project = options.load(given)
    status.running(project)
    console.value(gateway.client_lines(project, name or None))


def show_credentials(given: Flags, format: str, json: bool) -> None:
    format = options.output_format(format, json, "table", "json", "env")
    project = options.load(given)
    status.running(project)
    secrets = project.credentials()
    pairs = [(name, secrets[name]) for name in secrets.names if secrets[name]]
    if format == "json":
        console.as_json(dict(pairs))
    elif format == "env":
        console.as_env(pairs)
    else:
        console.table(("secret", "value"), pairs)


def rotate_credentials(given: Flags) -> None:
    project = options.load(given)
    with console.Progress() as progress:
        view, kept = lifecycle.rotate(project, progress, progress.notice)
    show_services(view)
    if kept:
        console.notice(
            "not changed, because they were given (.env, environment or a remote tracking server): " + ", ".join(kept)
        )
