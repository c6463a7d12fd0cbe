# shellcheck shell=bash disable=SC2034  # the scripts that source it use these
# Sourced: where the cluster's files are, and how its processes start and end.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rig=${TRACKBED_RIG_HOME:-/var/tmp/trackbed-rig}
home=$rig/kubernetes
bridge=tb-kubernetes
host_address=10.245.0.1
services=10.96.0.0/16
cluster=10.244.0.0/16  # the pods of all nodes
group=trackbed-kubernetes  # the cgroup of everything that belongs to the cluster
nodes=(node1 node2)
golang=golang:1.26-trixie  # what Go modules are read with, and built
ca=/etc/ssl/certs/ca-certificates.crt
export PATH="$home/bin:$home/root/usr/bin:$home/root/usr/sbin:/usr/sbin:/sbin:$PATH"
export KUBECONFIG=$home/conf/admin.kubeconfig

say() { echo "kubernetes: $*" >&2; }
namespace() { echo "tb-$1"; }
address() { echo "10.245.0.1${1#node}"; }
pods() { echo "10.244.${1#node}.0/24"; }
socket() { echo "$home/$1/containerd/containerd.sock"; }
on_node() { local node=$1; shift; ctr --address "$(socket "$node")" --namespace k8s.io "$@"; }

write() {  # FILE: from stdin, and only where it changes: kube-proxy ends when its configuration is written
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

quietly() {  # LOG COMMAND...: its output only when it fails
  local log=$home/log/$1.log; shift
  "$@" >"$log" 2>&1 </dev/null || { say "failed: $*"; tail -n 20 "$log" >&2; return 1; }
}

wait_for() {  # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2)); shift 2
  while ! "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ]; then say "$what is not ready, see $home/log"; return 1; fi
    sleep 0.2
  done
}

hierarchies() {  # the folders below which cgroups are made: one with cgroup v2, one for each controller with v1
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; return; fi
  local folder
  for folder in /sys/fs/cgroup/*/; do
    if [ -f "$folder/cgroup.procs" ]; then echo "${folder%/}"; fi
  done
}

make_groups() {  # the cluster's own processes, and the pods of each node
  local top name controller controllers
  for top in $(hierarchies); do
    for name in . "$group" "$group/system" "${nodes[@]/#/$group/}"; do
      mkdir -p "$top/$name"
      if [ -f "$top/cgroup.controllers" ]; then
        if [ "$name" = "$group/system" ]; then continue; fi  # v2: processes and controllers do not go together
        read -ra controllers <"$top/$name/cgroup.controllers" || true
        for controller in "${controllers[@]}"; do
          echo "+$controller" 2>/dev/null >"$top/$name/cgroup.subtree_control" || true
        done
      elif [ "$name" != . ] && [ -f "$top/$name/cpuset.cpus" ]; then  # v1: a group starts without processors
        cat "$top/cpuset.cpus" >"$top/$name/cpuset.cpus"
        cat "$top/cpuset.mems" >"$top/$name/cpuset.mems"
      fi
    done
  done
}

members() {  # [BELOW]: every process of the cluster, pods included; 0 are processes that this namespace does not see
  local top; read -r top < <(hierarchies)
  find "$top/$group${1:-}" -name cgroup.procs -exec cat {} + 2>/dev/null | grep -vx 0 || true
}

runs() {  # NAME: a process id that somebody else has got meanwhile does not count
  local id; id=$(cat "$home/pids/$1" 2>/dev/null) && grep -qs "$group" "/proc/$id/cgroup"
}

start() {  # NODE NAME COMMAND...: detached, in the node's network; nothing where it runs
  local node=$1 name=$2 top; shift 2
  if runs "$name"; then return; fi
  (
    for top in $(hierarchies); do echo "$BASHPID" >"$top/$group/system/cgroup.procs"; done
    echo "$BASHPID" >"$home/pids/$name"
    # the caller's proxies and locks are not the cluster's
    exec setsid nsenter "--net=/run/netns/$(namespace "$node")" env -i HOME=/root LANG=C PATH="$PATH" "$@" \
      >>"$home/log/$name.log" 2>&1 </dev/null 9>&-
  ) &
}

stop() {  # SECONDS ID...: SIGTERM, and SIGKILL for those that are still there then
  local end=$((SECONDS + $1)); shift
  kill "$@" 2>/dev/null || true
  while kill -0 "$@" 2>/dev/null; do
    if [ "$SECONDS" -ge "$end" ]; then kill -KILL "$@" 2>/dev/null || true; return; fi
    sleep 0.1
  done
}
