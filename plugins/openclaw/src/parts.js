// The answer as it grows, for a sender that wants to see it: what OpenClaw shows of it becomes parts
// on the mesh. It is a view; the answer itself is the reply.

/** Publishes the partial texts of one turn, one call after the other. */
export class Parts {
  #publish;
  #closed;
  #pace;
  #parts = [];
  #next = 1;
  #taken = "";
  #shown = 0;
  #work;
  #over = false;

  /** `publish([{seq, text}])` gives `{next, closed}`; `closed()` hears that nobody wants more. */
  constructor(publish, { closed = () => {}, pace = PACE } = {}) {
    this.#publish = publish;
    this.#closed = closed;
    this.#pace = pace;
  }

  /** The text as it is by now. What is taken back cannot be unsaid: from then on only the reply counts. */
  take({ text }) {
    if (this.#over || typeof text !== "string") return;
    if (!text.startsWith(this.#taken)) {
      this.#over = true;
      return;
    }
    this.#taken = text;
    this.#work ??= this.#flush();
  }

  /** Resolves when what was taken is published; a node that is away is not waited for long. */
  async done() {
    await Promise.race([this.#work, pause(this.#pace.last)]);
    this.#over = true;
  }

  async #flush() {
    let tries = 0;
    while (!this.#over) {
      this.#cut();
      if (this.#next > this.#parts.length) break;
      try {
        const { next, closed } = await this.#publish(this.#parts.slice(this.#next - 1));
        this.#next = next ?? this.#parts.length + 1;
        tries = 0;
        if (closed) this.#close();
      } catch (error) {
        const next = error?.answer?.next;
        tries += 1;
        // A gap: what it lacks is sent again. A node that is away comes back. Anything else is final.
        if (error?.error?.code === "gap" && next >= 1 && tries < TRIES) this.#next = next;
        else if (error?.passing && tries < TRIES) await pause(this.#pace.again);
        else this.#over = true;
      }
    }
    this.#work = undefined;
  }

  /** What came since becomes parts: while a call runs, one more is made of it, not many. */
  #cut() {
    while (this.#shown < this.#taken.length) {
      let end = Math.min(this.#shown + PART_MAX, this.#taken.length);
      // No character is cut in two.
      if (end < this.#taken.length && /[\ud800-\udbff]/.test(this.#taken[end - 1])) end -= 1;
      this.#parts.push({ seq: this.#parts.length + 1, text: this.#taken.slice(this.#shown, end).toWellFormed() });
      this.#shown = end;
    }
  }

  #close() {
    this.#over = true;
    this.#closed();
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A minute in all, for a node that is started again. */
const PACE = { again: 300, last: 2000 };
const TRIES = 200;

/** Characters of one part. */
const PART_MAX = 8192;
