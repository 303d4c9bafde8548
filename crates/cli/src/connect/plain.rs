//! Without the plugin: the node speaks to the gateway's agents by a way that the gateway has itself,
//! and they speak to the mesh by the node's MCP endpoint.

use api::{LocalAgents, WorkerSet, WorkerSetAnswer};
use serde_json::{Value, json};

use super::choice::{CHANNEL, Way};
use super::document::{Document, DocumentError, Edit};
use super::gateway::Agent;
use super::inbound::{self, Inbound};
use super::journal::Credentials;
use super::openclaw::{Configuration, Gateway, Work};
use super::{OpenclawArgs, Teller, files};
use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::Failure;

/// Connects a gateway by a way without the plugin. An agent's token is part of the configuration, so
/// the agents come first.
pub fn connect(
    args: &OpenclawArgs,
    context: &Context,
    gateway: Gateway,
    document: &Document,
    agents: &[Agent],
    way: Way,
) -> Result<(), Failure> {
    let config = document.value().map_err(|error| gateway.unusable(&error))?;
    let inbound = match way {
        Way::Channel => Inbound::channel(&config, agents)?,
        _ => Inbound::websocket(&config)?,
    };
    let mut teller = Teller::new(context.output(), args.dry_run);
    let mut client = Client::for_admin(context)?;
    let api = format!("http://{}", client::loopback(context)?);
    context.block_on(async move {
        let mut work = Work {
            gateway,
            teller: &mut teller,
            dry_run: args.dry_run,
        };
        let unchanged = Configuration::Edited {
            text: work.gateway.text.clone(),
            edits: Vec::new(),
        };
        work.gateway.journal.plain = true;
        work.gateway.journal.channel = way == Way::Channel;
        let serves = |id: &str, worker: &api::Worker| inbound.serves(id, worker);
        work.must_be_free(&mut client, agents, serves).await?;
        work.note_intent(&mut client, agents, &unchanged).await?;
        work.register(&mut client, context, agents, api.clone())
            .await?;
        work.serve(&mut client, agents, &inbound).await?;
        let Some(speaker) = speaker(agents, &work.gateway.credentials) else {
            return Ok(());
        };
        let token = work.gateway.credentials.agents.get(&speaker.id);
        // A dry run has no token yet.
        let token = token.map_or("", |it| it.token.as_str());
        let mut edited = mcp_server(document, token, &api);
        if way == Way::Channel {
            edited = edited.and_then(|mut edits| {
                edits.extend(peers(document, &config, agents, &inbound)?);
                Ok(edits)
            });
        }
        let configuration = match edited.and_then(|edits| survived(document, edits)) {
            Ok((text, edits)) => Configuration::Edited { text, edits },
            Err(error) => {
                return Err(Failure::failed(format!(
                    "{} is not changed: {error}",
                    work.gateway.place.config.display()
                )));
            }
        };
        work.note_intent(&mut client, agents, &configuration)
            .await?;
        work.write_configuration(&configuration)?;
        work.conclude_plain(&speaker)
    })
}

impl Work<'_> {
    /// Has the node speak to the gateway for each agent.
    async fn serve(
        &mut self,
        client: &mut Client,
        agents: &[Agent],
        inbound: &Inbound,
    ) -> Result<(), Failure> {
        let there: LocalAgents = client.get("/v1/admin/agents").await?;
        for Agent { id, name } in agents {
            let known = there.agents.iter().find(|agent| agent.name == *name);
            let worker = known
                .and_then(|agent| agent.worker.as_ref())
                .map(|status| &status.worker);
            let secret = inbound.secret(id);
            let secret_sha256 = secret.map(files::hash);
            let journal = &mut self.gateway.journal;
            let same_secret = journal.secrets_sha256.get(name) == secret_sha256.as_ref();
            if worker.is_some_and(|worker| inbound.serves(id, worker)) && same_secret {
                continue;
            }
            self.teller.change(&format!(
                "agent {name} is served by agent {id} of the gateway at {}",
                inbound.url
            ))?;
            if self.dry_run {
                continue;
            }
            if !journal.served.contains(name) {
                journal.served.push(name.clone());
                journal.write(&self.gateway.place, self.gateway.owner)?;
            }
            let set = WorkerSet {
                worker: Some(inbound.worker(id)),
                worker_secret: secret.map(str::to_owned),
            };
            let path = format!("/v1/admin/agents/{name}/worker");
            let _: WorkerSetAnswer = client.post(&path, &set).await?;
            match secret_sha256 {
                Some(hash) => journal.secrets_sha256.insert(name.clone(), hash),
                None => journal.secrets_sha256.remove(name),
            };
            journal.write(&self.gateway.place, self.gateway.owner)?;
        }
        Ok(())
    }

    fn conclude_plain(&self, speaker: &Agent) -> Result<(), Failure> {
        if self.teller.count == 0 {
            return self
                .teller
                .remark("nothing to change: this gateway is connected, without the plugin");
        }
        let config = &self.gateway.place.config;
        self.teller.remark(&format!(
            "whichever agent of the gateway calls the tools of mcp.servers.mesh, it speaks as {} on the mesh",
            speaker.name
        ))?;
        if files::mode(config)? & 0o077 != 0 {
            self.teller.remark(&format!(
                "{} holds a token and can be read by others: chmod 600 it",
                config.display()
            ))?;
        }
        self.teller.remark(
            "a running gateway takes this over by itself; `crabmesh agent list` says how it goes",
        )
    }
}

/// The agent as which the whole gateway speaks: OpenClaw tells an MCP server not which of its agents
/// calls.
fn speaker(agents: &[Agent], before: &Credentials) -> Option<Agent> {
    let before = before.agents.iter().map(|(id, credential)| Agent {
        id: id.clone(),
        name: credential.name.clone(),
    });
    let mut all: Vec<Agent> = before.chain(agents.iter().cloned()).collect();
    all.sort_by_key(|agent| (agent.id != "main", agent.id.clone()));
    all.into_iter().next()
}

/// The way out: the node as an MCP server of the gateway.
fn mcp_server(document: &Document, token: &str, api: &str) -> Result<Vec<Edit>, DocumentError> {
    let mut edits = Vec::new();
    for (field, value) in [
        (&["url"][..], json!(format!("{api}/mcp"))),
        (&["transport"], json!("streamable-http")),
        (
            &["headers", "Authorization"],
            json!(format!("Bearer {token}")),
        ),
        // As long as the longest ask.
        (&["requestTimeoutMs"], json!(600_000)),
    ] {
        let path = [&SERVER, field].concat();
        edits.extend(document.set(&path, value)?);
    }
    Ok(edits)
}

/// The way in by the A2A channel: a peer for each agent, and a binding that says so.
fn peers(
    document: &Document,
    config: &Value,
    agents: &[Agent],
    inbound: &Inbound,
) -> Result<Vec<Edit>, DocumentError> {
    let channel = &config["channels"][CHANNEL];
    let mut edits = Vec::new();
    if channel["enabled"].is_null() {
        edits.extend(document.set(&["channels", CHANNEL, "enabled"], json!(true))?);
    }
    // Where nobody else is asked to keep to it, the 30 a minute that it has by itself are too few: to
    // ask for what became of a message is a request too.
    if channel["rateLimitPerMinute"].is_null() && channel["peers"].is_null() {
        let path = ["channels", CHANNEL, "rateLimitPerMinute"];
        edits.extend(document.set(&path, json!(REQUESTS_A_MINUTE))?);
    }
    for Agent { id, .. } in agents {
        let Ok(peer) = inbound::peer(id) else {
            continue;
        };
        let bearer = inbound.secret(id).unwrap_or_default();
        let path = ["channels", CHANNEL, "peers", &peer, "token"];
        edits.extend(document.set(&path, json!(bearer))?);
        let who = json!({"channel": CHANNEL, "peer": {"kind": "direct", "id": peer}});
        let binding = json!({"agentId": id, "match": who});
        edits.extend(document.add(&["bindings"], binding)?);
    }
    Ok(edits)
}

/// What is written is what was meant.
fn survived(document: &Document, edits: Vec<Edit>) -> Result<(String, Vec<Edit>), DocumentError> {
    let text = document.text();
    match Document::parse(&text)?.value()? == document.value()? {
        true => Ok((text, edits)),
        false => Err(DocumentError::Malformed(
            "it does not survive a change".to_owned(),
        )),
    }
}

/// The entry in the configuration.
const SERVER: [&str; 3] = ["mcp", "servers", "mesh"];
/// Ours: ten a second for each agent, above any pace at which a model answers.
const REQUESTS_A_MINUTE: u32 = 600;
