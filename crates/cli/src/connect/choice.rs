//! How a gateway is connected: with the plugin, else by its A2A channel, else by its WebSocket; as it
//! was before, where it is connected already.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::journal::Journal;
use super::{OpenclawArgs, plugin};
use crate::failure::Failure;

/// How the agents of a gateway are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The plugin follows their inboxes.
    Plugin,
    /// The node writes to the gateway's A2A channel.
    Channel,
    /// The node calls the gateway's WebSocket.
    Websocket,
}

/// A choice, and what led to it: one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub way: Way,
    pub why: Vec<String>,
}

/// The year and the month of an OpenClaw.
pub type Version = (u32, u32);

impl Choice {
    /// As the gateway was connected, else as was asked for, else the best that it can.
    pub fn of(
        args: &OpenclawArgs,
        journal: &Journal,
        config: &Value,
        version: Option<Version>,
    ) -> Result<Self, Failure> {
        if let Some(before) = connected(journal) {
            let differs = args.websocket && before != Way::Websocket
                || args.without_plugin && before == Way::Plugin;
            if differs {
                return Err(Failure::usage(format!(
                    "this gateway is connected {}",
                    before.words()
                ))
                .hint("`crabmesh disconnect openclaw` first"));
            }
            return Ok(Self {
                way: before,
                why: Vec::new(),
            });
        }
        if args.websocket {
            return Ok(Self {
                way: Way::Websocket,
                why: Vec::new(),
            });
        }
        let obstacle = no_plugin(config, version);
        if !args.without_plugin && obstacle.is_none() {
            return Ok(Self {
                way: Way::Plugin,
                why: Vec::new(),
            });
        }
        let mut choice = without_plugin(config, version);
        if let Some(obstacle) = obstacle.filter(|_| !args.without_plugin) {
            choice
                .why
                .insert(0, format!("without the plugin: {obstacle}"));
        }
        Ok(choice)
    }
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::Plugin => "with the plugin",
            Self::Channel => "by its A2A channel",
            Self::Websocket => "by its WebSocket",
        }
    }
}

fn connected(journal: &Journal) -> Option<Way> {
    match (journal.plain, journal.edits.is_empty()) {
        (true, _) if journal.channel => Some(Way::Channel),
        (true, _) => Some(Way::Websocket),
        (false, false) => Some(Way::Plugin),
        (false, true) => None,
    }
}

fn without_plugin(config: &Value, version: Option<Version>) -> Choice {
    match no_channel(config, version) {
        None => Choice {
            way: Way::Channel,
            why: Vec::new(),
        },
        Some(why) => Choice {
            way: Way::Websocket,
            why: vec![format!("by its WebSocket: {why}")],
        },
    }
}

/// Why the plugin cannot be used. Of a version that is not known the best is assumed: a gateway
/// refuses a plugin that it cannot load, and says so.
fn no_plugin(config: &Value, version: Option<Version>) -> Option<String> {
    if config["plugins"]["enabled"] == json!(false) {
        return Some("plugins are switched off".to_owned());
    }
    if lists(&config["plugins"]["deny"], plugin::ID) {
        return Some(format!("plugins.deny has {}", plugin::ID));
    }
    match version {
        Some((year, month)) if (year, month) < TESTED => Some(format!(
            "OpenClaw {year}.{month} is older than the plugin's interface"
        )),
        _ => None,
    }
}

/// Why the gateway's A2A channel cannot be used. Every version has the WebSocket: where nothing is
/// known, it is that.
fn no_channel(config: &Value, version: Option<Version>) -> Option<String> {
    let plugins = &config["plugins"];
    if config["channels"][CHANNEL]["enabled"] == json!(false)
        || plugins["entries"][CHANNEL]["enabled"] == json!(false)
        || lists(&plugins["deny"], CHANNEL)
    {
        return Some("its A2A channel is switched off".to_owned());
    }
    if plugins["enabled"] == json!(false) {
        return Some("with its plugins, its A2A channel is switched off".to_owned());
    }
    match version {
        None => {
            Some("its version is not known, neither by PATH nor by its configuration".to_owned())
        }
        Some((year, month)) if (year, month) < WITH_CHANNEL => {
            Some(format!("OpenClaw {year}.{month} has no A2A channel"))
        }
        _ => None,
    }
}

fn lists(list: &Value, id: &str) -> bool {
    let list = list.as_array();
    list.is_some_and(|list| list.iter().any(|it| it == id))
}

/// Of the OpenClaw that is found first in PATH, by the package that its command is part of; else of
/// the one that wrote the configuration last.
pub fn version(path: Option<OsString>, config: &Value) -> Option<Version> {
    in_path(path).or_else(|| {
        let last = config["meta"]["lastTouchedVersion"].as_str()?;
        numbers(last)
    })
}

fn in_path(path: Option<OsString>) -> Option<Version> {
    let command = std::env::split_paths(&path?)
        .map(|dir| dir.join("openclaw"))
        .find(|command| command.is_file())?;
    let command = fs::canonicalize(command).ok()?;
    command.ancestors().skip(1).take(4).find_map(package)
}

fn package(dir: &Path) -> Option<Version> {
    let text = fs::read_to_string(dir.join("package.json")).ok()?;
    let package: Value = serde_json::from_str(&text).ok()?;
    package["version"]
        .as_str()
        .filter(|_| package["name"] == "openclaw")
        .and_then(numbers)
}

fn numbers(version: &str) -> Option<Version> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The channel in the configuration.
pub const CHANNEL: &str = "a2a";
/// The oldest whose interface for plugins ours was tested with.
const TESTED: Version = (2026, 9);
/// The first that came with the channel.
const WITH_CHANNEL: Version = (2026, 9);

#[cfg(test)]
mod tests {
    use super::super::GatewayArgs;
    use super::*;

    #[test]
    fn the_plugin_is_used_unless_it_cannot_be() {
        let way = |config, version| way(&[], &Journal::default(), config, version);

        for (config, version) in [
            (json!({}), None),
            (json!({}), Some((2026, 9))),
            (json!({"plugins": {"deny": ["other"]}}), Some((2026, 9))),
        ] {
            assert_eq!(way(config, version), Way::Plugin);
        }
        let denied = json!({"plugins": {"deny": ["crabmesh"]}});
        assert_eq!(way(denied.clone(), Some((2026, 9))), Way::Channel);
        assert_eq!(way(denied, None), Way::Websocket);
        assert_eq!(way(json!({}), Some((2026, 8))), Way::Websocket);
        let off = json!({"plugins": {"enabled": false}});
        assert_eq!(way(off, Some((2026, 9))), Way::Websocket);
    }

    #[test]
    fn without_the_plugin_it_is_the_channel_where_there_is_one_that_is_not_switched_off() {
        let way = |config, version| way(&["plain"], &Journal::default(), config, version);
        let new = Some((2026, 10));

        assert_eq!(way(json!({}), new), Way::Channel);
        assert_eq!(
            way(json!({"plugins": {"allow": ["mine"]}}), new),
            Way::Channel
        );
        for config in [
            json!({"channels": {"a2a": {"enabled": false}}}),
            json!({"plugins": {"entries": {"a2a": {"enabled": false}}}}),
            json!({"plugins": {"deny": ["a2a"]}}),
            json!({"plugins": {"enabled": false}}),
        ] {
            assert_eq!(way(config.clone(), new), Way::Websocket, "{config}");
        }
        assert_eq!(way(json!({}), Some((2026, 8))), Way::Websocket);
        assert_eq!(way(json!({}), None), Way::Websocket);
        let asked = choose(&["socket"], &Journal::default(), json!({}), new);
        assert_eq!(asked.expect("chosen").way, Way::Websocket);
    }

    #[test]
    fn what_is_connected_stays_as_it_is() {
        let channel = Journal {
            plain: true,
            channel: true,
            ..Journal::default()
        };
        let socket = Journal {
            plain: true,
            ..Journal::default()
        };

        assert_eq!(way(&[], &channel, json!({}), None), Way::Channel);
        assert_eq!(way(&["plain"], &channel, json!({}), None), Way::Channel);
        assert_eq!(way(&["plain"], &socket, json!({}), None), Way::Websocket);
        let refused = choose(&["socket"], &channel, json!({}), None).expect_err("connected");
        assert!(refused.to_string().contains("by its A2A channel"));
    }

    #[test]
    fn what_is_chosen_is_explained() {
        let off = json!({"plugins": {"enabled": false}});
        let choice = choose(&[], &Journal::default(), off, None).expect("chosen");

        assert_eq!(choice.why.len(), 2, "{:?}", choice.why);
        assert!(choice.why[0].contains("plugins are switched off"));
        let unknown = choose(&["plain"], &Journal::default(), json!({}), None).expect("chosen");
        assert!(unknown.why[0].contains("not known"), "{:?}", unknown.why);
    }

    #[test]
    fn the_version_is_that_of_the_package_whose_command_is_found() {
        let root = tempfile::tempdir().expect("a directory");
        let package = root.path().join("lib/openclaw");
        let bin = root.path().join("bin");
        fs::create_dir_all(&package).expect("ours");
        fs::create_dir_all(&bin).expect("ours");
        fs::write(package.join("openclaw.mjs"), "").expect("ours");
        fs::write(
            package.join("package.json"),
            r#"{"name": "openclaw", "version": "2026.5.28-beta.1"}"#,
        )
        .expect("ours");
        std::os::unix::fs::symlink(package.join("openclaw.mjs"), bin.join("openclaw"))
            .expect("ours");
        let touched = json!({"meta": {"lastTouchedVersion": "2026.9.6"}});

        assert_eq!(version(Some(bin.into()), &touched), Some((2026, 5)));
        assert_eq!(version(Some(root.path().into()), &json!({})), None);
        assert_eq!(version(None, &touched), Some((2026, 9)));
        assert_eq!(
            version(None, &json!({"meta": {"lastTouchedVersion": "x"}})),
            None
        );
    }

    fn way(flags: &[&str], journal: &Journal, config: Value, version: Option<Version>) -> Way {
        choose(flags, journal, config, version).expect("chosen").way
    }

    fn choose(
        flags: &[&str],
        journal: &Journal,
        config: Value,
        version: Option<Version>,
    ) -> Result<Choice, Failure> {
        let args = OpenclawArgs {
            gateway: GatewayArgs { config: None },
            agents: Vec::new(),
            without_plugin: flags.contains(&"plain"),
            websocket: flags.contains(&"socket"),
            dry_run: false,
        };
        Choice::of(&args, journal, &config, version)
    }
}
