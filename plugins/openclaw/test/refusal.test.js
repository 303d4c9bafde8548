import assert from "node:assert/strict";
import { test } from "node:test";

import { explain, explainSilence } from "../src/refusal.js";

test("a denial says who, why, which rule is missing and whom to ask", () => {
  const text = explain(
    "ops@gw-b",
    { code: "denied", reason: "no grant lets it", missing_grant: '{"src": ["agent:main@gw-a"]}' },
    "01a2",
  );

  assert.match(text, /message to ops@gw-b is denied by the policy of the mesh: no grant lets it/);
  assert.match(text, /missing in the policy of the mesh: \{"src": \["agent:main@gw-a"\]\}/);
  assert.match(text, /ask your user, or whoever runs the mesh/);
  assert.match(text, /code denied, message 01a2/);
});

test("words from afar stay on their line", () => {
  const text = explain("a@b", { code: "x\ny", reason: "one\n\u001b[2Jtwo", hint: "three\nfour" });

  assert.equal(text.split("\n").length, 3);
  assert.ok(!text.includes("\u001b"));
});

test("an error without words is one too", () => {
  assert.match(explain("a@b", undefined), /was not delivered: no reason was given/);
});

test("silence is told apart from refusal", () => {
  const timeout = explainSilence("a@b", { id: "01", state: "stored", error: { code: "timeout", reason: "no answer within 1s" } });

  assert.match(timeout, /No answer from a@b yet/);
  assert.match(timeout, /not lost/);
  assert.match(explainSilence("a@b", { id: "01", state: "done" }), /took your message and gave no answer/);
  assert.match(explainSilence("a@b", { id: "01", state: "failed", error: { code: "rejected", reason: "it will not" } }), /was rejected/);
});
