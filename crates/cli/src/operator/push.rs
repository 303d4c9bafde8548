//! From the operator's files to the beacons, under the operator's own key; the first time against
//! the claim. Done when one beacon stored it all: members carry it on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use identity::{Claim, IdentityKey, Role, Standing, UnixTime};
use net::link::{Call, CallAs, CallConfig, CallError, LinkFault, call};
use wire::link::Refusal;
use wire::map::{Document, PublishError};

use crate::context::{Context, now};
use crate::failure::Failure;
use crate::operator::files::{BeaconEntry, OperatorFiles};
use crate::output::note;

/// How a push ended.
pub struct Pushed {
    /// The beacons that stored it all.
    pub stored: Vec<String>,
    /// The others, and why not.
    pub failed: Vec<(String, String)>,
}

/// What goes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// Memberships: some were signed anew because of what is revoked.
    Members,
    /// Revocations: each of the others would cost them an fsync.
    Kills,
}

/// Pushes everything to every beacon, and says on stderr which one did not take it.
pub fn push(files: &mut OperatorFiles, context: &Context) -> Result<Pushed, Failure> {
    let beacons: Vec<BeaconEntry> = files.living_beacons(now()).cloned().collect();
    push_to(files, &beacons, context)
}

/// The same, to these.
pub fn push_to(
    files: &mut OperatorFiles,
    beacons: &[BeaconEntry],
    context: &Context,
) -> Result<Pushed, Failure> {
    push_in_order(files, beacons, First::Members, context)
}

/// The same, with the kills first.
pub fn push_kill(files: &mut OperatorFiles, context: &Context) -> Result<Pushed, Failure> {
    let beacons: Vec<BeaconEntry> = files.living_beacons(now()).cloned().collect();
    push_in_order(files, &beacons, First::Kills, context)
}

fn push_in_order(
    files: &mut OperatorFiles,
    beacons: &[BeaconEntry],
    first: First,
    context: &Context,
) -> Result<Pushed, Failure> {
    if beacons.is_empty() {
        return Err(Failure::failed("this mesh has no beacon to push to")
            .hint("add one with `crabmesh invite --beacon HOST:PORT --claim C`"));
    }
    let (key, old) = (files.operator_key()?, files.old_operator_key()?);
    let mut pushed = Pushed {
        stored: Vec::new(),
        failed: Vec::new(),
    };
    let ended = context.block_on(async {
        // All at once: one that is dead must not hold up the others.
        let calls = beacons.iter().map(|beacon| {
            let (key, old) = (Arc::clone(&key), old.clone());
            let documents = documents_for(files, beacon, first, now());
            let beacon = beacon.clone();
            tokio::spawn(async move { push_one(&beacon, &key, old.as_ref(), documents).await })
        });
        let mut ended = Vec::with_capacity(beacons.len());
        for call in calls.collect::<Vec<_>>() {
            ended.push(call.await.unwrap_or_else(|error| Err(error.to_string())));
        }
        Ok(ended)
    })?;
    for (beacon, ended) in beacons.iter().zip(ended) {
        let address = beacon.address.to_string();
        match ended {
            Ok(()) => {
                let redeemed = files
                    .beacons
                    .iter_mut()
                    .find(|held| held.node == beacon.node);
                if let Some(held) = redeemed {
                    held.claim = None;
                }
                pushed.stored.push(address);
            }
            Err(failure) => pushed.failed.push((address, failure)),
        }
    }
    files.save()?;
    if pushed.failed.is_empty() {
        // Every beacon knows the keys in force.
        files.forget_old_roles()?;
    }
    for (address, why) in &pushed.failed {
        note(format!("beacon {address}: {why}"));
    }
    match pushed.stored.is_empty() {
        false => Ok(pushed),
        true => Err(Failure::failed("no beacon stored it; it is kept here")
            .hint("see that a beacon runs and can be reached, then `crabmesh policy push`")),
    }
}

/// Takes from the beacons what this machine does not know: certificates of members that joined,
/// and their renewals. What they report is verified like everything else. At least one must answer.
pub fn pull(files: &mut OperatorFiles, context: &Context) -> Result<(), Failure> {
    let beacons: Vec<BeaconEntry> = files.living_beacons(now()).cloned().collect();
    let key = files.operator_key()?;
    let mut answered = false;
    context.block_on(async {
        for beacon in &beacons {
            match documents(files, beacon, &key).await {
                Ok(documents) => {
                    answered = true;
                    take(files, &documents, now());
                }
                Err(error) => note(format!("beacon {}: {}", beacon.address, chain(&error))),
            }
        }
        Ok(())
    })?;
    files.save()?;
    match answered {
        true => Ok(()),
        false => Err(
            Failure::failed("no beacon answers, so it is not known who joined")
                .hint("see that a beacon runs and can be reached, then try again"),
        ),
    }
}

/// Notes the identity keys of members in the ledger: the first one that was verified stays.
fn take(files: &mut OperatorFiles, documents: &[Document], now: UnixTime) {
    for document in documents {
        if let Document::Certificate(bytes) = document {
            // Older and unknown ones are ordinary here; rivals are told by an alarm.
            let _ = files.trust.accept_certificate(bytes, now);
        }
    }
    for alarm in files.trust.take_alarms() {
        note(format!("ALARM: {alarm}"));
    }
    let members: Vec<_> = files.trust.members().cloned().collect();
    for member in &members {
        let issued_here = files.ledger.node(&member.node).is_some();
        if issued_here && !files.ledger.verified(member) {
            note(format!(
                "ALARM: {} shows another key than before",
                member.name
            ));
        }
    }
}

/// Why one beacon did not take it, in one sentence.
async fn push_one(
    beacon: &BeaconEntry,
    key: &Arc<IdentityKey>,
    old: Option<&Arc<IdentityKey>>,
    documents: Vec<(&'static str, Document)>,
) -> Result<(), String> {
    let mut call = match (reach(beacon, key).await, old) {
        (Err(CallError::Link(LinkFault::Refused(Refusal::Unproven))), Some(old)) => {
            let log = documents.first().map(|(_, log)| log.clone());
            introduce(beacon, old, log)
                .await
                .map_err(|error| chain(&error))?;
            reach(beacon, key).await.map_err(|error| chain(&error))?
        }
        (result, _) => result.map_err(|error| chain(&error))?,
    };
    for (what, document) in documents {
        match call.publish(document).await {
            // A beacon that holds a newer certificate heard of a renewal from elsewhere.
            Ok(()) | Err(CallError::Refused(PublishError::Older)) if what == CERTIFICATE => {}
            Ok(()) => {}
            Err(error) => return Err(format!("{what}: {}", chain(&error))),
        }
    }
    call.close().await;
    Ok(())
}

/// Tells a beacon of the new operator key under the old one.
async fn introduce(
    beacon: &BeaconEntry,
    old: &Arc<IdentityKey>,
    log: Option<Document>,
) -> Result<(), CallError> {
    let mut call = reach(beacon, old).await?;
    if let Some(log) = log {
        call.publish(log).await?;
    }
    call.close().await;
    Ok(())
}

async fn documents(
    files: &OperatorFiles,
    beacon: &BeaconEntry,
    key: &Arc<IdentityKey>,
) -> Result<Vec<Document>, CallError> {
    let mut call = reach(beacon, key).await?;
    let (documents, _) = call.documents(files.trust.heads()).await?;
    call.close().await;
    Ok(documents)
}

/// As claimant while the claim is not redeemed, else as the operator. A claim whose answer was
/// lost was redeemed all the same.
async fn reach(beacon: &BeaconEntry, key: &Arc<IdentityKey>) -> Result<Call, CallError> {
    let config = |caller| CallConfig {
        beacon: beacon.address.clone(),
        key: Some(beacon.identity),
        identity: Arc::clone(key),
        caller,
        timeout: PATIENCE,
    };
    let claim = beacon
        .claim
        .as_deref()
        .and_then(|claim| Claim::parse(claim).ok());
    if let Some(claim) = claim {
        match call(config(CallAs::Claimant {
            secret: *claim.secret,
        }))
        .await
        {
            Err(CallError::Link(LinkFault::Refused(Refusal::AlreadyClaimed))) => {}
            result => return result,
        }
    }
    call(config(CallAs::Operator)).await
}

/// Everything that a beacon must know, in the order in which each verifies by the one before: the
/// trust log, its own membership, the other beacons', what was renewed, policy, revocations; these
/// right behind the trust log where they are what matters.
fn documents_for(
    files: &OperatorFiles,
    beacon: &BeaconEntry,
    first: First,
    now: UnixTime,
) -> Vec<(&'static str, Document)> {
    let trust = &files.trust;
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let mut documents = vec![("trust log", Document::TrustLog(bytes(trust.trust_log())))];
    let mut members: Vec<_> = trust
        .members()
        // What came by token reaches the beacons from its holder.
        .filter(|member| member.enrolled_by.is_none())
        .filter(|member| trust.standing(&member.node, now) == Standing::Good)
        .collect();
    members.sort_by_key(|member| (member.node != beacon.node, member.role != Role::Beacon));
    for member in members {
        let certificate = trust.certificate(&member.node).map(bytes);
        documents.extend(certificate.map(|bytes| (CERTIFICATE, Document::Certificate(bytes))));
    }
    let policy = trust
        .policy()
        .map(|policy| Document::Policy(bytes(&policy.bytes)));
    documents.extend(policy.map(|policy| ("policy", policy)));
    let revocations = trust
        .revocations()
        .map(|held| Document::Revocations(bytes(&held.bytes)));
    let revocations = revocations.map(|held| ("revocations", held));
    match (first, revocations) {
        (First::Kills, Some(held)) => documents.insert(1, held),
        (_, held) => documents.extend(held),
    }
    documents
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const CERTIFICATE: &str = "membership";

/// For the call, and then for each answer: a beacon on another continent that also fsyncs.
const PATIENCE: Duration = Duration::from_secs(10);
