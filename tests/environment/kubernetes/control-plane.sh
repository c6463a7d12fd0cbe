#!/usr/bin/env bash
# etcd, API server, controllers and scheduler, in the network of node1. Usage: control-plane.sh
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
pki=$home/pki
conf=$home/conf
etcd=http://127.0.0.1:2379
peers=http://127.0.0.1:2380

start node1 etcd etcd --name trackbed-test --data-dir "$home/etcd" --listen-client-urls "$etcd" \
  --advertise-client-urls "$etcd" --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" \
  --initial-cluster "trackbed-test=$peers" --unsafe-no-fsync --log-level warn
start node1 kube-apiserver kube-apiserver --etcd-servers="$etcd" --advertise-address="$(address node1)" --secure-port=6443 \
  --service-cluster-ip-range="$services" --client-ca-file="$pki/ca.crt" \
  --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$pki/sa.pub" \
  --service-account-signing-key-file="$pki/sa.key" --authorization-mode=Node,RBAC \
  --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" \
  --kubelet-client-key="$pki/apiserver-kubelet-client.key" --kubelet-certificate-authority="$pki/ca.crt" \
  --kubelet-preferred-address-types=InternalIP --shutdown-delay-duration=0s
wait_for "the API server" 300 kubectl get --raw /readyz
start node1 kube-controller-manager kube-controller-manager --kubeconfig="$conf/kube-controller-manager.kubeconfig" \
  --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" --use-service-account-credentials \
  --leader-elect=false --enable-hostpath-provisioner=true
start node1 kube-scheduler kube-scheduler --kubeconfig="$conf/kube-scheduler.kubeconfig" \
  --authentication-kubeconfig="$conf/kube-scheduler.kubeconfig" \
  --authorization-kubeconfig="$conf/kube-scheduler.kubeconfig" --leader-elect=false
# A volume's folder is made for root alone, and a subPath's like it; provisioners elsewhere let in whom a pod runs as.
start node1 volumes bash -c 'while sleep 0.2; do
  find /tmp/hostpath_pv -mindepth 1 -maxdepth 2 -type d -user root -perm 0750 -exec chmod 0777 {} + 2>/dev/null; done'
