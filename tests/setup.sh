#!/usr/bin/env bash
# setup.sh packages|tools|bench: installs what the tests need besides Rust. What is already installed is skipped.
#
#   packages   Debian packages for the tests
#   tools      Python and Node packages, promtool and grpcurl for the tests, in .tools, and the programs of examples/
#   bench      Debian packages for the benchmark
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()

# need PACKAGE COMMAND...: marks PACKAGE as missing if COMMAND fails.
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
    need openssl openssl version # generates RSA keys, which the tests' library cannot
    need python3-venv python3 -c 'import ensurepip, venv'
    need nodejs node --version
    need npm npm --version
    need jq jq --version
    need curl curl --version
    need iproute2 env PATH="$PATH:/usr/sbin:/sbin" ip -Version # networks of the tests' own
    need util-linux nsenter --version
    need sqlite3 sqlite3 --version # takes backups
    need pgbouncer env PATH="$PATH:/usr/sbin" pgbouncer --version
    need systemd systemd-analyze --version
    need chromium chromium --version
  fi
}

# stop MESSAGE: prints MESSAGE and exits with an error.
stop() {
  echo "setup: $1" >&2
  exit 1
}

install_packages() {
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || stop "installing packages needs root or sudo; install ${packages[*]} yourself, then run this again"
    root=(sudo)
  fi
  command -v apt-get >/dev/null || stop "apt-get not found; install your system's equivalents of ${packages[*]}, then run this again"
  echo "setup: installing ${packages[*]}"
  # Keeps Debian's postgresql package from creating a cluster. The tests start their own, in temporary folders.
  local no_cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf done=yes
  "${root[@]}" mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' | "${root[@]}" tee "$no_cluster" >/dev/null
  { "${root[@]}" apt-get update -q &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"; } || done=no
  "${root[@]}" rm "$no_cluster"
  [ $done = yes ] || stop "apt-get could not install ${packages[*]}; see its messages above"
}

# The copy of requirements.txt marks a complete installation, so it is written last.
python_tools() {
  local expected=tests/clients/requirements.txt venv=.tools/venv
  if cmp -s "$expected" "$venv/requirements.txt" && "$venv/bin/python" -c 'import grpc_tools, pytest'; then return; fi
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$expected"
  cp "$expected" "$venv/"
}

# The copy of the lock file marks a complete installation. Install scripts are off: buf works without its own.
node_tools() {
  local expected=tests/clients/package-lock.json modules=.tools/node_modules
  if cmp -s "$expected" "$modules/package-lock.json"; then return; fi
  cp tests/clients/package.json "$expected" .tools/
  npm ci --prefix .tools --ignore-scripts --no-audit --no-fund
  cp "$expected" "$modules/"
}

# promtool checks alert rules. It is extracted from Debian's package, which would run Prometheus if it were installed.
prometheus_tools() {
  local programs=.tools/prometheus
  if command -v promtool >/dev/null || "$programs/usr/bin/promtool" --version >/dev/null 2>&1; then return; fi
  rm -rf "$programs"
  mkdir -p "$programs"
  # The first download fails if the package lists were never fetched.
  download prometheus "$programs" || { update_packages && download prometheus "$programs"; } ||
    stop "could not download promtool; install Debian's package prometheus, then run this again"
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

# has COMMAND WHAT: whether COMMAND is installed. If not, reports that WHAT is left out, or stops if REQUIRE_CLIENTS is "all".
has() {
  if command -v "$1" >/dev/null; then return; fi
  [ "${REQUIRE_CLIENTS:-}" != all ] || stop "$1 not found, and REQUIRE_CLIENTS=all demands $2; install it, then run this again"
  echo "setup: $1 not found: without $2"
  return 1
}

# changed MARKER PATH...: whether a file in PATH is newer than MARKER.
changed() {
  local marker=$1
  shift
  [ ! -e "$marker" ] || [ -n "$(find "$@" -type f -newer "$marker" -print -quit)" ]
}

# The programs of examples/, built as their READMEs say.
examples() {
  local root=$PWD path=$PWD/.tools/node_modules/.bin:$PATH
  # Python's run with the tests' packages.
  if grep --invert-match --line-regexp --fixed-strings --file=tests/clients/requirements.txt examples/python/requirements.txt; then
    stop "examples/python/requirements.txt has other versions than tests/clients/requirements.txt; use the same"
  fi
  (
    cd examples/python
    "$root/.tools/venv/bin/python" -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/toggled/v1/*.proto
  )
  local folder
  for folder in examples/node examples/browser; do
    changed $folder/node_modules/.built proto $folder/*.{ts,json,yaml} || continue
    (cd $folder && npm ci --ignore-scripts --no-audit --no-fund && npm run --silent build)
    touch $folder/node_modules/.built
  done
  if has go "the example in Go, and the real grpcurl"; then
    (cd examples/go && PATH=$path go generate && go build -buildvcs=false -o flags .)
    (
      cd tests/clients/go
      PATH=$path go generate
      go build -buildvcs=false -o "$root/.tools/bin/connect_flagd" .
      go build -o "$root/.tools/bin/grpcurl" github.com/fullstorydev/grpcurl/cmd/grpcurl
    )
  fi
  if has mvn "the example in Java" && changed examples/java/target/.built proto examples/java/src examples/java/pom.xml; then
    (cd examples/java && mvn --batch-mode --quiet compile)
    touch examples/java/target/.built
  fi
}

install_missing() {
  find_missing "$1"
  if [ ${#packages[@]} -gt 0 ]; then
    install_packages
    find_missing "$1"
    [ ${#packages[@]} = 0 ] || stop "still missing after the installation: ${packages[*]}; check the messages above"
  fi
}

command -v cargo >/dev/null || stop "cargo not found; install Rust with rustup: https://rustup.rs"
case ${1:-} in
packages) install_missing test ;;
bench) install_missing bench ;;
tools)
  mkdir -p .tools
  python_tools
  node_tools
  prometheus_tools
  examples
  ;;
*) stop "usage: setup.sh packages|tools|bench" ;;
esac
