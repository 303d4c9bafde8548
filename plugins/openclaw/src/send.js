// Messages out: from an agent of this gateway to one of another, as a channel sends them.

import { PlatformMessageNotDispatchedError } from "openclaw/plugin-sdk/error-runtime";

import { normalizePeer, parseAddress } from "./address.js";
import { causeNow } from "./cause.js";
import { section } from "./config.js";
import { idOfIntent, newId } from "./id.js";
import { CHANNEL } from "./names.js";
import { Node, Refused } from "./node.js";
import { explain } from "./refusal.js";
import { shared } from "./shared.js";
import { fitting } from "./text.js";

/** The agent's way to the node. */
export function nodeOf(cfg, agentId) {
  return new Node(section(cfg).credentials, agentId);
}

/** An id for a message whose answer `conversations_turn` will wait for. */
export function prepareId() {
  const id = newId();
  shared.awaited.add(id);
  // A wait is bounded (300 s), so this is too.
  setTimeout(() => shared.awaited.delete(id), AWAITED_MS).unref();
  return id;
}

/** Whether a turn of this process may wait for the answer to this message. */
export function isAwaited(id) {
  return id !== undefined && shared.awaited.has(id);
}

/** Sends one text; the answer comes by the inbox. Throws what OpenClaw tells the agent. */
export async function sendText({ cfg, to, text, accountId, sessionKey, preparedMessageId, deliveryQueueId, deliveryPartIndex, signal, onPlatformSendDispatch }) {
  const target = parseAddress(to);
  if (!target) throw refused(`${String(to).slice(0, 200)} is no address on the mesh; write agent@gateway`);
  const id = preparedMessageId ?? (deliveryQueueId ? idOfIntent(deliveryQueueId, deliveryPartIndex) : newId());
  await onPlatformSendDispatch?.();
  const { address, conversation } = target;
  try {
    await nodeOf(cfg, accountId).send(
      { to: address, body: fitting(text), id, reply_expected: true, cause: causeNow(sessionKey), conversation },
      { signal },
    );
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    throw refused(explain(address, error.error, error.id), error.passing, error);
  }
  return { channel: CHANNEL, messageId: id, target: { kind: "chat", id: normalizePeer(to) } };
}

/** Nothing was sent, and OpenClaw may say so. */
function refused(text, retryable = false, cause) {
  return new PlatformMessageNotDispatchedError(text, { cause, retryable });
}

const AWAITED_MS = 310_000;
