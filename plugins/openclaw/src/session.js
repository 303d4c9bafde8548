// Which OpenClaw session a conversation on the mesh belongs to. The key is made of the agent that was
// written to, the sender that the node has verified, and the thread of talk: nothing of the content,
// and no setting, leads into another session.

import { buildChannelOutboundSessionRoute } from "openclaw/plugin-sdk/channel-core";
import { buildAgentSessionKey } from "openclaw/plugin-sdk/routing";

import { parseAddress, peerOf } from "./address.js";
import { CHANNEL } from "./names.js";

/** One session for each agent, remote agent and thread of talk; `session.dmScope` is for people. */
const SCOPE = "per-account-channel-peer";

/** Of a message that came: an account of this channel is an agent of the gateway. */
export function inboundRoute(agentId, peer) {
  const sessionKey = buildAgentSessionKey({
    agentId,
    channel: CHANNEL,
    accountId: agentId,
    peer: { kind: "direct", id: peer },
    dmScope: SCOPE,
  });
  return { agentId, accountId: agentId, dmScope: SCOPE, sessionKey };
}

/** Of one that goes: the same session, so that an answer finds who waits for it. */
export function outboundRoute({ cfg, agentId, accountId, target }) {
  const parsed = parseAddress(target);
  if (!parsed) return null;
  const peer = peerOf(parsed);
  const { identityLinks: _links, ...session } = cfg.session ?? {};
  return buildChannelOutboundSessionRoute({
    cfg: { ...cfg, session: { ...session, dmScope: SCOPE } },
    agentId,
    channel: CHANNEL,
    accountId: accountId ?? agentId,
    recipientSessionExact: true,
    peer: { kind: "direct", id: peer },
    chatType: "direct",
    from: `${CHANNEL}:${peer}`,
    to: `${CHANNEL}:${peer}`,
  });
}
