// Which message a turn comes from, so that what is sent in it names its cause and agents that go
// round in circles are found out.

import { AsyncLocalStorage } from "node:async_hooks";

const turns = new Map();
const current = new AsyncLocalStorage();

/** Runs a turn that a message started. */
export async function causedBy(message, sessionKey, turn) {
  const context = { id: message.id, over: false };
  turns.set(sessionKey, context);
  try {
    return await current.run(context, turn);
  } finally {
    context.over = true;
    if (turns.get(sessionKey) === context) turns.delete(sessionKey);
  }
}

/**
 * The cause of what is sent now: the message of this turn, or `"none"`. Undefined where it cannot be
 * known, in what a turn has left behind: then the node judges by who wrote last.
 */
export function causeNow(sessionKey) {
  const turn = (sessionKey && turns.get(sessionKey)) ?? current.getStore();
  if (turn && !turn.over) return turn.id;
  if (turn || /:subagent:/.test(sessionKey ?? "")) return undefined;
  return "none";
}
