//! What led to what: chains of messages, and where they are stopped (messaging.md §4.2, loop guard).
//!
//! A chain begins with a message that nothing led to, its *root*. Its *depth* counts the messages
//! since; its *bounces* those of them, without a break, that went back and forth between the same two
//! agents; and a gateway counts how many messages of one root passed here. Too many of any, and the
//! next is refused: two agents that answer everything end after [`Budgets::bounces`] messages.
//!
//! **Invariant:** what a gateway counts itself does not depend on what its peers say they counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use identity::{AgentAddress, AgentName, NodeId};
use wire::message::{Cause, MessageFrame, MessageKey};
use wire::{Envelope, InstanceId, MessageId};

use crate::inbox::Content;
use crate::limits;
use crate::output::Event;
use crate::router::Router;
use crate::rows::Subject;
use crate::words::{Origin, Refusal};

/// How much may follow from one message. More is taken for a loop or a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Messages in one chain between the same two agents, answers included.
    pub bounces: u8,
    /// Messages in one chain, whoever they are between.
    pub depth: u8,
    /// Messages of one root that pass this gateway, those that nothing led to not counted.
    pub per_root: u32,
}

/// What this gateway remembers of chains. In memory: a restart forgets how far a root came, and the
/// chain's own depth still ends it.
#[derive(Debug, Default)]
pub(crate) struct Causes {
    pub(crate) budgets: Budgets,
    roots: BTreeMap<MessageId, Root>,
    by_age: BTreeSet<(Instant, MessageId)>,
    heard: BTreeMap<Pair, Heard>,
}

/// Messages of one root that passed here.
#[derive(Debug)]
struct Root {
    passed: u32,
    used: Instant,
    /// The agents before the one that was stopped were told.
    told: bool,
}

/// An agent here and one that writes to it.
type Pair = (InstanceId, NodeId, AgentName);

/// The last message that an agent was shown from another.
#[derive(Debug)]
struct Heard {
    cause: Cause,
    key: MessageKey,
    at: Instant,
    /// How many came in a row with less than [`TURN`] between them.
    in_a_row: u32,
    /// The agent wrote back since.
    answered: bool,
}

/// A cause, and which message of which gateway is the one right before.
pub(crate) struct Led {
    pub(crate) cause: Cause,
    pub(crate) by: Option<(NodeId, MessageKey)>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            bounces: limits::MAX_BOUNCES,
            depth: limits::MAX_DEPTH,
            per_root: limits::MAX_PER_ROOT,
        }
    }
}

impl Router {
    /// Other budgets than the usual.
    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.causes.budgets = budgets;
    }

    /// What led to a message that an agent wants sent.
    pub(crate) fn origin(
        &mut self,
        from: InstanceId,
        origin: Origin,
        to: (NodeId, &AgentName),
        id: MessageId,
    ) -> Result<Led, Refusal> {
        let none = Led {
            cause: Cause::none(id),
            by: None,
        };
        match origin {
            Origin::Nothing => Ok(none),
            Origin::Message(led) => self.led_by(from, led, to),
            Origin::Unsaid => {
                let pair = (from, to.0, to.1.clone());
                let heard = self.causes.heard.get(&pair);
                let turn = |heard: &&Heard| {
                    let fresh = self.now.saturating_duration_since(heard.at) < TURN;
                    // Many in a row are a stream of reports, and no turns of a talk.
                    fresh && !heard.answered && heard.in_a_row <= TURNS_MOST
                };
                Ok(heard.filter(turn).map_or(none, |heard| Led {
                    cause: heard.cause.next(true),
                    by: Some((to.0, heard.key)),
                }))
            }
        }
    }

    fn led_by(
        &self,
        from: InstanceId,
        led: MessageId,
        to: (NodeId, &AgentName),
    ) -> Result<Led, Refusal> {
        let found = self.inbox.find(from, led);
        let (node, from, key, cause, sequence) = match found.map(|(_, entry)| &entry.content) {
            Ok(Content::Letter { letter, .. }) => {
                let of = letter.sequence;
                (letter.node, &letter.from, letter.key, letter.cause, of)
            }
            Ok(Content::Known(known)) => {
                let of = known.sequence;
                (known.node, &known.from, known.key, known.cause, of)
            }
            Ok(Content::Away(_)) | Err(_) => return Err(Refusal::UnknownCause),
        };
        // A notice was made here, about the agent that it names.
        let notice = sequence == 0;
        let other = match notice {
            true => self.authority.node_named(&from.node),
            false => Some(node),
        };
        let back = other == Some(to.0) && from.agent == *to.1;
        Ok(Led {
            cause: cause.next(back),
            by: (!notice).then_some((node, key)),
        })
    }

    /// Refuses a message that is one too many, and tells whoever sent the one before it.
    pub(crate) fn check_budgets(
        &mut self,
        envelope: &Envelope,
        to: &AgentAddress,
        by: Option<(NodeId, MessageKey)>,
    ) -> Result<(), Refusal> {
        let Some(why) = self.causes.excess(envelope) else {
            return Ok(());
        };
        let Cause { root, depth, .. } = envelope.cause;
        let own = self.authority.name_of(&self.node);
        let own = own.map_or_else(String::new, |node| format!("@{node}"));
        let why = format!(
            "the message from {}{own} to {to} would be one too many of those that {root} led to: {why}",
            envelope.from
        );
        self.counters.loops += 1;
        self.event(Event::Looped {
            key: envelope.key(),
            root,
            depth,
        });
        if self.causes.tell(root)
            && let Some((node, key)) = by
        {
            self.send_frame(node, MessageFrame::Looped { key });
        }
        Err(Refusal::Loop(why.into()))
    }

    /// The other gateway stopped what this message of ours led to.
    pub(crate) fn handle_looped(&mut self, peer: NodeId, key: MessageKey) {
        let Some(row) = self.settled_by(peer, key) else {
            return;
        };
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        // Whoever waits for an answer may still get it.
        if std::mem::replace(&mut message.looped, true) || message.open {
            return;
        }
        self.counters.loops += 1;
        let stopped = crate::words::Failure::new(
            "loop",
            "what this message led to was stopped by the other gateway: too many messages led to each other",
        );
        self.event(Event::Failed {
            key,
            error: stopped.clone(),
        });
        self.notify(row, stopped);
    }

    /// A letter was shown to its agent, which may answer it with a message of its own.
    pub(crate) fn note_shown(&mut self, row: crate::rows::RowId) {
        let entry = self.inbox.entries.get(&row);
        let Some((letter, _)) = entry.and_then(|entry| entry.letter()) else {
            return;
        };
        if matches!(letter.subject, Subject::Failure { .. }) {
            return;
        }
        let pair = (
            letter.owner.instance,
            letter.node,
            letter.from.agent.clone(),
        );
        let (cause, key) = (letter.cause, letter.key);
        self.causes.hear(pair, cause, key, self.now);
    }
}

impl Causes {
    /// The agent wrote to the other: what it was shown before is answered.
    pub(crate) fn note_sent(&mut self, from: InstanceId, node: NodeId, to: &AgentName) {
        // Most agents that send are never written to: then there is nothing to look for.
        if !self.heard.is_empty()
            && let Some(heard) = self.heard.get_mut(&(from, node, to.clone()))
        {
            heard.answered = true;
        }
    }

    /// A message that something led to passed here.
    pub(crate) fn count(&mut self, cause: Cause, now: Instant) {
        if cause.depth == 0 {
            return;
        }
        let Cause { root, .. } = cause;
        if let Some(known) = self.roots.get_mut(&root) {
            self.by_age.remove(&(known.used, root));
            (known.passed, known.used) = (known.passed.saturating_add(1), now);
        } else {
            let passed = 1;
            self.roots.insert(
                root,
                Root {
                    passed,
                    used: now,
                    told: false,
                },
            );
        }
        self.by_age.insert((now, root));
        let old =
            |(used, _): &(Instant, MessageId)| now.saturating_duration_since(*used) > ROOT_AGE;
        while self.by_age.len() > ROOTS_MOST || self.by_age.first().is_some_and(old) {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                break;
            };
            self.roots.remove(&oldest);
        }
    }

    /// Why a message is one too many, where it is. A request stands for its answer too, so that no
    /// answer is ever refused.
    pub(crate) fn excess(&self, envelope: &Envelope) -> Option<String> {
        let Cause {
            root,
            depth,
            bounces,
        } = envelope.cause;
        if matches!(envelope.kind, wire::message::Kind::Reply { .. }) {
            return None;
        }
        let Budgets {
            bounces: bounces_most,
            depth: depth_most,
            per_root,
        } = self.budgets;
        let answer = u8::from(envelope.kind.expects_reply());
        if bounces.saturating_add(answer) >= bounces_most && bounces > 0 {
            return Some(format!(
                "{bounces} went back and forth between these two, and at most {bounces_most} may"
            ));
        }
        if depth.saturating_add(answer) > depth_most && depth > 0 {
            return Some(format!(
                "{depth} led to each other, and at most {depth_most} may"
            ));
        }
        let passed = self.roots.get(&root).map_or(0, |root| root.passed);
        (depth > 0 && passed >= per_root)
            .then(|| format!("{passed} of them passed this gateway, and at most {per_root} may"))
    }

    /// Whether the agents before are to be told of this root; once.
    fn tell(&mut self, root: MessageId) -> bool {
        self.roots
            .get_mut(&root)
            .is_none_or(|root| !std::mem::replace(&mut root.told, true))
    }

    fn hear(&mut self, pair: Pair, cause: Cause, key: MessageKey, now: Instant) {
        let fresh = |heard: &Heard| now.saturating_duration_since(heard.at) < TURN;
        let before = self.heard.get(&pair).filter(|heard| fresh(heard));
        let in_a_row = before.map_or(0, |heard| heard.in_a_row).saturating_add(1);
        if self.heard.len() >= HEARD_MOST && !self.heard.contains_key(&pair) {
            self.heard.retain(|_, heard| fresh(heard));
            if self.heard.len() >= HEARD_MOST {
                return;
            }
        }
        let heard = Heard {
            cause,
            key,
            at: now,
            in_a_row,
            answered: false,
        };
        self.heard.insert(pair, heard);
    }
}

/// What an agent sends to another within this time of being shown a message from there counts as
/// led to by it, where the agent does not say. Proposed by us: a turn of a slow model.
const TURN: Duration = Duration::from_secs(60);

/// Messages in a row, none of them [`TURN`] after the one before, from which on what goes back is
/// taken for a stream of its own. Proposed by us: above what [`limits::MAX_BOUNCES`] lets through.
const TURNS_MOST: u32 = 16;

/// How long a root is counted after its last message, and how many roots at most. Proposed by us:
/// 4096 of them are half a megabyte.
const ROOT_AGE: Duration = Duration::from_secs(3600);
const ROOTS_MOST: usize = 4096;

/// Pairs of agents whose last message is remembered. Proposed by us: the same.
const HEARD_MOST: usize = 4096;
