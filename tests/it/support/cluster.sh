#!/bin/sh
# Runs a PostgreSQL cluster for as long as standard input stays open, then stops it and removes it. Whoever started this
# need not live to clean up: when their end of the pipe goes, however it goes, so does the cluster.
#
#   cluster.sh BINDIR PORT
#
# Prints "ready" when the cluster answers on 127.0.0.1:PORT (user postgres, no password), or fails.
set -eu
# Where runuser is, which not every PATH of root's holds.
PATH=$PATH:/usr/sbin:/sbin
bindir=$1
port=$2

data=$(mktemp -d "${TMPDIR:-/tmp}/toggled-postgres.XXXXXX")
trap 'rm -rf "$data"' EXIT

# PostgreSQL refuses to run as root.
as_owner() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    chown postgres "$data"
    as_owner() { runuser -u postgres -- "$@"; }
fi

cd "$data"
as_owner "$bindir/initdb" --pgdata "$data/pg" --username postgres --auth trust --encoding UTF8 --no-sync >"$data/log" 2>&1 ||
    { cat "$data/log" >&2; exit 1; }
trap 'as_owner "$bindir/pg_ctl" stop --pgdata "$data/pg" --mode immediate >/dev/null 2>&1; rm -rf "$data"' EXIT
as_owner "$bindir/pg_ctl" start --pgdata "$data/pg" --wait --log "$data/pg/server.log" --options \
    "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$data -c max_connections=500 ${CLUSTER_OPTIONS:-}" \
    >"$data/log" 2>&1 </dev/null || { cat "$data/log" "$data/pg/server.log" >&2; exit 1; }

echo ready
cat >/dev/null
