//! What the local API shows of the node: gathered from the tasks at the moment of asking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::api::{
    AgentEntry, BeaconStatus, Failure, Isolation, KillApplied, MapStatus, NodeStatus, Path,
    PathKind, PeerPath, PeerStatus, Ping, Policy, PolicyStatus, RevocationsStatus, Status,
    Timestamp,
};
use identity::{
    AgentAddress, AgentName, Change, KillFile, NodeId, NodeName, Order, TrustError, UnixTime,
};
use net::link::LinkState;
use policy::{MessageRequest, Verb, Verdict};
use router::{Authority, BLOCKED, CUT_OFF};
use tokio::sync::{mpsc, oneshot, watch};
use tunnel::{FlowStatus, Link};
use wire::peer::{DirectoryEntry, Presence};
use wire::profile::Profile;

use crate::agents::Agents;
use crate::api::{Later, NodeView, PingTarget, denied};
use crate::control::{self, ControlInput, KillError};
use crate::directories::{Known, Reach};
use crate::exchange::ExchangeCommand;
use crate::links::BeaconLink;
use crate::messages::Messages;
use crate::plane::PlaneCommand;
use crate::world::{ENFORCES, World, WorldMember};

/// The node as the local API sees it.
pub struct View {
    /// The policy and the members.
    pub world: watch::Receiver<Arc<World>>,
    /// Ages and presence.
    pub status: watch::Receiver<Arc<control::Status>>,
    /// The links to beacons.
    pub links: watch::Receiver<Arc<Vec<BeaconLink>>>,
    /// Peers and paths.
    pub plane: mpsc::Sender<PlaneCommand>,
    /// Directories.
    pub exchange: mpsc::Sender<ExchangeCommand>,
    /// What waits.
    pub messages: Messages,
    /// The agents here.
    pub agents: Agents,
    /// The agents elsewhere.
    pub known: watch::Receiver<Arc<Known>>,
    /// Where a kill file goes.
    pub control: mpsc::Sender<ControlInput>,
}

impl NodeView for View {
    fn own_name(&self) -> Option<NodeName> {
        self.world.borrow().own_name().cloned()
    }

    fn status(&self, isolation: Isolation) -> Later<'_, Status> {
        Box::pin(self.gather(isolation))
    }

    fn policy(&self) -> Option<Policy> {
        let world = self.world.borrow();
        let policy = world.policy.as_ref()?;
        Some(Policy {
            version: version(policy.order),
            signed_at: timestamp(policy.signed_at),
            text: policy.text.to_string(),
        })
    }

    fn directory(&self, asker: Option<&AgentName>) -> Later<'_, Vec<AgentEntry>> {
        let asker = asker.cloned();
        Box::pin(async move { self.reachable_agents(asker.as_ref()).await })
    }

    fn reach(&self, to: AgentAddress, asker: AgentName) -> Later<'_, Result<(), Failure>> {
        Box::pin(async move {
            let world = self.world.borrow().clone();
            let peer = gateway_named(&world, &to.node)?;
            let verdict = world.authorize(&MessageRequest {
                src: (world.node, &asker),
                dst: (peer, &to.agent),
                verb: Verb::Request,
                at: now(),
                bytes: None,
            });
            if let Verdict::Denied(denial) = verdict {
                return Err(failure_of(&denial));
            }
            self.check_agent(&world, peer, &to, Some(asker)).await
        })
    }

    fn directory_news(&self) -> Later<'static, ()> {
        let (mut known, mut world) = (self.known.clone(), self.world.clone());
        let mut status = self.status.clone();
        known.mark_unchanged();
        world.mark_unchanged();
        status.mark_unchanged();
        Box::pin(async move {
            // Their senders end with the node.
            let _ = tokio::select! {
                changed = known.changed() => changed,
                changed = world.changed() => changed,
                changed = status.changed() => changed,
            };
        })
    }

    fn ping(
        &self,
        target: PingTarget,
        asker: Option<AgentName>,
    ) -> Later<'_, Result<Ping, Failure>> {
        Box::pin(self.probe(target, asker))
    }

    fn path(&self, gateway: &NodeName) -> Later<'_, Path> {
        let peer = self.world.borrow().named(gateway).map(|member| member.node);
        Box::pin(async move {
            let peers = self.peers().await;
            let link = peers
                .into_iter()
                .find(|status| Some(status.node) == peer)
                .and_then(|status| status.link);
            self.shown(link)
        })
    }

    fn kill(&self, file: KillFile) -> Later<'_, Result<KillApplied, Failure>> {
        Box::pin(self.apply(file))
    }

    fn metrics(&self) -> Later<'_, String> {
        Box::pin(self.counted())
    }
}

impl View {
    async fn gather(&self, isolation: Isolation) -> Status {
        let tunnels: BTreeMap<NodeId, tunnel::PeerStatus> = self
            .peers()
            .await
            .into_iter()
            .map(|peer| (peer.node, peer))
            .collect();
        let queued: BTreeMap<NodeId, usize> = self
            .messages
            .queued()
            .await
            .unwrap_or_default()
            .into_iter()
            .collect();
        let world = self.world.borrow().clone();
        let status = self.status.borrow().clone();
        let me = world.members.get(&world.node);
        let now = now();
        let age = |since: UnixTime| now.0.saturating_sub(since.0);

        let peers = world.names.values().filter(|node| **node != world.node);
        let peers = peers
            .filter_map(|node| world.members.get(node))
            .map(|member| {
                let tunnel = tunnels.get(&member.node);
                let present = status
                    .presence
                    .get(&member.node)
                    .is_some_and(|(online, _)| *online);
                let heard = tunnel
                    .and_then(|tunnel| tunnel.last_heard)
                    .is_some_and(|ago| ago < RECENT);
                PeerStatus {
                    name: member.name.clone(),
                    id: member.node.to_hex(),
                    tags: member.tags.clone(),
                    online: present || heard,
                    path: self.path_of(tunnel),
                    rtt_ms: tunnel.and_then(|tunnel| tunnel.rtt).map(millis),
                    last_handshake_s: tunnel
                        .and_then(|tunnel| tunnel.last_handshake)
                        .map(|ago| ago.as_secs()),
                    tx_bytes: tunnel.map_or(0, |tunnel| tunnel.tx_bytes),
                    rx_bytes: tunnel.map_or(0, |tunnel| tunnel.rx_bytes),
                    queued: queued.get(&member.node).map_or(0, |count| *count as u64),
                    expires_at: Some(timestamp(member.expires_at)),
                }
            });
        Status {
            mesh: world.mesh.to_string(),
            node: NodeStatus {
                name: me.map(|me| me.name.clone()),
                id: world.node.to_hex(),
                tags: me.map(|me| me.tags.clone()).unwrap_or_default(),
                expires_at: status.expires_at.map(timestamp),
                isolation,
                enforces: ENFORCES.map(|feature| feature.as_str().into()).to_vec(),
            },
            beacons: self.links.borrow().iter().map(beacon_status).collect(),
            peers: peers.collect(),
            revocations: status
                .revocations
                .as_ref()
                .map(|(order, blocks)| RevocationsStatus {
                    version: version(*order),
                    kills: blocks.iter().map(ToString::to_string).collect(),
                }),
            policy: status.policy.map(|(order, signed)| PolicyStatus {
                version: version(order),
                age_s: age(signed),
            }),
            map: MapStatus {
                age_s: if status.map_live {
                    Some(0)
                } else {
                    status.map_at.map(age)
                },
            },
        }
    }

    fn path_of(&self, tunnel: Option<&tunnel::PeerStatus>) -> PeerPath {
        match tunnel {
            Some(tunnel) => {
                let path = self.shown(tunnel.link);
                PeerPath {
                    kind: path.kind,
                    remote: path.remote,
                    why: tunnel.why.to_owned(),
                }
            }
            None => PeerPath {
                kind: PathKind::None,
                remote: None,
                why: "no grant joins us, or it never came".into(),
            },
        }
    }

    /// Every agent that some gateway told of and the policy lets the asker reach, and those of this
    /// gateway.
    async fn reachable_agents(&self, asker: Option<&AgentName>) -> Vec<AgentEntry> {
        let world = self.world.borrow().clone();
        let known = self.known.borrow().clone();
        let status = self.status.borrow().clone();
        let heard: BTreeMap<NodeId, Duration> = match known.gateways().next() {
            Some(_) => self.heard().await,
            None => BTreeMap::new(),
        };
        let now = Instant::now();
        let mut entries = Vec::new();
        let mut list = |member: &WorldMember, reach: Reach, agent: DirectoryEntry| {
            let (from, to) = ((world.node, asker), (member.node, &agent.name));
            let itself = member.node == world.node && Some(&agent.name) == asker;
            if itself || !world.reachable(from, to) {
                return;
            }
            let here = member.node == world.node;
            entries.push(AgentEntry {
                online: reach == Reach::Up,
                presence: match (reach, agent.presence) {
                    (Reach::Down(_), _) => api::Presence::Offline,
                    (Reach::Up, Presence::Online) => api::Presence::Online,
                    (Reach::Up, Presence::Away) => api::Presence::Away,
                },
                last_seen_s: agent.idle_s,
                streams: (here || agent.streams) && world.may_stream(from, to),
                description: agent.profile.description().map(Into::into),
                skills: shown_skills(&agent.profile),
                address: AgentAddress {
                    agent: agent.name,
                    node: member.name.clone(),
                },
            });
        };
        if let Some(me) = world.members.get(&world.node) {
            local_directory(&self.agents)
                .into_iter()
                .for_each(|agent| list(me, Reach::Up, agent));
        }
        for (node, gateway) in known.gateways() {
            let Some(member) = world.members.get(node) else {
                continue;
            };
            let beacon = status.presence.get(node).filter(|_| status.map_live);
            let reach = reach_of(
                beacon.copied(),
                heard.get(node).copied(),
                gateway.in_session,
            );
            for agent in gateway.agents(reach, now) {
                list(member, reach, agent);
            }
        }
        entries.sort_by(|a, b| {
            (&a.address.node, &a.address.agent).cmp(&(&b.address.node, &b.address.agent))
        });
        entries
    }

    /// How long ago each peer was heard.
    async fn heard(&self) -> BTreeMap<NodeId, Duration> {
        let peers = self.peers().await.into_iter();
        peers
            .filter_map(|peer| Some((peer.node, peer.last_heard?)))
            .collect()
    }

    async fn probe(&self, target: PingTarget, asker: Option<AgentName>) -> Result<Ping, Failure> {
        let name = match &target {
            PingTarget::Gateway(name) => name,
            PingTarget::Agent(address) => &address.node,
        };
        let world = self.world.borrow().clone();
        let peer = gateway_named(&world, name)?;
        if let PingTarget::Agent(address) = &target {
            self.check_agent(&world, peer, address, asker).await?;
        }
        if peer == world.node {
            return Ok(Ping {
                path: Path::none(),
                rtt_ms: Some(0.0),
            });
        }
        let (answer, pong) = oneshot::channel();
        let lost = Ping {
            path: Path::none(),
            rtt_ms: None,
        };
        if self
            .plane
            .send(PlaneCommand::Ping(peer, answer))
            .await
            .is_err()
        {
            return Ok(lost);
        }
        match pong.await {
            Ok(Some(pong)) => Ok(Ping {
                path: self.shown(Some(pong.link)),
                rtt_ms: Some(millis(pong.rtt)),
            }),
            _ => Ok(Ping {
                path: self.path(name).await,
                rtt_ms: None,
            }),
        }
    }

    /// Whether the asker may reach that agent: first by the policy here, then by its gateway's
    /// word, where there is a session to ask on.
    async fn check_agent(
        &self,
        world: &World,
        peer: NodeId,
        to: &AgentAddress,
        asker: Option<AgentName>,
    ) -> Result<(), Failure> {
        let Some(from) = asker else { return Ok(()) };
        let verdicts = [Verb::Send, Verb::Request].map(|verb| {
            let (src, dst) = ((world.node, &from), (peer, &to.agent));
            world.authorize(&MessageRequest {
                src,
                dst,
                verb,
                at: now(),
                bytes: None,
            })
        });
        if let [Verdict::Denied(denial), Verdict::Denied(_)] = verdicts {
            return Err(failure_of(&denial));
        }
        let there = if peer == world.node {
            Some(self.agents.named(&to.agent).is_some())
        } else {
            let (answer, heard) = oneshot::channel();
            let ask = ExchangeCommand::Reachable {
                peer,
                from,
                to: to.agent.clone(),
                answer,
            };
            match self.exchange.send(ask).await {
                Ok(()) => heard.await.unwrap_or(None),
                Err(_) => None,
            }
        };
        match there {
            Some(false) => Err(Failure::new(
                "unknown_agent",
                format!("{} has no agent {}", to.node, to.agent),
            )),
            // Without a session the probe itself tells how the gateway is.
            Some(true) | None => Ok(()),
        }
    }

    /// Hands a kill file to control, and waits until it counts.
    async fn apply(&self, file: KillFile) -> Result<KillApplied, Failure> {
        let (answer, answered) = oneshot::channel();
        let stopping = || Failure::new("stopping", "the node is stopping");
        let input = ControlInput::Kill(Box::new(file), answer);
        if self.control.send(input).await.is_err() {
            return Err(stopping());
        }
        match answered.await {
            Ok(Ok(applied)) => Ok(KillApplied {
                version: version(applied.order),
                news: applied.change == Change::Newer,
                peers: applied.peers as u64,
                beacons: applied.beacons as u64,
            }),
            Ok(Err(error)) => Err(refusal_of(&error)),
            Err(_) => Err(stopping()),
        }
    }

    async fn peers(&self) -> Vec<tunnel::PeerStatus> {
        let (answer, status) = oneshot::channel();
        match self.plane.send(PlaneCommand::Status(answer)).await {
            Ok(()) => status.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    fn shown(&self, link: Option<Link>) -> Path {
        match link {
            Some(Link::Direct { remote }) => Path::direct(remote),
            Some(Link::Relay { relay, .. }) => {
                let links = self.links.borrow();
                let beacon = links.iter().find(|link| link.node == relay);
                beacon.map_or(
                    Path {
                        kind: PathKind::Relay,
                        remote: None,
                    },
                    |link| Path::relay(&link.address),
                )
            }
            _ => Path::none(),
        }
    }

    async fn counted(&self) -> String {
        use std::fmt::Write;
        let peers = self.peers().await;
        let mut text = String::new();
        let direct = peers
            .iter()
            .filter(|peer| peer.link.is_some_and(|link| link.is_direct()))
            .count();
        let relayed = peers.iter().filter(|peer| peer.link.is_some()).count() - direct;
        let sum = |of: fn(&tunnel::PeerStatus) -> u64| peers.iter().map(of).sum::<u64>();
        let flows =
            |of: fn(&FlowStatus) -> u64| peers.iter().map(|peer| of(&peer.flows)).sum::<u64>();
        let lines = [
            ("crabmesh_peers", "gauge", peers.len() as u64),
            ("crabmesh_peers_direct", "gauge", direct as u64),
            ("crabmesh_peers_relayed", "gauge", relayed as u64),
            (
                "crabmesh_tunnel_tx_bytes_total",
                "counter",
                sum(|peer| peer.tx_bytes),
            ),
            (
                "crabmesh_tunnel_rx_bytes_total",
                "counter",
                sum(|peer| peer.rx_bytes),
            ),
            (
                "crabmesh_tunnel_handshakes_total",
                "counter",
                sum(|peer| peer.handshakes),
            ),
            (
                "crabmesh_tunnel_dropped_total",
                "counter",
                sum(|peer| peer.dropped),
            ),
            (
                "crabmesh_flows_local",
                "gauge",
                flows(|flows| flows.local as u64),
            ),
            (
                "crabmesh_flows_remote",
                "gauge",
                flows(|flows| flows.remote as u64),
            ),
            (
                "crabmesh_flows_refused_total",
                "counter",
                flows(|flows| flows.refused),
            ),
            (
                "crabmesh_flows_evicted_total",
                "counter",
                flows(|flows| flows.evicted),
            ),
            (
                "crabmesh_flows_cut_total",
                "counter",
                flows(|flows| flows.cut),
            ),
        ];
        for (name, kind, value) in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
        }
        text
    }
}

fn failure_of(denial: &policy::Denial) -> Failure {
    let code = match denial.code {
        BLOCKED | CUT_OFF => BLOCKED,
        _ => "denied",
    };
    denied(code, denial)
}

/// The gateway of that name, or why there is none.
fn gateway_named(world: &World, name: &NodeName) -> Result<NodeId, Failure> {
    if let Some(member) = world.named(name) {
        return Ok(member.node);
    }
    let killed = world.kills.gateway_named(name);
    if let Some(by) = killed.and_then(|node| world.kills.gateway(&node)) {
        let reason = format!("gateway {name} was cut off by the operator: {by}");
        return Err(Failure::new(BLOCKED, reason));
    }
    Err(Failure::new(
        "unknown_gateway",
        format!("no gateway of this mesh is called {name}"),
    ))
}

/// Why a kill file is not in force, and what to try.
fn refusal_of(error: &KillError) -> Failure {
    let KillError::Untrusted(why) = error else {
        return Failure::new("store", error.to_string()).hint("make room on its disk");
    };
    let failure = Failure::new("kill_refused", format!("{error}: {why}"));
    match why {
        TrustError::Older => failure.hint("this gateway obeys a newer one already"),
        TrustError::OtherMesh => failure.hint("take the file that this mesh's operator wrote"),
        TrustError::EndedEpoch => {
            failure.hint("its key was replaced: let the operator write a new one")
        }
        _ => failure.hint("do not obey it: ask the operator for the file itself"),
    }
}

/// The agents here, for peers and for the agents here.
pub fn local_directory(agents: &Agents) -> Vec<DirectoryEntry> {
    let entry = |agent: Arc<crate::agents::Agent>| DirectoryEntry {
        name: agent.local.name.clone(),
        idle_s: agents.idle_s(&agent),
        presence: agents.presence(&agent),
        // That is for the policy to say.
        streams: false,
        profile: (*agent.profile).clone(),
    };
    agents.list().into_iter().map(entry).collect()
}

/// How it stands with a gateway, by a live beacon's word (is it there, and when was it last), how
/// long ago its tunnel was heard, and whether there is a session. A session of a gateway that died
/// stays for a while, and a gateway without a beacon may be there all the same.
fn reach_of(beacon: Option<(bool, UnixTime)>, heard: Option<Duration>, in_session: bool) -> Reach {
    let recent = heard.is_some_and(|ago| ago < RECENT);
    match beacon {
        Some((true, _)) => Reach::Up,
        Some((false, seen)) => {
            let gone_s = now().0.saturating_sub(seen.0);
            let since = |ago: Duration| ago.as_secs() + BEACON_LATE_S < gone_s;
            match recent && heard.is_some_and(since) {
                true => Reach::Up,
                false => Reach::Down(Some(gone_s)),
            }
        }
        None if in_session || recent => Reach::Up,
        None => Reach::Down(None),
    }
}

/// What an agent says that it can do, for the API.
pub(crate) fn shown_skills(profile: &Profile) -> Vec<api::Skill> {
    let skill = |skill: &wire::profile::Skill| api::Skill {
        id: skill.id.to_string(),
        name: skill.name.as_deref().map(Into::into),
        description: skill.description.as_deref().map(Into::into),
    };
    profile.skills().iter().map(skill).collect()
}

fn beacon_status(link: &BeaconLink) -> BeaconStatus {
    let (state, rtt) = match &*link.state.borrow() {
        LinkState::Quic { rtt } => ("quic", Some(*rtt)),
        LinkState::Tls { rtt } => ("tls", *rtt),
        LinkState::Down { .. } => ("down", None),
        _ => ("connecting", None),
    };
    BeaconStatus {
        address: link.address.clone(),
        state: state.into(),
        rtt_ms: rtt.map(millis),
    }
}

fn version(order: Order) -> String {
    format!("{}.{}", order.epoch, order.version)
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp(time.0.saturating_mul(1000))
}

/// To the microsecond: what is below is noise.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}

/// A peer heard within this time is online whatever a beacon says: three heartbeats of 20 s.
const RECENT: Duration = Duration::from_secs(60);

/// What is heard of a gateway within this time of when a beacon last saw it was its last.
const BEACON_LATE_S: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beacon_s_word_counts_unless_the_gateway_was_heard_since() {
        let gone = |ago: u64| Some((false, UnixTime(now().0 - ago)));
        let ago = |s| Some(Duration::from_secs(s));
        let up = |beacon, heard, session| reach_of(beacon, heard, session) == Reach::Up;

        assert!(up(Some((true, now())), None, false));
        assert!(
            !up(gone(30), ago(30), true),
            "it died, and its session is still open"
        );
        assert!(up(gone(30), ago(3), false), "it lost the beacon alone");
        assert!(!up(gone(500), ago(100), true));
        assert!(up(None, None, true) && up(None, ago(3), false));
        assert!(!up(None, ago(100), false));
    }
}
