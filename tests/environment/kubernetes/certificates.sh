#!/usr/bin/env bash
# The cluster's authority, its certificates, and a kubeconfig for each of its programs and for its administrator.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
umask 077
cd "$home/pki"

certificate() {  # NAME SUBJECT USAGE [SUBJECT_ALTERNATIVE_NAMES]
  if [ -s "$1.crt" ]; then return; fi
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr"
  { echo "keyUsage=digitalSignature,keyEncipherment"; echo "extendedKeyUsage=$3"
    if [ $# = 4 ]; then echo "subjectAltName=$4"; fi; } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile "$1.ext" -out "$1.new"
  rm -f "$1.csr" "$1.ext"
  mv "$1.new" "$1.crt"
}

kubeconfig() {  # NAME OF THE CERTIFICATE
  local file=$home/conf/$1.kubeconfig
  if [ -s "$file" ]; then return; fi
  cat >"$file.new" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: trackbed-test
  cluster: {server: "https://$(address node1):6443", certificate-authority-data: $(base64 -w 0 ca.crt)}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w 0 "$1.crt"), client-key-data: $(base64 -w 0 "$1.key")}
contexts:
- name: trackbed-test
  context: {cluster: trackbed-test, user: $1}
current-context: trackbed-test
YAML
  mv "$file.new" "$file"
}

make() {
  local name node cluster=kubernetes.default.svc
  if [ ! -s ca.crt ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=trackbed-test -keyout ca.key -out ca.crt
  fi
  if [ ! -s sa.pub ]; then
    openssl genrsa -out sa.key 2048
    openssl rsa -in sa.key -pubout -out sa.pub
  fi
  certificate apiserver /CN=kube-apiserver serverAuth \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:$cluster,DNS:$cluster.cluster.local,IP:10.96.0.1,IP:$(address node1)"
  certificate apiserver-kubelet-client /O=system:masters/CN=apiserver-kubelet-client clientAuth
  certificate admin /O=system:masters/CN=admin clientAuth
  kubeconfig admin
  for name in kube-controller-manager kube-scheduler kube-proxy; do
    certificate "$name" "/CN=system:$name" clientAuth
    kubeconfig "$name"
  done
  for node in "${nodes[@]}"; do
    certificate "$node-kubelet" "/O=system:nodes/CN=system:node:$node" clientAuth
    certificate "$node-server" "/CN=$node" serverAuth "DNS:$node,IP:$(address "$node")"
    kubeconfig "$node-kubelet"
  done
}

quietly certificates make
