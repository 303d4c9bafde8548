//! Agent messages: durable, point to point, at least once, known again by their receiver.
//!
//! The core decides and does nothing itself: time, randomness, the disk and the network are
//! arguments and [`Output`]s. Drive it like this:
//!
//! ```text
//! loop { handle_… or a command; while poll_output() is not Wait { do it } }
//! ```
//! **Invariants.** *Accepted* is told after the sender's fsync, *stored* after the receiver's.
//! A message is shown until it is acked and never after. The receiver decides what it keeps, from
//! the authenticated node and its own policy, also for an agent on the same gateway. Whatever is
//! lost has a name (a [`Failure`]) and a place (the dead letters). Every queue has a bound.
//!
//! A message on its way: `Storing ─fsync► Queued ─offer► InFlight ─Stored► Sent`, and in the inbox:
//! `Storing ─fsync► Ready ─shown► Held ─ack► Settling ─fsync► known again, never shown`. A reply to
//! another gateway, where somebody waits for it, waits for neither disk: it is offered while it is
//! stored here, and there handed over while it is `Storing`, which acks it. *Accepted* and *stored* are
//! told after the fsync as ever, and its sender keeps it until it is stored.
#![forbid(unsafe_code)]

pub mod limits;

mod arrival;
mod away;
mod causes;
mod clock;
mod counters;
mod early;
mod ended;
mod inbox;
mod judging;
mod offers;
mod outbox;
mod outcome;
mod output;
mod parts;
mod rates;
mod receiver;
mod restore;
mod router;
mod rows;
mod sender;
mod settling;
mod words;

pub use causes::Budgets;
pub use clock::Clock;
pub use counters::{Counters, Stats};
pub use output::{Accept, Event, HolderId, Output, Ticket};
pub use parts::{Broken, Cursor, PartEvent, PartsTarget, PushError, Reader, Ring};
pub use router::Router;
pub use rows::{
    DeadRow, InboxRow, Known, Letter, OutboxRow, Row, RowId, Sent, Subject, Table, Write, v1,
};
pub use words::{
    Agent, Answer, Authority, BLOCKED, CANCELLED, CUT_OFF, Delivery, DeliveryKind, Draft, Failure,
    Origin, Refusal, State, Status, cause_of,
};
