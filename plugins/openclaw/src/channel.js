// The channel `mesh`: remote agents are its direct peers, agents of this gateway its accounts.

import { createChannelPluginBase, createChatChannelPlugin } from "openclaw/plugin-sdk/channel-core";
import { createMessageReceiptFromOutboundResults, defineChannelMessageAdapter } from "openclaw/plugin-sdk/channel-outbound";

import { normalizePeer } from "./address.js";
import { runAccount } from "./account.js";
import { account, agentIds } from "./config.js";
import { CHANNEL } from "./names.js";
import { nodeOf, prepareId, sendText } from "./send.js";
import { outboundRoute } from "./session.js";

const CAPABILITIES = { text: true, replyTo: true };

const base = createChannelPluginBase({
  id: CHANNEL,
  meta: {
    id: CHANNEL,
    label: "Mesh",
    selectionLabel: "Mesh (crabmesh)",
    docsPath: "/channels/mesh",
    blurb: "Agents on other gateways of your crabmesh.",
  },
  capabilities: { chatTypes: ["direct"] },
  reload: { configPrefixes: [`channels.${CHANNEL}`] },
  config: {
    listAccountIds: agentIds,
    defaultAccountId: (cfg) => account(cfg).accountId,
    resolveAccount: account,
    inspectAccount: account,
    isConfigured: ({ configured }) => configured,
    isEnabled: ({ enabled }) => enabled,
    unconfiguredReason: () => "run `crabmesh connect openclaw`",
  },
  setup: { applyAccountConfig: ({ cfg }) => cfg },
});

/** What OpenClaw loads. */
export const channel = createChatChannelPlugin({
  base: {
    ...base,
    directory: {
      self: async () => null,
      listPeers: async ({ cfg, accountId, query, limit }) => {
        const { agents } = await nodeOf(cfg, accountId ?? account(cfg).accountId).agents();
        const wanted = query?.toLowerCase();
        return (agents ?? [])
          .map(({ address }) => ({ kind: "user", id: address, name: address }))
          .filter(({ id }) => !wanted || id.includes(wanted))
          .slice(0, limit ?? undefined);
      },
      listGroups: async () => [],
    },
    messaging: {
      targetPrefixes: [CHANNEL],
      normalizeTarget: normalizePeer,
      inferTargetChatType: () => "direct",
      targetResolver: { looksLikeId: (text) => normalizePeer(text) !== undefined, hint: "<agent@gateway>" },
      resolveOutboundSessionRoute: outboundRoute,
      // Each agent talks by its own account, whatever bindings say.
      resolveConversationRouteOwner: ({ accountId }) => ({ kind: "agent", agentId: accountId }),
    },
    gateway: { startAccount: runAccount },
    actions: {
      describeMessageTool: () => ({ actions: ["send"] }),
      supportsAction: ({ action }) => action === "send",
      handleAction: handleSend,
    },
    message: defineChannelMessageAdapter({
      id: CHANNEL,
      durableFinal: { capabilities: CAPABILITIES },
      send: {
        text: async (message) => {
          const sent = await sendText(message);
          const receipt = createMessageReceiptFromOutboundResults({
            results: [sent],
            kind: "text",
            ...(message.replyToId ? { replyToId: message.replyToId } : {}),
          });
          return { messageId: sent.messageId, receipt };
        },
      },
    }),
  },
  outbound: {
    base: {
      deliveryMode: "gateway",
      prepareConversationTurnMessageId: prepareId,
      deliveryCapabilities: { durableFinal: CAPABILITIES },
      resolveTarget: ({ to }) => {
        const peer = normalizePeer(to);
        return peer ? { ok: true, to: peer } : { ok: false, error: new Error("a target on the mesh is agent@gateway") };
      },
    },
    attachedResults: { channel: CHANNEL, sendText },
  },
});

/** The `message` tool: sent as the agent that calls it, not as the account that it names. */
async function handleSend({ cfg, params, accountId, agentId, sessionKey, dryRun, onPlatformSendDispatch }) {
  const { to, target, message } = params;
  if (dryRun) return result({ ok: true, dryRun: true });
  const sent = await sendText({
    cfg,
    to: to ?? target,
    text: String(message ?? ""),
    accountId: agentId ?? accountId ?? account(cfg).accountId,
    sessionKey,
    onPlatformSendDispatch,
  });
  return result({ ok: true, channel: CHANNEL, to: sent.target.id, messageId: sent.messageId });
}

function result(details) {
  return { content: [{ type: "text", text: JSON.stringify(details) }], details };
}
