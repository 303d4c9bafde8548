//! The policies of the mesh on its operator's machine: what is in force, what was, and what a push
//! signs.

use identity::{KeyRole, Order, UnixTime, UserName};
use policy::Node;
use serde_json::json;

use super::files::OperatorFiles;
use super::history::{SignedPolicy, version};
use super::{gateways_of, membership, push};
use crate::context::{Context, now};
use crate::failure::Failure;

/// What a policy is held against before it is pushed.
pub struct Standing {
    /// The gateways of the mesh.
    pub gateways: Vec<Node>,
    /// Who said at `init` to be the operator.
    pub owner: Option<UserName>,
    /// The policy in force here, and its text.
    pub in_force: Option<(Order, String)>,
    /// The version that the next one has.
    pub next: Order,
}

/// How the mesh stands.
pub fn standing(context: &Context) -> Result<Standing, Failure> {
    let files = OperatorFiles::open(context)?;
    let held = files.trust.policy();
    let (epoch, _) = files.trust.log().current(KeyRole::Policy);
    let before = held.map(|held| held.order);
    let before = before.filter(|order| order.epoch == epoch);
    Ok(Standing {
        gateways: gateways_of(&files, now()),
        owner: files.owner()?,
        in_force: held.map(|held| (held.order, held.text.as_str().to_owned())),
        next: Order {
            epoch,
            version: before.map_or(0, |order| order.version) + 1,
        },
    })
}

/// What was signed here, oldest first, and what of it is in force.
pub fn history(context: &Context) -> Result<(Vec<SignedPolicy>, Option<Order>), Failure> {
    let files = OperatorFiles::open(context)?;
    let in_force = files.trust.policy().map(|held| held.order);
    Ok((files.history()?, in_force))
}

/// The text of one that was signed here.
pub fn signed_text(context: &Context, order: Order) -> Result<String, Failure> {
    OperatorFiles::open(context)?.signed_text(order)
}

/// Signs a policy whose tests passed, and gives it to every beacon with everything else.
pub fn push_policy(context: &Context, text: &str) -> Result<(), Failure> {
    let mut files = OperatorFiles::open(context)?;
    let now = now();
    // The same text again keeps its version: a push is also how a claim is redeemed, and how what
    // one beacon missed is brought to it.
    if files
        .trust
        .policy()
        .is_none_or(|policy| policy.text != text)
    {
        sign_policy(&mut files, text, now)?;
        files.save()?;
    }
    let pushed = push::push(&mut files, context)?;
    let order = files
        .trust
        .policy()
        .map(|policy| policy.order)
        .unwrap_or_default();
    let version = version(order);
    match context.json {
        true => context.output().object(&json!({
            "version": version,
            "stored_by": pushed.stored,
            "failed": pushed.failed.iter().map(|(address, _)| address).collect::<Vec<_>>(),
        })),
        false => context.output().line(format!(
            "policy {version} is stored by {}",
            pushed.stored.join(", ")
        )),
    }
}

/// Signs the next version and keeps its text; the caller saves.
pub fn sign_policy(files: &mut OperatorFiles, text: &str, now: UnixTime) -> Result<(), Failure> {
    let key = files.role(KeyRole::Policy)?;
    let before = files.trust.policy().cloned();
    let bytes = key
        .sign_policy(text, before.as_ref(), &files.trust.mesh(), now)
        .map_err(membership::refused)?;
    files
        .trust
        .accept_policy(&bytes, now)
        .map_err(|error| Failure::failed(format!("the policy does not hold: {error}")))?;
    files.keep_signed(before.as_ref())
}
