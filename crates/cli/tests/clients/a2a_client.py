"""What a program does that uses the SDK of A2A (a2a-sdk, PyPI) as it is. One story a run:

    a2a_client.py STORY API TOKEN GATEWAY AGENT [MORE…]

API is the local API's address, TOKEN that of the asking agent. Ends with 0 where all was as it
should be; the last line of stderr says what was not.
"""

import asyncio
import json
import sys
import uuid

import httpx

from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict

STORY, API, TOKEN, GATEWAY, AGENT, *MORE = sys.argv[1:]
URL = f"{API}/a2a/{GATEWAY}/{AGENT}"
S = pb.TaskState


def http(token=TOKEN):
    return httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)


async def client(binding, streaming=False, version=None, token=TOKEN, url=URL):
    """As the SDK's own documentation makes one: from the card."""
    shared = http(token)
    config = ClientConfig(
        streaming=streaming, httpx_client=shared, supported_protocol_bindings=[binding]
    )
    factory = ClientFactory(config)
    card = await A2ACardResolver(shared, url).get_agent_card()
    if version:
        only = [it for it in card.supported_interfaces if it.protocol_version == version]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(only)
    return factory.create(card), card


def message(text, id=None, context=None):
    return pb.Message(
        message_id=id or str(uuid.uuid4()),
        context_id=context or "",
        role=pb.Role.ROLE_USER,
        parts=[pb.Part(text=text)],
    )


def request(message, at_once=False):
    configuration = pb.SendMessageConfiguration(return_immediately=at_once)
    return pb.SendMessageRequest(message=message, configuration=configuration)


async def send(asker, message, at_once=False):
    answers = [it async for it in asker.send_message(request(message, at_once))]
    assert len(answers) == 1 and answers[0].HasField("task"), answers
    return answers[0].task


async def refused(kind, awaited, says=""):
    try:
        got = await awaited
    except kind as error:
        assert says in str(error), f"{says!r} is not in {error}"
        return error
    raise AssertionError(f"{kind.__name__} was expected, and came {got}")


def text(task):
    assert len(task.artifacts) == 1, task
    return "".join(part.text for part in task.artifacts[0].parts)


async def until_ended(asker, id):
    for _ in range(300):
        task = await asker.get_task(pb.GetTaskRequest(id=id))
        if task.status.state not in (S.TASK_STATE_SUBMITTED, S.TASK_STATE_WORKING):
            return task
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in time: {task}")


async def every_operation(binding, version):
    asker, card = await client(binding, version=version)
    assert card.name == f"{AGENT}@{GATEWAY}", card
    assert card.capabilities.streaming and not card.capabilities.push_notifications, card
    assert "bearer" in card.security_schemes, card
    assert {it.url for it in card.supported_interfaces} == {URL}, card
    extended = await asker.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
    assert extended.name == card.name, extended

    # Waits for the answer.
    done = await send(asker, message("2+2?"))
    assert done.status.state == S.TASK_STATE_COMPLETED, done
    assert text(done) == "ECHO 2+2?", done
    assert done.history[0].parts[0].text == "2+2?", done
    foreign = MessageToDict(done.artifacts[0].metadata)["crabmesh"]
    assert foreign["from"] == f"{AGENT}@{GATEWAY}", foreign

    # Does not wait; the same message again is the same task.
    talk = f"talk-{binding}-{version}"
    asked = message("slow", context=talk)
    task = await send(asker, asked, at_once=True)
    assert task.status.state in (S.TASK_STATE_SUBMITTED, S.TASK_STATE_WORKING), task
    assert task.context_id == talk, task
    again = await send(asker, asked, at_once=True)
    assert again.id == task.id, (again, task)
    ended = await until_ended(asker, task.id)
    assert text(ended) == "ECHO slow", ended
    bare = await asker.get_task(pb.GetTaskRequest(id=task.id, history_length=0))
    assert version == "0.3" or not bare.history, bare

    if version != "0.3":
        found = await asker.list_tasks(pb.ListTasksRequest(context_id=talk))
        assert [it.id for it in found.tasks] == [task.id], found
        assert not found.tasks[0].artifacts and found.total_size == 1, found
        page = await asker.list_tasks(pb.ListTasksRequest(page_size=1, include_artifacts=True))
        assert page.total_size >= 2 and page.next_page_token and page.tasks[0].artifacts, page
        rest = pb.ListTasksRequest(page_size=100, page_token=page.next_page_token)
        rest = await asker.list_tasks(rest)
        assert len(rest.tasks) == page.total_size - 1, rest
        state = pb.ListTasksRequest(status=S.TASK_STATE_WORKING)
        assert (await asker.list_tasks(state)).total_size == 0

    # Takes one back.
    task = await send(asker, message("never"), at_once=True)
    back = await asker.cancel_task(pb.CancelTaskRequest(id=task.id))
    assert back.status.state == S.TASK_STATE_CANCELED, back
    await refused(
        errors.TaskNotCancelableError, asker.cancel_task(pb.CancelTaskRequest(id=task.id))
    )

    # Nobody is called back.
    config = pb.TaskPushNotificationConfig(task_id=task.id, url="http://127.0.0.1:1/", id="1")
    get = pb.GetTaskPushNotificationConfigRequest(task_id=task.id, id="1")
    every = pb.ListTaskPushNotificationConfigsRequest(task_id=task.id)
    gone = pb.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="1")
    for call in [
        asker.create_task_push_notification_config(config),
        asker.get_task_push_notification_config(get),
        asker.list_task_push_notification_configs(every),
        asker.delete_task_push_notification_config(gone),
    ]:
        await refused(errors.PushNotificationNotSupportedError, call, "calls nobody back")
    await asker.close()

    # Streams.
    asker, _ = await client(binding, streaming=True, version=version)
    asked = message("stream me")
    told = [it async for it in asker.send_message(request(asked))]
    kinds = [it.WhichOneof("payload") for it in told]
    assert kinds[0] == "task" and kinds[-1] == "status_update", kinds
    assert "artifact_update" in kinds, kinds
    assert told[-1].status_update.status.state == S.TASK_STATE_COMPLETED, told
    # The same message again: a task that has ended is told whole.
    told = [it async for it in asker.send_message(request(asked))]
    assert [it.WhichOneof("payload") for it in told] == ["task"], told
    assert text(told[0].task) == "ECHO stream me", told

    # Follows one that was sent before.
    plain, _ = await client(binding, version=version)
    task = await send(plain, message("slow"), at_once=True)
    told = [it async for it in asker.subscribe(pb.SubscribeToTaskRequest(id=task.id))]
    kinds = [it.WhichOneof("payload") for it in told]
    assert kinds[0] == "task" and kinds[-1] == "status_update", kinds

    async def follow():
        return [it async for it in asker.subscribe(pb.SubscribeToTaskRequest(id=task.id))]

    await refused(errors.UnsupportedOperationError, follow(), "has ended")
    await asker.close()
    await plain.close()


async def lossless():
    """All kinds of parts, there and back through an agent that gives back what it was given."""
    for binding in ["JSONRPC", "HTTP+JSON"]:
        asker, _ = await client(binding)
        asked = pb.Message(message_id=str(uuid.uuid4()), role=pb.Role.ROLE_USER)
        asked.parts.add(text="grüße", media_type="text/markdown")
        asked.parts.add(raw=bytes(range(256)), filename="a.bin", media_type="image/png")
        asked.parts.add(url="https://example.com/a")
        asked.parts.add().data.struct_value.update({"a": [1, None, {"b": "c"}]})
        asked.metadata.update({"mode": "mirror"})
        done = await send(asker, asked)
        assert done.status.state == S.TASK_STATE_COMPLETED, done
        assert list(done.artifacts[0].parts) == list(asked.parts), done
        assert MessageToDict(done.artifacts[0].metadata)["mode"] == "mirror", done
        await asker.close()


async def bad_input():
    """What no SDK sends, and what an SDK makes of the answers."""
    async with http() as wire:

        async def rpc(content, version="1.0", url=URL):
            headers = {"Content-Type": "application/json"}
            if version is not None:
                headers["A2A-Version"] = version
            answer = await wire.post(url, content=content, headers=headers)
            assert answer.status_code == 200, answer.text
            answer = answer.json()
            assert answer["jsonrpc"] == "2.0" and "error" in answer, answer
            return answer

        def call(method, **params):
            return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})

        for content, code, says in [
            ("{", -32700, "not JSON"),
            ("[]", -32600, "batches"),
            ('{"jsonrpc": "1.0", "id": 7, "method": "GetTask"}', -32600, "jsonrpc"),
            (call("Nonsense"), -32601, "Nonsense"),
            (call("message/send"), -32601, "A2A-Version: 0.3"),
            (call("GetTask"), -32602, "params.id is missing"),
            (call("GetTask", id=7), -32602, "params.id must be a string"),
            (call("SendMessage", message=7), -32602, "params.message must be an object"),
            (call("SendMessage", message={"messageId": "m", "role": "ROLE_USER", "parts": [{}]}),
             -32602, "params.message.parts[0]"),
            (call("ListTasks", pageSize=1000), -32602, "params.pageSize"),
            (call("GetTask", id="x" * 2_000_000), -32600, "larger than any message"),
        ]:
            answer = await rpc(content)
            assert answer["error"]["code"] == code, answer
            assert says in answer["error"]["message"], (says, answer)
        assert (await rpc(call("GetTask", id="x")))["id"] == 7
        for version in ["2.0", "0.2", "x"]:
            answer = await rpc(call("GetTask", id="x"), version)
            assert answer["error"]["code"] == -32009, answer
        # An empty version is 0.3, and so is none.
        for version in ["", None, "0.3"]:
            answer = await rpc(call("tasks/get", id="x"), version)
            assert answer["error"]["code"] == -32001, answer
        for path, status in [("/tasks/x", 404), ("/tasks?pageSize=0", 400), ("/tasks/x:eat", 404)]:
            posted = {} if path.endswith("eat") else None
            answer = await wire.request("GET" if posted is None else "POST", URL + path, json=posted)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["details"][0]["domain"] == "a2a-protocol.org"
        answer = await wire.get(URL + "/tasks", headers={"A2A-Version": "9.9"})
        assert answer.status_code == 400 and "VERSION_NOT_SUPPORTED" in answer.text, answer.text

        # No such gateway, no such agent: neither has a card.
        for url, code in [
            (f"{API}/a2a/gw-z/{AGENT}", "unknown_gateway"),
            (f"{API}/a2a/{GATEWAY}/ghost", "unknown_agent"),
            (f"{API}/a2a/{GATEWAY}/NO", "unknown_agent"),
        ]:
            answer = await wire.get(f"{url}/.well-known/agent-card.json")
            assert answer.status_code == 404, answer.text
            assert answer.json()["error"]["code"] == code, answer.text
        asked = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "?"}]}
        for url in [f"{API}/a2a/gw-z/{AGENT}", f"{API}/a2a/{GATEWAY}/NO"]:
            answer = await rpc(call("SendMessage", message=asked), url=url)
            assert answer["error"]["code"] == -32600, answer
        # Its gateway alone knows that there is no such agent.
        asked = {**asked, "messageId": str(uuid.uuid4())}
        call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": asked}}
        answer = await wire.post(f"{API}/a2a/{GATEWAY}/ghost", json=call)
        status = answer.json()["result"]["task"]["status"]
        assert status["state"] == "TASK_STATE_FAILED", answer.text
        assert status["message"]["parts"][1]["data"]["code"] == "unknown_agent", answer.text
        answer = await wire.get(f"{URL}/.well-known/agent.json")
        assert answer.json()["url"] == URL and answer.json()["protocolVersion"] == "0.3.0"

    async with http("cma_wrong") as stranger:
        for path in ["", "/.well-known/agent-card.json", "/tasks"]:
            answer = await stranger.get(URL + path)
            assert answer.status_code == 401, answer.text

    asker, _ = await client("JSONRPC")
    id = str(uuid.uuid4())
    await send(asker, message("one", id), at_once=True)
    await refused(
        errors.InvalidParamsError, send(asker, message("two", id), True), "message.messageId"
    )
    large = message("x" * (256 * 1024 + 1))
    await refused(errors.InvalidParamsError, send(asker, large, True), "message.parts")
    pushed = request(message("?"), True)
    pushed.configuration.task_push_notification_config.url = "http://127.0.0.1:1/"

    async def push():
        return [it async for it in asker.send_message(pushed)]

    await refused(errors.PushNotificationNotSupportedError, push())
    foreign, missing = MORE[0], str(uuid.uuid4())
    for task in [foreign, missing, "no-id"]:
        for binding in ["JSONRPC", "HTTP+JSON"]:
            other, _ = await client(binding)
            get = other.get_task(pb.GetTaskRequest(id=task))
            await refused(errors.TaskNotFoundError, get)
            back = other.cancel_task(pb.CancelTaskRequest(id=task))
            await refused(errors.TaskNotFoundError, back)
    await asker.close()


async def denied():
    """An agent that this one may not ask: no card, and a task that says what is missing."""
    async with http() as wire:
        answer = await wire.get(f"{URL}/.well-known/agent-card.json")
        assert answer.status_code == 403, answer.text
        call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {
            "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "?"}]}}}
        answer = await wire.post(URL, json=call, headers={"A2A-Version": "1.0"})
        task = answer.json()["result"]["task"]
        assert task["status"]["state"] == "TASK_STATE_REJECTED", task
        said, data = task["status"]["message"]["parts"]
        assert "may not ask" in said["text"] and "request" in said["text"], task
        assert data["data"]["code"] == "denied" and data["data"]["missing_grant"], task


async def endpoints():
    async with http() as wire:
        listed = (await wire.get(f"{API}/a2a")).json()["agents"]
        assert [it["address"] for it in listed] == [f"{AGENT}@{GATEWAY}"], listed
        assert listed[0]["url"] == URL, listed
        card = (await wire.get(listed[0]["card"])).json()
        assert card["name"] == f"{AGENT}@{GATEWAY}", card


async def ask():
    """Sends and prints the task's id."""
    asker, _ = await client("JSONRPC")
    print((await send(asker, message(MORE[0], MORE[1]), at_once=True)).id)


async def answered():
    """The task of a message that was sent before a restart: found, ended, and not sent again."""
    asker, _ = await client("JSONRPC")
    task = await until_ended(asker, MORE[0])
    assert task.status.state == S.TASK_STATE_COMPLETED, task
    assert text(task) == MORE[2], task
    again = await send(asker, message(MORE[3], MORE[1]))
    assert again.id == task.id and text(again) == MORE[2], again


STORIES = {
    "every_operation_by_jsonrpc": lambda: every_operation("JSONRPC", "1.0"),
    "every_operation_by_http": lambda: every_operation("HTTP+JSON", "1.0"),
    "every_operation_by_0_3": lambda: every_operation("JSONRPC", "0.3"),
    "lossless": lossless,
    "bad_input": bad_input,
    "denied": denied,
    "endpoints": endpoints,
    "ask": ask,
    "answered": answered,
}

asyncio.run(STORIES[STORY]())
