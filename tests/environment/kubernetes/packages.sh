#!/usr/bin/env bash
# etcd, containerd and the CNI plugins from Debian's packages of trixie, unpacked; the rest from this machine's Debian.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
root=$home/root
apt=$home/apt

unpack() {
  local mirror options deb
  mkdir -p "$root" "$apt"/{lists/partial,cache/archives/partial,debs}
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends ca-certificates iproute2 iptables openssl procps runc util-linux xz-utils
  mirror=$("$here/../mirror.sh")
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
           -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update -q
  (cd "$apt/debs" && rm -f -- *.deb && apt-get "${options[@]}" download -q \
    etcd-server etcd-client containerd containernetworking-plugins conntrack busybox-static tini)
  for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  rm -f "$root/usr/sbin/runc" "$root/usr/bin/runc"  # trixie's wants a newer glibc than Debian 12 has
  rm -rf "$apt"
  touch "$root/complete"
}

if [ ! -f "$root/complete" ]; then
  say "unpacking etcd, containerd and the CNI plugins"
  quietly packages unpack
fi
