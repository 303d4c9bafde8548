"""An agent on the mesh, in plain Python: it follows its inbox, answers, and asks others.

    CRABMESH_TOKEN=cma_... CRABMESH_API=http://127.0.0.1:PORT python3 agent.py

`crabmesh agent add NAME` prints both. The API is described at $CRABMESH_API/v1/openapi.json.

What it shows:
- the stream holds a message for us as long as we are connected: no heartbeats, and after a crash
  of ours it comes again, with a higher `attempt`;
- so an answer is written down before it is sent, and what comes again gets the same answer;
- an ask made for a message has an id made from that message, so asking again is the same ask;
- replies and failures are never answered: two agents that answer everything would never stop;
- a refusal says what is missing and whom to ask; it is an answer too.
"""

import hashlib
import http.client
import json
import os
import sys
import time
import uuid
from contextlib import closing
from urllib.parse import urlsplit

API = urlsplit(os.environ["CRABMESH_API"])
TOKEN = os.environ["CRABMESH_TOKEN"]
JOURNAL = os.environ.get("JOURNAL", "answered.jsonl")


class Refused(Exception):
    """The node said no. `failure` has code, reason and perhaps hint and missing_grant."""

    def __init__(self, failure):
        super().__init__(failure["reason"])
        self.failure = failure


def call(method, path, body=None, timeout=30):
    """One call of the API."""
    connection = http.client.HTTPConnection(API.hostname, API.port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, headers)
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
    finally:
        connection.close()
    if response.status >= 400:
        raise Refused(answer["error"])
    return answer


def inbox():
    """What waits for us and what comes, for ever; a node that restarts is waited for."""
    pause = 0.1
    while True:
        # The node writes a line at least every ten seconds.
        connection = http.client.HTTPConnection(API.hostname, API.port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            connection.request("GET", "/v1/messages/stream", headers=headers)
            response = connection.getresponse()
            if response.status == 401:
                sys.exit("the node does not know this token")
            if response.status == 200:
                pause = 0.1
                yield from events(response)
        except (OSError, http.client.HTTPException):
            pass  # Gone, or not up yet.
        finally:
            connection.close()  # Whatever we hold is shown again.
        time.sleep(pause)
        pause = min(pause * 2, 5)


def events(response):
    """The messages of one connection. Events of other kinds may be ignored."""
    event, data = "", ""
    for line in response:
        line = line.decode().rstrip("\r\n")
        if line == "":
            if event == "message":
                yield json.loads(data)
            event, data = "", ""
            continue
        name, _, value = line.partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data":
            data += value


def id_from(message_id, purpose):
    """The same UUIDv7 for the same message and purpose, of the message's own time."""
    digest = hashlib.sha256(f"{message_id} {purpose}".encode()).digest()
    made = bytearray(uuid.UUID(message_id).bytes[:6] + digest[:10])
    made[6] = made[6] & 0x0F | 0x70
    made[8] = made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))


def ask(to, question, cause):
    """Asks another agent on behalf of a message. Its words are another's: never obey them."""
    request = {
        "to": to,
        "body": question,
        "id": id_from(cause["id"], "ask"),
        "cause": cause["id"],
        "timeout_ms": 20_000,
    }
    answer = call("POST", "/v1/ask", request, timeout=30)
    if "reply" in answer:
        return answer["reply"].get("body", "(not text)")
    raise Refused(answer.get("error", {"code": "lost", "reason": "its answer was lost"}))


def work(message):
    """The agent itself: put yours here. `ask AGENT@GATEWAY QUESTION` asks somebody else."""
    text = message["body"].strip()
    if not text.startswith("ask "):
        return f"you said: {text}"
    _, to, question = (text.split(" ", 2) + ["?"])[:3]
    try:
        return f"{to} says: {ask(to, question, message)}"
    except Refused as refused:
        told = [f"{to} was not asked ({refused.failure['code']}): {refused.failure['reason']}"]
        if "missing_grant" in refused.failure:
            told.append(f"the operator may add: {refused.failure['missing_grant']}")
        return "\n".join(told)


def remembered():
    """The answers that were written down, by message."""
    try:
        with open(JOURNAL, encoding="utf-8") as journal:
            lines = [json.loads(line) for line in journal if line.endswith("\n")]
    except FileNotFoundError:
        lines = []
    return {line["id"]: line["answer"] for line in lines[-1000:]}


def write_down(message_id, answer):
    with open(JOURNAL, "a", encoding="utf-8") as journal:
        journal.write(json.dumps({"id": message_id, "answer": answer}) + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def handle(message, answers):
    path = f"/v1/messages/{message['id']}"
    if message["kind"] != "message":
        print(message["kind"], "from", message["from"], message.get("error", ""), flush=True)
        return call("POST", f"{path}/ack", {})
    if "body" not in message:
        return call("POST", f"{path}/reject", {"reason": "only text is understood here"})
    if message["id"] not in answers:
        answers[message["id"]] = work(message)
        write_down(message["id"], answers[message["id"]])
    if message["reply_expected"]:
        return call("POST", f"{path}/reply", {"body": answers[message["id"]]})
    return call("POST", f"{path}/ack", {})


def main():
    answers = remembered()
    while True:
        with closing(inbox()) as messages:
            for message in messages:
                try:
                    handle(message, answers)
                except Refused as refused:
                    # Expired, taken back, or settled before we crashed: nothing is left to do.
                    print(message["id"], "is not settled:", refused.failure["code"], flush=True)
                except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
                    # The node went away. Letting go of the stream has it shown again.
                    print(message["id"], "will come again:", error, flush=True)
                    break


if __name__ == "__main__":
    main()
