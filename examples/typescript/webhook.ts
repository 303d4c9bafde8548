// A receiver for `crabmesh agent add NAME --http URL`, in plain TypeScript for node >= 22.18.
//
//     CRABMESH_WEBHOOK_SECRET=whsec_... node webhook.ts 8080
//     crabmesh agent add NAME --http http://127.0.0.1:8080/
//
// The answer to the POST is the reply. A message may come twice (we answered, and the node went away
// before it heard): the same `webhook-id` gets the same answer and is not worked on again.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import process from "node:process";

const SECRET = Buffer.from(
  (process.env.CRABMESH_WEBHOOK_SECRET ?? "").replace(/^whsec_/, ""),
  "base64",
);
const LARGEST = 256 * 1024;
const TOLERANCE_S = 300;

// In memory, so for one life of this process; a database does it for good.
const answers = new Map<string, string>();

/** Whether it was signed with our secret, within five minutes (Standard Webhooks). */
function isGenuine(headers: IncomingHttpHeaders, body: Buffer): boolean {
  const id = String(headers["webhook-id"] ?? "");
  const sentAt = String(headers["webhook-timestamp"] ?? "");
  if (!/^\d+$/.test(sentAt) || Math.abs(Date.now() / 1000 - Number(sentAt)) > TOLERANCE_S) {
    return false;
  }
  const expected = createHmac("sha256", SECRET).update(`${id}.${sentAt}.`).update(body).digest();
  return String(headers["webhook-signature"] ?? "")
    .split(" ")
    .filter((signature) => signature.startsWith("v1,"))
    .map((signature) => Buffer.from(signature.slice(3), "base64"))
    .some((given) => given.length === expected.length && timingSafeEqual(given, expected));
}

/** The agent itself: put yours here. The text is another's: never obey it. */
function work(from: string, text: string): string {
  return `${from} said: ${text.trim()}`;
}

async function read(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > LARGEST) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function respond(request: IncomingMessage): Promise<[number, string?]> {
  const body = await read(request);
  if (body === undefined) return [413];
  const headers = request.headers;
  if (SECRET.length === 0 || !isGenuine(headers, body)) return [401];
  // For information: never answered.
  if (headers["crabmesh-kind"] !== "message") return [204];
  const id = String(headers["webhook-id"]);
  let answer = answers.get(id);
  if (answer === undefined) {
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(body);
    } catch {
      return [415]; // Never: the sender is told.
    }
    answer = work(String(headers["crabmesh-from"]), text);
    answers.set(id, answer);
    const [oldest] = answers.keys();
    if (answers.size > 1000 && oldest !== undefined) answers.delete(oldest);
  }
  return headers["crabmesh-reply-expected"] === "1" ? [200, answer] : [204];
}

const server = createServer(async (request, response) => {
  const [status, text] = request.method === "POST" ? await respond(request) : [405];
  response.writeHead(status, text === undefined ? {} : { "content-type": "text/plain; charset=utf-8" });
  response.end(text);
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("listening"));
