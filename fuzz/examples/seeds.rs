//! Writes the hand-made seeds into `corpus/`: one valid input of each shape, from which the fuzzer
//! goes on. The same files each time.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use bytes::Bytes;
use fuzz::world::WORLD;
use identity::{Digest, Heads, IdentityPublic, NodeId, Order};
use serde::Serialize;
use wire::link::{BeaconFrame, Caller, ClientFrame, GoneReason, Refusal, RelayDatagram};
use wire::map::{Cursor, Document, MapRequest, MapUpdate, PublishError};
use wire::message::{
    Cause, Envelope, InstanceId, Kind, MessageFrame, MessageId, MessageKey, Nack, Stage,
};
use wire::parts::{Part, PartsFrame, Subscribe};
use wire::peer::{DirectoryEntry, Hello, PeerFrame, Presence};
use wire::probe::{
    Candidate, CandidateKind, Candidates, FULL_PROBE, Fragment, Note, Probe, ProbeAck,
};
use wire::profile::{Profile, Skill};

const NODE: NodeId = NodeId([1; 16]);
const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn main() {
    let world = &*WORLD;
    let mut links: Vec<Vec<u8>> = client_frames().iter().map(body).collect();
    links.extend(beacon_frames().iter().map(body));
    write(
        "stream",
        [links
            .iter()
            .flat_map(|body| framed(body))
            .collect::<Vec<u8>>()],
    );
    write("link_frame", links);
    let updates = updates();
    write(
        "map_frame",
        requests().iter().map(body).chain(updates.iter().map(body)),
    );
    write("peer_frame", peer_frames().iter().map(body));
    write("message_frame", message_frames().iter().map(body));
    write("parts_frame", parts_frames());
    write("relay_datagram", [[&NODE.0[..], b"ciphertext"].concat()]);
    write("probe", probes());
    write("certificate", world.certificates.clone());
    write("trust_log", world.trust_logs.clone());
    write("record", [world.record.clone()]);
    write("policy_bundle", [world.policy.clone()]);
    write(
        "revocations",
        [world.revocations.clone(), world.old_revocations.clone()],
    );
    write("snapshot", [world.trust.snapshot()]);
    write("token", [world.token.clone().into_bytes()]);
    write("request", [world.request.clone().into_bytes()]);
    write("kill_file", [world.kill_file.clone().into_bytes()]);
    write("claim", [world.claim.clone().into_bytes()]);
    write(
        "recovery",
        [world.sealed_root.clone(), world.code.clone().into_bytes()],
    );
    write("policy", POLICIES.map(|text| text.as_bytes().to_vec()));
    write("policy_text", TEXTS.map(|text| text.as_bytes().to_vec()));
    write("api", BODIES.map(|text| text.as_bytes().to_vec()));
    write("tunnel", acts());
    write("names", NAMES.map(|text| text.as_bytes().to_vec()));
}

/// Acts of a hostile member (`fuzz::members`): every control packet, a packet for the router, one
/// for another port, time, noise, and conversations of either side with their errors.
fn acts() -> Vec<Vec<u8>> {
    let act = |kind: u8, part: &[u8]| {
        let length = u16::try_from(part.len()).expect("a short act");
        [&[kind][..], &length.to_le_bytes(), part].concat()
    };
    let packet = |from: Ipv6Addr, to: Ipv6Addr, port: u16| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 17, 64];
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend([port.to_be_bytes(), port.to_be_bytes()].concat());
        packet.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        packet
    };
    let (here, there) = (fuzz::members::GATEWAY_OVERLAY, fuzz::members::PEER_OVERLAY);
    let inner = |from: Ipv6Addr, to: Ipv6Addr, protocol: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).expect("a short packet");
        let head = [0x60, 0, 0, 0, 0, length, protocol, 64];
        [&head[..], &from.octets(), &to.octets(), body].concat()
    };
    // Port 8000 here and 22 there.
    let ask = |flags: u8| [&[0x1f, 0x40, 0, 22][..], &[0; 8], &[0x50, flags], &[0; 6]].concat();
    let tell = |flags: u8| [&[0, 22, 0x1f, 0x40][..], &[0; 8], &[0x50, flags], &[0; 6]].concat();
    let out = |protocol: u8, body: &[u8]| act(6, &inner(here, there, protocol, body));
    let enter = |protocol: u8, body: &[u8]| act(2, &inner(there, here, protocol, body));
    let echo = |kind: u8| [kind, 0, 0, 0, 0, 7, 0, 1];
    let about = |packet: &[u8]| [&[1, 4, 0, 0, 0, 0, 0, 0][..], packet].concat();
    let probes: Vec<Vec<u8>> = probes()
        .iter()
        .map(|packet| act(4, &packet[40..]))
        .collect();
    let router = packet(there, here, 4747);
    let part = |index: u8, part: &[u8]| {
        let head = [1, 5, 0, 0, 1, 0, 0, 0, index, 2, 0, 0];
        act(4, &[&head[..], part].concat())
    };
    vec![
        [
            act(2, &router),
            act(3, &router),
            act(6, &packet(here, there, 4747)),
        ]
        .concat(),
        [
            act(2, &packet(there, here, 5000)),
            act(2, &packet(here, here, 4747)),
        ]
        .concat(),
        [probes.concat(), act(5, &[0, 50, 0]), probes.concat()].concat(),
        [
            part(0, &router[..20]),
            part(1, &router[20..]),
            part(1, b"x"),
            part(0, b"y"),
        ]
        .concat(),
        [
            act(0, &[4, 0, 0, 0, 0, 7, 0, 0]),
            act(1, &[1, 0, 0, 0]),
            act(7, &[9, 1, 1]),
        ]
        .concat(),
        [
            act(5, &[2, 0, 0]),
            act(6, &packet(here, there, 4747)),
            act(5, &[0, 20, 0]),
        ]
        .concat(),
        [
            out(6, &ask(0x02)),
            enter(6, &tell(0x12)),
            out(6, &ask(0x10)),
            act(8, &[0]),
            enter(6, &tell(0x10)),
            enter(58, &about(&inner(here, there, 6, &ask(0x10)))),
            enter(6, &tell(0x11)),
            out(6, &ask(0x11)),
            enter(6, &tell(0x02)),
            enter(6, &tell(0x14)),
        ]
        .concat(),
        [
            out(58, &echo(128)),
            enter(58, &echo(129)),
            enter(58, &echo(128)),
            out(58, &echo(129)),
            enter(44, &[17, 0, 0, 1, 0, 0, 0, 7, 0x13, 0x88, 0x13, 0x88]),
        ]
        .concat(),
        [
            act(2, &packet(there, here, 5000)),
            act(6, &packet(here, there, 5000)),
            enter(58, &about(&packet(here, there, 5000))),
            act(
                2,
                &inner(there, there, 58, &about(&packet(here, there, 5000))),
            ),
            act(8, &[0]),
            act(6, &packet(here, there, 5000)),
            act(2, &packet(there, here, 5000)),
            act(5, &[5, 0, 0]),
            act(6, &packet(here, there, 5000)),
            act(2, &packet(there, here, 5000)),
            act(8, &[1]),
        ]
        .concat(),
        [
            act(6, &packet(here, there, 4747)),
            act(2, &router),
            act(8, &[0]),
            act(2, &router),
        ]
        .concat(),
    ]
}

fn write(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&folder).expect("a writable corpus");
    for (number, bytes) in seeds.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:02}")), bytes).expect("a writable corpus");
    }
}

fn body(frame: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::frame::encode(frame, &mut bytes).expect("a short frame");
    bytes.split_off(wire::frame::LENGTH_BYTES)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short frame");
    [&length.to_le_bytes()[..], body].concat()
}

fn client_frames() -> Vec<ClientFrame> {
    let (certificate, record) = (Bytes::from(vec![1; 40]), Bytes::from(vec![2; 20]));
    let callers = [
        Caller::Member {
            certificate: certificate.clone(),
            record: record.clone(),
        },
        Caller::Operator {
            key: IdentityPublic([3; 32]),
        },
        Caller::Joiner {
            certificate: certificate.clone(),
        },
        Caller::Claimant {
            key: IdentityPublic([3; 32]),
            mac: [4; 32],
        },
    ];
    let proof = Bytes::from(vec![5; 64]);
    let hello = |caller| ClientFrame::Hello {
        nonce: [6; 32],
        key: IdentityPublic([8; 32]),
        caller,
        proof: proof.clone(),
    };
    let mut frames: Vec<_> = callers.map(hello).into();
    frames.extend([
        ClientFrame::Introduce {
            to: NODE,
            certificate,
            record,
        },
        ClientFrame::Relay(RelayDatagram {
            peer: NODE,
            payload: proof.clone(),
        }),
        ClientFrame::Map(MapRequest::Watch {
            cursor: None,
            heads: Heads::default(),
        }),
        ClientFrame::Ping(7),
    ]);
    frames
}

fn beacon_frames() -> Vec<BeaconFrame> {
    let observed: SocketAddr = "192.0.2.1:4747".parse().expect("an address");
    let six: SocketAddr = "[2001:db8::1]:4747".parse().expect("an address");
    let proof = Bytes::from(vec![5; 64]);
    vec![
        BeaconFrame::Challenge {
            nonce: [1; 32],
            key: IdentityPublic([2; 32]),
        },
        BeaconFrame::Welcome {
            proof: proof.clone(),
            observed,
            restricted: Some(Refusal::Expired),
        },
        BeaconFrame::Refused(Refusal::Revoked),
        BeaconFrame::Observed(six),
        BeaconFrame::Introduced {
            from: NODE,
            certificate: proof.clone(),
            record: proof.clone(),
        },
        BeaconFrame::Relay(RelayDatagram {
            peer: NODE,
            payload: proof,
        }),
        BeaconFrame::Gone {
            node: NODE,
            reason: GoneReason::Dropped { count: 9 },
        },
        BeaconFrame::Drain {
            reconnect_in_ms: 1000,
        },
        BeaconFrame::Map(MapUpdate::Removed { node: NODE }),
        BeaconFrame::Pong(7),
    ]
}

fn heads() -> Heads {
    let order = Order {
        epoch: 1,
        version: 300,
    };
    let head = Some((order, Digest([4; 32])));
    Heads {
        trust_log: Some((2, Digest([5; 32]))),
        policy: head,
        revocations: head,
    }
}

fn documents() -> [Document; 5] {
    let bytes = |n: u8| Bytes::from(vec![n; 10]);
    [
        Document::TrustLog(bytes(1)),
        Document::Policy(bytes(2)),
        Document::Revocations(bytes(3)),
        Document::Certificate(bytes(4)),
        Document::Record(bytes(5)),
    ]
}

fn requests() -> Vec<MapRequest> {
    let cursor = Some(Cursor {
        epoch: u64::MAX,
        sequence: 1,
    });
    let mut requests = vec![
        MapRequest::Watch {
            cursor,
            heads: heads(),
        },
        MapRequest::Enroll {
            request: 1,
            certificate: Bytes::from(vec![1; 10]),
        },
    ];
    requests.extend(documents().map(|document| MapRequest::Publish {
        request: 2,
        document,
    }));
    requests
}

fn updates() -> Vec<MapUpdate> {
    let cursor = Cursor {
        epoch: 1,
        sequence: 2,
    };
    let refused = Err(PublishError::Refused(Refusal::Forbidden));
    let mut updates = vec![
        MapUpdate::Presence {
            node: NODE,
            online: true,
            last_seen: 1_750_000_000,
        },
        MapUpdate::Removed { node: NODE },
        MapUpdate::CaughtUp {
            cursor,
            complete: true,
            heads: heads(),
        },
        MapUpdate::Receipt {
            request: 1,
            receipt: Bytes::from(vec![1; 64]),
        },
        MapUpdate::Answer {
            request: 2,
            result: Ok(()),
        },
        MapUpdate::Answer {
            request: 3,
            result: refused,
        },
    ];
    updates.extend(documents().map(MapUpdate::Document));
    updates
}

fn peer_frames() -> Vec<PeerFrame> {
    let name = |text: &str| text.parse().expect("an agent");
    let [document, ..] = documents();
    let skill = |id: &str, name: Option<&str>, description: Option<&str>| Skill {
        id: id.into(),
        name: name.map(Into::into),
        description: description.map(Into::into),
    };
    let skills = vec![
        skill(
            "code.review:v1",
            Some("Review"),
            Some("Reads a patch, grüße 🦀."),
        ),
        skill("test", None, None),
    ];
    let coder = DirectoryEntry {
        name: name("coder"),
        idle_s: Some(3),
        presence: Presence::Online,
        streams: true,
        profile: Profile::new(Some("Writes Rust."), skills).expect("within its bounds"),
    };
    let planner = DirectoryEntry {
        name: name("planner"),
        idle_s: None,
        presence: Presence::Away,
        streams: false,
        profile: Profile::default(),
    };
    vec![
        PeerFrame::Hello(Hello {
            heads: heads(),
            boot: 3,
            challenge: [7; 16],
        }),
        PeerFrame::Heads(heads()),
        PeerFrame::Pull(Heads::default()),
        PeerFrame::Document(document),
        PeerFrame::Directory(vec![coder.clone(), planner]),
        PeerFrame::Ping {
            token: 1,
            agents: Some((name("planner"), name("coder"))),
        },
        PeerFrame::Pong {
            token: 1,
            reachable: true,
        },
        PeerFrame::News {
            changed: vec![coder],
            gone: vec![name("planner")],
        },
        PeerFrame::Directory(Vec::new()),
    ]
}

/// What the asking gateway says, and each thing that the answering one does.
fn parts_frames() -> Vec<Vec<u8>> {
    let key = MessageKey {
        instance: InstanceId([3; 16]),
        id: MessageId::new(1_750_000_000_000, [4; 10]),
    };
    let subscribe = Subscribe {
        key,
        attempt: 1,
        after: 17,
    };
    let part = Part {
        seq: 18,
        kind: Some("thought".into()),
        content: Bytes::from_static(b"token"),
    };
    let frames = [
        PartsFrame::Attempt(2),
        PartsFrame::Part(part),
        PartsFrame::Lost { next: 20 },
        PartsFrame::End { last: 21 },
    ];
    std::iter::once(body(&subscribe))
        .chain(frames.iter().map(body))
        .collect()
}

fn message_frames() -> Vec<MessageFrame> {
    let id = MessageId::new(1_750_000_000_000, [9; 10]);
    let instance = InstanceId([3; 16]);
    let key = MessageKey { instance, id };
    // What led to it, and its thread of talk: nothing and none, and each at its bound.
    let led = Cause {
        root: MessageId::new(1_749_999_000_000, [8; 10]),
        depth: 16,
        bounces: 12,
    };
    let long: Box<str> = "a.B_9:-".repeat(9).into();
    let kinds = [
        (Kind::Message, Cause::none(id), None),
        (Kind::Request, led, Some("c-1".into())),
        (Kind::Reply { in_reply_to: id }, led.next(true), Some(long)),
        (Kind::Stream, led.next(false), None),
    ];
    let offer = |(kind, cause, conversation)| MessageFrame::Offer {
        after: 1,
        envelope: Envelope {
            id,
            kind,
            from: "planner".parse().expect("an agent"),
            to: "coder".parse().expect("an agent"),
            instance,
            epoch: 5,
            sequence: 2,
            created_at_ms: 1_750_000_000_000,
            ttl_ms: 86_400_000,
            hops_left: 1,
            cause,
            conversation,
            content_type: "text/plain".into(),
            body: Bytes::from_static(b"hello"),
        },
    };
    let mut frames: Vec<_> = kinds.map(offer).into();
    frames.extend([
        MessageFrame::Stored { key },
        MessageFrame::Cancel { key },
        MessageFrame::Looped { key },
    ]);
    let nacks = [
        Nack::Denied,
        Nack::Throttled {
            retry_after_ms: 500,
        },
        Nack::Rejected,
        Nack::Cancelled,
    ];
    frames.extend(nacks.map(|nack| MessageFrame::Refused { key, nack }));
    let stages = [Stage::Delivered, Stage::Done, Stage::Failed];
    frames.extend(stages.map(|stage| MessageFrame::Progress { key, stage }));
    frames
}

fn probes() -> Vec<Vec<u8>> {
    let mut packets = vec![Vec::new(); 5];
    let probe = Probe {
        pair: 7,
        sequence: 9,
        sent_us: 1 << 40,
        primary: true,
    };
    probe.encode(HERE, THERE, FULL_PROBE, &mut packets[0]);
    let observed = "192.0.2.1:4747".parse().ok();
    let ack = ProbeAck {
        pair: 7,
        sequence: 9,
        sent_us: 1 << 40,
        received: 1248,
        observed,
    };
    ack.encode(HERE, THERE, &mut packets[1]);
    let addr = "[2001:db8::1]:2".parse().expect("an address");
    let told = [Candidate {
        addr,
        kind: CandidateKind::Observed,
    }];
    Candidates::encode(3, &told, HERE, THERE, &mut packets[2]);
    Note::PleaseInit.encode(HERE, THERE, &mut packets[3]);
    Fragment {
        id: 1,
        index: 1,
        count: 2,
        part: b"part",
    }
    .encode(HERE, THERE, &mut packets[4]);
    packets
}

const POLICIES: [&str; 8] = [
    include_str!("../../configs/policies/two-homes-and-a-cloud.hujson"),
    include_str!("../../configs/policies/team-of-agents.hujson"),
    r#"{"hosts": {"nas": "10.0.0.1", "lab": "fd00::/64"}, "acls": [{"action": "accept", "proto": "tcp", "src": ["*"], "dst": ["nas:80,443", "[fd00::1]:22", "lab:*"]}], "tests": [{"src": "*", "proto": "icmp", "deny": ["nas:*"]}]}"#,
    r#"// every refusal
    {"groups": {"group:a": ["group:b"]}, "guards": [{"id": "g"}], "blocks": [{"until": 1}], "postures": {"posture:x": []}, "ssh": [], "grnats": [], "grants": [{"id": "x", "src": ["agent:a@tag:b"], "dst": ["internet:x:1", "autogroup:self", "0.0.0.0/0", "10.0.0.1/8"], "ip": ["icmp", "0", "47:*"], "msg": ["call:x", "sned"], "via": ["tag:a"]}]}"#,
    r#"{"groups": {"group:a": ["ana@example.com"]}, "hosts": {"nas": "10.0.0.1"}, "ipsets": {"ipset:s": ["add host:nas", "add 10.0.0.0/8", "remove 10.9.0.0/16"]},
    "tagOwners": {"tag:a": ["group:a"], "tag:b": ["tag:a"]}, "postures": {"posture:p": ["node:age < 90", "node:os IN ['linux', 'macos']", "node:v >= '1.10.2'", "x:y IS SET"]},
    "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:a", "group:a"]}, "exitNode": ["autogroup:member"]},
    "grants": [
      {"src": ["group:a", "user:*@example.com"], "dst": ["ipset:s"], "ip": ["tcp:80-443", "icmp:*"], "via": ["tag:a"], "srcPosture": ["posture:p"]},
      {"src": ["autogroup:member"], "dst": ["autogroup:self"], "app": {"example.com/cap/x": [{"a": [1, null, true]}], "tailscale.com/cap/drive": []}},
      {"id": "hours", "src": ["agent:coder@*"], "dst": ["agent:*@gw-b"], "msg": ["send", "call:x/y", "admin:*"], "valid": {"notBefore": "2026-01-01T00:00:00Z", "notAfter": "2027-01-01T00:00:00+01:00", "windows": [{"days": "mon-fri,sun", "hours": "22:00-06:00", "tz": "America/New_York"}]}},
      {"src": ["tag:b"], "dst": ["topic:a/*/**"], "msg": ["publish", "subscribe"]},
      {"src": ["*"], "dst": ["internet:*.example.com:443", "svc:db"]},
      {"src": ["autogroup:danger-all"], "dst": ["*"], "ip": ["8080"], "http": [{"methods": ["GET"], "paths": ["/", "/a/*/**"]}], "credential": "secret:x"}
    ]}"#,
    r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send", "request"], "ip": ["*"]}],
    "guards": [
      {"id": "g", "src": ["agent:*@*"], "dst": ["agent:*@*"], "msg": ["send"], "rate": {"limit": "120/m", "burst": 20, "per": "src,dst,user"}, "maxBytes": "256KiB"},
      {"src": ["*"], "dst": ["internet:*", "*"], "deny": {"windows": [{"days": "sat-sun"}]}},
      {"src": ["tag:none"], "dst": ["*"], "approve": {"mode": "first-contact", "by": ["autogroup:member"], "ttl": "30d"}},
      {"src": ["gw-a"], "dst": ["gw-b"], "spend": {"cap": "$20.50/day", "per": "src", "alertAt": [0.8, 1.0], "onExceed": "reject"}}
    ],
    "blocks": [{"id": "b", "match": ["agent:coder@gw-a", "ana@example.com"], "reason": "INC-42", "until": "2036-11-28T00:00:00Z"}]}"#,
    r#"{"tagOwners": {"tag:a": []}, "grants": [{"id": "c", "src": ["agent:coder@tag:a"], "dst": ["agent:*@tag:a"], "msg": ["request"]}], "tests": [
      {"src": "agent:coder@tag:a", "accept": ["agent:x@tag:a:request"], "deny": ["agent:x@tag:a:call:t", "topic:a/b:publish", "internet:example.net:443", "svc:db", {"http": "GET /a", "dst": "tag:a:80"}], "why": "no-grant"},
      {"src": "ana@example.com", "proto": "udp", "at": "2026-11-23T09:00:00+01:00", "strict": true, "srcPostureAttrs": {"node:age": 10, "a:b": "x", "c:d": false}, "deny": ["tag:a:53", "[fd00::1]:22"]}]}"#,
    "{}",
];

/// Comments where they may be, what only Tailscale knows, and what it does not know.
const TEXTS: [&str; 4] = [
    "\u{feff}// a\r\n{/*b*/\"a\"/*c*/:// d\n[1e0,/*e*/\"\\\"//\",/*f\n*/[],\r[/*g*/]// h\n,],\n\n\n// i\n\"b\": {\"c\": null /*j*/, // k\n}, /*l*/} // m\n/*n*/",
    r#"{"ssh": [], /* logins */ "acls": [{"action": "accept", "users": ["*"], "ports": ["nas:22", "gw-a:80,443"]}], "hosts": {"nas": "10.0.0.1"}, "autoApprovers": {"services": {}, "exitNode": ["autogroup:admin"]}, "derpMap": {}}"#,
    r#"{"grants": [
      {"id": "a", "src": ["agent:x@*", "gw-a"], "dst": ["topic:a/**", "agent:y@autogroup:member"], "msg": ["publish"], "valid": {"windows": [{"days": "mon"}]}}, // one
      {"src": ["*"], "dst": ["internet:x.org:443", "svc:db", "*"], "ip": ["443"], "http": [{"methods": ["GET"]}], "credential": "secret:x"},
    ], "guards": [{"id": "g", "src": ["gw-b"], "dst": ["internet:*"], "deny": {"windows": [{"days": "sun"}]}}],
    "blocks": [{"match": ["agent:x@gw-b", "gw-c"], "until": "2040-01-01T00:00:00Z"}],
    "tests": [{"src": "a@x.org", "accept": ["b@x.org:22"], "deny": [{"http": "GET /", "dst": "*:80"}], "at": "2026-11-23T09:00:00Z"}]}"#,
    "{}",
];

const BODIES: [&str; 7] = [
    r#"{"to": "coder@gw-b", "body": "hello", "ttl_s": 86400, "reply_expected": true}"#,
    r#"{"to": "coder@gw-b", "body_base64": "aGVsbG8=", "timeout_ms": 1000, "content_type": "text/plain"}"#,
    r#"{"ids": ["01977420-dc00-7909-8909-090909090909"]}"#,
    r#"{"target": "coder@gw-b", "timeout_ms": 500}"#,
    r#"{"name": "planner"}"#,
    r#"{"file": "cmk1aaaa"}"#,
    r#"{"body": "hello", "unknown": [1, 2.5, null, true]}"#,
];

const NAMES: [&str; 9] = [
    "coder",
    "coder@gw-b",
    "tag:home",
    "Ana@Example.com",
    "beacon.example.com:443",
    "[2001:db8::1]:443",
    "192.0.2.1:4747",
    "01010101010101010101010101010101",
    "01977420-dc00-7909-8909-090909090909",
];
