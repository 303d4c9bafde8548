// The local API of the crabmesh node, as one of its agents: plain HTTP on loopback, and no proxy
// whatever the environment says.

import http from "node:http";

import { credentialsOf, CredentialsError } from "./credentials.js";
import { shared } from "./shared.js";

/** A call that was not done: `error` as in the API's answers, and the message it is about. */
export class Refused extends Error {
  constructor(error, { id, state, status, answer } = {}) {
    super(error.reason);
    this.error = error;
    this.id = id;
    this.state = state;
    this.status = status;
    this.answer = answer;
  }

  /** Whether the same call may be done a moment later. */
  get passing() {
    return this.status === undefined ? this.error.code === "no_node" : this.status === 429 || this.status >= 500;
  }
}

const connections = new http.Agent({ keepAlive: true, maxFreeSockets: 8, timeout: 60_000 });

/** One OpenClaw agent's way to the node. */
export class Node {
  #path;
  #agentId;

  constructor(credentialsPath, agentId) {
    this.#path = credentialsPath;
    this.#agentId = agentId;
  }

  /** Its name on the mesh. */
  name() {
    return this.#credentials().name;
  }

  async send(message, options) {
    return this.#post("/v1/send", await this.#spoken(message), options);
  }

  async ask(message, options) {
    const waits = message.timeout_ms + ANSWER_WITHIN_MS;
    return this.#post("/v1/ask", await this.#spoken(message), { waits, ...options });
  }

  agents() {
    return this.#call("GET", "/v1/agents");
  }

  reply(id, reply) {
    return this.#post(`/v1/messages/${id}/reply`, reply);
  }

  /** The same reply, by a connection that is made now: `{send(reply), drop()}`. */
  prepareReply(id) {
    const { api, token } = this.#credentials();
    const headers = { authorization: `Bearer ${token}`, accept: "application/json", "content-type": "application/json" };
    const to = { host: api.host, port: api.port, method: "POST", path: `/v1/messages/${id}/reply`, headers };
    return new Prepared(http.request({ ...to, agent: connections }));
  }

  ack(id) {
    return this.#post(`/v1/messages/${id}/ack`, {});
  }

  release(id) {
    return this.#post(`/v1/messages/${id}/release`, {});
  }

  heartbeat(id) {
    return this.#post(`/v1/messages/${id}/heartbeat`, {});
  }

  /** Will never be done; where the node cannot say so yet, it is settled without a word. */
  async reject(id, reason) {
    const { paths } = await this.words();
    return paths.has("/v1/messages/{id}/reject")
      ? this.#post(`/v1/messages/${id}/reject`, { reason })
      : this.ack(id);
  }

  /** Publishes parts of an answer, one line of JSON each, for the showing of it that is being answered. */
  parts(id, attempt, parts) {
    const body = parts.map((part) => `${JSON.stringify(part)}\n`).join("");
    return this.#call("POST", `/v1/messages/${id}/parts?attempt=${attempt}`, body, { type: "application/x-ndjson" });
  }

  async cancel(id) {
    const { paths } = await this.words();
    if (paths.has("/v1/messages/{id}/cancel")) await this.#post(`/v1/messages/${id}/cancel`, {});
  }

  /** What waits and what comes: the open response, whose bytes are server-sent events. */
  async stream(signal) {
    // Another node may answer than did before.
    shared.words.delete(this.#address());
    const response = await this.#request("GET", "/v1/messages/stream", undefined, { signal, accept: "text/event-stream" });
    if (response.statusCode !== 200) await answerOf(response);
    return response;
  }

  /** What this node understands, by its own description: an older one refuses unknown words. */
  words() {
    const address = this.#address();
    const kept = shared.words.get(address);
    if (kept) return kept;
    const words = this.#call("GET", "/v1/openapi.json").then((document) => ({
      paths: new Set(Object.keys(document?.paths ?? {})),
      send: new Set(Object.keys(document?.components?.schemas?.SendRequest?.properties ?? {})),
    }));
    shared.words.set(address, words);
    words.catch(() => shared.words.delete(address));
    return words;
  }

  #address() {
    const { host, port } = this.#credentials().api;
    return `${host}:${port}`;
  }

  async #spoken(message) {
    const { cause, conversation, ...rest } = message;
    const { send } = await this.words();
    if (cause !== undefined && send.has("cause")) rest.cause = cause;
    if (conversation !== undefined && send.has("conversation")) rest.conversation = conversation;
    return rest;
  }

  #post(path, body, options) {
    return this.#call("POST", path, JSON.stringify(body), { type: "application/json", ...options });
  }

  async #call(method, path, body, options = {}) {
    const within = AbortSignal.timeout(options.waits ?? ANSWER_WITHIN_MS);
    const signal = options.signal ? AbortSignal.any([options.signal, within]) : within;
    const response = await this.#request(method, path, body, { ...options, signal });
    return answerOf(response);
  }

  #request(method, path, body, options, again = true) {
    const { signal, type, accept = "application/json", waits = ANSWER_WITHIN_MS } = options;
    const { api, token } = this.#credentials();
    const headers = { authorization: `Bearer ${token}`, accept };
    if (body !== undefined) {
      headers["content-type"] = type;
      headers["content-length"] = Buffer.byteLength(body);
    }
    return new Promise((resolve, reject) => {
      const to = { host: api.host, port: api.port, method, path, headers, agent: connections, signal };
      const request = http.request(to, (response) => {
        clearTimeout(timer);
        resolve(response);
      });
      const timer = setTimeout(() => request.destroy(new Error("no answer")), waits);
      request.on("error", (error) => {
        clearTimeout(timer);
        // A kept connection that the node closed meanwhile took nothing of the call; and each call may
        // be made twice, as every message has its id.
        if (again && request.reusedSocket && error.code === "ECONNRESET" && !signal?.aborted) {
          resolve(this.#request(method, path, body, options, false));
        } else {
          reject(unreachable(error, signal));
        }
      });
      request.end(body);
    });
  }

  #credentials() {
    try {
      return credentialsOf(this.#path, this.#agentId);
    } catch (error) {
      if (!(error instanceof CredentialsError)) throw error;
      throw new Refused({ code: error.code, reason: error.message });
    }
  }
}

/**
 * A call whose body is still to come. It is written at once where that comes, while a call that begins
 * then waits for its connection until the thread has a moment, which in OpenClaw is after all that a
 * turn leaves to do.
 */
class Prepared {
  #request;
  #response;

  constructor(request) {
    this.#request = request;
    this.#response = new Promise((resolve, reject) => {
      request.on("response", resolve);
      request.on("error", (error) => reject(unreachable(error)));
    });
    // Nobody listens before it is sent.
    this.#response.catch(() => {});
  }

  /** The node's answer; undefined where the connection is gone, and nothing was sent. */
  send(body) {
    const request = this.#request;
    if (request.destroyed || request.headersSent || !request.socket?.writable) return undefined;
    const bytes = Buffer.from(JSON.stringify(body));
    request.setHeader("content-length", bytes.length);
    request.setTimeout(ANSWER_WITHIN_MS, () => request.destroy(new Error("no answer")));
    request.end(bytes);
    return this.#response.then(answerOf);
  }

  /** It is not needed. */
  drop() {
    if (!this.#request.headersSent) this.#request.destroy();
  }
}

async function answerOf(response) {
  const chunks = [];
  let size = 0;
  try {
    for await (const chunk of response) {
      size += chunk.length;
      if (size > ANSWER_MAX) throw new Error("the answer is too long");
      chunks.push(chunk);
    }
  } catch (error) {
    response.destroy();
    throw unreachable(error);
  }
  const text = Buffer.concat(chunks).toString();
  let answer;
  try {
    answer = text === "" ? {} : JSON.parse(text);
  } catch {
    answer = undefined;
  }
  const status = response.statusCode;
  if (status >= 200 && status < 300 && answer) return answer;
  const error = answer?.error ?? { code: "node", reason: `the local node answers with status ${status}` };
  throw new Refused(error, { id: answer?.id, state: answer?.state, status, answer });
}

function unreachable(error, signal) {
  const why = signal?.aborted ? "in time" : `(${error.code ?? error.name})`;
  return new Refused({ code: "no_node", reason: `the local crabmesh node does not answer ${why}` });
}

/** What the node needs for any call that waits for nobody. */
const ANSWER_WITHIN_MS = 30_000;

/** A hundred of the largest bodies, escaped: nothing that is asked for here is longer. */
const ANSWER_MAX = 32 << 20;
