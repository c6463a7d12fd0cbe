#!/bin/bash
# Gives whoever this runs as a name, runs the hooks of an image that was made from this one, then the command.
set -e
if [ $# -eq 0 ]; then set -- bash; fi
# JupyterLab does not run as root, unless told so: on a rootless engine root is the user. What lies first on PATH is
# everybody's to change
if [ "$EUID" = 0 ] && [ "${NB_UID:-1000}" != 0 ]; then
  groups=''
  for group in "${GROUPS[@]}"; do if [ "$group" != 0 ]; then groups+=",$group"; fi; done
  exec /usr/bin/setpriv --reuid="${NB_UID:-1000}" --regid="${NB_GID:-100}" --groups="${NB_GID:-100}$groups" \
    --no-new-privs -- /usr/local/bin/start.sh "$@"
fi

names=/var/lib/extrausers  # read after /etc/passwd; entries below 500 do not count
uid=$(id -u) gid=$(id -g) name=${LOGNAME:-}
if [[ ! $name =~ ^[a-z_][a-z0-9_.-]{0,31}$ ]] || getent passwd "$name" >/dev/null; then name=user$uid; fi
if ! getent passwd "$uid" >/dev/null && [ -w "$names/passwd" ]; then
  echo "$name:x:$uid:$gid::$HOME:/bin/bash" >>"$names/passwd"
fi
if ! getent group "$gid" >/dev/null && [ -w "$names/group" ]; then echo "group$gid:x:$gid:" >>"$names/group"; fi

hooks() {  # as in docker-stacks: *.sh in this shell, what is executable as a program
  local file
  for file in "$1"/*; do
    # shellcheck source=/dev/null
    case $file in
      *.sh) source "$file" ;;
      *) if [ -f "$file" ] && [ -x "$file" ]; then "$file"; fi ;;
    esac
  done
}

hooks /usr/local/bin/start-notebook.d
hooks /usr/local/bin/before-notebook.d
exec "$@"
