//! Which agents there are and how they are: what is told to each peer of the agents here, and what
//! each peer told of its own.
//!
//! Nothing is said while nothing changes, so a session may end and its directory still stand: a
//! gateway that is up tells when it changes. **Invariants:** a peer is told of those agents alone
//! that some agent there may reach; what others told is bounded, whatever they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{AgentName, NodeId};
use wire::peer::{DirectoryEntry, MAX_DIRECTORY, PeerFrame, Presence};
use wire::profile::Profile;

/// The agents here.
#[derive(Debug, Default)]
pub struct Own {
    agents: BTreeMap<AgentName, Row>,
    /// Counts the changes of all rows.
    revision: u64,
}

#[derive(Debug)]
struct Row {
    entry: DirectoryEntry,
    revision: u64,
    seen: Option<Instant>,
}

/// What a peer was told: of each agent, which revision, and whether parts may be asked of it.
#[derive(Debug, Default)]
pub struct Told {
    agents: BTreeMap<AgentName, (u64, bool)>,
    /// Of all agents.
    revision: u64,
    /// When it was told all, and whether something was told since.
    whole: Option<Instant>,
    news: bool,
}

/// What the policy lets the agents of a peer do with one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing.
    None,
    /// Some verb.
    Some,
    /// Also to ask for parts.
    Streams,
}

impl Own {
    /// Takes the agents as they are now. Whether there is anything to tell of it: that one was
    /// seen again is news only of one that is away.
    pub fn set(&mut self, entries: Vec<DirectoryEntry>, now: Instant) -> bool {
        let before = self.revision;
        let names: BTreeSet<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        self.agents.retain(|name, _| {
            let stays = names.contains(name);
            self.revision += u64::from(!stays);
            stays
        });
        for entry in entries {
            let seen = ago(entry.idle_s, now);
            if let Some(row) = self.agents.get(&entry.name) {
                let again = entry.presence == Presence::Away
                    && seen.is_some_and(|seen| row.seen.is_none_or(|it| seen > it + SLACK));
                let other =
                    (row.entry.presence, &row.entry.profile) != (entry.presence, &entry.profile);
                if !again && !other {
                    continue;
                }
            }
            self.revision += 1;
            let revision = self.revision;
            let row = Row {
                revision,
                seen,
                entry,
            };
            self.agents.insert(row.entry.name.clone(), row);
        }
        self.revision != before
    }

    /// Whether there is an agent of that name.
    pub fn has(&self, name: &AgentName) -> bool {
        self.agents.contains_key(name)
    }

    /// Whether a peer that is in no session should hear of something. Only `all` looks at what is
    /// as it was told before: rights change with the policy alone.
    pub fn is_news(&self, told: &Told, rights: impl Fn(&AgentName) -> Rights, all: bool) -> bool {
        let mut rows = self.agents.values();
        told.agents
            .keys()
            .any(|name| !self.agents.contains_key(name))
            || rows.any(|row| {
                let name = &row.entry.name;
                (all || row.revision > told.revision)
                    && match rights(name) {
                        Rights::None => told.agents.contains_key(name),
                        rights => told.lacks(row, rights == Rights::Streams),
                    }
            })
    }

    /// All that the peer may see: the first word of a session, and now and then the whole again.
    pub fn tell_all(
        &self,
        told: &mut Told,
        rights: impl Fn(&AgentName) -> Rights,
        now: Instant,
    ) -> PeerFrame {
        let visible = self.visible(rights);
        told.agents = visible
            .iter()
            .map(|(row, streams)| row.as_told(*streams))
            .collect();
        (told.whole, told.news) = (Some(now), false);
        told.revision = self.revision;
        let entries = visible
            .iter()
            .map(|(row, streams)| row.shown(*streams, now));
        PeerFrame::Directory(entries.collect())
    }

    /// What is not as it was told.
    pub fn tell(
        &self,
        told: &mut Told,
        rights: impl Fn(&AgentName) -> Rights,
        now: Instant,
    ) -> Option<PeerFrame> {
        let visible = self.visible(rights);
        let stays: BTreeSet<_> = visible.iter().map(|(row, _)| &row.entry.name).collect();
        let gone: Vec<_> = told
            .agents
            .keys()
            .filter(|name| !stays.contains(name))
            .cloned()
            .collect();
        let changed = visible
            .iter()
            .filter(|(row, streams)| told.lacks(row, *streams));
        let changed: Vec<_> = changed
            .map(|(row, streams)| row.shown(*streams, now))
            .collect();
        if changed.is_empty() && gone.is_empty() {
            return None;
        }
        told.agents = visible
            .iter()
            .map(|(row, streams)| row.as_told(*streams))
            .collect();
        (told.news, told.revision) = (true, self.revision);
        Some(PeerFrame::News { changed, gone })
    }

    fn visible(&self, rights: impl Fn(&AgentName) -> Rights) -> Vec<(&Row, bool)> {
        let rows = self.agents.values().filter_map(|row| {
            let rights = rights(&row.entry.name);
            (rights != Rights::None).then_some((row, rights == Rights::Streams))
        });
        rows.take(MAX_DIRECTORY).collect()
    }
}

impl Row {
    fn shown(&self, streams: bool, now: Instant) -> DirectoryEntry {
        DirectoryEntry {
            idle_s: self
                .seen
                .map(|seen| now.saturating_duration_since(seen).as_secs()),
            streams,
            ..self.entry.clone()
        }
    }

    fn as_told(&self, streams: bool) -> (AgentName, (u64, bool)) {
        (self.entry.name.clone(), (self.revision, streams))
    }
}

impl Told {
    /// A frame that found no room in a session's queue is lost, and news with it: what was told
    /// in pieces is told whole some time later.
    pub fn wants_whole(&self, now: Instant) -> bool {
        let old = |at| now.saturating_duration_since(at) > WHOLE_AGAIN;
        self.news && self.whole.is_none_or(old)
    }

    fn lacks(&self, row: &Row, streams: bool) -> bool {
        self.agents.get(&row.entry.name) != Some(&(row.revision, streams))
    }
}

/// What other gateways told of their agents.
#[derive(Clone, Debug, Default)]
pub struct Known {
    gateways: BTreeMap<NodeId, Arc<Gateway>>,
    /// The bytes of all profiles.
    text: usize,
}

/// What one gateway told.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Whether there is a session with it.
    pub in_session: bool,
    /// When it was last heard in a session.
    heard: Instant,
    agents: BTreeMap<AgentName, (DirectoryEntry, Instant)>,
}

/// How it stands with a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is there, as far as anybody knows.
    Up,
    /// It is not, and a beacon that knew it last saw it so many seconds ago.
    Down(Option<u64>),
}

impl Known {
    /// Every gateway that told anything.
    pub fn gateways(&self) -> impl Iterator<Item = (&NodeId, &Gateway)> {
        self.gateways
            .iter()
            .map(|(node, gateway)| (node, &**gateway))
    }

    /// A session began.
    pub fn handle_up(&mut self, peer: NodeId, now: Instant) {
        self.gateway(peer, now).in_session = true;
    }

    /// It ended.
    pub fn handle_down(&mut self, peer: NodeId, now: Instant) {
        self.gateway(peer, now).in_session = false;
    }

    /// A peer told all of its agents.
    pub fn handle_directory(&mut self, peer: NodeId, entries: Vec<DirectoryEntry>, now: Instant) {
        let before = std::mem::take(&mut self.gateway(peer, now).agents);
        self.text -= before.values().map(size).sum::<usize>();
        self.take(peer, entries, now);
    }

    /// A peer told what changed.
    pub fn handle_news(
        &mut self,
        peer: NodeId,
        changed: Vec<DirectoryEntry>,
        gone: &[AgentName],
        now: Instant,
    ) {
        for name in gone {
            let before = self.gateway(peer, now).agents.remove(name);
            self.text -= before.as_ref().map_or(0, size);
        }
        self.take(peer, changed, now);
    }

    /// Forgets whoever is no member any longer.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.gateways.retain(|node, gateway| {
            let stays = is_member(node);
            if !stays {
                self.text -= gateway.agents.values().map(size).sum::<usize>();
            }
            stays
        });
    }

    fn gateway(&mut self, peer: NodeId, now: Instant) -> &mut Gateway {
        let fresh = || {
            Arc::new(Gateway {
                in_session: true,
                heard: now,
                agents: BTreeMap::new(),
            })
        };
        let gateway = Arc::make_mut(self.gateways.entry(peer).or_insert_with(fresh));
        gateway.heard = now;
        gateway
    }

    /// Names and presence of every agent, within a directory's bound; text while there is room.
    fn take(&mut self, peer: NodeId, entries: Vec<DirectoryEntry>, now: Instant) {
        let mut text = self.text;
        let gateway = self.gateway(peer, now);
        for mut entry in entries {
            let before = gateway.agents.remove(&entry.name);
            text -= before.as_ref().map_or(0, size);
            if gateway.agents.len() >= MAX_DIRECTORY {
                continue;
            }
            if text + entry.profile.size() > MAX_TEXT {
                entry.profile = Profile::default();
            }
            text += entry.profile.size();
            gateway.agents.insert(entry.name.clone(), (entry, now));
        }
        self.text = text;
    }
}

impl Gateway {
    /// Its agents as they are now: seconds since each was seen added up.
    pub fn agents(&self, reach: Reach, now: Instant) -> impl Iterator<Item = DirectoryEntry> {
        self.agents.values().map(move |(entry, at)| {
            let since = |at: Instant| now.saturating_duration_since(at).as_secs();
            let idle_s = match (entry.presence, reach) {
                (Presence::Online, Reach::Up) => Some(0),
                // It was there until its gateway was not.
                (Presence::Online, Reach::Down(beacon)) => {
                    let heard = since(self.heard);
                    Some(beacon.map_or(heard, |seen| seen.min(heard)))
                }
                (Presence::Away, _) => entry.idle_s.map(|idle| idle.saturating_add(since(*at))),
            };
            DirectoryEntry {
                idle_s,
                ..entry.clone()
            }
        })
    }
}

fn size((entry, _): &(DirectoryEntry, Instant)) -> usize {
    entry.profile.size()
}

fn ago(idle_s: Option<u64>, now: Instant) -> Option<Instant> {
    now.checked_sub(Duration::from_secs(idle_s?))
}

/// Idle times are told in whole seconds.
const SLACK: Duration = Duration::from_secs(2);

/// How long after news the whole is told again: rare, as it may be most of a megabyte.
const WHOLE_AGAIN: Duration = Duration::from_secs(600);

/// All text that is kept of what others told: 1,300 agents with full profiles.
const MAX_TEXT: usize = 4 << 20;

#[cfg(test)]
mod tests;
