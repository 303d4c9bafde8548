import assert from "node:assert/strict";
import { test } from "node:test";

import { Parts } from "../src/parts.js";

const PACE = { again: 1, last: 500 };

test("an answer that grows becomes parts without gaps, which together are the answer", async () => {
  const published = [];
  const parts = new Parts(async (some) => {
    published.push(...some);
    await new Promise((resolve) => setTimeout(resolve, 2));
    return { next: some.at(-1).seq + 1, closed: false };
  });

  for (const text of ["on", "one", "one ", `one ${"two".repeat(10_000)}`]) parts.take({ text });
  await parts.done();

  assert.deepEqual(published.map(({ seq }) => seq), published.map((_, n) => n + 1));
  assert.equal(published.map(({ text }) => text).join(""), `one ${"two".repeat(10_000)}`);
  assert.ok(published.every(({ text }) => text.length <= 8192));
});

test("a node that restarts gets what it lacks again", async () => {
  const calls = [];
  const failures = [
    { passing: true, error: { code: "no_node" } },
    { passing: false, error: { code: "gap" }, answer: { next: 1 } },
  ];
  const parts = new Parts(
    async (some) => {
      calls.push(some.map(({ seq }) => seq));
      if (calls.length > 1 && failures.length) throw Object.assign(new Error("x"), failures.shift());
      return { next: some.at(-1).seq + 1, closed: false };
    },
    { pace: PACE },
  );

  parts.take({ text: "a" });
  await new Promise((resolve) => setTimeout(resolve, 5));
  parts.take({ text: "ab" });
  await parts.done();

  assert.deepEqual(calls, [[1], [2], [2], [1, 2]]);
});

test("what is taken back ends the parts", async () => {
  const published = [];
  const parts = new Parts(async (some) => {
    published.push(...some);
    return { next: some.at(-1).seq + 1 };
  });

  parts.take({ text: "wrong" });
  await new Promise((resolve) => setTimeout(resolve, 2));
  parts.take({ text: "right" });
  parts.take({ text: "wrong again" });
  await parts.done();

  assert.deepEqual(published, [{ seq: 1, text: "wrong" }]);
});

test("a sender that wants no more is heard, and a refusal is final", async () => {
  let closed = 0;
  let calls = 0;
  const enough = new Parts(async () => ({ next: 2, closed: true }), { closed: () => (closed += 1) });
  const refused = new Parts(async () => {
    calls += 1;
    throw Object.assign(new Error("x"), { passing: false, error: { code: "not_wanted" } });
  });

  enough.take({ text: "a" });
  refused.take({ text: "a" });
  await enough.done();
  await refused.done();
  refused.take({ text: "ab" });
  await refused.done();

  assert.equal(closed, 1);
  assert.equal(calls, 1);
});
