"""What the toolkit has left for the start page: helpers/start_page.py writes it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

FILE = "start-page.json"
FOLDER = "TRACKBED_SECRETS_FOLDER"
OTHER = "TRACKBED_START_PAGE"  # the file itself, where it is not among the secrets
LONGEST = 1 << 18  # bytes
PURPOSE = b"start page of Trackbed\n"  # of the digest of the notebook's token


def read(environment: Mapping[str, str]) -> dict[str, Any]:
    """{} where there is none, as before the first `invoke up` of this version."""
    path = environment.get(OTHER) or os.path.join(environment.get(FOLDER) or "/nonexistent", FILE)
    try:
        with open(path, "rb") as stream:
            result = json.loads(stream.read(LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def is_notebook_token(document: Mapping[str, Any], token: str) -> bool:
    """The server does not hold the notebook's token: it only knows it again when a browser brings it."""
    digest = document.get("notebook_digest")
    created = hashlib.sha256(PURPOSE + token.encode("utf-8", "surrogateescape")).hexdigest()
    return isinstance(digest, str) and bool(token) and hmac.compare_digest(digest.encode(), created.encode())
