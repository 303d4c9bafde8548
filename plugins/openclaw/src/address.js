// Who is written to and from: `agent@gateway`, and with a thread of talk `agent@gateway#conversation`.

const AGENT = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const GATEWAY = /^[a-z0-9][a-z0-9-]{0,62}$/;
const CONVERSATION = /^[A-Za-z0-9._:-]{1,64}$/;

/** The parts of an address, or undefined where it is none. */
export function parseAddress(text) {
  const bare = String(text ?? "").trim().replace(/^mesh:/i, "");
  const [who, conversation, ...more] = bare.split("#");
  const [agent, gateway, ...rest] = who.toLowerCase().split("@");
  if (more.length || rest.length || gateway === undefined) return undefined;
  if (!AGENT.test(agent) || !GATEWAY.test(gateway)) return undefined;
  if (conversation !== undefined && !CONVERSATION.test(conversation)) return undefined;
  return { address: `${agent}@${gateway}`, agent, gateway, conversation };
}

/** As it is written: what OpenClaw takes for the peer of a session. */
export function peerOf({ address, conversation }) {
  return conversation === undefined ? address : `${address}#${conversation}`;
}

/** The same for any text; undefined where it is no address. */
export function normalizePeer(text) {
  const parsed = parseAddress(text);
  return parsed && peerOf(parsed);
}

/** Whether a sender is on a list of `agent@gateway`, `*@gateway`, `agent@*` and `*`. */
export function allows(list, address) {
  const [agent, gateway] = address.split("@");
  return list.some((entry) => {
    const text = String(entry).trim().replace(/^mesh:/i, "").toLowerCase();
    if (text === "*") return true;
    const [wantedAgent, wantedGateway] = text.split("@");
    return (wantedAgent === "*" || wantedAgent === agent) && (wantedGateway === "*" || wantedGateway === gateway);
  });
}
