//! `policy history`: what was signed on this machine, and which of it is in force.

use std::str::FromStr;

use identity::Order;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::operator::{self, SignedPolicy};
use crate::terminal;

/// A version as people name it: `EPOCH.VERSION`, or the version alone for the newest epoch that has
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    epoch: Option<u32>,
    version: u64,
}

/// After the help of `history`.
pub const HELP: &str = "Examples:
  crabmesh policy history
  crabmesh policy show --version 3 > old.hujson";

/// `policy history`.
pub fn history(context: &Context) -> Result<(), Failure> {
    let (signed, in_force) = operator::history(context)?;
    let is_in_force = |it: &SignedPolicy| Some(it.order) == in_force;
    let newest_first = signed.iter().rev();
    if context.json {
        return newest_first.into_iter().try_for_each(|it| {
            context.output().object(&json!({
                "version": it.version(), "in_force": is_in_force(it),
                "signed_at": timestamp(it), "sha256": it.sha256,
                "bytes": it.bytes, "title": it.title,
            }))
        });
    }
    let head = ["VERSION", "SIGNED", "BYTES", "SHA-256", "", "TITLE"];
    let rows = newest_first.map(|it| {
        let state = if is_in_force(it) { "in force" } else { "" };
        let title = it.title.as_deref().unwrap_or_default();
        vec![
            it.version(),
            timestamp(it).to_string(),
            it.bytes.to_string(),
            it.sha256.chars().take(HASH_SHOWN).collect(),
            state.to_owned(),
            terminal::printable(title).to_string(),
        ]
    });
    let head = head.map(str::to_owned).to_vec();
    context
        .output()
        .table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// The policy of that version, and the order of that in force.
pub fn find(version: Version, context: &Context) -> Result<(SignedPolicy, Option<Order>), Failure> {
    let (signed, in_force) = operator::history(context)?;
    let found = signed.into_iter().rev().find(|it| version.names(it.order));
    match found {
        Some(found) => Ok((found, in_force)),
        None => Err(
            Failure::usage(format!("no policy {version} was signed on this machine"))
                .hint("see `crabmesh policy history`"),
        ),
    }
}

/// When it was signed.
pub fn timestamp(signed: &SignedPolicy) -> api::Timestamp {
    api::Timestamp(signed.signed_at.0.saturating_mul(1000))
}

impl Version {
    fn names(self, order: Order) -> bool {
        self.version == order.version && self.epoch.is_none_or(|epoch| epoch == order.epoch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no version: write 3 or 1.3");
        let (epoch, version) = match text.split_once('.') {
            Some((epoch, version)) => (Some(epoch.parse().map_err(|_| wrong())?), version),
            None => (None, text),
        };
        let version = version.parse().map_err(|_| wrong())?;
        Ok(Self { epoch, version })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "{epoch}.{}", self.version),
            None => write!(f, "{}", self.version),
        }
    }
}

/// As much of a hash as tells a hundred files apart.
const HASH_SHOWN: usize = 12;
