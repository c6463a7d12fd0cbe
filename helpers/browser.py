"""Opening a link in the user's browser, where there is one."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping
from html import escape
from pathlib import Path

from helpers.project.state import write_private

FILE = "open.html"  # in the project's folder
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={link}"><title>Trackbed</title></head>
<body><p><a href="{link}">Open Trackbed</a></p></body></html>
"""


def has_display(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a window could open where the user sits: not over ssh, and no browser that takes the terminal."""
    if environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"):
        return False
    return sys.platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def show(link: str, folder: Path, others: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Open ``link``; False where no browser is to be had.

    ``others``: other accounts of this machine can see what a program is started with. The browser then gets the name of
    a private file in ``folder``, which leads on.
    """
    if not has_display(environ):
        return False
    if others:
        path = folder / FILE
        write_private(path, PAGE.format(link=escape(link)).encode())
        link = path.as_uri()
    try:
        return webbrowser.open(link)
    except webbrowser.Error:
        return False
