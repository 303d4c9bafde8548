//! The words of A2A, the protocol by which agents of other makers ask each other: version 1.0, and
//! 0.3 for whoever names no version.
//!
//! ```text
//! bytes ─► rpc::read ─► Call ─┐                               ┌─► body of a message of the mesh
//! path and query ─────► Call ─┴► Message ◄── content ──────────┘
//! Task, Event ─► Value in the shape of the caller's version
//! ```
//! One set of types for both versions; only what is read and written differs. Reading is total and
//! bounded, takes unknown fields, and an error names the field at fault: it is for a program's
//! author. Nothing here does anything.

mod card;
mod content;
mod fields;
mod message;
mod problem;
mod rpc;
mod task;

pub use card::{Card, Skill};
pub use content::{MESSAGE_TYPE, body_of, parts_of};
pub use fields::Wrong;
pub use message::{Content, MAX_ID, MAX_PARTS, Message, Part, Role};
pub use problem::{Problem, ProblemKind};
pub use rpc::{Call, ListParams, Read, SendParams, read, read_list, read_send, wrap};
pub use task::{Artifact, Event, Status, Task, TaskList, TaskState};

/// A version of the protocol, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 0.3: `kind` fields, enumerations in lower case.
    V03,
    /// 1.0: JSON as Protocol Buffers write it.
    V1,
}

/// The header, and the query's parameter, by which a caller names the version.
pub const VERSION_HEADER: &str = "a2a-version";

impl Version {
    /// The version that a caller asks for; `None` where it names none, which means 0.3 to the
    /// specification.
    pub fn named(text: Option<&str>) -> Result<Option<Self>, Problem> {
        let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let mut parts = text.split('.');
        match (parts.next(), parts.next()) {
            (Some("1"), Some("0") | None) => Ok(Some(Self::V1)),
            (Some("0"), Some("3")) => Ok(Some(Self::V03)),
            _ => {
                let shown: String = text
                    .chars()
                    .take(16)
                    .flat_map(char::escape_default)
                    .collect();
                Err(Problem::new(
                    ProblemKind::VersionNotSupported,
                    format!("A2A-Version: {shown} is not spoken here; 1.0 and 0.3 are"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests;
