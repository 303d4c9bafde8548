//! What rules and guards are about where no node is, as patterns that cover and meet each other.

use std::collections::BTreeSet;
use std::fmt;

use super::{HttpPath, What};
use crate::Verb;
use crate::document::{Domain, Levels, Ports, Selector, TCP};
use crate::resolve::{ResolvedGuard, ResolvedRule};

/// Where a right goes that goes to no node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    Topic(Levels),
    /// Its port is part of the right.
    Internet(Domain),
    Service(Box<str>),
    /// Out over a gateway that is a way to the internet.
    Exit,
    /// A node that is named apart: a request to one of its ports.
    Node,
}

/// One right at one spot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub spot: Spot,
    pub what: What,
}

impl Element {
    pub fn covers(&self, other: &Self) -> bool {
        self.spot.covers(&other.spot) && self.what.covers(&other.what)
    }

    pub fn meet(&self, other: &Self) -> Option<Self> {
        Some(Self {
            spot: self.spot.meet(&other.spot)?,
            what: self.what.meet(&other.what)?,
        })
    }

    pub fn pieces(&self, cuts: &BTreeSet<Ports>) -> Vec<Self> {
        let Some(ports) = self.what.ports() else {
            return vec![self.clone()];
        };
        let mut pieces = Vec::new();
        for protocol in ports.all_protocols() {
            let all = super::ranges::pieces(*protocol, &cuts.iter().collect());
            let (first, last) = ports.range();
            let inside = all.into_iter().filter(|(a, b)| *a >= first && *b <= last);
            pieces.extend(inside.map(|range| {
                Self {
                    spot: self.spot.clone(),
                    what: self
                        .what
                        .clone()
                        .on(Some(Ports::new(Some(*protocol), range))),
                }
            }));
        }
        pieces
    }

    /// In words, beside another of its kind.
    pub fn beside(&self) -> String {
        match (&self.spot, &self.what) {
            (Spot::Node, what) => what.to_string(),
            (spot, What::Verb(_)) => spot.to_string(),
            (spot, What::Connect(ports) | What::Http(ports, None, None)) => match ports.range() {
                (0, u16::MAX) => spot.to_string(),
                _ => format!("{spot}:{}", ports_alone(ports)),
            },
            (spot, what) => format!("{what} of {spot}"),
        }
    }
}

impl Spot {
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Topic(mine), Self::Topic(theirs)) => mine.covers(theirs),
            (Self::Internet(mine), Self::Internet(theirs)) => mine.covers(theirs),
            (mine, theirs) => mine == theirs,
        }
    }

    pub fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Topic(mine), Self::Topic(theirs)) => mine.meet(theirs).map(Self::Topic),
            (Self::Internet(mine), Self::Internet(theirs)) => mine.meet(theirs).map(Self::Internet),
            (mine, theirs) => (mine == theirs).then(|| mine.clone()),
        }
    }
}

impl What {
    pub fn ports(&self) -> Option<&Ports> {
        match self {
            Self::Ports(ports) | Self::Connect(ports) | Self::Http(ports, _, _) => Some(ports),
            _ => None,
        }
    }

    /// The same on other ports, where it is on any.
    pub fn on(&self, ports: Option<Ports>) -> Self {
        match (self, ports) {
            (Self::Ports(_), Some(ports)) => Self::Ports(ports),
            (Self::Connect(_), Some(ports)) => Self::Connect(ports),
            (Self::Http(_, method, path), Some(ports)) => {
                Self::Http(ports, method.clone(), path.clone())
            }
            _ => self.clone(),
        }
    }

    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ports(mine), Self::Ports(theirs))
            | (Self::Connect(mine), Self::Connect(theirs)) => mine.covers(theirs),
            (Self::Http(mine, method, path), Self::Http(theirs, their_method, their_path)) => {
                let paths = match (path, their_path) {
                    (None, _) => true,
                    (Some(mine), Some(theirs)) => mine.covers(theirs),
                    (Some(_), None) => false,
                };
                mine.covers(theirs) && (method.is_none() || method == their_method) && paths
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// What is in both, of parts whose ports are the same or apart.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        if let (Self::Http(ports, a, p), Self::Http(theirs, b, q)) = (self, other) {
            let method = match (a, b) {
                (Some(a), Some(b)) if a != b => return None,
                (a, b) => a.clone().or(b.clone()),
            };
            let path: Option<HttpPath> = match (p, q) {
                (Some(p), Some(q)) => Some(p.meet(q)?),
                (p, q) => p.clone().or(q.clone()),
            };
            return (ports == theirs).then(|| Self::Http(ports.clone(), method, path));
        }
        (self == other).then(|| self.clone())
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(levels) => write!(f, "topic:{levels}"),
            Self::Internet(domain) => domain.fmt(f),
            Self::Service(name) => write!(f, "svc:{name}"),
            Self::Exit => f.write_str("autogroup:internet"),
            Self::Node => f.write_str("its ports"),
        }
    }
}

/// What a rule opens where no node is.
pub(super) fn onward(rule: &ResolvedRule) -> Vec<Element> {
    let mut elements = Vec::new();
    let every_port = [Ports::new(Some(TCP), (0, u16::MAX))];
    for selector in &rule.resources {
        match selector {
            Selector::Topic(levels) => {
                elements.extend(verbs(rule.msg.iter(), &Spot::Topic(levels.clone())));
            }
            Selector::Service(name) => {
                let what = What::Connect(every_port[0].clone());
                let spot = Spot::Service(name.clone());
                elements.push(Element { spot, what });
            }
            Selector::Internet(domain) => {
                let spot = Spot::Internet(domain.on_every_port());
                let only = domain.port().map_or((0, u16::MAX), |port| (port, port));
                let opened: Vec<Ports> = match rule.ip.is_empty() {
                    true => every_port.to_vec(),
                    false => rule.ip.iter().filter_map(tcp).collect(),
                };
                for ports in opened {
                    let (first, last) = ports.range();
                    let range = (first.max(only.0), last.min(only.1));
                    if range.0 > range.1 {
                        continue;
                    }
                    let ports = Ports::new(Some(TCP), range);
                    let connect = rule.http.is_empty().then(|| What::Connect(ports.clone()));
                    let all = connect.into_iter().chain(requests(rule, &ports));
                    elements.extend(all.map(|what| Element {
                        spot: spot.clone(),
                        what,
                    }));
                }
                elements.extend(rule.credential.iter().map(|name| Element {
                    spot: spot.clone(),
                    what: What::Credential(name.clone()),
                }));
            }
            Selector::Node(_) | Selector::Agent(..) => {}
        }
    }
    if rule.to_internet {
        elements.extend(rule.ip.iter().map(|ports| Element {
            spot: Spot::Exit,
            what: What::Ports(ports.clone()),
        }));
    }
    elements
}

/// What a guard is about where no node is.
pub(super) fn guarded(guard: &ResolvedGuard) -> Vec<Element> {
    let mut elements = Vec::new();
    for selector in &guard.resources {
        match selector {
            Selector::Topic(levels) => {
                let all = Verb::ALL.into_iter();
                let meant = all.filter(|verb| guard.msg.is_empty() || guard.msg.contains(*verb));
                elements.extend(verbs(meant, &Spot::Topic(levels.clone())));
            }
            Selector::Internet(domain) if guard.msg.is_empty() => {
                let range = domain.port().map_or((0, u16::MAX), |port| (port, port));
                let ports = Ports::new(Some(TCP), range);
                for what in [What::Connect(ports.clone()), What::Http(ports, None, None)] {
                    let spot = Spot::Internet(domain.on_every_port());
                    elements.push(Element { spot, what });
                }
            }
            Selector::Service(name) if guard.msg.is_empty() => elements.push(Element {
                spot: Spot::Service(name.clone()),
                what: What::Connect(Ports::new(Some(TCP), (0, u16::MAX))),
            }),
            _ => {}
        }
    }
    elements
}

fn verbs(verbs: impl Iterator<Item = Verb>, spot: &Spot) -> impl Iterator<Item = Element> {
    verbs.map(|verb| Element {
        spot: spot.clone(),
        what: What::Verb(verb),
    })
}

/// The part of an entry that is TCP.
pub(super) fn tcp(ports: &Ports) -> Option<Ports> {
    let is_tcp = ports.all_protocols().contains(&TCP);
    is_tcp.then(|| Ports::new(Some(TCP), ports.range()))
}

/// The requests that a rule lets through on these ports.
pub(super) fn requests(rule: &ResolvedRule, ports: &Ports) -> Vec<What> {
    if rule.http.is_empty() {
        return vec![What::Http(ports.clone(), None, None)];
    }
    let mut requests = Vec::new();
    for http in &rule.http {
        let methods: Vec<Option<Box<str>>> = match http.methods.is_empty() {
            true => vec![None],
            false => http.methods.iter().cloned().map(Some).collect(),
        };
        let paths: Vec<Option<Levels>> = match http.paths.is_empty() {
            true => vec![None],
            false => http.paths.iter().cloned().map(Some).collect(),
        };
        for method in &methods {
            let each = paths.iter();
            requests
                .extend(each.map(|path| What::Http(ports.clone(), method.clone(), path.clone())));
        }
    }
    requests
}

fn ports_alone(ports: &Ports) -> String {
    let text = ports.to_string();
    text.strip_prefix("tcp:")
        .map_or(text.clone(), str::to_owned)
}
