// Server-sent events (WHATWG HTML, 9.2), from chunks as they come.

/** Takes bytes, gives events `{event, id, data}`; bounded, so that no line can fill the memory. */
export class EventReader {
  #decoder = new TextDecoder();
  #rest = "";
  #fields = { event: "message", data: [] };

  /** The events that these bytes complete. */
  push(chunk) {
    this.#rest += this.#decoder.decode(chunk, { stream: true });
    const events = [];
    for (;;) {
      const end = this.#rest.search(/\r\n|\n|\r(?=[^\n])/);
      if (end < 0) break;
      const line = this.#rest.slice(0, end);
      this.#rest = this.#rest.slice(end + (this.#rest.startsWith("\r\n", end) ? 2 : 1));
      const event = this.#take(line);
      if (event) events.push(event);
    }
    if (this.#rest.length > LINE_MAX) throw new Error("a line of the stream is too long");
    return events;
  }

  #take(line) {
    if (line === "") {
      const { event, id, data } = this.#fields;
      this.#fields = { event: "message", data: [] };
      return data.length ? { event, id, data: data.join("\n") } : undefined;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#fields.data.push(value);
    else if (name === "event" || name === "id") this.#fields[name] = value;
    return undefined;
  }
}

/** The largest body, escaped, and what surrounds it. */
const LINE_MAX = 6 * (256 << 10) + (64 << 10);
