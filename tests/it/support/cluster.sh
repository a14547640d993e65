#!/bin/sh
# Runs a PostgreSQL cluster until standard input is closed, then stops and deletes it. The cluster is also cleaned up when
# the parent process is killed, since that closes the pipe.
#
#   cluster.sh BINDIR PORT
#
# Prints "ready" when the cluster accepts connections on 127.0.0.1:PORT (user postgres, no password), or fails. Then it
# reads commands, one per line, and prints "done" or "failed" after each:
#
#   stop            stops the cluster at once, as after a crash: `pg_ctl stop --mode immediate`
#   start           starts it again
#   await-end       waits until the server has exited by itself
#   kill            sends SIGKILL to the server's main process
#   standby PORT    copies the cluster to a standby that listens on that port
#   promote         promotes the standby to primary
#
# Environment: CLUSTER_OPTIONS, extra server options; CLUSTER_LOG_FOLDER, the folder for the write-ahead log.
set -eu
# The folder of runuser, which may be missing from root's PATH.
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

run() {
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
while read -r command; do
    # shellcheck disable=SC2086 # A command is several words.
    if run $command; then echo done; else echo failed; fi
done
