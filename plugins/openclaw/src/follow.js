// Keeps one agent's stream of messages open, for as long as the channel runs.

import { EventReader } from "./events.js";

/**
 * Calls `handle(event, data)` for each event of the stream and waits for it, and connects again when
 * the stream ends. `state(error)` hears of each connection (undefined) and each end.
 */
export async function follow({ open, handle, state = () => {}, signal, pace = PACE }) {
  let wait = pace.first;
  while (!signal.aborted) {
    let ended = new Error("the stream ended");
    try {
      const stream = await open(signal);
      wait = pace.first;
      state(undefined);
      await read(stream, handle, signal, pace.silent);
    } catch (error) {
      ended = error;
    }
    if (signal.aborted) return;
    state(ended);
    await pause(wait * (0.5 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, pace.most);
  }
}

async function read(stream, handle, signal, silent) {
  const reader = new EventReader();
  const end = () => stream.destroy();
  signal.addEventListener("abort", end, { once: true });
  let timer;
  const listen = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stream.destroy(new Error("the node fell silent")), silent);
  };
  try {
    listen();
    for await (const chunk of stream) {
      // While others are handled it is we who do not listen.
      clearTimeout(timer);
      for (const { event, data } of reader.push(chunk)) await handle(event, JSON.parse(data));
      listen();
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
    stream.destroy();
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}

/** The node says something every 10 s, if only that it lives. */
const PACE = { first: 200, most: 10_000, silent: 35_000 };
