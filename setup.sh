#!/bin/sh
# Makes this clone's .venv: with a Python 3.11 to 3.14 of this machine, else with one that uv brings.
#   sh setup.sh             the environment alone
#   sh setup.sh up          the environment, then `invoke up`; any other task and its flags in the same way
#   sh setup.sh up --from-bundle=FILE   without a network: all comes from a file of `invoke bundle`
# Works from any folder; done a second time it only looks.
set -eu
# A bundle's path is meant from the folder in which this is typed.
given='' flag='' empty=''
for word in "$@"; do
  shift
  word=$flag$word flag=''
  case $word in
    --from-bundle) flag=--from-bundle=; continue;;
    --from-bundle=?*)
      given=${word#*=}
      case $given in
        /*) ;;
        \~/*) given=${HOME:-~}/${given#??};; # no shell does it behind an =
        *) given=$PWD/$given;;
      esac
      word=--from-bundle=$given;;
    --from-bundle=) empty=yes;;
  esac
  set -- "$@" "$word"
done
if [ -n "$flag" ]; then empty=yes; fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
cd -- "$here"
venv=$here/.venv
no_cache=''
tools=$here/.venv-tools
want='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
# Neither it nor a link on the way to it lies in the folder $1.
outside='
import os, sys
places = [sys.prefix]
for path in (sys.executable, sys._base_executable):
    places.append(path)
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
        places.append(path)
places = [os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place)) for place in places]
sys.exit(any((place + os.sep).startswith(os.path.join(sys.argv[1], "")) for place in places))'

ticker=''
# Says what begins. On a terminal its seconds stand below until something else is said: pip and apt are quiet for long.
begin() {
  say "$1"
  [ -t 2 ] || return 0
  (
    seconds=0
    while sleep 1 2>/dev/null && kill -0 $$ 2>/dev/null; do # it ends with this script, also after Ctrl-C
      seconds=$((seconds + 1))
      if [ "$seconds" -ge 3 ]; then printf '  %s s \r' "$seconds" >&2; fi
    done
  ) >/dev/null </dev/null &
  ticker=$!
}

end() {
  [ -n "$ticker" ] || return 0
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  ticker=''
  printf '%10s\r' '' >&2
}

say() { end; echo "setup: $*" >&2; }
fail() {
  say "$1"
  echo "  -> $2" >&2
  if [ $# -gt 2 ]; then echo "$3" >&2; fi
  echo "  see docs/troubleshooting.md#setup" >&2
  exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
works() { "$@" >/dev/null 2>&1 </dev/null; }

# The environment was made here and its Python does. (A moved clone takes its .venv along, which leads to the old place.)
usable() {
  works "$venv/bin/python" -c "$want" && head -n 2 "$venv/bin/pip" 2>/dev/null | grep -qF "$venv/bin/python" \
    && works "$venv/bin/python" -m pip --version
}

# It is whole: from these requirements, to its end.
ready() { usable && cmp -s requirements.txt "$venv/.requirements" && works "$venv/bin/invoke" --version; }

# The Pythons on PATH, and the one that .venv was made with. For root those below /root come last: the accounts of the services cannot run them.
candidates() {
  (
    set -f
    IFS=:
    for folder in $PATH; do
      for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if [ -x "$folder/$name" ]; then echo "$folder/$name"; fi
      done
    done
    "$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null </dev/null || true
  ) | awk -v root="$(id -u)" 'root == 0 && /^\/root\// { late[++n] = $0; next } { print } END { for (i = 1; i <= n; i++) print late[i] }'
}

# The first of them that does for the environment, and is not in the one that goes; $1: what it also has to be able to do.
find_python() {
  found=$(candidates | while IFS= read -r path; do
    if works "$path" -c "$want" && works "$path" -c "$outside" "$venv" && works "$path" -c "$1"; then
      echo "$path"
      cat >/dev/null # the others
    fi
  done)
  [ -n "$found" ] && echo "$found"
}

# apt knows only the small names of the proxies; a site without a network is not waited for long.
quiet_apt() {
  env DEBIAN_FRONTEND=noninteractive ${HTTP_PROXY:+"http_proxy=${http_proxy:-$HTTP_PROXY}"} \
    ${HTTPS_PROXY:+"https_proxy=${https_proxy:-$HTTPS_PROXY}"} apt-get -q -o Acquire::http::Timeout=30 \
    -o Acquire::https::Timeout=30 -o Acquire::Retries=1 "$@" >/dev/null 2>&1 </dev/null
}

# A package of the distribution, as root only: a user's system is changed by nobody but its owner.
install_package() {
  { [ -n "$packages" ] && is_root && has apt-get; } || return 1
  begin "installing $packages"
  # shellcheck disable=SC2086 # several words
  quiet_apt install -y --no-install-recommends $packages
}

# Which packages bring a Python 3.11 or newer here: "" where the distribution has none.
find_packages() {
  packages=''
  has apt-cache || return 0
  if is_root; then
    begin "reading the distribution's list of packages"
    quiet_apt update || true
  fi
  for version in 3.13 3.12 3.11 3.14; do
    if apt-cache show "python$version-venv" >/dev/null 2>&1; then packages="python$version python$version-venv"; return 0; fi
  done
}

# The .whl files of a folder, for PYTHONPATH.
wheels() {
  for wheel in "$1"/*.whl; do
    if [ -f "$wheel" ]; then printf '%s:' "$wheel"; fi
  done
}

# apt-get with folders of our own: anybody may fetch a package so, and nothing is installed. What root fetches stays with apt's own account.
own_apt() {
  if is_root; then chown _apt "$tools/apt/debs" "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial" 2>/dev/null || true
  else set -- -o APT::Sandbox::User=root "$@"
  fi
  quiet_apt -o "Dir::Cache=$tools/apt/cache" -o Debug::NoLocking=1 "$@"
}

# Fetches the first package of the distribution that is there, and unpacks it in $tools/apt. The lists may be empty here.
fetch_package() {
  for package in "$@"; do
    (cd "$tools/apt/debs" && { own_apt download "$package" || own_apt -o "Dir::State::Lists=$tools/apt/lists" download "$package"; }) || continue
    for deb in "$tools/apt/debs/$package"_*.deb; do dpkg-deb -x "$deb" "$tools/apt/root" >/dev/null 2>&1 || return 1; done
    return 0
  done
  return 1
}

# pip for the Python $1, which has none: from the wheels that Debian and Ubuntu keep for their python3-venv. Sets pip_path.
find_pip() {
  stored=/usr/share/python-wheels
  pip_path=$(wheels "$stored")
  if [ -n "$pip_path" ] && works env PYTHONPATH="$pip_path" "$1" -m pip --version; then return 0; fi
  { [ -z "$pip_tried" ] && has apt-get && has dpkg-deb; } || return 1
  pip_tried=yes
  begin "fetching pip from the distribution's packages"
  rm -rf "$tools/apt"
  (umask 022; mkdir -p "$tools/apt/debs" "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial")
  packages_pip="python3-pip-whl python-pip-whl"
  # shellcheck disable=SC2086 # several words
  fetch_package $packages_pip || { own_apt -o "Dir::State::Lists=$tools/apt/lists" update && fetch_package $packages_pip; } || return 1
  stored=$tools/apt/root/usr/share/python-wheels
  pip_path=$(wheels "$stored")
  if ! works "$1" -c 'import sys, distutils.util' && works "$1" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    fetch_package python3-distutils || true # old pips need it, and old Pythons have only a piece of it
    library=$("$1" -c 'import os; print(os.path.dirname(os.__file__))')
    extra=$tools/apt/root/usr/lib/${library##*/}
    if [ -d "$extra/distutils" ]; then cp -n "$library"/distutils/*.py "$extra/distutils/" 2>/dev/null || true; fi
    pip_path=$extra:$pip_path
  fi
  works env PYTHONPATH="$pip_path" "$1" -m pip --version
}

# uv: the one that is here and knows our flags, else the one of our requirements, its hash checked, by the pip of any Python 3.8 or newer.
find_uv() {
  for uv in "${UV:-uv}" "${HOME:-}/.local/bin/uv" "${HOME:-}/.cargo/bin/uv" "$tools/bin/uv"; do
    if has "$uv" && works "$uv" python install --no-bin --help && works "$uv" python find --managed-python --help; then
      return 0
    fi
  done
  for old in python3 python3.10 python3.9 python3.8 python; do
    has "$old" || continue
    rm -rf "$tools"
    mkdir -p "$tools"
    sed -n '/^uv==/,/[^\\]$/p' requirements.txt >"$tools/uv.txt"
    pip=$old pip_path=''
    if works "$old" -m pip --version; then :
    elif works "$old" -m venv "$tools/pip"; then pip=$tools/pip/bin/python
    elif find_pip "$old"; then :
    else continue
    fi
    begin "installing uv, which brings a Python"
    env ${pip_path:+"PYTHONPATH=$pip_path"} "$pip" -m pip install -q --disable-pip-version-check --require-hashes --no-deps \
      --target "$tools" -r "$tools/uv.txt" >&2 </dev/null || continue
    rm -rf "$tools/apt"
    uv=$tools/bin/uv
    if works "$uv" --version; then return 0; fi
  done
  return 1
}

# uv reads neither pip's settings nor, by itself, the certificates of the system, where a site's own are.
trust_system() {
  trust=''
  if [ -n "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}${UV_SYSTEM_CERTS:-}${UV_NATIVE_TLS:-}" ]; then return 0; fi
  if [ -n "${PIP_CERT:-}" ]; then
    SSL_CERT_FILE=$PIP_CERT
    export SSL_CERT_FILE
    return 0
  fi
  for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -f "$bundle" ]; then
      trust=UV_NATIVE_TLS=1 # its name in a uv before 0.11, which does not know the other
      if "$uv" python install --help 2>/dev/null </dev/null | grep -q -e --system-certs; then trust=UV_SYSTEM_CERTS=1; fi
      return 0
    fi
  done
}

# Python by uv. As root where the accounts of the services can read it, which they cannot below /root.
bring_python() {
  find_uv || return 1
  tried=yes
  trust_system
  unset VIRTUAL_ENV CONDA_PREFIX UV_PYTHON UV_PYTHON_PREFERENCE # an active environment's Python would be found first
  if is_root && [ -z "${UV_PYTHON_INSTALL_DIR:-}" ]; then
    UV_PYTHON_INSTALL_DIR=/opt/trackbed/python
    export UV_PYTHON_INSTALL_DIR
  fi
  say "installing a Python with uv${UV_PYTHON_INSTALL_MIRROR:+ from $UV_PYTHON_INSTALL_MIRROR}" # uv draws its own progress
  for version in 3.13 '>=3.11,<3.15'; do # what the images have; else what a mirror has
    if [ "$version" != 3.13 ] && [ -z "${UV_PYTHON_INSTALL_MIRROR:-}" ]; then return 1; fi
    (umask 022; env ${trust:+"$trust"} "$uv" python install --no-bin "$version" >&2 </dev/null) || continue
    python=$("$uv" python find --managed-python --no-project "$version" 2>/dev/null) || {
      say "the Python that uv brought does not start: $("$uv" python find --managed-python --no-project "$version" 2>&1 </dev/null | tail -n 1)"
      continue
    }
    if works "$python" -c "$want"; then return 0; fi
    say "$python does not start: $("$python" -c '' 2>&1 </dev/null | tail -n 1)"
  done
  return 1
}

# The line that installs $1, for who types it: root needs no sudo, and a fresh system has no list of packages yet.
by_apt() {
  line="apt-get update && apt-get install -y $1"
  if is_root; then echo "$line"
  elif has sudo; then echo "sudo sh -c '$line'"
  else echo "su -c '$line'"
  fi
}

what_to_install() {
  sudo=''
  if ! is_root; then sudo='sudo '; fi
  if [ -n "$tried" ] && [ -z "$packages" ]; then
    echo "the download comes from GitHub: \`export HTTPS_PROXY=URL\` names a proxy, \`export UV_PYTHON_INSTALL_MIRROR=URL\` a mirror; or put any Python 3.11 to 3.14 on PATH"
  elif [ -n "$packages" ]; then by_apt "$packages"
  elif has apt-get; then by_apt python3-venv
  elif has dnf; then echo "${sudo}dnf install -y python3.12"
  elif has zypper; then echo "${sudo}zypper install -y python312"
  elif has pacman; then echo "${sudo}pacman -S --noconfirm python"
  elif has brew; then echo "brew install python@3.13"
  else echo "install Python 3.11, 3.12, 3.13 or 3.14, or uv, and put it on PATH"
  fi
}

# Unpacks what this script needs from the bundle, all hashes compared. Sets bundled, want and python.
read_bundle() {
  [ -f "$given" ] || fail "there is no file $given" "name the bundle, or the copy of it on this machine: sh setup.sh up --from-bundle=FILE"
  bundled=$tools/bundle
  rm -rf "$bundled"
  (umask 077; mkdir -p "$bundled")
  begin "unpacking the toolkit from $given"
  for reader in python3 python3.13 python3.12 python3.11 python3.14 python; do
    if works "$reader" -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then break; fi
    reader=''
  done
  [ -n "$reader" ] || fail "there is no Python on PATH that could read $given" "install python3 (3.8 or newer is enough), then type the same line again"
  said=$("$reader" -I "$here/helpers/bundle_file.py" "$given" "$bundled" 2>&1 </dev/null) \
    || fail "the bundle $given was not used: $said" "copy it again, and compare its SHA-256 with the one that was printed when it was written"
  minor=${said%%,*} python=${said#*,}
  want="import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$minor')"
}

# The Python that a bundle's wheels are for: the bundle's own, else one of this machine.
choose_bundled_python() {
  seed=''
  if [ -n "$python" ]; then
    if is_root; then kept=/opt/trackbed/python; else kept=$tools; fi
    kept=$kept/bundle-$minor
    if ! works "$kept/bin/python$minor" -c "$want"; then
      rm -rf "$kept"
      (umask 022; mkdir -p "${kept%/*}" && mv "$bundled/python" "$kept") || fail "$kept could not be made" "is there room (df -h '${kept%/*}')?"
    fi
    python=$kept/bin/python$minor
    if works "$python" -c "$want"; then return 0; fi
    fail "the Python in $given does not start here" "was it made on a machine of this kind? (uname -sm; ldd --version)"
  fi
  if python=$(find_python 'import ensurepip, venv'); then return 0; fi
  if python=$(find_python 'import venv'); then
    seed=$bundled/toolkit pip_path=$(wheels "$bundled/toolkit")
    return 0
  fi
  fail "the bundle $given is for Python $minor, which is not on PATH" "install python$minor, or make the bundle on a machine with the Python of this one"
}

choose_python() {
  packages='' tried='' pip_tried='' seed=''
  if python=$(find_python 'import ensurepip, venv'); then return 0; fi
  find_packages
  if install_package && python=$(find_python 'import ensurepip, venv'); then return 0; fi
  if python=$(find_python 'import venv') && find_pip "$python"; then
    seed=$stored
    return 0
  fi
  if bring_python; then return 0; fi
  again="     Then type the same line again."
  if [ -z "${HTTPS_PROXY:-}${https_proxy:-}" ]; then
    again="$again Behind a proxy, before that: export http_proxy=URL https_proxy=URL"
  fi
  if python=$(find_python 'import sys'); then
    fail "$python cannot make virtual environments: python3-venv is missing, and Trackbed could not fetch another Python" \
      "$(what_to_install)" "$again"
  fi
  fail "there is no Python 3.11 to 3.14 on PATH (python3 is $(python3 --version 2>/dev/null || echo missing)), and Trackbed could not fetch one" \
    "$(what_to_install)" "$again"
}

make_venv() {
  if [ -n "$given" ]; then choose_bundled_python; else choose_python; fi
  begin "making .venv with $python"
  rm -rf "$venv"
  "$python" -m venv ${seed:+--without-pip} "$venv" >&2 </dev/null \
    || fail "$venv could not be made" "is this folder yours, and is there room on its disk? (ls -ld '$here'; df -h '$here')"
  works "$venv/bin/python" -c "$want" || fail "$venv/bin/python does not start" "$elsewhere"
  if [ -n "$seed" ]; then
    works env PYTHONPATH="$pip_path" "$venv/bin/python" -m pip install --no-index --no-deps "$seed"/pip-*.whl \
      || fail "pip could not be installed into $venv" "$(by_apt "${packages:-python3-venv}")" "     Then type the same line again."
    rm -rf "$tools/apt"
  fi
}

install_requirements() {
  begin "installing the requirements${given:+ from $given}"
  rm -f "$venv/.requirements"
  find "$venv" -name '*.pyc' -delete # a full disk leaves truncated ones
  if [ -n "$given" ]; then
    # the hashes are those of this clone's requirements.txt, whatever the bundle says
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --isolated --no-cache-dir --no-index -f "$bundled/toolkit" \
      --require-hashes -r requirements.txt >&2 </dev/null \
      || fail "the requirements could not be installed from $given" \
        "was it made by this version of Trackbed, on a machine of this kind? Otherwise make it again; is there room (df -h '$here')?"
    rm -rf "$bundled"
  else
    cache="${XDG_CACHE_HOME:-${HOME:-/}}" # pip's own warning about a home that is closed speaks of sudo
    if ! [ -w "$cache" ]; then no_cache=1; fi
    env ${no_cache:+PIP_NO_CACHE_DIR=1} "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt >&2 </dev/null \
      || fail "the requirements could not be installed" \
        "is this machine online, and is there room (df -h '$here')? pip's own settings for proxies and mirrors count: HTTPS_PROXY, PIP_INDEX_URL" \
        "     CERTIFICATE_VERIFY_FAILED means that the network opens TLS: export PIP_CERT=FILE names its certificate authority"
  fi
  works "$venv/bin/invoke" --version || fail "$venv/bin/invoke does not start" "$elsewhere"
  cp requirements.txt "$venv/.requirements" # last: an environment without it is half-made
}

elsewhere="programs may not run on this disk: findmnt -T '$here' shows noexec; put the clone on another one"
if [ -n "$empty" ]; then fail "--from-bundle names no file" "sh setup.sh up --from-bundle=FILE"; fi
if ! ready; then
  if [ -n "$given" ]; then read_bundle; fi
  if ! usable; then make_venv; fi
  install_requirements
fi
end
if [ $# -gt 0 ]; then exec "$venv/bin/invoke" "$@"; fi
say "ready; next: $venv/bin/invoke up"
