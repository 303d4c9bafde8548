//! The hidden roles of `bench`: what a measured process does where no public command does it.

use std::path::PathBuf;

use identity::{AgentAddress, AgentName};

use super::{ask, bulk, cut, durable, parts, plain, waiting};
use crate::client::{AsAgent, Client};
use crate::context::Context;
use crate::failure::Failure;

/// Not for people: stdin has orders, stdout answers.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// Stock quinn that listens
    #[command(hide = true)]
    PlainServer,
    /// Stock quinn that dials
    #[command(hide = true)]
    PlainClient {
        address: std::net::SocketAddr,
        certificate: String,
    },
    /// The data plane of a gateway, and QUIC inside it
    #[command(hide = true)]
    Plane { end: u8 },
    /// An agent that asks
    #[command(hide = true)]
    Asker {
        agent: AgentName,
        token: PathBuf,
        to: AgentAddress,
    },
    /// An agent that answers
    #[command(hide = true)]
    Answerer { agent: AgentName, token: PathBuf },
    /// An agent that asks for answers in parts
    #[command(hide = true)]
    PartsAsker {
        agent: AgentName,
        token: PathBuf,
        to: AgentAddress,
    },
    /// An agent that answers in parts
    #[command(hide = true)]
    PartsAnswerer {
        agent: AgentName,
        token: PathBuf,
        parts: usize,
    },
    /// An agent that fills inboxes
    #[command(hide = true)]
    Filler {
        agent: AgentName,
        token: PathBuf,
        inboxes: usize,
    },
    /// Agents of many gateways that wait for answers
    #[command(hide = true)]
    Waiters { asks: PathBuf },
    /// Many agents that send
    #[command(hide = true)]
    Senders {
        to: AgentAddress,
        tokens: PathBuf,
        agents: usize,
    },
}

impl Role {
    pub fn play(self, context: &Context) -> Result<(), Failure> {
        context.block_on(async {
            match self {
                Self::PlainServer => plain::serve(context.output()).await,
                Self::PlainClient {
                    address,
                    certificate,
                } => plain::dial(address, &certificate, context.output()).await,
                Self::Plane { end } => bulk::plane(end, context.output()).await,
                Self::Asker { agent, token, to } => {
                    ask::asker(client(context, agent, token)?, to, context.output()).await
                }
                Self::Answerer { agent, token } => {
                    ask::answerer(
                        client(context, agent.clone(), token.clone())?,
                        client(context, agent, token)?,
                        context.output(),
                    )
                    .await
                }
                Self::PartsAsker { agent, token, to } => {
                    let clients = || client(context, agent.clone(), token.clone());
                    parts::asker(clients, to, context.output()).await
                }
                Self::PartsAnswerer {
                    agent,
                    token,
                    parts,
                } => {
                    let clients = || client(context, agent.clone(), token.clone());
                    parts::answerer(clients, parts).await
                }
                Self::Filler {
                    agent,
                    token,
                    inboxes,
                } => waiting::filler(context, agent, &token, inboxes).await,
                Self::Waiters { asks } => cut::waiters(&asks, context.output()).await,
                Self::Senders { to, tokens, agents } => {
                    durable::senders(context, &to, &tokens, agents).await
                }
            }
        })
    }
}

/// An agent's way to the API of the gateway in `--state-dir`, by its token.
pub fn client(context: &Context, name: AgentName, token: PathBuf) -> Result<Client, Failure> {
    Client::for_agent(
        context,
        &AsAgent {
            name,
            token_file: Some(token),
        },
    )
}
