#!/bin/sh
# A program of the container beside this one, as if it ran here: its input, its output, its errors, its exit code.
# Ended by SIGTERM, it ends that program too.
set -eu
folder="$(mktemp -d /run/requests/XXXXXXXX)"
cd "${folder}"
mkfifo in out
{
    printf exec
    for word in "$@"; do
        printf " '%s'" "$(printf %s "${word}" | sed "s/'/'\\\\''/g")"
    done
} >words
exec 4<&0
cat <&4 >in 2>/dev/null &
feeding=$!
cat <out &
reading=$!
trap 'echo "${folder##*/} end" >/run/requests/next; kill "${feeding}" "${reading}" 2>/dev/null || true; wait; exit 143' TERM
echo "${folder##*/}" >/run/requests/next
wait "${reading}"
tries=0
until [ -e code ]; do # a moment later, unless that container was ended
    tries=$((tries + 1))
    if [ "${tries}" -gt 300 ]; then
        echo "the container with PostgreSQL's programs was ended" >&2
        exit 1
    fi
    sleep 0.1
done
kill "${feeding}" 2>/dev/null || true
wait # nobody else would take note of their end
cat err >&2
exit "$(cat code)"
