# shellcheck shell=bash
# What bash reads in JupyterLab's terminals: the machine's and the person's own files, then what makes it the notebook's.
# shellcheck source=/dev/null
if [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi
# shellcheck source=/dev/null
if [ -r ~/.bashrc ]; then . ~/.bashrc; fi
# shellcheck source=/dev/null
. "$TRACKBED_STARTUP/programs.sh"
