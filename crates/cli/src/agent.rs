//! `crabmesh agent`: local agents and their API tokens.

mod describe;

use api::{AgentAdd, AgentAdded, LocalAgents};
use identity::AgentName;
use serde_json::json;

use self::describe::{Describe, Words};
use crate::client::Client;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;

/// Local agents and their API tokens.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add an agent; prints its API token, this once, and where the API is
    #[command(
        after_help = "Examples:\n  crabmesh agent add planner\n  crabmesh agent add coder --describe 'Writes Rust.' --skill review='Reviews a patch'"
    )]
    Add(Add),
    /// Say what others see of an agent, or show it; an agent may also say so itself
    #[command(
        after_help = "Examples:\n  crabmesh agent describe coder --describe 'Writes Rust.' --skill review --skill test\n  crabmesh agent describe coder --presence away\n  crabmesh agent describe coder"
    )]
    Describe(Describe),
    /// List the agents of this gateway
    #[command(after_help = "Example:\n  crabmesh agent list --json")]
    List,
    /// Give an agent a new API token; the old one ends at once
    #[command(after_help = "Example:\n  crabmesh agent rotate planner")]
    Rotate(Name),
    /// Remove an agent; what waits for it or from it becomes dead letters
    #[command(after_help = "Example:\n  crabmesh agent remove planner")]
    Remove(Name),
}

#[derive(Debug, clap::Args)]
pub struct Name {
    /// The agent: 1 to 63 of a-z 0-9 . _ -
    #[arg(value_name = "NAME")]
    pub name: AgentName,
}

#[derive(Debug, clap::Args)]
pub struct Add {
    #[command(flatten)]
    pub name: Name,
    #[command(flatten)]
    pub words: Words,
}

pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_admin(context)?;
    let output = context.output();
    context.block_on(async move {
        match args.command {
            Command::Add(Add { name, words }) => {
                let add = AgentAdd {
                    name: name.name,
                    description: words.description,
                    skills: words.skills,
                };
                let added: AgentAdded = client.post("/v1/admin/agents", &add).await?;
                show_token(&added, context)
            }
            Command::Describe(describe) => describe::run(&mut client, output, describe).await,
            Command::Rotate(Name { name }) => {
                let path = format!("/v1/admin/agents/{name}/rotate");
                let added: AgentAdded = client.post(&path, &json!({})).await?;
                show_token(&added, context)
            }
            Command::Remove(Name { name }) => {
                client.delete(&format!("/v1/admin/agents/{name}")).await?;
                match output.json() {
                    true => output.object(&json!({"name": name, "removed": true})),
                    false => output.line(format!("removed {name}")),
                }
            }
            Command::List => {
                let list: LocalAgents = client.get("/v1/admin/agents").await?;
                if output.json() {
                    return list
                        .agents
                        .iter()
                        .try_for_each(|agent| output.object(agent));
                }
                let mut rows = vec![vec![
                    "AGENT".to_owned(),
                    "ADDED".to_owned(),
                    "LAST SEEN".to_owned(),
                ]];
                rows.extend(list.agents.iter().map(|agent| {
                    let seen = agent.idle_s.map_or("never".to_owned(), |s| {
                        format!("{} ago", crate::duration::short(s))
                    });
                    vec![agent.name.to_string(), agent.created_at.to_string(), seen]
                }));
                output.table(&rows)
            }
        }
    })
}

/// The token goes to stdout in a form that a shell can take over.
fn show_token(added: &AgentAdded, context: &Context) -> Result<(), Failure> {
    let output = context.output();
    if output.json() {
        return output.object(added);
    }
    output.line(format!(
        "CRABMESH_TOKEN={}\nCRABMESH_API={}",
        added.token, added.api
    ))?;
    let name = added
        .address
        .as_ref()
        .map_or(added.name.to_string(), ToString::to_string);
    note(format!("{name} has this token; it is not shown again"));
    Ok(())
}
