//! The OpenClaw plugin: its files are part of this binary, so that the plugin is always the one that
//! this version was tested with.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/openclaw/", $path)))),*]
    };
}

/// Each file of the plugin, by its path in the plugin's directory.
pub const FILES: &[(&str, &str)] = &files![
    "LICENSE",
    "README.md",
    "index.js",
    "openclaw.plugin.json",
    "package.json",
    "src/account.js",
    "src/address.js",
    "src/busy.js",
    "src/cause.js",
    "src/channel.js",
    "src/config.js",
    "src/credentials.js",
    "src/events.js",
    "src/follow.js",
    "src/id.js",
    "src/inbox.js",
    "src/interrupted.js",
    "src/names.js",
    "src/node.js",
    "src/parts.js",
    "src/refusal.js",
    "src/send.js",
    "src/session.js",
    "src/shared.js",
    "src/text.js",
    "src/tools.js",
    "src/transcript.js",
    "src/turn.js",
];

/// Its id in OpenClaw's configuration.
pub const ID: &str = "crabmesh";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_plugin_is_in_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/openclaw");
        let mut found = BTreeSet::new();
        for dir in ["", "src"] {
            for entry in std::fs::read_dir(root.join(dir)).expect("the plugin") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("known").is_file() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    found.insert(Path::new(dir).join(name).display().to_string());
                }
            }
        }

        let embedded: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();

        assert_eq!(embedded, found);
    }

    #[test]
    fn the_plugin_says_who_it_is() {
        let manifest = FILES
            .iter()
            .find(|(path, _)| *path == "openclaw.plugin.json");
        let manifest: serde_json::Value =
            serde_json::from_str(manifest.expect("there").1).expect("JSON");

        assert_eq!(manifest["id"], ID);
        assert_eq!(manifest["channels"][0], "mesh");
    }
}
