// Ids of messages: UUIDv7 (RFC 9562), which the node takes as idempotency keys. One message has one
// id however often it is sent, so that a retry is the same message and no second one.

import { createHash, randomBytes } from "node:crypto";

/** A new id. */
export function newId(now = Date.now(), random = randomBytes(10)) {
  return format(now, random);
}

/**
 * The id of what OpenClaw's own delivery queue sends, the same at each try. The time in it goes in
 * steps, so that a try after a restart of the gateway gets it too.
 */
export function idOfIntent(intent, part = 0, now = Date.now()) {
  const random = createHash("sha256").update(`${intent}\n${part}`).digest().subarray(0, 10);
  return format(now - (now % STEP_MS), random);
}

function format(millis, random) {
  const bytes = Buffer.alloc(16);
  bytes.writeUIntBE(millis, 0, 6);
  random.copy(bytes, 6, 0, 10);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Far longer than a restart takes, and little of the day that a message lives. */
const STEP_MS = 15 * 60 * 1000;
