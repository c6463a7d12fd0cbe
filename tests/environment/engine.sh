#!/usr/bin/env bash
# An engine that already answers is used as it is. Otherwise: Docker 26.1, BuildKit and Compose from Debian's
# packages, unpacked below $TRACKBED_RIG_HOME, and dockerd started. Prints the PATH line to eval.
set -euo pipefail
home=${TRACKBED_RIG_HOME:-/var/tmp/trackbed-rig}
root=$home/root
plugins=/usr/libexec/docker/cli-plugins
export DOCKER_BUILDKIT=1 PATH="$root/usr/bin:$root/usr/sbin:/usr/sbin:/sbin:$PATH"

say() { echo "environment: $*" >&2; }
complete() { docker compose version && docker buildx version; } >/dev/null 2>&1
answers() { timeout 20 docker info; } >/dev/null 2>&1

# Debian 12's own engine is 20.10. Trixie's runs on its libc, only trixie's runc does not.
unpack() {
  local apt=$home/apt mirror options
  mkdir -p "$root" "$plugins" "$apt"/{lists/partial,cache/archives/partial,debs}
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends ca-certificates iptables iproute2 runc xz-utils procps \
    openssh-server openssh-client openssl  # the tests' node and its TLS
  mirror=$("$(dirname "$0")/mirror.sh")
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
           -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update -q
  (cd "$apt/debs" && rm -f -- *.deb && apt-get "${options[@]}" download -q \
    docker.io docker-cli docker-buildx docker-compose containerd tini)
  for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$root"; done
  rm -f "$root/usr/sbin/runc" "$root/usr/bin/runc"
  cp "$root$plugins"/* "$plugins/"
}

# GPUs without a GPU: CDI specifications are read from a folder of this environment, and a hook stands in for NVIDIA's.
configure() {
  mkdir -p "$home/cdi"
  printf '{"mtu": 1400, "features": {"cdi": true}, "cdi-spec-dirs": ["%s/cdi"]}\n' "$home" >"$home/daemon.json"
}

mkdir -p "$home"
if ! complete || { ! answers && ! command -v dockerd >/dev/null; }; then
  say "unpacking Docker and Compose"
  unpack >"$home/engine-install.log" 2>&1 || { tail -n 15 "$home/engine-install.log" >&2; exit 1; }
  hash -r  # bash remembers where another docker was, whose folder has no containerd
  complete || { say "docker compose or buildx does not run"; exit 1; }
fi
if ! answers; then
  say "starting dockerd"
  configure
  # MTU 1400: a tunnelled uplink passes no more, and TLS inside containers hangs.
  PATH="$(cd "$(dirname "$0")" && pwd)/hooks:$PATH" setsid dockerd --config-file "$home/daemon.json" >"$home/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 150); do answers && break; sleep 0.2; done
  answers || { tail -n 15 "$home/dockerd.log" >&2; exit 1; }
fi
echo "export DOCKER_BUILDKIT=1 PATH=$(dirname "$(command -v docker)"):$root/usr/sbin:/usr/sbin:/sbin:\$PATH"
