import assert from "node:assert/strict";
import { test } from "node:test";

import { Busy } from "../src/busy.js";
import { Inbox } from "../src/inbox.js";

/** A node that writes down what it is told, and fails when told to. */
function fakeNode(failures = {}) {
  const told = [];
  const call = (name) => async (...arguments_) => {
    told.push([name, ...arguments_]);
    const failure = failures[name]?.shift();
    if (failure) throw failure;
    return {};
  };
  const names = ["reply", "ack", "release", "heartbeat", "reject"];
  const prepareReply = () => ({ send: () => undefined, drop: () => {} });
  return { told, prepareReply, ...Object.fromEntries(names.map((name) => [name, call(name)])) };
}

const away = () => Object.assign(new Error("away"), { passing: true, error: { code: "no_node" } });
const gone = () => Object.assign(new Error("gone"), { passing: false, error: { code: "not_found" } });
const message = (id, attempt = 1) => ({ id, attempt, kind: "message", from: "a@b" });
const PACE = { first: 1, most: 2, heartbeat: 5 };

async function until(met) {
  const end = Date.now() + 5000;
  while (!met()) {
    assert.ok(Date.now() < end, "it did not come to that");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

test("a request is answered, a message acked, one that is refused rejected", async () => {
  const node = fakeNode();
  const results = { q: { answer: "42" }, m: {}, x: { reject: "not here" } };
  const inbox = new Inbox({ node, take: async ({ id }) => results[id], pace: PACE });

  for (const id of ["q", "m", "x"]) inbox.show(message(id), { lane: "l" });
  await until(() => inbox.size === 0);

  assert.deepEqual(node.told.map(([name, id]) => [name, id]), [["reply", "q"], ["ack", "m"], ["reject", "x"]]);
  assert.equal(node.told[0][2].body, "42");
});

test("what is shown again while it runs, or after its answer, is not run again", async () => {
  const node = fakeNode({ reply: [away(), away()] });
  let runs = 0;
  let finish;
  const inbox = new Inbox({
    node,
    take: () => {
      runs += 1;
      return new Promise((resolve) => (finish = () => resolve({ answer: "once" })));
    },
    pace: PACE,
  });

  inbox.show(message("1"), { lane: "l" });
  await until(() => finish);
  inbox.show(message("1", 2), { lane: "l" });
  finish();
  await until(() => inbox.size === 0);
  inbox.show(message("1", 3), { lane: "l" });
  await until(() => inbox.size === 0);

  assert.equal(runs, 1);
  const replies = node.told.filter(([name]) => name === "reply");
  assert.equal(replies.length, 4, "two failed, one was taken, one was made again");
  assert.equal(new Set(replies.map(([, , { id }]) => id)).size, 1, "one message has one answer");
});

test("an answer that is told early is sent while the turn goes on, once, whatever becomes of the turn", async () => {
  for (const end of ["well", "badly"]) {
    const node = fakeNode();
    const order = [];
    let finish;
    const take = ({ id }, { answered }) => {
      order.push(id);
      if (id === "next") return Promise.resolve({ answer: "later" });
      answered("42");
      answered("43");
      return new Promise((resolve, reject) => {
        finish = () => (end === "well" ? resolve({ answer: "42" }) : reject(new Error("no disk")));
      });
    };
    const inbox = new Inbox({ node, take, pace: PACE });

    inbox.show(message("first"), { lane: "l" });
    inbox.show(message("next"), { lane: "l" });
    await until(() => node.told.some(([name]) => name === "reply"));
    assert.deepEqual(order, ["first"], "the session is taken until the turn is over");
    finish();
    await until(() => inbox.size === 0);

    const settled = node.told.filter(([name]) => name !== "heartbeat");
    assert.deepEqual(settled.map(([name, id, reply]) => [name, id, reply?.body]), [
      ["reply", "first", "42"],
      ["reply", "next", "later"],
    ]);
  }
});

test("a prepared reply goes first, and another where it does not arrive", async () => {
  for (const failure of [undefined, away()]) {
    const node = fakeNode();
    const prepared = [];
    node.prepareReply = (id) => ({
      send: async (reply) => {
        prepared.push([id, reply.id]);
        if (failure) throw failure;
      },
      drop: () => prepared.push("dropped"),
    });
    const inbox = new Inbox({ node, take: async () => ({ answer: "42" }), pace: PACE });

    inbox.show({ ...message("q"), reply_expected: true }, { lane: "l" });
    await until(() => inbox.size === 0);

    assert.equal(prepared.length, 2);
    assert.equal(prepared[0][0], "q");
    const replies = node.told.filter(([name]) => name === "reply");
    assert.deepEqual(replies.map(([, , { id }]) => id), failure ? [prepared[0][1]] : [], "by the same id");
  }
});

test("a turn that did not happen gives the message back, and its next showing is run", async () => {
  const node = fakeNode();
  const attempts = [];
  const inbox = new Inbox({
    node,
    take: async ({ attempt }) => {
      attempts.push(attempt);
      if (attempt === 1) throw new Error("no model");
      return {};
    },
    pace: PACE,
  });
  node.release = async (id) => {
    node.told.push(["release", id]);
    // The node shows it again at once.
    inbox.show(message(id, 2), { lane: "l" });
  };

  inbox.show(message("1"), { lane: "l" });
  await until(() => attempts.length === 2 && inbox.size === 0);

  assert.deepEqual(node.told.filter(([name]) => name !== "heartbeat"), [["release", "1"], ["ack", "1"]]);
});

test("a busy session is waited for, and the message kept", async () => {
  const node = fakeNode();
  const rounds = [];
  const inbox = new Inbox({
    node,
    take: async (_message, { round }) => {
      rounds.push(round);
      if (round < 3) throw new Busy("busy");
      return { answer: "free now" };
    },
    pace: PACE,
  });

  inbox.show(message("1"), { lane: "l" });
  await until(() => inbox.size === 0);

  assert.deepEqual(rounds, [1, 2, 3]);
  assert.ok(!node.told.some(([name]) => name === "release"));
});

test("one sender's messages run one after the other, two senders' side by side", async () => {
  const node = fakeNode();
  const running = new Map();
  const inbox = new Inbox({
    node,
    take: ({ id }) => new Promise((resolve) => running.set(id, () => resolve({}))),
    pace: PACE,
  });

  inbox.show(message("a1"), { lane: "a" });
  inbox.show(message("a2"), { lane: "a" });
  inbox.show(message("b1"), { lane: "b" });
  await until(() => running.size === 2);

  assert.deepEqual([...running.keys()], ["a1", "b1"]);
  running.get("a1")();
  await until(() => running.has("a2"));
  // What a turn of this process waits for does not stand in line.
  inbox.show(message("a3"), { lane: "a", urgent: true });
  await until(() => running.has("a3"));
  for (const finish of running.values()) finish();
  await until(() => inbox.size === 0);
});

test("a message that its sender takes back is neither answered nor given back", async () => {
  const node = fakeNode();
  let aborted;
  const inbox = new Inbox({
    node,
    take: (_message, { signal }) =>
      new Promise((resolve) => signal.addEventListener("abort", () => resolve({ answer: String((aborted = true)) }))),
    pace: PACE,
  });

  inbox.show(message("1"), { lane: "l" });
  await until(() => inbox.size === 1);
  await new Promise((resolve) => setTimeout(resolve, 2));
  inbox.cancel("1");
  await until(() => inbox.size === 0);

  assert.ok(aborted);
  assert.deepEqual(node.told.filter(([name]) => name !== "heartbeat"), []);
});

test("an answer that nobody waits for any more is let go", async () => {
  const node = fakeNode({ reply: [gone()] });
  const inbox = new Inbox({ node, take: async () => ({ answer: "late" }), pace: PACE });

  inbox.show(message("1"), { lane: "l" });
  await until(() => inbox.size === 0);

  assert.equal(node.told.filter(([name]) => name === "reply").length, 1);
});

test("no more is taken in hand than fits", async () => {
  const node = fakeNode();
  const finish = [];
  const inbox = new Inbox({ node, take: () => new Promise((resolve) => finish.push(() => resolve({}))), pace: PACE });

  for (let n = 0; n < 256; n += 1) inbox.show(message(String(n)), { lane: String(n) });
  let room = false;
  void inbox.room().then(() => (room = true));
  await until(() => finish.length === 256);
  assert.ok(!room);
  finish[0]();
  await until(() => room);
  finish.forEach((go) => go());
  await until(() => inbox.size === 0);
});
