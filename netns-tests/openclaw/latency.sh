#!/usr/bin/env bash
# What the mesh adds to an ask between two real OpenClaw gateways, beside their own A2A channel on
# loopback: starts loopback.sh in a directory of its own, measures, and ends it.
#
#   latency.sh DIR [ASKS]
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
DIR=${1:?a directory}
"$HERE/loopback.sh" up "$DIR" >&2
trap '"$HERE/loopback.sh" down "$DIR"' EXIT
A2A='{"enabled": true, "rateLimitPerMinute": 100000, "exposeAgents": ["main"], "peers": {"latency": {"token": "latency-0123456789abcdef0123456789"}}}'
"$HERE/lab.sh" openclaw "$DIR/gw-b-openclaw" config set channels.a2a "$A2A" --strict-json >&2
sleep 5
"$HERE/lab.sh" wait "$DIR/gw-b-openclaw" >&2
python3 "$HERE/latency.py" "$DIR" "${2:-100}"
