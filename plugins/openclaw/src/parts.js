// The answer as it grows, for a sender that wants to see it: what OpenClaw shows of it becomes parts
// on the mesh. It is a view; the answer itself is the reply.

/** Publishes the partial texts of one turn, one call after the other. */
export class Parts {
  #publish;
  #shown = "";
  #wanted = "";
  #seq = 0;
  #work;
  #over = false;

  /** `publish([{seq, text}])` gives `{cancelled}`. */
  constructor(publish, { cancelled = () => {} } = {}) {
    this.#publish = publish;
    this.cancelled = cancelled;
  }

  /** The text as it is by now. What is taken back cannot be unsaid: from then on only the reply counts. */
  take({ text }) {
    if (this.#over || typeof text !== "string") return;
    if (!text.startsWith(this.#wanted)) {
      this.#over = true;
      return;
    }
    this.#wanted = text;
    this.#work ??= this.#flush();
  }

  /** Resolves when what was taken is published. */
  async done() {
    await this.#work;
  }

  async #flush() {
    // What comes while a call runs goes with the next one.
    while (this.#shown.length < this.#wanted.length) {
      const text = this.#wanted.slice(this.#shown.length);
      this.#shown = this.#wanted;
      this.#seq += 1;
      try {
        const { cancelled } = await this.#publish([{ seq: this.#seq, text }]);
        if (cancelled) this.cancelled();
      } catch {
        // The reply tells it all.
        this.#over = true;
        break;
      }
    }
    this.#work = undefined;
  }
}
