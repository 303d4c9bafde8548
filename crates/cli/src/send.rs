//! `crabmesh send`, `reply`, `ack`, `cancel` and `reject`.

mod parts;

use std::time::Duration;

use api::{Acked, AskRequest, Body, RejectRequest, ReplyRequest, SendAnswer, SendRequest, State};
use identity::AgentAddress;
use serde_json::json;
use wire::MessageId;

use crate::client::{AsAgent, Client, failure_of};
use crate::context::{Context, argument_or_stdin};
use crate::duration;
use crate::failure::{Exit, Failure};

/// Send a message to an agent. It is accepted when it is on this gateway's disk, and delivered as
/// soon as the other gateway can be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabmesh send coder@gw-b 'tests are red' --as planner
  crabmesh send coder@gw-b 'which tests fail?' --as planner --ask --timeout 2m
  crabmesh send coder@gw-b 'explain the build' --as planner --ask --stream
  git diff | crabmesh send reviewer@gw-b - --as planner --json

With --ask the answer goes to stdout. Not within the time: exit 4, and a late answer arrives by
`crabmesh recv`. Denied by policy: exit 3, and the grant that is missing.")]
pub struct SendArgs {
    /// Where to
    #[arg(value_name = "AGENT@GATEWAY")]
    pub to: AgentAddress,
    /// The body, or - for stdin
    #[arg(value_name = "TEXT|-", default_value = "-", hide_default_value = true)]
    pub text: String,
    #[command(flatten)]
    pub who: AsAgent,
    /// Expect an answer and wait for it
    #[arg(long)]
    pub ask: bool,
    /// Print the answer's parts as they come; needs a grant of "stream"
    #[arg(long, requires = "ask")]
    pub stream: bool,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub timeout: Duration,
    /// How long the message may still be delivered, at most 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
    pub ttl: Duration,
    /// The message's id: sending it again is the same message
    #[arg(long, value_name = "UUIDV7")]
    pub id: Option<MessageId>,
    /// The body's media type [default: text/plain, or application/octet-stream where it is no text]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// The message that led to this one, or none. A command that `recv --exec` runs says it by itself
    #[arg(
        long,
        value_name = "ID|none",
        env = "CRABMESH_MESSAGE_ID",
        default_value = "none"
    )]
    pub cause: String,
    /// Which thread of talk it belongs to; an answer carries it back
    #[arg(long, value_name = "NAME")]
    pub conversation: Option<String>,
}

/// Answer a message; implies the ack.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  crabmesh reply 019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d 'three of them' --as coder"
)]
pub struct ReplyArgs {
    /// The message
    #[arg(value_name = "MESSAGE_ID")]
    pub message: MessageId,
    /// The body, or - for stdin
    #[arg(value_name = "TEXT|-", default_value = "-", hide_default_value = true)]
    pub text: String,
    #[command(flatten)]
    pub who: AsAgent,
    /// The body's media type
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
}

/// Take back a message that this agent sent: what waits for it ends now, and whoever works on it
/// hears so.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  crabmesh cancel 019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d --as planner"
)]
pub struct CancelArgs {
    /// The message
    #[arg(value_name = "MESSAGE_ID")]
    pub message: MessageId,
    #[command(flatten)]
    pub who: AsAgent,
}

/// Say that a message will never be done: its sender hears `rejected` now, not when its time passes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  crabmesh reject 019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d --as coder --reason 'no such branch'"
)]
pub struct RejectArgs {
    /// The message
    #[arg(value_name = "MESSAGE_ID")]
    pub message: MessageId,
    #[command(flatten)]
    pub who: AsAgent,
    /// Kept with the dead letter on this gateway; the sender does not read it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Settle a message: it is never shown again. What is not acked comes again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  crabmesh ack 019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d --as coder")]
pub struct AckArgs {
    /// The message
    #[arg(value_name = "MESSAGE_ID")]
    pub message: MessageId,
    #[command(flatten)]
    pub who: AsAgent,
}

pub fn send(args: SendArgs, context: &Context) -> Result<(), Failure> {
    let body = Body::from_bytes(argument_or_stdin(&args.text, wire::message::MAX_BODY)?);
    let content_type = args.content_type;
    let (body, body_base64) = body.into_fields();
    // Made here, so that a call that breaks off still has a name to ask for.
    let id = Some(match args.id {
        Some(id) => id.to_string(),
        None => node::messages::fresh_id().to_string(),
    });
    let ttl_s = Some(
        args.ttl
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX),
    );
    let cause = Some(args.cause);
    let conversation = args.conversation;
    let mut client = Client::for_agent(context, &args.who)?;
    let to = args.to;
    context.block_on(async move {
        let answer = if args.ask {
            let timeout_ms = Some(args.timeout.as_millis().try_into().unwrap_or(u64::MAX));
            let ask = AskRequest {
                to,
                body,
                body_base64,
                content_type,
                ttl_s,
                id,
                timeout_ms,
                stream: args.stream,
                cause,
                conversation,
            };
            if args.stream {
                return parts::ask(&mut client, &ask, args.timeout, context).await;
            }
            client.post_raw("/v1/ask", &ask, args.timeout).await?
        } else {
            let send = SendRequest {
                to,
                body,
                body_base64,
                content_type,
                ttl_s,
                id,
                reply_expected: false,
                cause,
                conversation,
            };
            client.post_raw("/v1/send", &send, Duration::ZERO).await?
        };
        // A refusal of a message says how the message stands, too.
        match serde_json::from_slice::<SendAnswer>(&answer.body) {
            Ok(sent) => show(&sent, context),
            Err(_) => answer.done(),
        }
    })
}

pub fn reply(args: ReplyArgs, context: &Context) -> Result<(), Failure> {
    let body = Body::from_bytes(argument_or_stdin(&args.text, wire::message::MAX_BODY)?);
    let mut client = Client::for_agent(context, &args.who)?;
    let (body, body_base64) = body.into_fields();
    let id = Some(node::messages::fresh_id().to_string());
    let request = ReplyRequest {
        body,
        body_base64,
        content_type: args.content_type,
        id,
    };
    context.block_on(async move {
        let path = format!("/v1/messages/{}/reply", args.message);
        let answer = client.post_raw(&path, &request, Duration::ZERO).await?;
        match serde_json::from_slice::<SendAnswer>(&answer.body) {
            Ok(sent) => show(&sent, context),
            Err(_) => answer.done(),
        }
    })
}

pub fn cancel(args: &CancelArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_agent(context, &args.who)?;
    context.block_on(async move {
        let path = format!("/v1/messages/{}/cancel", args.message);
        let sent: SendAnswer = client.post(&path, &json!({})).await?;
        let taken = sent.error.as_ref().is_some_and(|it| it.code == "cancelled");
        let output = context.output();
        match output.json() {
            true => output.object(&sent)?,
            false if taken => output.line(format!("cancelled {}", sent.id))?,
            false => {}
        }
        match taken {
            true => Ok(()),
            false => Err(Failure::failed(format!(
                "it is too late: the message is {}",
                sent.state.as_str()
            ))),
        }
    })
}

pub fn reject(args: RejectArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_agent(context, &args.who)?;
    context.block_on(async move {
        let path = format!("/v1/messages/{}/reject", args.message);
        let reason = args.reason;
        let rejected: Acked = client.post(&path, &RejectRequest { reason }).await?;
        match context.json {
            true => context.output().object(&rejected),
            false => context.output().line(format!("rejected {}", rejected.id)),
        }
    })
}

pub fn ack(args: &AckArgs, context: &Context) -> Result<(), Failure> {
    let mut client = Client::for_agent(context, &args.who)?;
    context.block_on(async move {
        let acked: Acked = client
            .post(&format!("/v1/messages/{}/ack", args.message), &json!({}))
            .await?;
        match context.json {
            true => context.output().object(&acked),
            false => context.output().line(format!("acked {}", acked.id)),
        }
    })
}

/// The answer, or the state and id; how it stands decides the exit code.
fn show(sent: &SendAnswer, context: &Context) -> Result<(), Failure> {
    let output = context.output();
    if output.json() {
        output.object(sent)?;
    }
    let failure = match (&sent.error, sent.state) {
        (Some(error), State::Denied) if error.code == "blocked" => Some(failure_of(error)),
        (Some(error), State::Denied) => Some(failure_of(&api::Failure {
            code: "denied".into(),
            ..error.clone()
        })),
        (Some(error), State::Expired) => Some(failure_of(&api::Failure {
            code: "expired".into(),
            ..error.clone()
        })),
        // It is accepted, and goes when the receiver takes more.
        (Some(error), State::Accepted) if error.code == "throttled" => None,
        (Some(error), _) => Some(failure_of(error)),
        (None, State::Denied) => Some(Failure::new(Exit::Denied, "denied by policy")),
        (None, State::Expired) => {
            Some(Failure::new(Exit::TimedOut, "it expired before it arrived"))
        }
        (None, State::Failed) => Some(Failure::failed("it could not be delivered")),
        (None, _) => None,
    };
    if let Some(failure) = failure {
        if !output.json() && failure.exit() == Exit::TimedOut {
            output.line(format!("{} {}", sent.state.as_str(), sent.id))?;
        }
        return Err(failure);
    }
    if output.json() {
        return Ok(());
    }
    match &sent.reply {
        Some(reply) => {
            let body = reply
                .body()
                .map_err(|error| Failure::failed(error.to_string()))?;
            output.body(&body.into_bytes())
        }
        None => output.line(format!("{} {}", sent.state.as_str(), sent.id)),
    }
}
