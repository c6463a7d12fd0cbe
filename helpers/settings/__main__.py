"""`python -m helpers.settings > .env.example`; with the settings page's name it puts the tables into that page."""

import sys
from pathlib import Path

from helpers.settings.reference import example, page

if len(sys.argv) > 1:
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
else:
    print(example(), end="")
