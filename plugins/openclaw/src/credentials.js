// The credentials file that `crabmesh connect` writes: where the node's API is, and one token for each
// OpenClaw agent. It is read anew when it changes, so that a new token or port needs no restart.

import { closeSync, fstatSync, openSync, readFileSync, statSync } from "node:fs";

/** What is wrong with the file, and the way out. */
export class CredentialsError extends Error {
  code = "not_connected";
}

const known = new Map();

/** `{api: {host, port}, agents: {id: {name, token}}}` of the file; throws [`CredentialsError`]. */
export function readCredentials(path) {
  if (!path) throw new CredentialsError("channels.mesh.credentials is not set; run `crabmesh connect openclaw`");
  const stamp = stampOf(path);
  const kept = known.get(path);
  if (kept?.stamp === stamp) return kept.value;
  const value = parse(path, readPrivate(path));
  known.set(path, { stamp, value });
  return value;
}

/** The mesh agent of an OpenClaw agent, with its token and where to show it. */
export function credentialsOf(path, agentId) {
  const { api, agents } = readCredentials(path);
  const agent = Object.hasOwn(agents, agentId) ? agents[agentId] : undefined;
  if (!agent) {
    throw new CredentialsError(
      `agent ${agentId} is not on the mesh; the operator runs \`crabmesh connect openclaw --agent ${agentId}\``,
    );
  }
  return { api, ...agent };
}

function stampOf(path) {
  try {
    const { mtimeMs, ctimeMs, size, ino } = statSync(path);
    return `${mtimeMs} ${ctimeMs} ${size} ${ino}`;
  } catch (error) {
    throw unreadable(path, error);
  }
}

/** The text, of a file that nobody else can read: what is checked is what is read. */
function readPrivate(path) {
  let file;
  try {
    file = openSync(path, "r");
    const { mode, uid } = fstatSync(file);
    const own = process.getuid?.() ?? uid;
    if (uid !== own && uid !== 0) {
      throw new CredentialsError(`${path} belongs to user ${uid}, and the gateway runs as ${own}`);
    }
    if (mode & 0o077) {
      throw new CredentialsError(`${path} can be read by others, and holds tokens; run \`chmod 600 ${path}\``);
    }
    return readFileSync(file, "utf8");
  } catch (error) {
    throw error instanceof CredentialsError ? error : unreadable(path, error);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function parse(path, text) {
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    // Never with the parser's words: they quote the text.
    throw new CredentialsError(`${path} is no JSON; run \`crabmesh connect openclaw\` again`);
  }
  const api = parseApi(document?.api);
  if (!api) throw new CredentialsError(`${path}: "api" is not http://127.0.0.1:PORT`);
  const agents = Object.create(null);
  for (const [id, agent] of Object.entries(document.agents ?? {})) {
    if (typeof agent?.name !== "string" || typeof agent?.token !== "string") {
      throw new CredentialsError(`${path}: agent ${id} has no name or no token`);
    }
    agents[id] = { name: agent.name, token: agent.token };
  }
  return { api, agents };
}

/** A token is never sent further than this host. */
function parseApi(text) {
  const match = /^http:\/\/(127\.0\.0\.1|localhost):(\d{1,5})\/?$/.exec(typeof text === "string" ? text : "");
  return match ? { host: "127.0.0.1", port: Number(match[2]) } : undefined;
}

function unreadable(path, error) {
  return new CredentialsError(`${path} cannot be read (${error.code ?? "error"}); run \`crabmesh connect openclaw\``);
}
