//! Bytes from afar: whatever they are, a decoder answers and never panics, and what an honest
//! party wrote reads back.

#[path = "support/world.rs"]
#[allow(dead_code)]
mod world;

use identity::{
    Change, Claim, IdentityKey, RecoveryCode, Request, RevocationSet, Root, Token, Trust, TrustLog,
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
        prefix in "cm[trc]1",
        body in "[a-z2-7]{0,200}",
    ) {
        decode_all(&mut World::new().gateway_a(), format!("{prefix}{body}").as_bytes());
    }
}

#[test]
fn no_bent_document_is_believed() {
    let mut world = World::new();
    let b = world.member_b();
    let log = world.log.bytes().to_vec();
    let policy = world.push_policy("{}", START);
    let set = RevocationSet {
        blocks: ["tag:home".parse().expect("a block")].into(),
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
