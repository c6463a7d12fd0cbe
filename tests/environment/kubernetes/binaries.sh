#!/usr/bin/env bash
# Kubernetes, CoreDNS and kwok in $home/bin: from an archive, else built from their Go modules (12 minutes on 2 cores).
# kube-router (2 minutes) only where it is named.
# TRACKBED_KUBERNETES_BINARIES is the folder of kubernetes.tar.xz. Usage: binaries.sh [PROGRAM...]
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
version=1.36.1
coredns=v1.15.0
kwok=v0.8.0
router=v2.1.0
archive=${TRACKBED_KUBERNETES_BINARIES:-$here/../../../../shared/rig/bin}/kubernetes.tar.xz
programs=("$@")
if [ $# = 0 ]; then
  programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns kwok)
fi

missing() {
  local program
  for program in "${programs[@]}"; do
    if [ ! -x "$home/bin/$program" ]; then echo "$program"; fi
  done
}

unpack() {
  mkdir -p "$home/bin.new"
  tar -C "$home/bin.new" --no-same-owner -xJf "$archive"
  chmod 0755 "$home/bin.new"/*
  mv -f "$home/bin.new"/* "$home/bin/"
  rm -rf "$home/bin.new"
}

# Kubernetes replaces its own libraries by folders of its repository, which a module may not: the same release of each.
build() {  # runs in the golang image, whose /build is a folder of this machine
  local program package stamp="k8s.io/component-base/version.gitVersion=v$version"
  stamp="-s -w -X $stamp -X k8s.io/client-go/pkg/version.gitVersion=v$version"
  mkdir -p /build/bin /build/module
  cd /build/module
  printf 'module trackbed.test/kubernetes\n\ngo 1.26\n\nrequire k8s.io/kubernetes v%s\n' "$version" >go.mod
  go mod download "k8s.io/kubernetes@v$version"
  awk -v release="v0.${version#1.}" '$2 == "v0.0.0" {print "replace " $1 " => " $1 " " release}' \
    "$(go env GOMODCACHE)/cache/download/k8s.io/kubernetes/@v/v$version.mod" >>go.mod
  for program in "$@"; do
    echo "building $program"
    case $program in
      coredns) GOBIN=/build/bin go install -trimpath -ldflags "-s -w" "github.com/coredns/coredns@$coredns" ;;
      kwok) GOBIN=/build/bin go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kwok/cmd/kwok@$kwok" ;;
      kube-router) GOBIN=/build/bin go install -trimpath -ldflags "-s -w" \
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@$router" ;;
      *) package=k8s.io/kubernetes/cmd/$program
         go build -mod=mod -trimpath -ldflags "$stamp" -o "/build/bin/$program" "$package" ;;
    esac
  done
}

in_golang() {
  mkdir -p "$home/build"
  docker run --rm --network host --volume "$home/build:/build" --volume "$ca:/ca.crt:ro" --env SSL_CERT_FILE=/ca.crt \
    --env GOPATH=/build/path --env GOCACHE=/build/cache --env GOTOOLCHAIN=auto --env GOFLAGS=-modcacherw \
    --env CGO_ENABLED=0 "$golang" bash -c "set -e; version=$version coredns=$coredns kwok=$kwok router=$router
$(declare -f build)
build $*"
  mv -f "$home/build/bin"/* "$home/bin/"
  rm -rf "$home/build"
}

mkdir -p "$home"/{bin,log}
if [ -n "$(missing)" ] && [ "$(missing)" != kube-router ] && [ -f "$archive" ]; then
  say "unpacking Kubernetes $version"
  quietly binaries unpack
fi
mapfile -t wanted < <(missing)
if [ ${#wanted[@]} -gt 0 ]; then
  docker image inspect "$golang" >/dev/null 2>&1 || "$here/../images.sh"
  say "building Kubernetes $version from source: ${wanted[*]}"
  quietly binaries timeout 3600 bash -c "$(declare -p home version coredns kwok router golang ca)
$(declare -f build in_golang)
in_golang ${wanted[*]}"
fi
