#!/usr/bin/env bash
# What the official image's entry script does, as far as the product relies on it.
set -euo pipefail
socket=/var/run/postgresql
if [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
if [ "$1" != postgres ]; then exec "$@"; fi

if [ "$PG_MAJOR" -ge 18 ] && grep -q ' /var/lib/postgresql/data ' /proc/self/mountinfo; then
  echo "Error: in 18+, these Docker images are configured to store database data in a format which is compatible" \
    "with pg_ctlcluster: there is a mount in /var/lib/postgresql/data (unused mount/volume)" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
mkdir -p "$PGDATA"
chmod 0700 "$PGDATA" || true

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  password=${POSTGRES_PASSWORD:-}
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then password=$(<"$POSTGRES_PASSWORD_FILE"); fi
  if [ -z "$password" ]; then
    echo "Error: Database is uninitialized and superuser password is not specified." >&2
    exit 1
  fi
  # shellcheck disable=SC2086  # several arguments
  # initdb's own default is kept: who is inside the container comes in without a password, also over 127.0.0.1
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") ${POSTGRES_INITDB_ARGS:-}
  printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  printf "\nlisten_addresses = '*'\nunix_socket_directories = '%s'\n" "$socket" >>"$PGDATA/postgresql.conf"
  pg_ctl --wait --silent --options="-c listen_addresses=''" start
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE :"db";\n' | psql -v ON_ERROR_STOP=1 -v db="$database" --host="$socket" \
      --username="$user" --dbname=postgres --quiet
  fi
  # scripts of the user, in the order of their names: on the socket, as the superuser, in POSTGRES_DB
  process() {
    psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --host="$socket" --username="$user" --dbname="$database" "$@"
  }
  # shellcheck source=/dev/null
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) process -f "$file" ;;
      *.sql.gz) gunzip -c "$file" | process ;;
      *) if [ -e "$file" ]; then echo "ignoring $file"; fi ;;
    esac
  done
  pg_ctl --wait --silent --mode=fast stop
  echo "PostgreSQL init process complete; ready for start up."
fi
exec "$@"
