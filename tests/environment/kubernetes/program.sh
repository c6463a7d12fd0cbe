#!/usr/bin/env bash
# Stop or start one program of the cluster, as in program.sh stop kube-apiserver. kwok, which keeps simulated nodes
# (annotation trackbed.test/simulated=yes) and their pods alive, is only started this way.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
case $1-$2 in
  stop-*) if runs "$2"; then stop 10 "$(cat "$home/pids/$2")"; fi ;;
  start-node*) "$here/node.sh" "${2%%-*}" ;;
  start-kwok) start node1 kwok kwok --kubeconfig="$KUBECONFIG" --config="$here/kwok.yaml" --manage-all-nodes=false \
    --manage-nodes-with-annotation-selector=trackbed.test/simulated=yes --node-lease-duration-seconds=40 ;;
  start-*) "$here/control-plane.sh" ;;
esac
