"""The login in a URL: hidden where people read it, removed where programs do."""

from __future__ import annotations

import re

LOGIN = r"[^/\s]*@"  # also one whose password has an @ in it


def masked(text: str, public: str = "") -> str:
    """URLs with *** in the place of the login before their host. ``public``: a user's name alone that is no secret."""
    return re.sub(rf"//(?!{re.escape(public)}@){LOGIN}", "//***@", text)


def removed(url: str) -> str:
    """An address as it may stand in a command, in an image or in a file."""
    return re.sub(f"//{LOGIN}", "//", url)
