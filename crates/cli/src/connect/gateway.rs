//! The OpenClaw gateway of this user: where its configuration is, and which agents it has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use identity::AgentName;
use serde_json::Value;

use crate::failure::Failure;

/// Where the gateway keeps what concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its configuration, links followed.
    pub config: PathBuf,
    /// Our own directory beside its state.
    pub ours: PathBuf,
}

/// An OpenClaw agent, and its name on the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// As OpenClaw knows it.
    pub id: String,
    /// As the mesh will.
    pub name: AgentName,
}

impl Place {
    /// Of the option, else of the environment, as OpenClaw itself finds it.
    pub fn find(
        option: Option<&Path>,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let named = |name| {
            environment(name)
                .map(PathBuf::from)
                .filter(|path| !path.as_os_str().is_empty())
        };
        let home = || {
            named("OPENCLAW_HOME")
                .or_else(|| named("HOME"))
                .map(|home| home.join(".openclaw"))
        };
        let state = named("OPENCLAW_STATE_DIR");
        let config = match option {
            Some(path) => Some(path.to_owned()),
            None => named("OPENCLAW_CONFIG_PATH").or_else(|| {
                let state = state.clone().or_else(home);
                state.map(|state| state.join("openclaw.json"))
            }),
        };
        let config = config.ok_or_else(|| {
            Failure::usage("no configuration of OpenClaw is named, and HOME is not set")
                .hint("name it with --config")
        })?;
        let config = config.canonicalize().map_err(|error| {
            Failure::usage(format!("cannot read {}: {error}", config.display()))
                .hint("start OpenClaw once, or name its configuration with --config")
        })?;
        // With an option it may be another gateway's than the environment speaks of.
        let state = state.filter(|_| option.is_none());
        let state = match state {
            Some(state) => state.canonicalize().unwrap_or(state),
            None => config.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        Ok(Self {
            config,
            ours: state.join("crabmesh"),
        })
    }

    /// The plugin's files.
    pub fn plugin(&self) -> PathBuf {
        self.ours.join("plugin")
    }

    /// Where the plugin finds the node, and one token for each agent.
    pub fn credentials(&self) -> PathBuf {
        self.ours.join(super::files::CREDENTIALS)
    }
}

/// The agents that a configuration has, by id, each with its name on the mesh.
pub fn agents(config: &Value) -> Result<Vec<Agent>, Failure> {
    let agents = &config["agents"];
    if config.get("$include").is_some() && agents.is_null()
        || agents.get("$include").is_some()
        || agents["entries"].get("$include").is_some()
    {
        return Err(Failure::failed(
            "the agents are in an included file, and `$include` is not followed",
        )
        .hint("name them: --agent main --agent ops"));
    }
    let mut ids: Vec<String> = match (&agents["entries"], &agents["list"]) {
        (Value::Object(entries), _) if !entries.is_empty() => entries.keys().cloned().collect(),
        (_, Value::Array(list)) if !list.is_empty() => list
            .iter()
            .filter_map(|agent| agent["id"].as_str().map(str::to_owned))
            .collect(),
        _ => vec!["main".to_owned()],
    };
    ids.iter_mut().for_each(|id| *id = normal(id));
    ids.sort();
    ids.dedup();
    let agents = ids.into_iter().map(|id| {
        let name = mesh_name(&id).ok_or_else(|| {
            Failure::failed(format!("no name on the mesh can be made of agent {id:?}"))
                .hint(format!("choose one: --agent {id}=NAME"))
        })?;
        Ok(Agent { id, name })
    });
    different(agents.collect::<Result<_, Failure>>()?)
}

/// The agents that the command line names, as `ID` or `ID=NAME`.
pub fn chosen(arguments: &[String]) -> Result<Vec<Agent>, Failure> {
    let agents = arguments.iter().map(|argument| {
        let (id, name) = match argument.split_once('=') {
            Some((id, name)) => (normal(id), name.parse().ok()),
            None => (normal(argument), mesh_name(&normal(argument))),
        };
        let name = name.filter(|_| !id.is_empty()).ok_or_else(|| {
            Failure::usage(format!("--agent {argument:?} names no agent of the mesh"))
                .hint("a name on the mesh is 1 to 63 of a-z 0-9 . _ - (ID=NAME chooses one)")
        })?;
        Ok(Agent { id, name })
    });
    different(agents.collect::<Result<_, Failure>>()?)
}

/// Two agents of one gateway are two on the mesh.
fn different(agents: Vec<Agent>) -> Result<Vec<Agent>, Failure> {
    let mut names = BTreeMap::new();
    for Agent { id, name } in &agents {
        if let Some(other) = names.insert(name, id).filter(|other| *other != id) {
            return Err(Failure::usage(format!(
                "agents {other} and {id} would both be {name} on the mesh"
            ))
            .hint(format!("choose another name: --agent {id}=NAME")));
        }
    }
    Ok(agents)
}

/// OpenClaw knows agents by lower case.
fn normal(id: &str) -> String {
    id.trim().to_ascii_lowercase()
}

/// The id where it is a name of the mesh, or the nearest that is.
fn mesh_name(id: &str) -> Option<AgentName> {
    let fitting = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let plain = id
        .chars()
        .map(|c| match fitting(c) || matches!(c, '.' | '_' | '-') {
            true => c,
            false => '-',
        });
    let name: String = plain.skip_while(|c| !fitting(*c)).take(63).collect();
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_are_those_of_entries_or_of_the_older_list_or_main() {
        let found = |config| {
            let agents = agents(&config).expect("agents");
            agents
                .into_iter()
                .map(|agent| format!("{}={}", agent.id, agent.name))
                .collect::<Vec<_>>()
        };

        assert_eq!(
            found(json!({"agents": {"entries": {"ops": {}, "Main": {}}, "list": [{"id": "old"}]}})),
            ["main=main", "ops=ops"]
        );
        assert_eq!(
            found(json!({"agents": {"list": [{"id": "home"}, {"id": "work"}]}})),
            ["home=home", "work=work"]
        );
        assert_eq!(found(json!({"agents": {"defaults": {}}})), ["main=main"]);
        assert_eq!(found(json!({})), ["main=main"]);
    }

    #[test]
    fn a_name_that_is_none_of_the_mesh_is_mapped_and_two_that_meet_are_refused() {
        let name = |id| mesh_name(id).map(|name| name.to_string());

        assert_eq!(name("_shy agent").as_deref(), Some("shy-agent"));
        assert_eq!(name("größe").as_deref(), Some("gr--e"));
        assert_eq!(name("---"), None);
        let met = agents(&json!({"agents": {"entries": {"a b": {}, "a-b": {}}}}));
        assert!(
            met.expect_err("one name for two")
                .to_string()
                .contains("both be a-b")
        );
        assert!(chosen(&["main=Not A Name".into()]).is_err());
        assert_eq!(
            chosen(&["main=planner".into()]).expect("one")[0]
                .name
                .as_str(),
            "planner"
        );
    }

    #[test]
    fn included_agents_are_not_guessed() {
        for config in [
            json!({"agents": {"$include": "./agents.json5"}}),
            json!({"$include": "./all.json5"}),
            json!({"agents": {"entries": {"$include": "./entries.json5"}}}),
        ] {
            assert!(agents(&config).is_err(), "{config}");
        }
    }

    #[test]
    fn the_environment_is_read_as_openclaw_reads_it() {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().canonicalize().expect("real");
        let state = root.join(".openclaw");
        std::fs::create_dir(&state).expect("made");
        std::fs::write(state.join("openclaw.json"), "{}").expect("written");
        let other = root.join("other.json");
        std::fs::write(&other, "{}").expect("written");
        let find = |option: Option<&Path>, pairs: &[(&str, &Path)]| {
            let found = Place::find(option, |name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| value.as_os_str().to_owned())
            });
            found.expect("found")
        };

        let by_home = find(None, &[("HOME", &root)]);
        let by_state = find(
            None,
            &[
                ("OPENCLAW_STATE_DIR", &state),
                ("HOME", Path::new("/nowhere")),
            ],
        );
        let by_config = find(
            None,
            &[
                ("OPENCLAW_CONFIG_PATH", &other),
                ("OPENCLAW_STATE_DIR", &state),
            ],
        );
        let by_option = find(Some(&other), &[("OPENCLAW_STATE_DIR", &state)]);

        assert_eq!(by_home, by_state);
        assert_eq!(by_home.config, state.join("openclaw.json"));
        assert_eq!(by_home.ours, state.join("crabmesh"));
        assert_eq!(
            (by_config.config, by_config.ours),
            (other.clone(), state.join("crabmesh"))
        );
        assert_eq!(
            (by_option.config, by_option.ours),
            (other, root.join("crabmesh"))
        );
    }
}
