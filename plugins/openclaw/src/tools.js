// The tools of every turn, whoever started it: who can be reached, send, ask. Each acts as the agent
// that calls it, by that agent's own token.

import { parseAddress } from "./address.js";
import { causeNow } from "./cause.js";
import { newId } from "./id.js";
import { Refused } from "./node.js";
import { explain, explainSilence } from "./refusal.js";
import { nodeOf } from "./send.js";
import { bodyText, fitting, foreign, oneLine } from "./text.js";

/** Registers them. */
export function registerTools(api) {
  for (const { name, ...tool } of TOOLS) {
    const factory = (context) => ({
      ...tool,
      name,
      execute: (_callId, params, signal) => answering(params, () => tool.run(context, params ?? {}, signal)),
    });
    api.registerTool(factory, { name });
  }
}

/** Ten minutes; whoever wants to wait longer sends. */
const ASK_MAX_S = 600;

const TO = { type: "string", description: "The agent, as agent@gateway; mesh_agents lists them." };
const MESSAGE = { type: "string", description: "What to tell or ask it. It sees this text and nothing else of your conversation." };

const TOOLS = [
  {
    name: "mesh_agents",
    label: "Mesh agents",
    description: "List the agents on other gateways that you may reach, and whether they are there.",
    parameters: { type: "object", additionalProperties: false, properties: {} },
    run: listAgents,
  },
  {
    name: "mesh_send",
    label: "Mesh send",
    description:
      "Send a message to an agent on another gateway without waiting. It is delivered even if that gateway is down for hours; an answer reaches you later as a message of its own.",
    parameters: {
      type: "object",
      additionalProperties: false,
      required: ["to", "message"],
      properties: {
        to: TO,
        message: MESSAGE,
        expect_reply: { type: "boolean", description: "Whether you want an answer; true where left out." },
      },
    },
    run: send,
  },
  {
    name: "mesh_ask",
    label: "Mesh ask",
    description: "Ask an agent on another gateway and wait for its answer.",
    parameters: {
      type: "object",
      additionalProperties: false,
      required: ["to", "message"],
      properties: {
        to: TO,
        message: MESSAGE,
        timeout_s: { type: "number", minimum: 1, maximum: ASK_MAX_S, description: "How long to wait; 120 where left out." },
      },
    },
    run: ask,
  },
];

async function listAgents(context) {
  const { agents } = await node(context).agents();
  if (!agents?.length) return said("You may reach nobody on the mesh yet. Whoever runs the mesh allows it in its policy.", { ok: true, agents: [] });
  const lines = agents.map((agent) => {
    const seen = agent.last_seen_s == null ? "" : `, last seen ${agent.last_seen_s} s ago`;
    const about = [agent.description, ...(agent.skills ?? []).map((skill) => skill.name ?? skill.id)].filter(Boolean);
    const words = about.length ? `: ${oneLine(about.join("; "), 300)}` : "";
    return `${agent.address} (${oneLine(agent.presence ?? (agent.online ? "online" : "not known to be online"), 30)}${seen})${words}`;
  });
  const head = "Agents that you may reach (what follows a colon are their own words, not your user's):";
  return said([head, ...lines].join("\n"), { ok: true, agents: agents.map(({ address }) => address) });
}

async function send(context, { to, message, expect_reply: wants = true }) {
  const { address, conversation } = addressOf(to);
  const { id, state } = await node(context).send({
    to: address,
    body: fitting(String(message)),
    id: newId(),
    reply_expected: wants !== false,
    cause: causeNow(context.sessionKey),
    conversation,
  });
  const later = wants === false ? "" : " An answer reaches you later, as a message of its own.";
  return said(`Your message to ${address} is safe and on its way.${later} (message ${id}, ${state})`, { ok: true, id, state });
}

async function ask(context, { to, message, timeout_s: seconds }, signal) {
  const { address, conversation } = addressOf(to);
  const id = newId();
  const way = node(context);
  const request = {
    to: address,
    body: fitting(String(message)),
    id,
    timeout_ms: Math.round(Math.min(Math.max(Number(seconds) || 120, 1), ASK_MAX_S) * 1000),
    cause: causeNow(context.sessionKey),
    conversation,
  };
  let answer;
  try {
    answer = await way.ask(request, { signal });
  } catch (error) {
    // Nobody is left to hear the answer: the far agent need not go on.
    if (signal?.aborted) await way.cancel(id).catch(() => {});
    throw error;
  }
  const { reply, state } = answer;
  if (!reply) return said(explainSilence(address, answer), { ok: false, id, state, error: answer.error });
  return said(foreign(reply.from, bodyText(reply)), { ok: true, id, state, from: reply.from });
}

function node(context) {
  if (!context.agentId) throw new Refused({ code: "not_connected", reason: "this turn belongs to no agent" });
  return nodeOf(context.getRuntimeConfig?.() ?? context.runtimeConfig ?? context.config, context.agentId);
}

function addressOf(to) {
  const parsed = parseAddress(to);
  if (parsed) return parsed;
  throw new Refused({
    code: "schema",
    reason: `${oneLine(to, 100)} is no address`,
    hint: "write agent@gateway, as mesh_agents lists them.",
  });
}

/** A refusal is an answer: the model reads why, and what helps. */
async function answering(params, run) {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const to = parseAddress(params?.to)?.address ?? "the mesh";
    return said(explain(to, error.error, error.id), { ok: false, id: error.id, state: error.state, error: error.error });
  }
}

function said(text, details) {
  return { content: [{ type: "text", text }], details };
}
