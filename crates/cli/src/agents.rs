//! `crabmesh agents`: whom may be reached, whether they are there, and what they say they can do.

use std::io::IsTerminal;

use api::{AgentEntry, Agents, Skill};
use hyper::Method;

use crate::client::{Client, MaybeAsAgent};
use crate::context::Context;
use crate::duration::short;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::{self, printable};

/// List every agent that may be reached: on which gateway, whether it is there, what it can do.
/// Without --as: every agent that this gateway knows of.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Online: it follows its inbox, or called within the last minute. Away: it does not, or says so. Offline: its gateway is not reached. Whoever is not online finds its messages later. What agents say of themselves is their own word.\n\nExamples:\n  crabmesh agents --as planner\n  crabmesh agents --json | jq 'select(.presence == \"online\")'\n  crabmesh agents --watch"
)]
pub struct AgentsArgs {
    /// Show them anew at each change; with --json the whole list on one line
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub who: MaybeAsAgent,
}

pub fn run(args: AgentsArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_anyone(context, &args.who)?;
    let output = context.output();
    context.block_on(async move {
        if !args.watch {
            let list: Agents = client.get("/v1/agents").await?;
            return match output.json() {
                true => list
                    .agents
                    .iter()
                    .try_for_each(|agent| output.object(agent)),
                false => output.table(&rows(&list)),
            };
        }
        let mut events = match client
            .events(Method::GET, "/v1/agents/stream", None)
            .await?
        {
            Ok(events) => events,
            Err(answer) => return answer.done(),
        };
        let mut first = true;
        while let Some(event) = events.next().await? {
            if event.name != "agents" {
                continue;
            }
            let list: Agents = event.read()?;
            match output.json() {
                true => output.object(&list)?,
                false => show(output, &list, first)?,
            }
            first = false;
        }
        Err(Failure::no_node("the local node has stopped"))
    })
}

/// A terminal's screen is cleared; elsewhere an empty line stands between two lists.
fn show(output: Output, list: &Agents, first: bool) -> Result<(), Failure> {
    let before = match (std::io::stdout().is_terminal(), first) {
        (true, _) => "\u{1b}[H\u{1b}[2J",
        (false, true) => "",
        (false, false) => "\n",
    };
    output.line(format!("{before}{}", terminal::table(&rows(list))))
}

fn rows(list: &Agents) -> Vec<Vec<String>> {
    let head = [
        "AGENT",
        "GATEWAY",
        "PRESENCE",
        "LAST SEEN",
        "SKILLS",
        "DESCRIPTION",
    ];
    let head = head.map(str::to_owned).to_vec();
    std::iter::once(head)
        .chain(list.agents.iter().map(row))
        .collect()
}

fn row(agent: &AgentEntry) -> Vec<String> {
    let seen = agent
        .last_seen_s
        .map_or("never".to_owned(), |s| format!("{} ago", short(s)));
    vec![
        agent.address.agent.to_string(),
        agent.address.node.to_string(),
        agent.presence.as_str().to_owned(),
        seen,
        skills(&agent.skills),
        agent
            .description
            .as_deref()
            .map_or("-".to_owned(), |text| cut(&printable(text))),
    ]
}

/// The first few by their ids.
fn skills(skills: &[Skill]) -> String {
    if skills.is_empty() {
        return "-".to_owned();
    }
    let shown = skills.iter().take(SKILLS_SHOWN);
    let mut text = shown
        .map(|skill| printable(&skill.id))
        .collect::<Vec<_>>()
        .join(",");
    if let Some(more @ 1..) = skills.len().checked_sub(SKILLS_SHOWN) {
        text.push_str(&format!(" +{more}"));
    }
    text
}

/// The begin of a text; `--json` has all of it.
fn cut(text: &str) -> String {
    match text.char_indices().nth(DESCRIPTION_SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
    }
}

/// Beside the other columns these fit most terminals.
const SKILLS_SHOWN: usize = 3;

/// See [`SKILLS_SHOWN`].
const DESCRIPTION_SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_say_of_themselves_is_cut_and_cannot_steer_a_terminal() {
        let skill = |id: &str| Skill {
            id: id.to_owned(),
            ..Skill::default()
        };
        let agent = AgentEntry {
            address: "coder@gw-b".parse().expect("an address"),
            online: true,
            presence: api::Presence::Away,
            last_seen_s: Some(61),
            streams: true,
            description: Some(format!("\u{1b}[2J{}", "x".repeat(80))),
            skills: ["a", "b", "c", "d\u{7}"].map(skill).to_vec(),
        };

        let row = row(&agent);

        assert_eq!(row[..3], ["coder", "gw-b", "away"]);
        assert_eq!(row[4], "a,b,c +1");
        assert!(row[5].starts_with("\\u{1b}[2Jx") && row[5].ends_with('…'));
        assert_eq!(row[5].chars().count(), DESCRIPTION_SHOWN + 1);
    }
}
