// OpenClaw 2026.9.6 keeps the answer that `conversations_turn` waited for in the session of that
// conversation, and does so even where the session has no transcript yet: the transcript then has no
// head, and every later turn in it fails ("legacy session transcripts require doctor/import
// migration"). So the head is written first.

import { recordChannelFeedbackEvent } from "openclaw/plugin-sdk/channel-inbound";
import { CURRENT_SESSION_VERSION } from "openclaw/plugin-sdk/agent-sessions";
import {
  getSessionEntry,
  loadTranscriptEventsSync,
  readTranscriptStatsSync,
  resolveStorePath,
} from "openclaw/plugin-sdk/session-store-runtime";

/** Gives a session that exists and has no head of its transcript one. */
export async function ensureHead({ cfg, agentId, sessionKey }) {
  const storePath = resolveStorePath(cfg.session?.store, { agentId });
  const sessionId = getSessionEntry({ agentId, sessionKey, storePath })?.sessionId;
  if (!sessionId) return;
  const scope = { agentId, sessionKey, sessionId, storePath };
  const { eventCount } = readTranscriptStatsSync(scope);
  // One that has grown has had turns, and so a head.
  if (eventCount > HEADLESS_MAX) return;
  if (eventCount > 0 && loadTranscriptEventsSync(scope).some((event) => event?.type === "session")) return;
  const event = {
    type: "session",
    version: CURRENT_SESSION_VERSION,
    id: sessionId,
    timestamp: new Date().toISOString(),
  };
  await recordChannelFeedbackEvent({ cfg, agentId, sessionKey, event });
}

/** Far more answers than come before the first turn. */
const HEADLESS_MAX = 64;
