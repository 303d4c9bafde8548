#!/usr/bin/env bash
# A real OpenClaw gateway with a fake model, in a directory of its own, for tests and for hand.
#
#   lab.sh install                     node and openclaw from npm, once, into CRABMESH_LAB; prints where
#   lab.sh make DIR PORT               a gateway's directory: it listens on PORT, its model on PORT+1
#   lab.sh env DIR                     the environment by which every command finds this gateway
#   lab.sh model DIR NAME              runs the fake model, in the foreground; its log is DIR/model.jsonl
#   lab.sh gateway DIR                 runs the gateway, in the foreground
#   lab.sh wait DIR [SECONDS]          until the gateway is ready
#   lab.sh turn DIR AGENT TEXT         one turn of an agent, as its owner; prints what the agent says
#   lab.sh openclaw DIR ARGS...        its own command line
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
LAB=${CRABMESH_LAB:-$HOME/.cache/crabmesh-lab}
# The version that the plugin is tested with, and the Node that it asks for.
OPENCLAW=2026.9.6
NODE=24.21.0
TOKEN=token-of-the-test-gateway-0123456789

setting() { sed -n "s/^$2=//p" "$1/lab.env"; }

environment() {
  cat <<ENV
HOME=$1/home
OPENCLAW_CONFIG_PATH=$1/openclaw.json
OPENCLAW_STATE_DIR=$1/state
OPENCLAW_DISABLE_BONJOUR=1
OPENCLAW_NO_RESPAWN=1
OPENCLAW_ALLOW_MULTI_GATEWAY=1
OPENCLAW_EXEC_SHELL_SNAPSHOT=0
DO_NOT_TRACK=1
ENV
}

openclaw() {
  local dir=$1
  shift
  local -a env
  mapfile -t env < <(environment "$dir")
  exec env "${env[@]}" "$LAB/node/node_modules/.bin/node" "$LAB/openclaw/node_modules/openclaw/openclaw.mjs" "$@"
}

case ${1:?see the head of $0} in
  install)
    mkdir -p "$LAB/node" "$LAB/openclaw"
    # One at a time: tests run side by side.
    exec 9>"$LAB/lock"
    flock 9
    if [ "$(cat "$LAB/installed" 2>/dev/null)" != "$NODE $OPENCLAW" ]; then
      for dir in node openclaw; do [ -f "$LAB/$dir/package.json" ] || echo '{"private": true}' >"$LAB/$dir/package.json"; done
      npm --prefix "$LAB/node" install --no-audit --no-fund --loglevel=error "node@$NODE" >&2
      PATH=$LAB/node/node_modules/.bin:$PATH npm --prefix "$LAB/openclaw" install --no-audit --no-fund --loglevel=error "openclaw@$OPENCLAW" >&2
      echo "$NODE $OPENCLAW" >"$LAB/installed"
    fi
    echo "$LAB"
    ;;
  make)
    dir=$2 port=$3
    mkdir -p "$dir/home" "$dir/state" "$dir/workspace" "$dir/workspace-ops"
    dir=$(cd "$dir" && pwd)
    printf 'PORT=%s\nMODEL_PORT=%s\n' "$port" "$((port + 1))" >"$dir/lab.env"
    sed -e "s#@DIR@#$dir#g" -e "s#@PORT@#$port#" -e "s#@MODEL_PORT@#$((port + 1))#" -e "s#@TOKEN@#$TOKEN#" -e "s#@VERSION@#$OPENCLAW#" \
      "$HERE/gateway.json" >"$dir/openclaw.json"
    chmod 600 "$dir/openclaw.json"
    ;;
  env) environment "$2" ;;
  model) exec python3 "$HERE/fake_model.py" "$(setting "$2" MODEL_PORT)" "$3" "$2/model.jsonl" ;;
  gateway) openclaw "$2" gateway ;;
  openclaw) dir=$2 && shift 2 && openclaw "$dir" "$@" ;;
  wait)
    end=$((SECONDS + ${3:-90}))
    until curl -s -m 2 "http://127.0.0.1:$(setting "$2" PORT)/readyz" | grep -q '"ready":true'; do
      [ $SECONDS -lt $end ] || { echo "the gateway of $2 is not ready" >&2 && exit 1; }
      sleep 0.3
    done
    ;;
  turn) exec python3 "$HERE/turn.py" "$(setting "$2" PORT)" "$TOKEN" "$3" "$4" ;;
  *) sed -n '2,13p' "$0" >&2 && exit 2 ;;
esac
