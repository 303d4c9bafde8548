//! The verdict on a message, and what to say about a denial.

use std::fmt;
use std::sync::Arc;

use identity::{AgentName, NodeId, UnixTime};

use crate::document::AgentPattern;
use crate::resolve::{Place, Resolved, ResolvedRule};
use crate::self_test::{self, TestReport};
use crate::{Document, Node, PacketFilter, Verb};

/// A policy, compiled for the gateways of a mesh; cheap to clone. The default is the policy of a
/// gateway that has none yet, and denies all.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    resolved: Option<Arc<Resolved>>,
}

/// A message that wants to pass.
#[derive(Clone, Copy, Debug)]
pub struct MessageRequest<'a> {
    /// The authenticated node it comes from, and the agent there that the node vouches for.
    pub src: (NodeId, &'a AgentName),
    /// Where it goes.
    pub dst: (NodeId, &'a AgentName),
    /// What it wants.
    pub verb: Verb,
    /// When. No rule of this version depends on it; `valid` windows will.
    pub at: UnixTime,
}

/// May it pass?
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Yes, by this grant.
    Allowed {
        /// The first grant of the file that allows it.
        grant: GrantRef,
    },
    /// No.
    Denied(Denial),
}

/// Names a grant to people: its `id`, or its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRef(pub(crate) Arc<str>);

/// Why not, and what would change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// For programs: `no_policy`, `unknown_node` or `no_grant`.
    pub code: &'static str,
    /// One sentence for people.
    pub reason: String,
    /// A grant in HuJSON that would allow exactly this, to paste into the file.
    pub missing_grant: Option<String>,
}

impl Policy {
    /// Resolves a document for these gateways.
    pub fn compile(document: &Document, nodes: &[Node]) -> Self {
        Self {
            resolved: Some(Arc::new(Resolved::new(document, nodes))),
        }
    }

    /// The verdict on a message. What is not granted is denied.
    pub fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        let Some(resolved) = &self.resolved else {
            let reason = "this gateway has no policy yet, and so denies everything".to_owned();
            return Verdict::Denied(Denial {
                code: "no_policy",
                reason,
                missing_grant: None,
            });
        };
        let (src, dst) = match (resolved.node(&request.src.0), resolved.node(&request.dst.0)) {
            (Some(src), Some(dst)) => (src, dst),
            (known, _) => {
                let unknown = if known.is_none() {
                    &request.src.0
                } else {
                    &request.dst.0
                };
                let reason = format!("gateway {unknown} is not a member that the policy knows");
                return Verdict::Denied(Denial {
                    code: "unknown_node",
                    reason,
                    missing_grant: None,
                });
            }
        };
        let agents = (Some(request.src.1), request.dst.1);
        let grant = resolved
            .message_rules(src, dst)
            .filter(|rule| rule.msg.contains(request.verb))
            .find(|rule| names_agents(resolved, rule, src, dst, agents));
        match grant {
            Some(rule) => Verdict::Allowed {
                grant: rule.name.clone(),
            },
            None => Verdict::Denied(deny(resolved, request, src, dst)),
        }
    }

    /// Whether some `msg` grant may apply between two gateways, in either direction: then their
    /// routers may talk.
    pub fn may_talk(&self, a: &NodeId, b: &NodeId) -> bool {
        let Some(resolved) = &self.resolved else {
            return false;
        };
        match (resolved.node(a), resolved.node(b)) {
            (Some(a), Some(b)) => talk(resolved, a, b),
            _ => false,
        }
    }

    /// Whether an agent may do anything at all to another; without a source agent: whether any
    /// agent there may. For directories.
    pub fn reachable(
        &self,
        src: &NodeId,
        src_agent: Option<&AgentName>,
        dst: &NodeId,
        dst_agent: &AgentName,
    ) -> bool {
        let Some(resolved) = &self.resolved else {
            return false;
        };
        let (Some(src), Some(dst)) = (resolved.node(src), resolved.node(dst)) else {
            return false;
        };
        resolved
            .message_rules(src, dst)
            .any(|rule| names_agents(resolved, rule, src, dst, (src_agent, dst_agent)))
    }

    /// The packets that may enter `local`. The router's UDP port is open to a peer exactly when
    /// they [may talk](Self::may_talk).
    pub fn packet_filter(&self, local: &NodeId, router_port: u16) -> PacketFilter {
        let Some(resolved) = &self.resolved else {
            return PacketFilter::deny_all();
        };
        let Some(here) = resolved.node(local) else {
            return PacketFilter::deny_all();
        };
        PacketFilter::new(resolved, local, router_port, |peer| {
            talk(resolved, peer, here)
        })
    }

    /// Runs the `tests` of a document against its own rules. A selector that matches none of the
    /// nodes stands for a hypothetical one.
    pub fn run_tests(document: &Document, nodes: &[Node]) -> TestReport {
        self_test::run(document, nodes)
    }

    pub(crate) fn resolved(&self) -> Option<&Resolved> {
        self.resolved.as_deref()
    }
}

fn talk(resolved: &Resolved, a: &Place, b: &Place) -> bool {
    let one_way = |src: &Place, dst: &Place| {
        resolved
            .message_rules(src, dst)
            .any(|rule| resolved.destinations(rule, src, dst).next().is_some())
    };
    one_way(a, b) || one_way(b, a)
}

/// Whether a rule between two nodes is also between these agents.
fn names_agents(
    resolved: &Resolved,
    rule: &ResolvedRule,
    src: &Place,
    dst: &Place,
    (src_agent, dst_agent): (Option<&AgentName>, &AgentName),
) -> bool {
    let is_meant =
        |pattern: &Option<AgentPattern>, agent: Option<&AgentName>| match (pattern, agent) {
            (Some(pattern), Some(agent)) => pattern.matches(agent),
            _ => true,
        };
    resolved
        .sources(rule, src)
        .any(|end| is_meant(&end.agent, src_agent))
        && resolved
            .destinations(rule, src, dst)
            .any(|end| is_meant(&end.agent, Some(dst_agent)))
}

/// Names the decisive reason, the nearest grant, and the grant that is missing.
fn deny(resolved: &Resolved, request: &MessageRequest<'_>, src: &Place, dst: &Place) -> Denial {
    let from = format!("agent:{}@{}", request.src.1, src.name);
    let to = format!("agent:{}@{}", request.dst.1, dst.name);
    let verb = request.verb;
    let mut reason = format!("no grant lets {from} {verb} to {to}");
    if let Some(near) = nearly(resolved, request, src, dst) {
        reason.push_str("; ");
        reason.push_str(&near);
    }
    if !resolved.has_rules() {
        reason.push_str("; the policy has no grants at all");
    }
    let missing = format!(r#"{{"src": ["{from}"], "dst": ["{to}"], "msg": ["{verb}"]}}"#);
    Denial {
        code: "no_grant",
        reason,
        missing_grant: Some(missing),
    }
}

/// The grant that its author may have taken for this one.
fn nearly(
    resolved: &Resolved,
    request: &MessageRequest<'_>,
    src: &Place,
    dst: &Place,
) -> Option<String> {
    let there = (Some(request.src.1), request.dst.1);
    let back = (Some(request.dst.1), request.src.1);
    let other_verbs = resolved
        .message_rules(src, dst)
        .find(|rule| names_agents(resolved, rule, src, dst, there))
        .map(|rule| {
            let verbs: Vec<_> = rule.msg.iter().map(|verb| verb.as_str()).collect();
            format!("{} allows only {}", rule.name.phrase(), verbs.join(", "))
        });
    let other_way = || {
        resolved
            .message_rules(dst, src)
            .filter(|rule| rule.msg.contains(request.verb))
            .find(|rule| names_agents(resolved, rule, dst, src, back))
            .map(|rule| format!("{} allows it the other way only", rule.name.phrase()))
    };
    let other_agents = || {
        resolved
            .message_rules(src, dst)
            .filter(|rule| rule.msg.contains(request.verb))
            .find(|rule| resolved.destinations(rule, src, dst).next().is_some())
            .map(|rule| {
                format!(
                    "{} allows it between other agents of them",
                    rule.name.phrase()
                )
            })
    };
    other_verbs.or_else(other_way).or_else(other_agents)
}

impl Verdict {
    /// Whether it may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }
}

impl GrantRef {
    /// As the subject of a sentence: `grant plan-code`, or `grants[3]`.
    pub(crate) fn phrase(&self) -> String {
        match self.0.contains('[') {
            true => self.0.to_string(),
            false => format!("grant {}", self.0),
        }
    }
}

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
