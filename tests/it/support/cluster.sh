#!/bin/sh
# Runs a PostgreSQL cluster for as long as standard input stays open, then stops it and removes it. Whoever started this
# need not live to clean up: when their end of the pipe goes, however it goes, so does the cluster.
#
#   cluster.sh BINDIR PORT
#
# Prints "ready" when the cluster answers on 127.0.0.1:PORT (user postgres, no password), or fails. Then it takes orders, a
# line each, and answers "done":
#
#   stop            stops at once, as when the machine fails: `pg_ctl stop --mode immediate`
#   start           starts again
#   await-end       waits until the server has ended by itself
#   kill            kills the server's first process
#   standby PORT    copies the cluster to a standby, which answers at that port
#   promote         makes the standby the primary
#
# In the environment: CLUSTER_OPTIONS, more options of the server; CLUSTER_LOG_FOLDER, where its write-ahead log is to lie.
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
as_owner "$bindir/initdb" --pgdata "$data/pg" --username postgres --auth trust --encoding UTF8 --no-sync \
    ${CLUSTER_LOG_FOLDER:+--waldir "$CLUSTER_LOG_FOLDER/log"} >"$data/log" 2>&1 ||
    { cat "$data/log" >&2; exit 1; }
log_of() { cat "$data/log" "$data/$1/server.log" >&2; }

# start FOLDER PORT
start() {
    as_owner "$bindir/pg_ctl" start --pgdata "$data/$1" --wait --log "$data/$1/server.log" --options \
        "-c listen_addresses=127.0.0.1 -c port=$2 -c unix_socket_directories=$data -c max_connections=500 ${CLUSTER_OPTIONS:-}" \
        >"$data/log" 2>&1 </dev/null || { log_of "$1"; return 1; }
}

# stop FOLDER
stop() { as_owner "$bindir/pg_ctl" stop --pgdata "$data/$1" --mode immediate >/dev/null 2>&1; }

trap 'stop pg || true; stop standby || true; rm -rf "$data"' EXIT
start pg "$port"

obey() {
    case $1 in
    stop) stop pg ;;
    start) start pg "$port" ;;
    await-end) while as_owner "$bindir/pg_ctl" status --pgdata "$data/pg" >/dev/null; do sleep 0.1; done ;;
    kill) kill -9 "$(head -n 1 "$data/pg/postmaster.pid")" ;;
    standby)
        as_owner "$bindir/pg_basebackup" --pgdata "$data/standby" --host 127.0.0.1 --port "$port" --username postgres \
            --checkpoint fast --write-recovery-conf --no-sync >"$data/log" 2>&1 && start standby "$2"
        ;;
    promote) as_owner "$bindir/pg_ctl" promote --pgdata "$data/standby" --wait >/dev/null ;;
    *) return 1 ;;
    esac
}

echo ready
while read -r order; do
    # shellcheck disable=SC2086 # An order is words.
    if obey $order; then echo done; else echo failed; fi
done
