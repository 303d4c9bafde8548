/** The session is taken by another turn: the message waits, and nothing has happened to it. */
export class Busy extends Error {}
