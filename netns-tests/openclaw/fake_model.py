#!/usr/bin/env python3
"""A model for tests: OpenAI's chat completions on loopback, deterministic, and a log of every call.

usage: fake_model.py PORT NAME LOG

It obeys the last thing that it is told, wherever in the text it stands:
  CALL <tool> <json>   calls that tool, and answers with what it gave: `NAME got: ...`
  SLEEP <seconds>      waits that long before it says anything
  COUNT <n>            answers with n words, one chunk each, 20 ms apart
  PINGPONG             calls mesh_send to whoever wrote, with the same word: a circle
  anything else        `NAME says: <the last line that is its sender's own>`

One line of JSON a call in LOG: when it came, what was decided, the last text, and the whole request.
"""

import json
import re
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, NAME, LOG = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def text_of(content):
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def last_message(body):
    """The last message, without the notes that OpenClaw appends for the model alone."""
    for message in reversed(body.get("messages", [])):
        if message.get("role") == "user" and "OPENCLAW_INTERNAL_CONTEXT" in text_of(message.get("content")):
            continue
        return message
    return {}


def own_words(text):
    """The sender's own lines: what stands between the marks of the mesh, or the last line."""
    inner = re.search(r"\[mesh (\w+): text from [^\]]*\]\n(.*)\n\[mesh \1: end of", text, re.S)
    inner = inner or re.search(r"<<(mesh-\w+): from [^>]*>>\n(.*)\n<<\1: end>>", text, re.S)
    lines = (inner.group(2) if inner else text).strip().splitlines()
    return lines[-1][:300] if lines else ""


def tool_call(tools, name, arguments):
    """A tool that is offered, or one behind OpenClaw's tool search."""
    if name in tools or "tool_call" not in tools:
        return {"name": name, "arguments": json.dumps(arguments)}
    return {"name": "tool_call", "arguments": json.dumps({"id": name, "args": arguments})}


def decide(body):
    last = last_message(body)
    text = text_of(last.get("content"))
    tools = [tool.get("function", {}).get("name") for tool in body.get("tools") or []]
    if last.get("role") == "tool":
        return {"say": f"{NAME} got: {text[:4000]}"}
    delay = re.search(r"SLEEP (\d+(?:\.\d+)?)", text)
    if delay:
        time.sleep(float(delay.group(1)))
    call = re.search(r"CALL (\S+) (\{.*\})", text)
    if call:
        return {"call": tool_call(tools, call.group(1), json.loads(call.group(2)))}
    sender = re.search(r"text from (\S+), another agent", text)
    if "PINGPONG" in text and sender:
        arguments = {"to": sender.group(1), "message": "PINGPONG", "expect_reply": False}
        return {"call": tool_call(tools, "mesh_send", arguments)}
    count = re.search(r"COUNT (\d+)", text)
    if count:
        return {"say": " ".join(f"w{n}" for n in range(1, int(count.group(1)) + 1)), "slow": True}
    return {"say": f"{NAME} says: {own_words(text)}"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "fake-1", "object": "model", "owned_by": "fake"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        came = time.time()
        note(came, "asked", None, body)
        decision = decide(body)
        note(came, "answered", decision, {})
        head = {"id": f"chatcmpl-{uuid.uuid4().hex[:12]}", "created": int(came), "model": "fake-1"}
        calls = None
        if "call" in decision:
            calls = [{"index": 0, "id": f"call_{uuid.uuid4().hex[:10]}", "type": "function", "function": decision["call"]}]
        reason = "tool_calls" if calls else "stop"
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if not body.get("stream"):
            message = {"role": "assistant", "content": decision.get("say"), **({"tool_calls": calls} if calls else {})}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return self.answer({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()

        def chunk(delta, finish=None, extra={}):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {**head, "object": "chat.completion.chunk", "choices": [choice], **extra}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()

        chunk({"role": "assistant", "content": ""})
        if calls:
            chunk({"tool_calls": calls})
        elif decision.get("slow"):
            for word in re.findall(r"\S+\s*", decision["say"]):
                chunk({"content": word})
                time.sleep(0.02)
        else:
            chunk({"content": decision["say"]})
        chunk({}, reason, {"usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()
        self.close_connection = True

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def note(came, what, decision, body):
    last = last_message(body)
    line = {
        "at": came,
        "what": what,
        "decision": decision,
        "role": last.get("role"),
        "last": text_of(last.get("content")),
        "body": body,
    }
    with open(LOG, "a") as log:
        log.write(json.dumps(line) + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a gateway that is killed hangs up


Server(("127.0.0.1", PORT), Handler).serve_forever()
