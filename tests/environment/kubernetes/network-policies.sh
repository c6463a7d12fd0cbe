#!/usr/bin/env bash
# Have both nodes enforce NetworkPolicies, which the bridge plugin ignores, by the controller of kube-router, which k3s
# has too; or end that. Only tests of policies start it: it looks at every pod of a cluster. Usage: network-policies.sh on|off
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
ways=(INPUT FORWARD OUTPUT)

inside() { local node=$1; shift; nsenter "--net=/run/netns/$(namespace "$node")" "$@"; }
enforces() {  # NODE: its rules come before all others
  local way
  for way in "${ways[@]}"; do
    inside "$1" iptables -w -S "$way" 1 | grep -q "KUBE-ROUTER-$way" || return 1
  done
}

case $1 in
  on)
    "$here/binaries.sh" kube-router
    if ! command -v ipset >/dev/null; then
      quietly ipset env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ipset
    fi
    for node in "${nodes[@]}"; do
      start "$node" "$node-kube-router" kube-router --run-router=false --run-service-proxy=false --kubeconfig="$KUBECONFIG" \
        --hostname-override="$node" --service-cluster-ip-range="$services" --health-port=0
    done
    for node in "${nodes[@]}"; do wait_for "the controller of network policies on $node" 300 enforces "$node"; done ;;
  off)
    for node in "${nodes[@]}"; do
      if runs "$node-kube-router"; then stop 10 "$(cat "$home/pids/$node-kube-router")"; fi
      rm -f "$home/pids/$node-kube-router"
      for way in "${ways[@]}"; do  # what they led to does nothing then
        inside "$node" iptables -w -S "$way" | sed -n "/KUBE-ROUTER-$way/s/^-A/-D/p" |
          while read -r rule; do eval "inside $node iptables -w $rule"; done
      done
    done ;;
esac
