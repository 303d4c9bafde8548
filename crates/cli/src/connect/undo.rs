//! `crabmesh disconnect openclaw`: by the journal, the last change first.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;

use super::document::{Document, Edit};
use super::files::{self, Owner};
use super::gateway::Place;
use super::journal::Journal;
use super::{DisconnectOpenclawArgs, Teller, plugin};
use crate::client::Client;
use crate::context::Context;
use crate::failure::Failure;

pub fn disconnect(args: &DisconnectOpenclawArgs, context: &Context) -> Result<(), Failure> {
    let place = Place::find(args.gateway.config.as_deref(), |name| {
        std::env::var_os(name)
    })?;
    let mut teller = Teller::new(context.output(), args.dry_run);
    let Some(journal) = Journal::read(&place)? else {
        return teller.remark("nothing to take back: this gateway is not connected");
    };
    let owner = Owner::of(&place.config)?;
    let text = fs::read_to_string(&place.config)
        .map_err(|error| files::cannot("read", &place.config, &error))?;
    let (restored, told) = restored(&text, &journal, &place)?;
    // Without a node nobody can take the agents off the mesh: nothing is done by halves.
    let mut client = match journal.agents.is_empty() && journal.served.is_empty() {
        true => None,
        false => Some(Client::for_admin(context)?),
    };
    let dry_run = args.dry_run;
    context.block_on(async move {
        if let Some(client) = &mut client {
            let _: api::LocalAgents = client.get("/v1/admin/agents").await?;
        }
        for line in told {
            teller.change(&format!("{}: {line}", place.config.display()))?;
        }
        if !dry_run && restored != text {
            let mode = files::mode(&place.config)?;
            owner.write(&place.config, restored.as_bytes(), mode)?;
        }
        for name in &journal.agents {
            teller.change(&format!(
                "agent {name} leaves the mesh; what waits for it or from it becomes dead letters"
            ))?;
            if let (false, Some(client)) = (dry_run, &mut client) {
                let answer = client
                    .delete_raw(&format!("/v1/admin/agents/{name}"))
                    .await?;
                if answer.status != StatusCode::NOT_FOUND {
                    answer.done()?;
                }
            }
        }
        let stay = |name: &&identity::AgentName| !journal.agents.contains(name);
        for name in journal.served.iter().filter(stay) {
            teller.change(&format!(
                "agent {name} is no longer served by the gateway; it stays on the mesh"
            ))?;
            if let (false, Some(client)) = (dry_run, &mut client) {
                let path = format!("/v1/admin/agents/{name}/worker");
                let answer = client
                    .post_raw(&path, &serde_json::json!({}), Duration::ZERO)
                    .await?;
                if answer.status != StatusCode::NOT_FOUND {
                    answer.done()?;
                }
            }
        }
        teller.change(&format!("{} is removed", place.ours.display()))?;
        match dry_run {
            true => Ok(()),
            false => remove_ours(&place),
        }
    })
}

/// The configuration without our changes: to the byte where nobody else changed it since.
fn restored(
    text: &str,
    journal: &Journal,
    place: &Place,
) -> Result<(String, Vec<String>), Failure> {
    let mut told = Vec::new();
    let backup = files::read(&place.ours.join(files::BACKUP))?;
    let untouched = journal.after_sha256.as_deref() == Some(files::hash(text).as_str());
    if let Some(backup) = backup
        && untouched
        && journal.before_sha256.as_deref() == Some(files::hash(&backup).as_str())
    {
        if backup != text {
            told.push("as it was before".to_owned());
        }
        return Ok((backup, told));
    }
    let document = Document::parse(text).map_err(|error| {
        Failure::failed(format!("{}: {error}", place.config.display())).hint(format!(
            "take channels.mesh, plugins.entries.{} and the path of the plugin out of it by hand",
            plugin::ID
        ))
    })?;
    for edit in journal.edits.iter().rev() {
        // Without the plugin a section of it makes the configuration invalid, whoever wrote into it.
        if let Edit::Container { path } = edit
            && SECTIONS.iter().any(|section| path == section)
        {
            if let Some(value) =
                document.remove(&path.iter().map(String::as_str).collect::<Vec<_>>())
            {
                told.push(format!("{} is gone, with {value}", edit.place()));
            }
        } else if document.undo(edit) && !matches!(edit, Edit::Container { .. }) {
            told.push(format!("{} is as before", edit.place()));
        }
    }
    Ok((document.text(), told))
}

/// The journal goes last: until then the rest can be done again.
fn remove_ours(place: &Place) -> Result<(), Failure> {
    let gone = |result: io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(files::cannot("remove", path, &error))
        }
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(place.plugin()), &place.plugin())?;
    for name in [files::CREDENTIALS, files::BACKUP, files::JOURNAL] {
        let path = place.ours.join(name);
        gone(fs::remove_file(&path), &path)?;
    }
    // Whatever else somebody put there is not ours.
    match fs::remove_dir(&place.ours) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other, &place.ours),
    }
}

/// The sections that the plugin alone reads.
const SECTIONS: [&[&str]; 2] = [&["channels", "mesh"], &["plugins", "entries", plugin::ID]];
