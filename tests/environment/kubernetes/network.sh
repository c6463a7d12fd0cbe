#!/usr/bin/env bash
# A bridge, and a network namespace on it for each node: kube-proxy's rules and settings stay off this machine's network.
# Usage: network.sh up | down
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
mark=(-m comment --comment trackbed-kubernetes)

rules() {  # -C, -I or -D: Docker drops what it does not forward itself
  local subnet=$host_address/24
  case $1 in
    -C) iptables -w -C FORWARD -i "$bridge" "${mark[@]}" -j ACCEPT 2>/dev/null ;;
    *) iptables -w "$1" FORWARD -i "$bridge" "${mark[@]}" -j ACCEPT
       iptables -w "$1" FORWARD -o "$bridge" "${mark[@]}" -j ACCEPT
       iptables -w -t nat "$1" POSTROUTING -s "$subnet" ! -o "$bridge" "${mark[@]}" -j MASQUERADE ;;
  esac
}

# What leaves the cluster has the node's address. Pods know each other by their own: NetworkPolicies go by them.
outgoing() { local name; name=$(namespace "$1"); shift
  nsenter "--net=/run/netns/$name" iptables -w -t nat "$@" POSTROUTING -s "$cluster" ! -d "$cluster" "${mark[@]}" -j MASQUERADE
}

join() {  # NODE
  local name other; name=$(namespace "$1")
  if [ -e "/run/netns/$name" ]; then return; fi
  ip netns add "$name"
  ip link add "tb-$1" type veth peer name eth0 netns "$name"
  ip link set "tb-$1" master "$bridge" up
  ip -n "$name" link set lo up
  ip -n "$name" link set eth0 mtu 1400 up
  ip -n "$name" address add "$(address "$1")/24" dev eth0
  ip -n "$name" route add default via "$host_address"
  for other in "${nodes[@]}"; do
    if [ "$other" != "$1" ]; then ip -n "$name" route add "$(pods "$other")" via "$(address "$other")"; fi
  done
  nsenter "--net=/run/netns/$name" sysctl -qw net.ipv4.ip_forward=1
}

case $1 in
  up)
    if ! ip link show "$bridge" >/dev/null 2>&1; then
      ip link add "$bridge" mtu 1400 type bridge
      ip address add "$host_address/24" dev "$bridge"
    fi
    ip link set "$bridge" up
    sysctl -qw net.ipv4.ip_forward=1
    rules -C || rules -I
    for node in "${nodes[@]}"; do
      join "$node"
      outgoing "$node" -C 2>/dev/null || outgoing "$node" -A
    done
    ip route replace "$services" via "$(address node1)" ;;  # tests ask services as a pod would
  down)
    if rules -C; then rules -D; fi
    for node in "${nodes[@]}"; do
      ip link delete "tb-$node" 2>/dev/null || true
      ip netns delete "$(namespace "$node")" 2>/dev/null || true
    done
    ip link delete "$bridge" 2>/dev/null || true ;;
esac
