import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { causedBy, causeNow } from "../src/cause.js";
import { Node, Refused } from "../src/node.js";

const home = mkdtempSync(join(tmpdir(), "crabmesh-node-"));
after(() => rmSync(home, { recursive: true }));

/** A local API that writes down its calls. */
async function fakeApi(t, { words = [], answers = {} } = {}) {
  const calls = [];
  const server = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks).toString();
      calls.push({ path: request.url, token: request.headers.authorization, type: request.headers["content-type"], body });
      const openapi = {
        paths: Object.fromEntries(words.filter((word) => word.startsWith("/")).map((path) => [path, {}])),
        components: { schemas: { SendRequest: { properties: Object.fromEntries(words.map((word) => [word, {}])) } } },
      };
      const [status, answer] = request.url === "/v1/openapi.json" ? [200, openapi] : (answers[request.url] ?? [200, { id: "1", state: "accepted" }]);
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(answer));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  t.after(() => server.closeAllConnections());
  const path = join(home, `${server.address().port}.json`);
  const agents = { main: { name: "main", token: "cma_main" }, ops: { name: "ops", token: "cma_ops" } };
  writeFileSync(path, JSON.stringify({ api: `http://127.0.0.1:${server.address().port}`, agents }), { mode: 0o600 });
  return { calls, path, server };
}

const sent = (calls) => calls.filter(({ path }) => path === "/v1/send").map(({ body }) => JSON.parse(body));

test("each agent speaks by its own token", async (t) => {
  const { calls, path } = await fakeApi(t);

  await new Node(path, "main").agents();
  await new Node(path, "ops").agents();

  assert.deepEqual(calls.map(({ token }) => token), ["Bearer cma_main", "Bearer cma_ops"]);
});

test("an older node is not told words that it does not know", async (t) => {
  const older = await fakeApi(t);
  const newer = await fakeApi(t, { words: ["cause", "conversation"] });
  const message = { to: "a@b", body: "x", id: "1", cause: "none", conversation: "c" };

  await new Node(older.path, "main").send(message);
  await new Node(newer.path, "main").send(message);

  assert.deepEqual(sent(older.calls), [{ to: "a@b", body: "x", id: "1" }]);
  assert.deepEqual(sent(newer.calls), [message]);
});

test("a refusal has the API's words, and a node that is away is worth another try", async (t) => {
  const error = { code: "denied", reason: "no grant", missing_grant: "{}" };
  const { path, server } = await fakeApi(t, { answers: { "/v1/send": [403, { id: "7", state: "denied", error }] } });
  const node = new Node(path, "main");

  await assert.rejects(node.send({ to: "a@b" }), (it) => it instanceof Refused && it.error.missing_grant === "{}" && it.id === "7" && !it.passing);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await assert.rejects(node.agents(), (it) => it instanceof Refused && it.error.code === "no_node" && it.passing);
  await assert.rejects(new Node(path, "nobody").agents(), (it) => it.error.code === "not_connected" && !it.passing);
});

test("a prepared reply is one call, and none where its connection is gone or it is dropped", async (t) => {
  const { calls, path, server } = await fakeApi(t);
  const node = new Node(path, "ops");
  const made = () => new Promise((resolve) => server.once("connection", resolve));
  const moment = () => new Promise((resolve) => setTimeout(resolve, 20));

  let connection = made();
  const reply = node.prepareReply("1");
  await connection;
  await moment();
  assert.equal(calls.length, 0);
  assert.equal((await reply.send({ body: "42", id: "r" })).state, "accepted");
  assert.equal(reply.send({ body: "43", id: "r" }), undefined, "and no more");
  reply.drop();
  const told = { path: "/v1/messages/1/reply", token: "Bearer cma_ops", type: "application/json", body: '{"body":"42","id":"r"}' };
  assert.deepEqual(calls, [told]);

  const dropped = node.prepareReply("2");
  await moment();
  dropped.drop();
  assert.equal(dropped.send({ body: "42", id: "r" }), undefined);
  connection = made();
  const broken = node.prepareReply("3");
  (await connection).destroy();
  await moment();
  assert.equal(broken.send({ body: "42", id: "r" }), undefined);
  assert.equal(calls.length, 1);
});

test("where the node cannot reject, a message is settled without a word", async (t) => {
  const older = await fakeApi(t);
  const newer = await fakeApi(t, { words: ["/v1/messages/{id}/reject"] });

  await new Node(older.path, "main").reject("1", "no");
  await new Node(newer.path, "main").reject("1", "no");

  assert.equal(older.calls.at(-1).path, "/v1/messages/1/ack");
  assert.equal(newer.calls.at(-1).path, "/v1/messages/1/reject");
});

test("what is sent in a turn names the message that started it, and nothing after it", async () => {
  let later;
  const seen = await causedBy({ id: "m1" }, "agent:main:mesh:x", async () => {
    await null;
    later = new Promise((resolve) => setTimeout(() => resolve(causeNow()), 20));
    return [causeNow("agent:main:mesh:x"), causeNow()];
  });

  assert.deepEqual(seen, ["m1", "m1"]);
  assert.equal(causeNow("agent:main:mesh:x"), "none");
  assert.equal(causeNow("agent:main:subagent:y"), undefined, "whose child it is cannot be known");
  assert.equal(await later, undefined, "left behind by a turn that is over");
});
