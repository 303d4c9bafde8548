//! What an agent says of itself to those who may reach it.
//!
//! The text is its own, and foreign to whoever reads it: bounded, on one line, without characters
//! that steer a terminal or that nobody sees. A [`Profile`] always holds to that, whether it came
//! from a file, from an agent or from afar, so what arrives and does not is refused on decode.

use serde::{Deserialize, Deserializer, Serialize};

use crate::bounded;

/// An agent's description and skills. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Said")]
pub struct Profile {
    description: Option<Box<str>>,
    skills: Box<[Skill]>,
}

/// One thing that an agent can do, as in an A2A card or a list of MCP tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// 1 to [`MAX_SKILL_ID`] letters, digits, `.`, `_`, `:` or `-`; unique in its profile.
    pub id: Box<str>,
    /// For people, at most [`MAX_SKILL_NAME`] bytes.
    #[serde(default)]
    pub name: Option<Box<str>>,
    /// For people and models, at most [`MAX_SKILL_DESCRIPTION`] bytes.
    #[serde(default)]
    pub description: Option<Box<str>>,
}

/// What claims to be a profile.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default)]
    description: Option<Box<str>>,
    #[serde(default, deserialize_with = "skills")]
    skills: Vec<Skill>,
}

impl Profile {
    /// Checks what an agent says. Empty texts say nothing.
    pub fn new(description: Option<&str>, skills: Vec<Skill>) -> Result<Self, ProfileError> {
        let mut bytes = 0;
        let mut line = |text: Option<&str>, what, most| match text {
            Some(text) if text.len() > most => Err(ProfileError::Long { what, most }),
            Some(text) if !text.chars().all(is_plain) => Err(ProfileError::Unplain { what }),
            Some("") | None => Ok(None),
            Some(text) => {
                bytes += text.len();
                Ok(Some(text.into()))
            }
        };
        if skills.len() > MAX_SKILLS {
            return Err(ProfileError::Skills);
        }
        let description = line(description, "a description", MAX_DESCRIPTION)?;
        let mut checked: Vec<Skill> = Vec::with_capacity(skills.len());
        for Skill {
            id,
            name,
            description,
        } in skills
        {
            if !is_skill_id(&id) {
                return Err(ProfileError::SkillId);
            }
            if checked.iter().any(|skill| skill.id == id) {
                return Err(ProfileError::Twice { id });
            }
            let name = line(name.as_deref(), "a skill's name", MAX_SKILL_NAME)?;
            let what = "a skill's description";
            let description = line(description.as_deref(), what, MAX_SKILL_DESCRIPTION)?;
            line(Some(&id), "a skill's id", MAX_SKILL_ID)?;
            checked.push(Skill {
                id,
                name,
                description,
            });
        }
        if bytes > MAX_PROFILE {
            return Err(ProfileError::Large { bytes });
        }
        Ok(Self {
            description,
            skills: checked.into(),
        })
    }

    /// What it is, in a sentence or two.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// What it can do, in its own order.
    pub fn skills(&self) -> &[Skill] {
        &self.skills
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.description.is_none() && self.skills.is_empty()
    }

    /// The bytes of its text.
    pub fn size(&self) -> usize {
        let len = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let skills = self.skills.iter();
        let skills = skills.map(|it| it.id.len() + len(&it.name) + len(&it.description));
        len(&self.description) + skills.sum::<usize>()
    }
}

impl TryFrom<Said> for Profile {
    type Error = ProfileError;

    fn try_from(said: Said) -> Result<Self, ProfileError> {
        Self::new(said.description.as_deref(), said.skills)
    }
}

fn skills<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Skill>, D::Error> {
    bounded::list::<_, _, MAX_SKILLS>(deserializer)
}

/// Whether a text can name a skill.
pub fn is_skill_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=MAX_SKILL_ID).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether a reader sees the character as itself: none that controls (C0, C1, DEL), ends a line or
/// reorders what is shown, and none of the tags by which text is hidden from people and not from
/// models. The set is fixed: between gateways of two versions it must be the same.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The longest description, in bytes: a paragraph.
pub const MAX_DESCRIPTION: usize = 1024;

/// The most skills of one agent.
pub const MAX_SKILLS: usize = 32;

/// The longest id of a skill, in bytes.
pub const MAX_SKILL_ID: usize = 64;

/// The longest name of a skill, in bytes.
pub const MAX_SKILL_NAME: usize = 128;

/// The longest description of a skill, in bytes.
pub const MAX_SKILL_DESCRIPTION: usize = 512;

/// All text of one profile, in bytes: what lets a full directory fit one frame, see
/// [`MAX_DIRECTORY`](crate::peer::MAX_DIRECTORY).
pub const MAX_PROFILE: usize = 3 << 10;

/// Why a profile is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A text is too long.
    #[error("{what} is at most {most} bytes")]
    Long {
        /// Which text.
        what: &'static str,
        /// Its limit.
        most: usize,
    },
    /// A text holds what no reader sees.
    #[error("{what} holds a control character, or one that reorders or hides text")]
    Unplain {
        /// Which text.
        what: &'static str,
    },
    /// Too many skills.
    #[error("an agent has at most {MAX_SKILLS} skills")]
    Skills,
    /// A skill's id breaks its grammar.
    #[error("a skill's id is 1 to {MAX_SKILL_ID} of A-Z a-z 0-9 . _ : -")]
    SkillId,
    /// Two skills have one id.
    #[error("the skill {id} is there twice")]
    Twice {
        /// The id.
        id: Box<str>,
    },
    /// All together is too much.
    #[error("description and skills are {bytes} bytes; all together are at most {MAX_PROFILE}")]
    Large {
        /// How much it is.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_holds_plain_text_within_its_bounds_and_nothing_else() {
        let described = |text: &str| Profile::new(Some(text), Vec::new());
        let able = |id: &str| Profile::new(None, vec![skill(id, None)]);

        assert!(described("Writes Rust; grüße, 世界 🦀 👩\u{200d}💻").is_ok());
        assert_eq!(described(""), Ok(Profile::default()));
        for hidden in ["a\nb", "\u{1b}[2J", "x\u{202e}y", "x\u{e0041}", "\u{9b}1"] {
            assert!(
                matches!(described(hidden), Err(ProfileError::Unplain { .. })),
                "{hidden:?}"
            );
        }
        assert!(described(&"x".repeat(MAX_DESCRIPTION)).is_ok());
        assert!(described(&"x".repeat(MAX_DESCRIPTION + 1)).is_err());
        assert!(able("code.review:v2_1-a").is_ok());
        for wrong in ["", "a b", "é", "a/b", &"x".repeat(MAX_SKILL_ID + 1)] {
            assert_eq!(able(wrong), Err(ProfileError::SkillId), "{wrong}");
        }
        let twice = vec![skill("a", None), skill("a", Some("again"))];
        assert_eq!(
            Profile::new(None, twice),
            Err(ProfileError::Twice { id: "a".into() })
        );
    }

    #[test]
    fn what_is_within_each_bound_is_still_bounded_in_all() {
        let many = |n: usize| (0..n).map(|n| skill(&format!("skill-{n}"), None)).collect();
        let long = "x".repeat(MAX_SKILL_DESCRIPTION);
        let wordy = (0..8).map(|n| skill(&format!("s{n}"), Some(&long)));

        assert!(Profile::new(None, many(MAX_SKILLS)).is_ok());
        assert_eq!(
            Profile::new(None, many(MAX_SKILLS + 1)),
            Err(ProfileError::Skills)
        );
        assert!(matches!(
            Profile::new(None, wordy.collect()),
            Err(ProfileError::Large { .. })
        ));
    }

    fn skill(id: &str, description: Option<&str>) -> Skill {
        Skill {
            id: id.into(),
            name: None,
            description: description.map(Into::into),
        }
    }
}
