//! The `tests` of a policy file, held against its own rules.
//!
//! An expectation speaks of every node and agent that its selectors match: `accept` holds where
//! all of them are allowed, `deny` where none is.

use identity::UnixTime;
use serde::Serialize;

use crate::Node;
use crate::cases::{self, Ends};
use crate::decide::{Case, Decision, When};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Expectation, FAILED};
use crate::resolve::Resolved;
use crate::world::World;

/// What became of the `tests` of a document.
#[derive(Clone, Debug, Default)]
pub struct TestReport {
    /// One for each expectation, in the order of the file.
    pub outcomes: Vec<TestOutcome>,
}

/// What became of one expectation of a test.
#[derive(Clone, Debug, Serialize)]
pub struct TestOutcome {
    /// Whether it held.
    pub passed: bool,
    /// Its source, as written.
    pub src: String,
    /// Its destination with port or verb, as written.
    pub dst: String,
    /// What was expected: `accept` or `deny`.
    pub expected: &'static str,
    /// Why it is so: the deciding grant, or the denial.
    pub reason: String,
    /// Where it is in the file, and what to do; where it failed.
    #[serde(skip)]
    pub diagnostic: Option<Diagnostic>,
}

impl TestReport {
    /// Whether every expectation held; also where there is none.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.passed)
    }

    /// How many did not hold.
    pub fn failures(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| !outcome.passed)
            .count()
    }
}

/// Why an expectation holds, or why not and which grant is missing.
type Held = Result<String, (String, Option<String>)>;

pub(crate) fn run(document: &Document, nodes: &[Node], now: UnixTime) -> TestReport {
    let mut world = World::new(document, nodes, &document.expectations);
    let ends: Vec<Ends> = document
        .expectations
        .iter()
        .map(|expectation| Ends::new(&mut world, expectation))
        .collect();
    let resolved = world.resolve();
    let outcomes = document
        .expectations
        .iter()
        .zip(&ends)
        .map(|(expectation, ends)| {
            let held = hold(&resolved, &world, expectation, ends, now);
            outcome(document, expectation, held)
        })
        .collect();
    TestReport { outcomes }
}

fn hold(
    resolved: &Resolved,
    world: &World<'_>,
    expectation: &Expectation,
    ends: &Ends,
    now: UnixTime,
) -> Held {
    let when = expectation.at.map_or(When::Whenever(now), When::At);
    let mut result: Option<Held> = None;
    cases::for_each(resolved, world, expectation, ends, when, |case| {
        let one = hold_case(resolved, expectation, case);
        let go_on = one.is_ok();
        result = Some(one);
        go_on
    });
    result.unwrap_or_else(|| {
        let nobody = "nothing can match: the group is empty, or the source has no user";
        Err((nobody.to_owned(), None))
    })
}

fn hold_case(resolved: &Resolved, expectation: &Expectation, case: &Case<'_>) -> Held {
    let decision = case.decide(resolved);
    let decisive = decisive(&decision);
    let (allowed, reason, missing) = match &decision {
        Decision::Allowed { rule, .. } => {
            let reason = match expectation.allowed {
                true => format!("allowed by {}", rule.name.phrase("grant")),
                false => format!(
                    "allowed from {} to {} by {}",
                    case.source_node(),
                    case.destination_node(),
                    rule.name.phrase("grant")
                ),
            };
            (true, reason, None)
        }
        denied => {
            let denial = case.denial(resolved, denied);
            (false, denial.reason, denial.missing_grant)
        }
    };
    if allowed != expectation.allowed {
        return Err((reason, missing));
    }
    match &expectation.why {
        Some(why) if *why != decisive => Err((
            format!("{reason}; decided by {decisive}, and not by {why}"),
            None,
        )),
        _ => Ok(reason),
    }
}

/// What decided, as `why` names it.
pub(crate) fn decisive(decision: &Decision<'_>) -> String {
    match decision {
        Decision::Allowed { rule, .. } => format!("grants:{}", rule.name),
        Decision::Blocked(blocked) => format!("blocks:{}", blocked.block.name),
        Decision::Guarded { guard, .. } => format!("guards:{}", guard.name),
        Decision::NoGrant => "no-grant".to_owned(),
    }
}

fn outcome(document: &Document, expectation: &Expectation, held: Held) -> TestOutcome {
    let expected = if expectation.allowed {
        "accept"
    } else {
        "deny"
    };
    let (src, dst) = (&expectation.src_text, &expectation.target_text);
    let diagnostic = held.as_ref().err().map(|(reason, missing)| {
        let failed = Diagnostic::error("E070", expectation.span.clone(), FAILED.into())
            .label(format!("{expected} from {src}: {reason}"))
            .with_source(&document.source);
        match missing {
            Some(grant) => failed.help(format!("missing grant: {grant}")),
            None => failed,
        }
    });
    TestOutcome {
        passed: held.is_ok(),
        src: src.clone(),
        dst: dst.clone(),
        expected,
        reason: held.unwrap_or_else(|(reason, _)| reason),
        diagnostic,
    }
}
