//! Who is in and who is out: `invite`, `remove`, `renew`.

use std::collections::BTreeSet;

use identity::{
    Change, Claim, HostPort, IssueError, Issued, Issuer, KeyRole, NodeId, NodeName, Request,
    RevocationSet, Role, Standing, Terms, UnixTime,
};
use serde_json::json;

use crate::context::{Context, argument_or_stdin, now, random};
use crate::failure::Failure;
use crate::operator::files::OperatorFiles;
use crate::operator::push::{pull, push, push_to};
use crate::operator::{InviteArgs, RemoveArgs, RenewArgs, YEAR};
use crate::output::note;

/// Makes a token, or adds a beacon.
pub fn invite(args: InviteArgs, context: &Context) -> Result<(), Failure> {
    let mut files = OperatorFiles::open(context)?;
    match (&args.name, &args.beacon, &args.claim) {
        (Some(name), ..) => invite_gateway(&mut files, name, &args, context),
        (None, Some(address), Some(claim)) => invite_beacon(&mut files, address, claim, context),
        _ => Err(Failure::usage(
            "invite needs --name, or --beacon and --claim",
        )),
    }
}

fn invite_gateway(
    files: &mut OperatorFiles,
    name: &NodeName,
    args: &InviteArgs,
    context: &Context,
) -> Result<(), Failure> {
    let now = now();
    warn_of_tags(files, args);
    let request = args.request.as_deref().map(read_request).transpose()?;
    let replaced = files.ledger.named(name, now).map(|issued| issued.node);
    if let Some(old) = replaced.filter(|_| args.replace) {
        revoke(files, &[old], now)?;
    }
    let terms = Terms {
        name: name.clone(),
        user: args.user.clone(),
        tags: args.tags.clone(),
        valid_for: args.valid_for,
        replace: args.replace,
    };
    let key = files.role(KeyRole::Issuer)?;
    let beacon = files
        .living_beacons(now)
        .next()
        .map(|beacon| (beacon.node, beacon.claim.is_some()));
    let seed = random()?;
    let mut issuer = Issuer::new(&key, &files.trust, &mut files.ledger).map_err(refused)?;
    let invited = match (&request, &beacon) {
        (Some(request), _) => issuer.invite_key(&terms, request.identity(), now),
        (None, Some((beacon, _))) => issuer.invite(&terms, beacon, args.ttl, seed, now),
        (None, None) => Err(IssueError::NoBeacon),
    };
    let invited = invited.map_err(refused)?;
    files.save()?;
    if beacon.is_none_or(|(_, unclaimed)| unclaimed) {
        note("the beacon is not claimed yet: run `crabmesh policy push` before the gateway joins");
    }
    if args.replace && replaced.is_some() && push(files, context).is_err() {
        note(format!(
            "the old {name} is revoked here only: run `crabmesh policy push`"
        ));
    }
    let text = invited.token.to_text();
    match context.json {
        true => context.output().object(&json!({
            "token": *text, "name": name, "node": invited.node,
            "secret": request.is_none(), "replaced": invited.replaced,
        })),
        false => context.output().line(text.as_str()),
    }
}

fn invite_beacon(
    files: &mut OperatorFiles,
    address: &HostPort,
    claim: &str,
    context: &Context,
) -> Result<(), Failure> {
    let claim = read_claim(claim)?;
    let node = sign_beacon(files, address, &claim, now())?;
    files.save()?;
    let beacons: Vec<_> = files
        .beacons
        .iter()
        .filter(|beacon| beacon.node == node)
        .cloned()
        .collect();
    push_to(files, &beacons, context)?;
    if let Err(failure) = push(files, context) {
        note(format!("{failure}"));
    }
    match context.json {
        true => context
            .output()
            .object(&json!({"beacon": address, "node": node})),
        false => context
            .output()
            .line(format!("beacon {address} serves this mesh")),
    }
}

/// Signs a beacon's membership for the key of its claim, and notes where it is.
pub fn sign_beacon(
    files: &mut OperatorFiles,
    address: &HostPort,
    claim: &Claim,
    now: UnixTime,
) -> Result<NodeId, Failure> {
    let number = files
        .ledger
        .issued()
        .filter(|issued| issued.role() == Role::Beacon)
        .count()
        + 1;
    let name: NodeName = format!("beacon-{number}")
        .parse()
        .map_err(|error| Failure::failed(format!("cannot name the beacon: {error}")))?;
    let key = files.role(KeyRole::Issuer)?;
    let certificate = Issuer::new(&key, &files.trust, &mut files.ledger)
        .and_then(|mut issuer| issuer.beacon(name, address.clone(), claim.identity, YEAR, now))
        .map_err(refused)?;
    files.add_beacon(&certificate, claim, now)?;
    let node = files.beacons.last().map(|beacon| beacon.node);
    node.ok_or_else(|| Failure::failed("the beacon was not noted"))
}

/// Revokes a gateway or a beacon.
pub fn remove(args: &RemoveArgs, context: &Context) -> Result<(), Failure> {
    let mut files = OperatorFiles::open(context)?;
    let now = now();
    let address: Option<HostPort> = args.target.parse().ok();
    let (node, what) = match address {
        Some(address) => {
            let issued = files.ledger.beacon_at(&address).map(|issued| issued.node);
            let node = issued
                .ok_or_else(|| Failure::usage(format!("no beacon of this mesh is at {address}")))?;
            keep_its_members(&mut files, &node, context, now)?;
            (node, format!("beacon {address}"))
        }
        None => {
            let name: NodeName = args
                .target
                .parse()
                .map_err(|error| Failure::usage(format!("{error}")))?;
            let issued = files.ledger.named(&name, now).or_else(|| {
                // One whose membership ended, or whose token ran out, can still be put away.
                files
                    .ledger
                    .issued()
                    .find(|issued| issued.name == name && !issued.revoked)
            });
            let node = issued.map(|issued| issued.node);
            let node =
                node.ok_or_else(|| Failure::usage(format!("this mesh has no gateway {name}")))?;
            (node, name.to_string())
        }
    };
    // Also to the beacon that goes: where it is honest, it says so itself.
    let beacons: Vec<_> = files.living_beacons(now).cloned().collect();
    revoke(&mut files, &[node], now)?;
    files.save()?;
    let pushed = push_to(&mut files, &beacons, context)?;
    if files.living_beacons(now).next().is_none() {
        note(
            "this mesh has no beacon left: add one with `crabmesh invite --beacon HOST:PORT --claim C`",
        );
    }
    match context.json {
        true => context
            .output()
            .object(&json!({"removed": args.target, "node": node, "stored_by": pushed.stored})),
        false => context.output().line(format!(
            "{what} is revoked; stored by {}",
            pushed.stored.join(", ")
        )),
    }
}

/// Re-signs the identity keys that a beacon enrolled, before its receipts are void.
fn keep_its_members(
    files: &mut OperatorFiles,
    beacon: &NodeId,
    context: &Context,
    now: UnixTime,
) -> Result<(), Failure> {
    if let Err(failure) = pull(files, context) {
        note(format!(
            "{failure}; only members that this machine met before are kept"
        ));
    }
    let enrolled: Vec<Issued> = files
        .ledger
        .issued()
        .filter(|issued| issued.enrolled_by.as_ref() == Some(beacon) && issued.is_living(now))
        .cloned()
        .collect();
    for issued in enrolled {
        match renew_one(files, &issued, now)? {
            Some(_) => {}
            None => note(format!(
                "{} never joined: its token is void now",
                issued.name
            )),
        }
    }
    Ok(())
}

/// Signs memberships anew.
pub fn renew(args: &RenewArgs, context: &Context) -> Result<(), Failure> {
    let mut files = OperatorFiles::open(context)?;
    let now = now();
    let wanted: Vec<NodeId> = match &args.name {
        Some(name) => {
            let issued = files
                .ledger
                .issued()
                .find(|issued| issued.name == *name && !issued.revoked);
            let node = issued.map(|issued| issued.node);
            vec![node.ok_or_else(|| Failure::usage(format!("this mesh has no gateway {name}")))?]
        }
        None => files
            .ledger
            .issued()
            .filter(|issued| !issued.revoked)
            .map(|issued| issued.node)
            .collect(),
    };
    if let Err(failure) = pull(&mut files, context) {
        note(format!(
            "{failure}; only members that this machine met before are renewed"
        ));
    }
    let mut renewed = Vec::new();
    for node in wanted {
        let Some(issued) = files.ledger.node(&node).cloned() else {
            continue;
        };
        if args.all && is_killed(&files, &issued, now) {
            note(format!("{} is killed, and not renewed", issued.name));
            continue;
        }
        match renew_one(&mut files, &issued, now)? {
            Some(expires_at) => renewed.push((issued.name, node, expires_at)),
            None if args.all => note(format!("{} has not joined yet", issued.name)),
            None => {
                return Err(Failure::failed(format!(
                    "{} has not joined yet, so its key is not known",
                    issued.name
                ))
                .hint("a new token is made by `crabmesh invite --replace`"));
            }
        }
    }
    files.save()?;
    push(&mut files, context)?;
    for (name, node, expires_at) in renewed {
        match context.json {
            true => context
                .output()
                .object(&json!({"name": name, "node": node, "expires_at": expires_at.0}))?,
            false => {
                let days = expires_at.0.saturating_sub(now.0) / 86_400;
                context
                    .output()
                    .line(format!("{name} is good for {days} days"))?;
            }
        }
    }
    Ok(())
}

/// Signs again everybody whose identity key this machine knows: what follows the end of an
/// issuer's epoch, whose memberships nobody takes who did not have them before.
pub fn renew_known(files: &mut OperatorFiles, now: UnixTime) -> Result<(), Failure> {
    let living: Vec<Issued> = files
        .ledger
        .issued()
        .filter(|issued| issued.is_living(now))
        .cloned()
        .collect();
    for issued in living {
        if is_killed(files, &issued, now) {
            note(format!("{} is killed, and not renewed", issued.name));
        } else if renew_one(files, &issued, now)?.is_none() {
            let name = &issued.name;
            note(format!(
                "{name} is not renewed, as its key is not known here; hint: `crabmesh invite --replace`"
            ));
        }
    }
    Ok(())
}

/// Out by a kill, which may be lifted: nobody takes a renewal of it before that.
fn is_killed(files: &OperatorFiles, issued: &Issued, now: UnixTime) -> bool {
    !issued.revoked && files.trust.standing(&issued.node, now) == Standing::Revoked
}

/// Renews one member by the identity key that this machine verified; `None` where it has none.
fn renew_one(
    files: &mut OperatorFiles,
    issued: &Issued,
    now: UnixTime,
) -> Result<Option<UnixTime>, Failure> {
    let Some(identity) = files
        .ledger
        .node(&issued.node)
        .and_then(|issued| issued.identity)
    else {
        return Ok(None);
    };
    let key = files.role(KeyRole::Issuer)?;
    let certificate = Issuer::new(&key, &files.trust, &mut files.ledger)
        .and_then(|mut issuer| issuer.renew(&issued.node, identity, None, now))
        .map_err(refused)?;
    files
        .trust
        .accept_certificate(&certificate, now)
        .map_err(|error| {
            Failure::failed(format!(
                "the renewal of {} does not hold: {error}",
                issued.name
            ))
        })?;
    Ok(files
        .trust
        .member(&issued.node)
        .map(|member| member.expires_at))
}

/// Signs the next revocation set with these in it; the caller saves and pushes.
pub fn revoke(files: &mut OperatorFiles, nodes: &[NodeId], now: UnixTime) -> Result<(), Failure> {
    let mut set = files
        .trust
        .revocations()
        .map(|held| held.set.clone())
        .unwrap_or_default();
    set.nodes.extend(nodes);
    sign_revocations(files, &set, now)?;
    nodes.iter().for_each(|node| files.ledger.revoke(node));
    Ok(())
}

/// Takes out of a set what is a kill, and not the removal of a member; says what that is.
pub fn lift_kills(files: &OperatorFiles, set: &mut RevocationSet) {
    for block in std::mem::take(&mut set.blocks) {
        note(format!("lifted: {block}"));
    }
    let removed = files.ledger.issued().filter(|issued| issued.revoked);
    let removed: BTreeSet<NodeId> = removed.map(|issued| issued.node).collect();
    for node in set.nodes.difference(&removed) {
        match files.ledger.node(node) {
            Some(issued) => note(format!("lifted: gateway {}", issued.name)),
            None => note(format!("lifted: node {}", node.to_hex())),
        }
    }
    set.nodes = removed;
}

/// Signs a whole set as the next one.
pub fn sign_revocations(
    files: &mut OperatorFiles,
    set: &RevocationSet,
    now: UnixTime,
) -> Result<Change, Failure> {
    let key = files.role(KeyRole::Revoker)?;
    let bytes = key
        .sign_revocations(set, files.trust.revocations(), &files.trust.mesh(), now)
        .map_err(refused)?;
    files
        .trust
        .accept_revocations(&bytes, now)
        .map_err(|error| Failure::failed(format!("the revocation does not hold: {error}")))
}

/// A tag that the policy does not know is most often a slip.
fn warn_of_tags(files: &OperatorFiles, args: &InviteArgs) {
    let Some(text) = files.policy_text() else {
        return;
    };
    let Ok((document, _)) = policy::Document::parse("policy.hujson", &text) else {
        return;
    };
    for tag in args.tags.iter().filter(|tag| !document.declares(tag)) {
        note(format!(
            "policy.hujson does not know {tag}: no grant will name this gateway by it"
        ));
    }
}

/// A claim, or `-` for stdin.
pub fn read_claim(argument: &str) -> Result<Claim, Failure> {
    let text = text_of(argument)?;
    let text = text.trim().trim_start_matches("claim ").trim();
    Claim::parse(text).map_err(|error| {
        Failure::usage(error.to_string()).hint("pass what the beacon printed after `claim`")
    })
}

fn read_request(argument: &str) -> Result<Request, Failure> {
    Request::parse(&text_of(argument)?).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("pass what `crabmesh join --request` printed on the gateway")
    })
}

fn text_of(argument: &str) -> Result<String, Failure> {
    let bytes = argument_or_stdin(argument, MAX_TEXT)?;
    String::from_utf8(bytes).map_err(|_| Failure::usage("that is not text"))
}

/// Why it was not signed, with the one thing to try.
pub fn refused(error: IssueError) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error {
        IssueError::NameTaken(_) => {
            failure.hint("choose another, or revoke the old one with --replace")
        }
        IssueError::NoBeacon => {
            failure.hint("add one with `crabmesh invite --beacon HOST:PORT --claim C`")
        }
        IssueError::NotIssuer => failure.hint("make a new one with `crabmesh root replace issuer`"),
        IssueError::UserAndTags => failure.hint("give --tag or --user"),
        IssueError::KnownKey => {
            failure.hint("make new keys with another --state-dir, and a new request")
        }
        _ => failure,
    }
}

/// Far more than any claim or request.
const MAX_TEXT: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use identity::{IdentityKey, RecoveryCode, Root, Token, Trust};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InviteArgs,
    }

    fn args(line: &str) -> InviteArgs {
        Line::try_parse_from(line.split(' '))
            .map(|line| line.args)
            .expect("a command line")
    }

    fn found(path: &Path) -> OperatorFiles {
        let name = "home".parse().expect("a name");
        let (root, roles, log) =
            Root::found(&name, [1; 32], [[2; 32], [3; 32], [4; 32], [5; 32]], now());
        let trust = Trust::new(log.bytes(), now()).expect("its own log");
        let code = RecoveryCode::generate([6; 16]);
        let mut files =
            OperatorFiles::create(path, &root, &code, [7; 16], &roles, trust).expect("made");
        let claim = Claim {
            identity: IdentityKey::generate([8; 32]).public(),
            secret: zeroize::Zeroizing::new([9; 32]),
        };
        let address = "127.0.0.1:4747".parse().expect("an address");
        sign_beacon(&mut files, &address, &claim, now()).expect("signed");
        files.save().expect("saved");
        files
    }

    #[test]
    fn a_request_is_answered_by_a_membership_for_its_key_alone() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut files = found(&home.path().join("operator"));
        let key = IdentityKey::generate([20; 32]);
        let request = Request::parse(&Request::make(&key)).expect("its own");

        let terms = Terms {
            name: "gw-a".parse().expect("a name"),
            user: None,
            tags: Vec::new(),
            valid_for: YEAR,
            replace: false,
        };
        let issuer = files.role(KeyRole::Issuer).expect("its key");
        let invited = Issuer::new(&issuer, &files.trust, &mut files.ledger)
            .and_then(|mut issuer| issuer.invite_key(&terms, request.identity(), now()))
            .expect("a new name");

        let token = Token::parse(&invited.token.to_text()).expect("its own");
        let mesh = files.trust.mesh();
        assert!(token.certify(&mesh, &key).is_ok());
        assert!(
            token
                .certify(&mesh, &IdentityKey::generate([21; 32]))
                .is_err()
        );
    }

    #[test]
    fn a_name_is_given_once_and_a_replaced_node_is_revoked() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let context = Context::new(Some(home.path().into()), true);
        drop(found(&home.path().join("operator")));
        let first = args("invite --name gw-a --tag tag:gateway");
        let again = args("invite --name gw-a --tag tag:gateway");

        invite(first, &context).expect("the first");
        assert!(invite(again, &context).is_err());

        let mut files = OperatorFiles::open(&context).expect("there");
        let old = files
            .ledger
            .named(&"gw-a".parse().expect("a name"), now())
            .expect("issued")
            .node;
        revoke(&mut files, &[old], now()).expect("signed");
        files.save().expect("saved");
        assert_eq!(files.trust.standing(&old, now()), Standing::Revoked);
        drop(files);
        invite(args("invite --name gw-a --tag tag:gateway"), &context).expect("the name is free");
    }
}
