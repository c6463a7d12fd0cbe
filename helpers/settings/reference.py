"""What is written about settings, from their declarations: ``.env.example``."""

from __future__ import annotations

from helpers.settings.model import TABLE


def example() -> str:
    """The text of ``.env.example``."""
    lines = [
        "# Every setting with its default. Copy this file to .env, then take the # off what you change.",
        "# Flags (--mlflow-port=8001) and the environment (TRACKBED_MLFLOW_PORT=8001) win over .env.",
        "# Secrets make it a private file: chmod 600 .env",
    ]
    for setting in TABLE:
        lines += ["", f"# {setting.why}", f"# ({setting.allowed})", f"#{setting.name}={setting.default}"]
    return "\n".join(lines) + "\n"
