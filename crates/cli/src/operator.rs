//! The operator's verbs: they work on signed files, and reach a beacon under the operator's own
//! identity.

mod files;
mod first_policy;
mod groups;
mod history;
mod kill;
mod membership;
mod policies;
mod push;

use std::io::IsTerminal;
use std::time::Duration;

use identity::{
    HostPort, KeyRole, MeshName, NodeName, RecoveryCode, Role, Root, Tag, Trust, UnixTime, UserName,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::context::{Context, Owner, argument_or_stdin, now, random};
use crate::duration;
use crate::failure::Failure;
use crate::output::note;
use files::OperatorFiles;
use first_policy::first_policy;

pub use history::{SignedPolicy, version};
pub use kill::{KillArgs, kill};
pub use policies::{Standing, history, push_policy, signed_text, standing};

/// Make a mesh: a sealed root key, role keys, a first policy.hujson with tests; claim its first
/// beacon. Shows the recovery code once.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  crabmesh init --mesh home --beacon beacon.example.com:4747 --claim C --user ana@example.com"
)]
pub struct InitArgs {
    /// The name of the mesh
    #[arg(long, value_name = "NAME")]
    pub mesh: MeshName,
    /// Where the beacon listens
    #[arg(long, value_name = "HOST:PORT")]
    pub beacon: HostPort,
    /// What the beacon printed after `claim`
    #[arg(long, value_name = "C")]
    pub claim: String,
    /// Who you are, for the first policy
    #[arg(long, value_name = "MAIL")]
    pub user: Option<UserName>,
}

/// Make a one-time token by which a gateway joins, offline; only the token goes to stdout. With
/// --beacon and --claim: add one more beacon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabmesh invite --name gw-a --tag tag:home > gw-a.token
  crabmesh invite --name gw-b --user ana@example.com --ttl 1h
  crabmesh invite --name gw-c --tag tag:home --for REQUEST     after `crabmesh join --request`
  crabmesh invite --beacon b2.example.com:4747 --claim C       one more beacon")]
pub struct InviteArgs {
    /// The gateway's name
    #[arg(long, value_name = "NAME", required_unless_present = "beacon", conflicts_with_all = ["beacon", "claim"])]
    pub name: Option<NodeName>,
    /// A tag that it carries; may be repeated
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "user")]
    pub tags: Vec<Tag>,
    /// The person whose gateway it is
    #[arg(long, value_name = "MAIL")]
    pub user: Option<UserName>,
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    pub ttl: Duration,
    /// How long the membership is good
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration::parse)]
    pub valid_for: Duration,
    /// What `join --request` printed: the membership is made for its keys, and no secret travels
    #[arg(long = "for", value_name = "REQUEST")]
    pub request: Option<String>,
    /// Replace the gateway of that name, which is revoked
    #[arg(long)]
    pub replace: bool,
    /// The further beacon's address
    #[arg(long, value_name = "HOST:PORT", requires = "claim")]
    pub beacon: Option<HostPort>,
    /// What that beacon printed after `claim`
    #[arg(long, value_name = "C", requires = "beacon")]
    pub claim: Option<String>,
}

/// Revoke a gateway or a beacon, and push that to every beacon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  crabmesh remove gw-a\n  crabmesh remove b2.example.com:4747")]
pub struct RemoveArgs {
    /// The gateway's name, or the beacon's address
    #[arg(value_name = "GATEWAY|HOST:PORT")]
    pub target: String,
}

/// Sign memberships anew, and push them to every beacon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  crabmesh renew gw-a\n  crabmesh renew --all")]
pub struct RenewArgs {
    /// The gateway
    #[arg(
        value_name = "NAME",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub name: Option<NodeName>,
    /// Every gateway and beacon
    #[arg(long)]
    pub all: bool,
}

/// What only the recovery code can do.
#[derive(Debug, clap::Args)]
pub struct RootArgs {
    #[command(subcommand)]
    pub command: RootCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum RootCommand {
    /// Give a role a new key and a higher epoch; the recovery code is read from stdin
    #[command(after_help = "Examples:
  crabmesh root replace issuer < recovery-code
  crabmesh root replace revoker < recovery-code     also lifts every kill")]
    Replace {
        /// issuer, policy, revoker or operator. A new revoker lifts every kill; gateways and beacons
        /// that were removed stay out
        #[arg(value_name = "ROLE")]
        role: String,
        /// With revoker: lift no kill
        #[arg(long)]
        keep_kills: bool,
    },
}

/// Founds a mesh.
pub fn init(args: InitArgs, context: &Context) -> Result<(), Failure> {
    let claim = membership::read_claim(&args.claim)?;
    let (now, path) = (now(), context.state_dir(Owner::Operator)?);
    let code = RecoveryCode::generate(random()?);
    let seeds = [random()?, random()?, random()?, random()?];
    let (root, roles, log) = Root::found(&args.mesh, random()?, seeds, now);
    let trust = Trust::new(log.bytes(), now)
        .map_err(|error| Failure::failed(format!("the new trust log does not hold: {error}")))?;
    let mut files = OperatorFiles::create(&path, &root, &code, random()?, &roles, trust)?;
    membership::sign_beacon(&mut files, &args.beacon, &claim, now)?;
    files.write_owner(args.user.as_ref())?;
    let policy = files.write_policy(&first_policy(args.mesh.as_str(), args.user.as_ref()))?;
    files.save()?;

    note(format!("\nrecovery code: {}\n", *code.to_text()));
    note(
        "Write it down now: it is shown this once, and it alone replaces a stolen or lost key of this mesh.\n",
    );
    if context.json {
        return context.output().object(&json!({
            "mesh": args.mesh, "mesh_id": log.mesh(), "beacon": args.beacon,
            "state_dir": path, "policy": policy,
        }));
    }
    let verb = match context.state_dir_named() {
        true => format!(
            "crabmesh --state-dir {}",
            path.parent().unwrap_or(&path).display()
        ),
        false => "crabmesh".to_owned(),
    };
    let out = context.output();
    out.line(format!(
        "mesh {} is made; its files are in {}",
        args.mesh,
        path.display()
    ))?;
    out.line("Next:")?;
    out.line(format!(
        "  1. {verb} policy push      claims the beacon, and gives it {}",
        policy.display()
    ))?;
    out.line(format!(
        "  2. {verb} invite --name gw-a --tag tag:gateway > gw-a.token"
    ))?;
    out.line("  3. crabmesh join - < gw-a.token      on the gateway, within 15 minutes")?;
    out.line("  4. crabmesh up                       on the gateway")?;
    out.line("  5. crabmesh agent add coder          on the gateway, in another terminal")
}

/// Makes a token, or adds a beacon.
pub fn invite(args: InviteArgs, context: &Context) -> Result<(), Failure> {
    membership::invite(args, context)
}

/// Revokes.
pub fn remove(args: RemoveArgs, context: &Context) -> Result<(), Failure> {
    membership::remove(&args, context)
}

/// Signs anew.
pub fn renew(args: RenewArgs, context: &Context) -> Result<(), Failure> {
    membership::renew(&args, context)
}

/// What only the recovery code can do.
pub fn root(args: RootArgs, context: &Context) -> Result<(), Failure> {
    let RootCommand::Replace { role, keep_kills } = args.command;
    let role: KeyRole = role
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")))?;
    if keep_kills && role != KeyRole::Revoker {
        return Err(Failure::usage("--keep-kills is for the revoker"));
    }
    let mut files = OperatorFiles::open(context)?;
    if std::io::stdin().is_terminal() {
        note("recovery code, then return and ctrl-d:");
    }
    let typed = Zeroizing::new(argument_or_stdin("-", 4096)?);
    let typed =
        std::str::from_utf8(&typed).map_err(|_| Failure::usage("the recovery code is not text"))?;
    let code = RecoveryCode::parse(typed).map_err(|error| Failure::usage(error.to_string()))?;
    let now = now();
    if role == KeyRole::Issuer
        && let Err(failure) = push::pull(&mut files, context)
    {
        note(format!(
            "{failure}; only members that this machine met before are renewed"
        ));
    }
    // What the ended key signed is read before the log ends it.
    let policy = files.trust.policy().map(|policy| policy.text.clone());
    let revoked = files.trust.revocations().map(|held| held.set.clone());
    files.replace_role(role, &code, random()?, now, now)?;
    match role {
        KeyRole::Policy => {
            if let Some(text) = policy {
                policies::sign_policy(&mut files, &text, now)?;
            }
        }
        KeyRole::Revoker => {
            // The first complete set of the new epoch: who was removed here stays so.
            let mut set = revoked.unwrap_or_default();
            if !keep_kills {
                membership::lift_kills(&files, &mut set);
            }
            membership::sign_revocations(&mut files, &set, now)?;
        }
        KeyRole::Issuer => membership::renew_known(&mut files, now)?,
        KeyRole::Operator => {}
    }
    files.save()?;
    let (epoch, _) = files.trust.log().current(role);
    let pushed = push::push(&mut files, context);
    match context.json {
        true => context
            .output()
            .object(&json!({"role": role.as_str(), "epoch": epoch}))?,
        false => context
            .output()
            .line(format!("{role} has a new key, epoch {epoch}"))?,
    }
    pushed.map(|_| ())
}

/// The living gateways of this mesh, for the policy's tests; none where there is no mesh yet.
pub fn gateways(context: &Context) -> Result<Vec<policy::Node>, Failure> {
    let path = context.state_dir(Owner::Operator)?;
    if !path.join("trust.cbor").exists() {
        return Ok(Vec::new());
    }
    Ok(gateways_of(&OperatorFiles::open_in(&path)?, now()))
}

fn gateways_of(files: &OperatorFiles, now: UnixTime) -> Vec<policy::Node> {
    let mesh = files.trust.mesh();
    let living = files
        .ledger
        .issued()
        .filter(|issued| issued.role() == Role::Gateway && issued.is_living(now));
    let nodes = living.map(|issued| policy::Node {
        user: issued.user.clone(),
        tags: issued.tags.clone(),
        addresses: vec![identity::overlay_address(&mesh, &issued.node).into()],
        attributes: policy::attributes(
            &issued.enrolment,
            (issued.issued_at, issued.expires_at),
            Some(now),
        ),
        ..policy::Node::new(issued.node, issued.name.clone())
    });
    nodes.collect()
}

/// The policy in force, as this operator's machine holds it; none where there is no mesh or no
/// policy yet.
pub fn policy_in_force(context: &Context) -> Result<Option<String>, Failure> {
    let path = context.state_dir(Owner::Operator)?;
    if !path.join("trust.cbor").exists() {
        return Ok(None);
    }
    let files = OperatorFiles::open_in(&path)?;
    Ok(files.trust.policy().map(|policy| policy.text.clone()))
}

/// How long a membership is good unless asked otherwise (identity.md §3).
const YEAR: Duration = Duration::from_secs(365 * 86_400);
