// What `channels.mesh` says. An account of the channel is an agent of the gateway: it has a mesh agent
// of its own, and sends as nobody else.

import { CredentialsError, readCredentials } from "./credentials.js";

/** The section. */
export function section(cfg) {
  return cfg?.channels?.mesh ?? {};
}

/** The agents on the mesh: those listed, or all of the credentials file. */
export function agentIds(cfg) {
  const { credentials, agents } = section(cfg);
  if (agents) return agents;
  try {
    return Object.keys(readCredentials(credentials).agents);
  } catch (error) {
    if (error instanceof CredentialsError) return [];
    throw error;
  }
}

/** One account, as OpenClaw keeps it. */
export function account(cfg, accountId) {
  const { enabled, credentials, allowFrom } = section(cfg);
  const id = accountId || (agentIds(cfg)[0] ?? "default");
  return { accountId: id, enabled: enabled !== false, configured: Boolean(credentials), credentials, allowFrom };
}

/** Why an account cannot work, or undefined. */
export function problem({ credentials, accountId }) {
  try {
    const { agents } = readCredentials(credentials);
    return Object.hasOwn(agents, accountId) ? undefined : `agent ${accountId} is not in ${credentials}`;
  } catch (error) {
    if (error instanceof CredentialsError) return error.message;
    throw error;
  }
}
