//! Token buckets: how much the rate guards of the policy let pass now. What draws from which bucket,
//! and how large it is, is the policy's word with each verdict; [`Rates`] only counts.
//!
//! A bucket is kept as the moment at which it is full again (the generic cell rate algorithm, ITU-T
//! I.371): a draw moves that moment, and time alone refills. **Invariant:** a bucket is forgotten
//! only when it is full, so that forgetting one changes no verdict, and a policy that changed its
//! numbers finds what was drawn before. Without room for another bucket nothing more passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::NodeId;
use policy::{Bucket, BucketKey, GrantRef};

/// The buckets of this gateway that are not full.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    buckets: BTreeMap<Name, Level>,
    /// The same by the node whose message made each, the first to be full first.
    by_source: BTreeMap<NodeId, BTreeSet<(Instant, Name)>>,
}

/// What one message drew, to be given back if it is not kept after all.
#[derive(Debug, Default)]
pub(crate) struct Drawn(Vec<(Name, Duration)>);

type Name = Arc<(GrantRef, BucketKey)>;

#[derive(Debug)]
struct Level {
    full_at: Instant,
    /// By which numbers it is counted.
    size: Size,
    /// The node that is charged for the room.
    source: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    /// One token's time.
    step: Duration,
    burst: u32,
}

impl Rates {
    /// Draws one token from each of these, or none and says after which time to try again.
    pub fn draw(
        &mut self,
        source: NodeId,
        demands: &[Bucket],
        now: Instant,
    ) -> Result<Drawn, Duration> {
        if demands.is_empty() {
            return Ok(Drawn::default());
        }
        self.forget_full(&source, now);
        let names: Vec<Name> = demands
            .iter()
            .map(|demand| Arc::new((demand.guard.clone(), demand.key.clone())))
            .collect();
        let sizes = demands.iter().map(Size::of);
        let wanted: Vec<(Name, Size)> = names.into_iter().zip(sizes).collect();
        for (name, size) in &wanted {
            self.resize(name, *size, now);
        }
        let waits = wanted
            .iter()
            .map(|(name, size)| self.wait(name, *size, now));
        let wait = waits.max().unwrap_or_default();
        let missing = wanted
            .iter()
            .filter(|(name, _)| !self.buckets.contains_key(name));
        let missing = missing.count();
        let wait = wait.max(self.wait_for_room(&source, missing, now));
        if !wait.is_zero() {
            return Err(wait);
        }
        let drawn = wanted.into_iter().map(|(name, size)| {
            let full_at = self.full_at(&name, now) + size.step;
            self.set(&name, source, size, full_at);
            (name, size.step)
        });
        Ok(Drawn(drawn.collect()))
    }

    /// What was drawn for nothing goes back.
    pub fn give_back(&mut self, drawn: Drawn) {
        for (name, step) in drawn.0 {
            let Some(level) = self.buckets.get(&name) else {
                continue;
            };
            if let Some(full_at) = level.full_at.checked_sub(step) {
                self.set(&name, level.source, level.size, full_at);
            }
        }
    }

    /// How many buckets are not full, or were not when they were last asked about.
    pub fn count(&self) -> usize {
        self.buckets.len()
    }

    /// How long until there is a token.
    fn wait(&self, name: &Name, size: Size, now: Instant) -> Duration {
        let spare = size.step * (size.burst - 1);
        let owed = self.full_at(name, now) - now;
        owed.saturating_sub(spare)
    }

    /// When a bucket is full: now at the earliest.
    fn full_at(&self, name: &Name, now: Instant) -> Instant {
        let level = self.buckets.get(name);
        level.map_or(now, |level| level.full_at.max(now))
    }

    /// A policy with other numbers is in force: what was drawn stays drawn, as far as an empty
    /// bucket goes.
    fn resize(&mut self, name: &Name, size: Size, now: Instant) {
        if let Some(level) = self.buckets.get(name)
            && level.size != size
        {
            let empty = now + size.step * size.burst;
            self.set(name, level.source, size, level.full_at.min(empty));
        }
    }

    /// How long until there is room for so many buckets more.
    fn wait_for_room(&mut self, source: &NodeId, more: usize, now: Instant) -> Duration {
        let held = |rates: &Self| rates.by_source.get(source).map_or(0, BTreeSet::len);
        let mut first = None;
        if held(self) + more > MOST_OF_A_NODE {
            let set = self.by_source.get(source);
            first = set.and_then(|set| set.first()).map(|(at, _)| *at);
        } else if self.buckets.len() + more > MOST {
            for source in self.by_source.keys().copied().collect::<Vec<_>>() {
                self.forget_full(&source, now);
            }
            if self.buckets.len() + more > MOST {
                let firsts = self.by_source.values().filter_map(|set| set.first());
                first = firsts.map(|(at, _)| *at).min();
            }
        }
        first.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(now).max(MOMENT)
        })
    }

    fn set(&mut self, name: &Name, source: NodeId, size: Size, full_at: Instant) {
        let new = Level {
            full_at,
            size,
            source,
        };
        let level = self.buckets.entry(name.clone()).or_insert(new);
        let set = self.by_source.entry(level.source).or_default();
        set.remove(&(level.full_at, name.clone()));
        set.insert((full_at, name.clone()));
        (level.full_at, level.size) = (full_at, size);
    }

    fn forget_full(&mut self, source: &NodeId, now: Instant) {
        let Some(set) = self.by_source.get_mut(source) else {
            return;
        };
        while set.first().is_some_and(|(full_at, _)| *full_at <= now) {
            if let Some((_, name)) = set.pop_first() {
                self.buckets.remove(&name);
            }
        }
        if set.is_empty() {
            self.by_source.remove(source);
        }
    }
}

impl Size {
    /// A token's time is rounded up: never more passes than the guard says.
    fn of(demand: &Bucket) -> Self {
        let limit = u128::from(demand.limit.max(1));
        let nanos = demand.per.as_nanos().div_ceil(limit);
        Self {
            step: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            burst: demand.burst.max(1),
        }
    }
}

/// Buckets that are not full: about 30 MB of memory. Proposed by us.
const MOST: usize = 65_536;

/// The same that one node may cause, by as many agents as it makes up: a sixteenth of the room, and
/// as many as the pairs of one node whose order is remembered.
const MOST_OF_A_NODE: usize = crate::limits::KNOWN_PAIRS_PER_NODE;

/// Where room is just being made.
const MOMENT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use identity::{AgentName, UnixTime};
    use policy::{Document, MessageRequest, Node, Policy, Verb, Verdict};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const HERE: NodeId = NodeId([9; 16]);

    /// What a message of an agent of that node draws from, under `{"limit": …, …}`.
    fn demands(rate: &str, (node, agent): (u8, &str)) -> Vec<Bucket> {
        demands_of(&policy(rate, node), (node, agent))
    }

    fn policy(rate: &str, node: u8) -> Policy {
        let text = format!(
            r#"{{"grants": [{{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send"]}}],
                "guards": [{{"id": "g", "src": ["agent:*@*"], "dst": ["agent:*@*"], "rate": {{{rate}}}}}]}}"#
        );
        let (document, _) = Document::parse("policy.hujson", &text).expect("a policy");
        let nodes = [(source(node), "gw-a"), (HERE, "gw-b")]
            .map(|(id, name)| Node::new(id, name.parse().expect("a name")));
        Policy::compile(&document, &nodes)
    }

    fn demands_of(policy: &Policy, (node, agent): (u8, &str)) -> Vec<Bucket> {
        let [from, to] = [agent, "coder"].map(|name| name.parse::<AgentName>().expect("a name"));
        let verdict = policy.authorize(&MessageRequest {
            src: (source(node), &from),
            dst: (HERE, &to),
            verb: Verb::Send,
            at: UnixTime(0),
            bytes: None,
        });
        match verdict {
            Verdict::Allowed { buckets, .. } => buckets,
            Verdict::Denied(denial) => panic!("{denial:?}"),
        }
    }

    fn source(node: u8) -> NodeId {
        NodeId([node; 16])
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_what_time_refills() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let demands = demands(r#""limit": "2/s", "burst": 3"#, (1, "a"));
        let mut draw = |at: Instant| rates.draw(source(1), &demands, at).map(|_| ());

        assert_eq!([(); 3].map(|()| draw(start)), [Ok(()); 3]);
        assert_eq!(draw(start), Err(SECOND / 2));
        assert_eq!(draw(start + SECOND / 4), Err(SECOND / 4), "the true wait");
        assert_eq!(draw(start + SECOND / 2), Ok(()));
        assert_eq!(draw(start + SECOND / 2), Err(SECOND / 2));
        let later = start + SECOND * 3600;
        assert_eq!(
            [(); 3].map(|()| draw(later)),
            [Ok(()); 3],
            "never more than full"
        );
        assert!(draw(later).is_err());
    }

    #[test]
    fn who_is_refused_draws_nothing_and_what_is_given_back_is_there_again() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let small = demands(r#""limit": "1/h", "per": "src""#, (1, "a"));
        let large = demands(r#""limit": "2/h", "per": "dst""#, (1, "a"));
        let both = [small.clone(), large.clone()].concat();

        let drawn = rates.draw(source(1), &small, now).expect("a token");
        assert!(rates.draw(source(1), &both, now).is_err());
        assert_eq!(
            [(); 2].map(|()| rates.draw(source(1), &large, now).is_ok()),
            [true; 2]
        );

        rates.give_back(drawn);
        assert!(rates.draw(source(1), &small, now).is_ok());
        assert!(rates.draw(source(1), &small, now).is_err());
    }

    #[test]
    fn a_policy_that_changes_the_numbers_forgives_nothing_and_owes_no_more_than_a_bucket() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let slow = demands(r#""limit": "1/d""#, (1, "a"));
        let fast = demands(r#""limit": "1/s""#, (1, "a"));

        assert!(rates.draw(source(1), &slow, now).is_ok());
        assert_eq!(rates.draw(source(1), &fast, now).err(), Some(SECOND));
        assert!(rates.draw(source(1), &fast, now + SECOND).is_ok());
        assert!(rates.draw(source(1), &slow, now + SECOND).is_err());
    }

    #[test]
    fn made_up_agents_use_up_their_nodes_room_and_reset_no_bucket() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let per_agent = r#""limit": "1/h", "per": "src""#;
        let victim = demands(per_agent, (2, "b"));
        assert!(rates.draw(source(2), &victim, now).is_ok());

        let hostile = policy(per_agent, 1);
        for n in 0..MOST_OF_A_NODE {
            let made_up = demands_of(&hostile, (1, &format!("a{n}")));
            assert!(rates.draw(source(1), &made_up, now).is_ok());
        }
        assert_eq!(rates.count(), MOST_OF_A_NODE + 1);

        let one_more = demands_of(&hostile, (1, "one-more"));
        assert_eq!(rates.draw(source(1), &one_more, now).err(), Some(HOUR));
        assert!(
            rates.draw(source(2), &victim, now).is_err(),
            "not forgotten"
        );
        let other = demands(per_agent, (2, "c"));
        assert!(
            rates.draw(source(2), &other, now).is_ok(),
            "another node has room"
        );

        assert!(
            rates.draw(source(1), &one_more, now + HOUR).is_ok(),
            "they were full"
        );
        assert_eq!(rates.count(), 3);
    }
}
