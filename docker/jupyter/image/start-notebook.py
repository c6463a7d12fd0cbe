#!/usr/bin/env python3
"""JupyterLab, with the arguments of this program and of NOTEBOOK_ARGS."""

import os
import shlex
import sys

command = ["jupyter", "lab", *shlex.split(os.environ.get("NOTEBOOK_ARGS", "")), *sys.argv[1:]]
os.execvp(command[0], command)
