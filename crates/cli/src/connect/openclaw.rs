//! `crabmesh connect openclaw`: what the gateway lacks is found out first and told, then done.

use std::fs;
use std::path::Path;

use api::{AgentAdd, AgentAdded, Agents, LocalAgents, Worker};
use hyper::StatusCode;
use serde_json::json;
use zeroize::Zeroizing;

use super::choice::{self, Choice, Way};
use super::document::{Document, DocumentError, Edit};
use super::files::{self, Owner};
use super::gateway::{self, Agent, Place};
use super::journal::{Credential, Credentials, Journal};
use super::{OpenclawArgs, Teller, plain, plugin};
use crate::client::{self, Client};
use crate::context::Context;
use crate::failure::Failure;

/// The gateway as it is, and what we know of it.
pub(super) struct Gateway {
    pub(super) place: Place,
    pub(super) owner: Owner,
    pub(super) text: String,
    pub(super) journal: Journal,
    pub(super) credentials: Credentials,
}

/// What becomes of the configuration.
pub(super) enum Configuration {
    Edited { text: String, edits: Vec<Edit> },
    Refused(DocumentError),
}

pub fn connect(args: &OpenclawArgs, context: &Context) -> Result<(), Failure> {
    let gateway = Gateway::open(args)?;
    let parsed = Document::parse(&gateway.text);
    let agents = match (&parsed, args.agents.is_empty()) {
        (_, false) => gateway::chosen(&args.agents)?,
        (Ok(document), true) => {
            gateway::agents(&document.value().map_err(|e| gateway.unusable(&e))?)?
        }
        (Err(error), true) => return Err(gateway.unusable(error)),
    };
    let mut teller = Teller::new(context.output(), args.dry_run);
    if let Ok(document) = &parsed {
        let config = document.value().map_err(|error| gateway.unusable(&error))?;
        let version = choice::version(std::env::var_os("PATH"), &config);
        let Choice { way, why } = Choice::of(args, &gateway.journal, &config, version)?;
        for why in why {
            teller.remark(&why)?;
        }
        if way != Way::Plugin {
            return plain::connect(args, context, gateway, document, &agents, way);
        }
    }
    let ids = gateway.ids(&agents);
    let configuration = match parsed.and_then(|document| gateway.configure(&document, &ids)) {
        Ok((text, edits)) => Configuration::Edited { text, edits },
        Err(error) => Configuration::Refused(error),
    };
    let mut client = Client::for_admin(context)?;
    let api = format!("http://{}", client::loopback(context)?);
    context.block_on(async move {
        let mut work = Work {
            gateway,
            teller: &mut teller,
            dry_run: args.dry_run,
        };
        // Two that follow one inbox take each other's messages.
        work.must_be_free(&mut client, &agents, |_, _| false)
            .await?;
        work.note_intent(&mut client, &agents, &configuration)
            .await?;
        work.install_plugin()?;
        work.register(&mut client, context, &agents, api).await?;
        work.write_configuration(&configuration)?;
        work.conclude(&configuration, &ids)
    })
}

impl Gateway {
    fn open(args: &OpenclawArgs) -> Result<Self, Failure> {
        let place = Place::find(args.gateway.config.as_deref(), |name| {
            std::env::var_os(name)
        })?;
        let owner = Owner::of(&place.config)?;
        let text = fs::read_to_string(&place.config)
            .map_err(|error| files::cannot("read", &place.config, &error))?;
        Ok(Self {
            journal: Journal::read(&place)?.unwrap_or_default(),
            credentials: Credentials::read(&place)?,
            place,
            owner,
            text,
        })
    }

    /// The agents that are on the mesh after this run.
    fn ids(&self, agents: &[Agent]) -> Vec<String> {
        let before = self.credentials.agents.keys().cloned();
        let mut ids: Vec<String> = before
            .chain(agents.iter().map(|it| it.id.clone()))
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The configuration with all that it needs, and what was changed for it.
    fn configure(
        &self,
        document: &Document,
        ids: &[String],
    ) -> Result<(String, Vec<Edit>), DocumentError> {
        let before = document.value()?;
        let plugin = self.place.plugin().display().to_string();
        let mut edits = document.add(&["plugins", "load", "paths"], json!(plugin))?;
        // What its owner has switched off stays so.
        if before["plugins"]["entries"][plugin::ID]["enabled"].is_null() {
            edits
                .extend(document.set(&["plugins", "entries", plugin::ID, "enabled"], json!(true))?);
        }
        if before["plugins"]["allow"].is_array() {
            edits.extend(document.add(&["plugins", "allow"], json!(plugin::ID))?);
        }
        if before["channels"]["mesh"]["enabled"].is_null() {
            edits.extend(document.set(&["channels", "mesh", "enabled"], json!(true))?);
        }
        let credentials = self.place.credentials().display().to_string();
        edits.extend(document.set(&["channels", "mesh", "credentials"], json!(credentials))?);
        edits.extend(document.set(&["channels", "mesh", "agents"], json!(ids))?);
        let text = document.text();
        // What is written is what was meant.
        match Document::parse(&text)?.value()? == document.value()? {
            true => Ok((text, edits)),
            false => Err(DocumentError::Malformed(
                "it does not survive a change".to_owned(),
            )),
        }
    }

    pub(super) fn unusable(&self, error: &DocumentError) -> Failure {
        Failure::failed(format!("{}: {error}", self.place.config.display()))
            .hint("name the agents (--agent main), and the lines to paste are printed")
    }
}

/// One run.
pub(super) struct Work<'a> {
    pub(super) gateway: Gateway,
    pub(super) teller: &'a mut Teller,
    pub(super) dry_run: bool,
}

impl Work<'_> {
    /// The journal first. A run that is cut off is taken back as one that was not.
    pub(super) async fn note_intent(
        &mut self,
        client: &mut Client,
        agents: &[Agent],
        configuration: &Configuration,
    ) -> Result<(), Failure> {
        let there: LocalAgents = client.get("/v1/admin/agents").await?;
        let Gateway {
            place,
            owner,
            text,
            journal,
            ..
        } = &mut self.gateway;
        let before = journal.clone();
        for Agent { name, .. } in agents {
            let known = there.agents.iter().any(|agent| agent.name == *name);
            if !known && !journal.agents.contains(name) {
                journal.agents.push(name.clone());
            }
        }
        if let Configuration::Edited { text: after, edits } = configuration
            && !edits.is_empty()
        {
            let now = files::hash(text);
            let first = journal.edits.is_empty();
            let untouched = [&journal.after_sha256, &journal.before_sha256]
                .iter()
                .any(|known| known.as_ref() == Some(&now));
            if first {
                journal.before_sha256 = Some(now);
            } else if !untouched {
                journal.before_sha256 = None;
            }
            journal.config.clone_from(&place.config);
            journal.after_sha256 = Some(files::hash(after));
            journal.edits.extend(edits.iter().cloned());
            if !self.dry_run && first {
                let mode = files::mode(&place.config)?;
                owner.make_dir(&place.ours)?;
                owner.write(&place.ours.join(files::BACKUP), text.as_bytes(), mode)?;
            }
        }
        if !self.dry_run && before != *journal {
            journal.write(place, *owner)?;
        }
        Ok(())
    }

    /// The plugin's files, those that are missing or of another version.
    fn install_plugin(&mut self) -> Result<(), Failure> {
        let Gateway { place, owner, .. } = &self.gateway;
        let dir = place.plugin();
        let mut stale = Vec::new();
        for (path, text) in plugin::FILES {
            let known = files::read(&dir.join(path));
            if known.ok().flatten().as_deref() != Some(*text) {
                stale.push((dir.join(path), text));
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        let (count, version) = (stale.len(), env!("CARGO_PKG_VERSION"));
        self.teller.change(&format!(
            "{}: the plugin of crabmesh {version}, {count} files",
            dir.display()
        ))?;
        if self.dry_run {
            return Ok(());
        }
        for (path, text) in stale {
            owner.make_dir(path.parent().unwrap_or(&dir))?;
            owner.write(&path, text.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// The agents on the mesh, and their tokens in the credentials file.
    pub(super) async fn register(
        &mut self,
        client: &mut Client,
        context: &Context,
        agents: &[Agent],
        api: String,
    ) -> Result<(), Failure> {
        let there: LocalAgents = client.get("/v1/admin/agents").await?;
        let before = self.gateway.credentials.clone();
        for Agent { id, name } in agents {
            let known = there.agents.iter().any(|agent| agent.name == *name);
            let kept = before.agents.get(id).filter(|it| known && it.name == *name);
            if let Some(kept) = kept
                && works(context, &kept.token).await?
            {
                continue;
            }
            let what = match known {
                true => "was on the mesh already, and has a new token",
                false => "is on the mesh",
            };
            self.teller.change(&match id == name.as_str() {
                true => format!("agent {id} {what}"),
                false => format!("agent {id} {what}, as {name}"),
            })?;
            if self.dry_run {
                continue;
            }
            let added: AgentAdded = match known {
                true => {
                    let path = format!("/v1/admin/agents/{name}/rotate");
                    client.post(&path, &json!({})).await?
                }
                false => {
                    // The plugin calls the node; the node calls nobody.
                    let add = AgentAdd {
                        name: name.clone(),
                        worker: None,
                        worker_secret: None,
                        description: None,
                        skills: Vec::new(),
                    };
                    client.post("/v1/admin/agents", &add).await?
                }
            };
            let credential = Credential {
                name: name.clone(),
                token: added.token,
            };
            let credentials = &mut self.gateway.credentials;
            credentials.api.clone_from(&api);
            credentials.agents.insert(id.clone(), credential);
            // After each: a token is shown once.
            credentials.write(&self.gateway.place, self.gateway.owner)?;
        }
        let credentials = &mut self.gateway.credentials;
        let moved = credentials.api != api;
        credentials.api = api;
        let path = self.gateway.place.credentials();
        if moved || *credentials != before || !path.exists() {
            self.teller.change(&format!(
                "{}: where the node is, and the agents' tokens; for its owner alone",
                path.display()
            ))?;
            if !self.dry_run {
                credentials.write(&self.gateway.place, self.gateway.owner)?;
            }
        }
        Ok(())
    }

    /// Nothing is taken from another worker, not even a token.
    pub(super) async fn must_be_free(
        &self,
        client: &mut Client,
        agents: &[Agent],
        serves: impl Fn(&str, &Worker) -> bool,
    ) -> Result<(), Failure> {
        let there: LocalAgents = client.get("/v1/admin/agents").await?;
        for Agent { id, name } in agents {
            let known = there.agents.iter().find(|agent| agent.name == *name);
            let Some(status) = known.and_then(|agent| agent.worker.as_ref()) else {
                continue;
            };
            let ours = self.gateway.journal.served.contains(name);
            if !ours && !serves(id, &status.worker) {
                return Err(Failure::usage(format!(
                    "agent {name} is served by a worker `{}` already",
                    status.worker.kind()
                ))
                .hint(format!("choose another name: --agent {id}=NAME")));
            }
        }
        Ok(())
    }

    pub(super) fn write_configuration(
        &mut self,
        configuration: &Configuration,
    ) -> Result<(), Failure> {
        let Configuration::Edited { text, edits } = configuration else {
            return Ok(());
        };
        let Gateway {
            place,
            owner,
            text: before,
            ..
        } = &self.gateway;
        for edit in edits {
            if let Some(told) = told(edit) {
                self.teller
                    .change(&format!("{}: {told}", place.config.display()))?;
            }
        }
        if self.dry_run || edits.is_empty() {
            return Ok(());
        }
        if fs::read_to_string(&place.config).ok().as_ref() != Some(before) {
            return Err(Failure::failed(format!(
                "{} was changed by somebody else meanwhile",
                place.config.display()
            ))
            .hint("run this again"));
        }
        owner.write(&place.config, text.as_bytes(), files::mode(&place.config)?)
    }

    /// What is left to know, and to do.
    fn conclude(&self, configuration: &Configuration, ids: &[String]) -> Result<(), Failure> {
        let place = &self.gateway.place;
        if let Configuration::Refused(error) = configuration {
            let fragment = fragment(place, ids);
            self.teller.remark(&format!(
                "paste this into {}:\n{fragment}",
                place.config.display()
            ))?;
            return Err(Failure::failed(format!(
                "{} is not changed: {error}",
                place.config.display()
            )));
        }
        if self.teller.count == 0 {
            return self
                .teller
                .remark("nothing to change: this gateway is connected");
        }
        for remark in remarks(&self.gateway.text, place) {
            self.teller.remark(&remark)?;
        }
        Ok(())
    }
}

/// Whether the node knows the token.
async fn works(context: &Context, token: &str) -> Result<bool, Failure> {
    let mut client = Client::with_token(context, Zeroizing::new(token.to_owned()))?;
    let answer = client.get_raw("/v1/agents").await?;
    match answer.status {
        StatusCode::UNAUTHORIZED => Ok(false),
        _ => answer.read::<Agents>().map(|_| true),
    }
}

/// What an edit does, in the words of the file; a container is part of what goes into it.
fn told(edit: &Edit) -> Option<String> {
    let place = edit.place();
    // What it holds is nobody's to read here.
    let is_secret = place.ends_with(".Authorization") || place.ends_with(".token");
    if is_secret && !matches!(edit, Edit::Container { .. }) {
        return Some(format!("{place} = a token"));
    }
    match edit {
        Edit::Container { .. } => None,
        Edit::Value { value, .. } => Some(format!("{place} = {value}")),
        Edit::Replaced { before, value, .. } => Some(format!("{place} = {value} (was {before})")),
        Edit::Element { value, .. } => Some(format!("{place} gains {value}")),
    }
}

fn remarks(text: &str, place: &Place) -> Vec<String> {
    let config = Document::parse(text).and_then(|document| document.value());
    let config = config.unwrap_or_default();
    let mut remarks = Vec::new();
    let off = &config["plugins"];
    let denied = off["deny"]
        .as_array()
        .is_some_and(|deny| deny.contains(&json!(plugin::ID)));
    if off["enabled"] == json!(false)
        || off["entries"][plugin::ID]["enabled"] == json!(false)
        || denied
    {
        remarks.push(format!(
            "the plugin is switched off in {}; nothing happens until you switch it on",
            place.config.display()
        ));
    }
    if config["channels"]["mesh"]["enabled"] == json!(false) {
        remarks.push("channels.mesh.enabled is false, and stays so".to_owned());
    }
    remarks.push(match config["gateway"]["reload"]["mode"] == json!("off") {
        true => "gateway.reload.mode is off: restart the gateway".to_owned(),
        false => "a running gateway takes this over by itself, in a few seconds".to_owned(),
    });
    remarks.push(
        "next: tell an agent to use mesh_agents; whom it may reach is the policy's to say"
            .to_owned(),
    );
    remarks
}

fn fragment(place: &Place, ids: &[String]) -> String {
    let fragment = json!({
        "plugins": {
            "load": {"paths": [path_text(&place.plugin())]},
            "entries": {plugin::ID: {"enabled": true}},
        },
        "channels": {
            "mesh": {"enabled": true, "credentials": path_text(&place.credentials()), "agents": ids},
        },
    });
    serde_json::to_string_pretty(&fragment).unwrap_or_default()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
