#!/usr/bin/env python3
"""What the mesh adds to an ask between two real OpenClaw gateways, beside the same gateway's own A2A
channel on loopback, asked in turns in one run. Run by latency.sh:

    latency.py DIR [ASKS]

Asks `main@gw-b` as `main@gw-a` through the two mesh gateways and the plugin, and the A2A channel of
gw-b directly, one after the other, and prints both medians, and the median of what an ask through the
mesh took longer than the one after it: turns take half as long again or less from one minute to the
next, and neighbours alike. Between two asks it pauses: the channel answers before OpenClaw is done with
the turn, and what is left to do would be counted to whoever asks next.
"""
import json
import pathlib
import re
import statistics
import sys
import time
import urllib.request
import uuid

# Ten times what was seen of the rest of a turn.
PAUSE = 0.3

HOME, ASKS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
BEARER = "latency-0123456789abcdef0123456789"


def post(url, token, body):
    head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def agent():
    """The way of `main@gw-a` to its gateway, as the plugin has it."""
    for file in pathlib.Path(f"{HOME}/gw-a-openclaw/crabmesh").glob("*.json"):
        said = json.loads(file.read_text())
        if "agents" in said and "api" in said:
            return said["api"], said["agents"]["main"]["token"]
    raise SystemExit("connect has left no credentials")


def by_mesh(api, token, number):
    body = {"to": "main@gw-b", "body": f"mesh-{number}", "timeout_ms": 60000, "cause": "none"}
    answer = post(f"{api}/v1/ask", token, body)
    assert answer.get("reply"), answer


def by_a2a(port, context, number):
    message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "contextId": context, "parts": [{"text": f"a2a-{number}"}]}
    body = {"jsonrpc": "2.0", "id": number, "method": "SendMessage", "params": {"message": message}}
    answer = post(f"http://127.0.0.1:{port}/a2a/v1", BEARER, body)
    assert answer["result"]["task"]["artifacts"], answer


def main():
    config = pathlib.Path(f"{HOME}/gw-b-openclaw/openclaw.json").read_text()
    port = int(re.search(r"port\"?:\s*(\d+)", config).group(1))
    api, token = agent()
    took = {"mesh": [], "a2a": []}
    for number in range(-5, ASKS):
        for name, ask in (
            ("mesh", lambda: by_mesh(api, token, number)),
            ("a2a", lambda: by_a2a(port, "latency", number)),
        ):
            time.sleep(PAUSE)
            begun = time.perf_counter()
            ask()
            if number >= 0:
                took[name].append((time.perf_counter() - begun) * 1000)
    mesh, a2a = (statistics.median(took[name]) for name in ("mesh", "a2a"))
    added = statistics.median(one - other for one, other in zip(took["mesh"], took["a2a"]))
    print(f"{ASKS} asks: mesh {mesh:.0f} ms, loopback A2A {a2a:.0f} ms, added {added:+.1f} ms at the median")


if __name__ == "__main__":
    main()
