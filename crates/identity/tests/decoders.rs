//! Bytes from afar: whatever they are, a decoder answers and never panics, and what an honest
//! party wrote reads back.

#[path = "support/world.rs"]
#[allow(dead_code)]
mod world;

use identity::{
    Block, Change, Claim, Exception, IdentityKey, KillFile, NodeId, RecoveryCode, Request,
    RevocationSet, Root, Token, Trust, TrustLog,
};
use proptest::prelude::*;
use world::{DAY, START, World, name, record};

/// Every public decoder of this crate.
fn decode_all(trust: &mut Trust, bytes: &[u8]) {
    let _ = TrustLog::parse(bytes);
    let _ = Trust::new(bytes, START);
    let _ = Trust::restore(bytes);
    let _ = trust.accept_trust_log(bytes, START);
    let _ = trust.accept_policy(bytes, START);
    let _ = trust.accept_revocations(bytes, START);
    let _ = trust.accept_certificate(bytes, START);
    let _ = trust.accept_record(bytes, START);
    let _ = trust.examine_certificate(bytes);
    let _ = Root::open(bytes, &RecoveryCode::generate([0; 16]));
    let text = String::from_utf8_lossy(bytes);
    let _ = Token::parse(&text);
    let _ = Request::parse(&text);
    let _ = Claim::parse(&text);
    let _ = KillFile::parse(&text);
    let _ = RecoveryCode::parse(&text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_all(&mut World::new().gateway_a(), &bytes);
    }

    #[test]
    fn arbitrary_texts_behind_a_prefix_are_answered(
        prefix in "cm[trck]1",
        body in "[a-z2-7]{0,200}",
    ) {
        decode_all(&mut World::new().gateway_a(), format!("{prefix}{body}").as_bytes());
    }
}

fn everyone_but(node: NodeId) -> Block {
    let tag = Exception::Tag("tag:spared".parse().expect("a tag"));
    let user = Exception::User("ana@example.com".parse().expect("a user"));
    Block::Everyone {
        except: [tag, user, Exception::Node(node)].into(),
    }
}

#[test]
fn no_bent_document_is_believed() {
    let mut world = World::new();
    let b = world.member_b();
    let log = world.log.bytes().to_vec();
    let policy = world.push_policy("{}", START);
    let set = RevocationSet {
        blocks: ["tag:home".parse().expect("a block"), everyone_but(b.node)].into(),
        ..World::revoking(&[b.node])
    };
    let revocations = world.push_revocations(set, START);
    let record = record(&b, &world.mesh(), 1, START.plus(DAY));
    let trust = world.gateway_a();

    for whole in [&b.certificate, &log, &policy, &revocations, &record] {
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0x20;
            decode_all(&mut trust.clone(), &bent[..at]);
            let mut trust = trust.clone();
            decode_all(&mut trust, &bent);
            assert_eq!(trust.snapshot(), world.gateway_a().snapshot(), "byte {at}");
        }
    }
}

#[test]
fn a_belief_reads_back_from_its_snapshot() {
    let mut world = World::new();
    let (mut trust, b) = (world.gateway_a(), world.member_b());
    let policy = world.push_policy("{}", START);
    let revocations = world.push_revocations(World::revoking(&[world.beacon]), START);
    let claims = record(&b, &world.mesh(), 1, START.plus(DAY));
    let key = identity::WireGuardPublic([40; 32]);
    assert_eq!(trust.accept_policy(&policy, START), Ok(Change::Newer));
    assert_eq!(
        trust.accept_certificate(&b.certificate, START),
        Ok(Change::Newer)
    );
    assert_eq!(trust.accept_record(&claims, START), Ok(Change::Newer));
    assert_eq!(trust.pin_wireguard(&b.node, &key), Change::Newer);
    assert_eq!(
        trust.accept_revocations(&revocations, START),
        Ok(Change::Newer)
    );

    let restored = Trust::restore(&trust.snapshot()).expect("its own");

    assert_eq!(restored.snapshot(), trust.snapshot());
    assert_eq!(restored.heads(), trust.heads());
    assert_eq!(restored.holder(), trust.holder());
    assert_eq!(restored.member(&b.node), trust.member(&b.node));
    assert_eq!(restored.record(&b.node), trust.record(&b.node));
    assert_eq!(restored.by_wireguard(&key), Some(b.node));
    assert_eq!(
        restored.standing(&world.beacon, START),
        trust.standing(&world.beacon, START)
    );
    assert_eq!(
        restored.policy().map(|policy| policy.text.as_str()),
        Some("{}")
    );
}

#[test]
fn what_is_carried_by_hand_reads_back() {
    let mut world = World::new();
    let token = world.token("gw-t");
    let text = token.to_text();
    let opened = Token::parse(&text)
        .and_then(|token| token.open(START))
        .expect("its own");
    assert_eq!(opened.name, name("gw-t"));
    assert_eq!(
        opened.redeem_at.map(|(beacon, _)| beacon),
        Some(world.beacon)
    );
    assert!(
        text.len() < 4096,
        "a token of {} letters is too long to paste",
        text.len()
    );

    let key = IdentityKey::generate([1; 32]);
    let request = Request::parse(&Request::make(&key)).expect("its own");
    assert_eq!(request.identity(), key.public());

    let claim = Claim {
        identity: key.public(),
        secret: zeroize::Zeroizing::new([2; 32]),
    };
    let read = Claim::parse(&claim.to_text()).expect("its own");
    assert!(read.verify_mac(b"transcript", &claim.mac(b"transcript")));
    assert!(!read.verify_mac(b"another", &claim.mac(b"transcript")));
}

#[test]
fn a_token_with_a_mistyped_letter_is_refused_before_it_is_tried() {
    let text = World::new().token("gw-t").to_text();
    let mut bent = text.to_string();
    let last = bent.pop().expect("a text");
    bent.push(if last == 'a' { 'i' } else { 'a' });

    assert!(Token::parse(&bent).is_err());
    assert!(Request::parse(&text).is_err_and(|error| error.to_string().contains("join token")));
}

#[test]
fn a_set_with_every_kind_of_kill_reads_back_as_it_was_signed() {
    let mut world = World::new();
    let (mut a, b) = (world.gateway_a(), world.member_b());
    let blocks = ["user:ana@example.com", "tag:home", "agent:coder@gw-b"];
    let blocks = blocks.map(|block| block.parse().expect("a block"));
    let nobody = Block::Everyone {
        except: Default::default(),
    };
    let set = RevocationSet {
        blocks: blocks
            .into_iter()
            .chain([everyone_but(b.node), nobody])
            .collect(),
        ..World::revoking(&[b.node])
    };
    let signed = world.push_revocations(set.clone(), START);

    assert_eq!(a.accept_revocations(&signed, START), Ok(Change::Newer));
    assert_eq!(a.revocations().map(|held| &held.set), Some(&set));
    let restored = Trust::restore(&a.snapshot()).expect("its own");
    assert_eq!(restored.revocations().map(|held| &held.set), Some(&set));
}

#[test]
fn a_set_signed_before_there_was_a_kill_of_everyone_still_reads() {
    // Signed by the version before: epoch 1, version 1, one node and one tag.
    const OLD: &str = include_str!("support/revocations-before-everyone.hex");
    let old = data_encoding::HEXLOWER
        .decode(OLD.trim().as_bytes())
        .expect("hex");
    let mut world = World::new();
    let set = RevocationSet {
        blocks: ["tag:home".parse().expect("a block")].into(),
        ..World::revoking(&[NodeId([7; 16])])
    };

    assert_eq!(
        world.push_revocations(set.clone(), START),
        old,
        "a set without the new kind is the same bytes as before"
    );
    let mut a = World::new().gateway_a();
    assert_eq!(a.accept_revocations(&old, START), Ok(Change::Newer));
    assert_eq!(a.revocations().map(|held| &held.set), Some(&set));
}

#[test]
fn a_kill_file_carries_all_that_a_stranger_to_the_new_key_needs() {
    let mut world = World::new();
    let mut a = world.gateway_a();
    let mut operator = world.gateway_a();
    assert_eq!(KillFile::of(&operator), None, "nobody was ever revoked");
    let log = world.replace(identity::KeyRole::Revoker, START, START.plus(DAY));
    let now = START.plus(DAY);
    let set = world.push_revocations(World::revoking(&[world.beacon]), now);
    assert_eq!(operator.accept_trust_log(&log, now), Ok(Change::Newer));
    assert_eq!(operator.accept_revocations(&set, now), Ok(Change::Newer));
    let text = KillFile::of(&operator).expect("there is a set").to_text();

    let file = KillFile::parse(&text).expect("its own");
    assert!(a.accept_revocations(file.revocations(), now).is_err());
    assert_eq!(a.accept_trust_log(file.trust_log(), now), Ok(Change::Newer));
    assert_eq!(
        a.accept_revocations(file.revocations(), now),
        Ok(Change::Newer)
    );

    assert!(text.starts_with("cmk1"));
    assert!(KillFile::parse(&text[..text.len() - 1]).is_err());
    assert!(Claim::parse(&text).is_err_and(|error| error.to_string().contains("kill file")));
}
