import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { credentialsOf, CredentialsError, readCredentials } from "../src/credentials.js";

const home = mkdtempSync(join(tmpdir(), "crabmesh-plugin-"));
after(() => rmSync(home, { recursive: true }));

function file(name, value, mode = 0o600) {
  const path = join(home, name);
  writeFileSync(path, typeof value === "string" ? value : JSON.stringify(value), { mode });
  chmodSync(path, mode);
  return path;
}

const GOOD = { api: "http://127.0.0.1:4242", agents: { main: { name: "planner", token: "cma_secret" } } };

test("each agent has its own name and token", () => {
  const path = file("good.json", GOOD);

  assert.deepEqual(credentialsOf(path, "main"), {
    api: { host: "127.0.0.1", port: 4242 },
    name: "planner",
    token: "cma_secret",
  });
  for (const nobody of ["ops", "toString", "__proto__"]) {
    assert.throws(() => credentialsOf(path, nobody), /is not on the mesh.*crabmesh connect openclaw/);
  }
});

test("a file that others can read is refused, with the way out", () => {
  for (const mode of [0o640, 0o604, 0o660]) {
    assert.throws(() => readCredentials(file("open.json", GOOD, mode)), /can be read by others.*chmod 600/);
  }
});

test("a new token or port is taken over when the file changes", () => {
  const path = file("moving.json", GOOD);
  readCredentials(path);

  file("moving.json", { ...GOOD, api: "http://127.0.0.1:5555/" });

  assert.equal(readCredentials(path).api.port, 5555);
});

test("what is missing or damaged is said, and never quoted", () => {
  assert.throws(() => readCredentials(undefined), /credentials is not set/);
  assert.throws(() => readCredentials(join(home, "none.json")), /cannot be read \(ENOENT\)/);
  for (const broken of ['{"token": "cma_secret" oops', '"text"', "null", { ...GOOD, agents: { main: { name: "x", token: 7 } } }]) {
    assert.throws(
      () => readCredentials(file("broken.json", broken)),
      (error) => error instanceof CredentialsError && !error.message.includes("cma_secret"),
    );
  }
});

test("a token is not sent to another host", () => {
  for (const api of ["http://10.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1.evil:80", "http://user@127.0.0.1:80", "unix:/x", 7]) {
    assert.throws(() => readCredentials(file("far.json", { ...GOOD, api })), /is not http:\/\/127\.0\.0\.1:PORT/);
  }
});
