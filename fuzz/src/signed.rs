//! `identity`: the signed documents. Whatever comes, nothing is believed but what the honest
//! parties of [`crate::world`] signed.

use identity::{
    Change, Claim, KillFile, RecoveryCode, Request, Root, Token, Trust, TrustError, TrustLog,
    UnixTime,
};

use crate::world::{CODE, NOW, WORLD};

/// Certificates: membership, binding, receipt.
pub fn certificate(bytes: &[u8]) {
    let _ = WORLD.trust.examine_certificate(bytes);
    accept(bytes, Trust::accept_certificate);
    let beacon = WORLD
        .trust
        .members()
        .next()
        .expect("the world has members")
        .node;
    let _ = WORLD.trust.verify_enrolment(bytes, &beacon, NOW);
}

/// A node's record.
pub fn record(bytes: &[u8]) {
    accept(bytes, Trust::accept_record);
}

/// A signed policy.
pub fn policy_bundle(bytes: &[u8]) {
    accept(bytes, Trust::accept_policy);
}

/// A revocation set.
pub fn revocations(bytes: &[u8]) {
    accept(bytes, Trust::accept_revocations);
}

/// A trust log: as the first of a mesh, and as news of the one that is known.
pub fn trust_log(bytes: &[u8]) {
    if let Ok(log) = TrustLog::parse(bytes) {
        assert_eq!(log.bytes(), bytes);
        let _ = Trust::new(bytes, NOW);
    }
    accept(bytes, Trust::accept_trust_log);
}

/// What a node kept of its belief. It is its own file, so it need not be signed; but what reads
/// back must write the same again.
pub fn snapshot(bytes: &[u8]) {
    if let Ok(trust) = Trust::restore(bytes) {
        let again = Trust::restore(&trust.snapshot()).expect("what was written reads back");
        assert_eq!(again.snapshot(), trust.snapshot());
    }
}

/// `cmt1…`
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(token) = Token::parse(text) {
        let _ = token.open(NOW);
        let again = token.to_text();
        assert!(Token::parse(&again).is_ok());
    }
}

/// `cmr1…`
pub fn request(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = Request::parse(text).map(|request| request.identity());
}

/// `cmc1…`
pub fn claim(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(claim) = Claim::parse(text) {
        let again = Claim::parse(&claim.to_text()).expect("what was written reads back");
        assert_eq!(again.identity, claim.identity);
    }
}

/// `cmk1…`: what a gateway is brought by hand. Nothing is believed that nobody signed.
pub fn kill_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(file) = KillFile::parse(text) {
        let again = KillFile::parse(&file.to_text()).expect("what was written reads back");
        assert_eq!(again, file);
        accept(file.trust_log(), Trust::accept_trust_log);
        accept(file.revocations(), Trust::accept_revocations);
    }
}

/// The recovery code as typed, and the sealed root.
pub fn recovery(bytes: &[u8]) {
    if let Ok(root) = Root::open(bytes, &RecoveryCode::generate(CODE)) {
        // Nobody seals another root with this code: the file is as it was made.
        assert!(WORLD.sealed_root == bytes, "a bent root was opened");
        drop(root);
    }
    if let Ok(code) = std::str::from_utf8(bytes)
        .map_err(drop)
        .and_then(|text| RecoveryCode::parse(text).map_err(drop))
    {
        assert!(RecoveryCode::parse(&code.to_text()).is_ok());
    }
}

/// Offers a document to a gateway's belief, which changes only by what somebody signed.
fn accept(
    bytes: &[u8],
    accept: impl Fn(&mut Trust, &[u8], UnixTime) -> Result<Change, TrustError>,
) {
    let mut trust = WORLD.trust.clone();
    if let Ok(Change::Newer) = accept(&mut trust, bytes, NOW) {
        assert!(
            WORLD.signed(bytes),
            "something was believed that nobody signed"
        );
        let again = Trust::restore(&trust.snapshot()).expect("what was written reads back");
        assert_eq!(again.snapshot(), trust.snapshot());
    }
}
