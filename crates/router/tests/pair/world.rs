//! Two gateways in one process: their routers, their disks, and the stream between them, each of
//! which does only what the test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{AgentAddress, AgentName, NodeId, NodeName, UserName};
use policy::{Denial, Document, MessageRequest, Node, Policy, Verdict};
use router::{
    Accept, Agent, Answer, Authority, Clock, Delivery, Draft, Event, HolderId, Origin, Output,
    Refusal, Router, Row, RowId, State, Status, Table, Ticket, Write,
};
use wire::message::{MessageFrame, MessageKey};
use wire::{InstanceId, MessageId};

pub const A: usize = 0;
pub const B: usize = 1;
/// 2026-11-23, in milliseconds.
const BASE_MS: u64 = 1_795_000_000_000;

pub const OPEN: &str =
    r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"]}]}"#;
pub const CLOSED: &str = r#"{"grants": []}"#;

#[derive(Debug)]
pub struct Rules {
    policy: Option<Policy>,
    names: BTreeMap<NodeName, NodeId>,
    killed: Killed,
}

/// Whom the operator killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    Nobody,
    Agent(usize, &'static str),
    Gateway(usize),
}

impl Authority for Rules {
    fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        if let Some(denial) = self.denial(request) {
            return Verdict::Denied(denial);
        }
        self.policy.clone().unwrap_or_default().authorize(request)
    }

    fn authorize_reply(&self, request: &MessageRequest<'_>) -> Verdict {
        if let Some(denial) = self.denial(request) {
            return Verdict::Denied(denial);
        }
        let policy = self.policy.clone().unwrap_or_default();
        policy.authorize_reply(request)
    }

    fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    fn name_of(&self, node: &NodeId) -> Option<NodeName> {
        if self.killed == Killed::Gateway(usize::from(node.0[0]) - 1) {
            return None;
        }
        self.names
            .iter()
            .find(|(_, id)| *id == node)
            .map(|(name, _)| name.clone())
    }
}

impl Rules {
    /// Whether the operator killed either end.
    fn denial(&self, request: &MessageRequest<'_>) -> Option<Denial> {
        let names = |(node, agent): (NodeId, &AgentName)| match self.killed {
            Killed::Nobody => false,
            Killed::Agent(side, name) => node == id_of(side) && agent.as_str() == name,
            Killed::Gateway(side) => node == id_of(side),
        };
        let code = match self.killed {
            Killed::Gateway(_) => router::CUT_OFF,
            _ => router::BLOCKED,
        };
        (names(request.src) || names(request.dst)).then(|| Denial {
            code,
            reason: format!("killed: {:?}", self.killed),
            rule: None,
            missing_grant: None,
        })
    }
}

/// The members of the mesh, without those that are `absent`, under this policy.
pub fn rules(text: Option<&str>, absent: &[usize]) -> Arc<Rules> {
    let members: Vec<usize> = [A, B]
        .into_iter()
        .filter(|side| !absent.contains(side))
        .collect();
    let nodes: Vec<Node> = members.iter().map(|side| node(*side)).collect();
    let policy = text.map(|text| {
        let (document, _) = Document::parse("policy.hujson", text).expect("a policy");
        Policy::compile(&document, &nodes)
    });
    Arc::new(Rules {
        policy,
        names: nodes
            .iter()
            .map(|node| (node.name.clone(), node.id))
            .collect(),
        killed: Killed::Nobody,
    })
}

/// Everybody may do everything, but for whom the operator killed.
pub fn killing(killed: Killed) -> Arc<Rules> {
    let open = Arc::into_inner(rules(Some(OPEN), &[])).expect("just made");
    Arc::new(Rules { killed, ..open })
}

fn node(side: usize) -> Node {
    Node {
        user: Some("ana@example.com".parse::<UserName>().expect("a user")),
        tags: Vec::new(),
        addresses: Vec::new(),
        ..Node::new(id_of(side), name_of(side))
    }
}

pub fn id_of(side: usize) -> NodeId {
    NodeId([u8::try_from(side).expect("small") + 1; 16])
}

fn name_of(side: usize) -> NodeName {
    ["gw-a", "gw-b"][side].parse().expect("a name")
}

pub struct Side {
    pub router: Router,
    pub disk: BTreeMap<(Table, RowId), Row>,
    unsynced: Vec<(Option<Ticket>, Vec<Write>)>,
    pub disk_is_full: bool,
    /// What the router asked the disk for.
    pub loads: VecDeque<RowId>,
    /// The disk answers only when it is told to.
    pub reads_are_late: bool,
    /// Rows of the inbox that cannot be read any longer.
    pub damaged: BTreeSet<RowId>,
    /// The most that was asked for at once.
    pub most_loads: usize,
    pub shown: Vec<Delivery>,
    pub answers: Vec<(MessageKey, Delivery)>,
    /// Whoever waits for answers has just gone.
    pub asker_is_gone: bool,
    /// Whoever waits for answers keeps them on a disk of their own.
    pub asker_keeps: bool,
    pub events: Vec<Event>,
    pub agents: Vec<Agent>,
    starts: u64,
    wait: Option<Instant>,
}

impl Side {
    fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put(id, row) => drop(self.disk.insert((row.table(), id), row)),
                Write::Delete(table, id) => drop(self.disk.remove(&(table, id))),
            }
        }
    }
}

pub struct Pair {
    pub sides: [Side; 2],
    /// Frames on their way to each side.
    pub wire: [VecDeque<MessageFrame>; 2],
    pub up: bool,
    pub now: Instant,
    start: Instant,
    rules: [Arc<Rules>; 2],
    made: u64,
    keep: Option<usize>,
}

impl Pair {
    /// `planner@gw-a` and `coder@gw-b` in session, and everybody may do everything.
    pub fn new() -> Self {
        let start = Instant::now();
        let mut pair = Self::down(start);
        pair.connect();
        pair
    }

    /// The same, and of each inbox only so many letters stay in memory.
    pub fn keeping(keep: usize) -> Self {
        let mut pair = Self::new();
        pair.keep = Some(keep);
        for side in &mut pair.sides {
            side.router.set_keep(keep);
        }
        pair
    }

    fn down(start: Instant) -> Self {
        let rules = [rules(Some(OPEN), &[]), rules(Some(OPEN), &[])];
        let side = |side: usize| {
            let agents = vec![agent(
                ["planner", "coder"][side],
                u8::try_from(side).expect("small") + 1,
            )];
            let router = restore(
                side,
                1,
                &agents,
                Vec::new(),
                rules[side].clone(),
                start,
                start,
            );
            Side {
                router,
                disk: BTreeMap::new(),
                unsynced: Vec::new(),
                disk_is_full: false,
                loads: VecDeque::new(),
                reads_are_late: false,
                damaged: BTreeSet::new(),
                most_loads: 0,
                shown: Vec::new(),
                answers: Vec::new(),
                asker_is_gone: false,
                asker_keeps: false,
                events: Vec::new(),
                agents,
                starts: 1,
                wait: None,
            }
        };
        let sides = [side(A), side(B)];
        Self {
            sides,
            wire: Default::default(),
            up: false,
            now: start,
            start,
            rules,
            made: 0,
            keep: None,
        }
    }

    pub fn connect(&mut self) {
        self.up = true;
        self.sides[A].router.handle_up(id_of(B), self.now);
        self.sides[B].router.handle_up(id_of(A), self.now);
    }

    /// The session ends, and with it whatever was on it.
    pub fn disconnect(&mut self) {
        self.up = false;
        self.wire = Default::default();
        self.sides[A].router.handle_down(id_of(B), self.now);
        self.sides[B].router.handle_down(id_of(A), self.now);
    }

    /// Power goes: only the disk stays, and the session is gone. Both come up again.
    pub fn crash(&mut self, side: usize) {
        self.disconnect();
        let rows = self.sides[side]
            .disk
            .iter()
            .map(|((_, id), row)| (*id, row.clone()))
            .collect();
        let it = &mut self.sides[side];
        it.starts += 1;
        it.unsynced.clear();
        it.loads.clear();
        let rules = self.rules[side].clone();
        it.router = restore(
            side, it.starts, &it.agents, rows, rules, self.start, self.now,
        );
        if let Some(keep) = self.keep {
            it.router.set_keep(keep);
        }
        self.connect();
    }

    /// The same, and what the operator said meanwhile is known from the start.
    pub fn restart_under(&mut self, side: usize, rules: Arc<Rules>) {
        self.rules[side] = rules;
        self.crash(side);
    }

    pub fn set_rules(&mut self, side: usize, rules: Arc<Rules>) {
        self.rules[side] = rules.clone();
        self.sides[side].router.set_authority(rules, self.now);
    }

    /// Does what a router says, but for the disk and the stream.
    pub fn think(&mut self, side: usize) {
        loop {
            let it = &mut self.sides[side];
            match it.router.poll_output() {
                Output::Send { frame, .. } => self.wire[1 - side].push_back(frame),
                Output::Store { ticket, writes } => it.unsynced.push((ticket, writes)),
                Output::Load(row) => {
                    it.loads.push_back(row);
                    it.most_loads = it.most_loads.max(it.loads.len());
                }
                Output::Deliver { delivery, .. } => it.shown.push(delivery),
                Output::Answer { request, .. } if it.asker_is_gone => {
                    it.router.handle_answer_left(request, self.now);
                }
                Output::Answer { request, delivery } => {
                    it.answers.push((request, delivery));
                    match it.asker_keeps {
                        true => it.router.handle_answer_kept(request, self.now),
                        false => it.router.handle_answer_taken(request, self.now),
                    }
                }
                Output::Event(event) => it.events.push(event),
                Output::Wait(at) => return it.wait = at,
            }
        }
    }

    /// The disk answers the oldest so many questions.
    pub fn read(&mut self, side: usize, most: usize) {
        let it = &mut self.sides[side];
        for row in it
            .loads
            .drain(..most.min(it.loads.len()))
            .collect::<Vec<_>>()
        {
            let found = it.disk.get(&(Table::Inbox, row)).cloned();
            let found = found.filter(|_| !it.damaged.contains(&row));
            it.router.handle_loaded(row, found, self.now);
        }
    }

    /// The first so many stores that were asked for reach the disk; nobody is told.
    pub fn write(&mut self, side: usize, stores: usize) {
        let it = &mut self.sides[side];
        let stores = stores.min(it.unsynced.len());
        for (_, writes) in it.unsynced.drain(..stores).collect::<Vec<_>>() {
            it.apply(writes);
        }
    }

    /// One fsync, and all reads.
    pub fn sync(&mut self, side: usize) {
        self.think(side);
        if !self.sides[side].reads_are_late {
            self.read(side, usize::MAX);
        }
        let it = &mut self.sides[side];
        let jobs = std::mem::take(&mut it.unsynced);
        let last = jobs.iter().filter_map(|(ticket, _)| *ticket).max();
        if it.disk_is_full {
            if let Some(last) = last {
                it.router.handle_store_failed(last, self.now);
            }
            return;
        }
        for (_, writes) in jobs {
            it.apply(writes);
        }
        if let Some(last) = last {
            it.router.handle_stored(last, self.now);
        }
    }

    /// All frames on their way to a side arrive.
    pub fn carry(&mut self, side: usize) {
        for frame in std::mem::take(&mut self.wire[side]) {
            self.sides[side]
                .router
                .handle_frame(id_of(1 - side), frame, self.now);
        }
    }

    /// Frames to B arrive one at a time, each so long after the one before; what B says is there at
    /// once. Returns how many did, in so many steps.
    pub fn carry_slowly(&mut self, each: Duration, steps: usize) -> usize {
        let mut arrived = 0;
        for _ in 0..steps {
            self.think(A);
            let end = self.now + each;
            while self.now < end {
                self.now = self.sides[A].wait.unwrap_or(end).clamp(self.now, end);
                self.sides[A].router.handle_timeout(self.now);
                self.sync(A);
            }
            if let Some(frame) = self.wire[B].pop_front() {
                arrived += 1;
                let router = &mut self.sides[B].router;
                router.handle_frame(id_of(A), frame, self.now);
            }
            self.sync(B);
            self.think(B);
            self.carry(A);
            self.sync(A);
        }
        arrived
    }

    /// Until nobody has anything to do but wait.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            [A, B].into_iter().for_each(|side| self.sync(side));
            [A, B].into_iter().for_each(|side| self.carry(side));
            [A, B].into_iter().for_each(|side| self.think(side));
            let quiet = |side: &Side| {
                side.unsynced.is_empty() && (side.loads.is_empty() || side.reads_are_late)
            };
            if self.sides.iter().all(quiet) && self.wire.iter().all(VecDeque::is_empty) {
                return;
            }
        }
        panic!("the two talk for ever");
    }

    /// Time passes, with everything that happens in it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let next = self.sides.iter().filter_map(|side| side.wait).min();
            self.now = next.filter(|at| *at < end).unwrap_or(end).max(self.now);
            for side in &mut self.sides {
                side.router.handle_timeout(self.now);
            }
            self.settle();
            if self.now >= end {
                return;
            }
        }
    }

    pub fn unix_ms(&self) -> u64 {
        BASE_MS + u64::try_from((self.now - self.start).as_millis()).expect("short")
    }

    pub fn fresh_id(&mut self) -> MessageId {
        self.made += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.made.to_be_bytes());
        MessageId::new(self.unix_ms(), random)
    }

    pub fn draft(&mut self, to: &str, body: &str) -> Draft {
        Draft {
            id: self.fresh_id(),
            to: to.parse::<AgentAddress>().expect("an address"),
            expects_reply: false,
            stream: false,
            origin: Origin::Unsaid,
            conversation: None,
            ttl: Duration::from_secs(3600),
            content_type: "text/plain".into(),
            body: body.to_owned().into(),
        }
    }

    /// The first agent of a side hands in a message.
    pub fn send(&mut self, from: usize, draft: Draft) -> Result<Accept, Refusal> {
        let agent = self.sides[from].agents[0].clone();
        self.sides[from].router.send(&agent, draft, self.now)
    }

    /// `planner@gw-a` tells `coder@gw-b` something, as far as the hand-in.
    pub fn tell(&mut self, body: &str) -> MessageId {
        let draft = self.draft("coder@gw-b", body);
        let id = draft.id;
        self.send(A, draft).expect("taken");
        id
    }

    pub fn ask(&mut self, body: &str) -> MessageId {
        let draft = Draft {
            expects_reply: true,
            ..self.draft("coder@gw-b", body)
        };
        let id = draft.id;
        self.send(A, draft).expect("taken");
        id
    }

    /// `planner@gw-a` asks and waits; the answer of `coder@gw-b`, accepted there, has just arrived.
    pub fn ask_until_answered(&mut self) -> MessageId {
        let id = self.ask("how many?");
        let planner = self.sides[A].agents[0].instance;
        self.sides[A]
            .router
            .watch(planner, id, true, self.now)
            .expect("known");
        assert_eq!(self.bodies(B), ["how many?"]);
        self.reply(id, "seven").expect("open");
        self.sync(B);
        self.think(B);
        self.carry(A);
        self.think(A);
        id
    }

    pub fn reply(&mut self, to: MessageId, body: &str) -> Result<Accept, Refusal> {
        let coder = self.sides[B].agents[0].clone();
        self.fetch(B, to);
        self.reply_as(B, &coder, to, body)
    }

    /// Whoever kept the answer of `planner@gw-a` to a request has it on disk.
    pub fn kept(&mut self, request: MessageId) {
        let key = MessageKey {
            instance: self.sides[A].agents[0].instance,
            id: request,
        };
        self.sides[A].router.handle_answer_taken(key, self.now);
        self.settle();
    }

    pub fn reply_as(
        &mut self,
        side: usize,
        agent: &Agent,
        to: MessageId,
        body: &str,
    ) -> Result<Accept, Refusal> {
        let answer = Answer {
            id: self.fresh_id(),
            content_type: "text/plain".into(),
            body: body.to_owned().into(),
        };
        self.sides[side].router.reply(agent, to, answer, self.now)
    }

    /// Shows up to `max` messages to the first agent of a side, each hidden for 30 s.
    pub fn receive(&mut self, side: usize, max: usize) -> Vec<Delivery> {
        self.settle();
        let it = &mut self.sides[side];
        it.shown.clear();
        self.made += 1;
        let (holder, hold) = (HolderId(self.made), Some(router::limits::VISIBILITY));
        let instance = it.agents[0].instance;
        it.router
            .demand(holder, instance, max, hold, self.now)
            .expect("an agent");
        self.settle();
        self.sides[side].router.dismiss_holder(holder, self.now);
        std::mem::take(&mut self.sides[side].shown)
    }

    pub fn bodies(&mut self, side: usize) -> Vec<String> {
        let seen = self.receive(side, 10_000);
        seen.iter()
            .map(|it| String::from_utf8_lossy(&it.body).into_owned())
            .collect()
    }

    pub fn ack(&mut self, side: usize, id: MessageId) -> Result<Option<Ticket>, Refusal> {
        let instance = self.sides[side].agents[0].instance;
        self.fetch(side, id);
        self.sides[side].router.ack(instance, id, self.now)
    }

    /// As a shell does where an agent names a message that is away.
    pub fn fetch(&mut self, side: usize, id: MessageId) {
        let instance = self.sides[side].agents[0].instance;
        while self.sides[side].router.is_away(instance, id) {
            self.think(side);
            self.read(side, usize::MAX);
        }
    }

    pub fn status(&self, id: MessageId) -> Status {
        let instance = self.sides[A].agents[0].instance;
        self.sides[A].router.status(instance, id).expect("known")
    }

    pub fn state(&self, id: MessageId) -> State {
        self.status(id).state
    }

    pub fn dead(&self, side: usize) -> Vec<String> {
        let dead = self.sides[side].disk.values().filter_map(|row| match row {
            Row::Dead(dead) => Some(dead.error.code.to_string()),
            _ => None,
        });
        dead.collect()
    }
}

pub fn agent(name: &str, life: u8) -> Agent {
    Agent {
        name: name.parse().expect("a name"),
        instance: InstanceId([life; 16]),
    }
}

fn restore(
    side: usize,
    start: u64,
    agents: &[Agent],
    rows: Vec<(RowId, Row)>,
    rules: Arc<Rules>,
    began: Instant,
    now: Instant,
) -> Router {
    let epoch = 77 + u64::try_from(side).expect("small");
    let clock = Clock::new(BASE_MS, began);
    let seed = [u8::try_from(start % 200).expect("small"); 32];
    let first = RowId(start << 40);
    Router::restore(
        id_of(side),
        epoch,
        first,
        agents.iter().cloned(),
        rows,
        rules,
        seed,
        clock,
        now,
    )
}
