//! `policy nodes`: the gateways and people of the operator's mesh, as `--nodes` reads them.

use std::collections::BTreeSet;

use super::known::{Described, NodesFile};
use crate::context::Context;
use crate::failure::Failure;
use crate::operator;
use crate::output::note;

/// `policy nodes`. What it prints is JSON with and without `--json`.
pub fn nodes(context: &Context) -> Result<(), Failure> {
    let gateways = operator::gateways(context)?;
    if gateways.is_empty() {
        note("no gateways: this machine has no mesh, or invited nobody yet");
    }
    let users: BTreeSet<String> = gateways
        .iter()
        .filter_map(|node| node.user.as_ref())
        .map(ToString::to_string)
        .collect();
    let file = NodesFile {
        users: users.into_iter().collect(),
        nodes: gateways.iter().map(Described::of).collect(),
    };
    if context.json {
        return context.output().object(&file);
    }
    let text = serde_json::to_string_pretty(&file).map_err(anyhow::Error::from)?;
    context.output().line(text)
}
