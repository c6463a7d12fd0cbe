#!/usr/bin/env bash
# The Debian mirror that this machine uses.
set -euo pipefail
if [ -s /etc/apt/sources.list.d/debian.sources ]; then
  awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources
else
  awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:\/\//) {print $i; exit}}' /etc/apt/sources.list
fi
