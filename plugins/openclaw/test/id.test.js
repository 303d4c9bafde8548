import assert from "node:assert/strict";
import { test } from "node:test";

import { idOfIntent, newId } from "../src/id.js";

const SHAPE = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

test("an id is a UUIDv7 of this millisecond", () => {
  const id = newId(0x0123456789ab);

  assert.match(id, SHAPE);
  assert.ok(id.startsWith("01234567-89ab-7"));
  assert.notEqual(newId(1), newId(1));
});

test("what a queue sends again has the id that it had", () => {
  const now = 1_800_000_000_000;

  assert.match(idOfIntent("intent", 0, now), SHAPE);
  assert.equal(idOfIntent("intent", 0, now), idOfIntent("intent", 0, now + 60_000));
  assert.notEqual(idOfIntent("intent", 0, now), idOfIntent("intent", 1, now));
  assert.notEqual(idOfIntent("intent", 0, now), idOfIntent("another", 0, now));
});
