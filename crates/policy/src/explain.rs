//! Why something is allowed or not: the verdict of [`crate::decide`], with every grant, guard and
//! block that has a say in it.

use identity::UnixTime;
use serde::Serialize;

use crate::cases::{self, Ends};
use crate::decide::{Case, Decision, Demand, When};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Expectation};
use crate::reasons;
use crate::resolve::{Resolved, ResolvedGuard, ResolvedRule};
use crate::self_test::decisive;
use crate::world::World;
use crate::{Node, Policy};

/// The answer to one question, for one case of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Who, as a selector that means it alone.
    pub src: String,
    /// To what, in the same way.
    pub dst: String,
    /// Whether it may pass.
    pub allowed: bool,
    /// What decides: `grants:ID`, `guards:ID`, `blocks:ID` or `no-grant`.
    pub decided_by: String,
    /// The same in one sentence.
    pub reason: String,
    /// A grant that would allow exactly this, where only that is missing.
    pub missing_grant: Option<String>,
    /// The blocks, grants and guards that have a say, or nearly have.
    pub findings: Vec<Finding>,
}

/// One rule, and what it has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `block`, `grant` or `guard`.
    pub kind: &'static str,
    /// Its `id`, or its place in the file.
    pub name: String,
    /// Whether it applies: a grant allows, a guard demands, a block stops.
    pub applies: bool,
    /// In a few words.
    pub says: String,
}

impl Policy {
    /// Explains what a source may do to a destination, for each case that the rules tell apart: of
    /// the nodes of the mesh that the selectors match, or else of a hypothetical one.
    ///
    /// `operation` is a verb, a skill (`call:deploy`), a port (`22`, `tcp:22`, `udp:53`) or a
    /// request (`GET /status`, with the port in `dst`).
    pub fn explain(
        document: &Document,
        nodes: &[Node],
        src: &str,
        dst: &str,
        operation: &str,
        at: UnixTime,
    ) -> Result<Vec<Explanation>, Diagnostic> {
        let question = document.question(src, dst, operation)?;
        let questions = [question];
        let [question] = &questions;
        let mut world = World::new(document, nodes, &questions);
        let ends = Ends::new(&mut world, question);
        let resolved = world.resolve();
        Ok(explain(&resolved, &world, question, &ends, at))
    }
}

fn explain(
    resolved: &Resolved,
    world: &World<'_>,
    question: &Expectation,
    ends: &Ends,
    at: UnixTime,
) -> Vec<Explanation> {
    let mut answers = Vec::new();
    cases::for_each(resolved, world, question, ends, When::At(at), |case| {
        // What is known of a real node counts; a question says nothing about it.
        let case = Case {
            attributes: None,
            strict: true,
            ..case.clone()
        };
        answers.push(explain_case(resolved, &case));
        answers.len() < MAX_ANSWERS
    });
    answers
}

fn explain_case(resolved: &Resolved, case: &Case<'_>) -> Explanation {
    let decision = case.decide(resolved);
    let (reason, missing_grant) = match &decision {
        Decision::Allowed { rule, .. } => {
            (format!("allowed by {}", rule.name.phrase("grant")), None)
        }
        denied => {
            let denial = case.denial(resolved, denied);
            (denial.reason, denial.missing_grant)
        }
    };
    let mut findings = Vec::new();
    if let Some(blocked) = case.block(resolved) {
        findings.push(Finding {
            kind: "block",
            name: blocked.block.name.to_string(),
            applies: true,
            says: blocked.block.reason.clone().unwrap_or("stops it".into()),
        });
    }
    findings.extend(grants(resolved, case));
    findings.extend(case.guards(resolved).map(|guard| guard_says(case, guard)));
    Explanation {
        src: case.from(),
        dst: case.onto(),
        allowed: matches!(decision, Decision::Allowed { .. }),
        decided_by: decisive(&decision),
        reason,
        missing_grant,
        findings,
    }
}

/// The grants that allow it, and those that lack one thing only.
fn grants(resolved: &Resolved, case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut near = Vec::new();
    for rule in case.candidates(resolved) {
        let fit = case.fit(rule);
        let finding = |applies, says: String| Finding {
            kind: "grant",
            name: rule.name.to_string(),
            applies,
            says,
        };
        match fit.missing() {
            0 => findings.push(finding(true, "allows it".into())),
            1 => near.push(finding(false, lack(rule, fit))),
            _ => {}
        }
    }
    near.truncate(MAX_NEAR);
    findings.extend(near);
    findings
}

fn lack(rule: &ResolvedRule, fit: crate::decide::Fit) -> String {
    if !fit.src {
        return "is for other sources".into();
    }
    if !fit.dst {
        return "is for other destinations".into();
    }
    if !fit.operation {
        return format!("allows only {}", reasons::allowed(rule));
    }
    if !fit.posture {
        let names: Vec<&str> = rule.postures.iter().map(|posture| &*posture.name).collect();
        return format!("asks for {}, which is not met", names.join(" or "));
    }
    let valid = rule.valid.as_ref().map(ToString::to_string);
    format!("holds {} only", valid.unwrap_or_default())
}

fn guard_says(case: &Case<'_>, guard: &ResolvedGuard) -> Finding {
    let says = match case.unmet(guard) {
        Some(Demand::NotNow(window)) => format!("lets nothing pass in {window}"),
        Some(Demand::MaxBytes(most)) => format!("lets at most {most} bytes pass"),
        Some(Demand::Approve) => "asks for an approval, which is not enforced yet: denies".into(),
        Some(Demand::Spend) => "limits what is spent, which is not enforced yet: denies".into(),
        None => {
            let rate = guard.rate.as_ref().map(ToString::to_string);
            let bytes = guard.max_bytes.map(|most| format!("at most {most} bytes"));
            let windows = guard.deny.iter().map(|window| format!("not in {window}"));
            let all: Vec<String> = rate.into_iter().chain(bytes).chain(windows).collect();
            format!("lets it pass: {}", all.join(", "))
        }
    };
    Finding {
        kind: "guard",
        name: guard.name.to_string(),
        applies: case.unmet(guard).is_some(),
        says,
    }
}

/// More cases than a person reads.
const MAX_ANSWERS: usize = 1_000;

/// The grants that nearly allow something are a hint, not a list.
const MAX_NEAR: usize = 10;
