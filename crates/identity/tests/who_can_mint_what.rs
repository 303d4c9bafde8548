//! identity.md §7 as a table: who holds which key, what it gets, and what it does not get.
//!
//! Each row runs against gateways that know nothing but signed documents, in a world where every
//! document is carried by an attacker. Seeds and times are arguments; nothing here is random.

#[path = "support/world.rs"]
#[allow(dead_code)]
mod world;

use std::time::Duration;

use identity::{
    Alarm, Block, Change, Exception, IdentityKey, KeyRole, NodeId, RevocationSet, Standing, Token,
    Trust, TrustError, UnixTime, WireGuardPublic, make_receipt,
};
use world::{DAY, START, World, name, record};

/// One row: who, what it tries, and whether the mesh let it.
struct Row {
    who: &'static str,
    tries: &'static str,
    run: fn(&mut World) -> bool,
    gets: bool,
}

const fn row(
    who: &'static str,
    tries: &'static str,
    gets: bool,
    run: fn(&mut World) -> bool,
) -> Row {
    Row {
        who,
        tries,
        run,
        gets,
    }
}

#[test]
fn nobody_mints_more_than_the_table_says() {
    let rows = [
        beacon(),
        tokens(),
        members(),
        stolen_keys(),
        laptop(),
        time(),
    ];
    let mut wrong = Vec::new();
    for Row {
        who,
        tries,
        run,
        gets,
    } in rows.into_iter().flatten()
    {
        if run(&mut World::new()) != gets {
            wrong.push(format!("{who}: {tries} (table says {gets})"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn beacon() -> Vec<Row> {
    const WHO: &str = "beacon alone";
    vec![
        row(
            WHO,
            "to withhold: who hears nothing goes on as before",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                accept(a.accept_certificate(&b.certificate, START))
                    && a.standing(&b.node, START.plus(DAY * 200)) == Standing::Good
            },
        ),
        row(
            WHO,
            "a member, by a membership that it signs itself",
            false,
            |w| {
                let mut a = w.gateway_a();
                let forged = w.forged_member(&w.beacon_key.clone());
                accept(a.accept_certificate(&forged, START))
            },
        ),
        row(
            WHO,
            "a tag on a member, by changing one byte anywhere",
            false,
            |w| {
                let (a, b) = (w.gateway_a(), w.member_b());
                (0..b.certificate.len()).any(|at| {
                    let mut bent = b.certificate.clone();
                    bent[at] ^= 0x01;
                    a.clone().accept_certificate(&bent, START).is_ok()
                })
            },
        ),
        row(WHO, "a policy, under its own key", false, |w| {
            let mut a = w.gateway_a();
            let forged = w.policy_by(&w.other_mesh().policy, "{}", START);
            accept(a.accept_policy(&forged, START))
        }),
        row(WHO, "an older policy", false, |w| {
            let mut a = w.gateway_a();
            let old = w.push_policy("{\"old\": 1}", START);
            let new = w.push_policy("{}", START);
            assert!(accept(a.accept_policy(&new, START)));
            accept(a.accept_policy(&old, START))
        }),
        row(WHO, "an un-revocation, by an older set", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            let before = w.push_revocations(RevocationSet::default(), START);
            let after = w.push_revocations(World::revoking(&[b.node]), START);
            assert!(accept(a.accept_revocations(&after, START)));
            accept(a.accept_revocations(&before, START))
                || a.standing(&b.node, START) != Standing::Revoked
        }),
        row(
            WHO,
            "a moved clock, by receipts and records dated ahead",
            false,
            |w| {
                let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
                let far = START.plus(DAY * 400);
                let (certificate, identity) = w.redeem(&token, [90; 32]);
                let ahead = w.receipt_for(&certificate, &identity, far);
                let _ = a.accept_certificate(&ahead, START);
                let b = w.member_b();
                let _ = a.accept_certificate(&b.certificate, START);
                let _ = a.accept_record(&record(&b, &w.mesh(), 1, far), START);
                a.clock(START) != START
            },
        ),
        row(WHO, "a redeemed token, without the token key", false, |w| {
            let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
            let (certificate, _) = w.redeem(&token, [90; 32]);
            let mine = IdentityKey::generate([91; 32]);
            // The binding names the true joiner's key; the receipt names the beacon's.
            let forged = w.receipt_for(&certificate, &mine, START);
            accept(a.accept_certificate(&forged, START))
        }),
        row(
            WHO,
            "to be a gateway, or a gateway to be a beacon",
            false,
            |w| {
                let (a, b) = (w.gateway_a(), w.member_b());
                let mut a = a;
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let beacon = a
                    .member(&w.beacon)
                    .map(|member| (member.role, member.overlay));
                beacon != Some((identity::Role::Beacon, None))
                    || a.member(&b.node)
                        .is_none_or(|member| member.beacon.is_some())
            },
        ),
    ]
}

fn tokens() -> Vec<Row> {
    const LIVE: &str = "thief of a live token";
    const USED: &str = "thief of a used or expired token";
    const BOTH: &str = "thief of a used token with the named beacon";
    vec![
        row(LIVE, "that one name and its tags, once", true, |w| {
            let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
            let (certificate, _) = w.join(&token, [90; 32], START).expect("the first");
            accept(a.accept_certificate(&certificate, START))
                && a.member_named(&name("gw-t"))
                    .is_some_and(|m| m.tags == w.terms("gw-t").tags)
        }),
        row(
            LIVE,
            "that the owner's join still works afterwards",
            false,
            |w| {
                let token = w.token("gw-t");
                w.join(&token, [90; 32], START).expect("the thief");
                let owner = w.join(&token, [91; 32], START);
                assert_eq!(
                    owner.as_ref().err(),
                    Some(&TrustError::TokenSpent),
                    "loudly"
                );
                owner.is_ok()
            },
        ),
        row(LIVE, "a second node by the same token", false, |w| {
            let token = w.token("gw-t");
            let (first, _) = w.join(&token, [90; 32], START).expect("the first");
            w.join(&token, [90; 32], START)
                .is_ok_and(|(second, _)| node_of(w, &second) != node_of(w, &first))
        }),
        row(
            LIVE,
            "another name, by a membership bound with its token key",
            false,
            |w| {
                let (mut a, token, other) = (w.gateway_a(), w.token("gw-t"), w.token("gw-other"));
                // The token key of one under the membership of the other.
                let (certificate, identity) = w.redeem(&token, [90; 32]);
                let (others, _) = w.redeem(&other, [91; 32]);
                let crossed = world::splice(&others, &certificate);
                let (node, key) = (node_of(w, &others), identity.public());
                let receipt = make_receipt(&node, &key, &w.mesh(), &w.beacon_key, START);
                let crossed = Token::complete(&crossed, &receipt, &w.mesh()).expect("shaped");
                accept(a.accept_certificate(&crossed, START))
            },
        ),
        row(LIVE, "to skip the beacon", false, |w| {
            let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
            let (certificate, _) = w.redeem(&token, [90; 32]);
            accept(a.accept_certificate(&certificate, START))
        }),
        row(
            LIVE,
            "to use a beacon that the membership does not name",
            false,
            |w| {
                let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
                let second = w.second_beacon();
                assert!(accept(a.accept_certificate(&second.certificate, START)));
                let (certificate, identity) = w.redeem(&token, [90; 32]);
                let node = node_of(w, &certificate);
                let receipt =
                    make_receipt(&node, &identity.public(), &w.mesh(), &second.key, START);
                let whole = Token::complete(&certificate, &receipt, &w.mesh()).expect("shaped");
                accept(a.accept_certificate(&whole, START))
            },
        ),
        row(USED, "anything at an honest beacon", false, |w| {
            let token = w.token("gw-t");
            w.join(&token, [90; 32], START).expect("the owner");
            w.join(&token, [91; 32], START.plus(Duration::from_secs(60)))
                .is_ok()
        }),
        row(USED, "anything once the window is over", false, |w| {
            let token = w.token("gw-t");
            w.join(&token, [90; 32], START.plus(Duration::from_secs(16 * 60)))
                .is_ok()
        }),
        row(
            USED,
            "that a gateway takes a receipt dated after the window",
            false,
            |w| {
                let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
                let (certificate, identity) = w.redeem(&token, [90; 32]);
                let late = w.receipt_for(&certificate, &identity, START.plus(DAY));
                accept(a.accept_certificate(&late, START.plus(DAY)))
            },
        ),
        row(
            BOTH,
            "a rival for a gateway that never met the true one",
            true,
            |w| {
                let (mut fresh, token) = (w.gateway_a(), w.token("gw-t"));
                w.join(&token, [90; 32], START).expect("the owner");
                accept(fresh.accept_certificate(&w.rival(&token, [91; 32]), START.plus(DAY)))
            },
        ),
        row(BOTH, "to replace a pinned one", false, |w| {
            let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
            let (true_one, _) = w.join(&token, [90; 32], START).expect("the owner");
            assert!(accept(a.accept_certificate(&true_one, START)));
            let rival = a.accept_certificate(&w.rival(&token, [91; 32]), START.plus(DAY));
            assert!(matches!(a.take_alarms()[..], [Alarm::RivalIdentity { .. }]));
            accept(rival)
        }),
        row(
            BOTH,
            "to stay after `renew` named the true one",
            false,
            |w| {
                let (mut fresh, token) = (w.gateway_a(), w.token("gw-t"));
                let (true_one, owner) = w.join(&token, [90; 32], START).expect("the owner");
                let rival = w.rival(&token, [91; 32]);
                assert!(accept(fresh.accept_certificate(&rival, START)));
                let node = node_of(w, &true_one);
                let renewed = w.renew(&node, &owner, START.plus(DAY));
                assert!(accept(fresh.accept_certificate(&renewed, START.plus(DAY))));
                accept(fresh.accept_certificate(&rival, START.plus(DAY)))
                    || fresh
                        .member(&node)
                        .is_none_or(|m| m.identity != owner.public())
            },
        ),
    ]
}

fn members() -> Vec<Row> {
    const WHO: &str = "member";
    const OLD: &str = "old identity key after the issuer named its successor";
    vec![
        row(WHO, "its own record", true, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            accept(a.accept_record(&record(&b, &w.mesh(), 1, START.plus(DAY)), START))
        }),
        row(
            WHO,
            "another's record (WireGuard key, addresses)",
            false,
            |w| {
                let (mut a, b, c) = (w.gateway_a(), w.member_b(), w.member_c());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                assert!(accept(a.accept_certificate(&c.certificate, START)));
                let mut forged = c.clone();
                forged.node = b.node;
                accept(a.accept_record(&record(&forged, &w.mesh(), 9, START.plus(DAY)), START))
            },
        ),
        row(WHO, "another's name, by signing a membership", false, |w| {
            let mut a = w.gateway_a();
            let forged = w.forged_member(&w.member_c().key);
            accept(a.accept_certificate(&forged, START))
        }),
        row(
            WHO,
            "a stall of another's session, by claiming its WireGuard key",
            false,
            |w| {
                let (mut a, b, c) = (w.gateway_a(), w.member_b(), w.member_c());
                for member in [&b, &c] {
                    assert!(accept(a.accept_certificate(&member.certificate, START)));
                }
                let key = WireGuardPublic([1; 32]);
                let claim = |member| world::record_of(member, &w.mesh(), 1, key, START.plus(DAY));
                assert!(accept(a.accept_record(&claim(&c), START)));
                assert!(accept(a.accept_record(&claim(&b), START)));
                let tried: Vec<NodeId> = a.claimants(&key).collect();
                assert_eq!(a.pin_wireguard(&b.node, &key), Change::Newer);
                !tried.contains(&b.node) || a.by_wireguard(&key) != Some(b.node)
            },
        ),
        row(WHO, "a record that outlives 30 days", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            let long = world::unbounded_record(&b, &w.mesh(), START.plus(DAY * 31));
            accept(a.accept_record(&long, START))
        }),
        row(
            WHO,
            "to go on after its node id was revoked, whatever it shows",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let gone = w.push_revocations(World::revoking(&[b.node]), START);
                assert!(accept(a.accept_revocations(&gone, START)));
                let renewed = w.renew_anyway(&b.node, &b.key, START);
                accept(a.accept_certificate(&renewed, START))
                    || accept(a.accept_record(&record(&b, &w.mesh(), 2, START.plus(DAY)), START))
                    || a.standing(&b.node, START) != Standing::Revoked
            },
        ),
        row(OLD, "anything", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            let successor = IdentityKey::generate([95; 32]);
            let renewed = w.renew(&b.node, &successor, START);
            assert!(accept(a.accept_certificate(&renewed, START)));
            accept(a.accept_certificate(&b.certificate, START))
                || accept(a.accept_record(&record(&b, &w.mesh(), 9, START.plus(DAY)), START))
                || a.member(&b.node)
                    .is_none_or(|m| m.identity != successor.public())
        }),
    ]
}

fn stolen_keys() -> Vec<Row> {
    const ISSUER: &str = "stolen issuer key";
    const POLICY: &str = "stolen policy key";
    const REVOKER: &str = "stolen revoker key";
    vec![
        row(ISSUER, "a member, until root's entry arrives", true, |w| {
            let mut a = w.gateway_a();
            let thief = w.stolen_member(START, u64::MAX);
            accept(a.accept_certificate(&thief, START))
        }),
        row(
            ISSUER,
            "a member after root's entry, by serial and date",
            false,
            |w| {
                let mut a = w.gateway_a();
                let thief = w.stolen_member(START.minus(DAY), u64::MAX);
                let log = w.replace(KeyRole::Issuer, START, START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                accept(a.accept_certificate(&thief, START.plus(DAY)))
            },
        ),
        row(
            ISSUER,
            "that a member minted after the theft stays",
            false,
            |w| {
                let mut a = w.gateway_a();
                let thief = w.stolen_member(START, u64::MAX);
                assert!(accept(a.accept_certificate(&thief, START.plus(DAY * 2))));
                let log = w.replace(KeyRole::Issuer, START.plus(DAY), START.plus(DAY * 3));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY * 3))));
                a.standing(&node_of(w, &thief), START.plus(DAY * 3)) == Standing::Good
            },
        ),
        row(
            "honest member of an ended issuer",
            "to stay 30 days where it was pinned",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let log = w.replace(KeyRole::Issuer, START.plus(DAY), START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                a.standing(&b.node, START.plus(DAY * 30)) == Standing::Good
            },
        ),
        row(
            "honest member of an ended issuer",
            "to stay on day 32",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let log = w.replace(KeyRole::Issuer, START.plus(DAY), START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                a.standing(&b.node, START.plus(DAY * 32)) == Standing::Good
            },
        ),
        row(
            "honest member of an ended issuer",
            "to stay after it was re-issued",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let log = w.replace(KeyRole::Issuer, START.plus(DAY), START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                let renewed = w.renew(&b.node, &b.key, START.plus(DAY * 2));
                accept(a.accept_certificate(&renewed, START.plus(DAY * 2)))
                    && a.standing(&b.node, START.plus(DAY * 40)) == Standing::Good
            },
        ),
        row(
            ISSUER,
            "to stop root's entry, by floors in one's own renewal",
            false,
            |w| {
                let (mut a, own) = (w.gateway_a(), w.member_a());
                let poisoned = w.stolen_renewal(&own, START);
                assert!(accept(a.accept_certificate(&poisoned, START)));
                let log = w.replace(KeyRole::Issuer, START, START.plus(DAY));
                let arrived = accept(a.accept_trust_log(&log, START.plus(DAY)));
                let policy = w.push_policy("{}", START.plus(DAY));
                !(arrived && accept(a.accept_policy(&policy, START.plus(DAY))))
            },
        ),
        row(ISSUER, "a clock moved more than a day", false, |w| {
            let mut a = w.gateway_a();
            let ahead = w.stolen_member(START.plus(DAY * 300), 7);
            let _ = a.accept_certificate(&ahead, START);
            a.clock(START) > START.plus(DAY)
        }),
        row(POLICY, "a policy, until root's entry arrives", true, |w| {
            let mut a = w.gateway_a();
            let evil = w.policy_by(&w.policy.clone(), "{\"evil\": 1}", START);
            accept(a.accept_policy(&evil, START))
        }),
        row(
            POLICY,
            "to outlive root's entry by a version or date",
            false,
            |w| {
                let mut a = w.gateway_a();
                let thief = w.policy.clone();
                let mut evil = Vec::new();
                for _ in 0..9 {
                    evil = w.policy_by(&thief, "{\"evil\": 1}", START.plus(DAY * 500));
                    assert!(accept(a.accept_policy(&evil, START)));
                }
                let log = w.replace(KeyRole::Policy, START, START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                let lingers = a.policy().is_some();
                let cure = w.push_policy("{}", START.plus(DAY));
                assert!(accept(a.accept_policy(&cure, START.plus(DAY))));
                lingers || accept(a.accept_policy(&evil, START.plus(DAY)))
            },
        ),
        row(POLICY, "two policies of one version, unseen", false, |w| {
            let mut a = w.gateway_a();
            let (one, two) = w.two_policies_of_one_order();
            assert!(accept(a.accept_policy(&one, START)));
            let second = accept(a.accept_policy(&two, START));
            second || !matches!(a.take_alarms()[..], [Alarm::PolicyConflict { .. }])
        }),
        row(
            REVOKER,
            "to revoke anybody, until root's entry arrives",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let evil = w.push_revocations(World::revoking(&[b.node]), START);
                accept(a.accept_revocations(&evil, START))
                    && a.standing(&b.node, START) == Standing::Revoked
            },
        ),
        row(
            REVOKER,
            "to outlive root's entry and the first complete set after it",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let evil = w.push_revocations(World::revoking(&[b.node]), START);
                assert!(accept(a.accept_revocations(&evil, START)));
                let log = w.replace(KeyRole::Revoker, START, START.plus(DAY));
                assert!(accept(a.accept_trust_log(&log, START.plus(DAY))));
                let cure = w.push_revocations(RevocationSet::default(), START.plus(DAY));
                assert!(accept(a.accept_revocations(&cure, START.plus(DAY))));
                accept(a.accept_revocations(&evil, START.plus(DAY)))
                    || a.standing(&b.node, START.plus(DAY)) != Standing::Good
            },
        ),
        row(
            REVOKER,
            "to let anybody back in by one more kill of everyone",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let everyone = |except: &[Exception]| Block::Everyone {
                    except: except.iter().cloned().collect(),
                };
                let mut set = RevocationSet {
                    blocks: [everyone(&[])].into(),
                    ..RevocationSet::default()
                };
                let all = w.push_revocations(set.clone(), START);
                set.blocks.insert(everyone(&[Exception::Node(b.node)]));
                let spared = w.push_revocations(set, START);
                assert!(accept(a.accept_revocations(&all, START)));
                assert!(accept(a.accept_revocations(&spared, START)));
                a.standing(&b.node, START) != Standing::Revoked
            },
        ),
        row(
            REVOKER,
            "to take a beacon out by a kill of everyone: that is how it is lifted",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let all = w.push_revocations(
                    RevocationSet {
                        blocks: [Block::Everyone {
                            except: Default::default(),
                        }]
                        .into(),
                        ..RevocationSet::default()
                    },
                    START,
                );
                assert!(accept(a.accept_revocations(&all, START)));
                assert_eq!(a.standing(&b.node, START), Standing::Revoked);
                a.standing(&w.beacon, START) != Standing::Good
            },
        ),
        row(
            REVOKER,
            "to take a revocation back within its epoch",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                let gone = w.push_revocations(World::revoking(&[b.node]), START);
                assert!(accept(a.accept_revocations(&gone, START)));
                let back = w.shrunk_revocations();
                accept(a.accept_revocations(&back, START))
            },
        ),
    ]
}

fn laptop() -> Vec<Row> {
    const WHO: &str = "laptop without the recovery code";
    vec![
        row(WHO, "all that the role keys get", true, |w| {
            let mut a = w.gateway_a();
            let policy = w.push_policy("{}", START);
            accept(a.accept_policy(&policy, START))
        }),
        row(WHO, "the root", false, |w| {
            let sealed = w
                .root
                .seal(&identity::RecoveryCode::generate([1; 16]), [2; 16]);
            identity::Root::open(&sealed, &identity::RecoveryCode::generate([3; 16])).is_ok()
        }),
        row(
            WHO,
            "an epoch, by an entry that a role key signs",
            false,
            |w| {
                let mut a = w.gateway_a();
                let forged = w.log_by_another_root();
                accept(a.accept_trust_log(&forged, START.plus(DAY)))
            },
        ),
        row(
            WHO,
            "an epoch, by claiming a higher one in a document",
            false,
            |w| {
                let mut a = w.gateway_a();
                let ahead = w.policy_of_epoch(7);
                accept(a.accept_policy(&ahead, START))
            },
        ),
        row(
            WHO,
            "that an entry which root cut off comes back",
            false,
            |w| {
                let mut a = w.gateway_a();
                let before = w.log.clone();
                let stolen = w.replace(KeyRole::Issuer, START, START.plus(DAY));
                assert!(accept(a.accept_trust_log(&stolen, START.plus(DAY))));
                w.log = before;
                let true_one = w.replace(KeyRole::Policy, START, START.plus(DAY * 2));
                assert!(accept(a.accept_trust_log(&true_one, START.plus(DAY * 2))));
                accept(a.accept_trust_log(&stolen, START.plus(DAY * 3)))
            },
        ),
    ]
}

fn time() -> Vec<Row> {
    vec![
        row("day 31", "a record of day 0", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            let old = record(&b, &w.mesh(), 1, START.plus(DAY * 30));
            accept(a.accept_record(&old, START.plus(DAY * 31)))
        }),
        row(
            "day 91",
            "what 90-day role keys signed, while nobody ended them",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.member_b());
                let policy = w.push_policy("{}", START);
                accept(a.accept_certificate(&b.certificate, START.plus(DAY * 91)))
                    && accept(a.accept_policy(&policy, START.plus(DAY * 91)))
            },
        ),
        row("day 366", "a membership of a year", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            a.standing(&b.node, START.plus(DAY * 366)) != Standing::Expired
        }),
        row("day 366", "the cure by a renewal", true, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            let renewed = w.renew(&b.node, &b.key, START.plus(DAY * 366));
            accept(a.accept_certificate(&renewed, START.plus(DAY * 366)))
                && a.standing(&b.node, START.plus(DAY * 366)) == Standing::Good
        }),
        row("day 396", "a pin that nobody renewed", false, |w| {
            let (mut a, b) = (w.gateway_a(), w.member_b());
            assert!(accept(a.accept_certificate(&b.certificate, START)));
            assert_eq!(a.forget_expired(START.plus(DAY * 380)), Change::None);
            let _ = a.forget_expired(START.plus(DAY * 396));
            a.member(&b.node).is_some()
        }),
        row(
            "fresh node",
            "the oldest policy and revocations of its mesh",
            false,
            |w| {
                let first = w.push_policy("{\"first\": 1}", START);
                let none = w.push_revocations(RevocationSet::default(), START);
                w.push_policy("{}", START);
                w.push_revocations(World::revoking(&[NodeId([7; 16])]), START);
                let mut fresh = w.fresh_gateway();
                accept(fresh.accept_policy(&first, START))
                    || accept(fresh.accept_revocations(&none, START))
            },
        ),
        row(
            "fresh node",
            "the oldest trust log of its mesh",
            false,
            |w| {
                let oldest = w.log.bytes().to_vec();
                w.replace(KeyRole::Issuer, START, START.plus(DAY));
                let mut fresh = w.fresh_gateway();
                accept(fresh.accept_trust_log(&oldest, START.plus(DAY)))
            },
        ),
        row(
            "clock at 1970",
            "to work all the same, by role-signed time",
            true,
            |w| {
                let (mut a, b) = (w.gateway_a_at(UnixTime(0)), w.member_b());
                accept(a.accept_certificate(&b.certificate, UnixTime(0)))
                    && a.standing(&b.node, UnixTime(60)) == Standing::Good
                    && a.clock(UnixTime(0)) >= START
                    && a.clock(START.plus(DAY)) == START.plus(DAY)
            },
        ),
        row(
            "clock at 1970",
            "an expired membership brought back to life",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.short_member(DAY * 10));
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let later = w.push_policy("{}", START.plus(DAY * 20));
                assert!(accept(a.accept_policy(&later, START.plus(DAY * 20))));
                a.standing(&b.node, UnixTime(0)) == Standing::Good
            },
        ),
        row(
            "clock set back a week",
            "what the floor has seen end",
            false,
            |w| {
                let (mut a, b) = (w.gateway_a(), w.short_member(DAY * 10));
                assert!(accept(a.accept_certificate(&b.certificate, START)));
                let later = w.push_policy("{}", START.plus(DAY * 14));
                assert!(accept(a.accept_policy(&later, START.plus(DAY * 14))));
                let a = Trust::restore(&a.snapshot()).expect("its own");
                assert!(a.clock_is_behind(START.plus(DAY * 7)));
                a.standing(&b.node, START.plus(DAY * 7)) == Standing::Good
            },
        ),
        row("a beacon removed", "its receipts, afterwards", false, |w| {
            let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
            let (certificate, _) = w.join(&token, [90; 32], START).expect("in time");
            assert!(accept(a.accept_certificate(&certificate, START)));
            let gone = w.push_revocations(World::revoking(&[w.beacon]), START);
            assert!(accept(a.accept_revocations(&gone, START)));
            a.standing(&node_of(w, &certificate), START) == Standing::Good
        }),
        row(
            "a beacon removed",
            "who came by it, once re-signed",
            true,
            |w| {
                let (mut a, token) = (w.gateway_a(), w.token("gw-t"));
                let (certificate, key) = w.join(&token, [90; 32], START).expect("in time");
                assert!(accept(a.accept_certificate(&certificate, START)));
                let node = node_of(w, &certificate);
                let renewed = w.renew(&node, &key, START);
                let gone = w.push_revocations(World::revoking(&[w.beacon]), START);
                assert!(accept(a.accept_revocations(&gone, START)));
                accept(a.accept_certificate(&renewed, START))
                    && a.standing(&node, START) == Standing::Good
            },
        ),
    ]
}

/// Whether the document was stored; one that changes nothing gives its bearer nothing.
fn accept(result: Result<Change, TrustError>) -> bool {
    result == Ok(Change::Newer)
}

fn node_of(world: &World, certificate: &[u8]) -> NodeId {
    world.node_of(certificate)
}

/// Keeps the rows above honest: what thieves craft is refused for its key, not for its shape.
#[test]
fn a_crafted_document_is_believed_when_the_right_key_signs_it() {
    let mut world = World::new();
    let mut a = world.gateway_a();
    let issuer = world.issuer.key().clone();

    let crafted = world.forged_member(&issuer);

    assert_eq!(a.accept_certificate(&crafted, START), Ok(Change::Newer));
    let now = world.policy_of_epoch(1);
    assert_eq!(a.accept_policy(&now, START), Ok(Change::Newer));
}
