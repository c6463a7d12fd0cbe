"""Sphinx's settings for the site that `nox -s docs` builds from README.md and docs/."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from helpers import __version__  # noqa: E402

project = "Trackbed"
version = release = __version__
author = "the Trackbed authors"
copyright = "the Trackbed authors. Apache License 2.0"
language = "en"

extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["docs/site"]
myst_heading_anchors = 4  # headings that #anchors name, as GitHub makes them
nitpicky = True

html_theme = "furo"
html_title = f"Trackbed {__version__}"
html_static_path = ["static"]
html_css_files = ["trackbed.css"]
html_copy_source = False
html_show_search_summary = False  # a browser refuses what this fetches from file://
html_show_sphinx = False
# both have at least the contrast that WCAG asks for
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
highlight_language = "none"
