#!/usr/bin/env bash
# setup.sh packages|tools|bench: installs what is needed besides Rust, and nothing that is there already: Debian packages for
# the tests, the tests' own tools in .tools, or Debian packages for the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()

# need PACKAGE COMMAND...: when COMMAND fails, PACKAGE is missing.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || packages+=("$package")
}

# Debian keeps the server's programs off the PATH.
postgres_program() {
  compgen -G "/usr/lib/postgresql/*/bin/$1" || command -v "$1"
}

find_missing() {
  packages=()
  need build-essential cc --version # SQLite is compiled from C
  need postgresql postgres_program initdb
  if [ "$1" = bench ]; then
    need postgresql postgres_program pgbench
    need nghttp2-client h2load --version
    need sqlite3 sqlite3 --version
  else
    need openssl openssl version # makes RSA keys, which the tests' own library cannot
    need python3-venv python3 -c 'import ensurepip, venv'
    need nodejs node --version
    need npm npm --version
    need jq jq --version
    need curl curl --version
    need iproute2 env PATH="$PATH:/usr/sbin:/sbin" ip -Version # networks of the tests' own
    need util-linux nsenter --version
    need sqlite3 sqlite3 --version # backups are taken with it
    need systemd systemd-analyze --version
  fi
}

# stop MESSAGE: ends in an error.
stop() {
  echo "setup: $1" >&2
  exit 1
}

install_packages() {
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || stop "neither root nor sudo: have these packages installed: ${packages[*]}"
    root=(sudo)
  fi
  command -v apt-get >/dev/null || stop "not Debian: install what these packages hold: ${packages[*]}"
  echo "setup: installing ${packages[*]}"
  # Debian's postgresql would start a cluster of its own; the tests start theirs, in temporary folders.
  local no_cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf done=yes
  "${root[@]}" mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' | "${root[@]}" tee "$no_cluster" >/dev/null
  { "${root[@]}" apt-get update -q &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; } || done=no
  "${root[@]}" rm "$no_cluster"
  [ $done = yes ] || stop "these packages could not be installed: ${packages[*]}"
}

# The copy of the requirements is the stamp: it is made last.
python_tools() {
  local wanted=tests/clients/requirements.txt venv=.tools/venv
  if cmp -s "$wanted" "$venv/requirements.txt" && "$venv/bin/python" -c 'import grpc_tools, pytest'; then return; fi
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$wanted"
  cp "$wanted" "$venv/"
}

# Likewise the copy of the lock file. No install scripts: buf's own only saves a few milliseconds a start.
node_tools() {
  local wanted=tests/clients/package-lock.json modules=.tools/node_modules
  if cmp -s "$wanted" "$modules/package-lock.json"; then return; fi
  cp tests/clients/package.json "$wanted" .tools/
  npm ci --prefix .tools --ignore-scripts --no-audit --no-fund
  cp "$wanted" "$modules/"
}

# Checks alert rules. Only the program is taken out of Debian's package: what is installed would run as a service.
prometheus_tools() {
  local programs=.tools/prometheus
  if command -v promtool >/dev/null || "$programs/usr/bin/promtool" --version >/dev/null 2>&1; then return; fi
  rm -rf "$programs"
  mkdir -p "$programs"
  # A machine that lacks nothing else may have no list of packages yet.
  download prometheus "$programs" || { update_packages && download prometheus "$programs"; } ||
    stop "promtool could not be had: install Debian's package prometheus"
  dpkg-deb --extract "$programs"/prometheus_*.deb "$programs"
  rm "$programs"/prometheus_*.deb
}

# download PACKAGE FOLDER
download() {
  (cd "$2" && apt-get download -qq -o APT::Sandbox::User=root "$1")
}

update_packages() {
  if [ "$(id -u)" = 0 ]; then apt-get update -q; else sudo apt-get update -q; fi
}

install_missing() {
  find_missing "$1"
  if [ ${#packages[@]} -gt 0 ]; then
    install_packages
    find_missing "$1"
    [ ${#packages[@]} = 0 ] || stop "still missing after their installation: ${packages[*]}"
  fi
}

command -v cargo >/dev/null || stop "cargo is missing: install Rust with rustup, https://rustup.rs"
case ${1:-} in
packages) install_missing test ;;
bench) install_missing bench ;;
tools)
  mkdir -p .tools
  python_tools
  node_tools
  prometheus_tools
  ;;
*) stop "say what for: packages, tools or bench" ;;
esac
