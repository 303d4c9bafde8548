//! The parts of one answer: kept by the answering gateway for who lost the connection, and put
//! together again by the asking one.
//!
//! ```text
//! agent ─► Ring ─frames from a Cursor─► stream ─► Reader ─► whoever asked
//! ```
//! **Invariants.** A reader hands on each part of an attempt once and in order, or says what is
//! lost. A ring forgets nothing that a reader who is there has not been sent, so a slow reader slows
//! the agent down; without a reader it keeps the last minute, and a mebibyte of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use identity::NodeId;
use wire::message::MessageKey;
use wire::parts::{Part, PartsFrame};
use wire::{InstanceId, MessageId};

use crate::inbox::Content;
use crate::router::Router;
use crate::rows::Subject;
use crate::words::Refusal;

/// The parts of one answer, at the gateway of the agent that gives it.
#[derive(Debug, Default)]
pub struct Ring {
    /// 0 before the first part.
    attempt: u32,
    kept: VecDeque<(Part, Instant)>,
    bytes: usize,
    /// The furthest that a reader was sent, and the bytes beyond.
    read_to: u64,
    unread: usize,
    /// The number of the next part; 0 before the first.
    next: u64,
    ended: bool,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// 0 before it heard of any.
    pub attempt: u32,
    /// The last part that it has.
    pub seq: u64,
}

/// What a reader makes of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartEvent {
    /// One more part.
    Part {
        /// Of which attempt.
        attempt: u32,
        /// The part.
        part: Part,
    },
    /// The agent began its answer anew: what came before is void.
    Restart {
        /// The attempt that begins.
        attempt: u32,
    },
    /// Parts are gone for good; the answer itself is not.
    Lost {
        /// The number of the next part.
        next: u64,
    },
    /// No more parts come.
    End,
}

/// Whose parts the answer to a message that an agent was shown are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsTarget {
    /// The asker's gateway.
    pub peer: NodeId,
    /// The message, as that gateway names it.
    pub key: MessageKey,
    /// How often the message was shown.
    pub attempt: u32,
}

/// The asking gateway's end.
#[derive(Debug, Default)]
pub struct Reader {
    at: Cursor,
}

impl Router {
    /// Where the parts of an answer go that a local agent is making: to a request that wants them,
    /// and is not answered.
    pub fn parts_target(
        &self,
        instance: InstanceId,
        id: MessageId,
    ) -> Result<PartsTarget, Refusal> {
        let (_, entry) = self.inbox.find(instance, id)?;
        if entry.cancelled {
            return Err(Refusal::Cancelled);
        }
        let letter = match &entry.content {
            Content::Letter { letter, .. } => letter,
            Content::Away(_) => return Err(Refusal::NotFound),
            Content::Known(_) => return Err(Refusal::NotOpen),
        };
        if letter.subject != Subject::Stream {
            return Err(Refusal::NoParts);
        }
        if entry.answered {
            return Err(Refusal::NotOpen);
        }
        Ok(PartsTarget {
            peer: letter.node,
            key: letter.key,
            attempt: letter.shown,
        })
    }

    /// The gateway that a message of a local agent went to.
    pub fn sent_to(&self, instance: InstanceId, id: MessageId) -> Result<NodeId, Refusal> {
        let row = self.outbox.by_key.get(&MessageKey { instance, id });
        let message = row.and_then(|row| self.outbox.messages.get(row));
        Ok(message.ok_or(Refusal::NotFound)?.sent.node)
    }
}

impl Ring {
    /// Takes a part of an attempt; false where it was here before.
    pub fn push(&mut self, attempt: u32, part: Part, now: Instant) -> Result<bool, PushError> {
        if !part.is_bounded() {
            return Err(PushError::Unbounded);
        }
        if attempt < self.attempt {
            return Err(PushError::Stale {
                attempt: self.attempt,
            });
        }
        if attempt > self.attempt {
            *self = Self {
                attempt,
                ..Self::default()
            };
        }
        if self.ended {
            return Err(PushError::Ended);
        }
        // A ring that is new may stand for one that was lost with its process: it begins where
        // the agent goes on.
        let next = if self.next == 0 { part.seq } else { self.next };
        if part.seq < next {
            return Ok(false);
        }
        if part.seq > next {
            return Err(PushError::Gap { next });
        }
        self.next = next + 1;
        self.bytes += size(&part);
        self.unread += size(&part);
        self.kept.push_back((part, now));
        Ok(true)
    }

    /// Whether the agent may give more at once. `reader`: whether somebody is there to be sent it.
    pub fn has_room(&self, reader: bool) -> bool {
        !reader || self.unread < KEEP_BYTES
    }

    /// Forgets what is too old or too much, as far as that may be.
    pub fn trim(&mut self, reader: bool, now: Instant) {
        while let Some((part, at)) = self.kept.front() {
            let read = self.bytes.saturating_sub(self.unread) >= size(part);
            let spare = now.saturating_duration_since(*at) >= KEEP || self.bytes > KEEP_BYTES;
            if !spare || (reader && !read) {
                return;
            }
            let size = size(part);
            self.bytes -= size;
            self.unread = self.unread.min(self.bytes);
            self.kept.pop_front();
        }
    }

    /// No more will come.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next frame for a reader, and moves it on; `None` where it has all there is.
    pub fn read(&mut self, at: &mut Cursor) -> Option<PartsFrame> {
        if at.attempt < self.attempt {
            *at = Cursor {
                attempt: self.attempt,
                seq: 0,
            };
            return Some(PartsFrame::Attempt(self.attempt));
        }
        let first = self.kept.front().map_or(self.next, |(part, _)| part.seq);
        if self.attempt == at.attempt && self.next > 0 && at.seq + 1 < first {
            at.seq = first - 1;
            return Some(PartsFrame::Lost { next: first });
        }
        let wanted = usize::try_from((at.seq + 1).saturating_sub(first)).ok()?;
        if self.attempt == at.attempt
            && let Some((part, _)) = self.kept.get(wanted)
        {
            at.seq = part.seq;
            let part = part.clone();
            self.note_read(part.seq, first);
            return Some(PartsFrame::Part(part));
        }
        self.ended.then(|| PartsFrame::End {
            last: self.next.saturating_sub(1),
        })
    }

    /// Each part is counted off once, however often it is sent.
    fn note_read(&mut self, seq: u64, first: u64) {
        for new in self.read_to.max(first.saturating_sub(1)) + 1..=seq {
            let at = usize::try_from(new - first).ok();
            let part = at.and_then(|at| self.kept.get(at));
            let size = part.map_or(0, |(part, _)| size(part));
            self.unread = self.unread.saturating_sub(size);
        }
        self.read_to = self.read_to.max(seq);
    }

    /// What it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the part that is missing; 1 before the first.
    pub fn next(&self) -> u64 {
        self.next.max(1)
    }
}

impl Reader {
    /// A reader that has what the cursor says.
    pub fn new(at: Cursor) -> Self {
        Self { at }
    }

    /// How far it is: what to subscribe after.
    pub fn at(&self) -> Cursor {
        self.at
    }

    /// What a frame means; nothing where it is known already.
    pub fn take(&mut self, frame: PartsFrame) -> Result<Option<PartEvent>, Broken> {
        match frame {
            PartsFrame::Attempt(attempt) => {
                let before = std::mem::replace(&mut self.at.attempt, attempt);
                if attempt < before || attempt == 0 {
                    return Err(Broken);
                }
                if attempt == before {
                    return Ok(None);
                }
                let had = std::mem::take(&mut self.at.seq) > 0;
                Ok(had.then_some(PartEvent::Restart { attempt }))
            }
            PartsFrame::Part(part) if !part.is_bounded() || self.at.attempt == 0 => Err(Broken),
            PartsFrame::Part(part) if part.seq <= self.at.seq => Ok(None),
            PartsFrame::Part(part) if part.seq == self.at.seq + 1 => {
                self.at.seq = part.seq;
                let attempt = self.at.attempt;
                Ok(Some(PartEvent::Part { attempt, part }))
            }
            PartsFrame::Part(_) => Err(Broken),
            PartsFrame::Lost { next } if next > self.at.seq + 1 => {
                self.at.seq = next - 1;
                Ok(Some(PartEvent::Lost { next }))
            }
            PartsFrame::Lost { .. } => Ok(None),
            PartsFrame::End { last } if last <= self.at.seq => Ok(Some(PartEvent::End)),
            PartsFrame::End { .. } => Err(Broken),
        }
    }
}

fn size(part: &Part) -> usize {
    part.content.len() + OVERHEAD
}

/// Why a ring does not take a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Parts before it are missing.
    #[error("part {next} is missing")]
    Gap {
        /// The first of them.
        next: u64,
    },
    /// The message was shown again since, and whoever was shown it has begun.
    #[error("attempt {attempt} has begun")]
    Stale {
        /// The newer attempt.
        attempt: u32,
    },
    /// The answer was given.
    #[error("the answer was given, or none is wanted any longer")]
    Ended,
    /// It breaks a bound.
    #[error("a part has a number from 1, at most {} KiB, and a kind of small letters", wire::parts::MAX_PART >> 10)]
    Unbounded,
}

/// The peer does not keep to the order of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sends parts out of order")]
pub struct Broken;

/// How long parts are kept for a reader that is away, and how much of them (messaging.md §4.2).
const KEEP: Duration = Duration::from_secs(60);
const KEEP_BYTES: usize = 1 << 20;

/// What a part costs beside its content.
const OVERHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_once_and_in_order_through_any_number_of_breaks() {
        let now = Instant::now();
        let mut ring = Ring::default();
        let mut reader = Reader::default();
        let mut heard = Vec::new();
        let mut cursor = Cursor::default();
        for seq in 1..=100 {
            assert_eq!(ring.push(1, part(seq), now), Ok(true));
            // The connection breaks after each seventh, and some frames are lost with it.
            if seq % 7 == 0 {
                let _ = ring.read(&mut cursor);
                cursor = reader.at();
            } else {
                while let Some(frame) = ring.read(&mut cursor) {
                    heard.extend(reader.take(frame).expect("in order"));
                }
            }
        }
        ring.end();
        while let Some(frame) = ring.read(&mut cursor) {
            let event = reader.take(frame).expect("in order");
            let over = event == Some(PartEvent::End);
            heard.extend(event);
            if over {
                break;
            }
        }

        let parts = heard.iter().filter_map(|event| match event {
            PartEvent::Part { part, .. } => Some(part.seq),
            _ => None,
        });
        assert!(parts.eq(1..=100));
        assert_eq!(heard.len(), 101);
        assert_eq!(heard.last(), Some(&PartEvent::End));
    }

    #[test]
    fn a_part_that_came_before_is_taken_for_known_and_a_gap_is_named() {
        let now = Instant::now();
        let mut ring = Ring::default();
        assert_eq!(ring.push(1, part(1), now), Ok(true));
        assert_eq!(ring.push(1, part(1), now), Ok(false));
        assert_eq!(ring.push(1, part(3), now), Err(PushError::Gap { next: 2 }));
        assert_eq!(ring.next(), 2);
    }

    #[test]
    fn a_new_attempt_voids_the_parts_of_the_one_before() {
        let now = Instant::now();
        let (mut ring, mut cursor) = (Ring::default(), Cursor::default());
        let mut reader = Reader::default();
        ring.push(1, part(1), now).expect("taken");
        drain(&mut ring, &mut cursor, &mut reader);
        ring.push(2, part(1), now).expect("taken");

        let heard = drain(&mut ring, &mut cursor, &mut reader);

        let again = PartEvent::Part {
            attempt: 2,
            part: part(1),
        };
        assert_eq!(heard, [PartEvent::Restart { attempt: 2 }, again]);
        let stale = PushError::Stale { attempt: 2 };
        assert_eq!(ring.push(1, part(2), now), Err(stale));
    }

    #[test]
    fn a_ring_that_was_lost_goes_on_where_its_agent_does() {
        let now = Instant::now();
        let mut reader = Reader::new(Cursor { attempt: 1, seq: 4 });
        let (mut ring, mut cursor) = (Ring::default(), reader.at());
        assert_eq!(drain(&mut ring, &mut cursor, &mut reader), []);
        // The agent sends again what it has kept; some of it was heard.
        for seq in 3..=6 {
            ring.push(1, part(seq), now).expect("taken");
        }
        let heard = drain(&mut ring, &mut cursor, &mut reader);
        assert_eq!(heard.len(), 2);
        assert_eq!(reader.at().seq, 6);

        let mut late = Ring::default();
        late.push(1, part(9), now).expect("taken");
        let heard = drain(&mut late, &mut cursor, &mut reader);
        assert_eq!(heard[0], PartEvent::Lost { next: 9 });
        assert_eq!(heard.len(), 2);
    }

    #[test]
    fn without_a_reader_a_minute_and_a_mebibyte_are_kept_and_with_one_all_that_it_lacks() {
        let now = Instant::now();
        let big = |seq| Part {
            content: vec![b'x'; wire::parts::MAX_PART].into(),
            ..part(seq)
        };
        let mut ring = Ring::default();
        for seq in 1..=40 {
            ring.push(1, big(seq), now).expect("taken");
            ring.trim(false, now);
        }
        assert!(ring.bytes() <= KEEP_BYTES && ring.has_room(false));
        ring.trim(false, now + KEEP);
        assert_eq!(ring.bytes(), 0);

        let (mut ring, mut cursor) = (Ring::default(), Cursor::default());
        let mut taken = 0;
        while ring.has_room(true) {
            taken += 1;
            ring.push(1, big(taken), now).expect("taken");
            ring.trim(true, now + KEEP);
        }
        assert!(taken >= 15, "{taken}");
        let mut reader = Reader::default();
        let heard = drain(&mut ring, &mut cursor, &mut reader);
        assert_eq!(
            heard.len() as u64,
            taken,
            "nothing is lost to a slow reader"
        );
        assert!(ring.has_room(true));
        ring.trim(true, now + KEEP);
        assert_eq!(ring.bytes(), 0);
    }

    #[test]
    fn a_peer_that_breaks_the_order_is_found_out() {
        let at = Cursor { attempt: 2, seq: 2 };
        for wrong in [
            PartsFrame::Part(part(4)),
            PartsFrame::Part(part(0)),
            PartsFrame::Attempt(1),
            PartsFrame::Attempt(0),
            PartsFrame::End { last: 3 },
        ] {
            assert_eq!(
                Reader::new(at).take(wrong.clone()),
                Err(Broken),
                "{wrong:?}"
            );
        }
        let early = PartsFrame::Part(part(1));
        assert_eq!(Reader::default().take(early), Err(Broken));
    }

    fn drain(ring: &mut Ring, cursor: &mut Cursor, reader: &mut Reader) -> Vec<PartEvent> {
        let frames = std::iter::from_fn(|| ring.read(cursor));
        let events = frames.filter_map(|frame| reader.take(frame).expect("in order"));
        events.collect()
    }

    fn part(seq: u64) -> Part {
        Part {
            seq,
            kind: None,
            content: seq.to_string().into(),
        }
    }
}
