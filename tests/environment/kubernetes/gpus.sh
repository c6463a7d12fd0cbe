#!/usr/bin/env bash
# GPUs without a GPU: what a vendor's device plugin would report of a node, and the label that names the model.
# Usage: gpus.sh NODE RESOURCE COUNT [LABEL=VALUE], as in gpus.sh node1 amd.com/gpu 2
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
kubectl patch node "$1" --subresource=status --type=merge \
  --patch "{\"status\": {\"capacity\": {\"$2\": \"$3\"}, \"allocatable\": {\"$2\": \"$3\"}}}" >/dev/null
if [ $# = 4 ]; then kubectl label node "$1" --overwrite "$4" >/dev/null; fi
