//! A mesh in memory, the same in each run: what its honest parties signed, for seeds, and to know
//! what may be believed.

use std::sync::LazyLock;
use std::time::Duration;

use identity::{
    Block, Claim, Exception, IdentityKey, Issuer, KillFile, Ledger, NodeRecord, RecoveryCode,
    Request, RevocationSet, Root, Terms, Trust, UnixTime, WireGuardPublic, make_record,
};

/// When everything here happens.
pub const NOW: UnixTime = UnixTime(1_750_000_000);

/// The code that the sealed root opens with.
pub const CODE: [u8; 16] = [7; 16];

/// What one mesh has signed.
pub struct World {
    /// The belief of a gateway that knows its mesh, its beacon and itself.
    pub trust: Trust,
    /// The trust log, and one that goes on from it.
    pub trust_logs: [Vec<u8>; 2],
    /// A beacon's and two gateways' certificates; the last is not known to `trust`.
    pub certificates: [Vec<u8>; 3],
    /// A record of the gateway that is known.
    pub record: Vec<u8>,
    /// A policy bundle.
    pub policy: Vec<u8>,
    /// A revocation set.
    pub revocations: Vec<u8>,
    /// The same without a kill of everyone, as it was signed before there was one.
    pub old_revocations: Vec<u8>,
    /// A token with its key, as text.
    pub token: String,
    /// A request, as text.
    pub request: String,
    /// A kill file with the revocations above.
    pub kill_file: String,
    /// A claim, as text.
    pub claim: String,
    /// The root key, sealed.
    pub sealed_root: Vec<u8>,
    /// The recovery code, as text.
    pub code: String,
}

/// The mesh.
pub static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    fn new() -> Self {
        let year = Duration::from_secs(365 * 86_400);
        let name = "fuzz".parse().expect("a name");
        let seeds = [[2; 32], [3; 32], [4; 32], [5; 32]];
        let (root, [issuer, policy, revoker, _], log) = Root::found(&name, [1; 32], seeds, NOW);
        let mesh = log.mesh();
        let mut trust = Trust::new(log.bytes(), NOW).expect("its own log");
        let mut ledger = Ledger::default();
        let keys = [6, 7, 8].map(|seed| IdentityKey::generate([seed; 32]));

        let beacon = Issuer::new(&issuer, &trust, &mut ledger)
            .and_then(|mut issuer| {
                let address = "beacon.example.com:443".parse().expect("an address");
                let name = "beacon".parse().expect("a name");
                issuer.beacon(name, address, keys[0].public(), year, NOW)
            })
            .expect("a first beacon");
        let _ = trust
            .accept_certificate(&beacon, NOW)
            .expect("its own beacon");
        let mut gateway = |name: &str, key: &IdentityKey, trust: &Trust| {
            let terms = Terms {
                name: name.parse().expect("a name"),
                user: None,
                tags: vec!["tag:home".parse().expect("a tag")],
                valid_for: year,
                replace: false,
            };
            let invited = Issuer::new(&issuer, trust, &mut ledger)
                .and_then(|mut issuer| issuer.invite_key(&terms, key.public(), NOW))
                .expect("a new name");
            invited.token.certify(&mesh, key).expect("its own token")
        };
        let known = gateway("gw-a", &keys[1], &trust);
        let unknown = gateway("gw-b", &keys[2], &trust);
        let beacon_id = trust.members().next().expect("the beacon").node;
        let terms = Terms {
            name: "gw-c".parse().expect("a name"),
            user: Some("ana@example.com".parse().expect("a user")),
            tags: Vec::new(),
            valid_for: year,
            replace: false,
        };
        let quarter = Duration::from_secs(900);
        let token = Issuer::new(&issuer, &trust, &mut ledger)
            .and_then(|mut issuer| issuer.invite(&terms, &beacon_id, quarter, [9; 32], NOW))
            .expect("a new name")
            .token;
        let node = trust
            .enroll(&known, &keys[1].public(), NOW)
            .expect("its own certificate");
        let record = make_record(
            &NodeRecord {
                node,
                wireguard: WireGuardPublic([3; 32]),
                relays: vec![beacon_id],
                addresses: vec!["192.0.2.1:4747".parse().expect("an address")],
                sequence: 1,
                expires_at: NOW.plus(Duration::from_secs(86_400)),
            },
            &mesh,
            &keys[1],
            NOW,
        );
        let text = r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send"]}]}"#;
        let everyone = Block::Everyone {
            except: [Exception::Node(node)].into(),
        };
        let set = RevocationSet {
            nodes: [node].into(),
            minimum: [(node, (1, 2))].into(),
            blocks: ["tag:lost".parse().expect("a block")].into(),
        };
        let old_revocations = revoker
            .sign_revocations(&set, None, &mesh, NOW)
            .expect("a revoker");
        let mut set = set;
        set.blocks.insert(everyone);
        let role = identity::KeyRole::Policy;
        let (_, replaced) = root
            .replace(&log, role, [12; 32], NOW, NOW)
            .expect("its own root");
        let revocations = revoker
            .sign_revocations(&set, None, &mesh, NOW)
            .expect("a revoker");
        let kill_file = KillFile::from_parts(log.bytes(), &revocations);
        let claim = Claim {
            identity: keys[0].public(),
            secret: [13; 32].into(),
        };
        let code = RecoveryCode::generate(CODE);
        Self {
            trust_logs: [log.bytes().to_vec(), replaced.bytes().to_vec()],
            certificates: [beacon, known, unknown],
            record,
            policy: policy
                .sign_policy(text, None, &mesh, NOW)
                .expect("a policy key"),
            revocations,
            old_revocations,
            kill_file: kill_file.to_text(),
            token: token.to_text().to_string(),
            request: Request::make(&keys[2]).to_string(),
            claim: claim.to_text().to_string(),
            sealed_root: root.seal(&code, [14; 16]),
            code: code.to_text().to_string(),
            trust,
        }
    }

    /// Whether an honest party signed exactly this.
    pub fn signed(&self, bytes: &[u8]) -> bool {
        let whole = self.trust_logs.iter().chain(&self.certificates);
        let sets = [&self.revocations, &self.old_revocations];
        let all = whole.chain([&self.record, &self.policy]).chain(sets);
        all.into_iter().any(|known| known == bytes)
    }
}
