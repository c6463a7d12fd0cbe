#!/usr/bin/env bash
# A real Kubernetes cluster of two nodes on one machine (Debian 12, root), beside the engine of ../up.sh. Idempotent.
# Notices go to stderr; stdout has the lines to eval:  eval "$(tests/environment/kubernetes/up.sh)"
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
mkdir -p "$home"/{bin,conf,images,log,pids,pki}
exec 9>"$home/lock"
flock -w 1800 9

test_images() {  # pause waits and reaps, as the real one does
  local name folder
  for name in pause coredns; do
    if [ -s "$home/images/$name.tar" ]; then continue; fi
    folder=$(mktemp -d "$home/image.XXXXXX")
    case $name in
      pause) cp "$home/root/usr/bin/tini-static" "$folder/tini"; cp "$home/root/usr/bin/busybox" "$folder/busybox"
             entry='ENTRYPOINT ["/tini", "-s", "--", "/busybox", "sleep", "infinity"]' ;;
      coredns) cp "$home/bin/coredns" "$folder/coredns"; entry='ENTRYPOINT ["/coredns"]' ;;
    esac
    tar -C "$folder" --owner 0 --group 0 -c . | docker import --change "$entry" - "trackbed-test/$name:1" >/dev/null
    rm -rf "$folder"
    docker save "trackbed-test/$name:1" >"$home/images/$name.new"
    mv "$home/images/$name.new" "$home/images/$name.tar"
  done
}

settings() {  # what a kubelet sets for the whole machine; down.sh puts it back
  local name
  for name in vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys \
    kernel.keys.root_maxbytes; do
    echo "$name=$(sysctl -n "$name")"
  done
}

ready() { kubectl wait --for=condition=Ready --timeout=0s "${nodes[@]/#/node/}"; }
resolves() { [ "$(kubectl -n kube-system get deployment coredns -o 'jsonpath={.status.readyReplicas}')" = 1 ]; }

"$here/packages.sh"
"$here/binaries.sh"
test_images
"$here/certificates.sh"
if [ ! -s "$home/sysctl" ]; then settings >"$home/sysctl"; fi
make_groups
"$here/network.sh" up
"$here/control-plane.sh"
for node in "${nodes[@]}"; do "$here/node.sh" "$node"; done
wait_for "the nodes" 300 ready
kubectl apply -f "$here/cluster.yaml" >/dev/null
"$here/gpus.sh" node1 amd.com/gpu 2 amd.com/gpu.product-name=AMD_Instinct_MI100
"$here/gpus.sh" node2 nvidia.com/gpu 2 nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB
wait_for "the cluster's DNS" 300 resolves
# Whoever has a proxy must not ask it for these addresses.
echo "export KUBECONFIG=$KUBECONFIG PATH=$home/bin:\$PATH NO_PROXY=\${NO_PROXY:+\$NO_PROXY,}10.245.0.0/24"
