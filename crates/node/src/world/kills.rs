//! Whom the operator killed, as far as decisions about messages need it.

use std::collections::BTreeMap;

use identity::{AgentAddress, AgentName, Block, NodeId, NodeName};
use policy::Denial;
use router::{BLOCKED, CUT_OFF};

/// Killed agents of members, and the gateways that are no members any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    /// With the block that names each.
    agents: BTreeMap<NodeId, BTreeMap<AgentName, Block>>,
    gateways: BTreeMap<NodeId, Gateway>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Gateway {
    name: NodeName,
    by: String,
}

impl Kills {
    /// Notes a killed agent of this gateway.
    pub fn add_agent(&mut self, node: NodeId, agent: &AgentAddress) {
        let block = Block::Agent(agent.clone());
        let killed = self.agents.entry(node).or_default();
        killed.insert(agent.agent.clone(), block);
    }

    /// Notes a gateway that was cut off, and by which block or other word of the operator.
    pub fn add_gateway(&mut self, node: NodeId, name: NodeName, by: &str) {
        let by = by.to_owned();
        self.gateways.insert(node, Gateway { name, by });
    }

    /// Adds all of the other.
    pub fn keep(&mut self, other: &Self) {
        for (node, agents) in &other.agents {
            let mine = self.agents.entry(*node).or_default();
            let agents = agents.iter();
            mine.extend(agents.map(|(agent, block)| (agent.clone(), block.clone())));
        }
        for (node, gateway) in &other.gateways {
            let mine = self.gateways.entry(*node);
            mine.or_insert_with(|| gateway.clone());
        }
    }

    /// Why nothing passes from or to this agent, if it was killed or its gateway cut off.
    pub fn denial(&self, (node, agent): (NodeId, &AgentName)) -> Option<Denial> {
        let (code, reason) = if let Some(gateway) = self.gateways.get(&node) {
            let Gateway { name, by } = gateway;
            (
                CUT_OFF,
                format!("gateway {name} was cut off by the operator: {by}"),
            )
        } else {
            let block = self.agents.get(&node)?.get(agent)?;
            (BLOCKED, format!("{block} was killed by the operator"))
        };
        Some(Denial {
            code,
            reason,
            rule: None,
            missing_grant: None,
        })
    }

    /// Which word of the operator cut this gateway off.
    pub fn gateway(&self, node: &NodeId) -> Option<&str> {
        self.gateways.get(node).map(|gateway| gateway.by.as_str())
    }

    /// The gateway of that name that was cut off.
    pub fn gateway_named(&self, name: &NodeName) -> Option<NodeId> {
        let mut gateways = self.gateways.iter();
        gateways
            .find(|(_, gateway)| gateway.name == *name)
            .map(|(node, _)| *node)
    }
}
