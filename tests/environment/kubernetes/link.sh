#!/usr/bin/env bash
# A node's cable pulled and plugged in again. Usage: link.sh down|up NODE
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
ip link set "tb-$2" "$1"
