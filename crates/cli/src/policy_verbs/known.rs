//! The gateways and people that a file is held against: those of the operator's mesh, or those of
//! `--nodes FILE`, for a policy that lives in Git.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use identity::{NodeId, NodeName, Tag, UserName};
use policy::{Attribute, Node, Prefix};
use serde::{Deserialize, Serialize};

use crate::context::{Context, argument_or_stdin};
use crate::failure::Failure;
use crate::operator;

#[derive(Debug, clap::Args)]
pub struct Known {
    /// Hold it against these gateways, as `crabmesh policy nodes` prints them
    /// [default: the gateways of this mesh, on its operator's machine]
    #[arg(long, value_name = "FILE")]
    pub nodes: Option<PathBuf>,
}

/// The file of `--nodes`, and what `policy nodes` prints.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodesFile {
    /// Everybody, also who has no gateway.
    #[serde(default)]
    pub users: Vec<String>,
    /// The gateways.
    pub nodes: Vec<Described>,
}

/// One gateway of the file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_routes: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, serde_json::Value>,
}

impl Known {
    /// The gateways; none where there is neither a file nor a mesh.
    pub fn gateways(&self, context: &Context) -> Result<Vec<Node>, Failure> {
        match &self.nodes {
            Some(path) => NodesFile::read(path)?.into_nodes(path),
            None => operator::gateways(context),
        }
    }
}

impl NodesFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display();
        let bytes = match path == Path::new("-") {
            true => argument_or_stdin("-", MAX_FILE)?,
            false => std::fs::read(path)
                .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::usage(format!("{name} does not describe gateways: {error}")).hint(
                r#"write {"nodes": [{"name": "gw-a", "tags": ["tag:gateway"]}]}; see `crabmesh policy nodes`"#,
            )
        })
    }

    fn into_nodes(self, path: &Path) -> Result<Vec<Node>, Failure> {
        for user in &self.users {
            user.parse::<UserName>().map_err(|error| {
                Failure::usage(format!("{}: users: {user:?}: {error}", path.display()))
            })?;
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for (index, described) in (0u64..).zip(self.nodes) {
            let name = described.name.clone();
            let node = described.into_node(index).map_err(|why| {
                Failure::usage(format!("{}: node {name:?}: {why}", path.display()))
            })?;
            nodes.push(node);
        }
        let mut names: Vec<&NodeName> = nodes.iter().map(|node| &node.name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Failure::usage(format!(
                "{}: two nodes are named {}",
                path.display(),
                pair[0]
            ))),
            None => Ok(nodes),
        }
    }
}

impl Described {
    /// A gateway of the operator's ledger, described.
    pub fn of(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            user: node.user.as_ref().map(ToString::to_string),
            tags: node.tags.iter().map(ToString::to_string).collect(),
            addresses: node.addresses.clone(),
            attributes: node
                .attributes
                .iter()
                .map(|(name, value)| (name.to_string(), in_json(value)))
                .collect(),
            ..Self::default()
        }
    }

    fn into_node(self, index: u64) -> Result<Node, String> {
        // No real id: it only tells the nodes of one file apart.
        let mut id = [0; 16];
        id[..8].copy_from_slice(&index.to_be_bytes());
        let name: NodeName = self.name.parse().map_err(in_words)?;
        let user = self.user.map(|user| user.parse::<UserName>());
        let tags = self.tags.iter().map(|tag| tag.parse::<Tag>());
        let blocks = |list: &[String]| {
            let parsed = list.iter().map(|block| {
                let prefix = block.parse::<Prefix>();
                prefix.map_err(|why| format!("{block:?}: {why}"))
            });
            parsed.collect::<Result<Vec<_>, _>>()
        };
        let mut attributes = policy::Attributes::new();
        for (key, value) in self.attributes {
            let attribute = match &value {
                serde_json::Value::String(text) => Some(Attribute::Text(text.as_str().into())),
                serde_json::Value::Bool(flag) => Some(Attribute::Bool(*flag)),
                serde_json::Value::Number(number) => number.as_f64().map(Attribute::Number),
                _ => None,
            };
            let attribute = attribute
                .ok_or_else(|| format!("attribute {key:?} is text, a number, true or false"))?;
            attributes.insert(key.into(), attribute);
        }
        Ok(Node {
            user: user.transpose().map_err(in_words)?,
            tags: tags.collect::<Result<_, _>>().map_err(in_words)?,
            addresses: self.addresses,
            routes: blocks(&self.routes)?,
            approved_routes: blocks(&self.approved_routes)?,
            attributes,
            ..Node::new(NodeId(id), name)
        })
    }
}

fn in_json(attribute: &Attribute) -> serde_json::Value {
    match attribute {
        Attribute::Text(text) => text.to_string().into(),
        Attribute::Number(number) => (*number).into(),
        Attribute::Bool(flag) => (*flag).into(),
    }
}

fn in_words(error: identity::ParseNameError) -> String {
    error.to_string()
}

/// A hundred thousand gateways of a few hundred bytes each.
const MAX_FILE: usize = 64 << 20;
