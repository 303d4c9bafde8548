//! A2A: every agent that an agent here may reach is an endpoint of that protocol on the local API,
//! and a message to it is a task that outlives the node.
//!
//! ```text
//! api::a2a ─► Tasks ─► store (fsync) ─► keeper: one driver a task ─► messages ─► the far agent
//!               ▲                          │  its reply: store (fsync), then acked
//!               └──────── live ◄───────────┘  states and parts, to whoever follows
//! ```
//! **Invariants.** A task is on disk before its message is sent, under the message's own id: a restart
//! sends the same message again, which is no second one. Its reply is on disk here before it is
//! acked: a crash in between hands it over again. A task is its agent's alone, and only at the endpoint
//! that it was made at. What is known of A2A's JSON is in `api::a2a`.

pub(crate) mod client;
mod keeper;
mod live;
mod record;
mod seal;
mod store;
mod tasks;

#[cfg(test)]
mod tests;

pub use keeper::{Keeper, start};
pub use store::{DATABASE, KEY, StoreError};
pub use tasks::{Posted, Tasks};
pub(crate) use tasks::{Told, Watched};
