#!/bin/sh
# Makes this clone's .venv: with a Python 3.11 to 3.14 of this machine, else with one that uv brings.
#   sh setup.sh             the environment alone
#   sh setup.sh up          the environment, then `invoke up`; any other task and its flags in the same way
# Works from any folder; done a second time it only looks.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
cd -- "$here"
venv=$here/.venv
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

say() { echo "setup: $*" >&2; }
fail() { say "$1"; echo "  -> $2" >&2; exit 1; }
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

# A package of the distribution, as root only: a user's system is changed by nobody but its owner.
install_package() {
  { [ -n "$packages" ] && is_root && has apt-get; } || return 1
  say "installing $packages"
  # shellcheck disable=SC2086 # several words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages >/dev/null 2>&1 </dev/null
}

# Which packages bring a Python 3.11 or newer here: "" where the distribution has none.
find_packages() {
  packages=''
  has apt-cache || return 0
  if is_root; then apt-get update -q >/dev/null 2>&1 </dev/null || true; fi
  for version in 3.13 3.12 3.11 3.14; do
    if apt-cache show "python$version-venv" >/dev/null 2>&1; then packages="python$version python$version-venv"; return 0; fi
  done
}

# uv: the one that is here and knows our flags, else the one of our requirements, its hash checked, by the pip of any Python 3.8 or newer.
find_uv() {
  for uv in "${UV:-uv}" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "$tools/bin/uv"; do
    if has "$uv" && works "$uv" python install --no-bin --help && works "$uv" python find --managed-python --help; then
      return 0
    fi
  done
  for old in python3 python3.10 python3.9 python3.8 python; do
    has "$old" || continue
    rm -rf "$tools"
    mkdir -p "$tools"
    sed -n '/^uv==/,/[^\\]$/p' requirements.txt >"$tools/uv.txt"
    if works "$old" -m pip --version; then pip=$old
    elif works "$old" -m venv "$tools/pip"; then pip=$tools/pip/bin/python
    else continue
    fi
    say "installing uv, which brings a Python"
    "$pip" -m pip install -q --disable-pip-version-check --require-hashes --no-deps --target "$tools" -r "$tools/uv.txt" \
      >&2 </dev/null || continue
    uv=$tools/bin/uv
    if works "$uv" --version; then return 0; fi
  done
  return 1
}

# Python by uv. As root where the accounts of the services can read it, which they cannot below /root.
bring_python() {
  find_uv || return 1
  tried=yes
  unset VIRTUAL_ENV CONDA_PREFIX UV_PYTHON UV_PYTHON_PREFERENCE # an active environment's Python would be found first
  if is_root && [ -z "${UV_PYTHON_INSTALL_DIR:-}" ]; then
    UV_PYTHON_INSTALL_DIR=/opt/trackbed/python
    export UV_PYTHON_INSTALL_DIR
  fi
  say "installing a Python with uv${UV_PYTHON_INSTALL_MIRROR:+ from $UV_PYTHON_INSTALL_MIRROR}"
  for version in 3.13 '>=3.11,<3.15'; do # what the images have; else what a mirror has
    (umask 022; "$uv" python install --no-bin "$version" >&2 </dev/null) || continue
    python=$("$uv" python find --managed-python --no-project "$version" 2>/dev/null) && works "$python" -c "$want" && return 0
  done
  return 1
}

what_to_install() {
  if [ -n "$tried" ] && [ -z "$packages" ]; then
    echo "uv's downloads come from a release page of GitHub: UV_PYTHON_INSTALL_MIRROR names a mirror, HTTPS_PROXY a proxy; or put any Python 3.11 to 3.14 on PATH; then the same line again"
  elif [ -n "$packages" ]; then echo "sudo apt install $packages   then the same line again"
  elif has apt-get; then echo "sudo apt install python3-venv   then the same line again: it brings a Python with uv"
  elif has dnf; then echo "sudo dnf install python3.12   then the same line again"
  elif has zypper; then echo "sudo zypper install python312   then the same line again"
  elif has pacman; then echo "sudo pacman -S python   then the same line again"
  elif has brew; then echo "brew install python@3.13   then the same line again"
  else echo "install Python 3.11, 3.12, 3.13 or 3.14, or uv, and put it on PATH; then the same line again"
  fi
}

choose_python() {
  packages='' tried=''
  if python=$(find_python 'import ensurepip, venv'); then return 0; fi
  find_packages
  if install_package && python=$(find_python 'import ensurepip, venv'); then return 0; fi
  if bring_python; then return 0; fi
  if python=$(find_python 'import sys'); then
    fail "$python cannot make virtual environments, python3-venv is missing; and uv could not bring another Python" \
      "$(what_to_install)"
  fi
  fail "there is no Python 3.11 to 3.14 on PATH (python3 is $(python3 --version 2>/dev/null || echo missing)), and uv could not bring one" \
    "$(what_to_install)"
}

make_venv() {
  choose_python
  say "making .venv with $python"
  rm -rf "$venv"
  "$python" -m venv "$venv" >&2 </dev/null \
    || fail "$venv could not be made" "is this folder yours, and is there room on its disk? (ls -ld '$here'; df -h '$here')"
  works "$venv/bin/python" -c "$want" || fail "$venv/bin/python does not start" "$elsewhere"
}

install_requirements() {
  say "installing the requirements"
  rm -f "$venv/.requirements"
  find "$venv" -name '*.pyc' -delete # a full disk leaves truncated ones
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt >&2 </dev/null \
    || fail "the requirements could not be installed" \
      "is this machine online, and is there room (df -h '$here')? pip's own settings for proxies and mirrors count: HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT"
  works "$venv/bin/invoke" --version || fail "$venv/bin/invoke does not start" "$elsewhere"
  cp requirements.txt "$venv/.requirements" # last: an environment without it is half-made
}

elsewhere="programs may not run on this disk: findmnt -T '$here' shows noexec; put the clone on another one"
if ! ready; then
  if ! usable; then make_venv; fi
  install_requirements
fi
if [ $# -gt 0 ]; then exec "$venv/bin/invoke" "$@"; fi
say "ready; next: $venv/bin/invoke up"
