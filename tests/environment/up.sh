#!/usr/bin/env bash
# A real Docker engine and stand-in images on a machine without a container registry (Debian 12, root).
# Idempotent. Notices go to stderr; stdout has the lines to eval:  eval "$(tests/environment/up.sh)"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export TRACKBED_RIG_HOME=${TRACKBED_RIG_HOME:-/var/tmp/trackbed-rig}
environment=$("$here/engine.sh")
eval "$environment"
"$here/images.sh" >&2
printf '%s\n' "$environment"
# PyTorch's index is a registry too: without one, notebooks are made without PyTorch.
echo "export TRACKBED_OBJECT_STORE=versitygw TRACKBED_BUILD_NETWORK=host TRACKBED_TORCH=none"
