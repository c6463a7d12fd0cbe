#!/bin/sh
# Beside a scheduled backup: run PostgreSQL's programs for it, as run.sh asks. Each request is a folder.
set -u
cd /run/requests || exit 1
trap 'exit 0' TERM INT
[ -p next ] || mkfifo next
exec 3<>next
end() { # the program of a request; SIGINT has it cancel what the server does for it
    [ -s "$1/pid" ] || sleep 1
    program="$(cat "$1/pid")" || return
    kill -INT "${program}"
    sleep 2
    [ -e "$1/code" ] || kill -TERM "${program}"
}
while read -r folder order <&3; do
    if [ "${order}" = end ]; then
        end "${folder}" 2>/dev/null &
        continue
    fi
    (
        cd "${folder}" || exit 1
        sh ./words <in >out 2>err &
        echo "$!" >pid
        wait "$!"
        echo "$?" >code.part
        mv code.part code
    ) &
done
