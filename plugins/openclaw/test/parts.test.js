import assert from "node:assert/strict";
import { test } from "node:test";

import { Parts } from "../src/parts.js";

test("an answer that grows becomes parts without gaps, which together are the answer", async () => {
  const published = [];
  const parts = new Parts(async (some) => {
    published.push(...some);
    await new Promise((resolve) => setTimeout(resolve, 2));
    return { next: some.at(-1).seq + 1, cancelled: false };
  });

  for (const text of ["on", "one", "one ", "one two"]) parts.take({ text });
  await parts.done();
  parts.take({ text: "one two three" });
  await parts.done();

  assert.deepEqual(published.map(({ seq }) => seq), published.map((_, n) => n + 1));
  assert.equal(published.map(({ text }) => text).join(""), "one two three");
});

test("what is taken back ends the parts, and a sender that has enough is heard", async () => {
  const published = [];
  let cancelled = 0;
  const parts = new Parts(
    async (some) => {
      published.push(...some);
      return { cancelled: true };
    },
    { cancelled: () => (cancelled += 1) },
  );

  parts.take({ text: "wrong" });
  await parts.done();
  parts.take({ text: "right" });
  parts.take({ text: "wrong again" });
  await parts.done();

  assert.deepEqual(published, [{ seq: 1, text: "wrong" }]);
  assert.equal(cancelled, 1);
});
