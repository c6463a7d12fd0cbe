"""Where the text of a setting comes from: flags, environment, ``.env``, what the last ``up`` was told."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.errors import SettingError
from helpers.settings.declaration import Setting
from helpers.settings.dotenv import Entry, EnvFile
from helpers.settings.model import BY_NAME, BY_OPTION
from helpers.settings.parsers import InvalidValue, ParseContext
from helpers.suggestions import did_you_mean, nearest, shown

PREFIX = "TRACKBED_"
LAST_UP = "the last `invoke up`"
CHOSEN = "this command"
DEFAULT = "default"
# What locates the state, by the variable that `up` leaves in the clone for it.
LOCATING = {"PROJECT": "COMPOSE_PROJECT_NAME", "STATE_DIR": PREFIX + "STATE_DIR"}
# Among what `up` leaves with Docker, and nothing that anybody sets: a shell that has it has sourced all of that.
SOURCED = PREFIX + "SECRETS"

# Read by tests, the test environment, the images and the services; never settings.
RESERVED = re.compile(
    r"TRACKBED_(TRACEBACK|VERBOSE|SCREENSHOTS|SRC|REQUIRE_(DOCKER|BROWSER|FAKETIME|KUBERNETES|SHELLS)|KUBERNETES_BINARIES|MIGRATE|SYSTEM_ENGINE|INSTANCE_OF_PROCESS|BROWSER_URL|SERVER_URI|TRACKING_SECRETS|SERVER_JOBS|SERVER_JOBS_MODELS|JOB_TOKEN|MAX_CONNECTIONS|SECRETS|SECRETS_FOLDER|START_PAGE|ACCESS_TOKEN_FILE|GATEWAY_KEY_FILE|STARTUP|PROGRAMS|STORE_NETWORK|OWN_TMP|CODE|S3_CREATE|STORE_SYNC|STORE_SYNC_TOKEN_FILE|FEED|NOTEBOOK_GPU|FAULT_[A-Z]+|EQUAL_[A-Z]+|RIG_[A-Z0-9_]*)"
)
# Taken from .env as they are: they belong to Docker, Compose and the network, not to Trackbed.
FOREIGN = re.compile(
    r"(COMPOSE|DOCKER)_[A-Z0-9_]+|BUILDKIT_[A-Z0-9_]+|NO_COLOR"
    r"|(?i:(http|https|ftp|no|all)_proxy)"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|(REQUESTS|CURL|AWS)_CA_BUNDLE|NODE_EXTRA_CA_CERTS|PIP_CERT|GIT_SSL_CAINFO"
)
# Names from other people's texts about the same services, and those that the server has for them.
OTHER_NAMES = {
    "AWS_ACCESS_KEY_ID": "S3_ACCESS_KEY",
    "AWS_DEFAULT_REGION": "S3_REGION",
    "AWS_ENDPOINT_URL": "S3_ENDPOINT",
    "AWS_REGION": "S3_REGION",
    "AWS_SECRET_ACCESS_KEY": "S3_SECRET_KEY",
    "FAST_PATH": "MLFLOW_FAST_PATH",
    "JOBS": "MLFLOW_JOBS",
    "JOBS_MODELS": "MLFLOW_JOBS_MODELS",
    "MINIO_ACCESS_KEY": "S3_ACCESS_KEY",
    "MINIO_PORT": "S3_PORT",
    "MINIO_ROOT_PASSWORD": "S3_SECRET_KEY",
    "MINIO_ROOT_USER": "S3_ACCESS_KEY",
    "MINIO_SECRET_KEY": "S3_SECRET_KEY",
    "MLFLOW_S3_ENDPOINT_URL": "S3_ENDPOINT",
    "MLFLOW_TRACKING_URI": "TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME": "TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD": "TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN": "TRACKING_TOKEN",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "TRACKING_CA",
}


@dataclass(frozen=True)
class Value:
    raw: str
    origin: str


def parse(setting: Setting, value: Value, context: ParseContext) -> Any:
    try:
        return setting.parse(value.raw, context)
    except InvalidValue as wrong:
        rule = wrong.rule or f"must be {setting.allowed}."
        raise error(setting.name, value.raw, value.origin, rule, wrong.suggestion) from None


def error(name: str, raw: str, origin: str, rule: str, suggestion: str = "") -> SettingError:
    """The one line: name, value (never a secret's), where from, what is allowed, nearest right word.

    What the notebook gets in JUPYTER_ENV are tokens of other services, as often as not.
    """
    safe = re.sub(r"//.*@", "//***@", raw, flags=re.DOTALL)  # a password in a URL, also one with a /
    hidden = BY_NAME[name].secret or (name == "JUPYTER_ENV" and "=" in raw)
    value = "" if hidden else "=" + shown(safe)
    guess = did_you_mean(shown(suggestion, 200))
    return SettingError(f"{name}{value} ({named(origin)}): {rule}{guess}", _instead(name, raw, origin, suggestion))


def _instead(name: str, raw: str, origin: str, suggestion: str) -> str:
    """What to write where the wrong value stands: the nearest right one, or the default."""
    if origin == LAST_UP:
        return f"forget what it was told: {BY_NAME[name].forgetting}"
    default = BY_NAME[name].default
    if origin == DEFAULT or (not suggestion and raw == default):
        return ""
    place = origin if origin.startswith(("-", PREFIX)) else name
    right = suggestion or default
    text = f"{place}={right if place == name else shlex.quote(right) if right else ''}"
    return f"write {text}" if suggestion else f"for the default: {text}"


def named(origin: str) -> str:
    return "the default" if origin == DEFAULT else f"from {origin}"


def meant(name: str, cutoff: float = 0.75) -> str:
    """The setting that a wrong name most likely means, or ""."""
    bare = name.upper().removeprefix(PREFIX)
    return OTHER_NAMES.get(bare) or (bare if bare in BY_NAME else nearest(bare, BY_NAME, cutoff))


def from_flags(flags: Mapping[str, str | None]) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for flag, raw in flags.items():
        if raw is None:
            continue
        name = flag.strip("-").upper().replace("-", "_")
        option = "--" + name.lower().replace("_", "-")
        name = BY_OPTION[option].name if option in BY_OPTION else name
        if name not in BY_NAME:
            guess = meant(name)
            right = (BY_NAME[guess].option if BY_NAME[guess].flag else BY_NAME[guess].given("...")) if guess else ""
            raise SettingError(f"{option}: no such setting.{did_you_mean(right)}", f"write {right}" if right else "")
        option = BY_NAME[name].option
        if BY_NAME[name].secret:
            raise SettingError(
                f"{name} (from {option}): a secret is not taken from the command line, where "
                "others on the machine can read it; put it into .env (chmod 600 .env)."
            )
        if not BY_NAME[name].flag:
            raise SettingError(
                f"{option}: is no flag.", f"{name}=... goes into .env, or {PREFIX}{name}=... before the command"
            )
        result[name] = Value(raw.strip(), option)
    return result


def from_environ(environ: Mapping[str, str], left: Mapping[str, str], warnings: list[str]) -> dict[str, Value]:
    """Without what ``up`` left in the clone (``left``) and a shell has sourced: nobody told it."""
    all_of_it = SOURCED in environ or SOURCED not in left  # without Docker the state's place alone is left
    result: dict[str, Value] = {}
    for variable, raw in sorted(environ.items()):
        if not variable.upper().startswith(PREFIX) or RESERVED.fullmatch(variable):
            continue
        if left.get(variable) == raw and (all_of_it or variable in LOCATING.values()):
            continue
        name = variable.removeprefix(PREFIX)
        if name in BY_NAME:
            result[name] = Value(raw.strip(), variable)
            continue
        guess = meant(variable)
        if guess:
            raise SettingError(
                f"{shown(variable)} (from the environment): no such setting.{did_you_mean(PREFIX + guess)}",
                f"`unset {shown(variable)}`, and set {PREFIX}{guess} in its place",
            )
        warnings.append(f"{shown(variable)} (from the environment) is not a setting; ignored.")
    return result


def sourced(environ: Mapping[str, str], left: Mapping[str, str]) -> dict[str, str]:
    """Variables that equal what ``up`` left in the clone: the last word, for when the state was lost."""
    names = (
        (variable.removeprefix(PREFIX), value) for variable, value in left.items() if environ.get(variable) == value
    )
    # S3_ENDPOINT is written for Compose, also where the store is our own
    return {name: value for name, value in names if name in BY_NAME and name != "S3_ENDPOINT"}


def from_file(file: EnvFile, warnings: list[str]) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for entry in file.entries:
        origin = f"{file.path.name} line {entry.line}"
        if entry.name in BY_NAME:
            result[entry.name] = Value(entry.value.strip(), origin)
            if entry.value and BY_NAME[entry.name].secret and file.mode is not None and file.mode & 0o077:
                raise SettingError(
                    f"{entry.name} (from {origin}): others may read this file "
                    f"(mode {file.mode:04o}) and it holds a secret; "
                    f"run: chmod 600 {file.path}"
                )
        elif entry.name in ("COMPOSE_FILE", "COMPOSE_PROJECT_NAME"):
            warnings.append(
                f"{entry.name} (from {origin}): a bare `docker compose` takes it in place of what "
                "`invoke up` writes for this project."
            )
        elif FOREIGN.fullmatch(entry.name):
            continue
        elif entry.name.startswith(PREFIX):
            raise _prefixed(entry, origin)
        else:
            guess = meant(entry.name)
            if guess:
                raise _no_such(entry, origin, guess)
            warnings.append(f"{shown(entry.name)} (from {origin}) is not a setting; ignored.")
    return result


def _prefixed(entry: Entry, origin: str) -> SettingError:
    bare = entry.name.removeprefix(PREFIX)
    if RESERVED.fullmatch(entry.name):
        return SettingError(
            f"{entry.name} (from {origin}): is read from the environment only.",
            "delete the line, and write it before a command",
        )
    if bare in BY_NAME:
        return SettingError(
            f"{entry.name} (from {origin}): drop the prefix in this file.{did_you_mean(bare)}", _renaming(bare)
        )
    return _no_such(entry, origin, meant(bare))


def _no_such(entry: Entry, origin: str, guess: str) -> SettingError:
    return SettingError(f"{entry.name} (from {origin}): no such setting.{did_you_mean(guess)}", _renaming(guess))


def _renaming(name: str) -> str:
    return f"write {name}=... on that line" if name else "delete the line"


def from_left(left: Mapping[str, str]) -> dict[str, Value]:
    """Only what locates the state: everything else that ``up`` was told is in the state."""
    return {name: Value(left[key], LAST_UP) for name, key in LOCATING.items() if left.get(key)}


@dataclass
class Lookup:
    """Settings from the first place that has them: ``command`` (what counts for this one), then ``files``, what an
    earlier `up` was given, and at last what a shell has ``sourced``. ``explicit`` is what this command was given,
    ``texts`` are all values that are no default, as they were written; secrets are in neither."""

    context: ParseContext
    command: Sequence[Mapping[str, Value]]
    files: Sequence[Mapping[str, Value]]
    sourced: Mapping[str, str]
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    explicit: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def resolve(self, setting: Setting, last: Mapping[str, str]) -> None:
        """Find its value and check it; ``last``: what an earlier `up` was given. Raises SettingError."""
        name = setting.name
        given = next((place[name] for place in self.command if name in place), None)
        result = given or next((place[name] for place in self.files if name in place), None)
        for remembered in () if setting.secret else (last, self.sourced):
            if result is None and name in remembered:
                result = Value(remembered[name], LAST_UP)
        if result is None or not result.raw:
            self.values[name] = setting.parse(setting.default, self.context)
        else:
            self.values[name] = parse(setting, result, self.context)
            self.origins[name] = result.origin
            if not setting.secret:
                self.texts[name] = result.raw
        if given is not None and not setting.secret and setting.remembered:
            self.explicit[name] = str(self.values[name]) if given.raw and name == "WORKSPACE" else given.raw
