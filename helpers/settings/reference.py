"""What is written about settings, from their declarations: ``.env.example``, the tables of docs/settings.md."""

from __future__ import annotations

import re

from helpers import references
from helpers.settings.declaration import EVERY, Setting
from helpers.settings.flags import meaning
from helpers.settings.model import TABLE, THEMES

BEGIN, END = "<!-- settings: made from their declarations -->", "<!-- end -->"
# where a setting means something: words of `only`
WHERE = {
    "containers": "not embedded",
    "public": "PUBLIC=true",
    "private": "not with PUBLIC=true",
    "remote": "TRACKING_URI",
    "server": "not with TRACKING_URI",
    "own-store": "a store of its own",
    "s3": "an S3 store",
    "gpu": "a GPU",
}


def example() -> str:
    """The text of ``.env.example``."""
    lines = [
        "# Every setting with its default. Copy this file to .env, then take the # off what you change.",
        "# Flags (--mlflow-port=8001) and the environment (TRACKBED_MLFLOW_PORT=8001) win over .env.",
        "# Secrets make it a private file: chmod 600 .env",
    ]
    for theme in THEMES:
        lines += ["", f"# ---- {theme} ----"]
        for setting in _of(theme):
            lines += ["", f"# {meaning(setting)}", f"# ({setting.allowed})", f"#{setting.name}={setting.default}"]
    return "\n".join(lines) + "\n"


def _of(theme: str) -> list[Setting]:
    return [row for row in TABLE if row.theme == theme]


def _flag(row: Setting) -> str:
    if not row.flag:
        return ""
    others = "" if row.tasks == EVERY else ", ".join(task for task in row.tasks if task != "up")
    if not others:
        return f"`{row.option}`"
    return f"`{row.option}` (also: {others})" if row.of_up else f"none; `{row.option}` of {others}"


def _where(row: Setting) -> list[str]:
    if "machine" in row.only and "containers" in row.only:
        return ["Docker"]
    return [WHERE[word] for word in row.only if word in WHERE]


def tables() -> str:
    """Every setting in a table of Markdown, one for each theme."""
    lines: list[str] = []
    for theme in THEMES:
        lines += ["", f"### {theme}", ""]
        lines += ["| setting | default | flag of `up` | meaning | only with |", "|---|---|---|---|---|"]
        for row in _of(theme):
            default = "" if not row.default else f"`{references.without_digest(row.default)}`"
            only = ", ".join(_where(row))
            lines.append(f"| `{row.name}` | {default} | {_flag(row)} | {row.help} | {only} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The settings page with its tables as they have to be."""
    match = re.search(f"{BEGIN}\n.*?{END}\n", text, re.DOTALL)
    if match is None:
        raise ValueError(f"the page has no place between {BEGIN} and {END}")
    return f"{text[: match.start()]}{BEGIN}\n{tables()}\n\n{END}\n{text[match.end() :]}"
