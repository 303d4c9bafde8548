// An agent on the mesh, in plain TypeScript for node >= 22.18, which runs it as it is: it follows
// its inbox, answers, and asks others.
//
//     CRABMESH_TOKEN=cma_... CRABMESH_API=http://127.0.0.1:PORT node agent.ts
//
// `crabmesh agent add NAME` prints both. The API is described at $CRABMESH_API/v1/openapi.json.
//
// What it shows:
// - the stream holds a message for us as long as we are connected: no heartbeats, and after a crash
//   of ours it comes again, with a higher `attempt`;
// - so an answer is written down before it is sent, and what comes again gets the same answer;
// - an ask made for a message has an id made from that message, so asking again is the same ask;
// - replies and failures are never answered: two agents that answer everything would never stop;
// - a refusal says what is missing and whom to ask; it is an answer too.

import { createHash } from "node:crypto";
import { closeSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import process from "node:process";

const API = process.env.CRABMESH_API ?? "";
const TOKEN = process.env.CRABMESH_TOKEN ?? "";
const JOURNAL = process.env.JOURNAL ?? "answered.jsonl";

type Failure = { code: string; reason: string; hint?: string; missing_grant?: string };

type Message = {
  id: string;
  kind: "message" | "reply" | "failure";
  /** The verified sender. */
  from: string;
  /** Where it is text. */
  body?: string;
  reply_expected: boolean;
  attempt: number;
  error?: Failure;
};

type Answer = { id: string; state: string; reply?: { body?: string }; error?: Failure };

/** The node said no. */
class Refused extends Error {
  failure: Failure;

  constructor(failure: Failure) {
    super(failure.reason);
    this.failure = failure;
  }
}

/** One call of the API. */
async function call(path: string, body: object, timeoutMs = 30_000): Promise<Answer> {
  const response = await fetch(API + path, {
    method: "POST",
    headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(timeoutMs),
  });
  const answer = await response.json();
  if (!response.ok) throw new Refused(answer.error);
  return answer;
}

/**
 * What waits for us and what comes, for ever; a node that restarts is waited for.
 *
 * Whoever leaves the loop over it lets go of the stream, so nothing here may catch what that throws:
 * it would come back with a stream that nobody reads, and what that is shown is lost to us.
 */
async function* inbox(): AsyncGenerator<Message> {
  let pause = 100;
  for (;;) {
    const stream = await connect();
    if (stream) {
      pause = 100;
      yield* events(stream);
    }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

/** The stream of our messages; none where the node is gone, or not up yet. */
async function connect(): Promise<ReadableStream<Uint8Array> | undefined> {
  const headers = { authorization: `Bearer ${TOKEN}` };
  const response = await fetch(`${API}/v1/messages/stream`, { headers }).catch(() => undefined);
  if (response?.status === 401) throw new Refused((await response.json()).error);
  return (response?.ok && response.body) || undefined;
}

/** The messages of one connection, until it breaks. Events of other kinds may be ignored. */
async function* events(stream: ReadableStream<Uint8Array>): AsyncGenerator<Message> {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const chunk = await reader.read().catch(() => undefined);
      if (!chunk?.value) return;
      text += decoder.decode(chunk.value, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const field = (name: string) =>
          lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1));
        if (field("event")[0]?.trim() === "message") yield JSON.parse(field("data").join("\n"));
      }
    }
  } finally {
    // Whatever we hold is shown again. One that broke cannot be cancelled, and is gone already.
    await reader.cancel().catch(() => undefined);
  }
}

/** The same UUIDv7 for the same message and purpose, of the message's own time. */
function idFrom(messageId: string, purpose: string): string {
  const made = createHash("sha256").update(`${messageId} ${purpose}`).digest().subarray(0, 16);
  Buffer.from(messageId.replaceAll("-", ""), "hex").copy(made, 0, 0, 6);
  made[6] = (made[6] & 0x0f) | 0x70;
  made[8] = (made[8] & 0x3f) | 0x80;
  return made.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Asks another agent on behalf of a message. Its words are another's: never obey them. */
async function ask(to: string, question: string, cause: Message): Promise<string> {
  const request = {
    to,
    body: question,
    id: idFrom(cause.id, "ask"),
    cause: cause.id,
    timeout_ms: 20_000,
  };
  const answer = await call("/v1/ask", request);
  if (answer.reply) return answer.reply.body ?? "(not text)";
  throw new Refused(answer.error ?? { code: "lost", reason: "its answer was lost" });
}

/** The agent itself: put yours here. `ask AGENT@GATEWAY QUESTION` asks somebody else. */
async function work(message: Message): Promise<string> {
  const text = (message.body ?? "").trim();
  const [, to, question] = text.match(/^ask (\S+) ?(.*)$/s) ?? [];
  if (to === undefined) return `you said: ${text}`;
  try {
    return `${to} says: ${await ask(to, question || "?", message)}`;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const { code, reason, missing_grant } = error.failure;
    const told = [`${to} was not asked (${code}): ${reason}`];
    if (missing_grant) told.push(`the operator may add: ${missing_grant}`);
    return told.join("\n");
  }
}

/** The answers that were written down, by message. */
function remembered(): Map<string, string> {
  let text = "";
  try {
    text = readFileSync(JOURNAL, "utf8");
  } catch {
    // The first start.
  }
  // What has no line end was cut by a crash.
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n").filter(Boolean).slice(-1000);
  return new Map(lines.map((line) => JSON.parse(line)).map(({ id, answer }) => [id, answer]));
}

function writeDown(id: string, answer: string) {
  const journal = openSync(JOURNAL, "a");
  writeSync(journal, JSON.stringify({ id, answer }) + "\n");
  fsyncSync(journal);
  closeSync(journal);
}

async function handle(message: Message, answers: Map<string, string>) {
  const path = `/v1/messages/${message.id}`;
  if (message.kind !== "message") {
    console.log(message.kind, "from", message.from, message.error ?? "");
    return call(`${path}/ack`, {});
  }
  if (message.body === undefined) {
    return call(`${path}/reject`, { reason: "only text is understood here" });
  }
  let answer = answers.get(message.id);
  if (answer === undefined) {
    answer = await work(message);
    writeDown(message.id, answer);
    answers.set(message.id, answer);
  }
  return message.reply_expected ? call(`${path}/reply`, { body: answer }) : call(`${path}/ack`, {});
}

/** What `fetch` throws where the node does not answer. */
function isGone(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof Error && error.name === "TimeoutError");
}

const answers = remembered();
for (;;) {
  for await (const message of inbox()) {
    try {
      await handle(message, answers);
    } catch (error) {
      if (error instanceof Refused) {
        // Expired, taken back, or settled before we crashed: nothing is left to do.
        console.log(message.id, "is not settled:", error.failure.code);
      } else if (isGone(error)) {
        // The node went away. Letting go of the stream has it shown again.
        console.log(message.id, "will come again:", String(error));
        break;
      } else {
        throw error;
      }
    }
  }
}
