//! How far a conversation is, and how long it may be silent. No sequence numbers are kept: both ends
//! are authentic, and each can end its own conversations in any case.

use std::time::Duration;

use crate::packet::{Part, TcpFlags};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// How far a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Tcp(Tcp),
    Datagrams { answered: bool },
    Echo,
}

/// A TCP connection, as somebody on the way sees it (RFC 5382 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tcp {
    /// The other side answered.
    answered: bool,
    /// And the opener answered that: three ways.
    stands: bool,
    /// Who sent its last: we, the peer.
    finished: [bool; 2],
    reset: bool,
}

/// Conversations of one phase may be silent equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TCP that does not stand yet, or no more.
    Passing,
    /// TCP that stands.
    Standing,
    /// Datagrams that nobody answered yet.
    Fresh,
    /// Datagrams both ways.
    Answered,
    /// A question and its answers.
    Echo,
}

impl State {
    /// After this first packet.
    pub(super) fn opened(part: &Part) -> Self {
        match part {
            // One in the middle of a connection counts as its beginning: the next two make it stand.
            Part::Segment(_) => Self::Tcp(Tcp::default()),
            Part::EchoRequest(_) | Part::EchoReply(_) => Self::Echo,
            _ => Self::Datagrams { answered: false },
        }
    }

    /// One more packet; `opener` is the way that the first one went.
    pub(super) fn handle(&mut self, part: &Part, way: Way, opener: Way) {
        match (self, part) {
            (Self::Tcp(tcp), Part::Segment(flags)) => tcp.handle(*flags, way, opener),
            (Self::Datagrams { answered }, _) => *answered |= way != opener,
            _ => {}
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Tcp(tcp) if tcp.stands && !tcp.is_over() => Phase::Standing,
            Self::Tcp(_) => Phase::Passing,
            Self::Datagrams { answered: false } => Phase::Fresh,
            Self::Datagrams { answered: true } => Phase::Answered,
            Self::Echo => Phase::Echo,
        }
    }

    /// A connection that does not stand yet.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self, Self::Tcp(tcp) if !tcp.stands && !tcp.is_over())
    }

    /// A connection that both ended, or one broke off.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Tcp(tcp) if tcp.is_over())
    }

    /// Whether an answer in this conversation, on its own, would open another.
    pub(super) fn answers_open(&self) -> bool {
        matches!(self, Self::Datagrams { .. })
    }
}

impl Tcp {
    fn handle(&mut self, flags: TcpFlags, way: Way, opener: Way) {
        self.reset |= flags.rst;
        self.finished[way as usize] |= flags.fin;
        if way != opener {
            self.answered |= !flags.rst;
        } else if !flags.syn && !flags.rst {
            self.stands |= self.answered;
        }
    }

    /// One side alone may end its own half and still hear the other (RFC 9293 §3.6).
    fn is_over(self) -> bool {
        self.reset || self.finished == [true; 2]
    }
}

impl Phase {
    pub(super) const ALL: [Self; 5] = [
        Self::Passing,
        Self::Standing,
        Self::Fresh,
        Self::Answered,
        Self::Echo,
    ];

    /// How long a conversation may be silent.
    pub(super) fn timeout(self) -> Duration {
        match self {
            // RFC 5382 REQ-5: not less for what is partially open or closing. RFC 7857 §2.2 has the
            // same after a reset.
            Self::Passing => Duration::from_secs(4 * 60),
            // RFC 5382 REQ-5: not less than TCP's own keep-alive of two hours (RFC 1122 §4.2.3.6),
            // and four minutes for its packets.
            Self::Standing => Duration::from_secs(2 * 3600 + 4 * 60),
            // RFC 4787 REQ-5: not less than two minutes.
            Self::Fresh => Duration::from_secs(2 * 60),
            // RFC 4787 REQ-5c recommends five minutes. SCTP's heartbeats come each 30 s (RFC 9260
            // §16), so they suit it as well.
            Self::Answered => Duration::from_secs(5 * 60),
            // RFC 5508 REQ-2: not less than 60 seconds.
            Self::Echo => Duration::from_secs(60),
        }
    }
}
