// Which message a turn comes from, so that what is sent in it names its cause and agents that go
// round in circles are found out.

import { shared } from "./shared.js";

/** Runs a turn that a message started. */
export async function causedBy(message, sessionKey, turn) {
  const context = { id: message.id, over: false };
  shared.turns.set(sessionKey, context);
  try {
    return await shared.turn.run(context, turn);
  } finally {
    context.over = true;
    if (shared.turns.get(sessionKey) === context) shared.turns.delete(sessionKey);
  }
}

/**
 * The cause of what is sent now: the message of this turn, or `"none"`. Undefined where it cannot be
 * known, in what a turn has left behind: then the node judges by who wrote last.
 */
export function causeNow(sessionKey) {
  const turn = (sessionKey && shared.turns.get(sessionKey)) ?? shared.turn.getStore();
  if (turn && !turn.over) return turn.id;
  if (turn || /:subagent:/.test(sessionKey ?? "")) return undefined;
  return "none";
}
