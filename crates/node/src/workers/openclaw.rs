//! `openclaw`: each message is a turn of an agent of an OpenClaw gateway on this host, and what the
//! agent says last is the reply. Asked for by the gateway's A2A channel, where the URL is `http`
//! ([`channel`]), or by its own WebSocket RPC, where it is `ws`:
//!
//! ```text
//! Link ─ challenge, connect ─► agent ─► accepted ……… the result, under the same id ─► Done
//!                                  └──► in_flight: another connection began it ─ agent.wait ─► Done
//! ```
//! A connection for each message: the gateway is next door, and a connection that is never kept
//! never has to be mended. The key of a turn is the message's id, so a try that comes after a broken
//! connection joins the turn of the one before; the gateway forgets its keys only when it restarts.
//!
//! **Invariants.** Only this host is spoken to: whoever reaches a gateway by its token from
//! elsewhere would be taken for an operator. We ask for `operator.write` and nothing above, so a turn
//! is never its owner's. What the gateway says of an error is not handed on: it may quote a model.

pub(super) mod channel;
mod link;
mod prompt;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::api::Kind;
use reqwest::Url;
use serde_json::{Value, json};
use wire::message::MAX_BODY;

use super::a2a::{A2a, Server};
use super::{
    AttachError, Bounds, Cancelled, Done, Job, Part, Parts, Secret, WorkError, Worker, Working,
};
use crate::a2a::Posted;
use link::{Fault, Heard, Link};

/// The worker.
pub(super) struct OpenClaw {
    gateway: Gateway,
    agent: String,
    bounds: Bounds,
}

/// Where the gateway is, and what opens it.
struct Gateway {
    uri: String,
    addresses: Vec<SocketAddr>,
    token: Option<Secret>,
}

/// What became of a turn that was asked for.
enum Turn {
    Done(String),
    /// It runs, and its result goes to the connection that began it.
    Elsewhere,
}

/// The answer as far as it was told in parts.
struct Told {
    parts: Parts,
    text: String,
    /// The gateway took back what it had said: what follows does not belong to it.
    ended: bool,
}

/// The worker for a gateway, by the way in that its URL names. `secret` is the gateway's token for
/// its WebSocket, and a peer's bearer for its A2A channel, whose bindings say which agent answers.
pub(super) fn start(
    url: &str,
    agent: Option<&str>,
    secret: Option<&Secret>,
    posted: Option<Posted>,
    bounds: Bounds,
) -> Result<Arc<dyn Worker>, AttachError> {
    let (mut url, addresses) = read_url(url)?;
    let agent = agent.unwrap_or(DEFAULT_AGENT);
    if !is_agent_id(agent) {
        return Err(AttachError(format!(
            "an OpenClaw agent's id is 1 to {AGENT_ID_MAX} of a-z 0-9 _ -"
        )));
    }
    if url.scheme() == "http" {
        if url.path() == "/" {
            url.set_path(A2A_PATH);
        }
        // Its name is asked of no resolver here either.
        if let Some(address) = addresses.first() {
            let _ = url.set_ip_host(address.ip());
        }
        if secret.is_none() {
            return Err(AttachError(
                "the A2A channel takes nothing without a bearer; hint: that of a peer in channels.a2a.peers, by --secret-file".into(),
            ));
        }
        let worker = A2a::new(Server::Openclaw, url, secret, posted, bounds)?;
        return Ok(Arc::new(worker));
    }
    Ok(Arc::new(OpenClaw {
        gateway: Gateway {
            uri: url.into(),
            addresses,
            token: secret.cloned(),
        },
        agent: agent.to_owned(),
        bounds,
    }))
}

impl OpenClaw {
    async fn serve(
        &self,
        job: &Job,
        parts: Parts,
        cancelled: &mut Cancelled,
    ) -> Result<Done, WorkError> {
        let params = prompt::turn(job, &self.agent)?;
        let mut link = Link::open(&self.gateway).await?;
        let answer = tokio::select! {
            biased;
            () = cancelled.wait() => {
                // Where it does not hear of it, it only works for nothing.
                let _ = link.ask("chat.abort", abort(&params)).await;
                return Err(WorkError::never("cancelled"));
            }
            answer = self.answer(&mut link, job, &params, parts) => answer?,
        };
        link.close().await;
        if answer.len() > MAX_BODY {
            return Err(WorkError::never(format!(
                "its answer is longer than {MAX_BODY} bytes"
            )));
        }
        Ok(match job.kind {
            Kind::Message => Done::text(answer),
            // Nobody waits for what is said to it.
            Kind::Reply | Kind::Failure => Done::silent(),
        })
    }

    async fn answer(
        &self,
        link: &mut Link,
        job: &Job,
        params: &Value,
        parts: Parts,
    ) -> Result<String, WorkError> {
        let run = job.id.to_string();
        let mut told = Told::new(parts);
        loop {
            let id = link.ask("agent", params.clone()).await?;
            let answer = match self.follow(link, &id, &run, &mut told).await? {
                Turn::Done(answer) => Some(answer),
                Turn::Elsewhere => self.wait(link, &run, &mut told).await?,
            };
            if let Some(answer) = answer {
                told.finish(&answer).await;
                return Ok(answer);
            }
            // It ended, and its result is about to be kept under the key of the turn.
            tokio::time::sleep(RESULT_AFTER).await;
        }
    }

    /// Hears what comes of a turn that was asked for under this id: that it is accepted, and then,
    /// under the same id, its result.
    async fn follow(
        &self,
        link: &mut Link,
        id: &str,
        run: &str,
        told: &mut Told,
    ) -> Result<Turn, WorkError> {
        let mut accepted = false;
        loop {
            let response = match link.hear().await? {
                Heard::Response(its, response) if its == id => response,
                Heard::Response(..) => continue,
                Heard::Event(name, payload) => {
                    told.hear(&name, &payload, run).await;
                    continue;
                }
            };
            let payload = match response {
                Ok(payload) => payload,
                Err(fault) => return Err(self.refused(link, fault, accepted).await),
            };
            match payload["status"].as_str() {
                Some("accepted") => accepted = true,
                Some("in_flight") => return Ok(Turn::Elsewhere),
                Some("ok") => {
                    return match texts(&payload["result"]["payloads"]) {
                        Some(answer) => Ok(Turn::Done(answer)),
                        None => Err(WorkError::never("the gateway's result makes no sense")),
                    };
                }
                _ => return Err(WorkError::never(TURN_FAILED)),
            }
        }
    }

    /// Waits for a turn that an earlier connection began. `None`: it ended, and what it said is to be
    /// asked for.
    async fn wait(
        &self,
        link: &mut Link,
        run: &str,
        told: &mut Told,
    ) -> Result<Option<String>, WorkError> {
        loop {
            let params = json!({"runId": run, "timeoutMs": millis(WAIT)});
            let id = link.ask("agent.wait", params).await?;
            let payload = loop {
                match link.hear().await? {
                    Heard::Response(its, Ok(payload)) if its == id => break payload,
                    Heard::Response(its, Err(fault)) if its == id => {
                        return Err(self.refused(link, fault, true).await);
                    }
                    Heard::Response(..) => {}
                    // The beginning was told to a connection that is gone.
                    Heard::Event(..) => told.ended = true,
                }
            };
            match payload["status"].as_str() {
                Some("ok") => {
                    let reply = &payload["terminalReply"];
                    return Ok(reply["text"].as_str().map(str::to_owned));
                }
                // It still runs.
                Some("timeout" | "pending") => {}
                _ => return Err(WorkError::never(TURN_FAILED)),
            }
        }
    }

    /// Why the gateway does not do it, in our own words.
    async fn refused(&self, link: &mut Link, fault: Fault, accepted: bool) -> WorkError {
        if fault.retryable {
            return fault.unavailable();
        }
        if fault.is_forbidden {
            return WorkError::unreachable(
                "the gateway does not let us write; hint: one that is older than 2026.5 has to be updated",
            );
        }
        match &*fault.code {
            // Whatever is asked again under this key is answered so again.
            _ if accepted => WorkError::never(TURN_FAILED),
            "INVALID_REQUEST" => match self.knows_agent(link).await {
                Ok(false) => WorkError::unreachable(
                    "the gateway has no such agent; hint: `openclaw agents list` shows them",
                ),
                Ok(true) => WorkError::never("the gateway does not take the message"),
                Err(error) => error,
            },
            _ => WorkError::never(TURN_FAILED),
        }
    }

    async fn knows_agent(&self, link: &mut Link) -> Result<bool, WorkError> {
        let id = link.ask("agents.list", json!({})).await?;
        match link.response(&id).await? {
            // A gateway that does not say is not contradicted.
            Err(_) => Ok(true),
            Ok(payload) => Ok(payload["agents"].as_array().is_none_or(|agents| {
                let mut ids = agents.iter().filter_map(|agent| agent["id"].as_str());
                ids.any(|id| id == self.agent)
            })),
        }
    }
}

impl Worker for OpenClaw {
    fn work<'a>(&'a self, job: &'a Job, parts: Parts, mut cancelled: Cancelled) -> Working<'a> {
        Box::pin(async move {
            let serve = self.serve(job, parts, &mut cancelled);
            match tokio::time::timeout(self.bounds.timeout, serve).await {
                Ok(done) => done,
                Err(_) => {
                    let seconds = self.bounds.timeout.as_secs();
                    Err(WorkError::failed(format!(
                        "no answer within {seconds} s; the turn goes on, and is asked for again"
                    )))
                }
            }
        })
    }

    fn concurrency(&self) -> usize {
        self.bounds.concurrency
    }
}

impl Told {
    fn new(parts: Parts) -> Self {
        Self {
            parts,
            text: String::new(),
            ended: false,
        }
    }

    /// Hands on what the agent says, where this event is of its turn.
    async fn hear(&mut self, event: &str, payload: &Value, run: &str) {
        if self.ended
            || !self.parts.wanted()
            || event != "chat"
            || payload["runId"] != run
            || payload["state"] != "delta"
        {
            return;
        }
        let delta = payload["deltaText"].as_str().unwrap_or_default();
        let takes_back = payload["replace"] == true && !self.text.is_empty();
        if takes_back || self.text.len() + delta.len() > MAX_BODY {
            self.ended = true;
            return;
        }
        self.tell(delta).await;
    }

    /// What is missing of the answer, where it is the end of what was told.
    async fn finish(&mut self, answer: &str) {
        if !self.ended
            && let Some(rest) = answer.strip_prefix(&*self.text)
        {
            self.tell(rest).await;
        }
    }

    async fn tell(&mut self, text: &str) {
        if !text.is_empty() && self.parts.wanted() {
            self.text.push_str(text);
            self.parts.put(Part::Text(text.to_owned())).await;
        }
    }
}

/// All that the agent said to be sent; files are not.
fn texts(payloads: &Value) -> Option<String> {
    let texts: Vec<&str> = payloads
        .as_array()?
        .iter()
        .filter_map(|payload| payload["text"].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    Some(texts.join("\n\n"))
}

fn abort(turn: &Value) -> Value {
    json!({"sessionKey": turn["sessionKey"], "runId": turn["idempotencyKey"]})
}

fn read_url(text: &str) -> Result<(Url, Vec<SocketAddr>), AttachError> {
    let wrong = |why: String| Err(AttachError(why));
    if text.len() > URL_MAX {
        return wrong(format!("the URL is longer than {URL_MAX} bytes"));
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(format!("the URL makes no sense: {error}")),
    };
    if !matches!(url.scheme(), "ws" | "http") {
        return wrong(
            "an OpenClaw gateway is reached by http:// or ws:// on its own host; hint: ws://127.0.0.1:18789"
                .into(),
        );
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return wrong(
            "a URL is shown to whoever lists the agents: the gateway's token belongs in --secret-file"
                .into(),
        );
    }
    let port = url.port().unwrap_or(80);
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    let hosts = match (host, literal.parse::<IpAddr>()) {
        // Asked of no resolver: whoever answers for it would be given the token.
        ("localhost", _) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        (_, Ok(ip)) if ip.is_loopback() => vec![ip],
        _ => {
            return wrong(
                "only a gateway of this host is spoken to: its token makes whoever has it an operator; hint: run a crabmesh gateway beside it"
                    .into(),
            );
        }
    };
    let addresses = hosts.into_iter().map(|ip| (ip, port).into()).collect();
    Ok((url, addresses))
}

fn is_agent_id(text: &str) -> bool {
    let is_word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=AGENT_ID_MAX).contains(&text.len()) && text.bytes().all(is_word)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Messages at once: as many turns as a gateway runs beside each other by itself.
pub(super) const CONCURRENCY: usize = 4;

/// Where the gateway's A2A channel listens.
const A2A_PATH: &str = "/a2a/v1";
/// The agent of a gateway that has one.
const DEFAULT_AGENT: &str = "main";
const AGENT_ID_MAX: usize = 64;
const URL_MAX: usize = 2048;

/// Never again: under the same key the gateway only repeats that, and under another the agent would
/// do twice what it may have done.
const TURN_FAILED: &str = "the turn failed in the gateway: its model, or the agent; hint: its log";

/// How long the gateway holds one question for the end of a turn.
const WAIT: Duration = Duration::from_secs(25);

/// Between the end of a turn and its result lay a third of a second on a slow machine.
const RESULT_AFTER: Duration = Duration::from_secs(1);
