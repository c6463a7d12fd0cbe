"""What was given on the command line: the project that it names, values and flags that fit together."""

from __future__ import annotations

from helpers import console, lifecycle
from helpers.errors import SettingError
from helpers.project.project import Project
from helpers.settings.flags import Flags
from helpers.suggestions import did_you_mean, nearest


def load(given: Flags) -> Project:
    """The project that the flags, the environment and .env describe; says what was ignored in them."""
    return warned(lifecycle.load(given))


def warned(project: Project) -> Project:
    for warning in project.settings.warnings:
        console.notice(f"warning: {warning}")
    return project


def last_tried(given: Flags, done: str) -> Project:
    """The same, with the flags of the last start where that failed: they are not remembered, and this is to mend it."""
    project, tried = lifecycle.last_tried(given)
    if tried:
        console.notice(f"{done} with the settings of the last `invoke up`, which failed: {', '.join(tried)}")
    return warned(project)


def choose(value: str, *allowed: str, option: str = "--format=") -> str:
    """``value``, if it is one of those; raises SettingError."""
    if value not in allowed:
        guess = nearest(value, allowed)
        raise SettingError(
            f"{option}{value}: must be one of {', '.join(allowed)}.{did_you_mean(guess)}",
            f"write {'' if option.endswith(' ') else option}{guess or f'{allowed[0]}, for example'}",
        )
    return value


def refuse(wrong: bool, flag: str, why: str, instead: str = "") -> None:
    """No flag or word is silently ignored: SettingError where one would do nothing."""
    if wrong:
        raise SettingError(f"{flag} has no effect {why}.", instead or f"leave {flag} out")


def output_format(format: str, json: bool, *allowed: str) -> str:
    """What --format and --json ask for together."""
    if json and format not in ("table", "json"):
        raise SettingError(f"--json and --format={format} contradict each other.", "leave one of them out")
    return choose("json" if json else format, *allowed)
