#!/usr/bin/env bash
# As root: become NB_UID:NB_GID. Otherwise run the command as whoever this is.
set -euo pipefail
if [ $# -eq 0 ]; then set -- bash; fi
if [ "$(id -u)" = 0 ] && [ "${NB_USER:-jovyan}" != root ]; then
  exec setpriv --reuid="${NB_UID:-1000}" --regid="${NB_GID:-100}" --clear-groups "$@"
fi
exec "$@"
