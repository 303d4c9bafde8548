//! `crabmesh agent`: local agents, their API tokens, and how the node serves those that do not call
//! the API themselves.

mod attach;
mod describe;

use api::{AgentAdd, AgentAdded, LocalAgentEntry, LocalAgents, WorkerSet, WorkerSetAnswer};
use identity::AgentName;
use serde_json::json;

use self::attach::AttachArgs;
use self::describe::{Describe, Words};
use crate::client::Client;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;

/// Local agents: their API tokens, and how each is attached.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add an agent; prints its API token, this once, and where the API is
    #[command(after_help = ADD_HELP)]
    Add(Add),
    /// Say what others see of an agent, or show it; an agent may also say so itself
    #[command(
        after_help = "Examples:\n  crabmesh agent describe coder --describe 'Writes Rust.' --skill review --skill test\n  crabmesh agent describe coder --presence away\n  crabmesh agent describe coder"
    )]
    Describe(Describe),
    /// Attach an agent in another way; its token stays, and a new secret is made for --http
    #[command(
        after_help = "Without --http, --a2a, --openclaw or --exec the agent calls the API itself from now on. What is
being worked on is done again.

Examples:
  crabmesh agent set coder --http https://agent.example.com/hook
  crabmesh agent set coder --concurrency 2 --exec ./answer.sh
  crabmesh agent set coder"
    )]
    Set(Attach),
    /// List the agents of this gateway, how each is attached and how that goes
    #[command(after_help = "Example:\n  crabmesh agent list --json")]
    List,
    /// Show one agent: how it is attached, how that goes, what it has done
    #[command(after_help = "Example:\n  crabmesh agent show coder")]
    Show(Name),
    /// Give an agent a new API token, and with --http a new secret; the old ones end at once
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
pub struct Attach {
    #[command(flatten)]
    pub name: Name,
    #[command(flatten)]
    pub attach: AttachArgs,
}

#[derive(Debug, clap::Args)]
pub struct Add {
    #[command(flatten)]
    pub name: Name,
    #[command(flatten)]
    pub attach: AttachArgs,
    #[command(flatten)]
    pub words: Words,
}

pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_admin(context)?;
    let output = context.output();
    context.block_on(async move {
        match args.command {
            Command::Add(Add {
                name,
                attach,
                words,
            }) => {
                let (worker, worker_secret) = attach.read()?;
                let add = AgentAdd {
                    name: name.name,
                    worker,
                    worker_secret,
                    description: words.description,
                    skills: words.skills,
                };
                let added: AgentAdded = client.post("/v1/admin/agents", &add).await?;
                show_token(&added, context)
            }
            Command::Set(Attach {
                name: Name { name },
                attach,
            }) => {
                let (worker, worker_secret) = attach.read()?;
                let path = format!("/v1/admin/agents/{name}/worker");
                let set = WorkerSet {
                    worker,
                    worker_secret,
                };
                let answer: WorkerSetAnswer = client.post(&path, &set).await?;
                if output.json() {
                    return output.object(&answer);
                }
                if let Some(secret) = &answer.worker_secret {
                    output.line(format!("{SECRET}={secret}"))?;
                    note(format!("{name} has this secret; it is not shown again"));
                }
                let shown: LocalAgentEntry =
                    client.get(&format!("/v1/admin/agents/{name}")).await?;
                note(format!(
                    "{name} is attached by {}",
                    attach::way(shown.worker.as_ref())
                ));
                Ok(())
            }
            Command::Show(Name { name }) => {
                let agent: LocalAgentEntry =
                    client.get(&format!("/v1/admin/agents/{name}")).await?;
                match output.json() {
                    true => output.object(&agent),
                    false => output.table(&details(&agent)),
                }
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
                    "ATTACHED BY".to_owned(),
                    "STATE".to_owned(),
                ]];
                rows.extend(list.agents.iter().map(|agent| {
                    vec![
                        agent.name.to_string(),
                        agent.created_at.to_string(),
                        seen(agent),
                        attach::way(agent.worker.as_ref()),
                        attach::state(agent.worker.as_ref()),
                    ]
                }));
                output.table(&rows)
            }
        }
    })
}

fn seen(agent: &LocalAgentEntry) -> String {
    agent.idle_s.map_or("never".to_owned(), |s| {
        format!("{} ago", crate::duration::short(s))
    })
}

fn details(agent: &LocalAgentEntry) -> Vec<Vec<String>> {
    let worker = agent.worker.as_ref();
    let mut rows = vec![
        ("agent", agent.name.to_string()),
        ("added", agent.created_at.to_string()),
        ("last seen", seen(agent)),
        ("attached by", attach::way(worker)),
    ];
    if let Some(status) = worker {
        rows.extend([
            ("state", attach::state(worker)),
            ("done", status.done.to_string()),
            ("tried again", status.retried.to_string()),
            ("given up", status.given_up.to_string()),
        ]);
    }
    let row = |(name, value): (&str, String)| vec![name.to_owned(), value];
    rows.into_iter().map(row).collect()
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
    if let Some(secret) = &added.worker_secret {
        output.line(format!("{SECRET}={secret}"))?;
    }
    let name = added
        .address
        .as_ref()
        .map_or(added.name.to_string(), ToString::to_string);
    note(match added.worker_secret {
        None => format!("{name} has this token; it is not shown again"),
        Some(_) => format!("{name} has this token and this secret; they are not shown again"),
    });
    Ok(())
}

/// As the examples know it.
const SECRET: &str = "CRABMESH_WEBHOOK_SECRET";

const ADD_HELP: &str = "Examples:
  crabmesh agent add planner
  crabmesh agent add coder --http http://127.0.0.1:8080/messages
  crabmesh agent add writer --a2a http://127.0.0.1:41241/ --bearer-file bearer.txt
  crabmesh agent add main --openclaw ws://127.0.0.1:18789 --secret-file gateway-token
  crabmesh agent add tester --timeout 10m --exec /usr/local/bin/run-tests --quick

--http: each message is a POST of its body, with Crabmesh-From (the verified agent@gateway) and
other Crabmesh-* headers, signed as Standard Webhooks has it; the secret is shown this once. A 2xx
answer is the reply, 204 an ack without words. 408, 425, 429, 502 to 504 and no connection are tried
again until the message expires; 500 and no answer in time five times; any other 4xx never.

--a2a: each message is posted to an A2A server (1.0, else 0.3), and what comes of its task is the
reply. It is posted once: after a broken connection or a restart its task is asked for.

--openclaw: each message is a turn of an agent of the OpenClaw gateway on this host, in a session of
its sender, and what the agent says last is the reply. --secret-file has the gateway's token
(gateway.auth); crabmesh asks for operator.write with it, and shows it to nobody. A turn that did not
end within --timeout goes on and is waited for again; one that the gateway says failed never is.

--exec: each message is a run of CMD, with the body on its stdin and in its environment what
`crabmesh recv --exec` gives. What it prints is the reply; any exit but 0 is tried again, five times
in all. CMD RUNS AS THE USER OF THE NODE, and so can read the node's keys and every message: only
for programs that you would give these to. Others had better call the API under a user of their own.";
