#!/bin/sh
# Beside a scheduled backup: run PostgreSQL's programs for it, as run.sh asks. Each request is a folder.
set -u
cd /run/requests || exit 1
trap 'exit 0' TERM INT
[ -p next ] || mkfifo next
exec 3<>next
while read -r folder <&3; do
    (
        cd "${folder}" || exit 1
        sh ./words <in >out 2>err
        echo "$?" >code.part
        mv code.part code
    ) &
done
