//! `crabmesh kill`: adds to the signed revocation set, pushes it before everything else, and writes
//! it to a file where no beacon takes it; `--apply` hands that file to a gateway.

use std::collections::BTreeSet;
use std::path::Path;

use api::{KillApplied, KillRequest};
use identity::{
    AgentAddress, Block, Exception, Issued, KillFile, NodeName, RevocationSet, Role, UnixTime,
    UserName,
};
use serde_json::json;

use super::files::OperatorFiles;
use super::push::{Pushed, push_kill};
use super::{groups, membership};
use crate::client::Client;
use crate::context::{Context, argument_or_stdin, now};
use crate::failure::Failure;
use crate::output::note;

/// Cut off an agent, a gateway, a person or everybody, at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabmesh kill agent coder@gw-b
  crabmesh kill node gw-b
  crabmesh kill user bob@example.com
  crabmesh kill all --except group:ops --except gw-a
  crabmesh kill agent coder@gw-b --out kill.txt     also to a file
  crabmesh kill --out kill.txt                      the kills in force, to a file
  crabmesh kill --apply kill.txt                    on any gateway, as its admin

A killed agent neither sends nor receives; a killed gateway leaves the mesh. What is on its way from
or to them ends as denied. The kill goes to every beacon. With none in reach it is in a file, and any
gateway that is given it with --apply obeys it and tells its peers.

Kills only add up, until `crabmesh root replace revoker` lifts them all.")]
pub struct KillArgs {
    /// What to kill
    #[arg(
        value_enum,
        value_name = "WHAT",
        required_unless_present_any = ["out", "apply"]
    )]
    pub what: Option<What>,
    /// NAME@GATEWAY, GATEWAY or USER; nothing for `all`
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Whom `all` spares: a gateway, tag:NAME, USER or group:NAME of the policy; may be repeated
    #[arg(long, value_name = "SELECTOR")]
    pub except: Vec<String>,
    /// Write the signed kills to this file too; `-` for stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<String>,
    /// It is meant: also yourself, or everybody without exception
    #[arg(long)]
    pub yes: bool,
    /// On a gateway: obey this file (`-` for stdin), and tell everybody in reach
    #[arg(long, value_name = "FILE", conflicts_with_all = ["what", "name", "except", "out", "yes"])]
    pub apply: Option<String>,
}

/// What to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// One agent; its gateway goes on
    Agent,
    /// One gateway
    Node,
    /// All gateways of a person
    User,
    /// All gateways but those excepted
    All,
}

/// Kills.
pub fn kill(args: &KillArgs, context: &Context) -> Result<(), Failure> {
    if let Some(file) = &args.apply {
        return apply(file, context);
    }
    let mut files = OperatorFiles::open(context)?;
    let Some(what) = args.what else {
        return export(&files, args, context);
    };
    let now = now();
    let kill = Kill::read(what, args, &files, now)?;
    if !args.yes {
        kill.check_meant(&files, now)?;
    }
    if kill.add(&mut files, now)? {
        files.save()?;
    }
    write_out(&files, args, context)?;
    let pushed = match push_kill(&mut files, context) {
        Ok(pushed) => pushed,
        Err(failure) => return Err(by_hand(&files, args, &failure)),
    };
    tell(&kill, &files, &pushed, args, context)
}

/// What is added to the set.
enum Kill {
    Node(Issued),
    Block(Block),
}

impl Kill {
    fn read(
        what: What,
        args: &KillArgs,
        files: &OperatorFiles,
        now: UnixTime,
    ) -> Result<Self, Failure> {
        if what != What::All && !args.except.is_empty() {
            return Err(Failure::usage("--except is for `kill all`"));
        }
        let name = match (what, args.name.as_deref()) {
            (What::All, None) => "",
            (What::All, Some(name)) => {
                return Err(Failure::usage(format!("`kill all` takes no name: {name}"))
                    .hint("spare somebody with --except"));
            }
            (_, Some(name)) => name,
            (_, None) => return Err(Failure::usage("whom? name it after what it is")),
        };
        let wrong = |error: identity::ParseNameError| Failure::usage(format!("{name}: {error}"));
        Ok(match what {
            What::Agent => {
                let agent: AgentAddress = name.parse().map_err(wrong)?;
                gateway(files, &agent.node)?;
                Self::Block(Block::Agent(agent))
            }
            What::Node => Self::Node(gateway(files, &name.parse().map_err(wrong)?)?.clone()),
            What::User => {
                let user: UserName = name.parse().map_err(wrong)?;
                if !gateways(files, now).any(|issued| issued.user.as_ref() == Some(&user)) {
                    note(format!(
                        "no gateway of this mesh is {user}'s; none can join any more"
                    ));
                }
                Self::Block(Block::User(user))
            }
            What::All => {
                let mut except = BTreeSet::new();
                for selector in &args.except {
                    except.extend(exceptions(selector, files)?);
                }
                Self::Block(Block::Everyone { except })
            }
        })
    }

    /// Some kills are too much to come of a slip.
    fn check_meant(&self, files: &OperatorFiles, now: UnixTime) -> Result<(), Failure> {
        let own = files.owner()?;
        let sentence = match self {
            Self::Block(Block::Everyone { except }) if except.is_empty() => {
                "that stops every gateway of the mesh".to_owned()
            }
            Self::Block(Block::User(user)) if own.as_ref() == Some(user) => {
                format!("{user} is yourself")
            }
            Self::Block(Block::User(_)) if own.is_none() => {
                "this machine does not know who its operator is, so this may be yourself".to_owned()
            }
            Self::Block(Block::Everyone { except }) => {
                let mine = |issued: &&Issued| issued.user.is_some() && issued.user == own;
                let mut mine = gateways(files, now).filter(mine);
                match mine.find(|issued| !spared(except, issued)) {
                    Some(issued) => format!("that stops {} too, which is yours", issued.name),
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        Err(Failure::usage(sentence).hint("say --yes if it is meant, or spare some with --except"))
    }

    /// Signs the next set with this in it; false where it is in force already.
    fn add(&self, files: &mut OperatorFiles, now: UnixTime) -> Result<bool, Failure> {
        let held = files.trust.revocations();
        let mut set: RevocationSet = held.map(|held| held.set.clone()).unwrap_or_default();
        let news = match self {
            // Not noted in the ledger as revoked: the name stays its own, for when this is lifted.
            Self::Node(issued) => set.nodes.insert(issued.node),
            Self::Block(block) => set.blocks.insert(block.clone()),
        };
        if news {
            membership::sign_revocations(files, &set, now)?;
        }
        Ok(news)
    }
}

impl std::fmt::Display for Kill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(issued) => write!(f, "gateway {}", issued.name),
            Self::Block(block) => write!(f, "{block}"),
        }
    }
}

/// Gateways that are in, or whose token may still be used.
fn gateways(files: &OperatorFiles, now: UnixTime) -> impl Iterator<Item = &Issued> {
    let issued = files.ledger.issued();
    issued.filter(move |issued| issued.role() == Role::Gateway && issued.is_living(now))
}

/// The one of that name; one whose membership ended can still be killed.
fn gateway<'a>(files: &'a OperatorFiles, name: &NodeName) -> Result<&'a Issued, Failure> {
    let mut issued = files.ledger.issued();
    let named = issued
        .find(|issued| issued.name == *name && !issued.revoked && issued.role() == Role::Gateway);
    named.ok_or_else(|| Failure::usage(format!("this mesh has no gateway {name}")))
}

fn spared(except: &BTreeSet<Exception>, issued: &Issued) -> bool {
    except.iter().any(|exception| match exception {
        Exception::User(user) => issued.user.as_ref() == Some(user),
        Exception::Tag(tag) => issued.tags.contains(tag),
        Exception::Node(node) => issued.node == *node,
    })
}

/// Whom a selector of `--except` means, in what is signed: groups are the policy's, which may change
/// after the kill, so their members are named one by one.
fn exceptions(selector: &str, files: &OperatorFiles) -> Result<Vec<Exception>, Failure> {
    let wrong = |error: identity::ParseNameError| Failure::usage(format!("{selector}: {error}"));
    if selector.starts_with("group:") {
        let members = groups::members(selector, files)?;
        return Ok(members.into_iter().map(Exception::User).collect());
    }
    Ok(vec![match selector {
        _ if selector.starts_with("tag:") => Exception::Tag(selector.parse().map_err(wrong)?),
        _ if selector.contains('@') => Exception::User(selector.parse().map_err(wrong)?),
        _ => Exception::Node(gateway(files, &selector.parse().map_err(wrong)?)?.node),
    }])
}

fn tell(
    kill: &Kill,
    files: &OperatorFiles,
    pushed: &Pushed,
    args: &KillArgs,
    context: &Context,
) -> Result<(), Failure> {
    let order = files.trust.revocations().map(|held| held.order);
    let order = order.unwrap_or_default();
    let sentence = format!("{kill} is killed; stored by {}", pushed.stored.join(", "));
    match (context.json, args.out.as_deref()) {
        (true, _) => context.output().object(&json!({
            "killed": kill.to_string(),
            "version": format!("{}.{}", order.epoch, order.version),
            "stored_by": pushed.stored,
            "failed": pushed.failed.iter().map(|(address, _)| address).collect::<Vec<_>>(),
        })),
        // stdout is the file.
        (false, Some("-")) => {
            note(sentence);
            Ok(())
        }
        (false, _) => context.output().line(sentence),
    }
}

/// Only writes what is in force.
fn export(files: &OperatorFiles, args: &KillArgs, context: &Context) -> Result<(), Failure> {
    if args.name.is_some() || !args.except.is_empty() {
        return Err(Failure::usage("say what to kill: agent, node, user or all"));
    }
    if files.trust.revocations().is_none() {
        return Err(Failure::failed("nobody was ever killed in this mesh")
            .hint("kill somebody: `crabmesh kill agent NAME@GATEWAY --out FILE`"));
    }
    write_out(files, args, context)
}

/// Writes the kill file where `--out` says; nothing without it.
fn write_out(files: &OperatorFiles, args: &KillArgs, context: &Context) -> Result<(), Failure> {
    let (Some(out), Some(file)) = (args.out.as_deref(), KillFile::of(&files.trust)) else {
        return Ok(());
    };
    let text = file.to_text();
    if out != "-" {
        return std::fs::write(out, text + "\n")
            .map_err(|error| Failure::failed(format!("cannot write {out}: {error}")));
    }
    match context.json {
        true => context.output().object(&json!({ "file": text })),
        false => context.output().line(text),
    }
}

/// No beacon took it: the file is the way on, and it is there.
fn by_hand(files: &OperatorFiles, args: &KillArgs, failure: &Failure) -> Failure {
    let at = match args.out.as_deref() {
        Some(out) => Ok(out.to_owned()),
        None => files.write_kill().map(|path| path.display().to_string()),
    };
    match at {
        Ok(at) => {
            let at = if at == "-" {
                "what was printed".to_owned()
            } else {
                at
            };
            Failure::failed(format!("{failure}; the kill is signed")).hint(format!(
                "bring {at} to any gateway and run `crabmesh kill --apply FILE` there: it tells its peers"
            ))
        }
        Err(error) => error,
    }
}

/// On a gateway: hands the file to its node.
fn apply(file: &str, context: &Context) -> Result<(), Failure> {
    let bytes = match file {
        "-" => argument_or_stdin("-", MAX_FILE)?,
        path => read_file(Path::new(path))?,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{file} is no kill file: it is not text")))?;
    // Before the node is asked: what is no kill file at all is the caller's slip.
    KillFile::parse(&text).map_err(|error| {
        Failure::usage(format!("{file}: {error}"))
            .hint("pass what `crabmesh kill --out FILE` wrote, whole")
    })?;
    let mut client = Client::for_admin(context)?;
    context.block_on(async move {
        let request = KillRequest {
            file: text.trim().to_owned(),
        };
        let applied: KillApplied = client.post("/v1/admin/kill", &request).await?;
        if applied.peers == 0 && applied.beacons == 0 {
            note("this gateway is in session with nobody now: apply the file on others too");
        }
        if context.json {
            return context.output().object(&applied);
        }
        let news = if applied.news { "is" } else { "was already" };
        context.output().line(format!(
            "kill {} {news} in force here; {} gateways in session and {} beacons are told",
            applied.version, applied.peers, applied.beacons
        ))
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |why: String| Failure::usage(format!("cannot read {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if size.len() > MAX_FILE as u64 {
        return Err(wrong("it is larger than any kill file".into()));
    }
    std::fs::read(path).map_err(|error| wrong(error.to_string()))
}

/// A text of a kill file, and room for wrapped lines.
const MAX_FILE: usize = 2 << 20;
