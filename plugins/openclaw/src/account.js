// One agent's account of the channel, running: its stream is followed, its messages become turns.

import { section, problem } from "./config.js";
import { follow } from "./follow.js";
import { Inbox } from "./inbox.js";
import { disown } from "./interrupted.js";
import { Parts } from "./parts.js";
import { isAwaited, nodeOf } from "./send.js";
import { shared } from "./shared.js";
import { peerOfMessage, runTurn } from "./turn.js";

/** Runs until the channel is stopped. */
export async function runAccount({ cfg, accountId: agentId, account, abortSignal, log, setStatus, channelRuntime }) {
  const wrong = problem(account);
  if (wrong) throw new Error(wrong);
  const node = nodeOf(cfg, agentId);
  const say = (level, text) => log?.[level]?.(`mesh ${agentId}: ${text}`);
  const take = async (message, { signal, round, answered }) => {
    const parts = await partsOf(node, message, () => inbox.cancel(message.id));
    const turn = runTurn({
      cfg,
      runtime: channelRuntime,
      agentId,
      allowFrom: section(cfg).allowFrom,
      message,
      round,
      awaited: isAwaited(message.in_reply_to),
      signal,
      parts,
      answered,
      log: say,
    });
    try {
      return await turn;
    } finally {
      await parts?.done();
    }
  };
  const key = `${agentId} ${account.credentials}`;
  if (!shared.inboxes.has(key)) {
    const cut = await disown({ cfg, agentId });
    if (cut) say("info", `${cut} turns were cut off by a restart; their messages come again`);
  }
  const inbox = inboxOf(key, { node, take, log: say });
  let up;
  await follow({
    open: (signal) => node.stream(signal),
    handle: (event, data) => handle(inbox, event, data),
    state: (error) => {
      if (!error) setStatus({ accountId: agentId, running: true, connected: true, lifecycle: "ready", lastConnectedAt: Date.now(), lastError: null });
      else setStatus({ accountId: agentId, running: true, connected: false, lastError: error.message });
      // Said once for each change, not at each try.
      if (up !== !error) say(error ? "warn" : "info", error ? `the node is away: ${error.message}` : `on the mesh as ${node.name()}`);
      up = !error;
    },
    signal: abortSignal,
  });
  setStatus({ accountId: agentId, running: false, connected: false, lifecycle: "stopped" });
}

async function handle(inbox, event, data) {
  if (event === "cancel") return inbox.cancel(data.id);
  if (event !== "message") return undefined;
  const urgent = data.kind !== "message" && isAwaited(data.in_reply_to);
  inbox.show(data, { lane: peerOfMessage(data), urgent });
  return inbox.room();
}

async function partsOf(node, message, closed) {
  if (message.stream !== true) return undefined;
  const { paths } = await node.words();
  if (!paths.has("/v1/messages/{id}/parts")) return undefined;
  return new Parts((parts) => node.parts(message.id, message.attempt, parts), { closed });
}

function inboxOf(key, parts) {
  const kept = shared.inboxes.get(key);
  if (kept) kept.adopt(parts);
  else shared.inboxes.set(key, new Inbox(parts));
  return shared.inboxes.get(key);
}
