#!/usr/bin/env python3
"""Asks the server whose port Jupyter's own runtime files name."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

runtime = Path(subprocess.check_output(["jupyter", "--runtime-dir"], text=True).strip())
found = json.loads(next(runtime.glob("*server-*.json")).read_bytes())
url = found["url"].replace(found["hostname"], "127.0.0.1") if found["hostname"] in ("0.0.0.0", "::") else found["url"]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with opener.open(url + "api", timeout=float(os.environ.get("HEALTHCHECK_TIMEOUT", "1"))) as answer:
    print(answer.read().decode())
