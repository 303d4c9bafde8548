//! When to shake hands, which key is in use, and when it is too old: all of WireGuard's control
//! half, around a [`WgSession`] that only knows the cryptography.
//!
//! Rules (paths.md §1 Roles, §3.7): at a cold start either side may initiate, and if both did the
//! larger public key's handshake wins; re-keys are the larger key's, the smaller asks for them. A
//! responder sends nothing before the initiator's first packet has confirmed the key. One
//! initiation is sent as identical bytes on every way, and answered once, with the cached answer
//! for its copies. A key is used for 120 s, for 165 s at most, and accepted for 180 s.

use std::time::{Duration, Instant};

use path::Random;

/// The cryptography of the sessions with one peer. `out` always has room for the input and 32 bytes,
/// and for a handshake message.
pub(crate) trait WgSession {
    /// Encrypts under the current key; the length of the datagram.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize>;
    /// Takes a datagram whose mac1, for a handshake, was checked.
    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<Opened, Unopened>;
    /// A new initiation.
    fn initiate(&mut self, out: &mut [u8]) -> Option<usize>;
    /// Whether there is a key to seal with: making or taking an initiation may drop an old one.
    fn has_key(&self) -> bool;
}

/// What was in a datagram: lengths of what stands in `out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// An inner packet.
    Packet(usize),
    /// A datagram to send back: the answer to an initiation, or the packet that confirms one.
    Reply(usize),
    /// An empty packet.
    Nothing,
}

/// Why nothing was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// An authentic initiation with an old timestamp: a replay, or the peer's clock went back.
    Stale,
    /// Not authentic, or seen before.
    Unauthentic,
}

/// The session with one peer.
pub(crate) struct Session<N> {
    noise: N,
    /// Whether our public key is the larger one.
    larger: bool,
    random: Random,
    /// boringtun's ring: a key's place is its index modulo 8.
    keys: [Option<Key>; KEYS],
    /// Index of the key that `seal` uses.
    current: Option<u32>,
    pending: Option<Pending>,
    answered: Option<Answered>,
    /// No initiation of our own making, other than for packets, before this.
    next_unasked: Option<Instant>,
    next_please: Option<Instant>,
    handshakes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    index: u32,
    since: Instant,
}

/// An initiation of ours that is not answered yet.
struct Pending {
    init: [u8; INIT],
    since: Instant,
    /// Which copy is next, and when.
    step: usize,
    next: Instant,
    /// Attempts before this one.
    attempt: u32,
}

/// The last initiation that we answered.
struct Answered {
    init: [u8; INIT],
    response: [u8; RESPONSE],
    at: Instant,
    confirmed: bool,
}

/// What to do about an initiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InitOutcome {
    /// Send back this many bytes of `out`.
    Answer(usize),
    /// Ours wins: send the pending initiation there too.
    SendOurs,
    /// Its clock went back: initiate from here.
    Initiate,
    /// Nothing.
    Ignore,
}

/// What to do when time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send the pending initiation once more.
    Copy,
    /// The attempt failed; decide whether another is wanted.
    Failed,
}

impl<N: WgSession> Session<N> {
    pub(crate) fn new(noise: N, larger: bool, seed: u64) -> Self {
        Self {
            noise,
            larger,
            random: Random::new(seed),
            keys: [None; KEYS],
            current: None,
            pending: None,
            answered: None,
            next_unasked: None,
            next_please: None,
            handshakes: 0,
        }
    }

    /// Whether packets can be sealed now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.age(now).is_some_and(|age| age < SEND_LIMIT)
    }

    /// How old the key in use is.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.current_key()?.since))
    }

    /// How many handshakes were completed.
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes
    }

    /// Whether an initiation of ours waits for its answer.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Encrypts a packet; only while `is_ready`.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        self.noise.seal(packet, out)
    }

    /// What a packet under this key should be followed by: the larger key begins a re-key, the
    /// smaller asks for one, and begins it itself when that is not heard.
    pub(crate) fn rekey(&mut self, now: Instant) -> Rekey {
        let Some(age) = self.age(now).filter(|age| *age >= REKEY_AFTER) else {
            return Rekey::None;
        };
        if self.pending.is_some() {
            return Rekey::None;
        }
        if self.larger || age >= REKEY_AFTER + PLEASE_PATIENCE {
            return if self.may_initiate_unasked(now) {
                Rekey::Initiate
            } else {
                Rekey::None
            };
        }
        if self.next_please.is_some_and(|at| now < at) {
            return Rekey::None;
        }
        self.next_please = Some(now + ATTEMPT);
        Rekey::Ask
    }

    /// Whether the peer's request for a new key is to be followed.
    pub(crate) fn handle_please(&mut self, now: Instant) -> bool {
        let due = self.age(now).is_none_or(|age| age >= REKEY_AFTER / 2);
        due && self.pending.is_none() && self.may_initiate_unasked(now)
    }

    /// Bounds initiations for which no packet waits to one each five seconds.
    pub(crate) fn may_initiate_unasked(&mut self, now: Instant) -> bool {
        let free = self.next_unasked.is_none_or(|at| now >= at);
        if free {
            self.next_unasked = Some(now + ATTEMPT);
        }
        free
    }

    /// From when on it will say yes.
    pub(crate) fn next_unasked(&self) -> Option<Instant> {
        self.next_unasked
    }

    /// Makes a new initiation, to be sent at once (see [`Session::pending_init`]).
    pub(crate) fn initiate(&mut self, now: Instant) -> bool {
        let mut init = [0; INIT];
        if self.noise.initiate(&mut init) != Some(INIT) {
            return false;
        }
        self.check_key();
        let attempt = self
            .pending
            .as_ref()
            .map_or(0, |pending| pending.attempt.saturating_add(1));
        self.pending = Some(Pending {
            init,
            since: now,
            step: 0,
            next: now,
            attempt,
        });
        self.advance(now);
        true
    }

    /// The bytes of the pending initiation.
    pub(crate) fn pending_init(&self) -> Option<&[u8; INIT]> {
        self.pending.as_ref().map(|pending| &pending.init)
    }

    /// Nobody wants the session any more.
    pub(crate) fn give_up(&mut self) {
        self.pending = None;
    }

    /// Takes an initiation of the peer.
    pub(crate) fn handle_init(&mut self, init: &[u8], out: &mut [u8], now: Instant) -> InitOutcome {
        if let Some(length) = self.answer_copy(init, out, now) {
            return InitOutcome::Answer(length);
        }
        let ours_is_young = self
            .pending
            .as_ref()
            .is_some_and(|pending| now.saturating_duration_since(pending.since) < YIELD);
        if self.larger && ours_is_young {
            return InitOutcome::SendOurs;
        }
        let opened = self.noise.open(init, out);
        self.check_key();
        match opened {
            Ok(Opened::Reply(RESPONSE)) => {
                self.pending = None;
                let index = u32_at(out, 4);
                self.keys[index as usize % KEYS] = Some(Key { index, since: now });
                let mut kept = Answered {
                    init: [0; INIT],
                    response: [0; RESPONSE],
                    at: now,
                    confirmed: false,
                };
                kept.init.copy_from_slice(&init[..INIT]);
                kept.response.copy_from_slice(&out[..RESPONSE]);
                self.answered = Some(kept);
                InitOutcome::Answer(RESPONSE)
            }
            Err(Unopened::Stale) if self.may_initiate_unasked(now) => InitOutcome::Initiate,
            _ => InitOutcome::Ignore,
        }
    }

    /// The cached answer, if this is a copy of the initiation that we answered last.
    pub(crate) fn answer_copy(&self, init: &[u8], out: &mut [u8], now: Instant) -> Option<usize> {
        let answered = self.answered.as_ref()?;
        let copy = answered.init == init && now.saturating_duration_since(answered.at) < COPIES;
        copy.then(|| {
            out[..RESPONSE].copy_from_slice(&answered.response);
            RESPONSE
        })
    }

    /// Takes the answer to an initiation of ours. What then stands in `out` confirms the key to the
    /// peer and must be sent.
    pub(crate) fn handle_response(
        &mut self,
        response: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Option<usize> {
        match self.noise.open(response, out) {
            Ok(Opened::Reply(length)) => {
                let index = u32_at(response, 8);
                self.keys[index as usize % KEYS] = Some(Key { index, since: now });
                self.current = Some(index);
                self.pending = None;
                self.handshakes += 1;
                Some(length)
            }
            _ => None,
        }
    }

    /// Takes a data message: the length of its packet in `out` (0 for an empty one), and whether it
    /// confirmed a key that we answered for.
    pub(crate) fn open(
        &mut self,
        datagram: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<(usize, bool), Unopened> {
        let index = u32_at(datagram, 4);
        let key = self.keys[index as usize % KEYS].filter(|key| key.index == index);
        let alive = key.is_some_and(|key| now.saturating_duration_since(key.since) < RECEIVE_LIMIT);
        if !alive {
            return Err(Unopened::Unauthentic);
        }
        let length = match self.noise.open(datagram, out)? {
            Opened::Packet(length) => length,
            Opened::Nothing => 0,
            Opened::Reply(_) => return Err(Unopened::Unauthentic),
        };
        // Packets of an older key that were overtaken do not bring it back.
        let newer = match (key, self.current_key()) {
            (Some(key), Some(current)) => key.since >= current.since,
            _ => true,
        };
        if newer {
            self.current = Some(index);
        }
        Ok((length, self.confirm(index)))
    }

    /// Whether this key, which we answered for, is confirmed by its first packet.
    fn confirm(&mut self, index: u32) -> bool {
        let Some(answered) = &mut self.answered else {
            return false;
        };
        let first = !answered.confirmed && u32_at(&answered.response, 4) == index;
        answered.confirmed |= first;
        self.handshakes += u64::from(first);
        first
    }

    fn current_key(&self) -> Option<Key> {
        let current = self.current?;
        self.keys[current as usize % KEYS].filter(|key| key.index == current)
    }

    fn check_key(&mut self) {
        if !self.noise.has_key() {
            self.current = None;
        }
    }

    /// When to call `handle_timeout`.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.next)
    }

    /// Says what is due about the pending initiation.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        let pending = self
            .pending
            .as_ref()
            .filter(|pending| pending.next <= now)?;
        if now.saturating_duration_since(pending.since) >= ATTEMPT {
            return Some(Due::Failed);
        }
        self.advance(now);
        Some(Due::Copy)
    }

    /// Schedules what follows the copy that is sent now.
    fn advance(&mut self, now: Instant) {
        let jitter = Duration::from_millis(self.random.below(334));
        if let Some(pending) = &mut self.pending {
            // Later attempts are patient: one copy, as the peer is away or both NATs are shut.
            let ladder = if pending.attempt == 0 {
                &LADDER[..]
            } else {
                &LADDER[3..4]
            };
            pending.next = match ladder.get(pending.step) {
                Some(&after) => (pending.since + after).max(now + Duration::from_millis(1)),
                None => pending.since + ATTEMPT + jitter,
            };
            pending.step += 1;
        }
    }
}

/// What a packet under an ageing key should be followed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rekey {
    /// Nothing.
    None,
    /// A new initiation.
    Initiate,
    /// A note that asks the peer for one.
    Ask,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .map_or(0, u32::from_le_bytes)
}

/// Sizes of the handshake messages (WireGuard whitepaper §5.4).
pub(crate) const INIT: usize = 148;
pub(crate) const RESPONSE: usize = 92;

/// What a data message adds to a packet: header 16, tag 16.
pub(crate) const OVERHEAD: usize = 32;

const KEYS: usize = 8;

/// Copies of one initiation after the first (paths.md §1, Bootstrap).
const LADDER: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// WireGuard's REKEY_TIMEOUT, with up to 333 ms of jitter on top.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long the larger key insists on its own initiation. Longer, and a clock that went back or a
/// lost way would cost an attempt.
const YIELD: Duration = Duration::from_millis(700);

/// How long copies of an initiation get the cached answer.
const COPIES: Duration = Duration::from_secs(10);

/// WireGuard's REKEY_AFTER_TIME and REJECT_AFTER_TIME; a sender stops 15 s before the receiver, so
/// that nothing dies on the way (boringtun dates an initiator's key from its initiation).
const REKEY_AFTER: Duration = Duration::from_secs(120);
const SEND_LIMIT: Duration = Duration::from_secs(165);
const RECEIVE_LIMIT: Duration = Duration::from_secs(180);

/// How long the smaller key waits for the re-key that it asked for.
const PLEASE_PATIENCE: Duration = Duration::from_secs(10);
