//! The crate picture of ARCHITECTURE.md, held against `cargo metadata`: an edge that is not in it
//! fails, and so does an asynchronous runtime or a socket library inside a core.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Who may name whom. Everything that is absent is forbidden.
const PICTURE: [(&str, &[&str]); 12] = [
    ("identity", &[]),
    ("wire", &["identity"]),
    ("policy", &["identity"]),
    ("api", &["identity"]),
    ("path", &["wire"]),
    ("router", &["wire", "policy", "identity"]),
    ("tunnel", &["path", "wire", "policy", "identity"]),
    ("net", &["wire", "identity"]),
    ("relay", &["net", "wire", "identity"]),
    ("coordinator", &["net", "wire", "policy", "identity"]),
    (
        "node",
        &[
            "tunnel", "router", "net", "policy", "wire", "identity", "api",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "policy",
            "identity",
            "wire",
            "net",
            "node",
            "relay",
            "coordinator",
        ],
    ),
];

const CORES: [&str; 7] = [
    "identity", "wire", "policy", "api", "path", "router", "tunnel",
];

/// What no core may reach, directly or through its own dependencies.
const RUNTIMES: [&str; 5] = ["tokio", "quinn", "socket2", "rusqlite", "hyper"];

#[test]
fn crates_name_only_the_layers_above_them() {
    let picture: BTreeMap<&str, BTreeSet<&str>> = PICTURE
        .iter()
        .map(|(name, may)| (*name, may.iter().copied().collect()))
        .collect();

    let mut seen = 0;
    for package in &metadata().packages {
        let Some(name) = ours(&package.name) else {
            continue;
        };
        let may = picture
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the picture"));
        seen += 1;
        for dependency in &package.dependencies {
            let Some(to) = ours(&dependency.name) else {
                continue;
            };
            let test_only = dependency.kind == DependencyKind::Development;
            assert!(test_only || may.contains(to), "{name} may not name {to}");
        }
    }
    assert_eq!(seen, picture.len(), "a crate of the picture is gone");
}

#[test]
fn no_core_reaches_a_runtime() {
    let metadata = metadata();
    let resolve = metadata
        .resolve
        .as_ref()
        .expect("metadata of a workspace is resolved");
    let names: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|p| (&p.id, p.name.as_str()))
        .collect();
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();

    for core in CORES {
        let root = names
            .iter()
            .find(|(_, name)| ours(name) == Some(core))
            .map(|(id, _)| *id)
            .expect("each core is a package");
        let (mut reached, mut queue) = (BTreeSet::new(), vec![root]);
        while let Some(id) = queue.pop() {
            for dependency in &nodes[id].deps {
                let normal = dependency
                    .dep_kinds
                    .iter()
                    .any(|k| k.kind == DependencyKind::Normal);
                if normal && reached.insert(&dependency.pkg) {
                    queue.push(&dependency.pkg);
                }
            }
        }
        for runtime in RUNTIMES {
            assert!(
                !reached.iter().any(|id| names[*id] == runtime),
                "{core} reaches {runtime}"
            );
        }
    }
}

fn metadata() -> cargo_metadata::Metadata {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(root)
        .exec()
        .expect("cargo metadata runs")
}

fn ours(package: &str) -> Option<&str> {
    package.strip_prefix("crabmesh-")
}
