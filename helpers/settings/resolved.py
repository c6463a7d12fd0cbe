"""``Settings``: the one validated object that everything else reads.

A value is taken from the first place that has one: flags, TRACKBED_ variables, ``.env`` (bare names),
what an earlier ``invoke up`` was told, the default. An empty value means the default.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from helpers.errors import SettingError
from helpers.settings import dotenv, generated, sources
from helpers.settings.model import BY_NAME, TABLE, Declared
from helpers.settings.parsers import LOOPBACK, ParseContext
from helpers.settings.sources import CHOSEN, DEFAULT, FOREIGN, LAST_UP, LOCATING, Value, error, named, parse

# Among what is remembered: the address that the cloud's metadata service named. No setting: nobody was told it.
FOUND_ADDRESS = "FOUND_ADDRESS"
_PORTS = ("MLFLOW_PORT", "JUPYTER_PORT", "S3_PORT", "S3_CONSOLE_PORT")


def default_state_dir() -> Path:
    """Where state lives when nobody says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/trackbed")
    return Path(platformdirs.user_state_dir("trackbed", appauthor=False))


@dataclass(frozen=True)
class Inputs:
    """What settings are found in, but for what is remembered: flags, variables, and .env as it was read.

    ``chosen``: what a command decides by itself, over all of these. ``first_folder``: the folder of the project that
    was found before another one was chosen (a dry run under another name), whose keys of an external store count too.
    """

    flags: Mapping[str, str | None]
    environ: Mapping[str, str]
    env_file: Path
    file: dotenv.EnvFile
    chosen: Mapping[str, str] = field(default_factory=dict)
    first_folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Settings(Declared):
    """All settings, valid. Secrets are "" where ``credentials`` is to make them; they are never shown."""

    clone: Path
    explicit: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    passthrough: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    inputs: Inputs = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """This project's folder in the state folder."""
        return self.state_dir / self.project

    @property
    def data_folder(self) -> Path:
        """The data sets of DATA_VOLUME where no engine has volumes: a folder beside the projects, whose name no project
        can have."""
        return self.state_dir / ".data" / self.data_volume

    @property
    def acme(self) -> bool:
        """Whether the gateway's certificates come from an ACME server."""
        return self.public and (self.certificates == "acme" or (self.certificates == "auto" and bool(self.domain)))

    @property
    def gateway_address(self) -> str:
        """What the gateway binds to: a floating IP is on no interface, so every one unless somebody chose."""
        return self.bind_address if self.origin("BIND_ADDRESS") != DEFAULT else "0.0.0.0"

    @property
    def backup_place(self) -> str:
        """BACKUP_TO, whose folder needs no / at its end where it is no flag, which may name a file."""
        named = self.backup_to
        if not named or named.startswith("s3:") or self.origin("BACKUP_TO").startswith("--"):
            return named
        return f"{named.rstrip('/')}/"

    @property
    def env_file(self) -> Path:
        return self.clone / ".env"

    def origin(self, name: str) -> str:
        """Where a value came from: "--mlflow-port", "TRACKBED_MLFLOW_PORT", ".env line 4", "default"."""
        return self.origins.get(name.upper().replace("-", "_"), DEFAULT)

    def check_store(self, engine: str, stores: tuple[str, ...]) -> None:
        """Refuse an object store that an engine does not have. Raises SettingError."""
        store = self.object_store
        if store not in ("auto", *stores):
            raise error(
                "OBJECT_STORE",
                store,
                self.origin("OBJECT_STORE"),
                f"the {engine} engine (ENGINE={self.engine}, {named(self.origin('ENGINE'))}) has no such store; "
                f"must be one of {', '.join(('auto', *stores))}.",
            )

    @classmethod
    def load(
        cls,
        flags: Mapping[str, str | None],
        environ: Mapping[str, str],
        env_file: Path,
        remembered: Mapping[str, str] | Callable[[Path], Mapping[str, str]],
    ) -> Settings:
        """Find, check and freeze every value; raises SettingError with one line.

        ``flags`` are named like settings in any spelling (mlflow_port, mlflow-port); None is not given.
        ``remembered`` is what earlier ``up`` were told, or gives it for the project's folder.
        """
        return cls._resolve(Inputs(dict(flags), dict(environ), env_file, dotenv.read(env_file)), remembered)

    def reload(self, remembered: Mapping[str, str], **chosen: str) -> Settings:
        """Resolved and checked again from the same places, with what is remembered now and ``chosen`` over all.

        Those are named as fields; "" is the default. Raises SettingError.
        """
        first = self.inputs.first_folder or self.folder
        return self._resolve(
            replace(self.inputs, chosen={**self.inputs.chosen, **chosen}, first_folder=first), remembered
        )

    @classmethod
    def _resolve(cls, inputs: Inputs, remembered: Mapping[str, str] | Callable[[Path], Mapping[str, str]]) -> Settings:
        flags, environ, file = inputs.flags, inputs.environ, inputs.file
        left = generated.read(file)
        clone = Path(os.path.abspath(inputs.env_file)).parent
        context = ParseContext(clone, environ.get("HOME") or os.path.expanduser("~"))
        warnings: list[str] = []
        lookup = sources.Lookup(
            context,
            command=(
                {name.upper(): Value(raw, CHOSEN) for name, raw in inputs.chosen.items()},
                sources.from_flags(flags),
                sources.from_environ(environ, left, warnings),
            ),
            files=(sources.from_file(file, warnings), sources.from_left(left)),
            sourced=sources.sourced(environ, left),
        )
        values, origins = lookup.values, lookup.origins
        for name in LOCATING:
            lookup.resolve(BY_NAME[name], {})
        state_dir: Path = values["STATE_DIR"] or default_state_dir()
        values["STATE_DIR"] = state_dir
        _check_state_dir(state_dir, clone, context, origins.get("STATE_DIR", DEFAULT))
        folder = state_dir / values["PROJECT"]
        last = remembered(folder) if callable(remembered) else remembered
        for setting in TABLE:
            if setting.name not in LOCATING:
                lookup.resolve(setting, last)
        if values["PUBLIC"] and not values["DOMAIN"] and not values["PUBLIC_ADDRESS"] and last.get(FOUND_ADDRESS):
            values["PUBLIC_ADDRESS"] = parse(BY_NAME["PUBLIC_ADDRESS"], Value(last[FOUND_ADDRESS], LAST_UP), context)
        if values["WORKSPACE"] is None:
            values["WORKSPACE"] = folder / "workspace"
        settings = cls(
            **{BY_NAME[name].field: value for name, value in values.items()},
            clone=clone,
            explicit=lookup.explicit,
            texts=lookup.texts,
            passthrough={
                e.name: e.value
                for e in file.entries
                if e.value and FOREIGN.fullmatch(e.name) and not e.name.startswith("COMPOSE_")
            },
            warnings=(*warnings, *_tracking_warnings(values, origins)),
            origins=origins,
            inputs=inputs,
        )
        _check_together(settings)
        return settings


def _within(path: Path, parent: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(parent))


def _check_state_dir(state_dir: Path, clone: Path, context: ParseContext, origin: str) -> None:
    parse(BY_NAME["STATE_DIR"], Value(str(state_dir), origin), context)  # the default can be odd, too
    if _within(state_dir, clone):
        raise error(
            "STATE_DIR",
            str(state_dir),
            origin,
            f"must lie outside the clone {clone}, where `git clean` would delete the database.",
        )


def _tracking_warnings(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """What is not wrong about a remote tracking server, but may not be meant."""
    uri = values["TRACKING_URI"]
    if not uri:
        names = ("TRACKING_USERNAME", "TRACKING_PASSWORD", "TRACKING_TOKEN", "TRACKING_CA")
        return [
            f"{name} (from {origins[name]}) is for a remote tracking server, and TRACKING_URI is not set; ignored."
            for name in names
            if values[name] and not origins[name].startswith((LAST_UP, "--"))
        ]
    if values["TRACKING_PASSWORD"] and not values["TRACKING_USERNAME"]:
        return ["TRACKING_PASSWORD without TRACKING_USERNAME is not used."]
    login = values["TRACKING_TOKEN"] or values["TRACKING_USERNAME"]
    if login and uri.startswith("http://") and urlsplit(uri).hostname not in ("localhost", "127.0.0.1", "::1"):
        return [f"the login goes to {uri} unencrypted; use https:// where the server has it."]
    return []


def _check_together(settings: Settings) -> None:
    if not settings.public and not ipaddress.IPv4Address(settings.bind_address).is_loopback:
        raise error("BIND_ADDRESS", settings.bind_address, settings.origin("BIND_ADDRESS"), LOOPBACK)
    if settings.public and ":" in settings.public_address:
        raise error(
            "PUBLIC_ADDRESS",
            settings.public_address,
            settings.origin("PUBLIC_ADDRESS"),
            "must be an IPv4 address or a name; containers are reached over IPv4.",
        )
    place, origin = settings.backup_to, settings.origin("BACKUP_TO")
    if place and not origin.startswith("--") and not place.startswith(("s3://", "/", "~")):
        raise error("BACKUP_TO", place, origin, f"must be {BY_NAME['BACKUP_TO'].allowed}.")
    seen: dict[int, str] = {}
    for name in (*_PORTS, *(("HTTP_PORT", "HTTPS_PORT") if settings.acme else ())):
        port: int = getattr(settings, name.lower())
        if port in seen:
            one, other = name, seen[port]
            if settings.origin(one) == DEFAULT:
                one, other = other, one  # blame the one that somebody set
            raise error(
                one,
                str(port),
                settings.origin(one),
                f"must differ from {other}={port} ({named(settings.origin(other))}); two services cannot share a port.",
            )
        seen[port] = name
    if settings.tracking_uri and settings.tracking_token and settings.tracking_username:
        raise SettingError(
            f"TRACKING_TOKEN (from {settings.origin('TRACKING_TOKEN')}): must not be set together with "
            f"TRACKING_USERNAME ({named(settings.origin('TRACKING_USERNAME'))}); a server takes one."
        )
    work = settings.workspace
    origin = settings.origin("WORKSPACE")
    if _within(settings.state_dir, work):
        raise error(
            "WORKSPACE",
            str(work),
            origin,
            f"must not hold the state folder {settings.state_dir}, or the notebook could read every secret.",
        )
    if _within(work, settings.folder) and work != settings.folder / "workspace":
        raise error(
            "WORKSPACE",
            str(work),
            origin,
            f"must not lie in {settings.folder}, which holds the secrets.",
            str(settings.folder / "workspace"),
        )
    _check_store(settings)


def _check_store(settings: Settings) -> None:
    store = settings.object_store
    if store == "external":
        for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
            folders = (settings.folder, settings.inputs.first_folder or settings.folder)
            kept = any(os.path.lexists(folder / "secrets" / f"EXTERNAL_{name}") for folder in folders)
            if not getattr(settings, name.lower()) and not kept:
                raise SettingError(
                    f"{name} is missing: OBJECT_STORE=external "
                    f"({named(settings.origin('OBJECT_STORE'))}) needs it; "
                    f"must be {BY_NAME[name].allowed}."
                )
    elif settings.s3_endpoint and settings.origin("S3_ENDPOINT") != LAST_UP:
        raise error(
            "S3_ENDPOINT",
            settings.s3_endpoint,
            settings.origin("S3_ENDPOINT"),
            f"is for OBJECT_STORE=external only; OBJECT_STORE is {store} ({named(settings.origin('OBJECT_STORE'))}).",
        )
