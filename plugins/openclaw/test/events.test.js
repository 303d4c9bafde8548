import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";

import { EventReader } from "../src/events.js";
import { follow } from "../src/follow.js";

const bytes = (text) => Buffer.from(text);

test("events come whole, however the bytes are cut", () => {
  const text = ": hello\n\nevent: message\nid: 1\ndata: {\"a\":\"ä\"}\n\nevent: cancel\r\ndata: x\r\ndata: y\r\n\r\n";
  for (let size = 1; size < 20; size += 1) {
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < bytes(text).length; at += size) events.push(...reader.push(bytes(text).subarray(at, at + size)));

    assert.deepEqual(events, [
      { event: "message", id: "1", data: '{"a":"ä"}' },
      { event: "cancel", id: undefined, data: "x\ny" },
    ], `in pieces of ${size}`);
  }
});

test("a line without an end is not kept for ever", () => {
  const reader = new EventReader();
  const chunk = Buffer.alloc(1 << 20, "x");

  assert.throws(() => [1, 2, 3].forEach(() => reader.push(chunk)), /too long/);
});

test("a stream that ends is opened again, until the channel stops", async () => {
  const stop = new AbortController();
  const seen = [];
  const states = [];
  let opened = 0;

  await follow({
    open: async () => {
      opened += 1;
      if (opened === 1) throw new Error("no node");
      return Readable.from([bytes(`event: message\ndata: ${opened}\n\n`)]);
    },
    handle: async (event, data) => {
      seen.push([event, data]);
      if (seen.length === 2) stop.abort();
    },
    state: (error) => states.push(error?.message ?? "up"),
    signal: stop.signal,
    pace: { first: 1, most: 2, silent: 1000 },
  });

  assert.deepEqual(seen, [["message", 2], ["message", 3]]);
  assert.deepEqual(states, ["no node", "up", "the stream ended", "up"]);
});

test("a node that falls silent is not waited for", async () => {
  const stop = new AbortController();
  const states = [];

  await follow({
    open: async () => new Readable({ read() {} }),
    handle: async () => {},
    state: (error) => {
      states.push(error?.message);
      if (error) stop.abort();
    },
    signal: stop.signal,
    pace: { first: 1, most: 1, silent: 20 },
  });

  assert.deepEqual(states.slice(0, 1), [undefined]);
  assert.ok(states.length <= 2);
});
