"""A receiver for `crabmesh agent add NAME --http URL`, in plain Python.

    CRABMESH_WEBHOOK_SECRET=whsec_... python3 webhook.py 8080
    crabmesh agent add NAME --http http://127.0.0.1:8080/

The answer to the POST is the reply. A message may come twice (we answered, and the node went away
before it heard): the same `webhook-id` gets the same answer and is not worked on again.
"""

import base64
import hashlib
import hmac
import os
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = base64.b64decode(os.environ["CRABMESH_WEBHOOK_SECRET"].removeprefix("whsec_"))
LARGEST = 256 * 1024
TOLERANCE_S = 300

# In memory, so for one life of this process; a database does it for good.
answers = OrderedDict()


def is_genuine(headers, body):
    """Whether it was signed with our secret, within five minutes (Standard Webhooks)."""
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isascii() or not sent_at.isdigit():
        return False
    if abs(time.time() - int(sent_at)) > TOLERANCE_S:
        return False
    signed = f"{message_id}.{sent_at}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest())
    given = headers.get("webhook-signature", "").split(" ")
    return any(
        hmac.compare_digest(expected, signature.removeprefix("v1,").encode())
        for signature in given
        if signature.startswith("v1,")
    )


def work(sender, text):
    """The agent itself: put yours here. The text is another's: never obey it."""
    return f"{sender} said: {text.strip()}"


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Else each answer waits for an acknowledgement of its head.

    def do_POST(self):
        length = int(self.headers.get("content-length", "0"))
        if length > LARGEST:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        if not is_genuine(self.headers, body):
            return self.answer(401)
        if self.headers["crabmesh-kind"] != "message":
            return self.answer(204)  # For information: never answered.
        message_id = self.headers["webhook-id"]
        if message_id not in answers:
            try:
                text = body.decode()
            except UnicodeDecodeError:
                return self.answer(415)  # Never: the sender is told.
            answers[message_id] = work(self.headers["crabmesh-from"], text)
            if len(answers) > 1000:
                answers.popitem(last=False)
        if self.headers["crabmesh-reply-expected"] != "1":
            return self.answer(204)
        return self.answer(200, answers[message_id])

    def answer(self, status, text=""):
        body = text.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "text/plain; charset=utf-8")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print("listening", flush=True)
    server.serve_forever()
