//! A mesh in memory, with every key at hand: what an honest operator does, and what thieves of its
//! keys can craft.

use std::time::Duration;

use identity::{
    HostPort, IdentityKey, IdentityPublic, Issuer, KeyRole, Ledger, MeshId, NodeId, NodeName,
    NodeRecord, RevocationSet, RoleKey, Root, Terms, Token, Trust, TrustError, TrustLog, UnixTime,
    WireGuardPublic, make_receipt, make_record,
};
use minicbor::{Decoder, Encoder};

/// When each world begins: 2025-06-15.
pub const START: UnixTime = UnixTime(1_750_000_000);
pub const DAY: Duration = Duration::from_secs(86_400);

pub struct World {
    pub root: Root,
    pub issuer: RoleKey,
    pub policy: RoleKey,
    pub revoker: RoleKey,
    pub operator: RoleKey,
    pub log: TrustLog,
    /// The operator's own belief and ledger.
    pub trust: Trust,
    pub ledger: Ledger,
    pub beacon: NodeId,
    pub beacon_key: IdentityKey,
    beacon_certificate: Vec<u8>,
    beacon_trust: Trust,
    members: [Held; 3],
    seed: u8,
}

/// A member with its key.
#[derive(Clone)]
pub struct Held {
    pub node: NodeId,
    pub key: IdentityKey,
    pub certificate: Vec<u8>,
}

impl World {
    pub fn new() -> Self {
        let seeds = [[11; 32], [12; 32], [13; 32], [14; 32]];
        let mesh_name = "home".parse().expect("a name");
        let (root, [issuer, policy, revoker, operator], log) =
            Root::found(&mesh_name, [10; 32], seeds, START);
        let mut trust = Trust::new(log.bytes(), START).expect("its own log");
        let mut ledger = Ledger::default();
        let beacon_key = IdentityKey::generate([15; 32]);
        let beacon_certificate = Issuer::new(&issuer, &trust, &mut ledger)
            .and_then(|mut issuer| {
                let key = beacon_key.public();
                issuer.beacon(name("beacon"), address(443), key, YEAR, START)
            })
            .expect("the first beacon");
        trust
            .accept_certificate(&beacon_certificate, START)
            .expect("its own beacon");
        let mut beacon_trust = Trust::new(log.bytes(), START).expect("the log");
        let beacon = beacon_trust
            .enroll(&beacon_certificate, &beacon_key.public(), START)
            .expect("its own certificate");
        let mut member =
            |name: &str, seed| member_of(name, seed, YEAR, &issuer, &trust, &mut ledger);
        let members = [member("gw-a", 16), member("gw-b", 17), member("gw-c", 18)];
        Self {
            root,
            issuer,
            policy,
            revoker,
            operator,
            log,
            trust,
            ledger,
            beacon,
            beacon_key,
            beacon_certificate,
            beacon_trust,
            members,
            seed: 100,
        }
    }

    pub fn mesh(&self) -> MeshId {
        self.log.mesh()
    }

    /// Gateway A, which has met the beacon and nobody else.
    pub fn gateway_a(&self) -> Trust {
        self.gateway_a_at(START)
    }

    pub fn gateway_a_at(&self, now: UnixTime) -> Trust {
        let mut trust = Trust::new(self.log.bytes(), now).expect("the log");
        let met = trust.accept_certificate(&self.beacon_certificate, now);
        met.expect("the beacon's membership");
        let own = &self.members[0];
        trust
            .enroll(&own.certificate, &own.key.public(), now)
            .expect("its own certificate");
        trust
    }

    /// A gateway that is invited a day later and has seen nothing but its token.
    pub fn fresh_gateway(&mut self) -> Trust {
        let now = START.plus(DAY);
        let key = IdentityKey::generate([200; 32]);
        let terms = self.terms("gw-fresh");
        let token = Issuer::new(&self.issuer, &self.trust, &mut self.ledger)
            .and_then(|mut issuer| issuer.invite_key(&terms, key.public(), now))
            .expect("a new name")
            .token;
        let mut trust = token.open(now).expect("a good token").trust;
        let certificate = token.certify(&self.mesh(), &key).expect("its own token");
        trust
            .enroll(&certificate, &key.public(), now)
            .expect("its own certificate");
        trust
    }

    pub fn member_a(&self) -> Held {
        self.members[0].clone()
    }

    pub fn member_b(&self) -> Held {
        self.members[1].clone()
    }

    pub fn member_c(&self) -> Held {
        self.members[2].clone()
    }

    pub fn short_member(&mut self, life: Duration) -> Held {
        member_of(
            "gw-short",
            19,
            life,
            &self.issuer,
            &self.trust,
            &mut self.ledger,
        )
    }

    pub fn second_beacon(&mut self) -> Held {
        let key = IdentityKey::generate([20; 32]);
        let certificate = Issuer::new(&self.issuer, &self.trust, &mut self.ledger)
            .and_then(|mut issuer| {
                issuer.beacon(name("beacon-2"), address(444), key.public(), YEAR, START)
            })
            .expect("another beacon");
        self.trust
            .accept_certificate(&certificate, START)
            .expect("its own beacon");
        let node = self.node_of(&certificate);
        Held {
            node,
            key,
            certificate,
        }
    }

    pub fn terms(&self, name: &str) -> Terms {
        terms(name, YEAR)
    }

    pub fn token(&mut self, name: &str) -> Token {
        self.seed += 1;
        let terms = self.terms(name);
        Issuer::new(&self.issuer, &self.trust, &mut self.ledger)
            .and_then(|mut issuer| {
                issuer.invite(&terms, &self.beacon, QUARTER, [self.seed; 32], START)
            })
            .expect("a new name")
            .token
    }

    /// What a token's holder makes of it: membership and binding.
    pub fn redeem(&self, token: &Token, seed: [u8; 32]) -> (Vec<u8>, IdentityKey) {
        let identity = IdentityKey::generate(seed);
        let certificate = token
            .certify(&self.mesh(), &identity)
            .expect("a token with its key");
        (certificate, identity)
    }

    /// A receipt that the named beacon signs for that key, honest or not.
    pub fn receipt_for(&self, certificate: &[u8], key: &IdentityKey, at: UnixTime) -> Vec<u8> {
        let node = self.node_of(certificate);
        let receipt = make_receipt(&node, &key.public(), &self.mesh(), &self.beacon_key, at);
        Token::complete(certificate, &receipt, &self.mesh()).expect("well shaped")
    }

    /// The whole enrolment at an honest beacon.
    pub fn join(
        &mut self,
        token: &Token,
        seed: [u8; 32],
        at: UnixTime,
    ) -> Result<(Vec<u8>, IdentityKey), TrustError> {
        let (certificate, identity) = self.redeem(token, seed);
        let joining = self
            .beacon_trust
            .verify_enrolment(&certificate, &self.beacon, at)?;
        assert_eq!(joining.identity, identity.public());
        let whole = self.receipt_for(&certificate, &identity, at);
        let _ = self.beacon_trust.accept_certificate(&whole, at)?;
        Ok((whole, identity))
    }

    /// A second identity for a used token, by its thief and the named beacon together.
    pub fn rival(&self, token: &Token, seed: [u8; 32]) -> Vec<u8> {
        let (certificate, identity) = self.redeem(token, seed);
        self.receipt_for(&certificate, &identity, START)
    }

    pub fn renew(&mut self, node: &NodeId, key: &IdentityKey, at: UnixTime) -> Vec<u8> {
        Issuer::new(&self.issuer, &self.trust, &mut self.ledger)
            .and_then(|mut issuer| issuer.renew(node, key.public(), None, at))
            .expect("an issued node")
    }

    /// An issuer that overlooks a revocation.
    pub fn renew_anyway(&mut self, node: &NodeId, key: &IdentityKey, at: UnixTime) -> Vec<u8> {
        self.renew(node, key, at)
    }

    pub fn push_policy(&mut self, text: &str, at: UnixTime) -> Vec<u8> {
        self.policy_by(&self.policy.clone(), text, at)
    }

    /// The next policy, signed by that key.
    pub fn policy_by(&mut self, key: &RoleKey, text: &str, at: UnixTime) -> Vec<u8> {
        let bytes = key
            .sign_policy(text, self.trust.policy(), &self.mesh(), at)
            .expect("a policy key");
        let _ = self.trust.accept_policy(&bytes, at);
        bytes
    }

    pub fn two_policies_of_one_order(&self) -> (Vec<u8>, Vec<u8>) {
        let sign = |text| self.policy.sign_policy(text, None, &self.mesh(), START);
        (
            sign("{}").expect("a policy key"),
            sign("{\"b\": 1}").expect("a policy key"),
        )
    }

    /// Signed by the policy key in force, which writes another epoch than its own.
    pub fn policy_of_epoch(&self, epoch: u64) -> Vec<u8> {
        let mut payload = Encoder::new(Vec::new());
        payload.map(4).expect("a vector");
        for (key, value) in [(0, epoch), (1, 1), (2, START.0)] {
            payload
                .u64(key)
                .and_then(|e| e.u64(value))
                .expect("a vector");
        }
        payload.u64(3).and_then(|e| e.str("{}")).expect("a vector");
        craft(
            6,
            "policy",
            &payload.into_writer(),
            &self.mesh(),
            self.policy.key(),
        )
    }

    pub fn push_revocations(&mut self, set: RevocationSet, at: UnixTime) -> Vec<u8> {
        let bytes = self
            .revoker
            .sign_revocations(&set, self.trust.revocations(), &self.mesh(), at)
            .expect("a growing set");
        let _ = self.trust.accept_revocations(&bytes, at);
        bytes
    }

    pub fn revoking(nodes: &[NodeId]) -> RevocationSet {
        RevocationSet {
            nodes: nodes.iter().copied().collect(),
            ..RevocationSet::default()
        }
    }

    /// Version 2 of another history of the same epoch, in which nobody was ever revoked.
    pub fn shrunk_revocations(&self) -> Vec<u8> {
        let mut forgetful = Trust::new(self.log.bytes(), START).expect("the log");
        let mut bytes = Vec::new();
        for _ in 0..2 {
            bytes = self
                .revoker
                .sign_revocations(
                    &RevocationSet::default(),
                    forgetful.revocations(),
                    &self.mesh(),
                    START,
                )
                .expect("the revoker");
            let _ = forgetful.accept_revocations(&bytes, START);
        }
        bytes
    }

    /// Root gives a role its next key.
    pub fn replace(&mut self, role: KeyRole, not_before: UnixTime, now: UnixTime) -> Vec<u8> {
        self.seed += 1;
        let (key, log) = self
            .root
            .replace(&self.log, role, [self.seed; 32], not_before, now)
            .expect("its own log");
        match role {
            KeyRole::Issuer => self.issuer = key,
            KeyRole::Policy => self.policy = key,
            KeyRole::Revoker => self.revoker = key,
            KeyRole::Operator => self.operator = key,
        }
        let _ = self.trust.accept_trust_log(log.bytes(), now);
        self.log = log;
        self.log.bytes().to_vec()
    }

    /// A whole and valid mesh of somebody else.
    pub fn other_mesh(&self) -> Other {
        let seeds = [[31; 32], [32; 32], [33; 32], [34; 32]];
        let mesh_name = "home".parse().expect("a name");
        let (_, [_, policy, ..], _) = Root::found(&mesh_name, [30; 32], seeds, START);
        Other { policy }
    }

    /// What a thief of the issuer key signs, on a machine of its own.
    pub fn stolen_member(&mut self, at: UnixTime, seed: u64) -> Vec<u8> {
        let seed = u8::try_from(seed % 50).expect("below 50") + 201;
        let mut ledger = self.ledger.clone();
        let terms = terms("gw-evil", YEAR);
        let key = IdentityKey::generate([seed; 32]);
        let token = Issuer::new(&self.issuer, &self.trust, &mut ledger)
            .and_then(|mut issuer| issuer.invite_key(&terms, key.public(), at))
            .expect("a new name")
            .token;
        token.certify(&self.mesh(), &key).expect("its own key")
    }

    /// A renewal whose floors lie above everything that the mesh has.
    pub fn stolen_renewal(&mut self, whose: &Held, at: UnixTime) -> Vec<u8> {
        let mut ahead = self.trust.clone();
        for _ in 0..9 {
            let next = self
                .policy
                .sign_policy("{}", ahead.policy(), &self.mesh(), at);
            let _ = ahead.accept_policy(&next.expect("a policy key"), at);
        }
        let mut ledger = self.ledger.clone();
        Issuer::new(&self.issuer, &ahead, &mut ledger)
            .and_then(|mut issuer| issuer.renew(&whose.node, whose.key.public(), None, at))
            .expect("an issued node")
    }

    /// A membership that only the issuer may sign, signed by that key.
    pub fn forged_member(&mut self, key: &IdentityKey) -> Vec<u8> {
        let genuine = self.stolen_member(START, 3);
        let membership = parts(&genuine)[0].to_vec();
        let mut decoder = Decoder::new(&membership);
        decoder
            .array()
            .and_then(|_| decoder.skip())
            .and_then(|()| decoder.skip())
            .expect("ours");
        let payload = decoder.bytes().expect("ours");
        join(&[&craft(2, "membership", payload, &self.mesh(), key)])
    }

    /// The log with one more entry that the issuer key signs: every role at epoch 2, one key.
    pub fn log_by_another_root(&self) -> Vec<u8> {
        let key = self.issuer.key();
        let mut payload = Encoder::new(Vec::new());
        let (_, head) = self.log.head();
        payload.map(5).expect("a vector");
        payload.u64(0).and_then(|e| e.u64(1)).expect("a vector");
        payload
            .u64(1)
            .and_then(|e| e.bytes(&head.0))
            .expect("a vector");
        payload
            .u64(4)
            .and_then(|e| e.u64(START.0 + 60))
            .expect("a vector");
        payload
            .u64(5)
            .and_then(|e| e.u64(START.0 + 60))
            .expect("a vector");
        payload.u64(6).and_then(|e| e.array(4)).expect("a vector");
        for _ in 0..4 {
            let role = payload.array(2).and_then(|e| e.u64(2));
            role.and_then(|e| e.bytes(&key.public().0))
                .expect("a vector");
        }
        let entry = craft(
            1,
            "trust-log entry",
            &payload.into_writer(),
            &self.mesh(),
            key,
        );
        let mut entries = parts(self.log.bytes());
        entries.push(&entry);
        join(&entries)
    }

    /// The node that a certificate is of, whole or without its receipt.
    pub fn node_of(&self, certificate: &[u8]) -> NodeId {
        let whole = self
            .trust
            .examine_certificate(certificate)
            .map(|member| member.node);
        let joining = || {
            self.trust
                .verify_enrolment(certificate, &self.beacon, START)
        };
        whole
            .or_else(|_| joining().map(|joining| joining.node))
            .expect("a genuine membership")
    }
}

pub struct Other {
    pub policy: RoleKey,
}

/// The membership of one certificate with the binding of another.
pub fn splice(membership_of: &[u8], binding_of: &[u8]) -> Vec<u8> {
    join(&[parts(membership_of)[0], parts(binding_of)[1]])
}

pub fn record(member: &Held, mesh: &MeshId, sequence: u64, expires_at: UnixTime) -> Vec<u8> {
    record_of(
        member,
        mesh,
        sequence,
        WireGuardPublic([40; 32]),
        expires_at,
    )
}

pub fn record_of(
    member: &Held,
    mesh: &MeshId,
    sequence: u64,
    wireguard: WireGuardPublic,
    expires_at: UnixTime,
) -> Vec<u8> {
    let record = NodeRecord {
        node: member.node,
        wireguard,
        relays: Vec::new(),
        addresses: vec!["192.0.2.1:51820".parse().expect("an address")],
        sequence,
        expires_at,
    };
    make_record(&record, mesh, &member.key, START)
}

/// Signed as if it were later, so that it lives longer than a record may.
pub fn unbounded_record(member: &Held, mesh: &MeshId, expires_at: UnixTime) -> Vec<u8> {
    let record = NodeRecord {
        node: member.node,
        wireguard: WireGuardPublic([40; 32]),
        relays: Vec::new(),
        addresses: Vec::new(),
        sequence: 1,
        expires_at,
    };
    make_record(&record, mesh, &member.key, expires_at)
}

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

pub fn address(port: u16) -> HostPort {
    format!("beacon.example.com:{port}")
        .parse()
        .expect("an address")
}

/// The envelope as its specification says, written a second time: header, payload, signature.
fn craft(kind: u64, context: &str, payload: &[u8], mesh: &MeshId, key: &IdentityKey) -> Vec<u8> {
    let mut header = Encoder::new(Vec::new());
    header
        .map(2)
        .and_then(|e| e.u64(1))
        .and_then(|e| e.i64(-8))
        .expect("a vector");
    header.u64(3).and_then(|e| e.u64(kind)).expect("a vector");
    let header = header.into_writer();
    let context = [b"crabmesh v1 ", context.as_bytes(), b"\0", &mesh.0].concat();
    let mut signed = Encoder::new(Vec::new());
    signed
        .array(4)
        .and_then(|e| e.str("Signature1"))
        .expect("a vector");
    for part in [&header[..], &context, payload] {
        signed.bytes(part).expect("a vector");
    }
    let signature = key.sign(&signed.into_writer());
    let mut whole = Encoder::new(Vec::new());
    whole
        .array(4)
        .and_then(|e| e.bytes(&header))
        .and_then(|e| e.map(0))
        .expect("a vector");
    whole
        .bytes(payload)
        .and_then(|e| e.bytes(&signature))
        .expect("a vector");
    whole.into_writer()
}

fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().expect("ours").expect("definite");
    (0..count).map(|_| decoder.bytes().expect("ours")).collect()
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(parts.len() as u64).expect("a vector");
    parts.iter().for_each(|part| {
        encoder.bytes(part).expect("a vector");
    });
    encoder.into_writer()
}

fn terms(text: &str, valid_for: Duration) -> Terms {
    let tags = vec!["tag:home".parse().expect("a tag")];
    Terms {
        name: name(text),
        user: None,
        tags,
        valid_for,
        replace: false,
    }
}

fn member_of(
    name: &str,
    seed: u8,
    life: Duration,
    issuer: &RoleKey,
    trust: &Trust,
    ledger: &mut Ledger,
) -> Held {
    let key = IdentityKey::generate([seed; 32]);
    let public: IdentityPublic = key.public();
    let invited = Issuer::new(issuer, trust, ledger)
        .and_then(|mut issuer| issuer.invite_key(&terms(name, life), public, START))
        .expect("a new name");
    let certificate = invited
        .token
        .certify(&trust.mesh(), &key)
        .expect("its own key");
    Held {
        node: invited.node,
        key,
        certificate,
    }
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const QUARTER: Duration = Duration::from_secs(15 * 60);
