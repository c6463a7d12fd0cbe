#!/usr/bin/env bash
# End the cluster within a minute, pods included. With --delete its data, certificates and images go too; the programs stay.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
mkdir -p "$home/pids"
exec 9>"$home/lock"
flock -w 60 9

mounts() { awk -v home="$home/" 'index($5, home) == 1 {print $5}' /proc/self/mountinfo | sort -r; }

# Kubelets first, or they start again what ends.
for name in node1-kubelet node2-kubelet kube-controller-manager kube-scheduler; do
  if runs "$name"; then stop 5 "$(cat "$home/pids/$name")"; fi
done
for node in "${nodes[@]}"; do
  mapfile -t members < <(members "/$node")
  if [ ${#members[@]} -gt 0 ]; then stop 20 "${members[@]}"; fi
done
mapfile -t members < <(members)
if [ ${#members[@]} -gt 0 ]; then stop 10 "${members[@]}"; fi
rm -f "$home"/pids/*
mapfile -t mounted < <(mounts)
for mount in "${mounted[@]}"; do umount -l "$mount" || true; done
"$here/network.sh" down
for top in $(hierarchies); do find "$top/$group" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
if [ -s "$home/sysctl" ]; then sysctl -q -p "$home/sysctl" || true; rm -f "$home/sysctl"; fi
find /var/log/containers -lname "$home/*" -delete 2>/dev/null || true
if [ "${1:-}" = --delete ]; then
  for node in "${nodes[@]}"; do rm -rf "${home:?}/$node"; done
  rm -rf "$home"/{etcd,conf,pki,log,images}
fi
