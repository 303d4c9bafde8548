// A turn that a restart of the gateway cut off is the node's to repeat: its message was not settled,
// and comes again. OpenClaw would continue it too, by itself, and send what comes of it as a new
// message; so such a turn is taken off OpenClaw's list before it is.

import { resolveActiveEmbeddedRunSessionId } from "openclaw/plugin-sdk/agent-harness-runtime";
import { listSessionEntries, patchSessionEntry, resolveStorePath } from "openclaw/plugin-sdk/session-store-runtime";

import { CHANNEL } from "./names.js";

/** Takes all turns of an agent's mesh sessions off the list; for a process that has none running. */
export async function disown({ cfg, agentId }) {
  const storePath = resolveStorePath(cfg.session?.store, { agentId });
  const ours = `agent:${agentId}:${CHANNEL}:`.toLowerCase();
  let count = 0;
  for (const { sessionKey, entry } of listSessionEntries({ agentId, storePath })) {
    if (!sessionKey.toLowerCase().startsWith(ours) || !interrupted(entry)) continue;
    await patchSessionEntry({
      agentId,
      storePath,
      sessionKey,
      preserveActivity: true,
      update: (current) => (interrupted(current) ? OVER : null),
    });
    count += 1;
  }
  return count;
}

/**
 * Whether a turn runs in a session, as one of a person who looks into it. What the session's entry says
 * is not asked: after a turn that was cut off it says so for good.
 */
export function runs(sessionKey) {
  return resolveActiveEmbeddedRunSessionId(sessionKey) !== undefined;
}

function interrupted(entry) {
  return Boolean(
    entry?.status === "running" || entry?.abortedLastRun || entry?.mainRestartRecovery || entry?.pendingFinalDelivery,
  );
}

const OVER = {
  status: "failed",
  abortedLastRun: false,
  mainRestartRecovery: undefined,
  restartRecoveryRuns: undefined,
  restartRecoveryForceSafeTools: undefined,
  pendingFinalDelivery: undefined,
};
