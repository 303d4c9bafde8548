//! `policy push`: from the operator's machine to the beacons, if the file holds what it promises.

use policy::Policy;

use super::File;
use super::check::require;
use super::file::{Read, tell};
use crate::context::{Context, now};
use crate::failure::Failure;
use crate::operator;

/// `policy push`.
pub fn push(file: &File, context: &Context) -> Result<(), Failure> {
    let read = Read::new(file, context)?;
    let gateways = operator::gateways(context)?;
    let (document, mut warnings) = read.parse().map_err(|said| read.refused(&said))?;
    if !gateways.is_empty() {
        warnings.extend(document.lint(&gateways));
    }
    tell(&warnings);
    let report = Policy::run_tests(&document, &gateways, now());
    require(&read, &report, &gateways).map_err(|failure| {
        failure.hint("nothing was pushed; `crabmesh policy test` shows every verdict")
    })?;
    let text =
        String::from_utf8(read.bytes).map_err(|_| Failure::usage("the policy is not UTF-8"))?;
    operator::push_policy(context, text)
}
