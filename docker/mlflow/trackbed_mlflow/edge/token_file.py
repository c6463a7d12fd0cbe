"""Where the access token is. A module of its own: the health check needs nothing else of what asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from trackbed_mlflow.errors import MISCONFIGURED, Stop

FILE = "TRACKBED_ACCESS_TOKEN_FILE"


def read_token(environment: Mapping[str, str]) -> str:
    """The token, "" where none is asked for. Raises Stop where the file is there but cannot be read."""
    path = environment.get(FILE, "")
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        # without its token the server would be open: it must not start
        raise Stop(MISCONFIGURED, f"the access token in {path} cannot be read: {error}") from None
