// Refusals, as an answer that a model can act on: what, why, which rule is missing, whom to ask.

import { oneLine } from "./text.js";

/** The sentences for the `error` of the local API about a message to `to`. */
export function explain(to, error, id) {
  const { code, reason, hint, missing_grant: grant, rule } = error ?? {};
  const lines = [`Your message to ${to} ${VERDICTS[code] ?? "was not delivered"}: ${oneLine(reason) || "no reason was given"}.`];
  if (grant) lines.push(`This rule is missing in the policy of the mesh: ${oneLine(grant, 1000)}`);
  if (rule) lines.push(`The rule that decided: ${oneLine(rule, 1000)}`);
  const way = hint ? oneLine(hint) : WAYS[code];
  if (way) lines.push(`What helps: ${way}`);
  lines.push(`(code ${oneLine(code ?? "failed", 60)}${id ? `, message ${id}` : ""})`);
  return lines.join("\n");
}

/** What waiting for an answer came to, where none came. */
export function explainSilence(to, { id, state, error }) {
  if (error?.code === "timeout") {
    return [
      `No answer from ${to} yet: ${oneLine(error.reason)}.`,
      `Your message is ${oneLine(state, 30)} and is not lost; a late answer reaches you as a message of its own. Do not send it again.`,
      `(code timeout, message ${id})`,
    ].join("\n");
  }
  if (error) return explain(to, error, id);
  return `${to} took your message and gave no answer. (message ${id}, ${oneLine(state, 30)})`;
}

const VERDICTS = {
  denied: "is denied by the policy of the mesh",
  no_policy: "cannot be judged, as this gateway has no policy yet, and so is refused",
  blocked: "is blocked",
  expired: "expired before it was delivered",
  loop: "is stopped, as agents go round in circles",
  rejected: "was rejected by that agent",
  cancelled: "was taken back",
  unknown_agent: "has nobody to go to",
  unknown_gateway: "has nowhere to go",
};

const OPERATOR = "ask your user, or whoever runs the mesh, to allow it; sending again changes nothing.";

const WAYS = {
  denied: OPERATOR,
  no_policy: OPERATOR,
  blocked: OPERATOR,
  unknown_agent: "look with mesh_agents who can be reached.",
  unknown_gateway: "look with mesh_agents who can be reached.",
  loop: "stop answering; begin anew only when a person asks for it.",
  too_large: "send less, or in pieces.",
  unauthorized: "the operator runs `crabmesh connect openclaw` again.",
  not_connected: "the operator runs `crabmesh connect openclaw`.",
  no_node: "the operator looks whether `crabmesh up` runs on this host.",
};
