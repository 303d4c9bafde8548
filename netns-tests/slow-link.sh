#!/usr/bin/env bash
# Two gateways, the uplink of one slow: how long 40 messages of 200 kB by two agents take until all are
# stored, and what was sent for them a minute later. Root, with `ip` and `tc`; everything that it makes
# goes with it.
#
#     CRABMESH=target/release/crabmesh netns-tests/slow-link.sh [RATE]      (1mbit)
set -euo pipefail
crabmesh=$(realpath "${CRABMESH:-target/release/crabmesh}")
rate=${1:-1mbit}
dir=$(mktemp -d)
name="slow$$"
pids=()
clean() {
    kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    for host in hub a b; do ip netns del "$name-$host" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap clean EXIT

on() { ip netns exec "$name-$1" "$crabmesh" --state-dir "$dir/$2" "${@:3}"; }
start() {
    # The background job itself becomes the program, so that its pid can be ended.
    (exec ip netns exec "$name-$1" "$crabmesh" --state-dir "$dir/$2" "${@:3}") >"$dir/$2.out" 2>"$dir/$2.log" &
    pids+=($!)
}
queued() { on a a --json status | grep -o '"queued":[0-9]*' | cut -d: -f2; }
sent() { ip netns exec "$name-a" cat /sys/class/net/e0/statistics/tx_bytes; }
until_() { for _ in $(seq 600); do "$@" && return; sleep 1; done; echo "it takes too long: $*" >&2; exit 1; }

for host in hub a b; do
    ip netns add "$name-$host"
    ip -n "$name-$host" link set lo up
done
ip -n "$name-hub" link add bridge0 type bridge
ip -n "$name-hub" addr add 192.0.2.1/24 dev bridge0
ip -n "$name-hub" link set bridge0 up
for host in a b; do
    ip -n "$name-$host" link add e0 type veth peer name "to-$host" netns "$name-hub"
    ip -n "$name-hub" link set "to-$host" master bridge0 up
    ip -n "$name-$host" link set e0 up
done
ip -n "$name-a" addr add 192.0.2.2/24 dev e0
ip -n "$name-b" addr add 192.0.2.3/24 dev e0

start hub beacon beacon --listen 192.0.2.1:4747
claimed() { grep -q '^claim ' "$dir/beacon.out"; }
until_ claimed
on hub operator init --mesh slow --beacon 192.0.2.1:4747 --claim "$(sed -n 's/^claim //p' "$dir/beacon.out")" \
    --user ana@example.com >/dev/null 2>&1
cat >"$dir/policy.hujson" <<'POLICY'
{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [{"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send"]}],
}
POLICY
on hub operator policy push "$dir/policy.hujson" >/dev/null 2>&1
for host in a b; do
    on hub operator invite --name "gw-$host" --tag tag:gateway 2>/dev/null | on "$host" "$host" join - >/dev/null 2>&1
    start "$host" "$host" up
done
added() { on "$1" "$1" agent add "$2" >/dev/null 2>&1; }
until_ added a one
until_ added a two
until_ added b sink
greeted() { on a a send sink@gw-b hello --as one >/dev/null 2>&1 && [ "$(queued)" = 0 ]; }
until_ greeted
sleep 3 # for the direct path

ip netns exec "$name-a" tc qdisc add dev e0 root tbf rate "$rate" burst 16kb limit 200kb
head -c 150000 /dev/urandom | base64 -w0 >"$dir/body"
before=$(sent)
began=$(date +%s)
for agent in one two; do
    for _ in $(seq 20); do on a a send sink@gw-b - --as "$agent" <"$dir/body" >/dev/null; done
done
empty() { [ "$(queued)" = 0 ]; }
until_ empty
took=$(($(date +%s) - began))
sleep 60
echo "$rate: 40 messages, 8000 kB: stored after $took s; $((($(sent) - before) / 1000)) kB sent a minute later"
