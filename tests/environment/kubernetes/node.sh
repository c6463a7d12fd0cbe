#!/usr/bin/env bash
# One node: containerd, kubelet and kube-proxy of its own. Usage: node.sh NODE
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
node=$1
dir=$home/$node
mkdir -p "$dir"/{containerd,cni,kubelet,podlogs}

write "$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
[grpc]
  address = "$(socket "$node")"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/trackbed-test/pause:1"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true  # a machine without CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "$dir/containerd/base.json"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "$(command -v runc)"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$home/root/usr/lib/cni"
    conf_dir = "$dir/cni"
TOML

# Every container starts from this: containerd's own defaults, and the hook that stands in for a device plugin.
ctr oci spec | python3 -c '
import json, sys
spec = json.load(sys.stdin)
spec["process"].pop("rlimits", None)
spec["hooks"] = {"prestart": [{"path": sys.argv[1], "args": sys.argv[1:], "env": ["PATH=/usr/bin:/bin"], "timeout": 20}]}
json.dump(spec, sys.stdout)' "$(cd "$here/../hooks" && pwd)/device-plugin-hook" "$home/bin/kubectl" "$KUBECONFIG" |
  write "$dir/containerd/base.json"

write "$dir/cni/10-trackbed-test.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "trackbed-test-$node", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": 1400,
   "ipam": {"type": "host-local", "dataDir": "$dir/addresses", "ranges": [[{"subnet": "$(pods "$node")"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "firewall"}]}
JSON

# The machine's disk is everybody's: a node that is short of it would be tainted, and lose the images that tests brought.
write "$dir/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $home/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $home/pki/$node-server.crt
tlsPrivateKeyFile: $home/pki/$node-server.key
cgroupDriver: cgroupfs
cgroupRoot: /$group/$node
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$(socket "$node")
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
podLogsDir: $dir/podlogs
volumePluginDir: $dir/kubelet/volumeplugins
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
nodeStatusUpdateFrequency: 5s
YAML

write "$dir/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $cluster
clientConnection: {kubeconfig: $home/conf/kube-proxy.kubeconfig}
hostnameOverride: $node
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML

start "$node" "$node-containerd" containerd --config "$dir/containerd.toml"
wait_for "containerd of $node" 300 on_node "$node" version
for image in pause coredns; do  # the sandbox of every pod needs the first
  if ! on_node "$node" images ls -q | grep "trackbed-test/$image:1" >/dev/null; then
    on_node "$node" images import "$home/images/$image.tar" >/dev/null
  fi
done
start "$node" "$node-kubelet" kubelet --config="$dir/kubelet.yaml" --kubeconfig="$home/conf/$node-kubelet.kubeconfig" \
  --hostname-override="$node" --node-ip="$(address "$node")" --root-dir="$dir/kubelet"
start "$node" "$node-kube-proxy" kube-proxy --config="$dir/kube-proxy.yaml"
