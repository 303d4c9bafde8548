//! The compiled policy: verdicts on messages and on everything else that asks.

use std::sync::Arc;

use identity::{AgentName, NodeId, UnixTime};

use crate::decide::{Case, Decision, Demand, To, When};
use crate::document::rfc3339;
use crate::resolve::{End, Place, Resolved, ResolvedRule, ends_in};
use crate::self_test::{self, TestReport};
use crate::verdict::{Denial, Verdict};
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
    /// When, by a clock that the caller trusts: windows and dates depend on it.
    pub at: UnixTime,
    /// How long its body is; none where none goes any more, as when it is on the other side.
    pub bytes: Option<u64>,
}

/// An HTTP request that a proxy was asked to pass on.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The authenticated node it comes from, and the agent, where the proxy knows it.
    pub src: (NodeId, Option<&'a AgentName>),
    /// The node it goes to.
    pub dst: NodeId,
    /// The port there.
    pub port: u16,
    /// In capitals.
    pub method: &'a str,
    /// Absolute, without query.
    pub path: &'a str,
    /// When.
    pub at: UnixTime,
}

impl Policy {
    /// Resolves a document for these gateways.
    pub fn compile(document: &Document, nodes: &[Node]) -> Self {
        Self {
            resolved: Some(Arc::new(Resolved::new(document, nodes, None))),
        }
    }

    /// The same, prepared for the verdicts of one gateway: those on what it sends and receives cost
    /// a look-up then.
    pub fn compile_for(document: &Document, nodes: &[Node], local: &NodeId) -> Self {
        Self {
            resolved: Some(Arc::new(Resolved::new(document, nodes, Some(local)))),
        }
    }

    /// The same policy after these nodes joined or changed and those left, at the cost of what
    /// changed. None where the gateway that it was prepared for is among them, or there is no
    /// policy: then it is to be compiled anew.
    pub fn with_changes(&self, joined: &[Node], left: &[NodeId]) -> Option<Self> {
        let resolved = self.resolved.as_ref()?;
        let local = resolved.local();
        let changed = joined.iter().map(|node| &node.id).chain(left);
        if changed.into_iter().any(|id| Some(id) == local) {
            return None;
        }
        let mut resolved = Resolved::clone(resolved);
        joined.iter().for_each(|node| resolved.insert(node));
        left.iter().for_each(|id| resolved.remove(id));
        Some(Self {
            resolved: Some(Arc::new(resolved)),
        })
    }

    /// The verdict on a message. What is not granted is denied.
    pub fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        let Some(resolved) = &self.resolved else {
            return Verdict::Denied(no_policy());
        };
        match message_case(resolved, request) {
            Ok(case) => case.verdict(resolved),
            Err(unknown) => Verdict::Denied(unknown_node(unknown)),
        }
    }

    /// The verdict on the answer to a request: the request as it was asked, with the size of the
    /// answer. It rides the grant of its request and draws nothing of its own, as each request
    /// has one; but its body is of the size that guards set for the way which it goes.
    pub fn authorize_reply(&self, request: &MessageRequest<'_>) -> Verdict {
        let Some(resolved) = &self.resolved else {
            return Verdict::Denied(no_policy());
        };
        let asked = MessageRequest {
            bytes: None,
            ..*request
        };
        let answer = MessageRequest {
            src: request.dst,
            dst: request.src,
            ..*request
        };
        let cases = message_case(resolved, &asked)
            .and_then(|asked| Ok((asked, message_case(resolved, &answer)?)));
        let (asked, answer) = match cases {
            Ok(cases) => cases,
            Err(unknown) => return Verdict::Denied(unknown_node(unknown)),
        };
        let verdict = asked.verdict(resolved);
        match (verdict, answer.too_long(resolved)) {
            (Verdict::Allowed { .. }, Some(decision)) => {
                Verdict::Denied(answer.denial(resolved, &decision))
            }
            (Verdict::Allowed { grant, .. }, None) => Verdict::Allowed {
                grant,
                buckets: Vec::new(),
            },
            (denied, _) => denied,
        }
    }

    /// Whether a message may pass, without the words.
    pub fn allows(&self, request: &MessageRequest<'_>) -> bool {
        let Some(resolved) = &self.resolved else {
            return false;
        };
        message_case(resolved, request)
            .is_ok_and(|case| matches!(case.decide(resolved), Decision::Allowed { .. }))
    }

    /// The verdict on a request that a proxy asks about.
    pub fn authorize_http(&self, request: &HttpRequest<'_>) -> Verdict {
        let Some(resolved) = &self.resolved else {
            return Verdict::Denied(no_policy());
        };
        let (src, agent) = request.src;
        let (src, dst) = match (resolved.node(&src), resolved.node(&request.dst)) {
            (Some(src), Some(dst)) => (src, dst),
            (None, _) => return Verdict::Denied(unknown_node(&src)),
            (_, None) => return Verdict::Denied(unknown_node(&request.dst)),
        };
        let case = Case {
            src,
            agent,
            to: To::HttpNode {
                dst,
                port: request.port,
                method: request.method,
                path: request.path,
            },
            when: When::At(request.at),
            bytes: None,
            strict: true,
            attributes: None,
        };
        case.verdict(resolved)
    }

    /// Whether some `msg` grant may apply between two gateways, in either direction: then their
    /// routers may talk.
    pub fn may_talk(&self, a: &NodeId, b: &NodeId, at: UnixTime) -> bool {
        let Some(resolved) = &self.resolved else {
            return false;
        };
        match (resolved.node(a), resolved.node(b)) {
            (Some(a), Some(b)) => talk(resolved, a, b, at),
            _ => false,
        }
    }

    /// Whether an agent may do anything at all to another; without a source agent: whether any
    /// agent there may. For directories.
    pub fn reachable(
        &self,
        src: (&NodeId, Option<&AgentName>),
        dst: (&NodeId, &AgentName),
        at: UnixTime,
    ) -> bool {
        self.granted(src, dst, at, |_| true)
    }

    /// The same of one verb.
    pub fn reachable_by(
        &self,
        verb: Verb,
        src: (&NodeId, Option<&AgentName>),
        dst: (&NodeId, &AgentName),
        at: UnixTime,
    ) -> bool {
        self.granted(src, dst, at, |rule| rule.msg.contains(verb))
    }

    fn granted(
        &self,
        src: (&NodeId, Option<&AgentName>),
        dst: (&NodeId, &AgentName),
        at: UnixTime,
        fits: impl Fn(&ResolvedRule) -> bool,
    ) -> bool {
        let Some(resolved) = &self.resolved else {
            return false;
        };
        let (Some(from), Some(to)) = (resolved.node(src.0), resolved.node(dst.0)) else {
            return false;
        };
        let blocked = |place: &Place, agent| {
            resolved
                .blocks_of(place)
                .any(|it| it.block.holds(at) && it.names(place, agent))
        };
        !blocked(from, src.1)
            && !blocked(to, Some(dst.1))
            && resolved.message_rules(from, to).any(|rule| {
                fits(rule)
                    && is_open(rule, from, at)
                    && names_agents(rule, from, to, (src.1, dst.1))
            })
    }

    /// The packets that may enter `local` at a moment. The router's UDP port is open to a peer
    /// exactly when they [may talk](Self::may_talk).
    pub fn packet_filter(&self, local: &NodeId, router_port: u16, at: UnixTime) -> PacketFilter {
        let Some(resolved) = &self.resolved else {
            return PacketFilter::deny_all();
        };
        let Some(here) = resolved.node(local) else {
            return PacketFilter::deny_all();
        };
        PacketFilter::new(resolved, here, router_port, at, |peer| {
            talk(resolved, peer, here, at)
        })
    }

    /// The next moment after `at` at which a date or an hour in the file may change a verdict.
    pub fn next_change(&self, at: UnixTime) -> Option<UnixTime> {
        let rules = self.resolved.as_ref()?.rules();
        let valid = rules.all().iter().filter_map(|rule| rule.valid.as_ref());
        let grants = valid.filter_map(|valid| valid.next_change(at));
        let windows = rules.all_guards().iter().flat_map(|guard| &guard.deny);
        let guards = windows.filter_map(|window| window.next_change(at));
        let ends = rules.all_blocks().iter().filter_map(|it| it.block.until);
        grants
            .chain(guards)
            .chain(ends.filter(|end| *end > at))
            .min()
    }

    /// Runs the `tests` of a document against its own rules. A selector that matches none of the
    /// nodes stands for a hypothetical one. Blocks are judged by `now`.
    pub fn run_tests(document: &Document, nodes: &[Node], now: UnixTime) -> TestReport {
        self_test::run(document, nodes, now)
    }
}

/// The case of a message, or the node that is not known.
fn message_case<'a>(
    resolved: &'a Resolved,
    request: &'a MessageRequest<'a>,
) -> Result<Case<'a>, &'a NodeId> {
    let src = resolved.node(&request.src.0).ok_or(&request.src.0)?;
    let dst = resolved.node(&request.dst.0).ok_or(&request.dst.0)?;
    Ok(Case {
        src,
        agent: Some(request.src.1),
        to: To::Message {
            dst,
            agent: request.dst.1,
            verb: request.verb,
        },
        when: When::At(request.at),
        bytes: request.bytes,
        strict: true,
        attributes: None,
    })
}

/// Whether the routers of two nodes have anything to say to each other.
fn talk(resolved: &Resolved, a: &Place, b: &Place, at: UnixTime) -> bool {
    let blocked = |place: &Place| {
        resolved
            .blocks_of(place)
            .any(|it| it.block.holds(at) && it.names(place, None))
    };
    let one_way = |src: &Place, dst: &Place| {
        resolved
            .message_rules(src, dst)
            .any(|rule| is_open(rule, src, at) && rule.destinations(src, dst).next().is_some())
    };
    !blocked(a) && !blocked(b) && (one_way(a, b) || one_way(b, a))
}

/// Whether a rule holds now for what comes from a node.
fn is_open(rule: &ResolvedRule, src: &Place, at: UnixTime) -> bool {
    rule.is_met_by(&src.class) && rule.valid.as_ref().is_none_or(|valid| valid.holds(at))
}

/// Whether a rule between two nodes is also between these agents.
fn names_agents(
    rule: &ResolvedRule,
    src: &Place,
    dst: &Place,
    (src_agent, dst_agent): (Option<&AgentName>, &AgentName),
) -> bool {
    let is_meant = |end: &End, agent: Option<&AgentName>| match (&end.agent, agent) {
        (Some(pattern), Some(agent)) => pattern.matches(agent),
        _ => true,
    };
    ends_in(&rule.src, &src.class).any(|end| is_meant(end, src_agent))
        && rule
            .destinations(src, dst)
            .any(|end| is_meant(end, Some(dst_agent)))
}

impl Case<'_> {
    /// The verdict, with the words for a denial.
    pub(crate) fn verdict(&self, resolved: &Resolved) -> Verdict {
        match self.decide(resolved) {
            Decision::Allowed { rule, buckets } => Verdict::Allowed {
                grant: rule.name.clone(),
                buckets,
            },
            decision => Verdict::Denied(self.denial(resolved, &decision)),
        }
    }

    /// What is said of a decision that is not to allow.
    pub(crate) fn denial(&self, resolved: &Resolved, decision: &Decision<'_>) -> Denial {
        match decision {
            Decision::Blocked(blocked) => {
                let block = &blocked.block;
                let name = block.name.phrase("block");
                let why = block.reason.as_ref().map(|reason| format!(" ({reason})"));
                let until = block
                    .until
                    .map(|until| format!(" until {}", rfc3339(until)));
                let reason = format!(
                    "{name} stops {} and {}{}{}",
                    self.from(),
                    self.onto(),
                    until.unwrap_or_default(),
                    why.unwrap_or_default()
                );
                Denial {
                    code: "blocked",
                    reason,
                    rule: Some(block.name.clone()),
                    missing_grant: None,
                }
            }
            Decision::Guarded { guard, demand } => {
                let demand = match demand {
                    Demand::NotNow(window) => format!("lets nothing pass in {window}"),
                    Demand::MaxBytes(most) => format!("lets at most {most} bytes pass"),
                    Demand::Approve => {
                        "asks for an approval, and no gateway of this version can ask".into()
                    }
                    Demand::Spend => {
                        "limits what is spent, and no gateway of this version counts it".into()
                    }
                };
                Denial {
                    code: "guard",
                    reason: format!("{} {demand}", guard.name.phrase("guard")),
                    rule: Some(guard.name.clone()),
                    missing_grant: None,
                }
            }
            Decision::Allowed { .. } | Decision::NoGrant => Denial {
                code: "no_grant",
                reason: self.no_grant(resolved),
                rule: None,
                missing_grant: self.missing_grant(),
            },
        }
    }
}

fn no_policy() -> Denial {
    Denial {
        code: "no_policy",
        reason: "this gateway has no policy yet, and so denies everything".to_owned(),
        rule: None,
        missing_grant: None,
    }
}

fn unknown_node(id: &NodeId) -> Denial {
    Denial {
        code: "unknown_node",
        reason: format!("gateway {id} is not a member that the policy knows"),
        rule: None,
        missing_grant: None,
    }
}
