#!/usr/bin/env bash
# The schema of CloudNativePG's Cluster, from the operator's Go module, in $home/cloudnativepg.yaml.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
version=v1.27.0
module=github.com/cloudnative-pg/cloudnative-pg
file=$home/cloudnativepg-$version.yaml

fetch() {
  docker run --rm --network host --volume "$ca:/ca.crt:ro" --env SSL_CERT_FILE=/ca.crt "$golang" sh -c \
    "go mod download $module@$version >&2 && cat /go/pkg/mod/$module@$version/config/crd/bases/postgresql.cnpg.io_clusters.yaml" \
    >"$file.new"
  mv "$file.new" "$file"
}

if [ ! -s "$file" ]; then
  say "fetching CloudNativePG's schema"
  docker image inspect "$golang" >/dev/null 2>&1 || "$here/../images.sh"
  quietly operator timeout 300 bash -c "$(declare -p golang ca module version file); $(declare -f fetch); fetch"
fi
echo "$file"
