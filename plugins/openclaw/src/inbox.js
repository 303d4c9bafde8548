// What the node has shown to one agent and what becomes of it: one turn at a time for each sender and
// thread of talk, an answer or an ack when the turn is over, or the message given back.
//
// Nothing here is needed after a restart: the node keeps what is not settled, and shows it again. As
// long as this process lives it knows what it runs and what it has answered, so that a message which
// is shown again meanwhile, as the node was restarted, is neither run nor answered twice.

import { Busy } from "./busy.js";
import { newId } from "./id.js";
import { oneLine } from "./text.js";

/** The inbox of one agent. */
export class Inbox {
  #node;
  #take;
  #log;
  #pace;
  #entries = new Map();
  #lanes = new Map();
  #done = new Map();
  #doneBytes = 0;
  #waiting = [];

  /**
   * `take(message, {signal, round, answered})` runs the turn and gives `{answer}`, `{}` or `{reject}`;
   * what it throws gives the message back, unless it is `Busy`: then it is run once more, a little
   * later. An answer that it tells to `answered` counts from then on, whatever becomes of the turn.
   */
  constructor({ node, take, log = () => {}, pace = PACE }) {
    this.#node = node;
    this.#take = take;
    this.#log = log;
    this.#pace = pace;
  }

  /** The same inbox behind another start of the channel. */
  adopt({ node, take, log }) {
    this.#node = node;
    this.#take = take;
    this.#log = log ?? this.#log;
  }

  /** A message, shown by the node. `urgent`: something in this process waits for it. */
  show(message, { lane, urgent = false }) {
    const { id } = message;
    if (this.#entries.has(id)) return;
    const entry = { message, controller: new AbortController(), settled: this.#done.get(id) };
    this.#entries.set(id, entry);
    const before = urgent ? undefined : this.#lanes.get(lane);
    const work = Promise.resolve(before).then(() => this.#work(entry));
    if (!urgent) {
      this.#lanes.set(lane, work);
      void work.then(() => this.#lanes.get(lane) === work && this.#lanes.delete(lane));
    }
  }

  /** Its sender has taken it back. */
  cancel(id) {
    const entry = this.#entries.get(id);
    if (!entry) return;
    entry.cancelled = true;
    entry.controller.abort();
  }

  /** Resolves when there is room for more. */
  async room() {
    while (this.#entries.size >= HELD_MAX) await new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** How many messages are in hand. */
  get size() {
    return this.#entries.size;
  }

  async #work(entry) {
    const { id } = entry.message;
    if (entry.message.reply_expected && !entry.settled) entry.prepared = this.#prepare(id);
    const beat = setInterval(() => void this.#heartbeat(entry), this.#pace.heartbeat);
    beat.unref?.();
    try {
      if (!entry.settled) {
        const settled = await this.#turn(entry);
        entry.settled ??= settled;
      }
      if (entry.settled) await (entry.told ?? this.#tell(entry));
    } catch (error) {
      this.#log("error", `message ${id} is stuck: ${reasonOf(error)}`);
    } finally {
      clearInterval(beat);
      entry.prepared?.drop();
      this.#forget(entry);
      this.#waiting.splice(0).forEach((go) => go());
    }
  }

  #tell(entry) {
    const { id } = entry.message;
    this.#remember(id, entry.settled);
    return this.#settle(id, entry.settled, entry.prepared);
  }

  /** Only to be sooner: without a node now, there may be one when the answer is there. */
  #prepare(id) {
    try {
      return this.#node.prepareReply(id);
    } catch {
      return undefined;
    }
  }

  #answerEarly(entry, answer) {
    if (entry.cancelled || entry.settled) return;
    entry.settled = { answer, replyId: newId() };
    entry.told = this.#tell(entry);
  }

  #forget(entry) {
    const { id } = entry.message;
    if (this.#entries.get(id) === entry) this.#entries.delete(id);
  }

  /** How it is to be settled; undefined where it was given back, or taken back by its sender. */
  async #turn(entry) {
    const { message, controller } = entry;
    if (entry.cancelled) return undefined;
    try {
      const { answer, reject } = await this.#whenFree(entry, controller.signal);
      if (entry.cancelled) return undefined;
      if (reject !== undefined) return { reject };
      return answer === undefined ? {} : { answer, replyId: newId() };
    } catch (error) {
      if (entry.cancelled || entry.settled) return undefined;
      this.#log("warn", `the turn of message ${message.id} did not happen, it is given back: ${reasonOf(error)}`);
      await pause(this.#pace.first * 2 ** Math.min(message.attempt ?? 1, 4));
      // Forgotten first: it comes again at once, as another message to run.
      this.#forget(entry);
      await this.#node.release(message.id).catch(() => {});
      return undefined;
    }
  }

  /** The turn, as soon as nobody else's runs in its session. The node goes on holding the message. */
  async #whenFree(entry, signal) {
    const answered = (answer) => this.#answerEarly(entry, answer);
    for (let round = 1, wait = this.#pace.first; ; round += 1, wait = Math.min(wait * 2, this.#pace.most)) {
      try {
        return await this.#take(entry.message, { signal, round, answered });
      } catch (error) {
        if (!(error instanceof Busy) || entry.cancelled || entry.settled) throw error;
      }
      await pause(wait);
      if (entry.cancelled) return {};
    }
  }

  /** Until the node has taken it; one that is away holds the message, and shows it again. */
  async #settle(id, { answer, replyId, reject }, prepared) {
    let sent = answer === undefined ? undefined : prepared?.send({ body: answer, id: replyId });
    for (let wait = this.#pace.first; ; wait = Math.min(wait * 2, this.#pace.most)) {
      try {
        if (reject !== undefined) await this.#node.reject(id, reject);
        else if (answer === undefined) await this.#node.ack(id);
        else await (sent ?? this.#node.reply(id, { body: answer, id: replyId }));
        return;
      } catch (error) {
        sent = undefined;
        if (!error?.passing) {
          // It expired, was taken back or is settled already: there is nobody left to tell.
          this.#log("warn", `message ${id} is not settled: ${error?.error?.code ?? error?.message}`);
          return;
        }
      }
      await pause(wait);
    }
  }

  async #heartbeat(entry) {
    try {
      await this.#node.heartbeat(entry.message.id);
    } catch (error) {
      if (error?.error?.code === "cancelled") this.cancel(entry.message.id);
    }
  }

  #remember(id, settled) {
    if (this.#done.has(id)) return;
    this.#done.set(id, settled);
    this.#doneBytes += settled.answer?.length ?? 0;
    for (const [oldest, { answer }] of this.#done) {
      if (this.#done.size <= DONE_MAX && this.#doneBytes <= DONE_BYTES) break;
      this.#done.delete(oldest);
      this.#doneBytes -= answer?.length ?? 0;
    }
  }
}

function reasonOf(error) {
  return oneLine(error?.error?.code ?? error?.message ?? error, 300);
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The first pause doubles up to the most; beats keep a message hidden for its 30 s. */
const PACE = { first: 500, most: 5000, heartbeat: 10_000 };

/** Four times what a node reads ahead. */
const HELD_MAX = 256;

/** Answers that are still known, should the node forget that it had them. */
const DONE_MAX = 1000;
const DONE_BYTES = 16 << 20;
