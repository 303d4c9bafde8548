// What every copy of this plugin in the process knows. OpenClaw loads it more than once, for its tools
// and for its channel, and again when it is reloaded; a turn that one copy runs must be known to all.

import { AsyncLocalStorage } from "node:async_hooks";

/** One for the process. */
export const shared = (globalThis[Symbol.for("crabmesh.openclaw")] ??= {
  /** The turn that runs in a session, by its key. */
  turns: new Map(),
  /** The turn that this code runs in. */
  turn: new AsyncLocalStorage(),
  /** Messages that something waits for. */
  awaited: new Set(),
  /** One inbox an agent, which outlives a restart of the channel: what it runs is not run again. */
  inboxes: new Map(),
  /** What each node understands, by its address. */
  words: new Map(),
});
