#!/usr/bin/env bash
# Two real OpenClaw gateways on one mesh, all on this host's loopback: to try things by hand.
#
#   loopback.sh up DIR     a beacon, gateways gw-a and gw-b, an OpenClaw gateway on each, connected
#   loopback.sh down DIR   ends what `up` started, by pid
#
# CRABMESH is the binary (default: target/debug/crabmesh), CRABMESH_LAB where lab.sh has installed.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
CRABMESH=${CRABMESH:-$HERE/../../target/debug/crabmesh}
LAB=$HERE/lab.sh
command=${1:?see the head of $0}
mkdir -p "${2:?a directory}"
DIR=$(cd "$2" && pwd)

# Starts what stays; its log and its pid are files.
start() {
  local name=$1
  shift
  "$@" >"$DIR/$name.log" 2>&1 &
  echo $! >"$DIR/$name.pid"
}

mesh() { local state=$1; shift; "$CRABMESH" --state-dir "$DIR/$state" "$@"; }

until_line() { until grep -q "$2" "$DIR/$1.log" 2>/dev/null; do sleep 0.1; done; }

case $command in
  up)
    start beacon "$CRABMESH" --state-dir "$DIR/beacon" beacon --listen 127.0.0.1:31990
    until_line beacon '^claim '
    claim=$(sed -n 's/^claim //p' "$DIR/beacon.log")
    mesh operator init --mesh lab --beacon 127.0.0.1:31990 --claim "$claim" --user lab@example.com
    mesh operator policy push "$HERE/policy.hujson"
    echo '{"allow_loopback": true}' >"$DIR/gateway.json"
    port=31789
    for gateway in gw-a gw-b; do
      mesh operator invite --name $gateway --tag tag:gateway | mesh $gateway join -
      start $gateway "$CRABMESH" --state-dir "$DIR/$gateway" up --config "$DIR/gateway.json"
      until_line $gateway '^ready'
      "$LAB" make "$DIR/$gateway-openclaw" $port
      mesh $gateway connect openclaw --config "$DIR/$gateway-openclaw/openclaw.json"
      start $gateway-model "$LAB" model "$DIR/$gateway-openclaw" $gateway
      start $gateway-openclaw "$LAB" gateway "$DIR/$gateway-openclaw"
      port=$((port + 100))
    done
    for gateway in gw-a gw-b; do "$LAB" wait "$DIR/$gateway-openclaw"; done
    echo "ready: $LAB turn $DIR/gw-a-openclaw main TEXT"
    ;;
  down)
    for file in "$DIR"/*.pid; do
      kill "$(cat "$file")" 2>/dev/null || true
      rm -f "$file"
    done
    ;;
  *) sed -n '2,8p' "$0" >&2 && exit 2 ;;
esac
