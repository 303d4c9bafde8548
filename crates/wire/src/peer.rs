//! The control stream between two gateways, inside the QUIC connection inside their tunnel.

use identity::{AgentName, Heads};
use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded;
use crate::map::Document;
use crate::profile::Profile;

/// The ALPN protocol (RFC 7301) of the QUIC connection between two gateways.
pub const ALPN: &[u8] = b"crabmesh-peer/2";

/// The UDP port of the router inside the tunnel. Never visible outside; open between two members
/// exactly when some `msg` grant may apply in either direction.
pub const ROUTER_PORT: u16 = 4747;

/// The most agents of one gateway that a directory names. With a full [`Profile`] each they fit one
/// frame, which a test holds true.
pub const MAX_DIRECTORY: usize = 256;

/// A frame on the control stream; each side opens one unidirectional stream for its own frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// The first frame of each side.
    Hello(Hello),
    /// My heads changed.
    Heads(Heads),
    /// Send me what is newer than these.
    Pull(Heads),
    /// A document that you pulled, or news of a member.
    Document(Document),
    /// The agents here that the other side may reach, under the policy, at most [`MAX_DIRECTORY`].
    /// Replaces the last. The first word about them in each session.
    Directory(#[serde(deserialize_with = "directory")] Vec<DirectoryEntry>),
    /// Asks for a [`PeerFrame::Pong`].
    Ping {
        /// Echoed.
        token: u64,
        /// Where one agent asks for another: who asks, and whom for.
        agents: Option<(AgentName, AgentName)>,
    },
    /// Answers a ping.
    Pong {
        /// From the ping.
        token: u64,
        /// Whether the agent is there and the policy lets the asker reach it; true without agents.
        reachable: bool,
    },
    /// What changed in the directory since it was told.
    News {
        /// Agents that came or are not as they were, whole.
        #[serde(deserialize_with = "directory")]
        changed: Vec<DirectoryEntry>,
        /// Agents that left, or that the other side may no longer reach.
        #[serde(deserialize_with = "names")]
        gone: Vec<AgentName>,
    },
}

/// How a session between two gateways begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What I hold.
    pub heads: Heads,
    /// Counts up with each start of this node; two live counters betray a cloned key.
    pub boot: u64,
    /// Random for each session: a clone is only told from a late packet by answering it.
    pub challenge: [u8; 16],
}

/// One agent of a gateway's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Its name there.
    pub name: AgentName,
    /// Seconds since its last call of the local API; `None` before the first.
    pub idle_s: Option<u64>,
    /// Whether it is there.
    pub presence: Presence,
    /// Whether some agent of the other side may ask it for the parts of an answer.
    pub streams: bool,
    /// What it says of itself.
    pub profile: Profile,
}

/// Whether an agent is there to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It follows its inbox, or called its gateway a moment ago.
    Online,
    /// It does not, or says so itself. What it is sent waits for it.
    Away,
}

fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DirectoryEntry>, D::Error> {
    bounded::list::<_, _, MAX_DIRECTORY>(deserializer)
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AgentName>, D::Error> {
    bounded::list::<_, _, MAX_DIRECTORY>(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::profile::{MAX_DESCRIPTION, MAX_PROFILE, MAX_SKILLS, Skill};

    #[test]
    fn a_full_directory_of_full_profiles_fits_one_frame() {
        let told = PeerFrame::Directory((0..MAX_DIRECTORY).map(full).collect());

        let mut bytes = Vec::new();
        frame::encode(&told, &mut bytes).expect("it fits");

        let body = &bytes[frame::LENGTH_BYTES..];
        assert_eq!(frame::decode(body), Ok(told));
        assert!(body.len() > MAX_DIRECTORY * MAX_PROFILE, "they are full");
    }

    #[test]
    fn one_agent_too_many_is_refused() {
        let mut bytes = Vec::new();
        let told = PeerFrame::Directory((0..=MAX_DIRECTORY).map(small).collect());
        frame::encode(&told, &mut bytes).expect("it fits");

        let decoded = frame::decode::<PeerFrame>(&bytes[frame::LENGTH_BYTES..]);

        assert_eq!(decoded, Err(frame::FrameError::Malformed));
    }

    /// As many bytes as an entry can take: the name, the skills and all their text.
    fn full(n: usize) -> DirectoryEntry {
        let rest = MAX_PROFILE - MAX_DESCRIPTION;
        let skill = |n: usize| Skill {
            id: format!("{n:02}{}", "i".repeat(30)).into(),
            name: Some("n".repeat(16).into()),
            description: Some("d".repeat(rest / MAX_SKILLS - 48).into()),
        };
        let skills = (0..MAX_SKILLS).map(skill).collect();
        let description = "x".repeat(MAX_DESCRIPTION);
        DirectoryEntry {
            name: format!("{n:03}{}", "a".repeat(60)).parse().expect("a name"),
            idle_s: Some(u64::MAX),
            profile: Profile::new(Some(&description), skills).expect("within its bounds"),
            ..small(n)
        }
    }

    fn small(n: usize) -> DirectoryEntry {
        DirectoryEntry {
            name: format!("a{n}").parse().expect("a name"),
            idle_s: None,
            presence: Presence::Away,
            streams: true,
            profile: Profile::default(),
        }
    }
}
