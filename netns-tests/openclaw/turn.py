#!/usr/bin/env python3
"""One turn of an agent as its owner, by the gateway's chat completions; prints what the agent says.

usage: turn.py PORT TOKEN AGENT TEXT
"""

import json
import sys
import urllib.error
import urllib.request

port, token, agent, text = sys.argv[1:5]
body = {"model": f"openclaw/{agent}", "messages": [{"role": "user", "content": text}]}
headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), headers)
try:
    answer = json.load(urllib.request.urlopen(request, timeout=300))
except urllib.error.HTTPError as error:
    sys.exit(f"{error.code}: {error.read()[:500]}")
print(answer["choices"][0]["message"]["content"])
