//! `crabmesh join`: makes this host a gateway. Keys are made here and never leave.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use identity::{
    IdentityKey, Invitation, Request, Token, TokenError, Trust, TrustError, WireGuardKey,
};
use net::link::{CallAs, CallConfig, CallError, LinkFault, call};
use node::files::{CERTIFICATE, NODE, NODE_KEY, NodeFile, TRUST, WIREGUARD_KEY};
use node::state::{StateDir, StateLock};
use serde_json::json;
use wire::link::Refusal;
use wire::map::PublishError;
use zeroize::Zeroizing;

use crate::context::{Context, Owner, argument_or_stdin, now, random};
use crate::failure::Failure;
use crate::output::note;

/// Make this host a gateway of a mesh. Its keys are made here and never leave.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabmesh join - < gw-a.token            the token of `crabmesh invite`, on stdin
  crabmesh join --request                 print a request for `crabmesh invite --for`; no secret travels")]
pub struct Args {
    /// The token, or - for stdin (a literal one is visible to others in the process list)
    #[arg(
        value_name = "TOKEN|-",
        required_unless_present = "request",
        conflicts_with = "request"
    )]
    pub token: Option<String>,
    /// Make keys and print a request instead of using a token
    #[arg(long)]
    pub request: bool,
}

/// Prints a request, or joins.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let Some(token) = args.token else {
        let home = Home::open(context)?;
        let text = Request::make(&home.identity()?);
        return match context.json {
            true => context.output().object(&json!({"request": *text})),
            false => context.output().line(text.as_str()),
        };
    };
    if token != "-" {
        note(
            "warning: a token on the command line can be read by other users of this host; prefer `crabmesh join -`",
        );
    }
    let text = Zeroizing::new(argument_or_stdin(&token, MAX_TOKEN)?);
    let text = std::str::from_utf8(&text).map_err(|_| Failure::usage("the token is not text"))?;
    let token = Token::parse(text).map_err(|error| {
        Failure::usage(error.to_string()).hint("pass exactly what `crabmesh invite` printed")
    })?;
    join(&token, context)
}

fn join(token: &Token, context: &Context) -> Result<(), Failure> {
    let home = Home::open(context)?;
    let now = now();
    let invitation = token.open(now).map_err(|error| unusable(&error))?;
    let identity = home.identity()?;
    let mesh = invitation.trust.mesh();
    let papers = token
        .certify(&mesh, &identity)
        .map_err(|error| unusable(&error))?;
    let certificate = match &invitation.redeem_at {
        None => papers,
        Some(_) => {
            let receipt = redeem(&invitation, &papers, &identity, context)?;
            Token::complete(&papers, &receipt, &mesh).map_err(|error| unusable(&error))?
        }
    };
    let mut trust = invitation.trust;
    trust
        .enroll(&certificate, &identity.public(), now)
        .map_err(|error| {
            Failure::failed(format!("the beacon's receipt does not hold: {error}"))
                .hint("the beacon may be hostile: ask the operator")
        })?;
    home.settle(&trust, &certificate)?;
    let Some(own) = trust.member(&invitation.node) else {
        return Err(Failure::failed("the membership was not kept"));
    };
    if context.json {
        return context.output().object(&json!({
            "mesh": trust.mesh_name(), "name": own.name, "node": own.node, "tags": own.tags,
            "user": own.user, "overlay": own.overlay, "expires_at": own.expires_at.0,
        }));
    }
    context.output().line(format!(
        "this is {} ({}) of mesh {}",
        own.name,
        own.node,
        trust.mesh_name()
    ))?;
    note("next: crabmesh up");
    Ok(())
}

/// Shows the papers to the beacon that the token names, and takes its receipt.
fn redeem(
    invitation: &Invitation,
    papers: &[u8],
    identity: &IdentityKey,
    context: &Context,
) -> Result<Bytes, Failure> {
    let named = invitation
        .redeem_at
        .and_then(|(beacon, _)| invitation.trust.member(&beacon));
    let Some((beacon, address)) = named.and_then(|beacon| Some((beacon, beacon.beacon.clone()?)))
    else {
        return Err(unusable(&TokenError::Trust(TrustError::UnknownBeacon)));
    };
    let certificate = Bytes::copy_from_slice(papers);
    let config = CallConfig {
        beacon: address.clone(),
        key: Some(beacon.identity),
        identity: Arc::new(identity.clone()),
        caller: CallAs::Joiner {
            certificate: certificate.clone(),
        },
        timeout: PATIENCE,
    };
    context.block_on(async {
        let failed = |error: CallError| refused(&error, &address.to_string());
        let mut session = call(config).await.map_err(failed)?;
        let receipt = session.enroll(certificate).await.map_err(failed)?;
        session.close().await;
        Ok(receipt)
    })
}

/// A gateway's state directory before it is a gateway.
struct Home {
    dir: StateDir,
    _lock: StateLock,
}

impl Home {
    fn open(context: &Context) -> Result<Self, Failure> {
        let dir = StateDir::create(&context.state_dir(Owner::Gateway)?)?;
        let lock = dir.lock()?;
        if dir.file(CERTIFICATE).exists() {
            let path = dir.path().display();
            return Err(Failure::failed(format!("{path} is a gateway already"))
                .hint("start it with `crabmesh up`, or name another directory with --state-dir"));
        }
        Ok(Self { dir, _lock: lock })
    }

    /// The key that a request was made with, or that an earlier try left, else a new one: a token
    /// whose receipt was lost on the way can be redeemed again by the same key only.
    fn identity(&self) -> Result<IdentityKey, Failure> {
        Ok(IdentityKey::from_bytes(
            &*self.secret(NODE_KEY, |seed| IdentityKey::generate(seed).to_bytes())?,
        ))
    }

    /// Writes everything; the certificate last, as it is what makes this a gateway.
    fn settle(&self, trust: &Trust, certificate: &[u8]) -> Result<(), Failure> {
        self.secret(WIREGUARD_KEY, |seed| {
            WireGuardKey::generate(seed).to_bytes()
        })?;
        let node = trust
            .holder()
            .ok_or_else(|| Failure::failed("the membership was not kept"))?;
        let facts = NodeFile {
            mesh: trust.mesh_name().clone(),
            node,
            boot: 0,
        };
        self.dir.write_json(NODE, &facts)?;
        self.dir.write(TRUST, &trust.snapshot())?;
        Ok(self.dir.write(CERTIFICATE, certificate)?)
    }

    fn secret(
        &self,
        name: &str,
        make: fn([u8; 32]) -> Zeroizing<[u8; 32]>,
    ) -> Result<Zeroizing<[u8; 32]>, Failure> {
        if let Some(bytes) = self.dir.read(name)?.map(Zeroizing::new) {
            let known: [u8; 32] = bytes.as_slice().try_into().map_err(|_| {
                Failure::failed(format!("{} is not a key", self.dir.file(name).display()))
            })?;
            return Ok(Zeroizing::new(known));
        }
        let key = make(random()?);
        self.dir.write(name, key.as_slice())?;
        Ok(key)
    }
}

/// Why a token is of no use, with the one thing to try.
fn unusable(error: &TokenError) -> Failure {
    let sentence = match error {
        TokenError::Trust(cause) => format!("the token does not verify: {cause}"),
        TokenError::Format(cause) => format!("the token cannot be read: {cause}"),
        other => other.to_string(),
    };
    let failure = Failure::failed(sentence);
    match error {
        TokenError::OtherKey => failure.hint(
            "it answers the request of another gateway; make one with `crabmesh join --request`",
        ),
        _ => failure.hint("ask the operator for a new one: `crabmesh invite --replace`"),
    }
}

/// Why the beacon gave no receipt. A token that somebody else used must be loud: it may be stolen.
fn refused(error: &CallError, beacon: &str) -> Failure {
    let refusal = match error {
        CallError::Link(LinkFault::Refused(refusal))
        | CallError::Refused(PublishError::Refused(refusal)) => Some(*refusal),
        _ => None,
    };
    match refusal {
        Some(Refusal::TokenSpent) => {
            Failure::failed("THE TOKEN WAS USED ALREADY by another host, or its time is over")
                .hint("if nobody of yours used it, it was stolen: the operator revokes it and makes a new one with `crabmesh invite --replace`")
        }
        Some(Refusal::Unclaimed) => Failure::failed(format!("the beacon {beacon} does not serve this mesh yet"))
            .hint("the operator claims it with `crabmesh policy push`"),
        Some(Refusal::Revoked) => Failure::failed("this invitation was revoked").hint("ask the operator for a new one"),
        Some(Refusal::OtherMesh | Refusal::Unproven) => {
            Failure::failed(format!("the beacon {beacon} does not take this token"))
                .hint("ask the operator whether `crabmesh policy push` was run since `crabmesh invite`")
        }
        Some(other) => Failure::failed(format!("the beacon {beacon} refused: {other}")),
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            Failure::failed(format!("{beacon}: {text}")).hint("see that the beacon runs, and that this host reaches it by UDP or TCP")
        }
    }
}

/// Far more than any token.
const MAX_TOKEN: usize = 256 << 10;

/// For the call, and then for the receipt.
const PATIENCE: Duration = Duration::from_secs(10);
