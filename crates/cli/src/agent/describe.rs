//! What others see of an agent, as its operator says.

use api::{OwnPresence, Profile, ProfileRequest, Skill};
use serde_json::json;

use super::Name;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::printable;

/// What an agent says of itself, on the command line.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// What it is, in a sentence or two; an empty text takes it back
    #[arg(long = "describe", value_name = "TEXT")]
    pub description: Option<String>,
    /// What it can do, and in which words; once for each. Replaces all that it had
    #[arg(long = "skill", value_name = "ID[=TEXT]", value_parser = skill)]
    pub skills: Vec<Skill>,
}

/// Also for an agent that is there already.
#[derive(Debug, clap::Args)]
pub struct Describe {
    #[command(flatten)]
    pub name: Name,
    #[command(flatten)]
    pub words: Words,
    /// Take all its skills back
    #[arg(long, conflicts_with = "skills")]
    pub no_skills: bool,
    /// Away: not to be counted on, until it says online
    #[arg(long, value_name = "online|away", value_parser = presence)]
    pub presence: Option<OwnPresence>,
}

/// Sets what is given, and shows what others see.
pub async fn run(client: &mut Client, output: Output, args: Describe) -> Result<(), Failure> {
    let Describe {
        name: Name { name },
        words,
        no_skills,
        presence,
    } = args;
    let request = ProfileRequest {
        description: words.description,
        skills: (no_skills || !words.skills.is_empty()).then_some(words.skills),
        presence,
    };
    let path = format!("/v1/admin/agents/{name}/profile");
    let profile: Profile = client.post(&path, &request).await?;
    match output.json() {
        true => output.object(&profile),
        false => output.table(&rows(&profile)),
    }
}

fn rows(profile: &Profile) -> Vec<Vec<String>> {
    let cell = |text: Option<&str>| text.map_or("-".to_owned(), printable);
    let pair = |key: &str, value: String| vec![key.to_owned(), value];
    let mut rows = vec![
        pair("agent", profile.name.to_string()),
        pair("presence", profile.presence.as_str().to_owned()),
        pair("description", cell(profile.description.as_deref())),
    ];
    rows.extend(profile.skills.iter().map(|skill| {
        let text = match (&skill.name, &skill.description) {
            (Some(name), Some(text)) => format!("{}: {}", printable(name), printable(text)),
            (Some(text), None) | (None, Some(text)) => printable(text),
            (None, None) => String::new(),
        };
        let line = format!("{}  {text}", skill.id);
        pair("skill", line.trim_end().to_owned())
    }));
    rows
}

fn skill(text: &str) -> Result<Skill, std::convert::Infallible> {
    let (id, description) = match text.split_once('=') {
        Some((id, text)) => (id, Some(text.to_owned())),
        None => (text, None),
    };
    Ok(Skill {
        id: id.to_owned(),
        name: None,
        description,
    })
}

fn presence(text: &str) -> Result<OwnPresence, String> {
    serde_json::from_value(json!(text)).map_err(|_| "online or away".to_owned())
}
